"""Footprints of objects: ellipses, moments, growing, and the light that symmetry expects.

Distances are in units of an object's own isophote.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import ndimage

__all__ = [
    "Ellipse",
    "ellipse_of_footprint",
    "ellipse_of_source",
    "ellipses_of_labels",
    "expected_light",
    "grow_neighbours",
    "mirrored",
    "moments_of_labels",
    "pixel_at",
    "renumbered",
]


@dataclass(frozen=True)
class Ellipse:
    """The ellipse of an object's detection isophote.

    Attributes
    ----------
    x, y : float
        Centre, 0-based pixels.
    semi_major : float
        Pixels.
    q : float
        Axis ratio in (0, 1].
    theta : float
        Radians counter-clockwise from +x.
    """

    x: float
    y: float
    semi_major: float
    q: float
    theta: float

    @property
    def radius(self) -> float:
        """Radius of the circle of equal area, pixels."""
        return float(self.semi_major * np.sqrt(self.q))

    def distance(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Elliptical distance of points from the centre; 1 on the isophote."""
        dx, dy = x - self.x, y - self.y
        cosine, sine = np.cos(self.theta), np.sin(self.theta)
        major = cosine * dx + sine * dy
        minor = (cosine * dy - sine * dx) / self.q
        return np.sqrt(major * major + minor * minor) / self.semi_major

    def distance_map(self, shape: tuple[int, int]) -> np.ndarray:
        """`distance` of every pixel centre, shape (ny, nx)."""
        return self.distance(np.arange(shape[1]), np.arange(shape[0])[:, None])


def ellipse_of_source(source: np.void, area: float) -> Ellipse:
    """The ellipse of one row of sep's catalogue whose footprint has `area` pixels.

    sep's second moments give axis ratio (not below 0.15) and angle, the area the size.
    """
    q = float(np.clip(source["b"] / source["a"], 0.15, 1.0)) if source["a"] > 0 else 1.0
    return Ellipse(
        x=float(source["x"]),
        y=float(source["y"]),
        semi_major=float(np.sqrt(max(area, 1.0) / (np.pi * q))),
        q=q,
        theta=float(source["theta"]),
    )


def mirrored(image: np.ndarray, x: float, y: float) -> np.ndarray:
    """The image turned by 180 degrees about (x, y), to the nearest half pixel; 0 outside."""
    # pixel i comes from pixel 2 * centre - i: what has a partner inside is a box turned in itself
    box = tuple(
        slice(max(twice - side + 1, 0), max(min(twice + 1, side), 0))
        for twice, side in zip((round(2 * y), round(2 * x)), image.shape, strict=True)
    )
    result = np.zeros_like(image)
    result[box] = image[box][::-1, ::-1]
    return result


def ellipse_of_footprint(footprint: np.ndarray) -> Ellipse:
    """The ellipse of a footprint's second moments and area (shape (ny, nx), bool)."""
    return ellipses_of_labels(footprint.astype(np.int32))[1]


def ellipses_of_labels(labels: np.ndarray) -> dict[int, Ellipse]:
    """The ellipse of each label's second moments and area (labels: int, shape (ny, nx))."""
    label, area, x, y, major2, minor2, theta = moments_of_labels(labels)
    q = np.sqrt(np.maximum(minor2, 0.01 * (major2 + minor2)) / major2)
    table = np.stack([x, y, np.sqrt(area / (np.pi * q)), q, theta], axis=1).tolist()
    return {int(k): Ellipse(*numbers) for k, numbers in zip(label, table, strict=True)}


def moments_of_labels(labels: np.ndarray, light: np.ndarray | None = None) -> list[np.ndarray]:
    """Area, centre and second moments of each label that occurs.

    Parameters
    ----------
    labels : ndarray of int, shape (ny, nx)
        0 = sky.
    light : ndarray, shape (ny, nx), optional
        Weights of the pixels, negative ones as 0; all alike if not given, or in an instance
        without any light.

    Returns
    -------
    list of ndarray, shape (k,)
        Label, pixels, centre x and y, variances along the major and the minor axis (the pixels'
        own 1/12 included), angle of the major axis in radians counter-clockwise from +x.
    """
    rows, columns = np.nonzero(labels)
    label = labels[rows, columns]
    weight = None
    if light is not None:
        weight = np.maximum(light[rows, columns], 0, dtype=float) + 1e-30
    area = np.bincount(label)
    present = np.flatnonzero(area)
    total = (area if weight is None else np.bincount(label, weight))[present]

    def mean(values: np.ndarray) -> np.ndarray:
        weighted = values if weight is None else weight * values
        return np.bincount(label, weighted, len(area))[present] / total

    # Without weights, sums of whole numbers are exact.
    x, y = mean(columns), mean(rows)
    xx = mean(columns * columns) - x * x + 1 / 12
    yy = mean(rows * rows) - y * y + 1 / 12
    xy = mean(columns * rows) - x * y
    middle, half = (xx + yy) / 2, np.hypot((xx - yy) / 2, xy)
    theta = 0.5 * np.arctan2(2 * xy, xx - yy)
    return [present, area[present], x, y, middle + half, middle - half, theta]


def pixel_at(image: np.ndarray, position: tuple[float, float]) -> Any:
    """The value of the pixel at a position (x, y), or of the nearest where that lies outside."""
    (x, y), (ny, nx) = position, image.shape
    return image[min(max(round(y), 0), ny - 1), min(max(round(x), 0), nx - 1)].item()


def renumbered(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Labels 1, 2, ... in the order of the given ones (int32), and what each of these was."""
    count = np.bincount(labels.ravel())
    count[0] = 0
    given = np.flatnonzero(count)
    mapping = np.zeros(len(count), dtype=np.int32)
    mapping[given] = np.arange(1, len(given) + 1)
    return mapping[labels], given


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


def grow_neighbours(
    labels: np.ndarray,
    target: int,
    ellipses: Mapping[int, Ellipse],
    *,
    relative: float,
    minimum: float,
) -> np.ndarray:
    """Pixels of other objects, grown into their faint outskirts but not into the target's core.

    A footprint grows by ``max(minimum, relative * radius)`` pixels. Where it would reach into the
    target's own footprint, a pixel goes to whichever of the two it is nearer to in units of their
    isophotes.

    Parameters
    ----------
    labels : ndarray, int32, shape (ny, nx)
    target : int
        0: no target to protect.
    ellipses : dict
        Label -> `Ellipse` of every label present.
    relative, minimum : float
        See above; `minimum` in pixels.

    Returns
    -------
    ndarray, bool, shape (ny, nx)
    """
    others = (labels != 0) & (labels != target)
    if not others.any():
        return others
    growth = np.full(int(labels.max()) + 1, minimum)
    for label, ellipse in ellipses.items():
        growth[label] = max(minimum, relative * ellipse.radius)
    # only pixels this near to a neighbour can be reached
    reach = int(np.ceil(growth.max())) + 1
    rows, columns = np.nonzero(others)
    top, left = max(rows.min() - reach, 0), max(columns.min() - reach, 0)
    window = (slice(top, rows.max() + reach + 1), slice(left, columns.max() + reach + 1))
    distance, nearest = ndimage.distance_transform_edt(~others[window], return_indices=True)
    owner = labels[window][nearest[0], nearest[1]]
    grown = distance <= growth[owner]
    contested = grown & (labels[window] == target) & (target > 0)
    for label in np.unique(owner[contested]):
        rows, columns = np.nonzero(contested & (owner == label))
        x, y = columns + left, rows + top
        own = ellipses[target].distance(x, y) < ellipses[int(label)].distance(x, y)
        grown[rows[own], columns[own]] = False
    result = np.zeros_like(others)
    result[window] = grown
    return result
