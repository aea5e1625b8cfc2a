"""A PSF from the stars of a frame: find them by their size, shift, normalise and combine them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import sep
from astropy.nddata import extract_array
from scipy import ndimage

from autofit_ml.errors import InputError
from autofit_ml.measure.background import background_map
from autofit_ml.measure.moments import adaptive_moments
from autofit_ml.measure.psf import centre_distance, core_centroid, fourier_shift

__all__ = [
    "Candidates",
    "Star",
    "StarStack",
    "find_stars",
    "is_galaxy",
    "quiet_wings",
    "stack_candidates",
    "stack_stars",
    "star_candidates",
    "star_cutouts",
    "stellar_locus",
]

MIN_STARS = 3
MAX_STARS = 100
LOCUS_WIDTH = 0.10
"""Stars have half-light radii within this fraction of each other."""

MIN_SNR = 20.0
MAX_ELLIPTICITY = 0.24
"""(a^2 - b^2) / (a^2 + b^2) of the matched Gaussian."""

MAX_VARIANCE = 60.0
"""Of the matched Gaussian, pixels^2; objects that large are no stars."""

MAX_CONTAMINATION = 0.03
"""Neighbours' light at the star's centre over its peak."""

_BROAD, _LEAST_CORE, _LEAST_NARROW_CORE = 3.0, 0.7, 0.57
"""Radius at half of the peak, pixels, above which a mean of stars is broad, and least of that
radius over the half-light radius for broad ones and others: `is_galaxy`."""

_REMEDY = "give a PSF plane (<name>_psf.fits), --psf FILE, or --psf-fwhm ARCSEC"


@dataclass(frozen=True)
class Candidates:
    """Objects of an image that may be stars.

    Attributes
    ----------
    flat, noise : ndarray, float64, shape (ny, nx)
        Image without its sky, and its noise; unit: the median noise.
    mask : ndarray of bool, shape (ny, nx)
    labels : ndarray of int, shape (ny, nx)
        Segmentation.
    found : recarray
        x, y, flux, snr, r50 (half-light radius), e1, e2 (ellipticity of the matched Gaussian),
        label.
    """

    flat: np.ndarray
    noise: np.ndarray
    mask: np.ndarray
    labels: np.ndarray
    found: np.recarray


@dataclass(frozen=True)
class StarStack:
    """Mean image of stars.

    Attributes
    ----------
    image : ndarray, float64, shape (h, w)
        Centred on its middle pixel, never negative; any sum.
    modes : ndarray, float32, shape (k, h, w), or None
        Its changes by one standard deviation of k independent parameters.
    number : int
        Stars that went into it.
    """

    image: np.ndarray
    modes: np.ndarray | None
    number: int


def find_stars(data: np.ndarray, sigma: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Positions of unsaturated, isolated stars.

    Objects with S/N above 20 that are round, off the border, free of bad pixels and of their
    neighbours' light; among them those on the stellar locus: the densest narrow range of core
    sizes, at the smallest size where it is dense.

    Parameters
    ----------
    data, sigma : ndarray, shape (ny, nx)
        Image and its 1-sigma noise, same units.
    mask : ndarray of bool, shape (ny, nx)
        True = do not use.

    Returns
    -------
    ndarray, shape (n, 3)
        x, y (0-based pixels) and half-light radius, brightest first.

    Raises
    ------
    InputError
        The image has no empty sky.
    """
    found = star_candidates(data, sigma, mask).found
    chosen = stellar_locus(found)
    order = chosen[np.argsort(-found.flux[chosen])]
    return np.stack([found.x[order], found.y[order], found.r50[order]], axis=1)


def stack_stars(
    data: np.ndarray, sigma: np.ndarray, mask: np.ndarray, *, modes: int = 0, resamples: int = 48
) -> StarStack:
    """Mean image of the stars of a frame.

    Each star is cut out, its neighbours masked, moved to the pixel centre by a Fourier shift,
    scaled to the running mean and combined by an inverse-variance weighted, clipped mean. Stars
    that do not look like the mean (galaxies, blends) are dropped and the mean is made again.
    Where the mean is noisy (the wings) its azimuthal average is taken.

    Parameters
    ----------
    data, sigma, mask
        As for `find_stars`; at least three good stars, whose shape is taken to be the same all
        over the frame.
    modes : int
        Also measure how uncertain the mean is: its `modes` largest principal components over
        samples of the stars drawn with replacement (bootstrap). 0: not.
    resamples : int
        Number of samples.

    Raises
    ------
    InputError
        Fewer than three good stars (five with `modes`).
    """
    return stack_candidates(star_candidates(data, sigma, mask), modes=modes, resamples=resamples)


def stack_candidates(candidates: Candidates, *, modes: int = 0, resamples: int = 48) -> StarStack:
    """Mean image of the stars among candidates; see `stack_stars`."""
    stars, fwhm = _good_stars(candidates)
    mean, error, used = _combine(stars, fwhm)
    if used < (5 if modes else MIN_STARS):
        raise InputError(f"only {used} stars look alike: no PSF can be built", _REMEDY)
    image = quiet_wings(mean, error)
    if is_galaxy(image):
        raise InputError(
            f"the {used} objects that look alike are galaxies: broad, with a sharp middle", _REMEDY
        )
    changes = _resampled_modes(stars, fwhm, modes, resamples) if modes else None
    return StarStack(image, changes, used)


def is_galaxy(image: np.ndarray) -> bool:
    """True if a mean image has most of its light outside half of its peak.

    The radius at half of the peak over that of half of the light is 1 for a Gaussian, 0.74 for a
    Moffat profile of beta 2.5, 0.6 for the sharpest images of space telescopes, 0.41 for an
    exponential disc, and below 0.5 for bulges of any size in any seeing.
    """
    half = image.shape[0] // 2
    middle = np.array([float(half)])
    total = np.array([image.sum()])
    r50 = float(sep.flux_radius(image, middle, middle, middle, 0.5, normflux=total)[0][0])
    rings = np.rint(centre_distance(image.shape)).astype(int).ravel()
    profile = np.bincount(rings, image.ravel()) / np.bincount(rings) / image.max()
    k = int(np.argmax(profile < 0.5))
    core = k - 1 + (profile[k - 1] - 0.5) / (profile[k - 1] - profile[k])
    return core < (_LEAST_CORE if core > _BROAD else _LEAST_NARROW_CORE) * r50


def _good_stars(candidates: Candidates) -> tuple[list[Star], float]:
    """Cut-outs of the stars of a frame, and their FWHM."""
    chosen = stellar_locus(candidates.found)
    if chosen.size < MIN_STARS:
        raise InputError(f"only {chosen.size} usable stars to build a PSF from", _REMEDY)
    chosen = chosen[np.argsort(-candidates.found.snr[chosen])][:MAX_STARS]
    stars, fwhm = star_cutouts(candidates, chosen)
    if len(stars) < MIN_STARS:
        raise InputError(f"only {len(stars)} usable stars to build a PSF from", _REMEDY)
    return stars, fwhm


def star_cutouts(candidates: Candidates, chosen: np.ndarray) -> tuple[list[Star], float]:
    """Cut-outs of the chosen candidates whose cores are clean, and their median FWHM, pixels."""
    found = candidates.found
    fwhm = 2.0 * float(np.median(found.r50[chosen]))
    half = int(min(40, max(6, math.ceil(3.5 * fwhm))))
    cuts = [_cutout(candidates, int(i), half) for i in chosen]
    return [cut for cut in cuts if cut is not None], fwhm


def _resampled_modes(stars: list[Star], fwhm: float, modes: int, resamples: int) -> np.ndarray:
    """Largest principal components of the mean over bootstrap samples, (k, h, w) float32."""
    rng = np.random.default_rng(len(stars))
    images = []
    for _ in range(resamples):
        some = [stars[i] for i in rng.integers(0, len(stars), len(stars))]
        mean, error, _ = _combine(some, fwhm)
        image = quiet_wings(mean, error)
        images.append(image / image.sum())
    every = np.stack(images)
    scatter = (every - every.mean(0)).reshape(resamples, -1) / math.sqrt(resamples - 1)
    _, size, rows = np.linalg.svd(scatter, full_matrices=False)
    k = min(modes, len(size))
    out = (size[:k, None] * rows[:k]).reshape(k, *every.shape[1:])
    return out.astype(np.float32)


def star_candidates(data: np.ndarray, sigma: np.ndarray, mask: np.ndarray) -> Candidates:
    """Find round, isolated, unsaturated objects of S/N above 20.

    Parameters
    ----------
    data, sigma, mask
        As for `find_stars`.

    Raises
    ------
    InputError
        The image has no empty sky.
    """
    background, _, _ = background_map(data, mask)
    data = np.ascontiguousarray(np.where(mask, 0.0, data - background), np.float64)
    scale = float(np.median(sigma[~mask]))
    data /= scale
    noise = np.ascontiguousarray(np.where(mask, 1.0, sigma / scale), np.float64)
    bad = np.ascontiguousarray(mask)
    try:
        objects, labels = sep.extract(
            data, 4.0, err=noise, mask=bad, minarea=5, segmentation_map=True
        )
    except Exception as error:
        # sep raises bare Exception for a full buffer: a frame without empty sky.
        raise InputError(f"no stars found: {error}", _REMEDY) from error
    x, y = np.array(objects["x"]), np.array(objects["y"])
    reach = np.maximum(6.0 * objects["a"], 5.0)
    flux, flux_err, _ = sep.sum_circle(
        data, x, y, 2.5 * np.maximum(objects["a"], 1.0), err=noise, mask=bad
    )
    extent, _ = sep.flux_radius(data, x, y, reach, 0.5, normflux=np.maximum(flux, 1e-9), mask=bad)
    snr = flux / np.maximum(flux_err, 1e-9)
    bright = snr > MIN_SNR
    r50 = np.full(x.size, np.nan)
    e1, e2 = np.ones(x.size), np.zeros(x.size)
    for i in np.flatnonzero(bright):
        core = adaptive_moments(data, x[i], y[i], 2.0, min_variance=0.1, max_shift=3.0)
        x[i], y[i] = core.x, core.y
        if core.converged and core.xx + core.yy < 2 * MAX_VARIANCE:
            r50[i] = math.sqrt(math.log(2.0) * (core.xx + core.yy))
            e1[i] = (core.xx - core.yy) / (core.xx + core.yy)
            e2[i] = 2 * core.xy / (core.xx + core.yy)
    ny, nx = data.shape
    margin = 4.0 * np.maximum(np.nan_to_num(r50, nan=1.0), 1.0)
    inside = (x > margin) & (y > margin) & (x < nx - 1 - margin) & (y < ny - 1 - margin)
    whole = (objects["flag"] & (sep.OBJ_TRUNC | sep.OBJ_SINGU)) == 0
    good = bright & inside & whole & (np.hypot(e1, e2) < MAX_ELLIPTICITY) & (r50 > 0.65)
    for i in np.flatnonzero(good):
        radius = math.ceil(2.0 * r50[i])
        place = round(y[i]), round(x[i])
        core = extract_array(mask, (2 * radius + 1,) * 2, place, fill_value=False)
        good[i] = not core.any()
        good[i] &= _contamination(int(i), x, y, flux, extent, r50[i]) < MAX_CONTAMINATION
    columns = [x, y, flux, snr, r50, e1, e2, np.arange(1, len(objects) + 1)]
    found = np.rec.fromarrays(columns, formats=None, names="x, y, flux, snr, r50, e1, e2, label")
    return Candidates(data, noise, mask, labels, found[good])


def _contamination(
    i: int, x: np.ndarray, y: np.ndarray, flux: np.ndarray, extent: np.ndarray, r50: float
) -> float:
    """Neighbours' surface brightness at an object over its own peak (a rough model of both)."""
    distance = np.hypot(x - x[i], y - y[i])
    size = np.maximum(extent, r50)
    light = np.maximum(flux, 0.0) / (2.0 * np.pi * size**2) * (1.0 + (distance / size) ** 2) ** -2
    light[i] = 0.0
    return float(light.sum() / (flux[i] / (2.0 * np.pi * r50**2)))


def stellar_locus(found: np.recarray) -> np.ndarray:
    """Indices of the candidates on the stellar locus."""
    if found.r50.size < MIN_STARS:
        return np.arange(found.r50.size)
    size = np.log(found.r50)
    close = np.abs(size[:, None] - size[None, :]) < LOCUS_WIDTH
    # Bright objects tell stars from galaxies better.
    weight = np.minimum(found.snr, 200.0)
    density = close @ weight
    count = close.sum(axis=1)
    enough = count >= MIN_STARS
    if not enough.any():
        return np.arange(0)
    dense = enough & (density >= 0.5 * density[enough].max())
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
class Star:
    """A star moved to the centre of its cut-out.

    Attributes
    ----------
    image, noise : ndarray, float64, shape (h, w)
    good : ndarray of bool, shape (h, w)
        Usable pixels.
    index : int
        Among the candidates.
    """

    image: np.ndarray
    noise: np.ndarray
    good: np.ndarray
    index: int


def _cutout(candidates: Candidates, index: int, half: int) -> Star | None:
    """Cut out one star and centre it; None if its core is not clean."""
    row = candidates.found[index]
    pad = half + 2
    size, place = (2 * pad + 1,) * 2, (round(row.y), round(row.x))
    image = extract_array(candidates.flat, size, place, fill_value=0.0)
    noise = extract_array(candidates.noise, size, place, fill_value=np.inf)
    near = extract_array(candidates.labels, size, place, fill_value=0)
    other = ndimage.binary_dilation((near != 0) & (near != row.label), iterations=2)
    good = ~extract_array(candidates.mask, size, place, fill_value=True) & ~other
    if not good[pad - 1 : pad + 2, pad - 1 : pad + 2].all():
        return None
    image = np.where(good, image, np.where(good, image, 0.0)[::-1, ::-1])
    cx, cy, _ = core_centroid(image)
    dx, dy = pad - cx, pad - cy
    if max(abs(dx), abs(dy)) > 1.5:
        return None
    image = fourier_shift(image, dx, dy)
    blocked = ndimage.shift((~good).astype(float), (dy, dx), order=1, mode="constant", cval=1.0)
    usable = blocked < 0.05
    radius = centre_distance(size)
    ring = usable & (radius > 0.85 * half) & (radius <= half)
    if ring.sum() >= 20:
        local = float(np.median(image[ring]))
        error = 1.2533 * float(np.median(noise[ring])) / math.sqrt(float(ring.sum()))
        if local > 3.0 * error and local > 2e-3 * float(image[pad, pad]):
            image = image - local  # it sits on a neighbour's halo
    keep = (slice(2, -2), slice(2, -2))
    return Star(image[keep], noise[keep], usable[keep], index)


def _combine(stars: list[Star], fwhm: float) -> tuple[np.ndarray, np.ndarray, int]:
    """(mean, its error, number of stars) with the unlike ones dropped."""
    images = np.stack([star.image for star in stars])
    noises = np.stack([star.noise for star in stars])
    goods = np.stack([star.good for star in stars])
    core = centre_distance(images.shape[1:]) <= max(2.0, 1.2 * fwhm)
    scale = (images * core).sum(axis=(1, 2))
    use = scale > 0
    scaled = np.where(goods, images / np.where(use, scale, 1.0)[:, None, None], np.nan)
    mean = np.nan_to_num(np.nanmedian(scaled[use], axis=0))
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


def quiet_wings(mean: np.ndarray, error: np.ndarray) -> np.ndarray:
    """Azimuthal average where a pixel's own S/N is below 3, smoothly joined, never negative."""
    radius = centre_distance(mean.shape)
    bins = np.rint(radius).astype(int)
    known = np.isfinite(error) & (error > 0)
    weight = np.where(known, 1.0 / np.maximum(error, 1e-300) ** 2, 0.0)
    total = np.bincount(bins.ravel(), weights=weight.ravel())
    light = np.bincount(bins.ravel(), weights=(weight * mean).ravel())
    ring = light / np.maximum(total, 1e-300)
    ring_error = 1.0 / np.sqrt(np.maximum(total, 1e-300))
    faint = np.flatnonzero(ring < 3.0 * ring_error)
    end = int(faint[0]) if faint.size else ring.size
    ring[end:] = 0.0
    ring = np.minimum.accumulate(np.maximum(ring, 0.0))
    smooth = np.interp(radius, np.arange(ring.size), ring)
    snr = np.where(known, smooth / np.maximum(error, 1e-300), 0.0)
    own = np.clip((snr - 1.5) / 3.0, 0.0, 1.0)
    return np.maximum(own * mean + (1.0 - own) * smooth, 0.0)
