"""The light that a galaxy is expected to have at a pixel, by its own symmetry."""

from __future__ import annotations

import numpy as np

from autofit_ml.segmentation.shapes import Ellipse, mirrored

__all__ = ["expected_light"]


def expected_light(
    image: np.ndarray, free: np.ndarray, at: np.ndarray, ellipse: Ellipse
) -> np.ndarray:
    """The target's light at the pixels `at`: ring median or mirror image, whichever is larger.

    Rings are an eighth of the isophotal radius wide; medians and mirror use `free` pixels, which
    are nobody else's.
    """
    ring = np.minimum(8 * ellipse.distance_map(image.shape), 40).astype(np.intp)
    needed = np.bincount(ring[at], minlength=41) > 0
    profile, known = _ring_medians(image, ring, free & needed[ring], 41)
    mirror = mirrored(np.where(free, image, np.float32(0)), ellipse.x, ellipse.y)[at]
    if not known.any():
        return mirror
    profile = np.interp(np.arange(41), np.flatnonzero(known), profile[known])
    return np.maximum(profile[ring[at]], mirror)


def _ring_medians(
    image: np.ndarray, ring: np.ndarray, use: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Median of the used pixels in each ring, and whether it has at least 3 pixels."""
    rings, values = ring[use], image[use].astype(float)
    number = np.bincount(rings, minlength=count)
    start = np.cumsum(number) - number
    known = number >= 3
    medians = np.zeros(count)
    if values.size:
        # one sort for all rings: the value's rank inside its ring becomes the fraction
        low, span = values.min(), max(np.ptp(values), 1e-30)
        ordered = np.sort(rings + 0.999 * (values - low) / span)
        middle = ordered[(start + number // 2)[known]]
        medians[known] = low + (middle - np.floor(middle)) * (span / 0.999)
    return medians, known
