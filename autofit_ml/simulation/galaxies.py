"""One galaxy: sizes, shapes and components, drawn from a recipe. No pixels here."""

import math
from typing import Any

import numpy as np

from autofit_ml.simulation.populations import (
    disc_axis_ratio,
    early_type_fraction,
    population_index,
    redrawn,
    size_at,
    spheroid_axis_ratio,
)
from autofit_ml.simulation.recipe import Galaxies
from autofit_ml.simulation.sources import Component, Source, composite, from_axes, sersic_indices

__all__ = ["draw_galaxy", "log_uniform"]


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
    bulges = () if share < 0.005 else (_bulge(rng, galaxies, flux * share, re, disc_q, pa),)
    disc = Component("disc", flux * (1 - share) if bulges else flux, re, 1.0, disc_q, pa, thickness)
    return composite(x, y, (disc, *bulges), "bulge_disc")


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
    bulge_share = 0.0 if irregular else float(rng.uniform(*galaxies.bulge_disc.bulge_fraction))
    bar_share = ring_share = 0.0
    if not irregular and rng.uniform() < settings.bar_probability:
        bar_share = float(rng.uniform(*settings.bar_fraction))
    if not irregular and settings.ring_probability and rng.uniform() < settings.ring_probability:
        ring_share = float(rng.uniform(*settings.ring_fraction))
    wanted = knot_share + bulge_share + bar_share + ring_share
    others = min(wanted, 0.9)
    scale = others / max(wanted, 1e-9)
    phase, pitch = float(rng.uniform(0, 360)), float(rng.uniform(*settings.pitch))
    amplitude = 0.0 if irregular else float(rng.uniform(*settings.arms))
    arms: dict[str, Any] = {"amplitude": amplitude, "pitch": pitch, "phase": phase}
    parts = [
        Component("spiral", flux * (1 - others), re, 1.0, q, pa, **arms),
        _knots(rng, settings.knots, flux * knot_share * scale, re, q, pa, pitch, phase, irregular),
    ]
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
