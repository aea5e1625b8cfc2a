"""A PSF from the stars of a frame: find them by their size, shift, normalise and combine them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import sep
from scipy import ndimage

from autofit_ml.errors import InputError
from autofit_ml.images.background import background_map
from autofit_ml.images.psf import centre_psf, core_centroid, fourier_shift
from autofit_ml.images.stamp import PSF, Frame

__all__ = ["find_stars", "psf_from_stars"]

MIN_STARS = 3
MAX_STARS = 100
LOCUS_WIDTH = 0.10
"""Stars have half-light radii within this fraction of each other."""

MIN_SNR = 20.0
MAX_ELLIPTICITY = 0.12
"""Of the weighted moments; half of the true ellipticity of a Gaussian."""

MAX_CONTAMINATION = 0.03
"""Neighbours' light at the star's centre over its peak."""

_REMEDY = "give a PSF plane (<name>_psf.fits), --psf FILE, or --psf-fwhm ARCSEC"


@dataclass(frozen=True)
class _Candidates:
    """Detections of a frame that may be stars (arrays of one length)."""

    x: np.ndarray
    y: np.ndarray
    flux: np.ndarray
    snr: np.ndarray
    r50: np.ndarray
    label: np.ndarray


def find_stars(frame: Frame) -> np.ndarray:
    """Positions of unsaturated, isolated stars.

    Objects with S/N above 20 that are round, off the border, free of bad pixels and of their
    neighbours' light; among them those on the stellar locus: the densest narrow range of core
    sizes, at the smallest size where it is dense.

    Parameters
    ----------
    frame : Frame
        ``psf`` is not used.

    Returns
    -------
    ndarray, shape (n, 3)
        x, y (0-based pixels) and half-light radius, brightest first.
    """
    *_, found = _candidates(frame)
    chosen = _locus(found)
    order = chosen[np.argsort(-found.flux[chosen])]
    return np.stack([found.x[order], found.y[order], found.r50[order]], axis=1)


def psf_from_stars(
    frame: Frame, modes: int = 0, resamples: int = 48
) -> tuple[PSF, tuple[str, ...]]:
    """Build the PSF of a frame from its own stars.

    Each star is cut out, its neighbours masked, moved to the pixel centre by a Fourier shift,
    scaled to the running mean and combined by an inverse-variance weighted, clipped mean. Stars
    that do not look like the mean (galaxies, blends) are dropped and the mean is made again.
    Where the mean is noisy (the wings) its azimuthal average is taken.

    Parameters
    ----------
    frame : Frame
        At least three good stars; the PSF is assumed not to vary over the frame.
    modes : int
        Also measure how uncertain the PSF is: its `modes` largest principal components over
        samples of the stars drawn with replacement (bootstrap). 0: not.
    resamples : int
        Number of samples.

    Returns
    -------
    psf : PSF
        Contains the pixel; ``source`` is "stars".
    messages : tuple of str

    Raises
    ------
    InputError
        Fewer than three good stars (five with `modes`).
    """
    stars, fwhm = _good_stars(frame)
    mean, error, used = _combine(stars, fwhm)
    least = 5 if modes else MIN_STARS
    if used < least:
        raise InputError(f"only {used} stars look alike: no PSF can be built", _REMEDY, frame.file)
    image = _quiet_wings(mean, error)
    psf, _ = centre_psf(image, source="stars", file=frame.file)
    middle = ((psf.data.shape[1] - 1) / 2, (psf.data.shape[0] - 1) / 2)
    width = 2.0 * _core_shape(np.asarray(psf.data, np.float64), *middle)[2]
    messages = [f"PSF built from {used} stars, FWHM {width:.2f} px"]
    if width < 2.0:
        messages.append("the PSF is undersampled: give an oversampled one for good results")
    changes = _resampled_modes(stars, fwhm, modes, resamples) if modes else None
    return PSF(psf.data, True, 1, (0.0, 0.0), "stars", changes), tuple(messages)


def _good_stars(frame: Frame) -> tuple[list[_Star], float]:
    """Cut-outs of the stars of a frame, and their FWHM."""
    data, labels, found = _candidates(frame)
    chosen = _locus(found)
    if chosen.size < MIN_STARS:
        raise InputError(
            f"only {chosen.size} usable stars to build a PSF from", _REMEDY, frame.file
        )
    chosen = chosen[np.argsort(-found.snr[chosen])][:MAX_STARS]
    fwhm = 2.0 * float(np.median(found.r50[chosen]))
    half = int(min(40, max(6, math.ceil(3.5 * fwhm))))
    cuts = [
        _cutout(frame, data, labels, found.x[i], found.y[i], int(found.label[i]), half)
        for i in chosen
    ]
    stars = [cut for cut in cuts if cut is not None]
    if len(stars) < MIN_STARS:
        raise InputError(f"only {len(stars)} usable stars to build a PSF from", _REMEDY, frame.file)
    return stars, fwhm


def _resampled_modes(stars: list[_Star], fwhm: float, modes: int, resamples: int) -> np.ndarray:
    """Largest principal components of the mean over bootstrap samples, (k, h, w) float32."""
    rng = np.random.default_rng(len(stars))
    images = []
    for _ in range(resamples):
        some = [stars[i] for i in rng.integers(0, len(stars), len(stars))]
        mean, error, _ = _combine(some, fwhm)
        image = _quiet_wings(mean, error)
        images.append(image / image.sum())
    every = np.stack(images)
    scatter = (every - every.mean(0)).reshape(resamples, -1) / math.sqrt(resamples - 1)
    _, size, rows = np.linalg.svd(scatter, full_matrices=False)
    k = min(modes, len(size))
    out = (size[:k, None] * rows[:k]).reshape(k, *every.shape[1:])
    return out.astype(np.float32)


def _candidates(frame: Frame) -> tuple[np.ndarray, np.ndarray, _Candidates]:
    """(sky-subtracted data, segmentation, objects that may be stars)."""
    background, _, _ = background_map(frame.data, frame.mask)
    data = np.ascontiguousarray(np.where(frame.mask, 0.0, frame.data - background), np.float64)
    scale = float(np.median(frame.sigma[~frame.mask]))
    data /= scale
    noise = np.ascontiguousarray(np.where(frame.mask, 1.0, frame.sigma / scale), np.float64)
    bad = np.ascontiguousarray(frame.mask)
    try:
        objects, labels = sep.extract(
            data, 4.0, err=noise, mask=bad, minarea=5, segmentation_map=True
        )
    except Exception as error:
        # sep raises bare Exception for a full buffer: a frame without empty sky.
        raise InputError(f"no stars found: {error}", _REMEDY, frame.file) from error
    x, y = np.array(objects["x"]), np.array(objects["y"])
    reach = np.maximum(6.0 * objects["a"], 5.0)
    flux, flux_err, _ = sep.sum_circle(
        data, x, y, 2.5 * np.maximum(objects["a"], 1.0), err=noise, mask=bad
    )
    extent, _ = sep.flux_radius(data, x, y, reach, 0.5, normflux=np.maximum(flux, 1e-9), mask=bad)
    snr = flux / np.maximum(flux_err, 1e-9)
    bright = snr > MIN_SNR
    r50 = np.full(x.size, np.nan)
    roundness = np.ones(x.size)
    for i in np.flatnonzero(bright):
        x[i], y[i], r50[i], roundness[i] = _core_shape(data, x[i], y[i])
    ny, nx = data.shape
    margin = 4.0 * np.maximum(np.nan_to_num(r50, nan=1.0), 1.0)
    inside = (x > margin) & (y > margin) & (x < nx - 1 - margin) & (y < ny - 1 - margin)
    whole = (objects["flag"] & (sep.OBJ_TRUNC | sep.OBJ_SINGU)) == 0
    good = bright & inside & whole & (roundness < MAX_ELLIPTICITY) & (r50 > 0.65)
    for i in np.flatnonzero(good):
        good[i] = not _bad_core(frame.mask, x[i], y[i], 2.0 * r50[i])
        good[i] &= _contamination(int(i), x, y, flux, extent, r50[i]) < MAX_CONTAMINATION
    numbers = np.arange(1, len(objects) + 1)
    return (
        data,
        labels,
        _Candidates(x[good], y[good], flux[good], snr[good], r50[good], numbers[good]),
    )


def _core_shape(data: np.ndarray, x: float, y: float) -> tuple[float, float, float, float]:
    """(x, y, half-light radius, ellipticity) of the Gaussian that matches a core best.

    Adaptive moments with a circular weight (Bernstein & Jarvis 2002, AJ 123, 583): the weight's
    variance is made twice the weighted variance, which is the width of a matched Gaussian. NaN
    for the radius where this does not converge.
    """
    ny, nx = data.shape
    half = 12
    row, column = round(y), round(x)
    y0, y1 = max(0, row - half), min(ny, row + half + 1)
    x0, x1 = max(0, column - half), min(nx, column + half + 1)
    cut = data[y0:y1, x0:x1]
    gy = np.arange(y0, y1, dtype=float)[:, None]
    gx = np.arange(x0, x1, dtype=float)[None, :]
    variance, ellipticity = 2.0, 1.0
    for _ in range(60):
        dx, dy = gx - x, gy - y
        weighted = cut * np.exp(-0.5 * (dx**2 + dy**2) / variance)
        total = float(weighted.sum())
        if total <= 0:
            return x, y, math.nan, 1.0
        step_x = 2.0 * float((weighted * dx).sum()) / total
        step_y = 2.0 * float((weighted * dy).sum()) / total
        xx = float((weighted * dx**2).sum()) / total
        yy = float((weighted * dy**2).sum()) / total
        xy = float((weighted * dx * dy).sum()) / total
        new = xx + yy  # twice the weighted variance per axis
        if max(abs(step_x), abs(step_y)) > 2.0 or not 0.2 < new < 60.0:
            return x, y, math.nan, 1.0
        ellipticity = math.hypot(xx - yy, 2.0 * xy) / new
        x, y = x + step_x, y + step_y
        if abs(new - variance) < 1e-4 * variance and abs(step_x) + abs(step_y) < 1e-3:
            variance = new
            break
        variance = new
    return x, y, 1.1774 * math.sqrt(variance), ellipticity


def _contamination(
    i: int, x: np.ndarray, y: np.ndarray, flux: np.ndarray, extent: np.ndarray, r50: float
) -> float:
    """Neighbours' surface brightness at an object over its own peak (a rough model of both)."""
    distance = np.hypot(x - x[i], y - y[i])
    size = np.maximum(extent, r50)
    light = np.maximum(flux, 0.0) / (2.0 * np.pi * size**2) * (1.0 + (distance / size) ** 2) ** -2
    light[i] = 0.0
    return float(light.sum() / (flux[i] / (2.0 * np.pi * r50**2)))


def _bad_core(mask: np.ndarray, x: float, y: float, radius: float) -> bool:
    ny, nx = mask.shape
    r = math.ceil(radius)
    y0, y1 = max(0, round(y) - r), min(ny, round(y) + r + 1)
    x0, x1 = max(0, round(x) - r), min(nx, round(x) + r + 1)
    return bool(mask[y0:y1, x0:x1].any())


def _locus(found: _Candidates) -> np.ndarray:
    """Indices of the candidates on the stellar locus."""
    if found.r50.size < MIN_STARS:
        return np.arange(found.r50.size)
    size = np.log(found.r50)
    close = np.abs(size[:, None] - size[None, :]) < LOCUS_WIDTH
    # Bright objects tell stars from galaxies better.
    weight = np.minimum(found.snr, 200.0)
    density = close @ weight
    count = close.sum(axis=1)
    dense = (
        (density >= 0.5 * density[count >= MIN_STARS].max())
        if np.any(count >= MIN_STARS)
        else np.zeros(size.size, bool)
    )
    dense &= count >= MIN_STARS
    if not dense.any():
        return np.arange(0)
    seed = np.flatnonzero(dense)[np.argmin(size[dense])]
    # Walk to the local maximum of density, then take the range about it.
    for _ in range(5):
        members = np.abs(size - size[seed]) < LOCUS_WIDTH
        best = np.flatnonzero(members)[np.argmax(density[members])]
        if best == seed or size[best] > size[seed] + LOCUS_WIDTH:
            break
        seed = best
    middle = float(np.average(size[close[seed]], weights=weight[close[seed]]))
    return np.flatnonzero(np.abs(size - middle) < LOCUS_WIDTH)


@dataclass(frozen=True)
class _Star:
    """A star moved to the centre of its cut-out: image, noise and usable pixels."""

    image: np.ndarray
    noise: np.ndarray
    good: np.ndarray


def _cutout(
    frame: Frame,
    data: np.ndarray,
    labels: np.ndarray,
    x: float,
    y: float,
    label: int,
    half: int,
) -> _Star | None:
    """Cut out one star and centre it; None if its core is not clean."""
    ny, nx = data.shape
    column, row = round(x), round(y)
    pad = half + 2
    y0, x0 = row - pad, column - pad
    size = 2 * pad + 1
    ya, yb = max(0, y0), min(ny, y0 + size)
    xa, xb = max(0, x0), min(nx, x0 + size)
    image = np.zeros((size, size))
    noise = np.full((size, size), np.inf)
    good = np.zeros((size, size), bool)
    inner = (slice(ya - y0, yb - y0), slice(xa - x0, xb - x0))
    image[inner] = data[ya:yb, xa:xb]
    scale = float(np.median(frame.sigma[~frame.mask]))
    noise[inner] = frame.sigma[ya:yb, xa:xb] / scale
    other = (labels[ya:yb, xa:xb] != 0) & (labels[ya:yb, xa:xb] != label)
    other = ndimage.binary_dilation(other, iterations=2)
    good[inner] = ~frame.mask[ya:yb, xa:xb] & ~other
    if not good[pad - 1 : pad + 2, pad - 1 : pad + 2].all():
        return None
    mirrored = image[::-1, ::-1]
    fill = np.where(good[::-1, ::-1], mirrored, 0.0)
    image = np.where(good, image, fill)
    cx, cy, _ = core_centroid(image)
    dx, dy = pad - cx, pad - cy
    if max(abs(dx), abs(dy)) > 1.5:
        return None
    image = fourier_shift(image, dx, dy)
    blocked = ndimage.shift((~good).astype(float), (dy, dx), order=1, mode="constant", cval=1.0)
    usable = blocked < 0.05
    grid = np.arange(-pad, pad + 1)
    radius = np.hypot(grid[:, None], grid[None, :])
    ring = usable & (radius > 0.85 * half) & (radius <= half)
    if ring.sum() >= 20:
        local = float(np.median(image[ring]))
        error = 1.2533 * float(np.median(noise[ring])) / math.sqrt(float(ring.sum()))
        if local > 3.0 * error and local > 2e-3 * float(image[pad, pad]):
            image = image - local  # it sits on a neighbour's halo
    keep = (slice(2, -2), slice(2, -2))
    return _Star(image[keep], noise[keep], usable[keep])


def _combine(stars: list[_Star], fwhm: float) -> tuple[np.ndarray, np.ndarray, int]:
    """(mean, its error, number of stars) with the unlike ones dropped."""
    images = np.stack([star.image for star in stars])
    noises = np.stack([star.noise for star in stars])
    goods = np.stack([star.good for star in stars])
    half = images.shape[1] // 2
    grid = np.arange(-half, half + 1)
    radius = np.hypot(grid[:, None], grid[None, :])
    core = radius <= max(2.0, 1.2 * fwhm)
    scale = (images * core).sum(axis=(1, 2))
    use = scale > 0
    mean = np.nanmedian(
        np.where(goods, images / np.where(use, scale, 1.0)[:, None, None], np.nan)[use], axis=0
    )
    mean = np.nan_to_num(mean)
    error = np.zeros_like(mean)
    for _ in range(5):
        # Scale every star to the mean over the core, then judge it there.
        weight = np.where(goods & core, 1.0 / (noises**2), 0.0)
        scale = (weight * images * mean).sum(axis=(1, 2)) / np.maximum(
            (weight * mean**2).sum(axis=(1, 2)), 1e-300
        )
        use = scale > 0
        safe = np.where(use, scale, 1.0)[:, None, None]
        normal = images / safe
        # A floor of 3 % of the local and 0.5 % of the peak light: pixel phase, PSF variation.
        spread = np.sqrt((noises / safe) ** 2 + (0.03 * mean) ** 2 + (0.005 * mean.max()) ** 2)
        pull = np.where(goods & core, (normal - mean) / spread, 0.0)
        quality = (pull**2).sum(axis=(1, 2)) / np.maximum((goods & core).sum(axis=(1, 2)), 1)
        alike = use & (quality < max(3.0, 2.0 * float(np.median(quality[use])) if use.any() else 3))
        if alike.sum() < MIN_STARS:
            return mean, error, int(alike.sum())
        fit = np.where(goods, 1.0 / spread**2, 0.0) * alike[:, None, None]
        fit = np.where(np.abs(normal - mean) < 4.0 * spread, fit, 0.1 * fit)
        total = fit.sum(axis=0)
        new = np.where(total > 0, (fit * normal).sum(axis=0) / np.maximum(total, 1e-300), 0.0)
        error = np.where(total > 0, 1.0 / np.sqrt(np.maximum(total, 1e-300)), np.inf)
        change = float(np.abs(new - mean).max() / max(new.max(), 1e-300))
        mean = new
        if change < 1e-4:
            break
    return mean, error, int(alike.sum())


def _quiet_wings(mean: np.ndarray, error: np.ndarray) -> np.ndarray:
    """Azimuthal average where a pixel's own S/N is below 3, smoothly joined, never negative."""
    half = mean.shape[0] // 2
    grid = np.arange(-half, half + 1)
    radius = np.hypot(grid[:, None], grid[None, :])
    bins = np.rint(radius).astype(int)
    weight = np.where(np.isfinite(error) & (error > 0), 1.0 / np.maximum(error, 1e-300) ** 2, 0.0)
    total = np.bincount(bins.ravel(), weights=weight.ravel())
    light = np.bincount(bins.ravel(), weights=(weight * mean).ravel())
    ring = light / np.maximum(total, 1e-300)
    ring_error = 1.0 / np.sqrt(np.maximum(total, 1e-300))
    faint = np.flatnonzero(ring < 3.0 * ring_error)
    end = int(faint[0]) if faint.size else ring.size
    ring[end:] = 0.0
    ring = np.minimum.accumulate(np.maximum(ring, 0.0))
    smooth = np.interp(radius, np.arange(ring.size), ring)
    snr = np.where(np.isfinite(error) & (error > 0), smooth / np.maximum(error, 1e-300), 0.0)
    own = np.clip((snr - 1.5) / 3.0, 0.0, 1.0)
    return np.maximum(own * mean + (1.0 - own) * smooth, 0.0)
