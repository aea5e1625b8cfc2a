"""Panels of previews: images stretched, enlarged, tinted, outlined; lines and bars on them."""

import functools
import math
import struct
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from astropy.wcs import WCS
from PIL import Image, ImageDraw

from autofit_ml.images.sky_coordinates import sky_positions
from autofit_ml.report.captions import RGB, TEXT, colour_of, font_of, number_of, suffixes_of

__all__ = [
    "BACKGROUND",
    "EMPTY",
    "HATCH",
    "RESIDUAL_CLIP",
    "UNUSED",
    "Stretch",
    "colour_table",
    "draw_compass",
    "draw_components",
    "draw_scale_bar",
    "ellipse_outline",
    "hatching",
    "in_sigma",
    "pixels_of",
    "plane_of",
    "png_bytes",
    "residual_indices",
    "resized",
    "screen_scale",
    "segmentation_legend",
    "segmentation_panel",
    "sky_directions",
    "tint",
    "to_screen",
]

PANEL = 320
"""Screen pixels that the longer side of a panel comes near to."""

RESIDUAL_CLIP = 5.0
"""Residuals are drawn between plus and minus this many sigma."""

BACKGROUND = (20, 22, 26)
EMPTY = (38, 41, 47)
UNUSED = (176, 180, 188)
HATCH = (150, 170, 190)
_TARGET = (64, 224, 208)
_OTHERS = ((255, 150, 60), (200, 130, 255), (255, 110, 160))
_STAR = (240, 225, 80)


@functools.lru_cache(maxsize=8)
def colour_table(name: str) -> np.ndarray:
    """A matplotlib colour map in 85 steps of 3, uint8, shape (256, 3).

    Fewer colours make smaller files; steps this small are not seen.
    """
    import matplotlib

    levels = np.arange(256) // 3 * 3 + 1
    return (matplotlib.colormaps[name](levels)[:, :3] * 255 + 0.5).astype(np.uint8)


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


def screen_scale(shape: tuple[int, int]) -> tuple[int, int]:
    """(enlarge, reduce), of which one is 1.

    Whole numbers, because any other scale puts a grid on the noise. The longer side of a panel
    comes to between two thirds and four thirds of `PANEL` (less for stamps under 6 pixels).
    """
    longest = max(shape)
    if longest > 4 / 3 * PANEL:
        return 1, max(2, round(longest / PANEL))
    return min(round(PANEL / longest) or 1, 36), 1


def to_screen(plane: np.ndarray, enlarge: int, reduce: int) -> np.ndarray:
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
        plane = plane.repeat(enlarge, axis=1).repeat(enlarge, axis=0)
    return plane[::-1]


def resized(values: np.ndarray, height: int, width: int) -> np.ndarray:
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


class Stretch:
    """The same asinh stretch for data and model: linear at the noise, logarithmic above."""

    def __init__(self, data, model, sigma, mask, sky: float):
        values = _finite(data, mask)
        if values.size == 0:
            values = np.zeros(1, dtype=np.float32)
        noise = np.empty(0) if sigma is None else _finite(sigma, mask)
        # Where the noise map has Poisson noise its lower values belong to the sky.
        scale = float(np.percentile(noise, 20)) if noise.size else math.nan
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

    @property
    def limits(self) -> tuple[float, float]:
        """Values at the ends of the colour map, image units."""
        low, high = (self.sky + self.scale * math.sinh(end) for end in (self.low, self.high))
        return low, high

    def indices(self, image: np.ndarray) -> np.ndarray:
        """uint8 places in the colour map."""
        # Infinite or undefined pixels end at an end of the scale or at its start.
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            stretched = np.arcsinh((image - np.float32(self.sky)) / np.float32(self.scale))
            levels = (stretched - self.low) * (255.0 / (self.high - self.low))
        return np.clip(np.nan_to_num(levels, nan=0.0), 0, 255).astype(np.uint8)


def in_sigma(residual: np.ndarray, sigma: np.ndarray) -> np.ndarray:
    """residual / sigma; 0 where that is not defined."""
    known = np.isfinite(residual) & np.isfinite(sigma) & (sigma > 0)
    with np.errstate(over="ignore"):
        return np.divide(residual, sigma, out=np.zeros_like(residual), where=known)


def residual_indices(residual_sigma: np.ndarray) -> np.ndarray:
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


def hatching(mask: np.ndarray) -> np.ndarray:
    """Screen pixels of `mask` on diagonal lines."""
    return mask & (np.add.outer(*map(np.arange, mask.shape)) % 6 < 2)


def tint(panel: np.ndarray, where: np.ndarray, colour: RGB, strength: float) -> None:
    """Blend `colour` into the chosen pixels of an RGB panel, in place."""
    chosen = panel[where].astype(np.float32)
    chosen += strength * (np.array(colour, dtype=np.float32) - chosen)
    panel[where] = chosen.astype(np.uint8)


def segmentation_panel(
    grey: np.ndarray,
    labels: np.ndarray | None,
    target: int,
    mask: np.ndarray | None,
    classes: Mapping[int, str],
) -> np.ndarray:
    """Dimmed image with the target and the other objects filled and outlined."""
    panel = (colour_table("gray") * 0.75).astype(np.uint8)[grey]
    if mask is not None:
        tint(panel, hatching(mask), HATCH, 0.7)
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
            tint(panel, region, colour, 0.25)
    edges = _boundaries(labels)
    palette = np.array([(0, 0, 0), _TARGET, _STAR, *_OTHERS], dtype=np.uint8)
    panel[edges] = palette[regions[edges]]
    return panel


def segmentation_legend(
    labels: np.ndarray | None, target: int, classes: Mapping[int, str]
) -> list[tuple[str, RGB]]:
    """Names and colours of what a segmentation panel outlines."""
    found = set() if labels is None else set(np.unique(labels).tolist()) - {0}
    stars = {label for label, kind in classes.items() if kind == "star"} & found - {target}
    named = (
        ("target", _TARGET, target > 0 and target in found),
        ("star", _STAR, bool(stars)),
        ("others", _OTHERS[0], bool(found - stars - {target})),
    )
    return [(name, colour) for name, colour, there in named if there]


def draw_components(
    panel: np.ndarray, scale: float, row: Mapping[str, Any], origin: tuple[int, int]
) -> None:
    """Draw every component of the target into an RGB panel: half-light ellipse, or a cross."""
    for extra in reversed(suffixes_of(row)):
        x, y, re, q, pa = (number_of(row, f"{name}{extra}") for name in ("x", "y", "re", "q", "pa"))
        x, y = x - origin[0], y - origin[1]
        if all(map(math.isfinite, (x, y, re, q, pa))):
            _draw_line(panel, scale, *ellipse_outline(x, y, re, q, pa), colour_of(extra))
        elif math.isfinite(x) and math.isfinite(y):
            arm = 10.0 / scale  # a point source: a cross with a free middle
            for dx, dy in ((1, 0), (-1, 0), (0, 1), (0, -1)):
                ends = np.array([0.4, 1.0]) * arm
                _draw_line(panel, scale, x + dx * ends, y + dy * ends, colour_of(extra))


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
    for thickness, ink_colour, strength in ((10, (0, 0, 0), 0.45), (4, colour, 1.0)):
        ink = Image.new("L", ((right - left) * fine, (bottom - top) * fine))
        ImageDraw.Draw(ink).line(line, fill=255, width=thickness)
        cover = np.asarray(ink.reduce(fine), dtype=np.float32)[..., None] * (strength / 255)
        part += cover * (np.array(ink_colour, dtype=np.float32) - part)
    panel[top:bottom, left:right] = part.astype(np.uint8)


def _bar_length(width: float) -> float:
    """The largest of 1, 2, 5 times a power of ten that is at most 0.4 of `width`."""
    limit = 0.4 * width
    power = 10.0 ** math.floor(math.log10(limit))
    return next(power * m for m in (5, 2, 1) if power * m <= limit)


def draw_compass(
    draw: ImageDraw.ImageDraw,
    x: float,
    y: float,
    north: tuple[float, float],
    east: tuple[float, float],
) -> None:
    """Arrows to north and east from (x, y); directions of length 1 in image pixels, y upwards."""
    for ink, width in (((0, 0, 0), 6), (TEXT, 2)):
        for name, (dx, dy) in (("N", north), ("E", east)):
            tip = (x + 34 * dx, y - 34 * dy)
            barbs = [
                (tip[0] - 10 * dx + side * 6 * dy, tip[1] + 10 * dy + side * 6 * dx)
                for side in (-1, 1)
            ]
            draw.line(((x, y), tip), fill=ink, width=width)
            draw.line((barbs[0], tip, barbs[1]), fill=ink, width=width)
            draw.text((x + 48 * dx, y - 48 * dy), name, font=font_of(18), fill=TEXT, anchor="mm")


def sky_directions(
    wcs: WCS | None, x: float, y: float
) -> tuple[tuple[float, float], tuple[float, float]] | None:
    """Directions of north and east at a pixel, as vectors of length 1; None without a WCS."""
    if wcs is None or not wcs.has_celestial:
        return None
    step = 0.5
    ra, dec = sky_positions(wcs, x + np.array([0.0, step, 0.0]), y + np.array([0.0, 0.0, step]))
    eastward = ((ra[1:] - ra[0] + 180.0) % 360.0 - 180.0) * math.cos(math.radians(dec[0]))
    matrix = np.array([dec[1:] - dec[0], eastward])
    if not (np.isfinite(matrix).all() and abs(np.linalg.det(matrix)) > 0):
        return None
    inverse = np.linalg.inv(matrix)
    north, east = (column / np.hypot(*column) for column in inverse.T)
    return (float(north[0]), float(north[1])), (float(east[0]), float(east[1]))


def draw_scale_bar(
    draw: ImageDraw.ImageDraw, x: int, y: int, nx: int, scale: float, pixel_scale: float
) -> None:
    """A scale bar whose left end is at (x, y)."""
    known = math.isfinite(pixel_scale) and pixel_scale > 0
    unit = pixel_scale if known else 1.0
    length = _bar_length(nx * unit)
    screen = length / unit * scale
    for grow, colour in ((1, (0, 0, 0)), (0, TEXT)):
        draw.rectangle((x - grow, y - 2 - grow, x + screen + grow, y + 1 + grow), fill=colour)
    draw.text(
        (x + screen / 2, y - 7),
        f"{length:g}″" if known else f"{length:g} px",
        font=font_of(18), fill=TEXT, anchor="mb", stroke_width=2, stroke_fill=(0, 0, 0),
    )  # fmt: skip


def png_bytes(rgb: np.ndarray) -> bytes:
    """Encode an RGB image as PNG.

    A row like the one above it is stored as no change (filter type 2 of the PNG specification,
    section 9), any other as it is (type 0): with few colours and repeated pixels that is both
    smaller and several times faster than Pillow's encoder, which tries all filters on every row.
    """
    height, width, _ = rgb.shape
    rows = np.zeros((height, width * 3 + 1), dtype=np.uint8)
    rows[:, 1:] = rgb.reshape(height, width * 3)
    repeated = 1 + np.flatnonzero((rows[1:] == rows[:-1]).all(axis=1))
    rows[repeated, 0], rows[repeated, 1:] = 2, 0

    def chunk(kind: bytes, body: bytes) -> bytes:
        size, check = struct.pack(">I", len(body)), struct.pack(">I", zlib.crc32(kind + body))
        return size + kind + body + check

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows.data, 2))
        + chunk(b"IEND", b"")
    )


def plane_of(image: Any, shape: tuple[int, int] | None = None) -> np.ndarray | None:
    """`image` as float32 (None stays None), checked against `shape`."""
    if image is None:
        return None
    plane: np.ndarray = np.asarray(image, dtype=np.float32)
    if plane.ndim != 2 or 0 in plane.shape or (shape is not None and plane.shape != shape):
        raise ValueError(f"a plane has shape {plane.shape}, expected {shape or '(ny, nx)'}")
    return plane


def pixels_of(image: Any, shape: tuple[int, int], dtype: type) -> np.ndarray | None:
    """A mask or label image, checked against `shape`."""
    if image is None:
        return None
    plane: np.ndarray = np.asarray(image).astype(dtype, copy=False)
    if plane.shape != shape:
        raise ValueError(f"a plane has shape {plane.shape}, expected {shape}")
    return plane
