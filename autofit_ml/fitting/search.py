"""A quick search that picks among several starts of each object.

A single start leaves about one galaxy in two hundred in a wrong minimum (a cusp for a disc, or the
reverse). The initialiser's start is joined by others with a different Sérsic index; all are taken
towards their minima on binned images, where an iteration costs an eighth to a fifth, and starts
that meet are merged on the way.
"""

from __future__ import annotations

import dataclasses
from typing import Protocol

import torch

from autofit_ml.fitting.levenberg_marquardt import Evaluate, LMSettings, minimise
from autofit_ml.fitting.linear_fluxes import with_best_fluxes
from autofit_ml.fitting.problem import SceneProblem

__all__ = ["search", "search_brightest"]


class Shared(Protocol):
    """Objects of which each may be the target of several fits."""

    def evaluator(self, owner: torch.Tensor) -> Evaluate:
        """Problem i is object ``owner[i]``."""
        ...


def search(
    problem: Shared,
    starts: torch.Tensor,
    lower: torch.Tensor,
    upper: torch.Tensor,
    max_step: torch.Tensor,
    settings: LMSettings,
    wanted: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Take each start towards its minimum; merge those that meet.

    Parameters
    ----------
    problem : Problem or SceneProblem
        B objects (binned).
    starts : Tensor, float64, (B, K, 8)
    lower, upper : Tensor, float64, (B, 8)
    max_step : Tensor, float64, (8,)
    settings : LMSettings
    wanted : Tensor, bool, (B, K), optional
        Starts to try; the first of each object must be.

    Returns
    -------
    theta : Tensor, (B, K, 8)
        Where the starts ended, best first.
    chi2 : Tensor, (B, K)
        Infinite for starts that were merged into a better one, or not wanted.
    n_iter : Tensor, int32, (B,)
        Evaluations spent, all starts together.
    """
    b, k, d = starts.shape
    owner = torch.arange(b, device=starts.device).repeat_interleave(k)
    theta = starts.reshape(b * k, d)
    n_iter = torch.zeros(b * k, dtype=torch.int32, device=starts.device)
    chi2 = torch.full((b * k,), float("inf"), dtype=theta.dtype, device=theta.device)
    matrix = torch.zeros((b * k, d, d), dtype=theta.dtype, device=theta.device)
    alive = torch.arange(b * k, device=starts.device)
    if wanted is not None:
        alive = alive[wanted.reshape(-1)]
    first = min(4, settings.max_iterations)
    for n_steps in (first, settings.max_iterations - first):
        whose = owner[alive]
        out = minimise(
            problem.evaluator(whose),
            theta[alive],
            lower[whose],
            upper[whose],
            max_step,
            dataclasses.replace(settings, max_iterations=n_steps),
        )
        theta[alive] = out.theta
        chi2[alive] = out.state.chi2
        n_iter[alive] += out.n_iter
        matrix[alive] = out.state.matrix
        chi2 = _merge(theta.view(b, k, d), chi2.view(b, k), matrix.view(b, k, d, d)).reshape(-1)
        running = torch.zeros(b * k, dtype=torch.bool, device=theta.device)
        running[alive] = ~out.converged
        alive = (torch.isfinite(chi2) & running).nonzero()[:, 0]
        if len(alive) == 0:
            break
    n_iter = n_iter.view(b, k).sum(1).to(torch.int32)
    return *_best_first(theta.view(b, k, d), chi2.view(b, k)), n_iter


def search_brightest(
    problem: SceneProblem,
    starts: torch.Tensor,
    lower: torch.Tensor,
    upper: torch.Tensor,
    max_step: torch.Tensor,
    settings: LMSettings,
    wanted: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """`search` in each object's brightest image; chi2 is that of all images.

    For images that differ in flux and sky alone (`Layout.alike`); these are solved for afterwards.
    """
    brightest = problem.brightest(starts[:, 0])
    found, chi2 = starts.clone(), starts.new_full(starts.shape[:2], torch.inf)
    n_iter = torch.zeros(len(starts), dtype=torch.int32, device=starts.device)
    for i in brightest.unique().tolist():
        rows = (brightest == i).nonzero()[:, 0]
        one = dataclasses.replace(problem.select(rows), only=i)
        limits = lower[rows], upper[rows], max_step
        found[rows], chi2[rows], n_iter[rows] = search(
            one, starts[rows], *limits, settings, wanted[rows]
        )
    kept = torch.isfinite(chi2)
    found = with_best_fluxes(problem, found, lower, upper, kept)
    owner, k = kept.nonzero(as_tuple=True)
    chi2[owner, k] = problem.measure(owner, found[owner, k])
    return *_best_first(found, chi2), n_iter


def _best_first(theta: torch.Tensor, chi2: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    order = chi2.argsort(dim=1, stable=True)
    return theta.gather(1, order[..., None].expand_as(theta)), chi2.gather(1, order)


def _merge(theta: torch.Tensor, chi2: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    """chi2 with infinity for every start that lies within one unit of chi2 of a better one."""
    chi2 = torch.where(torch.isfinite(chi2), chi2, torch.full_like(chi2, float("inf")))
    merged = chi2.clone()
    k = chi2.shape[1]
    for i in range(k):
        for j in range(k):
            if i == j:
                continue
            better = (chi2[:, j] < chi2[:, i]) | ((chi2[:, j] == chi2[:, i]) & (j < i))
            difference = theta[:, i] - theta[:, j]
            distance = (difference[:, None] @ matrix[:, j] @ difference[..., None])[:, 0, 0]
            same = better & (distance < 1.0) & torch.isfinite(chi2[:, j])
            merged[:, i] = torch.where(
                same, torch.full_like(merged[:, i], float("inf")), merged[:, i]
            )
    return merged
