"""Light on pixels.

**Known-PSF rule.** A source is convolved with exactly the PSF *image* that is handed over, read
as the band-limited (sinc-interpolated) function through its pixel values, which is what a Fourier
renderer means by multiplying with the image's discrete transform. So a fit of the right model can
be exact.

A source is drawn as the inverse discrete transform of (GalSim's transform of each profile) x (the
transform of the PSF image) x (the pixel, where the PSF lacks it), on a grid of N pixels a side. N
is so large that only `DrawAccuracy.folding` of a galaxy's light lies outside; that rest appears
spread over the whole field, and its mean is taken out again. `tests/simulation` compares with a
direct inverse transform on 2048 and 4096 pixels.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import fft
from scipy.special import j0

from autofit_ml.images.stamp import PSF
from autofit_ml.measure import centre_distance
from autofit_ml.profiles.sersic import sersic_b, sersic_flux_within, sersic_intensity_at_re
from autofit_ml.simulation.sources import Component, Source, along_axes, require_galsim

__all__ = ["EXACT", "FAST", "DrawAccuracy", "draw_box", "extent", "render_source"]


@dataclass(frozen=True)
class DrawAccuracy:
    """Accuracy of the drawn light.

    Attributes
    ----------
    folding : float
        Largest fraction of a galaxy's light outside the transform's field.
    margin : float
        Smallest field, in units of image + PSF sides; up to five times larger for small sources
        in undersampled PSFs, whose images ring.
    largest : int
        Largest field, pixels (a warning level for memory: 4096 takes 0.3 GB).
    """

    folding: float = 3e-3
    margin: float = 1.3
    largest: int = 2048


FAST = DrawAccuracy()
"""For training sets: good to 3e-5 of the peak."""

EXACT = DrawAccuracy(folding=3e-4, margin=3.0, largest=6144)
"""For known answers: good to 1e-5 of the peak (4e-5 for needles thinner than a tenth of a pixel,
where GalSim's table is)."""


def render_source(
    source: Source, psf: PSF, shape: tuple[int, int], accuracy: DrawAccuracy = EXACT
) -> np.ndarray:
    """The noise-free image of one source without sky.

    Parameters
    ----------
    source : Source
    psf : PSF
        Any oversampling, with or without the pixel.
    shape : tuple of int
        (ny, nx) of the image.
    accuracy : DrawAccuracy, optional

    Returns
    -------
    ndarray, float64, shape (ny, nx)
        Image units; the sum is below ``source.flux`` by the light outside the stamp.
    """
    return draw_box(source, psf, (0, 0), shape, accuracy)


def draw_box(
    source: Source,
    psf: PSF,
    origin: tuple[int, int],
    shape: tuple[int, int],
    accuracy: DrawAccuracy = FAST,
) -> np.ndarray:
    """`render_source` on a box of the image: `origin` is the (y, x) of its first pixel."""
    x, y = source.x - origin[1], source.y - origin[0]
    if source.is_star and psf.has_pixel:
        return source.flux * _sinc_shifted(psf, x, y, shape)
    parts = source.parts or (Component("point", source.flux, 0.0),)
    s = psf.oversampling
    # The field is as wide as the box and the PSF beyond the source on either side.
    reach = 2 * max(abs(x - (shape[1] - 1) / 2), abs(y - (shape[0] - 1) / 2))
    least = accuracy.margin * (max(shape) + max(psf.data.shape) / s) + reach
    if any(part.kind != "image" and part.re * part.q < 2 for part in parts):
        # The transform does not end within the band: the image rings, and falls off slowly.
        least *= 1 + 4 * min(1.0, _at_the_band_edge(psf) / 0.02)
    size = max(least, *(_field(part, accuracy.folding) for part in parts))
    # Odd: an even length has one-sided frequencies at the border of the band.
    n = _fast_odd_length(math.ceil(min(size, max(accuracy.largest, least))))
    grid = _Grid(n, s)
    spectrum = np.zeros(grid.shape, dtype=complex)
    folded = 0.0
    for part in parts:
        spectrum += _transform(part, grid)
        folded += _light_outside(part, n)
    spectrum *= _psf_transform(psf, n)
    spectrum *= np.exp(-1j * (grid.ky * y))[:, None]
    spectrum *= np.exp(-1j * (grid.kx * x))[None, :]
    # Every s-th sample of the fine grid, for the rows and columns of the box alone.
    rows = fft.ifft(spectrum, axis=0, overwrite_x=True)[: shape[0] * s : s]
    image = fft.irfft(rows, n=n * s, axis=1)[:, : shape[1] * s : s] * s**2
    return image - folded / n**2


def extent(source: Source, psf: PSF, level: float) -> float:
    """Radius (pixels) beyond which a source is fainter than `level` per pixel everywhere."""
    if source.is_star:
        return _star_extent(source.flux, psf, level)
    reach = least = 0.0
    for part in source.parts:
        if part.kind == "point":
            least = _star_extent(part.flux, psf, level)
            continue
        if part.kind == "image":
            reach = max(reach, part.reach)
            continue
        if part.kind == "ring":
            reach = max(reach, part.re + 4 * part.knot_sigma)
            continue
        if part.kind == "knots" and part.offsets is not None:
            reach = max(reach, float(np.hypot(*part.offsets[:, :2].T).max()) + 4 * part.knot_sigma)
            continue
        peak = sersic_intensity_at_re(part.flux, part.re, part.n, part.q)
        contrast = np.log(max(float(peak), 1e-300) * (1 + part.amplitude) / level)
        b = float(sersic_b(part.n))
        # I(r) = I_e exp(-b ((r / re)^(1/n) - 1)) falls to the level at:
        reach = max(reach, part.re * max(1 + contrast / b, 0.0) ** part.n)
    return max(reach + _psf_reach(psf), least)


def _star_extent(flux: float, psf: PSF, level: float) -> float:
    half = 0.5 * max(psf.data.shape) / psf.oversampling
    bright = np.flatnonzero(_psf_envelope(psf) * flux > level)
    return float(min(half, (bright[-1] + 2) if bright.size else 1))


def _fast_odd_length(n: int) -> int:
    """Smallest odd number >= n that the FFT handles fast."""
    n |= 1
    while fft.next_fast_len(n) != n:
        n += 2
    return n


class _Grid:
    """Frequencies of the inverse transform: (n s) rows, half as many columns."""

    def __init__(self, n: int, oversampling: int) -> None:
        self.n, self.s = n, oversampling
        fine = n * oversampling
        self.ky = 2 * np.pi * fft.fftfreq(fine, 1 / fine) / n
        self.kx = 2 * np.pi * np.arange(fine // 2 + 1) / n
        self.shape = (fine, fine // 2 + 1)


def _field(part: Component, folding: float) -> float:
    """Side of the field outside which a fraction `folding` of the light lies, pixels."""
    if part.kind == "point":
        return 0.0
    if part.kind == "image":
        return 2.5 * part.reach
    if part.kind == "ring":
        return 2.2 * part.re + 10 * part.knot_sigma
    if part.kind == "knots" and part.offsets is not None:
        return 2.2 * float(abs(part.offsets[:, :2]).max()) + 10 * part.knot_sigma
    return 2 * part.re * _radius_holding(1 - folding, part.n)


@functools.lru_cache(maxsize=4096)
def _radius_holding(fraction: float, n: float) -> float:
    from scipy.special import gammaincinv

    return float((gammaincinv(2 * n, fraction) / sersic_b(n)) ** n)


def _light_outside(part: Component, n: int) -> float:
    """Flux of a part beyond the field (a circle of its area): it folds back into the image."""
    if part.kind in ("point", "knots", "ring", "spiral", "image"):
        return 0.0
    radius = n / math.sqrt(math.pi) / (part.re * math.sqrt(part.q))
    return part.flux * float(1 - sersic_flux_within(radius, part.n))


def _transform(part: Component, grid: _Grid) -> np.ndarray:
    """Transform of one part about the source's centre, shape ``grid.shape``."""
    galsim = require_galsim()
    if part.kind == "point":
        return np.full(grid.shape, part.flux, dtype=complex)
    if part.kind == "knots":
        return _knots_transform(part, grid)
    if part.kind == "ring":
        return _ring_transform(part, grid)
    if part.kind == "spiral":
        return _spiral_transform(part, grid)
    if part.kind == "image":
        return _drawn_transform(part.profile, grid)
    accuracy = _gsparams(part.n)
    # GalSim's angles are counter-clockwise from +x, ours from +y.
    angle = (part.pa + 90.0) * galsim.degrees
    if part.kind == "disc":
        sine2 = (1 - part.q**2) / max(1 - part.thickness**2, 1e-9)
        inclination = math.asin(math.sqrt(min(max(sine2, 0.0), 1.0)))
        profile = galsim.InclinedExponential(
            inclination=inclination * galsim.radians,
            scale_radius=part.re / 1.6783469900166605,
            scale_h_over_r=max(part.thickness, 1e-3),
            flux=part.flux,
            gsparams=accuracy,
        ).rotate(angle)
    else:
        radius = part.re * math.sqrt(part.q)
        if part.n == 0.5:  # the same profile; GalSim's Sersic table errs by 7e-5 of the peak here
            profile = galsim.Gaussian(half_light_radius=radius, flux=part.flux, gsparams=accuracy)
        else:
            profile = galsim.Sersic(
                n=part.n, half_light_radius=radius, flux=part.flux, gsparams=accuracy
            )
        profile = profile.shear(q=part.q, beta=angle)
    return _drawn_transform(profile, grid)


def _drawn_transform(profile, grid: _Grid) -> np.ndarray:
    """GalSim's transform of a profile at the grid's frequencies."""
    galsim = require_galsim()
    fine = grid.n * grid.s
    low = -((fine - 1) // 2) - (1 - fine % 2)
    image = galsim.ImageCD(fine // 2 + 1, fine, xmin=0, ymin=low)
    profile.drawKImage(image, scale=2 * np.pi / grid.n, recenter=False)
    return fft.ifftshift(image.array, axes=0)


@functools.lru_cache(maxsize=128)
def _gsparams(n: float):
    """GalSim's accuracy for a Sérsic index.

    Its table ends where the transform falls to `kvalue_accuracy`. Low indices fall fast, and a
    table cut at 1e-6 leaves errors of 1e-3 of the peak for re = 30 pixels; high indices fall
    slowly, and their tables take seconds at 1e-10.
    """
    accuracy = 1e-10 if n < 1.3 else 1e-8 if n < 2.5 else 1e-6
    return require_galsim().GSParams(kvalue_accuracy=accuracy, maximum_fft_size=16384)


def _knots_transform(part: Component, grid: _Grid) -> np.ndarray:
    """Sum of shifted Gaussians: separable phases."""
    assert part.offsets is not None
    dx, dy, share = part.offsets.T
    along_y = np.exp(-1j * np.outer(grid.ky, dy) - 0.5 * (part.knot_sigma * grid.ky[:, None]) ** 2)
    along_x = np.exp(-1j * np.outer(dx, grid.kx) - 0.5 * (part.knot_sigma * grid.kx) ** 2)
    return (along_y * (part.flux * share)) @ along_x


def _ring_transform(part: Component, grid: _Grid) -> np.ndarray:
    """A circle in the plane of the disc, as wide as a Gaussian: J0(k re) times the Gaussian's."""
    major, minor = along_axes(grid.kx[None, :], grid.ky[:, None], part.pa)
    k = np.hypot(major, minor * part.q)
    return part.flux * j0(k * part.re) * np.exp(-0.5 * (k * part.knot_sigma) ** 2) + 0j


def _spiral_transform(part: Component, grid: _Grid, finer: int = 2) -> np.ndarray:
    """A thin exponential disc with two log-spiral arms, sampled `finer` times a pixel.

    The galaxy *is* the band-limited function through these samples, of total flux 1.
    """
    step = max(finer, grid.s)
    fine = grid.n * step
    offset = fft.fftfreq(fine, 1 / fine) / step
    major, minor = along_axes(offset[None, :], offset[:, None], part.pa)
    minor = minor / part.q
    scale = part.re / 1.6783469900166605
    radius = np.hypot(major, minor)
    azimuth = np.arctan2(minor, major)
    arms = np.cos(
        2 * azimuth
        - 2 * np.log(np.maximum(radius, 0.05 * scale) / scale) / np.tan(np.deg2rad(part.pitch))
        + np.deg2rad(part.phase)
    )
    # No arms inside half a scale length, where they would wind up within a pixel.
    strength = part.amplitude * (1 - np.exp(-((radius / (0.5 * scale)) ** 2)))
    light = np.exp(-radius / scale) * (1 + strength * arms)
    full = fft.rfft2(light * (part.flux / light.sum()))
    rows, columns = grid.shape
    half = rows // 2
    kept = np.empty(grid.shape, dtype=complex)
    upper = rows - half
    kept[:upper] = full[:upper, :columns]
    kept[upper:] = full[fine - half :, :columns]
    return kept


class _Identity:
    """A PSF as a key of a cache: two are the same when they are one object."""

    def __init__(self, psf: PSF) -> None:
        self.psf = psf

    def __hash__(self) -> int:
        return id(self.psf)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Identity) and self.psf is other.psf


def _kept_per_psf(function: Callable) -> Callable:
    """Keep the answers of a function for the last PSFs that it was asked about."""
    kept = functools.lru_cache(maxsize=12)(lambda key, *others: function(key.psf, *others))
    return functools.wraps(function)(lambda psf, *others: kept(_Identity(psf), *others))


@_kept_per_psf
def _psf_transform(psf: PSF, n: int) -> np.ndarray:
    """Discrete transform of the PSF image about its centre, with the pixel where it lacks it."""
    grid = _Grid(n, psf.oversampling)
    s = psf.oversampling
    height, width = psf.data.shape
    fine = grid.shape[0]
    data = np.asarray(psf.data, dtype=float)
    if fine < max(height, width):
        raise ValueError(f"a field of {fine} PSF pixels is smaller than the PSF's {data.shape}")
    transform = fft.rfft2(data, s=(fine, fine))
    transform *= np.exp(1j * grid.ky / s * ((height - 1) / 2))[:, None]
    transform *= np.exp(1j * grid.kx / s * ((width - 1) / 2))[None, :]
    if not psf.has_pixel:
        transform *= np.sinc(grid.ky / (2 * np.pi))[:, None] * np.sinc(grid.kx / (2 * np.pi))
    return transform


@_kept_per_psf
def _at_the_band_edge(psf: PSF) -> float:
    """Largest absolute transform of a PSF image at its own Nyquist frequencies."""
    data = np.asarray(psf.data, dtype=float)
    signs_y = (-1.0) ** np.arange(data.shape[0])
    signs_x = (-1.0) ** np.arange(data.shape[1])
    edges = fft.fft(signs_y @ data), fft.fft(data @ signs_x)
    return float(max(np.abs(edge).max() for edge in edges))


def _sinc_shifted(psf: PSF, x: float, y: float, shape: tuple[int, int]) -> np.ndarray:
    """The band-limited function through the PSF's pixels, centred at (x, y), at pixel centres."""
    height, width = psf.data.shape
    rows = (np.arange(shape[0]) - y)[:, None] * psf.oversampling - np.arange(height)
    columns = (np.arange(shape[1]) - x)[:, None] * psf.oversampling - np.arange(width)
    return (
        np.sinc(rows + (height - 1) / 2)
        @ np.asarray(psf.data, dtype=float)
        @ np.sinc(columns + (width - 1) / 2).T
    ) * psf.oversampling**2


@_kept_per_psf
def _psf_envelope(psf: PSF) -> np.ndarray:
    """Largest PSF value (per image pixel) at or beyond each whole radius, image pixels."""
    data = np.abs(psf.data) * psf.oversampling**2
    radius = centre_distance(psf.data.shape) / psf.oversampling
    rings = np.zeros(int(radius.max()) + 2)
    np.maximum.at(rings, radius.astype(int).ravel(), data.ravel())
    return np.maximum.accumulate(rings[::-1])[::-1]


@_kept_per_psf
def _psf_reach(psf: PSF) -> float:
    """Radius that holds 98 % of a PSF's light, pixels."""
    data = np.abs(np.asarray(psf.data, dtype=float))
    radius = (centre_distance(psf.data.shape) / psf.oversampling).ravel()
    order = np.argsort(radius)
    cumulative = np.cumsum(data.ravel()[order])
    return float(radius[order][np.searchsorted(cumulative, 0.98 * cumulative[-1])]) + 1.0
