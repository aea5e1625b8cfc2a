r"""Laplace's posterior of sources, made exact by importance sampling that spares the pixels.

Given position and shape (s; two parameters of a star, six of a galaxy) the pixels say about the
fluxes F of the bands nothing but a parabola each,

.. math:: \chi^2_b = C_b(s) - 2 B_b(s)\,(F_b/\hat F_b - 1) + A_b(s)\,(F_b/\hat F_b - 1)^2,

with sums A, B, C over the pixels of one drawn image. So s is drawn some dozens of times from a
Student-t density about the maximum, as wide as the Gaussian there (then from another one with the
moments found), and for each s ln F as often as
one likes from its own Student-t about its maximum. Weights are density over proposal: no Gaussian
is assumed, and the ellipticities' true prior holds (`SourcePrior.log_density`, exact). Sizes near
zero, shares that the pixels hardly tell and fluxes below the noise are none. Likelihoods other than
the Gaussian one are expanded to second order about the maximum.
"""

from __future__ import annotations

import dataclasses
import math
from functools import lru_cache

import numpy as np
import torch
from scipy.stats import chi2, norm, qmc

from autofit_ml.sources.gaussians import Gaussians, regular, root_of
from autofit_ml.sources.problem import SourceProblem

__all__ = ["laplace"]

_NU = 5.0
"""Degrees of freedom of the proposals."""

_SHAPES = {2: (32, 32), 6: (32, 64)}
"""Draws of position and shape, first and second time, by their number of parameters."""

_FEW = 25
"""Effective draws below which a source gets four times as many."""

_FLUXES, _STEPS = 8, 6
"""Draws of the fluxes for each of them, and steps to their maximum."""

_WIDER = 1.3
"""Width of the first proposal over the Gaussian at the maximum."""

_TOGETHER = 32
"""Sources at once."""


def laplace(problem: SourceProblem, index: torch.Tensor, theta: torch.Tensor) -> Gaussians:
    """Posteriors of sources `index` whose maxima are theta (A, D)."""

    def found(some: torch.Tensor, counts: tuple[int, ...]) -> Gaussians:
        parts = [_integrate(problem, index[k], theta[k], counts) for k in some.split(_TOGETHER)]
        return Gaussians.join(parts)

    counts = _SHAPES[2 if problem.prior.type == "star" else 6]
    every = torch.arange(len(index))
    out = found(every, counts)
    few = every[1 / out.weights.square().sum(1) < _FEW]
    if len(few) == 0:
        return out
    more = found(few, (*counts, 4 * counts[-1]))
    out = out.padded(more.weights.shape[1])
    for item in dataclasses.fields(out):
        getattr(out, item.name)[few] = getattr(more, item.name)
    return out


def _integrate(
    problem: SourceProblem, index: torch.Tensor, theta: torch.Tensor, counts: tuple[int, ...]
) -> Gaussians:
    fluxes = range(2, 2 + problem.fluxes)
    held = [k for k in range(problem.size) if k not in fluxes]
    d = len(held)
    lower, upper, _ = problem.bounds(theta)
    low, high = lower[:, None, held], upper[:, None, held]
    target = problem.expanded(index, theta)
    mean = theta[:, held]
    covariance = torch.linalg.inv(regular(problem.evaluate(index, theta).matrix))
    root = _WIDER * root_of(covariance[:, held][:, :, held])
    proposals: list[tuple[torch.Tensor, torch.Tensor, int]] = []
    drawn: list[torch.Tensor] = []
    inner: list[tuple[torch.Tensor, torch.Tensor]] = []
    for count in counts:
        z = _student(count, d, len(proposals))
        points = mean[:, None] + z @ root.transpose(1, 2)
        proposals.append((mean, root, count))
        drawn.append(points)
        inner.append(_over_fluxes(problem, index, theta, points, target, low, high))
        every = torch.cat(drawn, 1)
        ln_flux, log_w = (torch.cat(part, 1) for part in zip(*inner, strict=True))
        # A mixture of all proposals: (A, T).
        total = sum(n for _, _, n in proposals)
        log_q = torch.logsumexp(
            torch.stack([_log_student(every, m, r) + math.log(n / total) for m, r, n in proposals]),
            0,
        )
        log_w = log_w - log_q[..., None]
        flat = log_w.flatten(1)
        evidence = torch.logsumexp(flat, 1) - math.log(flat.shape[1])
        # No draw counts for more than the root of their number (Ionides 2008).
        most = evidence + math.log(flat.shape[1]) / 2
        weight = (torch.minimum(log_w, most[:, None, None]) - evidence[:, None, None]).exp()
        weight = weight / weight.sum((1, 2), keepdim=True)
        outer = weight.sum(2)
        mean = (outer[..., None] * every).sum(1)
        off = every - mean[:, None]
        spread = (outer[..., None] * off).transpose(1, 2) @ off
        size = 1 / outer.square().sum(1)
        # Few effective draws tell little of a covariance: the first proposal stays in it.
        part = (size / (size + d))[:, None, None]
        first = proposals[0][1] @ proposals[0][1].transpose(1, 2)
        root = root_of(part * spread + (1 - part) * first)
    full = torch.cat(
        [
            every[:, :, None, :2].expand(*ln_flux.shape[:3], 2),
            ln_flux,
            every[:, :, None, 2:].expand(*ln_flux.shape[:3], d - 2),
        ],
        3,
    ).flatten(1, 2)
    share = weight.flatten(1)[..., None]
    mean = (share * full).sum(1)
    off = full - mean[:, None]
    covariance = (share * off).transpose(1, 2) @ off
    return Gaussians(mean, covariance, evidence, every, outer)


def _over_fluxes(
    problem: SourceProblem,
    index: torch.Tensor,
    theta: torch.Tensor,
    points: torch.Tensor,
    target: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]],
    low: torch.Tensor,
    high: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draws of ln F (A, T, M, bands) at positions and shapes (A, T, d), and their ln weights."""
    a, t, d = points.shape
    bands, prior = problem.fluxes, problem.prior
    best = theta[:, 2 : 2 + bands]
    # Below the bounds nothing changes any more but the prior; beyond them nothing may be.
    shown = torch.maximum(torch.minimum(points, high), low)
    outside = ((points > high) | (points < low))[..., :2].any(2)
    if d > 2:
        outside |= (points[..., 2] > high[..., 2]) | (points[..., 4:] != shown[..., 4:]).any(2)
    full = torch.cat([shown[..., :2], best[:, None].expand(a, t, bands), shown[..., 2:]], 2)
    rows = torch.arange(a).repeat_interleave(t)
    square, across, rest = problem.parabolas(index, rows, full.flatten(0, 1), target)
    full = torch.cat([points[..., :2], full[..., 2 : 2 + bands], points[..., 2:]], 2).flatten(0, 1)
    where = slice(2, 2 + bands)
    start = full[:, where].clone()
    for _ in range(_STEPS):
        ratio = (full[:, where] - start).exp()
        slope, precision = prior.pull(full)
        slope = slope + ratio * (across - (ratio - 1) * square)
        step = torch.linalg.solve(
            precision + torch.diag_embed(ratio.square() * square), slope[..., None]
        )[..., 0]
        full[:, where] += step.clamp(-1.5, 1.5)
    ratio = (full[:, where] - start).exp()
    bend = torch.maximum(ratio * (square * (2 * ratio - 1) - across), 0.3 * ratio.square() * square)
    _, precision = prior.pull(full)
    root = torch.linalg.cholesky(torch.linalg.inv(precision + torch.diag_embed(bend)))
    z = _student(_FLUXES * t, bands, 7).view(_FLUXES, t, bands).permute(1, 0, 2)
    off = torch.einsum("atij,tmj->atmi", root.view(a, t, bands, bands), z)
    ln_flux = full[:, where].view(a, t, 1, bands) + off
    step = ((ln_flux - start.view(a, t, 1, bands)).exp() - 1).clamp_max(1e6)
    square, across, rest = (one.view(a, t, 1, -1) for one in (square, across, rest))
    chi2 = (rest - 2 * step * across + step.square() * square).sum(3)
    every = full.view(a, t, 1, -1).expand(-1, -1, _FLUXES, -1).clone()
    every[..., where] = ln_flux
    log_p = prior.log_density(every.flatten(0, 2), exact=True).view(chi2.shape) - chi2 / 2
    log_q = _log_standard(z) - root.diagonal(dim1=1, dim2=2).log().sum(1).view(a, t, 1)
    log_p = torch.where(outside[..., None], -math.inf, log_p)
    return ln_flux, log_p - log_q


@lru_cache
def _student(count: int, d: int, seed: int) -> torch.Tensor:
    """Student-t numbers that fill space evenly, (count, d), the same at each call."""
    points = qmc.Sobol(d + 1, seed=seed).random(count)
    points = np.clip(points, 1e-6, 1 - 1e-6)
    scale = np.sqrt(_NU / chi2.ppf(points[:, -1:], _NU))
    return torch.as_tensor(norm.ppf(points[:, :-1]) * scale)


def _log_standard(z: torch.Tensor) -> torch.Tensor:
    """ln density of Student-t numbers (..., d)."""
    d = z.shape[-1]
    constant = math.lgamma((_NU + d) / 2) - math.lgamma(_NU / 2) - d / 2 * math.log(_NU * math.pi)
    return constant - (_NU + d) / 2 * torch.log1p(z.square().sum(-1) / _NU)


def _log_student(points: torch.Tensor, mean: torch.Tensor, root: torch.Tensor) -> torch.Tensor:
    """ln density at points (A, T, d) of Student-t distributions."""
    z = torch.linalg.solve_triangular(root, (points - mean[:, None]).transpose(1, 2), upper=False)
    return _log_standard(z.transpose(1, 2)) - root.diagonal(dim1=1, dim2=2).log().sum(1)[:, None]
