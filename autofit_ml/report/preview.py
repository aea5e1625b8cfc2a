"""Pictures of one fit: the preview beside the catalogue, the thumbnail inside the report.

Composed with numpy and Pillow: a run draws one per object, so each has to take milliseconds.
All pictures have the first image row at the bottom.
"""

from __future__ import annotations

import functools
import io
import math
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from autofit_ml.catalogue.flags import FATAL, Flag
from autofit_ml.catalogue.schema import band_suffix
from autofit_ml.report.measurement import format_measurement

__all__ = ["BandPicture", "ellipse_outline", "preview_png", "segmentation_png", "thumbnail"]

PANEL = 280
"""The most screen pixels on the longer side of a panel."""

THUMBNAIL_PANEL = 80
"""Side, in screen pixels, of each of a thumbnail's three squares."""

RESIDUAL_CLIP = 5.0
"""Residuals are drawn between plus and minus this many sigma."""

_WHOLE = 512
"""Larger images are drawn pixel by pixel in `segmentation_png`."""

_GAP = 6
_MARGIN = 10
_TITLE_HEIGHT = 20
_LINE_HEIGHT = 20
_NARROWEST_PANEL = 150

_BACKGROUND = (20, 22, 26)
_EMPTY = (38, 41, 47)
_UNUSED = (176, 180, 188)
_TEXT = (232, 234, 237)
_FAINT_TEXT = (154, 160, 170)
_FATAL_TEXT = (255, 128, 118)
_FLAG_TEXT = (255, 200, 92)
_GOOD_TEXT = (120, 214, 150)
_ELLIPSES = ((64, 224, 208), (255, 176, 70), (196, 150, 255), (255, 128, 170))
_HATCH = (150, 170, 190)
_TARGET = (64, 224, 208)
_OTHERS = ((255, 150, 60), (200, 130, 255), (255, 110, 160))
_STAR = (240, 225, 80)

RGB = tuple[int, int, int]


@functools.lru_cache(maxsize=8)
def _colours(name: str) -> np.ndarray:
    """A matplotlib colour map in 85 steps of 3, uint8, shape (256, 3).

    Fewer colours make smaller files; steps this small are not seen.
    """
    levels = np.arange(256) // 3 * 3 + 1
    return (matplotlib.colormaps[name](levels)[:, :3] * 255 + 0.5).astype(np.uint8)


@functools.lru_cache(maxsize=8)
def _font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """DejaVu Sans as it comes with matplotlib."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts", "ttf", name), size)


def ellipse_outline(
    x: float, y: float, re: float, q: float, pa: float, points: int = 96
) -> tuple[np.ndarray, np.ndarray]:
    """Points of the half-light ellipse in image pixels.

    Parameters
    ----------
    x, y : float
        Centre, pixels (the centre of the first pixel is 0, 0).
    re : float
        Semi-major axis, pixels.
    q : float
        Axis ratio.
    pa : float
        Degrees counter-clockwise from +y.
    points : int

    Returns
    -------
    px, py : ndarray, shape (points,)
        Closed: the last point is the first.
    """
    t = np.linspace(0.0, 2.0 * np.pi, points)
    along, across = re * np.cos(t), re * q * np.sin(t)
    s, c = math.sin(math.radians(pa)), math.cos(math.radians(pa))
    return x - along * s + across * c, y + along * c + across * s


def _number(row: Mapping[str, Any], name: str) -> float:
    value = row.get(name)
    return math.nan if value is None else float(value)


def _screen_scale(shape: tuple[int, int]) -> tuple[int, int]:
    """(enlarge, reduce), of which one is 1.

    Whole numbers, because any other scale puts a grid on the noise. The longer side of a panel
    comes to between 141 and 280 screen pixels (less only for stamps under 12 pixels).
    """
    longest = max(shape)
    if longest > PANEL:
        return 1, -(-longest // PANEL)
    return min(PANEL // longest, 24), 1


def _to_screen(plane: np.ndarray, enlarge: int, reduce: int) -> np.ndarray:
    """A plane at screen size, its first row at the bottom.

    Where the stamp is reduced, images are averaged, masks show any masked pixel, labels are
    sampled.
    """
    if reduce > 1:
        if plane.dtype == np.float32:
            plane = np.asarray(Image.fromarray(plane).reduce(reduce))
        elif plane.dtype == bool:
            grown = Image.fromarray(plane.astype(np.float32)).reduce(reduce)
            plane = np.asarray(grown) > 0
        else:
            ny, nx = plane.shape
            rows = np.minimum(np.arange(0, ny, reduce) + reduce // 2, ny - 1)
            columns = np.minimum(np.arange(0, nx, reduce) + reduce // 2, nx - 1)
            plane = plane[rows][:, columns]
    if enlarge > 1:
        plane = plane.repeat(enlarge, axis=0).repeat(enlarge, axis=1)
    return plane[::-1]


def _resize(values: np.ndarray, height: int, width: int) -> np.ndarray:
    """float32 image at another size: interpolated or averaged as fits."""
    ny, nx = values.shape
    if (height, width) == (ny, nx):
        return values
    how = Image.Resampling.BILINEAR if width > nx else Image.Resampling.BOX
    return np.asarray(Image.fromarray(values).resize((width, height), how))


def _finite(values: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    """The finite values outside `mask`, or all finite ones if it covers everything."""
    finite = np.isfinite(values)
    good = finite if mask is None else finite & ~mask
    chosen = values[good]
    return chosen if chosen.size else values[finite]


class _Stretch:
    """The same asinh stretch for data and model: linear at the noise, logarithmic above."""

    def __init__(self, data, model, sigma, mask, sky: float):
        values = _finite(data, mask)
        if values.size == 0:
            values = np.zeros(1, dtype=np.float32)
        if sigma is not None:
            noise = _finite(sigma, mask)
            # Where the noise map has Poisson noise its lower values belong to the sky.
            scale = float(np.percentile(noise, 20)) if noise.size else math.nan
        else:
            scale = math.nan
        if not (math.isfinite(scale) and scale > 0):
            low, high = np.percentile(values, [16, 50])
            scale = float(high - low) or float(np.abs(values).max()) or 1.0
        self.scale = scale
        self.sky = sky if math.isfinite(sky) else float(np.median(values))
        top = (float(np.percentile(values, 99.7)) - self.sky) / scale
        if model is not None:
            peak = _finite(model, None)
            if peak.size:
                top = max(top, 0.5 * (float(peak.max()) - self.sky) / scale)
        self.low = math.asinh(-1.5)
        self.high = math.asinh(min(max(top, 8.0), 1e6))

    def indices(self, image: np.ndarray) -> np.ndarray:
        """uint8 places in the colour map."""
        # Infinite or undefined pixels end at an end of the scale or at its start.
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            stretched = np.arcsinh((image - np.float32(self.sky)) / np.float32(self.scale))
            levels = (stretched - self.low) * (255.0 / (self.high - self.low))
        return np.clip(np.nan_to_num(levels, nan=0.0), 0, 255).astype(np.uint8)


def _in_sigma(residual: np.ndarray, sigma: np.ndarray) -> np.ndarray:
    """residual / sigma; 0 where that is not defined."""
    known = np.isfinite(residual) & np.isfinite(sigma) & (sigma > 0)
    with np.errstate(over="ignore"):
        return np.divide(residual, sigma, out=np.zeros_like(residual), where=known)


def _residual_indices(residual_sigma: np.ndarray) -> np.ndarray:
    clipped = np.clip(residual_sigma, -RESIDUAL_CLIP, RESIDUAL_CLIP)
    return np.clip(clipped * (127.5 / RESIDUAL_CLIP) + 128.0, 0, 255).astype(np.uint8)


def _boundaries(regions: np.ndarray) -> np.ndarray:
    """True on the screen pixels at the inner edge of each labelled region."""
    edge = np.zeros(regions.shape, dtype=bool)
    across, down = regions[:, 1:] != regions[:, :-1], regions[1:] != regions[:-1]
    edge[:, 1:] |= across
    edge[:, :-1] |= across
    edge[1:] |= down
    edge[:-1] |= down
    return edge & (regions > 0)


def _hatched(mask: np.ndarray) -> np.ndarray:
    """Screen pixels of `mask` on diagonal lines."""
    height, width = mask.shape
    diagonal = np.add.outer(np.arange(height), np.arange(width)) % 6 < 2
    return mask & diagonal


def _tint(panel: np.ndarray, where: np.ndarray, colour: RGB, strength: float) -> None:
    """Blend `colour` into the chosen pixels of an RGB panel, in place."""
    chosen = panel[where].astype(np.float32)
    chosen += strength * (np.array(colour, dtype=np.float32) - chosen)
    panel[where] = chosen.astype(np.uint8)


def _segmentation_panel(
    grey: np.ndarray,
    labels: np.ndarray | None,
    target: int,
    mask: np.ndarray | None,
    classes: Mapping[int, str],
) -> np.ndarray:
    """Dimmed image with the target and the other objects filled and outlined."""
    panel = (_colours("gray")[grey] * 0.75).astype(np.uint8)
    if mask is not None:
        _tint(panel, _hatched(mask), _HATCH, 0.7)
    if labels is None:
        return panel
    # 0 sky, 1 target, 2 stars, 3.. the other objects in a few colours.
    regions = np.where(labels > 0, 3 + labels % len(_OTHERS), 0).astype(np.int16)
    stars = [label for label, kind in classes.items() if kind == "star"]
    if stars:
        regions[np.isin(labels, stars)] = 2
    if target > 0:
        regions[labels == target] = 1
    for k, colour in enumerate((_TARGET, _STAR, *_OTHERS), start=1):
        region = regions == k
        if region.any():
            _tint(panel, region, colour, 0.25)
    edges = _boundaries(labels)
    palette = np.array([(0, 0, 0), _TARGET, _STAR, *_OTHERS], dtype=np.uint8)
    panel[edges] = palette[regions[edges]]
    return panel


def _suffixes(row: Mapping[str, Any]) -> list[str]:
    """What follows the names of each component of the model that has a position."""
    names = ["", *(f"_{k}" for k in range(2, 10))]
    known = [extra for extra in names if f"x{extra}" in row]
    return [extra for extra in known if math.isfinite(_number(row, f"x{extra}"))]


def _colour(extra: str) -> RGB:
    """Colour of a component."""
    return _ELLIPSES[(int(extra[1:]) - 1 if extra else 0) % len(_ELLIPSES)]


def _draw_components(
    panel: np.ndarray, scale: float, row: Mapping[str, Any], origin: tuple[int, int]
) -> None:
    """Draw every component of the target into an RGB panel: half-light ellipse, or a cross."""
    for extra in reversed(_suffixes(row)):
        x, y, re, q, pa = (_number(row, f"{name}{extra}") for name in ("x", "y", "re", "q", "pa"))
        x, y = x - origin[0], y - origin[1]
        if all(map(math.isfinite, (x, y, re, q, pa))):
            _draw_line(panel, scale, *ellipse_outline(x, y, re, q, pa), _colour(extra))
        elif math.isfinite(x) and math.isfinite(y):
            arm = 7.0 / scale  # a point source: a cross with a free middle
            for dx, dy in ((1, 0), (-1, 0), (0, 1), (0, -1)):
                ends = np.array([0.4, 1.0]) * arm
                _draw_line(panel, scale, x + dx * ends, y + dy * ends, _colour(extra))


def _draw_line(
    panel: np.ndarray, scale: float, px: np.ndarray, py: np.ndarray, colour: RGB
) -> None:
    """Draw a line through image pixels into an RGB panel, in place, smooth and with a dark rim."""
    height, width = panel.shape[:2]
    # Image pixel centres sit half a pixel in; rows count from the bottom.
    sx = (px + 0.5) * scale
    sy = height - (py + 0.5) * scale
    left, top = max(0, int(sx.min()) - 4), max(0, int(sy.min()) - 4)
    right, bottom = min(width, int(sx.max()) + 5), min(height, int(sy.max()) + 5)
    if right <= left or bottom <= top:
        return
    fine = 2
    line = [
        (float(a), float(b)) for a, b in zip((sx - left) * fine, (sy - top) * fine, strict=True)
    ]
    part = panel[top:bottom, left:right].astype(np.float32)
    for thickness, ink_colour, strength in ((7, (0, 0, 0), 0.45), (3, colour, 1.0)):
        ink = Image.new("L", ((right - left) * fine, (bottom - top) * fine))
        ImageDraw.Draw(ink).line(line, fill=255, width=thickness, joint="curve")
        cover = np.asarray(ink.reduce(fine), dtype=np.float32)[..., None] * (strength / 255)
        part += cover * (np.array(ink_colour, dtype=np.float32) - part)
    panel[top:bottom, left:right] = part.astype(np.uint8)


def _bar_length(width: float) -> float:
    """The largest of 1, 2, 5 times a power of ten that is at most 0.4 of `width`."""
    limit = 0.4 * width
    power = 10.0 ** math.floor(math.log10(limit))
    return next(power * m for m in (5, 2, 1) if power * m <= limit)


def _draw_scale_bar(
    draw: ImageDraw.ImageDraw, x: int, y: int, nx: int, scale: float, pixel_scale: float
) -> None:
    """A scale bar whose left end is at (x, y)."""
    known = math.isfinite(pixel_scale) and pixel_scale > 0
    unit = pixel_scale if known else 1.0
    length = _bar_length(nx * unit)
    screen = length / unit * scale
    for grow, colour in ((1, (0, 0, 0)), (0, _TEXT)):
        draw.rectangle((x - grow, y - 1 - grow, x + screen + grow, y + 1 + grow), fill=colour)
    draw.text(
        (x + screen / 2, y - 5),
        f"{length:g}″" if known else f"{length:g} px",
        font=_font(12), fill=_TEXT, anchor="mb", stroke_width=2, stroke_fill=(0, 0, 0),
    )  # fmt: skip


def _elided(text: str, font: ImageFont.FreeTypeFont, width: float) -> str:
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
    error = _number(row, f"{name}_err")
    return format_measurement(_number(row, name), error)


def _shape_numbers(row: Mapping[str, Any], extra: str) -> list[str]:
    """Brightness, size and shape of a component; what it has not is left out."""
    brightness = "mag" if math.isfinite(_number(row, f"mag{extra}")) else "flux"
    out = [f"{brightness} {_pair(row, brightness + extra)}"]
    if math.isfinite(_number(row, f"re{extra}")):
        re = f"re {_pair(row, f're{extra}')} px"
        if math.isfinite(_number(row, f"re_arcsec{extra}")):
            re += f" ({format_measurement(_number(row, f're_arcsec{extra}'), digits=3)}″)"
        out.append(re)
    for name, unit in (("n", ""), ("q", ""), ("pa", "°")):
        if math.isfinite(_number(row, f"{name}{extra}")):
            out.append(f"{name} {_pair(row, name + extra)}{unit}")
    return out


def _fit_numbers(row: Mapping[str, Any]) -> list[str]:
    """Signal to noise, goodness of fit, neighbours."""
    out = [
        f"S/N {format_measurement(_number(row, 'snr'), digits=3)}",
        f"χ²/ν {format_measurement(_number(row, 'chi2_red'), digits=3)}",
    ]
    count = _number(row, "n_neighbours")
    if count > 0:
        out.append(f"{count:.0f} neighbour{'s' if count > 1 else ''} fitted too")
    return out


def _key_numbers(row: Mapping[str, Any]) -> list[list[tuple[str, RGB]]]:
    """Lines of numbers under the panels."""
    components = _suffixes(row)
    if len(components) < 2:
        return [[(text, _TEXT) for text in (*_shape_numbers(row, ""), *_fit_numbers(row))]]
    brightness = "mag_total" if math.isfinite(_number(row, "mag_total")) else "flux_total"
    whole = [
        f"{brightness.replace('_', ' ')} {_pair(row, brightness)}",
        f"fraction {_pair(row, 'fraction')}",
        *_fit_numbers(row),
    ]
    lines = [[(text, _TEXT) for text in whole]]
    names = str(row.get("model", "")).split("+")
    for extra in components:
        k = int(extra[1:]) if extra else 1
        name = f"{k} {names[k - 1]}" if len(names) >= k else str(k)
        numbers = [(text, _TEXT) for text in _shape_numbers(row, extra)]
        lines.append([(name, _colour(extra)), *numbers])
    return lines


def _text_lines(
    row: Mapping[str, Any], width: float
) -> list[tuple[ImageFont.FreeTypeFont, list[tuple[float, str, RGB]]]]:
    """The lines under the panels: id, key numbers (or why there are none), flags."""
    title, font = _font(15, bold=True), _font(13)
    lines = [(title, [(0.0, _elided(str(row.get("id", "")), title, width), _TEXT)])]
    failed = row.get("status") == "failed"
    if failed:
        message = str(row.get("message", "")) or "no reason recorded"
        words = [(_elided(word, font, width), _FATAL_TEXT) for word in message.split()]
        body = _flowed([("no fit:", _FATAL_TEXT), *words], font, width, font.getlength(" "))
        lines += [(font, line) for line in body[:4]]
    else:
        for numbers in _key_numbers(row):
            lines += [(font, line) for line in _flowed(numbers, font, width, 22)]
    flags = Flag(int(row.get("flags") or 0) & sum(Flag))
    named = [(str(f.name), _FATAL_TEXT if f & FATAL else _FLAG_TEXT) for f in Flag if f & flags]
    if not named:
        named = [("no flags", _GOOD_TEXT)]
    lines += [(font, line) for line in _flowed(named, font, width, 14)]
    return lines


def _png(rgb: np.ndarray) -> bytes:
    """Encode an RGB image as PNG.

    No row is filtered (filter type 0 of the PNG specification, section 9): with few colours and
    repeated pixels that is both smaller and several times faster than Pillow's encoder, which
    tries all filters on every row.
    """
    height, width, _ = rgb.shape
    rows = np.zeros((height, width * 3 + 1), dtype=np.uint8)
    rows[:, 1:] = rgb.reshape(height, width * 3)

    def chunk(kind: bytes, body: bytes) -> bytes:
        size, check = struct.pack(">I", len(body)), struct.pack(">I", zlib.crc32(kind + body))
        return size + kind + body + check

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows.tobytes(), 2))
        + chunk(b"IEND", b"")
    )


def _plane(image: Any, shape: tuple[int, int] | None = None) -> np.ndarray | None:
    """`image` as float32 (None stays None), checked against `shape`."""
    if image is None:
        return None
    plane: np.ndarray = np.asarray(image, dtype=np.float32)
    if plane.ndim != 2 or 0 in plane.shape or (shape is not None and plane.shape != shape):
        raise ValueError(f"a plane has shape {plane.shape}, expected {shape or '(ny, nx)'}")
    return plane


def _pixels(image: Any, shape: tuple[int, int], dtype: type) -> np.ndarray | None:
    """A mask or label image, checked against `shape`."""
    if image is None:
        return None
    plane: np.ndarray = np.asarray(image).astype(dtype, copy=False)
    if plane.shape != shape:
        raise ValueError(f"a plane has shape {plane.shape}, expected {shape}")
    return plane


@dataclass(frozen=True)
class BandPicture:
    """The planes of a further band, as `preview_png` takes those of the first."""

    name: str
    data: np.ndarray
    model: np.ndarray | None
    residual: np.ndarray | None
    sigma: np.ndarray | None
    mask: np.ndarray | None
    sky: float = math.nan


def preview_png(
    data: np.ndarray,
    model: np.ndarray | None,
    residual: np.ndarray | None,
    sigma: np.ndarray | None,
    mask: np.ndarray | None,
    labels: np.ndarray | None,
    target: int,
    row: Mapping[str, Any],
    pixel_scale: float = math.nan,
    *,
    origin: tuple[int, int] = (0, 0),
    classes: Mapping[int, str] | None = None,
    band: str = "",
    more: Sequence[BandPicture] = (),
) -> bytes:
    """The picture ``previews/<id>.png``: data, model, residual/sigma, segmentation.

    Data and model have the same asinh stretch, set by the sky and its noise; residuals run
    from -5 to +5 sigma. Masked pixels are hatched. The half-light ellipses of the target's
    components (a cross for a point source) are drawn on data and model, the outlines of the target
    and of other objects on the segmentation, the scale bar on the data; below stand id, key numbers
    with errors, and flags (or why there is no fit). Further bands have a line of panels each.

    Parameters
    ----------
    data : ndarray, shape (ny, nx)
        Image units; the first row is drawn at the bottom.
    model, residual, sigma : ndarray, shape (ny, nx), or None
        Model with sky and PSF, data - model, 1-sigma noise, image units; None where there is none
        (a failed object): the panel then says so.
    mask : ndarray, bool, shape (ny, nx), or None
        True = not used.
    labels : ndarray, int, shape (ny, nx), or None
        Segmentation, 0 = sky.
    target : int
        Label of the target (0: none).
    row : mapping
        The object's catalogue row; missing entries count as unknown.
    pixel_scale : float
        arcsec per pixel, NaN if unknown (the scale bar is then in pixels).
    origin : tuple of int, keyword-only
        (x0, y0) of the stamp's first pixel in the file's pixels, which ``row["x"], row["y"]``
        count in.
    classes : mapping, optional, keyword-only
        label -> "galaxy" or "star"; stars among the other objects are outlined in yellow.
    band : str, keyword-only
        Name of the first band, where there are several.
    more : sequence of BandPicture, keyword-only
        The other bands.

    Returns
    -------
    png : bytes

    Raises
    ------
    ValueError
        The planes differ in shape or are empty.
    """
    image = _plane(data)
    if image is None:
        raise ValueError("there is no data to draw")
    shape: tuple[int, int] = (image.shape[0], image.shape[1])
    model, residual, sigma = (_plane(p, shape) for p in (model, residual, sigma))
    mask, labels = _pixels(mask, shape, bool), _pixels(labels, shape, np.int32)

    scale = _scale(shape)
    first = _panels(image, model, residual, sigma, mask, _number(row, "sky"))
    first.panels[3] = _segmentation_panel(
        first.grey,
        None if labels is None else first.upright(labels),
        int(target),
        first.mask,
        classes or {},
    )
    for panel in first.panels[:2]:
        if panel is not None:
            _draw_components(panel, scale, row, origin)
    rows = [first]
    for other in more:
        plane = _plane(other.data)
        if plane is None:
            continue
        size: tuple[int, int] = (plane.shape[0], plane.shape[1])
        drawn, rest, noise = (_plane(p, size) for p in (other.model, other.residual, other.sigma))
        unused = _pixels(other.mask, size, bool)
        rows.append(_panels(plane, drawn, rest, noise, unused, other.sky))

    cell = max([_NARROWEST_PANEL, *(item.grey.shape[1] for item in rows)])
    total_width = 2 * _MARGIN + 4 * cell + 3 * _GAP
    lines = _text_lines(row, total_width - 2 * _MARGIN)
    top = _MARGIN + _TITLE_HEIGHT
    heights = [item.grey.shape[0] for item in rows]
    panels_end = top + sum(heights) + _GAP * (len(rows) - 1)
    total_height = panels_end + 8 + _LINE_HEIGHT * len(lines) + _MARGIN

    canvas = Image.new("RGB", (total_width, total_height), _BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    titles = ("data", "model", f"residual / σ   (±{RESIDUAL_CLIP:g})", "segmentation")
    for k, title in enumerate(titles):
        left = _MARGIN + k * (cell + _GAP) + (cell - first.grey.shape[1]) // 2
        draw.text((left, _MARGIN), title, font=_font(12), fill=_FAINT_TEXT)
    names = [band, *(other.name for other in more)]
    y = top
    for item, name in zip(rows, names, strict=True):
        _paste_panels(canvas, item, cell, y)
        if name:
            left = _MARGIN + (cell - item.grey.shape[1]) // 2
            draw.text(
                (left + 6, y + 4), name, font=_font(15, bold=True), fill=_TEXT,
                stroke_width=2, stroke_fill=(0, 0, 0),
            )  # fmt: skip
        if item is not first:
            _write_band(draw, row, name, (_MARGIN + 3 * (cell + _GAP) + 4, y), cell - 4)
        y += item.grey.shape[0] + _GAP
    bar = (_MARGIN + (cell - first.grey.shape[1]) // 2 + 10, top + heights[0] - 10)
    _draw_scale_bar(draw, *bar, shape[1], scale, float(pixel_scale))
    y = panels_end + 8
    for font, line in lines:
        for x, text, colour in line:
            draw.text((_MARGIN + x, y), text, font=font, fill=colour)
        y += _LINE_HEIGHT
    return _png(np.asarray(canvas))


@dataclass
class _PanelRow:
    """Data, model, residual and segmentation of one image, at screen size."""

    grey: np.ndarray
    mask: np.ndarray | None
    panels: list[np.ndarray | None]
    enlarge: int
    reduce: int

    def upright(self, plane: np.ndarray) -> np.ndarray:
        return _to_screen(plane, self.enlarge, self.reduce)


def _scale(shape: tuple[int, int]) -> float:
    """Screen pixels per image pixel."""
    enlarge, reduce = _screen_scale(shape)
    return enlarge / reduce


def _panels(
    image: np.ndarray,
    model: np.ndarray | None,
    residual: np.ndarray | None,
    sigma: np.ndarray | None,
    mask: np.ndarray | None,
    sky: float,
) -> _PanelRow:
    """The first three panels of one image."""
    enlarge, reduce = _screen_scale((image.shape[0], image.shape[1]))
    stretch = _Stretch(image, model, sigma, mask, sky)

    def upright(plane: np.ndarray) -> np.ndarray:
        return _to_screen(plane, enlarge, reduce)

    screen_mask = None if mask is None or not mask.any() else upright(mask)
    grey = stretch.indices(upright(image))
    panels: list[np.ndarray | None] = [_colours("magma")[grey], None, None, None]
    if model is not None:
        panels[1] = _colours("magma")[stretch.indices(upright(model))]
    if residual is not None and sigma is not None:
        panels[2] = _colours("RdBu_r")[_residual_indices(upright(_in_sigma(residual, sigma)))]
    for k in (0, 2):
        panel = panels[k]
        if panel is not None and screen_mask is not None:
            _tint(panel, _hatched(screen_mask), _HATCH, 0.6)
    return _PanelRow(grey, screen_mask, panels, enlarge, reduce)


def _paste_panels(canvas: Image.Image, item: _PanelRow, cell: int, y: int) -> None:
    """Put a line of panels at height y, each in the middle of its cell."""
    draw = ImageDraw.Draw(canvas)
    height, width = item.grey.shape
    lacking = ("", "no model", "no residual", "")
    for k, panel in enumerate(item.panels):
        left = _MARGIN + k * (cell + _GAP) + (cell - width) // 2
        if panel is not None:
            canvas.paste(Image.fromarray(panel), (left, y))
        elif lacking[k]:
            draw.rectangle((left, y, left + width - 1, y + height - 1), fill=_EMPTY)
            centre = (left + width / 2, y + height / 2)
            draw.text(centre, lacking[k], font=_font(12), fill=_FAINT_TEXT, anchor="mm")


def _write_band(
    draw: ImageDraw.ImageDraw,
    row: Mapping[str, Any],
    name: str,
    place: tuple[int, int],
    width: float,
) -> None:
    """A further band's own numbers, in place of a segmentation."""
    extra = band_suffix(name)
    components = _suffixes(row)
    lines: list[tuple[str, RGB]] = []
    for k in components:
        brightness = "mag" if math.isfinite(_number(row, f"mag{k}{extra}")) else "flux"
        for parameter in (brightness, "re", "n", "q", "pa"):
            if math.isfinite(_number(row, f"{parameter}{k}{extra}")):
                text = f"{parameter}{k.replace('_', ' ')} {_pair(row, f'{parameter}{k}{extra}')}"
                lines.append((text, _colour(k) if components[1:] else _TEXT))
    if math.isfinite(_number(row, f"fraction{extra}")):
        lines.append((f"fraction {_pair(row, f'fraction{extra}')}", _TEXT))
    x, y = place
    for text, colour in lines:
        draw.text((x, y), _elided(text, _font(13), width), font=_font(13), fill=colour)
        y += _LINE_HEIGHT


def segmentation_png(
    data: np.ndarray,
    sigma: np.ndarray | None,
    mask: np.ndarray | None,
    labels: np.ndarray,
    target: int = 0,
    *,
    classes: Mapping[int, str] | None = None,
) -> bytes:
    """An image, and beside it the outlines of its instances.

    Parameters
    ----------
    data : ndarray, shape (ny, nx)
        Sky-subtracted, image units; the first row is drawn at the bottom.
    sigma, mask : ndarray, shape (ny, nx), or None
        1-sigma noise; True = not used (hatched).
    labels : ndarray of int, shape (ny, nx)
        0 = sky.
    target : int
        Label of the target (0: none).
    classes : mapping, optional, keyword-only
        label -> "galaxy" or "star"; stars are outlined in yellow.

    Returns
    -------
    png : bytes

    Raises
    ------
    ValueError
        The planes differ in shape or are empty.
    """
    image = _plane(data)
    if image is None:
        raise ValueError("there is no data to draw")
    shape: tuple[int, int] = (image.shape[0], image.shape[1])
    sigma, regions = _plane(sigma, shape), _pixels(labels, shape, np.int32)
    unused = _pixels(mask, shape, bool)
    enlarge, reduce = _screen_scale(shape) if max(shape) <= _WHOLE else (1, 1)
    grey = _Stretch(image, None, sigma, unused, 0.0).indices(_to_screen(image, enlarge, reduce))
    screen_mask = None
    if unused is not None and unused.any():
        screen_mask = _to_screen(unused, enlarge, reduce)
    outlined = _segmentation_panel(
        grey,
        None if regions is None else _to_screen(regions, enlarge, reduce),
        int(target),
        screen_mask,
        classes or {},
    )
    if max(shape) > _WHOLE:  # a frame: the outlines are enough, and large enough
        return _png(outlined)
    gap = np.full((grey.shape[0], _GAP, 3), _BACKGROUND, dtype=np.uint8)
    return _png(np.concatenate([_colours("magma")[grey], gap, outlined], axis=1))


def thumbnail(
    data: np.ndarray,
    model: np.ndarray | None,
    residual: np.ndarray | None,
    sigma: np.ndarray | None,
    mask: np.ndarray | None = None,
    *,
    sky: float = math.nan,
) -> bytes:
    """A small strip data | model | residual/sigma for the report.

    Parameters
    ----------
    data, model, residual, sigma, mask
        As in `preview_png`, with the same colours.
    sky : float, keyword-only
        Fitted sky level, image units; NaN: the median of the data.

    Returns
    -------
    jpeg : bytes
        244 x 80 pixels, about 4 kB.

    Raises
    ------
    ValueError
        The planes differ in shape or are empty.
    """
    image = _plane(data)
    if image is None:
        raise ValueError("there is no data to draw")
    shape: tuple[int, int] = (image.shape[0], image.shape[1])
    model, residual, sigma = (_plane(p, shape) for p in (model, residual, sigma))
    mask = _pixels(mask, shape, bool)

    stretch = _Stretch(image, model, sigma, mask, float(sky))
    scale = THUMBNAIL_PANEL / max(shape)
    height, width = max(1, round(shape[0] * scale)), max(1, round(shape[1] * scale))
    panels: list[np.ndarray | None] = [None, None, None]
    panels[0] = _colours("magma")[stretch.indices(_resize(image, height, width))]
    if model is not None:
        panels[1] = _colours("magma")[stretch.indices(_resize(model, height, width))]
    if residual is not None and sigma is not None:
        ratio = _resize(_in_sigma(residual, sigma), height, width)
        residuals = _colours("RdBu_r")[_residual_indices(ratio)]
        if mask is not None:  # what was not fitted is no residual
            residuals[_resize(mask.astype(np.float64), height, width) > 0.5] = _UNUSED
        panels[2] = residuals

    gap = 2
    strip = np.empty((THUMBNAIL_PANEL, 3 * THUMBNAIL_PANEL + 2 * gap, 3), dtype=np.uint8)
    strip[:] = _BACKGROUND
    for k, panel in enumerate(panels):
        left = k * (THUMBNAIL_PANEL + gap)
        if panel is None:
            strip[:, left : left + THUMBNAIL_PANEL] = _EMPTY
            continue
        y, x = (THUMBNAIL_PANEL - height) // 2, left + (THUMBNAIL_PANEL - width) // 2
        strip[y : y + height, x : x + width] = panel[::-1]
    buffer = io.BytesIO()
    Image.fromarray(strip).save(buffer, "JPEG", quality=72)
    return buffer.getvalue()
