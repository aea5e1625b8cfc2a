"""What depends on where an object lies in its stamp: shapes to fit, flags of position and masks."""

from __future__ import annotations

import math

import numpy as np

from autofit_ml.catalogue.flags import Flag
from autofit_ml.images.stamp import Stamp
from autofit_ml.segmentation.result import Segmentation

__all__ = ["geometry_flags", "padded_shape"]


def padded_shape(shape: tuple[int, int]) -> tuple[int, int]:
    """Shape that is fitted: filled up (masked) to a multiple of 8, 16, 32 ..., to be few."""
    grain = max(8, 2 ** math.ceil(math.log2(max(shape) / 16)))
    return tuple(-(-n // grain) * grain for n in shape)


def geometry_flags(
    stamp: Stamp,
    segmentation: Segmentation,
    masked: np.ndarray,
    x: float,
    y: float,
    re: float,
    q: float,
    pa: float,
) -> int:
    """CENTRE_MASKED, EDGE and SATURATED of an ellipse (catalogue units) in a stamp.

    `masked`: contaminants that were left out of the fit, bool, (ny, nx).
    """
    flags = Flag(0)
    ny, nx = stamp.shape
    radius = max(2 * re, 1.5)
    x0, x1 = max(0, int(x - radius) - 1), min(nx, int(x + radius) + 3)
    y0, y1 = max(0, int(y - radius) - 1), min(ny, int(y + radius) + 3)
    if x1 <= x0 or y1 <= y0:
        return int(Flag.EDGE)
    dy, dx = np.ogrid[y0:y1, x0:x1]
    dx, dy = dx - x, dy - y
    angle = math.radians(pa)
    major = -dx * math.sin(angle) + dy * math.cos(angle)
    minor = dx * math.cos(angle) + dy * math.sin(angle)
    ellipse = major**2 + (minor / q) ** 2
    window = (slice(y0, y1), slice(x0, x1))
    bad = stamp.mask[window] | masked[window]
    inside = ellipse <= max(re, 1.0) ** 2
    if inside.any() and bad[inside].mean() > 0.5:
        flags |= Flag.CENTRE_MASKED
    if stamp.saturated is not None and np.any(
        stamp.saturated[window][ellipse <= max(2 * re, 1.0) ** 2]
    ):
        flags |= Flag.SATURATED
    labels = segmentation.labels
    if segmentation.target:
        border = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
        if np.any(border == segmentation.target):
            flags |= Flag.EDGE
    reach_x = re * math.hypot(math.sin(angle), q * math.cos(angle))
    reach_y = re * math.hypot(math.cos(angle), q * math.sin(angle))
    if x - reach_x < -0.5 or x + reach_x > nx - 0.5 or y - reach_y < -0.5 or y + reach_y > ny - 0.5:
        flags |= Flag.EDGE
    return int(flags)
