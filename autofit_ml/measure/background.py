"""Background of a frame, and the objects that are too large for its mesh."""

from __future__ import annotations

import math

import numpy as np
import sep
from scipy import ndimage

from autofit_ml.measure.binning import block_sums
from autofit_ml.measure.sky import clipped_sky, mode_of_sky, object_mask

__all__ = ["background_map", "large_objects"]

_SIDE, _MOST = 64, 32
"""The image is binned to about this many pixels a side, but not by more than a factor."""

_THRESHOLD = 3.0
"""Of detection, in units of the scatter of the binned sky."""

_CONCENTRATED = 0.3
"""Largest share of an object's isophote that is brighter than half of its peak: it is half where
the sky itself is brighter towards the middle or one side of the image, 0.1 in a faint disc."""

_GROWTH = (0.5, 0.2, 0.0)
"""Of isophotes, in units of their radius: the first that leaves enough sky."""

_LEAST_SKY = 0.2
"""Share of the image."""


def large_objects(data: np.ndarray, bad: np.ndarray, box: int = 64) -> tuple[np.ndarray, int]:
    """Objects larger than a background's mesh, which would take them for background.

    Parameters
    ----------
    data : ndarray, shape (ny, nx)
        Finite.
    bad : ndarray of bool, shape (ny, nx)
        True = do not use.
    box : int
        Mesh size, pixels.

    Returns
    -------
    covered : ndarray of bool, shape (ny, nx)
        Their isophotes, grown.
    box : int
        The mesh that is large enough: at least as given, at most the image's longer side.
    """
    ny, nx = data.shape
    b = min(math.ceil(max(ny, nx) / _SIDE), _MOST)
    none = np.zeros(data.shape, bool), box
    if min(ny, nx) < max(box, 8 * b):
        return none
    number = block_sums(~bad, b)
    empty = number < b * b / 2
    mean = block_sums(np.where(bad, 0.0, data), b) / np.maximum(number, 1)
    if np.count_nonzero(~empty) < 64:
        return none
    steps = np.abs(np.diff(mean, axis=1))[~(empty[:, 1:] | empty[:, :-1])]
    level, scatter = mode_of_sky(mean[~empty], float(np.median(steps)) or 1e-30)
    flat = np.where(empty, 0.0, (mean - level) / scatter)
    try:
        objects, labels = sep.extract(
            np.ascontiguousarray(flat), _THRESHOLD, mask=empty, minarea=3, segmentation_map=True
        )
    except Exception:  # sep raises bare Exception for a full buffer: no object stands out
        return none
    index = np.arange(1, len(objects) + 1)
    bright = flat > 0.5 * np.concatenate([[np.inf], objects["peak"]])[labels]
    core = np.bincount(labels[bright], minlength=len(objects) + 1)[1:]
    diameter = 2 * b * np.sqrt(objects["npix"] / math.pi)
    large = (diameter > box) & (core < _CONCENTRATED * objects["npix"])
    large &= (objects["xpeak"] % (mean.shape[1] - 1) > 0) & (
        objects["ypeak"] % (mean.shape[0] - 1) > 0
    )  # light of what lies outside is no object
    if not large.any():
        return none
    inside = np.isin(labels, index[large])
    distance, nearest = ndimage.distance_transform_edt(~inside, return_indices=True)
    radius = np.concatenate([[0.0], diameter / (2 * b)])[labels[tuple(nearest)]]
    usable = np.count_nonzero(~empty)
    for growth in _GROWTH:
        covered = distance <= growth * radius
        if np.count_nonzero(~covered & ~empty) >= _LEAST_SKY * usable:
            break
    whole = np.pad(np.kron(covered, np.ones((b, b), bool)), ((0, b), (0, b)), "edge")[:ny, :nx]
    return whole, int(min(max(box, diameter[large].max()), max(ny, nx)))


def background_map(
    data: np.ndarray, mask: np.ndarray | None = None, *, box: int = 64
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Smooth background and noise of a frame.

    Parameters
    ----------
    data : ndarray, shape (ny, nx)
    mask : ndarray of bool, optional
        True = do not use.
    box : int
        Mesh size, pixels; larger where an object is.

    Returns
    -------
    background, rms : ndarray, float32, shape (ny, nx)
    objects : ndarray of bool, shape (ny, nx)
        The grown isophotes that were left out.
    """
    data = np.asarray(data, dtype=np.float64)
    bad = ~np.isfinite(data) if mask is None else ~np.isfinite(data) | mask
    scale = float(np.median(np.abs(data[~bad]))) if not bad.all() else 1.0
    scale = scale or 1.0
    work = np.where(bad, 0.0, data / scale)
    objects, box = large_objects(work, bad, box)
    large = objects
    level, noise = _mesh(work, bad | large, box)
    for _ in range(2):
        floor = 1e-6 * max(float(np.median(noise)), 1e-30)
        found = object_mask(work - level, 0.0, np.maximum(noise, floor), bad, grow=0.3) | large
        if (bad | found).mean() > 0.8:  # too crowded: clipping alone does better
            break
        objects = found
        level, noise = _mesh(work, bad | objects, box)
    return (level * scale).astype(np.float32), (noise * scale).astype(np.float32), objects


def _mesh(data: np.ndarray, bad: np.ndarray, box: int) -> tuple[np.ndarray, np.ndarray]:
    """Background and noise on a mesh of sigma-clipped boxes, interpolated to the pixels."""
    from astropy.stats import SigmaClip
    from photutils.background import Background2D, MADStdBackgroundRMS, MedianBackground

    sizes = [math.ceil(n / max(1, round(n / box))) for n in data.shape]
    try:
        mesh = Background2D(
            data,
            sizes,
            mask=bad,
            filter_size=1,
            exclude_percentile=85,
            sigma_clip=SigmaClip(3.0, maxiters=10),
            bkg_estimator=MedianBackground(),
            bkg_rms_estimator=MADStdBackgroundRMS(),
        )
    except ValueError:  # no box has enough pixels left: one value for the whole frame
        level, rms = clipped_sky(data[~bad] if (~bad).any() else data)
        return np.full(data.shape, level), np.full(data.shape, rms)
    rows, columns = (_interpolation(n, size) for n, size in zip(data.shape, sizes, strict=True))
    level = rows @ _without_outliers(mesh.background_mesh) @ columns.T
    noise = rows @ _without_outliers(mesh.background_rms_mesh) @ columns.T
    return level, np.maximum(noise, 0.1 * float(np.median(mesh.background_rms_mesh)))


def _without_outliers(mesh: np.ndarray) -> np.ndarray:
    """Boxes that stick out of their neighbourhood (a bright object) replaced by its median.

    A plain median filter would flatten gradients at the border of the frame.
    """
    values = np.asarray(mesh, dtype=np.float64)
    if min(values.shape) < 3:
        return values
    wide = np.pad(values, 1, mode="reflect", reflect_type="odd")  # a gradient goes on
    smooth = ndimage.median_filter(wide, 3)[1:-1, 1:-1]
    off = values - smooth
    spread = 1.4826 * float(np.median(np.abs(off - np.median(off))))
    return np.where(np.abs(off) > 5.0 * spread, smooth, values)


def _interpolation(length: int, size: int) -> np.ndarray:
    """Matrix (length, boxes) of linear interpolation from box centres, extended at both ends."""
    from scipy.interpolate import make_interp_spline

    starts = np.arange(0, length, size)
    centres = (starts + np.minimum(starts + size, length) - 1) / 2.0
    if centres.size == 1:
        return np.ones((length, 1))
    return make_interp_spline(centres, np.eye(centres.size), k=1)(np.arange(length))
