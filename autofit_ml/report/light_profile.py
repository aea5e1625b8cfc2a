"""The radial profile beside the panels of a preview: data, model and PSF in elliptical rings."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from autofit_ml.images.stamp import PSF
from autofit_ml.report.captions import FAINT_TEXT, RGB, TEXT, font_of, number_of, suffixes_of

__all__ = ["DATA_COLOUR", "MODEL_COLOUR", "PSF_COLOUR", "LightProfile", "light_profile"]

DATA_COLOUR: RGB = TEXT
MODEL_COLOUR: RGB = (64, 224, 208)
PSF_COLOUR: RGB = (255, 176, 70)
_FRAME = (70, 75, 84)
_GROWTH = 1.12
_REACH = 6.0
"""Largest radius in units of the half-light radius."""

_LEAST_REACH, _MOST_REACH = 12.0, 250.0
"""Pixels."""

_LEFT, _BOTTOM = 62, 46
"""Room for the numbers at the axes, screen pixels."""


@dataclass(frozen=True)
class LightProfile:
    """Mean light in rings.

    Attributes
    ----------
    radius : ndarray, shape (n,)
        Semi-major axis, pixels.
    data, error, model : ndarray, shape (n,)
        Image units per pixel, without sky and neighbours.
    psf_radius, psf : ndarray, shape (m,)
        A point source of the same flux; empty where the PSF is not known.
    half_light : float
        Half-light radius of the largest component, pixels; NaN for a point source.
    """

    radius: np.ndarray
    data: np.ndarray
    error: np.ndarray
    model: np.ndarray
    psf_radius: np.ndarray
    psf: np.ndarray
    half_light: float

    def drawn(self, size: tuple[int, int], pixel_scale: float, zeropoint: float) -> Image.Image:
        """The profile as a picture.

        Parameters
        ----------
        size : tuple of int
            Width and height, screen pixels.
        pixel_scale, zeropoint : float
            Where both are known, brightness is in magnitudes per square arcsecond, else it is
            the logarithm of image units; radii are in arcsec where the scale is known.
        """
        scaled = math.isfinite(pixel_scale) and pixel_scale > 0
        unit = pixel_scale if scaled else 1.0
        in_magnitudes = scaled and math.isfinite(zeropoint)

        def height(values: np.ndarray) -> np.ndarray:
            with np.errstate(invalid="ignore", divide="ignore"):
                logarithm = np.log10(values)
            return (
                zeropoint - 2.5 * (logarithm - 2 * math.log10(unit)) if in_magnitudes else logarithm
            )

        brightest = max(float(np.nanmax(line, initial=0.0)) for line in (self.data, self.model))
        floor = max(float(np.nanmin(self.error)) / 2, brightest * 1e-5)
        ends = height(np.array([floor, brightest * 1.6]))
        canvas = Image.new("RGB", size, (26, 28, 33))
        plot = _Axes(canvas, (0.0, float(self.radius[-1]) * unit * 1.03), (ends[0], ends[1]))
        plot.numbers("radius (″)" if scaled else "radius (px)",
                     "mag / arcsec²" if in_magnitudes else "log₁₀ light / pixel")  # fmt: skip
        if math.isfinite(self.half_light):
            plot.line(np.full(2, self.half_light * unit), ends, _FRAME, dashed=True)
        plot.line(self.psf_radius * unit, height(self.psf), PSF_COLOUR, dashed=True)
        plot.line(self.radius * unit, height(self.model), MODEL_COLOUR)
        low, high = self.data - self.error, self.data + self.error
        bars = height(np.stack([np.maximum(low, floor), self.data, high]))
        plot.points(self.radius * unit, bars, DATA_COLOUR)
        return canvas


def light_profile(
    data: np.ndarray,
    light: np.ndarray,
    others: np.ndarray,
    sigma: np.ndarray,
    mask: np.ndarray | None,
    psf: PSF | None,
    row: Mapping[str, Any],
    origin: tuple[int, int],
) -> LightProfile | None:
    """Measure data and model in rings shaped like the target's largest component.

    Pixels belong to the ring their centres lie in: quick, and good enough to look at
    (`autofit_ml.radial_profile` integrates over the rings).

    Parameters
    ----------
    data, light, others, sigma : ndarray, shape (ny, nx)
        Image, model of the target alone, everything else in the model (sky, neighbours), noise.
    mask : ndarray of bool, shape (ny, nx), or None
        True = not used.
    psf : PSF or None
    row : mapping
        The object's catalogue row.
    origin : tuple of int
        (x0, y0) of the first pixel in the row's pixels.

    Returns
    -------
    LightProfile or None
        None where the row has no position, or no good pixel is near it.
    """
    components = suffixes_of(row)
    if not components:
        return None
    sizes = [number_of(row, f"re{end}") for end in components]
    known = [size if math.isfinite(size) else 0.0 for size in sizes]
    end = components[int(np.argmax(known))]
    re, q, pa = (number_of(row, f"{name}{end}") for name in ("re", "q", "pa"))
    if not (math.isfinite(re) and math.isfinite(q) and q > 0 and math.isfinite(pa)):
        re, q, pa = math.nan, 1.0, 0.0
    x, y = number_of(row, f"x{end}") - origin[0], number_of(row, f"y{end}") - origin[1]
    reach = _LEAST_REACH if math.isnan(re) else min(max(_REACH * re, _LEAST_REACH), _MOST_REACH)
    ny, nx = data.shape
    window = (
        slice(max(0, math.floor(y - reach)), min(ny, math.ceil(y + reach) + 1)),
        slice(max(0, math.floor(x - reach)), min(nx, math.ceil(x + reach) + 1)),
    )
    values, model, noise = data[window] - others[window], light[window], sigma[window]
    if 0 in values.shape:
        return None
    dy = np.arange(*window[0].indices(ny)[:2])[:, None] - np.float32(y)
    dx = np.arange(*window[1].indices(nx)[:2]) - np.float32(x)
    s, c = math.sin(math.radians(pa)), math.cos(math.radians(pa))
    radius = np.hypot(dy * c - dx * s, (dx * c + dy * s) / np.float32(q))
    good = (radius < reach) & np.isfinite(values) & np.isfinite(noise) & (noise > 0)
    if mask is not None:
        good &= ~mask[window]
    edges = _edges(reach)
    number, means = _ring_means(
        radius[good], edges, radius[good], values[good], noise[good] ** 2, model[good]
    )
    if len(number) < 3:
        return None
    psf_radius, flux = np.empty(0), sum(number_of(row, f"flux{end}") for end in components)
    psf_light = np.empty(0)
    if psf is not None and math.isfinite(flux):
        h, w = psf.data.shape
        away = np.hypot(np.arange(h)[:, None] - (h - 1) / 2, np.arange(w) - (w - 1) / 2)
        away = away.astype(np.float32) / psf.oversampling
        _, (psf_radius, psf_light) = _ring_means(
            away.ravel(), edges, away.ravel(), psf.data.ravel()
        )
        psf_light = psf_light * flux * psf.oversampling**2
    return LightProfile(
        means[0], means[1], np.sqrt(means[2] / number), means[3], psf_radius, psf_light, re
    )


def _edges(reach: float) -> np.ndarray:
    """Borders of rings: steps of a pixel, growing outwards."""
    edges = [0.0, 0.71]
    while edges[-1] < reach:
        edges.append(max(edges[-1] + 1.0, edges[-1] * _GROWTH))
    return np.array(edges)


def _ring_means(
    radius: np.ndarray, edges: np.ndarray, *planes: np.ndarray
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Pixels in each ring that has any, and the means of some planes over them."""
    ring = np.searchsorted(edges, radius, side="right") - 1
    number = np.bincount(ring, minlength=len(edges))[: len(edges) - 1]
    there = number > 0
    sums = (np.bincount(ring, plane, len(edges))[: len(edges) - 1] for plane in planes)
    return number[there], [total[there] / number[there] for total in sums]


class _Axes:
    """A frame in a picture, and lines and points in its coordinates."""

    def __init__(self, canvas: Image.Image, across: tuple[float, float], up: tuple[float, float]):
        self.canvas, self.draw = canvas, ImageDraw.Draw(canvas)
        self.across, self.up = across, up
        self.box = (_LEFT, 10, canvas.width - 10, canvas.height - _BOTTOM)

    def place(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        left, top, right, bottom = self.box
        fx = (np.asarray(x) - self.across[0]) / (self.across[1] - self.across[0])
        fy = (np.asarray(y) - self.up[0]) / (self.up[1] - self.up[0])
        return left + fx * (right - left), bottom - fy * (bottom - top)

    def numbers(self, across: str, up: str) -> None:
        """Frame, numbers and names of the axes."""
        left, top, right, bottom = self.box
        small = font_of(16)
        for value in _ticks(*self.across):
            x = float(self.place(np.array(value), np.array(self.up[0]))[0])
            self.draw.line((x, bottom, x, top), fill=(44, 48, 55))
            self.draw.text((x, bottom + 5), f"{value:g}", font=small, fill=FAINT_TEXT, anchor="mt")
        for value in _ticks(*sorted(self.up)):
            y = float(self.place(np.array(self.across[0]), np.array(value))[1])
            self.draw.line((left, y, right, y), fill=(44, 48, 55))
            self.draw.text((left - 6, y), f"{value:g}", font=small, fill=FAINT_TEXT, anchor="rm")
        self.draw.rectangle(self.box, outline=_FRAME)
        self.draw.text(
            ((left + right) / 2, bottom + 24), across, font=small, fill=FAINT_TEXT, anchor="mt"
        )
        self.draw.text((right - 6, top + 6), up, font=small, fill=FAINT_TEXT, anchor="rt")

    def line(self, x: np.ndarray, y: np.ndarray, colour: RGB, *, dashed: bool = False) -> None:
        """A smooth line, cut off at the frame."""
        px, py = self.place(x, y)
        points = [(float(a), float(b)) for a, b in zip(px, py, strict=True) if math.isfinite(a + b)]
        if dashed:
            points = _spread(points)
        left, top, right, bottom = self.box
        fine, ink = 2, Image.new("L", (2 * (right - left), 2 * (bottom - top)))
        pen = ImageDraw.Draw(ink)
        moved = [((a - left) * fine, (b - top) * fine) for a, b in points]
        if dashed:
            for k in range(0, len(moved) - 1, 2):
                pen.line(moved[k : k + 2], fill=255, width=2 * fine)
        elif len(moved) > 1:
            pen.line(moved, fill=255, width=5)
        self.canvas.paste(colour, (left, top), ink.reduce(fine))

    def points(self, x: np.ndarray, bars: np.ndarray, colour: RGB) -> None:
        """Points with error bars; bars: lower end, value, upper end, shape (3, n)."""
        px, py = self.place(x, bars)
        left, top, right, bottom = self.box
        for a, low, mid, high in zip(np.broadcast_to(px, py.shape)[0], *py, strict=True):
            if math.isfinite(high) and math.isfinite(low):
                ends = (max(high, top), min(low, bottom))
                if ends[0] < ends[1]:
                    self.draw.line((a, ends[0], a, ends[1]), fill=colour, width=2)
            if math.isfinite(mid) and top <= mid <= bottom:
                self.draw.ellipse((a - 4, mid - 4, a + 4, mid + 4), fill=colour)


def _spread(points: Sequence[tuple[float, float]], step: float = 7.0) -> list[tuple[float, float]]:
    """Points `step` apart along a line."""
    if len(points) < 2:
        return []
    line = np.array(points)
    along = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(line, axis=0).T))])
    places = np.arange(0.0, along[-1], step)[:400]
    return [
        (float(a), float(b))
        for a, b in zip(*(np.interp(places, along, axis) for axis in line.T), strict=True)
    ]


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers in a range, two to seven of them."""
    rough = (high - low) / 2.5
    power = 10.0 ** math.floor(math.log10(rough))
    step = max(power * m for m in (1, 2, 5) if power * m <= rough)
    return [round(k * step, 10) for k in range(math.ceil(low / step), math.floor(high / step) + 1)]
