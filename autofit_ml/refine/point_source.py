"""The simpler model: does a point source explain the data as well?"""

from __future__ import annotations

import torch

from autofit_ml.refine.levenberg_marquardt import Evaluation, LMSettings, minimise
from autofit_ml.refine.problem import Problem, pixel_sum
from autofit_ml.render.fourier import phase, synthesise

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
        chi2 above which an object cannot be a point source: after two steps such an object is
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
    left = torch.arange(len(theta), device=theta.device)
    for n_steps, tolerance in ((2, 1.0), (20, 0.01)):
        out = minimise(
            lambda index, at, left=left: _evaluate(problem, left[index], at),
            start[left],
            lower[left],
            upper[left],
            step,
            LMSettings(tolerance, n_steps),
        )
        start[left] = out.theta
        near = out.state.chi2 < limit[left] + (200.0 if n_steps == 2 else float("inf"))
        left = left[near]
        if n_steps == 2:
            if len(left) == 0:
                break
        else:
            best[left] = out.state.chi2[near]
    return best, torch.tensor(3 + int(sky_free))


def _evaluate(problem: Problem, index: torch.Tensor, theta: torch.Tensor) -> Evaluation:
    parts = []
    for start in range(0, len(index), problem.chunk):
        parts.append(
            _evaluate_chunk(
                problem, index[start : start + problem.chunk], theta[start : start + problem.chunk]
            )
        )
    return Evaluation(*(torch.cat([p[i] for p in parts]) for i in range(3)))


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
    return pixel_sum(residual.to(torch.float64).square()) + precision * offset**2, gradient, matrix
