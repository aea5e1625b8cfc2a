"""What every segmenter measures once it has its labels: sky, blending, ellipses."""

from __future__ import annotations

import numpy as np

from autofit_ml.measure import clipped_sky
from autofit_ml.segmentation.shapes import Ellipse, mirrored

__all__ = ["blend_fraction", "ellipse_of_footprint", "ellipses_of_labels", "sky_outside"]


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
    return ellipses_of_labels(footprint.astype(np.int32))[1]


def ellipses_of_labels(labels: np.ndarray) -> dict[int, Ellipse]:
    """The ellipse of each label's second moments and area (labels: int, shape (ny, nx))."""
    rows, columns = np.nonzero(labels)
    label = labels[rows, columns]
    area = np.bincount(label)
    present = np.flatnonzero(area)

    def mean(values: np.ndarray) -> np.ndarray:
        return np.bincount(label, values, len(area))[present] / area[present]

    # Sums of whole numbers are exact.
    x, y = mean(columns), mean(rows)
    xx = mean(columns * columns) - x * x + 1 / 12
    yy = mean(rows * rows) - y * y + 1 / 12
    xy = mean(columns * rows) - x * y
    half = np.hypot((xx - yy) / 2, xy)
    middle = (xx + yy) / 2
    q = np.sqrt(np.maximum(middle - half, 0.02 * middle) / (middle + half))
    semi_major = np.sqrt(area[present] / (np.pi * q))
    theta = 0.5 * np.arctan2(2 * xy, xx - yy)
    table = np.stack([x, y, semi_major, q, theta], axis=1).tolist()
    return {int(k): Ellipse(*numbers) for k, numbers in zip(present, table, strict=True)}
