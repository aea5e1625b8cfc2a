"""Minima of a batch's fits, and what they tell without the images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from autofit_ml.fitting.batch import SceneBatch
from autofit_ml.fitting.faint_components import LinearFluxes, with_linear_fluxes
from autofit_ml.fitting.levenberg_marquardt import LMResult, solve_damped
from autofit_ml.fitting.uncertainties import laplace
from autofit_ml.fitting.values import CatalogueValues, catalogue_values, value_names
from autofit_ml.scenes.layout import Layout
from autofit_ml.scenes.model import Scene

__all__ = ["Known", "Minima", "known_of"]


@dataclass(frozen=True)
class Minima:
    """Minima of a batch's usable members, and how they were reached.

    Attributes
    ----------
    rows : ndarray, (B,)
        Their places in the batch.
    fit : LMResult
    lower, upper : Tensor, (B, D)
    started : Tensor, (B, D)
        Where the winning start's search ended.
    n_iter, n_starts : Tensor, (B,)
    """

    rows: np.ndarray
    fit: LMResult
    lower: torch.Tensor
    upper: torch.Tensor
    started: torch.Tensor
    n_iter: torch.Tensor
    n_starts: torch.Tensor


@dataclass(frozen=True)
class Known:
    """Facts that the minima alone tell.

    target: names of its components; main: which of them is the brightest, (B,); own: numbers of
    theta that are the target's; frozen: fixed or on a bound, counts: what the main component and
    the sky depend on, bool, (B, D); settled, good: converged, with a covariance, bool, (B,);
    ellipses: `_main_ellipses`.
    """

    minima: Minima
    members: torch.Tensor
    base: torch.Tensor
    names: tuple[str, ...]
    target: list[str]
    main: np.ndarray
    own: list[int]
    frozen: torch.Tensor
    counts: torch.Tensor
    settled: torch.Tensor
    good: torch.Tensor
    linear: LinearFluxes
    values: CatalogueValues
    ellipses: np.ndarray

    @property
    def fit(self) -> LMResult:
        """The minima, with linear fluxes of faint components."""
        return self.linear.fit


def known_of(batch: SceneBatch, scene: Scene, minima: Minima) -> Known:
    """Read off what the minima of a batch alone tell; `scene`: without neighbours."""
    layout, fit = batch.layout, minima.fit
    members = torch.as_tensor(minima.rows, device=batch.device)
    target = [component.name for component in scene.components]
    base, names = batch.base[members.cpu()].to(batch.device), value_names(layout)
    fixed = minima.lower == minima.upper
    frozen = fixed | fit.at_bound
    covariance, good = laplace(fit.state.matrix, frozen)
    values = catalogue_values(batch, minima.rows, fit.theta, base, minima.started)
    main = _brightest(target, values.values, names)
    counts = _that_count(layout, target, main, fit.theta, base)
    variance = covariance.diagonal(dim1=1, dim2=2)
    tolerance = batch.settings.final.tolerance
    settled = _settled(fit, counts & ~frozen, frozen, variance, tolerance)
    linear = with_linear_fluxes(
        layout, target, main, fit, covariance, frozen, (minima.lower, minima.upper), counts
    )
    if linear.linear.any():
        theta = linear.fit.theta
        values = catalogue_values(batch, minima.rows, theta, base, minima.started)
    own = [j for j in range(layout.n_shape) if layout.names[j].rpartition(".")[0] in target]
    ellipses = _main_ellipses(layout, target, values.values, names)
    return Known(
        minima, members, base, names, target, main, own, frozen, counts, settled, good, linear,
        values, ellipses,
    )  # fmt: skip


def _settled(
    fit: LMResult,
    counts: torch.Tensor,
    frozen: torch.Tensor,
    variance: torch.Tensor,
    tolerance: float,
) -> torch.Tensor:
    """Fits that have converged as far as the target is concerned, bool, (B,).

    The minimiser asks that the expected decrease of chi2, g^T A^-1 g, be small. Where it stopped
    earlier because a neighbour wanders (a smudge of a few sigma has no definite shape), the target
    may be settled all the same: when no parameter that counts, (B, D), would still move by more
    than the square root of the same tolerance, in units of its error.
    """
    undamped = torch.zeros(len(fit.theta), dtype=fit.theta.dtype, device=fit.theta.device)
    _, step, expected, _ = solve_damped(fit.state, undamped, frozen)
    moves = step.square() / variance.clamp_min(1e-300) > tolerance
    return fit.converged | (torch.isfinite(expected) & ~(moves & counts).any(1))


def _that_count(
    layout: Layout, target: list[str], main: np.ndarray, theta: torch.Tensor, base: torch.Tensor
) -> torch.Tensor:
    """Parameters that the main component's values depend on, and the skies, bool, (B, D).

    The row is as good as its main component: one without light has neither place nor shape.
    """
    out = torch.zeros(theta.shape, dtype=torch.bool, device=theta.device)
    out[:, layout.n_shape :] = True
    spans = [layout.spans[k] for k in range(len(target))]
    for i in range(layout.n_images):
        _, jacobian = layout.parameters(theta, base, i)
        for k, span in enumerate(spans):
            rows = torch.as_tensor(main == k, device=theta.device)
            touched = (jacobian[:, span.slice] != 0).any(1)
            out[:, : layout.n_shape] |= touched & rows[:, None]
    return out


def _brightest(target: list[str], values: np.ndarray, names: tuple[str, ...]) -> np.ndarray:
    """Index of the target's main component, the brightest in the first image, (B,)."""
    first: dict[str, np.ndarray] = {}
    for j, name in enumerate(names):
        first.setdefault(name.partition("[")[0], values[:, j])
    fluxes = np.stack([first[f"{name}.flux"] for name in target])
    return np.nan_to_num(fluxes, nan=-np.inf).argmax(0)


def _main_ellipses(
    layout: Layout, target: list[str], values: np.ndarray, names: tuple[str, ...]
) -> np.ndarray:
    """x, y, re, q, pa of the target's brightest extended component (of a point: re 1), (B, 5)."""
    first: dict[str, np.ndarray] = {}
    for j, name in enumerate(names):
        first.setdefault(name.partition("[")[0], values[:, j])
    best, out = np.full(len(values), -1.0), np.tile([0.0, 0.0, 1.0, 1.0, 0.0], (len(values), 1))
    for name in target:
        extended = f"{name}.re" in first
        flux = first[f"{name}.flux"] * (1.0 if extended else 1e-6)
        wins = flux > best
        best = np.where(wins, flux, best)
        for j, (key, blank) in enumerate((("x", 0), ("y", 0), ("re", 1), ("q", 1), ("pa", 0))):
            column = first.get(f"{name}.{key}", np.full(len(values), float(blank)))
            out[:, j] = np.where(wins, column, out[:, j])
    return out
