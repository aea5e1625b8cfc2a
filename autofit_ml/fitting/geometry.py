"""Geometry of an object in its stamp: shapes to fit, flags of position and masks."""

from __future__ import annotations

import math

import numpy as np

from autofit_ml.catalogue.flags import Flag
from autofit_ml.images.stamp import Stamp
from autofit_ml.segmentation.result import Segmentation

__all__ = ["covers_stamp", "geometry_flags", "padded_shape", "target_box", "target_found"]

_MARGIN = 3.0
"""Pixels by which a position may lie outside the target's footprint, or off where it should be."""

_COVERS = 0.95
"""Share of the usable pixels in the target's footprint above which there is no sky beside it."""


_TOUCHING = 2.0
"""Pixels between the target's place and a footprint that is its own all the same."""


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
    """Flags of an ellipse (catalogue units) in a stamp.

    CENTRE_MASKED, EDGE, SATURATED; EXTRAPOLATED where both ends of its major axis lie outside the
    stamp, UNDETERMINED where all of it does.

    `masked`: contaminants that were left out of the fit, bool, (ny, nx).
    """
    flags = Flag(0)
    ny, nx = stamp.shape
    radius = max(2 * re, 1.5)
    x0, x1 = max(0, int(x - radius) - 1), min(nx, int(x + radius) + 3)
    y0, y1 = max(0, int(y - radius) - 1), min(ny, int(y + radius) + 3)
    if x1 <= x0 or y1 <= y0:
        return int(Flag.EDGE | Flag.EXTRAPOLATED | Flag.UNDETERMINED)
    sin, cos = math.sin(math.radians(pa)), math.cos(math.radians(pa))
    window = (slice(y0, y1), slice(x0, x1))
    bad = stamp.mask[window] | masked[window]
    if bad.any() or stamp.saturated is not None:
        dy, dx = np.ogrid[y0:y1, x0:x1]
        dx, dy = dx - x, dy - y
        ellipse = (dy * cos - dx * sin) ** 2 + ((dx * cos + dy * sin) / q) ** 2
        inside = ellipse <= max(re, 1.0) ** 2
        if inside.any() and bad[inside].mean() > 0.5:
            flags |= Flag.CENTRE_MASKED
        if stamp.saturated is not None and np.any(
            stamp.saturated[window][ellipse <= max(2 * re, 1.0) ** 2]
        ):
            flags |= Flag.SATURATED
    u, v = re * sin, re * cos
    if not any(-0.5 <= x + s * u <= nx - 0.5 and -0.5 <= y - s * v <= ny - 0.5 for s in (-1, 1)):
        flags |= Flag.EXTRAPOLATED
    corners = [(u - x, v - y) for u in (-0.5, nx - 0.5) for v in (-0.5, ny - 0.5)]
    if all(math.hypot(v * cos - u * sin, (u * cos + v * sin) / q) < re for u, v in corners):
        flags |= Flag.EXTRAPOLATED | Flag.UNDETERMINED
    reach_x, reach_y = re * math.hypot(sin, q * cos), re * math.hypot(cos, q * sin)
    outside = min(x - reach_x, y - reach_y) < -0.5
    outside |= x + reach_x > nx - 0.5 or y + reach_y > ny - 0.5
    labels, target = segmentation.labels, segmentation.target
    border = (labels[0], labels[-1], labels[:, 0], labels[:, -1])
    if outside or (target and any((part == target).any() for part in border)):
        flags |= Flag.EDGE
    return int(flags)


def covers_stamp(stamp: Stamp, segmentation: Segmentation, masked: np.ndarray) -> bool:
    """True if nothing but the target is in the stamp: no sky to tell its outskirts from."""
    usable = ~(stamp.mask | masked)
    own = np.asarray(segmentation.labels) == segmentation.target
    return bool(segmentation.target and usable.any() and own[usable].mean() > _COVERS)


def target_box(stamp: Stamp, segmentation: Segmentation) -> tuple[tuple[float, float], ...]:
    """Box in which the target's centre may be: (least, largest) x and y, stamp pixels."""
    if not segmentation.target:
        return tuple((at - _MARGIN, at + _MARGIN) for at in stamp.position)
    own = np.asarray(segmentation.labels) == segmentation.target
    if not own.any():
        return ((-math.inf, math.inf),) * 2
    found = (np.flatnonzero(own.any(axis)) for axis in (0, 1))
    return tuple((at[0] - _MARGIN, at[-1] + _MARGIN) for at in found)


def target_found(
    stamp: Stamp,
    segmentation: Segmentation,
    masked: np.ndarray,
    x: float,
    y: float,
    *,
    significant: bool,
) -> str:
    """Why a fit that ended at (x, y) is not of the target; "" where it is.

    Nothing was detected where it should be, nor is what was fitted there `significant`; or the fit
    walked to an object that is `masked`.
    """
    labels = np.asarray(segmentation.labels)
    ny, nx = labels.shape
    row, column = min(max(round(y), 0), ny - 1), min(max(round(x), 0), nx - 1)
    walked = masked[row, column] and labels[row, column] not in (0, segmentation.target)
    if (segmentation.target or significant) and not walked:
        return ""
    at_x, at_y = stamp.position
    rows, columns = np.nonzero(labels == labels[row, column])  # a mask may cut the target in two
    if labels[row, column] and np.hypot(columns - at_x, rows - at_y).min() < _TOUCHING:
        return ""
    rows, columns = np.nonzero((labels != 0) & (labels != segmentation.target))
    text = f"nothing is detected at x {at_x + stamp.origin[0]:.1f}, y {at_y + stamp.origin[1]:.1f}"
    if len(rows) == 0:
        return text
    near = int(np.argmin(np.hypot(columns - at_x, rows - at_y)))
    rows, columns = np.nonzero(labels == labels[rows[near], columns[near]])
    x, y = columns.mean(), rows.mean()
    return (
        f"{text}; the nearest source is {math.hypot(x - at_x, y - at_y):.1f} pixels away at "
        f"x {x + stamp.origin[0]:.1f}, y {y + stamp.origin[1]:.1f}"
    )
