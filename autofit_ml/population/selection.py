r"""Selection of a catalogue: :math:`P_{det}(h) = \int p(x|h)\,s(x)\,dx`.

Every object in the catalogue divides the likelihood by :math:`P_{det}`. The integral is a sum over
a fine set of points (scrambled Sobol numbers) with weights, as those of objects are; limits of
measured values are averaged over each point's errors. Of injections the points are those found.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from scipy.stats import qmc

from autofit_ml.errors import SettingsError
from autofit_ml.population.coordinates import Coordinates
from autofit_ml.population.density import Numbers, gaussian_of
from autofit_ml.population.nodes import Nodes
from autofit_ml.population.noise import NoiseModel, quadratic_features

__all__ = [
    "Injections",
    "Limits",
    "Selection",
    "as_measured",
    "detection_surface",
    "selection_nodes",
    "within",
]

_HALF_LN_2PI = 0.5 * math.log(2 * math.pi)
_WIDER = 1.3
"""Standard deviations of the points, in those of the population."""

_ERRORS = 16
"""Draws of the errors of each point: limits of measured values become smooth probabilities."""

Limits: TypeAlias = Mapping[str, tuple[float | None, float | None]]
"""Lower and upper limits of *measured* values, by name."""


@dataclass(frozen=True)
class Injections:
    """Objects that were put into the images, and which of them were found.

    Attributes
    ----------
    x : dict of str to ndarray, (J,)
        True parameters; all of the model.
    found : ndarray, bool, (J,)
    log_density : ndarray, (J,)
        ln of the density in x from which they were drawn.
    """

    x: Mapping[str, np.ndarray]
    found: np.ndarray
    log_density: np.ndarray


Selection: TypeAlias = Limits | Injections | Callable[[Mapping[str, np.ndarray]], np.ndarray]
"""Limits of measured values, injections, or a function of true parameters (J,) that returns the
probability of being in the catalogue."""


def selection_nodes(
    selection: Selection | None,
    numbers: Numbers,
    part: int,
    covariates: Mapping[str, torch.Tensor],
    n: int,
    points: int,
    *,
    noise: NoiseModel | None,
    coordinates: Coordinates,
    seed: int = 0,
) -> Nodes:
    """Points whose weighted density is the probability of being in the catalogue.

    Parameters
    ----------
    selection : Selection
    numbers : Numbers
        Of the population as it is known, A = 1.
    part : int
    covariates : dict of str to Tensor, (n, 1)
        Of n representative objects.
    n, points : int
    noise : NoiseModel or None
        Needed for limits.
    coordinates : Coordinates
        Those of the noise model.
    seed : int

    Returns
    -------
    Nodes
    """
    names = numbers.model.names
    if isinstance(selection, Injections):
        return _injected(selection, names, n)
    d = len(names)
    more = len(coordinates.names) + 1 if isinstance(selection, Mapping) else 0
    sobol = qmc.Sobol(d + more, seed=np.random.default_rng(seed)).random(points)
    z = _normal(torch.as_tensor(sobol[:, :d]))
    mean, cov = gaussian_of(numbers, part, covariates, n)
    root = _WIDER * torch.linalg.cholesky(cov)
    values = mean[:, None] + z @ root.mT
    log_weight = 0.5 * z.square().sum(1) + d * _HALF_LN_2PI - math.log(points)
    log_weight = log_weight + root.diagonal(dim1=1, dim2=2).log().sum(1)[:, None]
    x = dict(zip(names, values.unbind(-1), strict=True))
    if isinstance(selection, Mapping):
        if noise is None:
            raise SettingsError("limits of measured values need errors", "give cov")
        # Each point has its own errors: a rule of few points, turned.
        rule = qmc.Sobol(more, seed=np.random.default_rng(seed)).random(_ERRORS)
        own = torch.as_tensor((sobol[:, None, d:] + rule) % 1)
        each = {name: value[..., None].expand(-1, -1, _ERRORS) for name, value in x.items()}
        theta = coordinates.theta(each, own[..., -1].expand(n, -1, -1))
        seen = as_measured(theta, coordinates, noise, _normal(own[..., :-1]))
        chosen = within(selection, seen).to(torch.float64).mean(-1)
    elif selection is None:
        chosen = torch.ones((n, points), dtype=torch.float64)
    else:
        given = selection({name: value.numpy() for name, value in x.items()})
        chosen = torch.as_tensor(np.asarray(given, np.float64)).expand(n, points)
        if not bool(((chosen >= 0) & (chosen <= 1)).all()):
            raise SettingsError("the selection is no probability", "return values from 0 to 1")
    return Nodes(names, values.movedim(2, 0).contiguous(), log_weight + chosen.log())


def _normal(share: torch.Tensor) -> torch.Tensor:
    return torch.special.ndtri(share.clamp(1e-12, 1 - 1e-12))


def as_measured(
    theta: torch.Tensor, coordinates: Coordinates, noise: NoiseModel, normal: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Measured values of coordinates (..., D), with errors made of standard normal numbers."""
    seen = noise.measured(theta, normal)
    columns, _ = coordinates.parameters(seen)
    for name, coefficients in noise.further.items():
        columns[name] = (noise.features(seen) @ coefficients).exp()
    return columns


def within(limits: Limits, seen: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """True where the measured values are within all limits.

    Raises
    ------
    SettingsError
        A limit of what is not measured.
    """
    inside: torch.Tensor = torch.ones_like(next(iter(seen.values())), dtype=torch.bool)
    for name, (low, high) in limits.items():
        if name not in seen:
            raise SettingsError(
                f"selection: {name!r} is not measured",
                f"use one of: {', '.join(seen)}, or give it in `measured`",
            )
        inside &= (seen[name] >= (-math.inf if low is None else low)) & (
            seen[name] <= (math.inf if high is None else high)
        )
    return inside


def _injected(given: Injections, names: Sequence[str], n: int) -> Nodes:
    missing = [name for name in names if name not in given.x]
    if missing:
        raise SettingsError(f"injections without {', '.join(missing)}", "give all parameters")
    found = np.asarray(given.found, bool)
    if not found.any():
        raise SettingsError("none of the injected objects was found", "inject brighter ones")
    table = np.stack([np.asarray(given.x[name], np.float64)[found] for name in names])
    x = torch.as_tensor(table)[:, None].expand(-1, n, -1)
    density = torch.as_tensor(np.asarray(given.log_density, np.float64)[found])
    return Nodes(tuple(names), x, (-density - math.log(len(given.found))).expand(n, -1))


def detection_surface(
    x: Mapping[str, np.ndarray], found: np.ndarray
) -> Callable[[Mapping[str, np.ndarray]], np.ndarray]:
    """Probability of being found: a logistic surface, quadratic in the parameters.

    Of injections whose density is not known, `calibrate`'s for example: a function that
    `fit_population` takes as its selection.

    Parameters
    ----------
    x : dict of str to ndarray, (J,)
    found : ndarray, bool, (J,)

    Returns
    -------
    callable
        Parameters, any shape -> probability. Beyond the injections it is that at their edge.
    """
    names = tuple(x)
    table = np.stack([np.asarray(x[name], np.float64) for name in names], 1)
    good = np.isfinite(table).all(1)
    hits = torch.as_tensor(np.asarray(found, np.float64)[good])
    table = table[good]
    if len(table) < 30:
        raise SettingsError(f"{len(table)} injections are too few", "inject 100 or more")
    middle, scale = table.mean(0), np.maximum(table.std(0), 1e-9)
    low, high = table.min(0), table.max(0)

    def features(values: np.ndarray) -> torch.Tensor:
        inside = (np.clip(values, low, high) - middle) / scale
        return quadratic_features(torch.as_tensor(inside))

    rows = features(table)
    weight = torch.zeros(rows.shape[1], dtype=torch.float64)
    ridge = 0.5 * torch.eye(rows.shape[1], dtype=torch.float64)
    ridge[0, 0] = 1e-3
    for _ in range(50):
        p = torch.sigmoid(rows @ weight)
        hessian = rows.T @ (rows * (p * (1 - p))[:, None]) + ridge
        step = torch.linalg.solve(hessian, rows.T @ (hits - p) - ridge @ weight)
        weight = weight + step * min(1.0, 2.0 / float(step.abs().max().clamp_min(1e-12)))
        if float(step.abs().max()) < 1e-8:
            break

    def probability(given: Mapping[str, np.ndarray]) -> np.ndarray:
        values = np.stack([np.asarray(given[name], np.float64) for name in names], -1)
        return torch.sigmoid(features(values) @ weight).numpy()

    return probability
