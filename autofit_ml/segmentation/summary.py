"""What every segmenter measures once it has its labels: sky, blending, ellipses."""

from __future__ import annotations

import numpy as np

from autofit_ml.measure import clipped_sky
from autofit_ml.segmentation.shapes import Ellipse, mirrored

__all__ = ["blend_fraction", "ellipse_of_footprint", "sky_outside"]


def sky_outside(
    data: np.ndarray,
    good: np.ndarray,
    labels: np.ndarray,
    contaminants: np.ndarray,
    target: Ellipse | None,
) -> tuple[float, float]:
    """Level and scatter outside all objects and far from the target; NaN if there is no sky."""
    free = good & (labels == 0) & ~contaminants
    needed = max(40, int(0.03 * data.size))
    if target is not None:
        distance = target.distance_map(data.shape)
        for factor in (2.2, 1.7, 1.35):
            far = free & (distance > factor)
            if np.count_nonzero(far) >= needed:
                free = far
                break
        else:
            free = far
    if np.count_nonzero(free) < 40:
        return float("nan"), float("nan")
    return clipped_sky(data[free])


def blend_fraction(
    image: np.ndarray, labels: np.ndarray, target: int, ellipses: dict[int, Ellipse]
) -> float:
    """Excess light of neighbours inside the target's isophote over the target's light."""
    if not target:
        return 0.0
    own = labels == target
    others = (labels != 0) & ~own
    if not others.any():
        return 0.0
    ellipse = ellipses[target]
    inside = others & (ellipse.distance_map(image.shape) < 1)
    if not inside.any():
        return 0.0
    expected = mirrored(np.where(own, image, 0.0).astype(float), ellipse.x, ellipse.y)
    excess = float(np.sum(image[inside] - expected[inside]))
    light = float(np.sum(image[own]) + np.sum(expected[inside]))
    return max(excess, 0.0) / light if light > 0 else 0.0


def ellipse_of_footprint(footprint: np.ndarray) -> Ellipse:
    """The ellipse of a footprint's second moments and area (shape (ny, nx), bool)."""
    rows, columns = np.nonzero(footprint)
    x, y = columns.mean(), rows.mean()
    xx, yy = columns.var() + 1 / 12, rows.var() + 1 / 12
    xy = np.mean((columns - x) * (rows - y))
    half = np.hypot((xx - yy) / 2, xy)
    mean = (xx + yy) / 2
    q = float(np.sqrt(max(mean - half, 0.02 * mean) / (mean + half)))
    return Ellipse(
        x=float(x),
        y=float(y),
        semi_major=float(np.sqrt(rows.size / (np.pi * q))),
        q=q,
        theta=float(0.5 * np.arctan2(2 * xy, xx - yy)),
    )
