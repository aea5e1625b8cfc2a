"""Instances that touch: which are objects of their own, and which are parts of a larger one.

A network may take a nucleus, the ends of a bar or an arm for objects. What it proposes is believed
only where the light agrees: a smaller instance that touches a larger one stays if enough of its
light is in excess of the larger one's symmetric light, and if it does not sit at its centre.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from scipy import ndimage

from autofit_ml.segmentation.summary import ellipse_of_footprint
from autofit_ml.segmentation.symmetry import expected_light

__all__ = ["EXCESS", "EXCESS_SNR", "is_fragment", "join_fragments"]

EXCESS, EXCESS_SNR = 0.25, 7.0
"""A part stays an object of its own if this share of its light, with this significance, is in
excess of the larger one's ring median and mirror image."""

_CONCENTRIC = (1.5, 0.1)
"""Centres nearer than this many pixels, or this share of the larger one's semi-major axis, are one
centre."""

_MARGIN = 12
"""Pixels around touching instances that show what is sky."""

_EIGHT = np.ones((3, 3), dtype=bool)


def is_fragment(
    image: np.ndarray, noise: np.ndarray, large: np.ndarray, small: np.ndarray, free: np.ndarray
) -> bool:
    """Whether an instance is part of a larger one.

    Parameters
    ----------
    image, noise : ndarray, shape (ny, nx)
        Sky subtracted, and its noise.
    large, small : ndarray, bool, shape (ny, nx)
        The two footprints.
    free : ndarray, bool, shape (ny, nx)
        Pixels that are the large one's or nobody's.
    """
    whole = ndimage.binary_fill_holes(large)
    if not whole.any() or not small.any():
        return False
    ellipse = ellipse_of_footprint(whole)
    rows, columns = np.nonzero(small)
    apart = np.hypot(columns.mean() - ellipse.x, rows.mean() - ellipse.y)
    if apart < max(_CONCENTRIC[0], _CONCENTRIC[1] * ellipse.semi_major):
        return True
    x, y = _peak(image, large)
    ellipse = dataclasses.replace(ellipse, x=x, y=y, q=max(ellipse.q, 0.3))
    light = image[small]
    excess = float(np.sum(light - expected_light(image, free, small, ellipse)))
    error = float(np.sqrt(np.sum(noise[small].astype(float) ** 2)))
    return excess < EXCESS * float(light.sum()) or excess < EXCESS_SNR * error


def _peak(image: np.ndarray, own: np.ndarray) -> tuple[float, float]:
    """(x, y) of the brightest part."""
    smooth = np.where(own, ndimage.uniform_filter(np.where(own, image, 0.0), 3), -np.inf)
    top = float(np.max(smooth))
    y, x = np.nonzero(smooth >= top - 0.1 * abs(top))
    return float(x.mean()), float(y.mean())


def _opposite(
    labels: np.ndarray, image: np.ndarray, large: np.ndarray, small: np.ndarray
) -> np.ndarray:
    """The instance at the other side of the larger one's centre: the other end of a bar, say.

    Two instances that are each other's mirror image are the larger one's own symmetry.
    """
    x, y = _peak(image, large)
    rows, columns = np.nonzero(small)
    v, h = np.rint(2 * y - rows).astype(int), np.rint(2 * x - columns).astype(int)
    there = (v >= 0) & (v < labels.shape[0]) & (h >= 0) & (h < labels.shape[1])
    met = labels[v[there], h[there]]
    met = met[(met > 0) & ~large[v[there], h[there]] & ~small[v[there], h[there]]]
    if met.size:
        number = np.bincount(met)
        other = labels == number.argmax()
        if int(np.max(number)) >= 0.5 * max(rows.size, int(np.count_nonzero(other))):
            return other
    return np.zeros(labels.shape, dtype=bool)


def join_fragments(
    labels: np.ndarray, image: np.ndarray, noise: np.ndarray, bad: np.ndarray
) -> np.ndarray:
    """Labels in which the parts of larger instances have these instances' labels.

    Parameters
    ----------
    labels : ndarray of int, shape (ny, nx)
        0 = sky.
    image, noise : ndarray, shape (ny, nx)
        Sky subtracted, and its noise.
    bad : ndarray, bool, shape (ny, nx)
        True = do not use.
    """
    islands, _ = ndimage.label(labels > 0, structure=_EIGHT)
    out = labels.copy()
    for number, window in enumerate(ndimage.find_objects(islands), start=1):
        inside = islands[window] == number
        if len(np.unique(labels[window][inside])) < 2:
            continue
        wide = tuple(slice(max(part.start - _MARGIN, 0), part.stop + _MARGIN) for part in window)
        _join_island(out[wide], islands[wide] == number, image[wide], noise[wide], bad[wide])
    return out


def _join_island(
    labels: np.ndarray, island: np.ndarray, image: np.ndarray, noise: np.ndarray, bad: np.ndarray
) -> None:
    """Join the parts of one island, in place, until nothing changes."""
    while True:
        present, counts = np.unique(labels[island], return_counts=True)
        order = present[np.argsort(-counts, kind="stable")]
        joined = False
        for k, large in enumerate(order[:-1]):
            own = labels == large
            near = ndimage.binary_dilation(own, structure=_EIGHT)
            for small in order[k + 1 :]:
                part = labels == small
                if not (near & part).any():
                    continue
                free = own | (labels == 0) | _opposite(labels, image, own, part)
                if is_fragment(image, noise, own, part & ~bad, free & ~bad):
                    labels[part] = large
                    joined = True
                    break
            if joined:
                break
        if not joined:
            return
