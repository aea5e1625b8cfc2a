"""Sources of a stamp or a frame, drawn from a recipe, without pixels."""

import math
from collections.abc import Callable, Sequence

import numpy as np

from autofit_ml.simulation.galaxies import draw_galaxy
from autofit_ml.simulation.populations import draw_magnitudes, galaxy_counts, star_counts
from autofit_ml.simulation.recipe import DataRecipe, Recipe
from autofit_ml.simulation.sources import Source

__all__ = ["draw_frame_scene", "draw_stamp_neighbours", "place_stamp_target"]


def place_stamp_target(
    rng: np.random.Generator, recipe: Recipe, unit_flux: Callable[[Source], float] | None = None
) -> Source:
    """The source at a stamp's centre.

    Parameters
    ----------
    rng : numpy.random.Generator
    recipe : Recipe
        With ``data.target``.
    unit_flux : callable, optional
        Given a galaxy of unit flux: the flux that reaches the S/N drawn (with ``target.snr``).
    """
    data, survey = recipe.data, recipe.survey
    target = data.target
    if target is None:
        raise ValueError("a frame has no target")
    ny, nx = data.shape
    dx, dy = rng.uniform(-target.max_shift, target.max_shift, 2)
    x, y = float((nx - 1) / 2 + dx), float((ny - 1) / 2 + dy)
    star = bool(rng.uniform() < target.star_probability)
    # Types and sizes are those of a typical magnitude when only the S/N is given.
    magnitude, flux, colour = 21.0, 1.0, 0.0
    if target.magnitude is not None:
        kind, colour = "star" if star else "galaxy", survey.colour
        magnitude = float(draw_magnitudes(rng, kind, 1, target.magnitude, colour)[0])
        flux = 10 ** (-0.4 * (magnitude - survey.zeropoint))
    if star:
        source = Source(x, y, flux, 0.0, float("nan"))
    else:
        about = {"magnitude": magnitude, "flux": flux, "x": x, "y": y, "colour": colour}
        source = draw_galaxy(rng, data.galaxies, survey.pixel_scale, **about)
    if target.magnitude is not None:
        return source
    if unit_flux is None:
        raise ValueError("a target of given S/N needs unit_flux")
    return source.with_flux(unit_flux(source))


def draw_stamp_neighbours(
    rng: np.random.Generator, recipe: Recipe, target: Source, psf_fwhm: float, margin: float
) -> list[tuple[Source, bool]]:
    """All sources of a stamp but its target, and whether a survey could detect each.

    False: below the recipe's cut.

    Parameters
    ----------
    rng : numpy.random.Generator
    recipe : Recipe
    target : Source
    psf_fwhm : float
        pixels.
    margin : float
        Sources are placed this far beyond the borders too, pixels.
    """
    data, survey = recipe.data, recipe.survey
    settings, scale = data.neighbours, survey.pixel_scale
    ny, nx = data.shape
    target_magnitude = survey.zeropoint - 2.5 * math.log10(target.flux)
    area = (ny + 2 * margin) * (nx + 2 * margin) * (scale / 60) ** 2
    inside = ny * nx * (scale / 60) ** 2
    if settings.number is not None:
        number = int(rng.poisson(settings.number * area / inside))
        stars = rng.uniform(size=number) < settings.star_fraction
        magnitudes = target_magnitude + rng.uniform(*settings.relative_magnitude, number)
    else:
        stars, magnitudes = _from_counts(rng, recipe, area)
    reach = settings.clustering.scale / scale
    closest = settings.min_separation * psf_fwhm
    taken = [(target.x, target.y)]
    sources: list[tuple[Source, bool]] = []
    for star, magnitude, seen in _with_faint(rng, recipe, area, stars, magnitudes):
        near = settings.clustering.stars or not star
        parent = target if near and rng.uniform() < settings.clustering.fraction else None
        place = _position(rng, data, parent, reach, margin, taken if seen else [], closest)
        if place is None:
            continue
        if seen:
            taken.append(place)
        sources.append((_source(rng, recipe, star, magnitude, *place), seen))
    return sources


def draw_frame_scene(rng: np.random.Generator, recipe: Recipe) -> list[tuple[Source, bool]]:
    """All sources of a frame as in `draw_stamp_neighbours`, detectable ones first."""
    data, survey = recipe.data, recipe.survey
    settings = data.neighbours
    ny, nx = data.shape
    area = ny * nx * (survey.pixel_scale / 60) ** 2
    every = _with_faint(rng, recipe, area, *_from_counts(rng, recipe, area))
    reach = settings.clustering.scale / survey.pixel_scale
    galaxies: list[Source] = []
    sources: list[tuple[Source, bool]] = []
    for star, magnitude, seen in every:
        parent = None
        if not star and galaxies and rng.uniform() < settings.clustering.fraction:
            parent = galaxies[int(rng.integers(len(galaxies)))]
        place = _position(rng, data, parent, reach, 0.0, [], 0.0)
        if place is None:
            continue
        source = _source(rng, recipe, star, magnitude, *place)
        sources.append((source, seen))
        if not star:
            galaxies.append(source)
    return sources


def _from_counts(
    rng: np.random.Generator, recipe: Recipe, area: float
) -> tuple[np.ndarray, np.ndarray]:
    """Stars (bool) and magnitudes of the sources above the cut in `area` square arcmin."""
    settings, colour = recipe.data.neighbours, recipe.survey.colour
    limits = settings.magnitude
    if limits is None:
        return np.zeros(0, dtype=bool), np.zeros(0)
    numbers = [
        int(rng.poisson(factor * area * _between(counts, limits, colour)))
        for counts, factor in (
            (galaxy_counts, settings.galaxy_density),
            (star_counts, settings.star_density),
        )
    ]
    magnitudes = [
        draw_magnitudes(rng, kind, number, limits, colour)
        for kind, number in zip(("galaxy", "star"), numbers, strict=True)
    ]
    stars = np.repeat([False, True], numbers)
    order = rng.permutation(sum(numbers))
    return stars[order], np.concatenate(magnitudes)[order]


def _between(counts: Callable, limits: tuple[float, float], colour: float) -> float:
    """Sources per square arcmin between two magnitudes of a band of this colour."""
    return float(counts(limits[1] - colour) - counts(limits[0] - colour))


def _with_faint(
    rng: np.random.Generator,
    recipe: Recipe,
    area: float,
    stars: np.ndarray,
    magnitudes: np.ndarray,
) -> list[tuple[bool, float, bool]]:
    """(star, magnitude, detectable) of the given sources, then of galaxies below the cut."""
    every = [(bool(k), float(m), True) for k, m in zip(stars, magnitudes, strict=True)]
    settings, colour = recipe.data.neighbours, recipe.survey.colour
    if settings.faint_magnitude is None or settings.magnitude is None:
        return every
    limits = (settings.magnitude[1], settings.faint_magnitude)
    mean = settings.galaxy_density * area * _between(galaxy_counts, limits, colour)
    faint = draw_magnitudes(rng, "galaxy", int(rng.poisson(mean)), limits, colour)
    return [*every, *((False, float(magnitude), False) for magnitude in faint)]


def _source(
    rng: np.random.Generator, recipe: Recipe, star: bool, magnitude: float, x: float, y: float
) -> Source:
    flux = 10 ** (-0.4 * (magnitude - recipe.survey.zeropoint))
    if star:
        return Source(x, y, flux, 0.0, float("nan"))
    galaxies, sizes = recipe.data.galaxies, recipe.data.neighbours.re
    if recipe.data.kind == "stamp" and galaxies.re is not None and sizes is None:
        # A fixed range is the target's: its neighbours go from half the smallest to the middle.
        low, high = galaxies.re
        sizes = 0.5 * low, max(math.sqrt(low * high), 0.5 * low)
    if sizes is not None:
        galaxies = galaxies.model_copy(update={"re": sizes})
    return draw_galaxy(
        rng,
        galaxies,
        recipe.survey.pixel_scale,
        magnitude=magnitude,
        flux=flux,
        x=x,
        y=y,
        colour=recipe.survey.colour,
    )


def _position(
    rng: np.random.Generator,
    data: DataRecipe,
    parent: Source | None,
    reach: float,
    margin: float,
    taken: Sequence[tuple[float, float]],
    closest: float,
) -> tuple[float, float] | None:
    """A free place: uniform, or by the clustering law around `parent`; None if there is none."""
    ny, nx = data.shape
    slope = data.neighbours.clustering.slope
    for _ in range(50):
        if parent is None:
            x, y = rng.uniform(-margin, nx - 1 + margin), rng.uniform(-margin, ny - 1 + margin)
        else:
            # Surface density ~ r^-slope: the cumulative number grows as r^(2 - slope).
            radius = reach * rng.uniform() ** (1 / (2 - slope))
            angle = rng.uniform(0, 2 * np.pi)
            x, y = parent.x + radius * np.cos(angle), parent.y + radius * np.sin(angle)
            if not (-margin <= x <= nx - 1 + margin and -margin <= y <= ny - 1 + margin):
                continue
        if all((x - a) ** 2 + (y - b) ** 2 >= closest**2 for a, b in taken):
            return float(x), float(y)
    return None
