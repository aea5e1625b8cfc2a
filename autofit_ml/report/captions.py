"""The text of previews: numbers, flags, names, in the colours of what they are about."""

import functools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import ImageDraw, ImageFont

from autofit_ml.catalogue import FATAL, Flag, band_suffix
from autofit_ml.report.measurement import format_measurement

__all__ = [
    "FAINT_TEXT",
    "LINE_HEIGHT",
    "RGB",
    "TEXT",
    "colour_of",
    "elided",
    "font_of",
    "number_of",
    "suffixes_of",
    "text_lines",
    "write_band",
    "write_legend",
]

TEXT = (232, 234, 237)
FAINT_TEXT = (154, 160, 170)
LINE_HEIGHT = 28
_FATAL_TEXT = (255, 128, 118)
_FLAG_TEXT = (255, 200, 92)
_GOOD_TEXT = (120, 214, 150)
_ELLIPSES = ((64, 224, 208), (255, 176, 70), (196, 150, 255), (255, 128, 170))
RGB = tuple[int, int, int]


@functools.lru_cache(maxsize=8)
def font_of(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """DejaVu Sans as it comes with matplotlib."""
    import matplotlib

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts", "ttf", name), size)


def number_of(row: Mapping[str, Any], name: str) -> float:
    value = row.get(name)
    return math.nan if value is None else float(value)


def suffixes_of(row: Mapping[str, Any]) -> list[str]:
    """Suffixes of the components of the model that have a position."""
    names = ["", *(f"_{k}" for k in range(2, 10))]
    known = [extra for extra in names if f"x{extra}" in row]
    return [extra for extra in known if math.isfinite(number_of(row, f"x{extra}"))]


def colour_of(extra: str) -> RGB:
    """Colour of a component."""
    return _ELLIPSES[(int(extra[1:]) - 1 if extra else 0) % len(_ELLIPSES)]


def elided(text: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    """`text`, shortened in the middle until it fits."""
    text = "".join(c if c.isprintable() else "·" for c in text)
    if font.getlength(text[:1000]) <= width and len(text) <= 1000:
        return text
    keep = min(len(text), 1000) // 2
    while keep > 1 and font.getlength(f"{text[:keep]}…{text[-keep:]}") > width:
        keep = max(1, int(keep * 0.9))
    return f"{text[:keep]}…{text[-keep:]}"


def _flowed(
    items: Sequence[tuple[str, RGB]], font: ImageFont.FreeTypeFont, width: float, space: float
) -> list[list[tuple[float, str, RGB]]]:
    """Set items one after another, breaking lines at `width`."""
    lines: list[list[tuple[float, str, RGB]]] = [[]]
    at = 0.0
    for text, colour in items:
        length = font.getlength(text)
        if at > 0 and at + length > width:
            lines.append([])
            at = 0.0
        lines[-1].append((at, text, colour))
        at += length + space
    return lines


def _pair(row: Mapping[str, Any], name: str) -> str:
    """A value and its error."""
    return format_measurement(number_of(row, name), number_of(row, f"{name}_err"))


def _shape_numbers(row: Mapping[str, Any], extra: str) -> list[str]:
    """Brightness, size and shape of a component; what it has not is left out."""
    brightness = "mag" if math.isfinite(number_of(row, f"mag{extra}")) else "flux"
    out = [f"{brightness} {_pair(row, brightness + extra)}"]
    if math.isfinite(number_of(row, f"re{extra}")):
        pixels = f"{_pair(row, f're{extra}')} px"
        if math.isfinite(number_of(row, f"re_arcsec{extra}")):
            short = format_measurement(number_of(row, f"re{extra}"), digits=3)
            pixels = f"{_pair(row, f're_arcsec{extra}')}″ ({short} px)"
        out.append(f"re {pixels}")
    for name, unit in (("n", ""), ("q", ""), ("pa", "°")):
        if math.isfinite(number_of(row, f"{name}{extra}")):
            out.append(f"{name} {_pair(row, name + extra)}{unit}")
    return out


def _fit_numbers(row: Mapping[str, Any]) -> list[str]:
    """Signal to noise, goodness of fit, neighbours."""
    out = [
        f"S/N {format_measurement(number_of(row, 'snr'), digits=3)}",
        f"χ²/ν {format_measurement(number_of(row, 'chi2_red'), digits=3)}",
    ]
    count = number_of(row, "n_neighbours")
    if count > 0:
        out.append(f"{count:.0f} neighbour{'s' if count > 1 else ''} fitted too")
    return out


def _key_numbers(row: Mapping[str, Any]) -> list[list[tuple[str, RGB]]]:
    """Lines of numbers under the panels."""
    components = suffixes_of(row)
    if len(components) < 2:
        return [[(text, TEXT) for text in (*_shape_numbers(row, ""), *_fit_numbers(row))]]
    brightness = "mag_total" if math.isfinite(number_of(row, "mag_total")) else "flux_total"
    whole = [
        f"{brightness.replace('_', ' ')} {_pair(row, brightness)}",
        f"fraction {_pair(row, 'fraction')}",
        *(
            f"{name.replace('_', ' ')} {_pair(row, name)}{unit}"
            for name, unit in (("re_total", " px"), ("q_total", ""))
            if math.isfinite(number_of(row, name))
        ),
        *_fit_numbers(row),
    ]
    lines = [[(text, TEXT) for text in whole]]
    names = str(row.get("model", "")).split("+")
    for extra in components:
        k = int(extra[1:]) if extra else 1
        name = f"{k} {names[k - 1]}" if len(names) >= k else str(k)
        numbers = [(text, TEXT) for text in _shape_numbers(row, extra)]
        lines.append([(name, colour_of(extra)), *numbers])
    return lines


def text_lines(
    row: Mapping[str, Any], width: float
) -> list[tuple[ImageFont.FreeTypeFont, list[tuple[float, str, RGB]]]]:
    """The lines under the panels: id, key numbers (or why there are none), flags."""
    title, font = font_of(22, bold=True), font_of(19)
    lines = [(title, [(0.0, elided(str(row.get("id", "")), title, width), TEXT)])]
    if row.get("status") == "failed":
        message = str(row.get("message", "")) or "no reason recorded"
        words = [(elided(word, font, width), _FATAL_TEXT) for word in message.split()]
        body = _flowed([("no fit:", _FATAL_TEXT), *words], font, width, font.getlength(" "))
        lines += [(font, line) for line in body[:4]]
    else:
        said = " ".join(str(row.get("message") or "").split())
        if said:
            lines.append((font, [(0.0, elided(said, font, width), FAINT_TEXT)]))
        for numbers in _key_numbers(row):
            lines += [(font, line) for line in _flowed(numbers, font, width, 32)]
    flags = Flag(int(row.get("flags") or 0) & sum(Flag))
    named = [(str(f.name), _FATAL_TEXT if f & FATAL else _FLAG_TEXT) for f in Flag if f & flags]
    flowed = _flowed(named or [("no flags", _GOOD_TEXT)], font, width, 21)
    return lines + [(font, line) for line in flowed]


def _band_lines(row: Mapping[str, Any], band: str) -> list[tuple[str, RGB]]:
    """A further band's own numbers, a line each."""
    extra, components = band_suffix(band), suffixes_of(row)
    lines: list[tuple[str, RGB]] = []
    for k in components:
        brightness = "mag" if math.isfinite(number_of(row, f"mag{k}{extra}")) else "flux"
        for parameter in (brightness, "re", "n", "q", "pa"):
            if math.isfinite(number_of(row, f"{parameter}{k}{extra}")):
                text = f"{parameter}{k.replace('_', ' ')} {_pair(row, f'{parameter}{k}{extra}')}"
                lines.append((text, colour_of(k) if components[1:] else TEXT))
    if math.isfinite(number_of(row, f"fraction{extra}")):
        lines.append((f"fraction {_pair(row, f'fraction{extra}')}", TEXT))
    return lines


def write_band(
    draw: ImageDraw.ImageDraw,
    row: Mapping[str, Any],
    name: str,
    place: tuple[int, int],
    width: float,
) -> None:
    """A further band's own numbers, in place of a segmentation."""
    x, y = place
    for text, colour in _band_lines(row, name):
        draw.text((x, y), elided(text, font_of(19), width), font=font_of(19), fill=colour)
        y += LINE_HEIGHT


def write_legend(
    draw: ImageDraw.ImageDraw, x: float, y: int, items: Sequence[tuple[str, RGB]]
) -> None:
    """Names behind bars of their colours."""
    font = font_of(16)
    for text, colour in items:
        draw.rectangle((x, y + 5, x + 18, y + 8), fill=colour)
        draw.text((x + 25, y + 7), text, font=font, fill=FAINT_TEXT, anchor="lm")
        x += 25 + font.getlength(text) + 18
