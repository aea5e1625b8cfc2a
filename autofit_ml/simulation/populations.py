"""Populations: numbers, sizes and shapes of galaxies and stars against i magnitude.

Simple laws that reproduce published ones within their scatter. Other bands are shifted by the
survey's typical colour (`Survey.colour`). A network needs the right mixture, not a cosmology;
`benchmarks/sky_comparison.py` puts the counts next to real fields.
"""

import functools
from collections.abc import Callable

import numpy as np

from autofit_ml.simulation.sources import inclined_axis_ratio, sersic_indices

__all__ = [
    "disc_axis_ratio",
    "draw_magnitudes",
    "early_type_fraction",
    "galaxy_counts",
    "population_index",
    "redrawn",
    "size_at",
    "spheroid_axis_ratio",
    "star_counts",
]


def galaxy_counts(magnitude) -> np.ndarray:
    """Galaxies brighter than `magnitude`, per square arcmin.

    ``46 * 10**(0.31 (m - 25))`` fainter than m = 22 (LSST Science Collaboration 2009,
    arXiv:0912.0201, eq. 3.7, i band); towards brighter magnitudes the slope grows to 0.40 and, from
    m = 18, to the Euclidean 0.6 (Yasuda et al. 2001, AJ 122, 1104).
    """
    m = np.asarray(magnitude, dtype=float)
    at22 = 46 * 10 ** (0.31 * (22 - 25))
    at18 = at22 * 10 ** (0.40 * (18 - 22))
    faint = 46 * 10 ** (0.31 * (m - 25))
    middle = at22 * 10 ** (0.40 * (m - 22))
    bright = at18 * 10 ** (0.60 * (m - 18))
    return np.where(m > 22, faint, np.where(m > 18, middle, bright))


def star_counts(magnitude) -> np.ndarray:
    """Stars brighter than `magnitude` at high galactic latitude, per square arcmin.

    0.55 at m = 20 with slopes 0.20 (brighter) and 0.12 (fainter): within 30 % of the model of
    Bahcall & Soneira (1980, ApJS 44, 73) at the galactic pole, V = 12 to 24.
    """
    m = np.asarray(magnitude, dtype=float)
    return 0.55 * 10 ** (np.where(m < 20, 0.20, 0.12) * (m - 20))


def draw_magnitudes(
    rng: np.random.Generator,
    kind: str,
    number: int,
    limits: tuple[float, float],
    colour: float = 0.0,
) -> np.ndarray:
    """Magnitudes between `limits` that follow the counts of ``galaxy`` or ``star``.

    `colour` is the band minus i: the counts are those of the i band.
    """
    grid, cumulative = _cumulative(kind, float(limits[0]) - colour, float(limits[1]) - colour)
    return np.interp(rng.uniform(size=number), cumulative, grid) + colour


@functools.lru_cache(maxsize=256)
def _cumulative(kind: str, low: float, high: float) -> tuple[np.ndarray, np.ndarray]:
    grid = np.linspace(low, high, 512)
    counts = galaxy_counts(grid) if kind == "galaxy" else star_counts(grid)
    span = counts[-1] - counts[0]
    if span <= 0:
        return grid, np.linspace(0, 1, len(grid))
    return grid, (counts - counts[0]) / span


def size_at(rng: np.random.Generator, magnitude: float) -> float:
    """Semi-major half-light radius, arcsec.

    Median disc scale length ``exp(-1.145 - 0.269 (m - 23))`` arcsec with a log-normal scatter of
    0.5 (Miller et al. 2013, MNRAS 429, 2858, section 4.2: fit to the Groth strip in i), times
    1.678; never below 0.02 arcsec.
    """
    scale = np.exp(-1.145 - 0.269 * (magnitude - 23) + 0.5 * rng.standard_normal())
    return float(max(1.678 * scale, 0.02))


def early_type_fraction(magnitude: float) -> float:
    """Part of the galaxies that are spheroids: 0.45 at m = 17, 0.12 at m = 25."""
    return float(np.clip(0.45 - 0.041 * (magnitude - 17), 0.12, 0.5))


def population_index(rng: np.random.Generator, early: bool, limits: tuple[float, float]) -> float:
    """Sérsic index: log-normal about 1.0 (discs, 0.35) or 3.5 (spheroids, 0.25), on the grid."""
    grid = sersic_indices(*limits)
    centre, width = (3.5, 0.25) if early else (1.0, 0.35)
    wanted = redrawn(lambda: np.exp(rng.normal(np.log(centre), width)), limits, 20)
    return float(grid[np.argmin(abs(np.log(grid / wanted)))])


def disc_axis_ratio(
    rng: np.random.Generator, thickness: float, limits: tuple[float, float]
) -> float:
    """Apparent axis ratio of a disc seen from a random direction."""

    return redrawn(
        lambda: inclined_axis_ratio(np.degrees(np.arccos(rng.uniform())), thickness), limits
    )


def spheroid_axis_ratio(rng: np.random.Generator, limits: tuple[float, float]) -> float:
    """Axis ratio of a spheroid: normal about 0.75, sigma 0.15."""
    return redrawn(lambda: rng.normal(0.75, 0.15), (limits[0], min(limits[1], 1.0)))


def redrawn(draw: Callable[[], float], limits: tuple[float, float], tries: int = 50) -> float:
    """The first number drawn that lies inside the limits; if none does, the last one clipped."""
    for _ in range(tries):
        value = draw()
        if limits[0] <= value <= limits[1]:
            break
    return float(np.clip(value, *limits))
