"""Footprints as ellipses: distances in units of an object's own isophote, growing, mirroring."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

__all__ = ["Ellipse", "ellipse_of_source", "grow_neighbours", "mirrored"]


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


def mirrored(image: np.ndarray, x: float, y: float, fill: float = 0.0) -> np.ndarray:
    """The image turned by 180 degrees about (x, y), to the nearest half pixel; `fill` outside."""
    ny, nx = image.shape
    rows = round(2 * y) - np.arange(ny)
    columns = round(2 * x) - np.arange(nx)
    inside_rows, inside_columns = (rows >= 0) & (rows < ny), (columns >= 0) & (columns < nx)
    result = np.full_like(image, fill)
    result[np.ix_(inside_rows, inside_columns)] = image[
        np.ix_(rows[inside_rows], columns[inside_columns])
    ]
    return result


def grow_neighbours(
    labels: np.ndarray,
    target: int,
    ellipses: dict[int, Ellipse],
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
        if label < growth.size:
            growth[label] = max(minimum, relative * ellipse.radius)
    # only pixels this near to a neighbour can be reached
    reach = int(np.ceil(growth.max())) + 1
    rows, columns = np.nonzero(others)
    window = (
        slice(max(rows.min() - reach, 0), rows.max() + reach + 1),
        slice(max(columns.min() - reach, 0), columns.max() + reach + 1),
    )
    distance, nearest = ndimage.distance_transform_edt(~others[window], return_indices=True)
    owner = labels[window][nearest[0], nearest[1]]
    grown = distance <= growth[owner]
    if target:
        contested = grown & (labels[window] == target)
        rows, columns = np.nonzero(contested)
        if rows.size:
            y, x = rows + window[0].start, columns + window[1].start
            to_target = ellipses[target].distance(x, y)
            owners = owner[rows, columns]
            keep = np.ones(rows.size, dtype=bool)
            for label in np.unique(owners):
                mine = owners == label
                keep[mine] = to_target[mine] < ellipses[int(label)].distance(x[mine], y[mine])
            grown[rows[keep], columns[keep]] = False
    result = np.zeros_like(others)
    result[window] = grown
    return result
