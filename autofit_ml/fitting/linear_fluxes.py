"""Fluxes and skies that fit best at given shapes: a linear problem."""

from __future__ import annotations

import math

import torch

from autofit_ml.fitting.problem import SceneProblem

__all__ = ["with_best_fluxes"]

_LARGEST_GAIN = math.log(30.0)
"""Largest change of ln flux by the linear solution at a start."""


def with_best_fluxes(
    problem: SceneProblem,
    theta: torch.Tensor,
    lower: torch.Tensor,
    upper: torch.Tensor,
    wanted: torch.Tensor | None = None,
) -> torch.Tensor:
    """Starts (B, K, D) whose fluxes (and skies) fit best at their shapes: a linear problem.

    `wanted`, bool, (B, K): those that matter; the others stay as they are.
    """
    out = theta.clone()
    if wanted is None:
        wanted = torch.ones(theta.shape[:2], dtype=torch.bool, device=theta.device)
    owner, start = wanted.nonzero(as_tuple=True)
    for first in range(0, len(owner), problem.chunk):
        index, k = (part[first : first + problem.chunk] for part in (owner, start))
        out[index, k] = _solved(problem, index, theta[index, k])
    return torch.maximum(torch.minimum(out, upper[:, None]), lower[:, None])


def _solved(problem: SceneProblem, index: torch.Tensor, theta: torch.Tensor) -> torch.Tensor:
    layout, out = problem.layout, theta.clone()
    shared = problem.shared()
    for i in range(layout.n_images):
        mine = layout.own_fluxes(i)
        if not mine:
            continue
        images = problem.component_images(index, theta, i, shared=shared)
        data = problem.images[i]
        root = data.root_weight[index]
        background = data.background[: layout.sky_terms]
        columns = [images[span] for span, _ in mine]
        held = [image for span, image in enumerate(images) if span not in {s for s, _ in mine}]
        a = len(index)
        rows = torch.stack([*columns, *background.expand(a, *background.shape).unbind(1)], 1)
        rest = data.data[index] - sum(held) if held else data.data[index]
        weighted = (rows * root[:, None]).flatten(2).double()
        target = (rest * root).flatten(1).double()
        normal = weighted @ weighted.transpose(1, 2)
        # Not a product of matrices: its last digits would depend on the number of objects.
        right = (weighted * target[:, None]).sum(-1)
        gain = _positive(normal, right, len(mine))
        for j, (_, column) in enumerate(mine):
            change = gain[:, j].clamp_min(1e-30).log().clamp(-_LARGEST_GAIN, _LARGEST_GAIN)
            out[:, column] += change
        where = layout.sky_slice(i)
        out[:, where] = gain[:, len(mine) :]
    return out


def _positive(normal: torch.Tensor, right: torch.Tensor, n: int) -> torch.Tensor:
    """Least squares in which the first n numbers are at least 0.02.

    Those that come out below are held there and the others are solved again, twice: a start need
    not be better than that.
    """
    b, d = right.shape
    held = torch.zeros((b, d), dtype=torch.bool, device=right.device)
    value = torch.zeros_like(right)
    for _ in range(3):
        free = (~held).to(right.dtype)
        fixed = torch.where(held, torch.full_like(right, 0.02), torch.zeros_like(right))
        matrix = normal * free[:, :, None] * free[:, None, :]
        diagonal = normal.diagonal(dim1=1, dim2=2)
        matrix = matrix + torch.diag_embed(torch.where(held, 1.0, 1e-9 * diagonal + 1e-30))
        vector = (right - (normal @ fixed[..., None])[..., 0]) * free
        solution = torch.linalg.solve_ex(matrix, vector[..., None])[0][..., 0]
        value = torch.where(held, fixed, torch.nan_to_num(solution))
        low = value < 0.02
        low[:, n:] = False
        if not bool((low & ~held).any()):
            break
        held = held | low
    value[:, :n] = value[:, :n].clamp_min(0.02)
    return value
