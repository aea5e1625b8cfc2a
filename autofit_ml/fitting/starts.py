"""Starting values of a scene's components, from one Sérsic start of the whole object.

A single start does not do for several components: which of them is compact, and which share of the
light it has, is what wrong minima are made of. Each variant here is a guess of shares and sizes;
the search takes all of them towards their minima and the best goes on.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch

from autofit_ml.errors import SettingsError
from autofit_ml.fitting.neighbours import Neighbour
from autofit_ml.scenes.model import Component, Scene

__all__ = ["component_starts", "neighbour_values"]

Values = dict[str, np.ndarray]
""" "component.parameter" -> (B,) catalogue values."""

_INDICES = (1.0, 4.0)
"""Sérsic indices of further starts of one component."""

_BULGES = ((0.5, 0.4, 1.3), (0.2, 0.25, 1.1), (0.75, 0.7, 2.2))
"""Share of the compact component, its size and that of the extended one in sizes of the whole."""

_POINTS = (0.15, 0.5)
"""Share of the light in point sources beside an extended component."""

_DISCY = ("exponential", "edge_on_disc", "ferrer")


def component_starts(
    scene: Scene,
    start: np.ndarray,
    ln_n_sigma: np.ndarray,
    known: Mapping[str, np.ndarray] | None = None,
) -> list[Values]:
    """Variants of starting values.

    Parameters
    ----------
    scene : Scene
        Without neighbours.
    start : ndarray, (B, 8)
        x, y, flux, re, n, q, pa, sky of one Sérsic profile.
    ln_n_sigma : ndarray, (B,)
        How well ln n of the start is known; 0 if unknown.
    known : mapping of str to ndarray, (B,), optional
        Values that are known from elsewhere: in the place of guesses; NaN where they are not.

    Returns
    -------
    list of dict
        At least one; values given in the model override the guesses.
    """
    extended = [c for c in scene.components if "re" in c.profile.parameters]
    points = [c for c in scene.components if "re" not in c.profile.parameters]
    variants: list[Values] = []
    for shares, sizes, indices in _guesses(extended, points, start, ln_n_sigma):
        values: Values = {}
        for component in scene.components:
            values.update(_of_component(component, start, shares, sizes, indices))
        for name, given in (known or {}).items():
            if name in values:
                lit = (given > 0) | (not name.endswith(".flux"))  # what was found without light
                values[name] = np.where(np.isfinite(given) & lit, given, values[name])
        _apply_model(scene, values, len(start))
        variants.append(values)
    return variants


def _guesses(
    extended: Sequence[Component],
    points: Sequence[Component],
    start: np.ndarray,
    ln_n_sigma: np.ndarray,
) -> list[tuple[dict[str, float], dict[str, float | np.ndarray], dict[str, np.ndarray]]]:
    """(share, size in sizes of the whole, Sérsic index) of each component, some of each."""
    n = start[:, 4]
    out = []
    if not extended:
        share = 1.0 / max(1, len(points))
        return [({c.name: share for c in points}, {}, {})]
    if len(extended) == 1:
        (one,) = extended
        shares_of_points = _POINTS if points else (0.0,)
        # Flux and size follow the index such that the light inside the isophote stays.
        trials = [n]
        if "n" in one.profile.parameters:
            side = np.where(ln_n_sigma > 0, 1.5 * ln_n_sigma, np.nan)
            for k, fixed in enumerate(_INDICES):
                turned = n * np.exp(side if k else -side)
                trials.append(np.where(np.isfinite(turned), turned, fixed))
        for share in shares_of_points:
            for index in trials[: 1 if points and share > 0.3 else None]:
                ratio = np.log(np.clip(index, 0.3, 8) / n)
                size = np.exp(np.clip(0.5 * ratio, -0.7, 0.7))
                out.append(
                    (
                        {one.name: 1 - share} | {c.name: share / len(points) for c in points},
                        {one.name: size},
                        {one.name: index},
                    )
                )
        return out
    point_share = 0.1 if points else 0.0
    if len(extended) == 2:
        bulge, disc = extended
        if bulge.profile.name in _DISCY and disc.profile.name not in _DISCY:
            bulge, disc = disc, bulge
        for share, small, large in _BULGES:
            rest = 1 - point_share
            out.append(
                (
                    {bulge.name: share * rest, disc.name: (1 - share) * rest}
                    | {c.name: point_share / len(points) for c in points},
                    {bulge.name: small, disc.name: large},
                    {bulge.name: np.clip(n, 1.5, 4.0), disc.name: np.ones_like(n)},
                )
            )
        return out
    sizes = np.geomspace(0.3, 1.8, len(extended))
    for reverse in (False, True):
        shares = np.linspace(1.0, 2.0, len(extended))
        shares = (shares[::-1] if reverse else shares) / shares.sum() * (1 - point_share)
        out.append(
            (
                {c.name: float(s) for c, s in zip(extended, shares, strict=True)}
                | {c.name: point_share / len(points) for c in points},
                {c.name: float(s) for c, s in zip(extended, sizes, strict=True)},
                {c.name: np.clip(n, 0.8, 2.5) for c in extended},
            )
        )
    return out


def _of_component(
    component: Component,
    start: np.ndarray,
    shares: Mapping[str, float],
    sizes: Mapping[str, float | np.ndarray],
    indices: Mapping[str, np.ndarray],
) -> Values:
    x, y, flux, re, _, q, pa, _ = start.T
    name, profile = component.name, component.profile
    out: Values = {}
    defaults = {shape.name: shape.default for shape in profile.shapes}
    for parameter in profile.parameters:
        if parameter == "x":
            value = x
        elif parameter == "y":
            value = y
        elif parameter == "flux":
            value = flux * shares[name]
        elif parameter == "re":
            value = re * sizes[name]
        elif parameter == "q":
            # A compact component is rarely as flat as the whole. One component is the whole.
            size = sizes[name]
            value = np.sqrt(q) if isinstance(size, float) and size < 0.75 else q
        elif parameter == "pa":
            value = pa
        elif parameter == "n":
            value = np.clip(indices[name], 0.35, 7.5)
        else:
            value = np.full(len(start), defaults[parameter])
        out[f"{name}.{parameter}"] = np.array(value, dtype=np.float64)
    return out


def _apply_model(scene: Scene, values: Values, count: int) -> None:
    """Values and bounds given in the model; ties; in place."""
    for component in scene.components:
        for name, parameter in component.parameters.items():
            key = f"{component.name}.{name}"
            if parameter.value is not None:
                values[key] = np.full(count, float(parameter.value))
            elif parameter.prior is not None and not parameter.fixed:
                values[key] = _inside(values[key], *parameter.prior.support)
            low, high = parameter.bounds
            values[key] = _inside(
                values[key],
                -math.inf if low is None else low,
                math.inf if high is None else high,
            )
    for target, expression in scene.ties:
        got = {name: torch.as_tensor(values[name]) for name in expression.names}
        values[target] = np.broadcast_to(
            np.asarray(expression(got), dtype=np.float64), (count,)
        ).copy()


def _inside(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Values moved inside a range, off its edges."""
    if math.isfinite(low) and math.isfinite(high):
        margin = 0.02 * (high - low)
        return np.clip(values, low + margin, high - margin)
    if math.isfinite(low):
        return np.maximum(values, low + 1e-3 * max(1.0, abs(low)))
    if math.isfinite(high):
        return np.minimum(values, high - 1e-3 * max(1.0, abs(high)))
    return values


def neighbour_values(neighbours: Sequence[Sequence[Neighbour]], names: Sequence[str]) -> Values:
    """Starting values of the neighbours of B objects, which all have as many of each kind.

    Parameters
    ----------
    neighbours : sequence of sequence of Neighbour
        Of each object, in the order of `names`.
    names : sequence of str
        Components' names.
    """
    out: Values = {}
    columns = ("x", "y", "flux", "re", "n", "q", "pa")
    for k, name in enumerate(names):
        kinds = {item[k].profile for item in neighbours}
        if len(kinds) != 1:
            raise SettingsError("neighbours of different kinds in one batch", "report this bug")
        wanted = columns[:3] if kinds == {"point"} else columns
        rows = np.array([item[k].start for item in neighbours])
        for i, column in enumerate(wanted):
            out[f"{name}.{column}"] = rows[:, i].copy()
        if "n" in wanted:
            out[f"{name}.n"] = np.clip(out[f"{name}.n"], 0.5, 6.0)
    return out
