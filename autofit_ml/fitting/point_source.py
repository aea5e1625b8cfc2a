"""The simpler model: does a point source explain the data as well?"""

from __future__ import annotations

import torch

from autofit_ml.fitting.levenberg_marquardt import (
    Evaluation,
    LMSettings,
    minimise,
    solve_damped,
)
from autofit_ml.fitting.problem import Problem, pixel_sum
from autofit_ml.rendering.fourier import phase, synthesise

__all__ = ["point_source_chi2"]

_FREE = (0, 1, 2, 7)
"""x, y, flux and sky of the eight parameters."""


def point_source_chi2(
    problem: Problem, theta: torch.Tensor, sky_free: bool, limit: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """chi2 of the best point source.

    Parameters
    ----------
    problem : Problem
    theta : Tensor, float64, (B, 8)
        The Sérsic fit: position, sky (and flux) are the start.
    sky_free : bool
    limit : Tensor, float64, (B,)
        chi2 above which an object is no point source; one that would stay over 200 above it is
        left alone.

    Returns
    -------
    chi2 : Tensor, float64, (B,)
        Infinite for objects that were left alone.
    n_parameters : Tensor, int64, ()
    """
    start = theta[:, _FREE].clone()
    start[:, 2] = start[:, 2].exp()
    reach = torch.full_like(start, float("inf"))
    reach[:, :2] = 3.0
    lower, upper = start - reach, start + reach
    if not sky_free:
        lower[:, 3] = upper[:, 3] = start[:, 3]
    step = torch.tensor([1.0, 1.0, 1e30, 1e30], dtype=theta.dtype, device=theta.device)
    best = torch.full((len(theta),), float("inf"), dtype=theta.dtype, device=theta.device)
    # One evaluation and its expected decrease rule out nearly everything that is extended.
    everyone = torch.arange(len(theta), device=theta.device)
    first = _evaluate(problem, everyone, start)
    blocked = (lower == upper).expand_as(start)
    expected = solve_damped(first, torch.zeros_like(best), blocked)[1]
    left = (first.chi2 - expected < limit + 200.0).nonzero()[:, 0]
    if len(left):
        out = minimise(
            lambda index, at: _evaluate(problem, left[index], at),
            start[left],
            lower[left],
            upper[left],
            step,
            LMSettings(),
        )
        best[left] = out.state.chi2
    return best, torch.tensor(3 + int(sky_free))


def _evaluate(problem: Problem, index: torch.Tensor, theta: torch.Tensor) -> Evaluation:
    size = problem.chunk
    parts = [
        _evaluate_chunk(problem, index[i : i + size], theta[i : i + size])
        for i in range(0, len(index), size)
    ]
    return Evaluation.join(parts)


def _evaluate_chunk(problem: Problem, index: torch.Tensor, theta: torch.Tensor):
    """chi2, gradient and matrix for (x, y, flux, sky)."""
    plan = problem.plan
    at = theta.to(plan.dtype)
    base = problem.psf[index] * phase(plan, at[:, 0], at[:, 1])
    kx, ky = plan.frequencies
    unit, by_x, by_y = synthesise(
        plan, torch.stack([base, base * (-1j * kx), base * (-1j * ky)])
    ).unbind(0)
    root = problem.root_weight[index]
    flux = at[:, 2, None, None]
    residual = (problem.data[index] - flux * unit - at[:, 3, None, None]) * root
    rows = torch.stack(
        [flux * by_x * root, flux * by_y * root, unit * root, root, residual], dim=1
    ).flatten(2)
    gram = (rows @ rows.transpose(1, 2)).to(torch.float64)
    offset = problem.prior_mean[index, 7] - theta[:, 3]
    precision = problem.prior_precision[index, 7, 7]
    gradient, matrix = gram[:, :4, 4].clone(), gram[:, :4, :4].clone()
    gradient[:, 3] += precision * offset
    matrix[:, 3, 3] += precision
    chi2 = pixel_sum(residual.to(torch.float64).square()) + precision * offset**2
    return chi2, gradient, matrix, chi2[:, None][:, :0]
