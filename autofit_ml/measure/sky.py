"""Level and scatter of the sky: of pixels, of an image, at a position."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import sep
from scipy import ndimage

__all__ = [
    "Sky",
    "clipped_sky",
    "measure_sky",
    "mode_of_sky",
    "object_mask",
    "sky_at",
]

_SAMPLE = 200_000
"""Pixels that a level is measured from at most: good to 0.002 of their scatter."""

_QUARTILES_TO_SIGMA = 0.7413
"""Standard deviation of a Gaussian over the distance of its quartiles."""


@dataclass(frozen=True)
class Sky:
    """Sky of an image region: level, its error, pixel scatter and how many pixels were used.

    `n_pixels` is 0 when no sky could be found: see `measure_sky`.
    """

    level: float
    level_err: float
    rms: float
    n_pixels: int


def _sorted_sample(values: np.ndarray) -> np.ndarray:
    if values.size > _SAMPLE:
        values = values[:: math.ceil(values.size / _SAMPLE)]
    return np.sort(values, axis=None)


def clipped_sky(values: np.ndarray) -> tuple[float, float]:
    """Mean and scatter of pixels without outliers: cut at 3 sigma about the median, repeatedly.

    Parameters
    ----------
    values : ndarray, any shape, at least 1 element
        Finite; outside of detected objects. Every k-th of more than 200 000 is used.

    Returns
    -------
    level, scatter : float
        Image units; the scatter is corrected for what the cut takes from a Gaussian. Counts of few
        photons are cut two of their steps later, and nothing is corrected.
    """
    ordered = _sorted_sample(values)
    step = _step(ordered)
    for _ in range(12):
        quarter, middle, three = ordered[(np.arange(1, 4) * (ordered.size - 1)) // 4]
        spread = _QUARTILES_TO_SIGMA * float(three - quarter) or float(ordered.std(dtype=float))
        reach = 3 * spread + 2 * step
        start = np.searchsorted(ordered, middle - reach, "left")
        stop = np.searchsorted(ordered, middle + reach, "right")
        if spread == 0 or stop - start == ordered.size:
            break
        ordered = ordered[start:stop]
    # A Gaussian cut at 3 sigma has 0.98658 of its standard deviation left.
    left = 0.98658 if step == 0 else 1.0
    return float(ordered.mean(dtype=float)), float(ordered.std(dtype=float)) / left


def _step(ordered: np.ndarray) -> float:
    """Step of counts of few photons, told by over a tenth of equal values; 0 for other data."""
    middle = ordered[ordered.size // 2]
    first, last = (
        np.searchsorted(ordered, middle, "left"),
        np.searchsorted(ordered, middle, "right"),
    )
    if last - first <= max(0.1 * ordered.size, 1):
        return 0.0
    steps = np.diff(ordered)
    steps = steps[steps > 1e-6 * (ordered[-1] - ordered[0])]
    return float(steps.min()) if steps.size else 0.0


def mode_of_sky(values: np.ndarray, noise: float) -> tuple[float, float]:
    """Level and scatter of the sky among pixels that include objects.

    The level starts where the values are densest (the shortest interval that holds 30 % of them)
    and is then the median within 2.5 `noise` of itself. The scatter comes from the values below
    the level, which objects do not widen.

    Parameters
    ----------
    values : ndarray, shape (n,)
        Pixel values, any units; every k-th of more than 200 000 is used.
    noise : float
        Expected 1-sigma noise, same units, > 0.

    Returns
    -------
    level, scatter : float
        `scatter` is `noise` when it cannot be measured.
    """
    ordered = _sorted_sample(values)
    if ordered.size < 8:
        return (float(ordered[0]) if ordered.size else 0.0), noise
    width = max(int(0.3 * ordered.size), 4)
    start = int(np.argmin(ordered[width:] - ordered[:-width]))
    level = float(ordered[start + width // 2])
    for _ in range(4):
        low, high = np.searchsorted(ordered, (level - 2.5 * noise, level + 2.5 * noise))
        if high - low < 4:
            break
        level = float(ordered[(low + high) // 2])
    below = level - ordered[: np.searchsorted(ordered, level)]
    if below.size < 8:
        return level, noise
    scatter = 1.4826 * float(np.median(below))
    return level, (scatter if scatter > 0 else noise)


def object_mask(
    data: np.ndarray,
    level: float,
    rms: float | np.ndarray,
    mask: np.ndarray | None = None,
    *,
    threshold: float = 1.5,
    grow: float = 0.7,
) -> np.ndarray:
    """Pixels inside the isophotes of detected objects, grown into their wings.

    Parameters
    ----------
    data : ndarray, shape (ny, nx)
    level : float
        Sky level.
    rms : float or ndarray
        Noise per pixel.
    mask : ndarray of bool, optional
        True = bad pixel.
    threshold : float
        Of detection, in sigma per (3 x 3 filtered) pixel.
    grow : float
        Each isophote is widened by this times its equivalent radius plus two pixels.

    Returns
    -------
    ndarray of bool, shape (ny, nx)
    """
    work = np.ascontiguousarray(data - level, dtype=np.float64)
    if mask is not None:
        work[mask] = 0.0
    scale = float(np.median(rms))
    if not math.isfinite(scale) or scale <= 0:
        return np.zeros(data.shape, bool)
    work /= scale
    err = np.ascontiguousarray(rms / scale, dtype=np.float64) if np.ndim(rms) else None
    bad = None if mask is None else np.ascontiguousarray(mask)
    try:
        objects, labels = sep.extract(
            work,
            threshold,
            err=err,
            mask=bad,
            minarea=5,
            segmentation_map=True,
            deblend_cont=1.0,
            clean=False,
        )
    except Exception as error:
        # sep raises bare Exception when its pixel buffer is full: everything is an object.
        if "buffer" not in str(error) and "limit" not in str(error):
            raise
        return ndimage.binary_dilation(work > 3.0, iterations=3)
    radius = np.concatenate([[0.0], np.sqrt(objects["npix"] / math.pi)])
    distance, nearest = ndimage.distance_transform_edt(labels == 0, return_indices=True)
    owner = labels[tuple(nearest)]
    return distance <= grow * radius[owner] + 2.0


def measure_sky(
    data: np.ndarray, mask: np.ndarray | None = None, sigma: np.ndarray | None = None
) -> Sky:
    """Sky level and scatter of an image, its objects masked.

    Parameters
    ----------
    data : ndarray, shape (ny, nx)
    mask : ndarray of bool, optional
        True = do not use; pixels that are not finite are not used either.
    sigma : ndarray, optional
        Noise per pixel; only its shape over the image matters (detection).

    Returns
    -------
    Sky
        The error of the level is from the scatter between blocks of the image, so that correlated
        noise and gradients count. Where under 20 usable pixels lie outside the objects, `n_pixels`
        is 0 and the level is that of the faintest tenth of all pixels (NaN if there are no 20).
    """
    scale, work, sky, outside = _measure(data, mask, sigma)
    if outside is None:
        return sky
    error = _level_error(work, outside, sky.level / scale, sky.rms / scale)
    return Sky(sky.level, error * scale, sky.rms, sky.n_pixels)


def sky_at(data: np.ndarray, mask: np.ndarray | None, x: float, y: float) -> Sky:
    """Sky at a position from the pixels around it: a plane fitted outside the objects.

    Parameters
    ----------
    data : ndarray, shape (ny, nx)
    mask : ndarray of bool or None
        True = do not use (the neighbourhood of the position itself, for one).
    x, y : float
        0-based pixels; may lie in the masked part.

    Returns
    -------
    Sky
        ``level`` at (x, y). Its error is that of `measure_sky` widened by the distance of
        the position from the pixels used.
    """
    scale, work, sky, outside = _measure(data, mask, None)
    if outside is None or not sky.rms > 0:
        return sky
    level, rms = sky.level / scale, sky.rms / scale
    rows, columns = np.nonzero(outside & (np.abs(work - level) <= 3.0 * rms + 1e-300))
    reach = max(data.shape)
    design = np.stack([np.ones(rows.size), (columns - x) / reach, (rows - y) / reach], axis=1)
    # No BLAS: its threads spin on a busy machine, for sums as small as these.
    normal = np.einsum("ni,nj->ij", design, design)
    try:
        inverse = np.linalg.inv(normal)
    except np.linalg.LinAlgError:
        return measure_sky(data, mask)
    plane = inverse @ np.einsum("ni,n->i", design, work[rows, columns])
    slope = plane[1] * (np.arange(data.shape[1]) - x) + (
        plane[2] * (np.arange(data.shape[0]) - y)[:, None]
    )
    flat = work - slope / reach
    error = _level_error(flat, outside, float(plane[0]), rms)
    widened = math.sqrt(max(1.0, float(inverse[0, 0]) * rows.size))
    return Sky(float(plane[0]) * scale, error * widened * scale, sky.rms, sky.n_pixels)


def _measure(
    data: np.ndarray, mask: np.ndarray | None, sigma: np.ndarray | None
) -> tuple[float, np.ndarray, Sky, np.ndarray | None]:
    """(scale, data / scale, sky, pixels outside the objects or None where there are too few)."""
    data = np.asarray(data, dtype=np.float64)
    usable = np.isfinite(data)
    if mask is not None:
        usable &= ~mask
    if usable.sum() < 20:
        return 1.0, data, Sky(math.nan, math.nan, math.nan, 0), None
    scale = float(np.median(np.abs(data[usable]))) or float(np.abs(data[usable]).max()) or 1.0
    work = np.where(usable, data / scale, 0.0)  # 1e-30 and 1e30 alike
    level, rms = clipped_sky(work[usable])
    outside = usable
    bad = ~usable
    for _ in range(3):
        if rms <= 0:
            break
        noise: float | np.ndarray = rms
        if sigma is not None:
            shape = np.where(usable & (sigma < 1e9 * np.median(sigma[usable])), sigma, np.inf)
            noise = shape * (rms / float(np.median(shape[outside]))) if outside.any() else rms
            noise = np.where(np.isfinite(noise) & (noise > 0), noise, 1e6 * rms)
        found = usable & ~object_mask(work, level, noise, bad)
        if found.sum() < max(20, 0.01 * usable.sum()):
            # The object fills the image: the faintest tenth is the best guess there is.
            values = work[usable]
            faint = float(np.median(values[values <= np.quantile(values, 0.1)]))
            return scale, work, Sky(faint * scale, rms * scale, rms * scale, 0), None
        new_level, new_rms = clipped_sky(work[found])
        done = abs(new_level - level) < 0.02 * new_rms and abs(new_rms - rms) < 0.02 * new_rms
        level, rms, outside = new_level, new_rms, found
        if done:
            break
    sky = Sky(level * scale, math.nan, rms * scale, int(outside.sum()))
    return scale, work, sky, outside


def _level_error(data: np.ndarray, outside: np.ndarray, level: float, rms: float) -> float:
    """Error of the mean from the scatter of the means of 5 x 5 blocks of the image."""
    ny, nx = data.shape
    white = rms / math.sqrt(max(1, int(outside.sum())))
    rows = np.minimum(np.arange(ny) * 5 // ny, 4)
    cols = np.minimum(np.arange(nx) * 5 // nx, 4)
    block = (rows[:, None] * 5 + cols[None, :])[outside]
    values = data[outside]
    near = np.abs(values - level) <= 3.0 * rms if rms > 0 else np.ones(values.shape, bool)
    block, values = block[near], values[near]
    count = np.bincount(block, minlength=25).astype(float)
    enough = count >= 10
    if enough.sum() < 4:
        return 2.0 * white  # too few blocks to measure the correlation of the noise
    means = np.bincount(block, weights=values, minlength=25)[enough] / count[enough]
    weight = count[enough] / count[enough].sum()
    centre = float((weight * means).sum())
    n = int(enough.sum())
    scatter = math.sqrt(float((weight * (means - centre) ** 2).sum()) / (n - 1))
    return max(white, scatter)
