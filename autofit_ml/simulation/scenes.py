"""What is where: sources of a stamp or a frame, drawn from a recipe. No pixels here."""

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np

from autofit_ml.simulation.populations import (
    disc_axis_ratio,
    draw_magnitudes,
    early_type_fraction,
    galaxy_counts,
    population_index,
    redrawn,
    size_at,
    spheroid_axis_ratio,
    star_counts,
)
from autofit_ml.simulation.recipe import DataRecipe, Galaxies, Recipe
from autofit_ml.simulation.sources import (
    Component,
    Source,
    composite,
    from_axes,
    sersic_indices,
)

__all__ = [
    "draw_frame_scene",
    "draw_galaxy",
    "draw_stamp_neighbours",
    "log_uniform",
    "place_stamp_target",
]


def log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    """One number between two limits, uniform in its logarithm."""
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def draw_galaxy(
    rng: np.random.Generator,
    galaxies: Galaxies,
    pixel_scale: float,
    *,
    magnitude: float,
    flux: float,
    x: float = 0.0,
    y: float = 0.0,
    colour: float = 0.0,
) -> Source:
    """One galaxy of given brightness.

    Parameters
    ----------
    rng : numpy.random.Generator
    galaxies : Galaxies
        Ranges and distributions.
    pixel_scale : float
        arcsec per pixel.
    magnitude : float
        AB; sizes and types depend on it.
    flux : float
        Image units.
    x, y : float
        Pixels.
    colour : float
        Band minus i: the laws for sizes and types are of the i band.

    Returns
    -------
    Source
    """
    source = _without_nucleus(rng, galaxies, pixel_scale, magnitude - colour, flux, x, y)
    if not (galaxies.nucleus_probability and rng.uniform() < galaxies.nucleus_probability):
        return source
    share = log_uniform(rng, *galaxies.nucleus_fraction)
    nucleus = Component("point", flux * share, 0.0)
    kind = "bulge_disc" if source.kind == "sersic" else source.kind
    return composite(x, y, (*source.with_flux(flux * (1 - share)).parts, nucleus), kind)


def _without_nucleus(
    rng: np.random.Generator,
    galaxies: Galaxies,
    pixel_scale: float,
    magnitude: float,
    flux: float,
    x: float,
    y: float,
) -> Source:
    kinds = sorted(galaxies.morphology)
    weights = np.array([galaxies.morphology[kind] for kind in kinds], dtype=float)
    kind = kinds[int(rng.choice(len(kinds), p=weights / weights.sum()))]
    if galaxies.re is not None:
        re = log_uniform(rng, *galaxies.re)
    else:
        re = redrawn(lambda: size_at(rng, magnitude) / pixel_scale, galaxies.re_limits)
    pa = float(rng.uniform(0, 180))
    if kind == "real":
        from autofit_ml.simulation.real import draw_real_galaxy

        return draw_real_galaxy(rng, galaxies, pixel_scale, x=x, y=y, flux=flux)
    if kind == "bulge_disc":
        return _bulge_disc(rng, galaxies, x, y, flux, re, pa)
    if kind == "structured":
        return _structured(rng, galaxies, x, y, flux, re, pa)
    early = rng.uniform() < early_type_fraction(magnitude)
    if galaxies.n_distribution == "population":
        n = population_index(rng, early, galaxies.n)
    else:
        n = float(rng.choice(sersic_indices(*galaxies.n)))
    if galaxies.q_distribution == "uniform":
        q = float(rng.uniform(*galaxies.q))
    elif early or n > 2.5:
        q = spheroid_axis_ratio(rng, galaxies.q)
    else:
        q = disc_axis_ratio(rng, rng.uniform(*galaxies.bulge_disc.thickness), galaxies.q)
    return Source(x, y, flux, re, n, q, pa)


def _bulge_disc(
    rng: np.random.Generator,
    galaxies: Galaxies,
    x: float,
    y: float,
    flux: float,
    re: float,
    pa: float,
) -> Source:
    """Bulge + inclined disc of one centre; `re` is the disc's."""
    settings = galaxies.bulge_disc
    thickness = float(rng.uniform(*settings.thickness))
    disc_q = disc_axis_ratio(rng, thickness, galaxies.q)
    share = float(rng.uniform(*settings.bulge_fraction))
    disc = Component("disc", flux * (1 - share), re, 1.0, disc_q, pa, thickness)
    if share < 0.005:
        disc = dataclasses.replace(disc, flux=flux)
        return composite(x, y, (disc,), "bulge_disc")
    bulge = _bulge(rng, galaxies, flux * share, re, disc_q, pa)
    return composite(x, y, (disc, bulge), "bulge_disc")


def _bulge(
    rng: np.random.Generator,
    galaxies: Galaxies,
    flux: float,
    disc_re: float,
    disc_q: float,
    pa: float,
) -> Component:
    settings = galaxies.bulge_disc
    # An oblate spheroid seen from the disc's direction: between round and the disc's shape.
    q = float(np.clip(math.sqrt(disc_q**2 + (1 - disc_q**2) * rng.uniform(0.35, 0.9)), 0.3, 1.0))
    return Component(
        "sersic",
        flux,
        max(disc_re * log_uniform(rng, *settings.size_ratio), 0.1),
        float(rng.choice(sersic_indices(*settings.bulge_n))),
        q,
        (pa + rng.normal(0, 5)) % 180,
    )


def _structured(
    rng: np.random.Generator,
    galaxies: Galaxies,
    x: float,
    y: float,
    flux: float,
    re: float,
    pa: float,
) -> Source:
    """Disc with arms, knots, a bulge and perhaps a bar; or an irregular galaxy."""
    settings = galaxies.structure
    irregular = rng.uniform() < settings.irregular_probability
    thickness = float(rng.uniform(*galaxies.bulge_disc.thickness))
    q = disc_axis_ratio(rng, thickness, (max(galaxies.q[0], 0.2), galaxies.q[1]))
    knot_share = float(rng.uniform(*settings.knot_fraction)) * (2 if irregular else 1)
    parts: list[Component] = []
    bulge_share = 0.0 if irregular else float(rng.uniform(*galaxies.bulge_disc.bulge_fraction))
    bar_share = 0.0
    if not irregular and rng.uniform() < settings.bar_probability:
        bar_share = float(rng.uniform(*settings.bar_fraction))
    ring_share = 0.0
    if not irregular and settings.ring_probability and rng.uniform() < settings.ring_probability:
        ring_share = float(rng.uniform(*settings.ring_fraction))
    wanted = knot_share + bulge_share + bar_share + ring_share
    others = min(wanted, 0.9)
    scale = others / max(wanted, 1e-9)
    phase, pitch = float(rng.uniform(0, 360)), float(rng.uniform(*settings.pitch))
    amplitude = 0.0 if irregular else float(rng.uniform(*settings.arms))
    parts.append(
        Component(
            "spiral",
            flux * (1 - others),
            re,
            1.0,
            q,
            pa,
            amplitude=amplitude,
            pitch=pitch,
            phase=phase,
        )
    )
    parts.append(
        _knots(rng, settings.knots, flux * knot_share * scale, re, q, pa, pitch, phase, irregular)
    )
    if bulge_share > 0.005:
        parts.append(_bulge(rng, galaxies, flux * bulge_share * scale, re, q, pa))
    if bar_share > 0:
        # In the disc's plane at a random angle, then projected.
        length = re * float(rng.uniform(0.35, 0.7))
        bar_q, bar_pa = _projected(length, 0.25, float(rng.uniform(0, 180)), q, pa)
        parts.append(Component("sersic", flux * bar_share * scale, length, 0.5, bar_q, bar_pa))
    if ring_share > 0:
        radius = re * float(rng.uniform(0.8, 1.6))
        width = radius * float(rng.uniform(0.08, 0.25))
        share = flux * ring_share * scale
        parts.append(Component("ring", share, radius, float("nan"), q, pa, knot_sigma=width))
    return composite(x, y, tuple(parts), "irregular" if irregular else "structured")


def _knots(
    rng: np.random.Generator,
    numbers: tuple[int, int],
    flux: float,
    re: float,
    q: float,
    pa: float,
    pitch: float,
    phase: float,
    irregular: bool,
) -> Component:
    """Star-forming knots: on the arms, or anywhere in an irregular galaxy."""
    number = int(rng.integers(numbers[0], numbers[1] + 1))
    scale = re / 1.6783469900166605
    radius = scale * rng.gamma(2.0, 1.0, number).clip(0.3, 4.0)
    if irregular:
        azimuth = rng.uniform(0, 2 * np.pi, number)
    else:
        # Crests of the arms: 2 phi = 2 ln(r / scale) / tan(pitch) - phase (mod 2 pi).
        crest = np.log(radius / scale) / np.tan(np.deg2rad(pitch)) - np.deg2rad(phase) / 2
        azimuth = crest + np.pi * rng.integers(0, 2, number) + rng.normal(0, 0.25, number)
    along, across = radius * np.cos(azimuth), q * radius * np.sin(azimuth)
    if irregular:
        # Lopsided: the brightest regions lie to one side.
        along, across = along + 0.3 * scale * rng.normal(), across + 0.3 * scale * rng.normal()
    dx, dy = from_axes(along, across, pa)
    share = rng.pareto(1.5, number) + 0.3  # luminosity function of HII regions: dN/dL ~ L^-2.5
    share = np.minimum(share, 8 * np.median(share))
    return Component(
        "knots",
        flux,
        re,
        float("nan"),
        q,
        pa,
        offsets=np.column_stack([dx, dy, share / share.sum()]),
        knot_sigma=float(max(re * rng.uniform(0.03, 0.08), 0.15)),
    )


def _projected(
    length: float, ratio: float, angle: float, q: float, pa: float
) -> tuple[float, float]:
    """Axis ratio and position angle of an ellipse in the plane of an inclined disc."""
    theta = np.deg2rad(angle)
    turn = np.array([[np.cos(theta), -np.sin(theta)], [np.sin(theta), np.cos(theta)]])
    shape = turn @ np.diag([1.0, ratio**2]) @ turn.T  # along, across the line of nodes
    squeeze = np.diag([1.0, q])
    values, vectors = np.linalg.eigh(squeeze @ shape @ squeeze)
    along, across = vectors[:, 1]
    axis = np.rad2deg(np.arctan2(across, along))
    # across is towards +x at pa = 0, clockwise from +y.
    return float(np.sqrt(values[0] / values[1])), float((pa - axis) % 180)


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
    numbers = []
    for counts, factor in (
        (galaxy_counts, settings.galaxy_density),
        (star_counts, settings.star_density),
    ):
        mean = factor * area * float(counts(limits[1] - colour) - counts(limits[0] - colour))
        numbers.append(int(rng.poisson(mean)))
    magnitudes = [
        draw_magnitudes(rng, kind, number, limits, colour)
        for kind, number in zip(("galaxy", "star"), numbers, strict=True)
    ]
    stars = np.repeat([False, True], numbers)
    order = rng.permutation(sum(numbers))
    return stars[order], np.concatenate(magnitudes)[order]


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
    number = float(galaxy_counts(limits[1] - colour) - galaxy_counts(limits[0] - colour))
    mean = settings.galaxy_density * area * number
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
        # A fixed range of sizes is the target's; the others have sizes of their magnitudes
        # relative to it.
        sizes = _neighbour_sizes(galaxies)
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


def _neighbour_sizes(galaxies: Galaxies) -> tuple[float, float]:
    """Neighbours in pixels: from half the smallest target to its middle size."""
    low, high = galaxies.re or (1.0, 1.0)
    return 0.5 * low, max(math.sqrt(low * high), 0.5 * low)


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
