"""Pictures of one fit: the preview beside the catalogue, the thumbnail inside the report.

Composed with numpy and Pillow: a run draws one per object, so each has to take milliseconds.
All pictures have the first image row at the bottom.
"""

import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from astropy.wcs import WCS
from PIL import Image, ImageDraw

from autofit_ml.images.stamp import PSF
from autofit_ml.report.captions import (
    FAINT_TEXT,
    LINE_HEIGHT,
    RGB,
    TEXT,
    colour_of,
    font_of,
    number_of,
    text_lines,
    write_band,
    write_legend,
)
from autofit_ml.report.drawing import (
    BACKGROUND,
    EMPTY,
    HATCH,
    RESIDUAL_CLIP,
    UNUSED,
    Stretch,
    colour_table,
    draw_compass,
    draw_components,
    draw_scale_bar,
    hatching,
    in_sigma,
    pixels_of,
    plane_of,
    png_bytes,
    residual_indices,
    resized,
    screen_scale,
    segmentation_legend,
    segmentation_panel,
    sky_directions,
    tint,
    to_screen,
)
from autofit_ml.report.light_profile import (
    DATA_COLOUR,
    MODEL_COLOUR,
    PSF_COLOUR,
    light_profile,
)
from autofit_ml.report.measurement import format_measurement

__all__ = ["BandPicture", "preview_png", "segmentation_png", "thumbnail"]

THUMBNAIL_PANEL = 80
"""Side, in screen pixels, of each of a thumbnail's three squares."""

_WHOLE = 512
"""Larger images are drawn pixel by pixel in `segmentation_png`."""

_GAP = 8
_MARGIN = 14
_TITLE_HEIGHT = 28
_STRIP_HEIGHT = 32
_NARROWEST_PANEL = 260
_PANELS = 5
_LEAST_COMPASS = 140
"""Screen pixels of a panel below which a compass would hide it."""


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

    @property
    def shape(self) -> tuple[int, int]:
        """(ny, nx)."""
        return self.data.shape[0], self.data.shape[1]

    def checked(self) -> "BandPicture":
        """The same in the types that drawing needs."""
        data = plane_of(self.data)
        if data is None:
            raise ValueError("there is no data to draw")
        shape = (data.shape[0], data.shape[1])
        model, residual, sigma = (
            plane_of(plane, shape) for plane in (self.model, self.residual, self.sigma)
        )
        mask = pixels_of(self.mask, shape, bool)
        if mask is not None and not mask.any():
            mask = None
        return replace(self, data=data, model=model, residual=residual, sigma=sigma, mask=mask)

    def panels(
        self, levels: Callable[[np.ndarray, Callable[[np.ndarray], np.ndarray]], np.ndarray]
    ) -> tuple[Stretch, np.ndarray, list[np.ndarray | None]]:
        """The stretch, stretched data (uint8), and data, model and residual in colours.

        ``levels(plane, places)`` resizes a plane and turns it into places in a colour map.
        """
        stretch, colours = Stretch(self.data, self.model, self.sigma, self.mask, self.sky), "magma"
        grey = levels(self.data, stretch.indices)
        out: list[np.ndarray | None] = [colour_table(colours)[grey], None, None]
        if self.model is not None:
            out[1] = colour_table(colours)[levels(self.model, stretch.indices)]
        if self.residual is not None and self.sigma is not None:
            ratio = in_sigma(self.residual, self.sigma)
            out[2] = colour_table("RdBu_r")[levels(ratio, residual_indices)]
        return stretch, grey, out


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
    light: np.ndarray | None = None,
    psf: PSF | None = None,
    wcs: WCS | None = None,
    zeropoint: float = math.nan,
) -> bytes:
    """The picture ``previews/<id>.png``: data, model, residual/sigma, segmentation, profile.

    Data and model have the same asinh stretch, set by the sky and its noise; residuals run
    from -5 to +5 sigma; bars below the panels give the values of colours. Masked pixels are
    hatched. The half-light ellipses of the target's components (a cross for a point source) are
    drawn on data and model, the outlines of the target and of other objects on the segmentation,
    scale bar and compass on the data; below stand id, message, key numbers with errors, and flags
    (or why there is no fit). Further bands have a line of panels each.

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
    light : ndarray, shape (ny, nx), or None, keyword-only
        Model of the target alone, image units; there is no radial profile without it.
    psf : PSF, optional, keyword-only
        For the profile of a point source of the target's flux.
    wcs : WCS, optional, keyword-only
        Of the row's pixels: for the compass.
    zeropoint : float, keyword-only
        For surface brightness in magnitudes.

    Returns
    -------
    png : bytes

    Raises
    ------
    ValueError
        The planes differ in shape or are empty.
    """
    picture = BandPicture(band, data, model, residual, sigma, mask, number_of(row, "sky"))
    pictures = [one.checked() for one in (picture, *more)]
    shape = pictures[0].shape
    rows = [_PanelRow(one) for one in pictures]
    first, scale = rows[0], rows[0].scale
    regions = pixels_of(labels, shape, np.int32)
    if regions is not None:
        regions = first.upright(regions)
    first.panels[3] = segmentation_panel(
        first.grey, regions, int(target), first.mask, classes or {}
    )
    for panel in first.panels[:2]:
        if panel is not None:
            draw_components(panel, scale, row, origin)

    cell = max([_NARROWEST_PANEL, *(item.grey.shape[1] for item in rows)])
    total_width = 2 * _MARGIN + _PANELS * cell + (_PANELS - 1) * _GAP
    lines = text_lines(row, total_width - 2 * _MARGIN)
    top = _MARGIN + _TITLE_HEIGHT
    heights = [item.grey.shape[0] for item in rows]
    # A wide and low image leaves its profile room all the same.
    heights[0] = max(heights[0], _NARROWEST_PANEL if light is not None else 0)
    panels_end = top + sum(heights) + _STRIP_HEIGHT * len(rows)
    total_height = panels_end + 12 + LINE_HEIGHT * len(lines) + _MARGIN

    canvas = Image.new("RGB", (total_width, total_height), BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    titles = ["data", "model", "residual / σ", "segmentation", "radial profile"]
    for k, title in enumerate(titles[: _PANELS if light is not None else _PANELS - 1]):
        draw.text((_MARGIN + k * (cell + _GAP), _MARGIN), title, font=font_of(18), fill=FAINT_TEXT)
    y = top
    outlined = segmentation_legend(pixels_of(labels, shape, np.int32), int(target), classes or {})
    for item, height in zip(rows, heights, strict=True):
        _paste_panels(canvas, item, cell, y)
        _write_strip(canvas, item, cell, y + height, outlined if item is first else [])
        if item.name:
            draw.text(
                (_MARGIN + 8, y + 6), item.name, font=font_of(22, bold=True), fill=TEXT,
                stroke_width=2, stroke_fill=(0, 0, 0),
            )  # fmt: skip
        if item is not first:
            write_band(draw, row, item.name, (_MARGIN + 3 * (cell + _GAP) + 6, y), cell - 6)
        y += height + _STRIP_HEIGHT
    width = first.grey.shape[1]
    bar = (_MARGIN + 14, top + first.grey.shape[0] - 14)
    draw_scale_bar(draw, *bar, shape[1], scale, float(pixel_scale))
    here = (origin[0] + (shape[1] - 1) / 2, origin[1] + (shape[0] - 1) / 2)
    directions = sky_directions(wcs, *here)
    if directions is not None and min(first.grey.shape) >= _LEAST_COMPASS:
        draw_compass(draw, _MARGIN + width - 66, top + 66, *directions)
    one = pictures[0]
    if light is not None and one.model is not None and one.sigma is not None:
        target_light = np.asarray(light, dtype=np.float32)
        profile = light_profile(
            one.data, target_light, one.model - target_light, one.sigma, one.mask, psf, row, origin
        )
        if profile is not None:
            place = (_MARGIN + 4 * (cell + _GAP), top)
            size = (cell, heights[0])
            canvas.paste(profile.drawn(size, float(pixel_scale), zeropoint), place)
            legend = [("data", DATA_COLOUR), ("model", MODEL_COLOUR), ("PSF", PSF_COLOUR)]
            write_legend(draw, place[0], top + heights[0] + 8, legend[: 3 if psf else 2])
    y = panels_end + 12
    for font, line in lines:
        for x, text, colour in line:
            draw.text((_MARGIN + x, y), text, font=font, fill=colour)
        y += LINE_HEIGHT
    return png_bytes(np.asarray(canvas))


class _PanelRow:
    """Data, model, residual and segmentation of one image, at screen size."""

    def __init__(self, picture: BandPicture):
        self.name = picture.name
        self.enlarge, self.reduce = screen_scale(picture.shape)
        self.mask = None if picture.mask is None else self.upright(picture.mask)
        stretch, grey, small = picture.panels(self.levels)
        self.limits, self.grey = stretch.limits, self.enlarged(grey)
        panels = [None if panel is None else self.enlarged(panel) for panel in small]
        self.panels = [*panels, None]
        for panel in (panels[0], panels[2]):
            if panel is not None and self.mask is not None:
                tint(panel, hatching(self.mask), HATCH, 0.6)

    @property
    def scale(self) -> float:
        """Screen pixels per image pixel."""
        return self.enlarge / self.reduce

    def upright(self, plane: np.ndarray) -> np.ndarray:
        return to_screen(plane, self.enlarge, self.reduce)

    def levels(self, plane: np.ndarray, places: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """Places in the colour map, after pixels are averaged and before they are repeated."""
        return places(to_screen(plane, 1, self.reduce))

    def enlarged(self, panel: np.ndarray) -> np.ndarray:
        """A panel with its pixels repeated."""
        return panel.repeat(self.enlarge, axis=1).repeat(self.enlarge, axis=0)


def _paste_panels(canvas: Image.Image, item: _PanelRow, cell: int, y: int) -> None:
    """Put a line of panels at height y, each at the left of its cell."""
    draw = ImageDraw.Draw(canvas)
    height, width = item.grey.shape
    lacking = ("", "no model", "no residual", "")
    for k, panel in enumerate(item.panels):
        left = _MARGIN + k * (cell + _GAP)
        if panel is not None:
            canvas.paste(Image.fromarray(panel), (left, y))
        elif lacking[k]:
            draw.rectangle((left, y, left + width - 1, y + height - 1), fill=EMPTY)
            centre = (left + width / 2, y + height / 2)
            draw.text(centre, lacking[k], font=font_of(18), fill=FAINT_TEXT, anchor="mm")


def _write_strip(
    canvas: Image.Image, item: _PanelRow, cell: int, y: int, outlined: Sequence[tuple[str, RGB]]
) -> None:
    """Write the legend of the colours and lines of the panels above."""
    draw, width = ImageDraw.Draw(canvas), item.grey.shape[1]
    low, high = (format_measurement(value, digits=3) for value in item.limits)
    _write_bar(canvas, (_MARGIN, y + 8), width, "magma", low, high)
    left = _MARGIN + cell + _GAP
    symbols = [("half light", colour_of(""))] if item.panels[1] is not None else []
    if item.mask is not None:
        symbols.append(("not used", HATCH))
    write_legend(draw, left, y + 8, symbols)
    left += cell + _GAP
    if item.panels[2] is not None:
        ends = f"−{RESIDUAL_CLIP:g} σ", f"+{RESIDUAL_CLIP:g} σ"
        _write_bar(canvas, (left, y + 8), width, "RdBu_r", *ends)
    write_legend(draw, left + cell + _GAP, y + 8, outlined)


def _write_bar(
    canvas: Image.Image, place: tuple[int, int], width: int, colours: str, low: str, high: str
) -> None:
    """A colour bar between the values at its ends."""
    draw, font, (x, y) = ImageDraw.Draw(canvas), font_of(16), place
    left = x + int(font.getlength(low)) + 6
    right = x + width - int(font.getlength(high)) - 6
    draw.text((x, y + 7), low, font=font, fill=FAINT_TEXT, anchor="lm")
    draw.text((x + width, y + 7), high, font=font, fill=FAINT_TEXT, anchor="rm")
    if right - left > 16:
        ramp = colour_table(colours)[np.linspace(0, 255, right - left).astype(np.uint8)]
        canvas.paste(Image.fromarray(np.repeat(ramp[None], 12, axis=0)), (left, y + 1))


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
    picture = BandPicture("", data, None, None, sigma, mask, 0.0).checked()
    shape = picture.shape
    scale = screen_scale(shape) if max(shape) <= _WHOLE else (1, 1)
    _, grey, _ = picture.panels(lambda plane, places: places(to_screen(plane, *scale)))
    unused, regions = (
        None if plane is None else to_screen(plane, *scale)
        for plane in (picture.mask, pixels_of(labels, shape, np.int32))
    )
    outlined = segmentation_panel(grey, regions, int(target), unused, classes or {})
    if max(shape) > _WHOLE:  # a frame: the outlines are enough, and large enough
        return png_bytes(outlined)
    gap = np.full((grey.shape[0], _GAP, 3), BACKGROUND, dtype=np.uint8)
    return png_bytes(np.concatenate([colour_table("magma")[grey], gap, outlined], axis=1))


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
    picture = BandPicture("", data, model, residual, sigma, mask, float(sky)).checked()
    longest = max(picture.shape)
    height, width = (max(1, round(side * THUMBNAIL_PANEL / longest)) for side in picture.shape)
    _, _, panels = picture.panels(lambda plane, places: places(resized(plane, height, width)))
    if panels[2] is not None and picture.mask is not None:  # what was not fitted is no residual
        panels[2][resized(picture.mask.astype(np.float64), height, width) > 0.5] = UNUSED

    gap = 2
    strip = np.empty((THUMBNAIL_PANEL, 3 * THUMBNAIL_PANEL + 2 * gap, 3), dtype=np.uint8)
    strip[:] = BACKGROUND
    for k, panel in enumerate(panels):
        left = k * (THUMBNAIL_PANEL + gap)
        if panel is None:
            strip[:, left : left + THUMBNAIL_PANEL] = EMPTY
            continue
        y, x = (THUMBNAIL_PANEL - height) // 2, left + (THUMBNAIL_PANEL - width) // 2
        strip[y : y + height, x : x + width] = panel[::-1]
    buffer = io.BytesIO()
    Image.fromarray(strip).save(buffer, "JPEG", quality=72)
    return buffer.getvalue()
