"""What is where: sources and their parameters, in the package's conventions. No pixels here."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from autofit_ml.errors import SettingsError

__all__ = ["Source", "draw_neighbours", "draw_target", "sersic_indices"]

_INDEX_GRID = np.round(np.geomspace(0.3, 6.2, 100), 4)
"""Sérsic indices that random scenes use: GalSim tabulates each index once and keeps 100."""


@dataclass(frozen=True)
class Source:
    """One Sérsic galaxy or one star.

    Attributes
    ----------
    x, y : float
        Centre, 0-based pixels (the centre of the first pixel is 0, 0).
    flux : float
        Total flux to infinity, image units.
    re : float
        Half-light radius along the semi-major axis, pixels; 0 for a star.
    n : float
        Sérsic index, 0.3 to 6.2 (GalSim's range); NaN for a star.
    q : float
        Axis ratio b/a in (0, 1].
    pa : float
        Degrees counter-clockwise from +y (up 0, left 90), in [0, 180).
    """

    x: float
    y: float
    flux: float
    re: float
    n: float
    q: float = 1.0
    pa: float = 0.0

    @property
    def is_star(self) -> bool:
        """True for a point source."""
        return self.re == 0

    def replace(self, **changes) -> Source:
        """A copy with some attributes changed."""
        return dataclasses.replace(self, **changes)

    def elliptical_radius(self, shape: tuple[int, int]) -> np.ndarray:
        """Semi-major radius (pixels) of the ellipse through each pixel centre, shape (ny, nx)."""
        dy, dx = np.ogrid[: shape[0], : shape[1]]
        dx, dy = dx - self.x, dy - self.y
        theta = np.deg2rad(self.pa)
        major = -dx * np.sin(theta) + dy * np.cos(theta)
        minor = dx * np.cos(theta) + dy * np.sin(theta)
        return np.hypot(major, minor / self.q)


def sersic_indices(low: float, high: float) -> np.ndarray:
    """Sérsic indices between `low` and `high` that random scenes draw from (at most 100).

    A fixed logarithmic grid from 0.3 to 6.2 (steps of 3 %); `low` alone when no grid value lies
    between the two.
    """
    if not 0.3 <= low <= high <= 6.2:
        raise SettingsError(f"Sérsic index range {low}..{high}", "GalSim draws 0.3 to 6.2")
    inside = np.logical_and(np.greater_equal(_INDEX_GRID, low), np.less_equal(_INDEX_GRID, high))
    grid = _INDEX_GRID[inside]
    return grid if grid.size else np.array([low])


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def draw_target(
    rng: np.random.Generator,
    shape: tuple[int, int],
    *,
    n: tuple[float, float],
    re: tuple[float, float],
    q: tuple[float, float],
    max_shift: float = 0.5,
) -> Source:
    """A galaxy of unit flux near the stamp's centre.

    `n` and `re` are log-uniform (n on the grid of `sersic_indices`), q and pa uniform, the centre
    uniform within `max_shift` pixels of the stamp's centre along each axis.
    """
    dx, dy = rng.uniform(-max_shift, max_shift, 2)
    return Source(
        x=(shape[1] - 1) / 2 + dx,
        y=(shape[0] - 1) / 2 + dy,
        flux=1.0,
        re=_log_uniform(rng, *re),
        n=float(rng.choice(sersic_indices(*n))),
        q=float(rng.uniform(*q)),
        pa=float(rng.uniform(0, 180)),
    )


def draw_neighbours(
    rng: np.random.Generator,
    target: Source,
    shape: tuple[int, int],
    rate: float,
    *,
    flux_ratio: tuple[float, float] = (0.03, 1.0),
    n: tuple[float, float] = (0.5, 4.0),
    re: tuple[float, float] = (1.5, 5.0),
    star_fraction: float = 0.3,
    min_distance: float = 4.0,
) -> tuple[Source, ...]:
    """Other sources in the stamp.

    The number is Poisson with mean `rate`; positions are uniform over the stamp but at least
    ``max(min_distance, 1.5 re)`` pixels (along the target's ellipse) from the target; fluxes are
    log-uniform in `flux_ratio` times the target's.
    """
    neighbours: list[Source] = []
    for _ in range(rng.poisson(rate)):
        for _attempt in range(50):
            x, y = rng.uniform(0, shape[1] - 1), rng.uniform(0, shape[0] - 1)
            dx, dy, theta = x - target.x, y - target.y, np.deg2rad(target.pa)
            radius = np.hypot(
                -dx * np.sin(theta) + dy * np.cos(theta),
                (dx * np.cos(theta) + dy * np.sin(theta)) / target.q,
            )
            if radius > 1.5 * target.re and np.hypot(dx, dy) > min_distance:
                break
        else:
            continue
        flux = target.flux * _log_uniform(rng, *flux_ratio)
        if rng.uniform() < star_fraction:
            neighbours.append(Source(x, y, flux, re=0.0, n=float("nan")))
        else:
            neighbours.append(
                Source(
                    x,
                    y,
                    flux,
                    re=_log_uniform(rng, *re),
                    n=float(rng.choice(sersic_indices(*n))),
                    q=float(rng.uniform(0.3, 1)),
                    pa=float(rng.uniform(0, 180)),
                )
            )
    return tuple(neighbours)
