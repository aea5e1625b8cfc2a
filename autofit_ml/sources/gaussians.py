r"""Posteriors of sources of one type, and the variational Gaussians.

The Gaussian N(m, S) of largest :math:`E[\ln p] + \tfrac12\ln\det 2\pi e S`, a lower bound
of the evidence ln Z. At its maximum (Opper and Archambeau 2009, Neural Comput. 21, 786)

.. math:: E[\nabla \ln p] = 0, \qquad S^{-1} = -E[\nabla\nabla \ln p],

solved by Newton steps :math:`m \leftarrow m + S\,E[\nabla\ln p]` in a trust region; second
derivatives by Stein's identity from the gradients. Expectations are sums over the points
:math:`m \pm \sqrt 3\,L e_i` along the axes, :math:`S = LL^T` (Gauss and Hermite's rule of three).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.stats import norm, qmc

from autofit_ml.sources.problem import SourceProblem, positive_part

__all__ = ["Gaussians", "regular", "root_of", "variational"]

_ROUNDS, _TRUST = 8, 1.0
"""Variational steps, and the longest, in standard deviations."""

_SETTLED = 0.05
"""Step in standard deviations at which the variational Gaussian has settled."""


_DRAWS = 128
"""Draws of position and shape from a Gaussian."""


@dataclass(frozen=True)
class Gaussians:
    """Posterior of A sources of one type.

    Attributes
    ----------
    mean : Tensor, float64, (A, D)
    covariance : Tensor, float64, (A, D, D)
    log_evidence : Tensor, float64, (A,)
        Up to a constant that is the same for both types of a source.
    draws : Tensor, float64, (A, T, d)
        Position and shape.
    weights : Tensor, float64, (A, T)
        Of the draws; their sum is 1.
    """

    mean: torch.Tensor
    covariance: torch.Tensor
    log_evidence: torch.Tensor
    draws: torch.Tensor
    weights: torch.Tensor

    @classmethod
    def join(cls, parts: Sequence[Gaussians]) -> Gaussians:
        """Several as one, in order; those of fewer draws get some of weight 0."""
        names = [item.name for item in dataclasses.fields(cls)]
        most = max(part.weights.shape[1] for part in parts)
        parts = [part.padded(most) for part in parts]
        return cls(*(torch.cat([getattr(part, name) for part in parts]) for name in names))

    def padded(self, number: int) -> Gaussians:
        """The same with `number` draws, new ones of weight 0."""
        room = number - self.weights.shape[1]
        more = self.draws[:, :1].expand(-1, room, -1)
        weights = torch.nn.functional.pad(self.weights, (0, room))
        return dataclasses.replace(self, draws=torch.cat([self.draws, more], 1), weights=weights)

    def select(self, index: torch.Tensor) -> Gaussians:
        """Select some of the sources."""
        return Gaussians(*(getattr(self, item.name)[index] for item in dataclasses.fields(self)))

    def widened(self, covariance: torch.Tensor) -> Gaussians:
        """The same with other covariances; draws move accordingly."""
        held = [0, 1, *range(self.mean.shape[1] - self.draws.shape[2] + 2, self.mean.shape[1])]
        old, new = (root_of(one[:, held][:, :, held]) for one in (self.covariance, covariance))
        middle = self.mean[:, None, held]
        off = torch.linalg.solve_triangular(old, (self.draws - middle).transpose(1, 2), upper=False)
        draws = middle + (new @ off).transpose(1, 2)
        return dataclasses.replace(self, covariance=covariance, draws=draws)


def variational(problem: SourceProblem, index: torch.Tensor, start: Gaussians) -> Gaussians:
    """The Gaussians of largest bound, from those of `laplace`."""
    mean, covariance = start.mean.clone(), start.covariance.clone()
    best = mean.clone(), covariance.clone(), torch.full_like(start.log_evidence, -1e300)
    best_mean, best_covariance, bound = best
    active = torch.arange(len(mean))
    shrink = torch.ones(len(mean), dtype=mean.dtype)
    for _ in range(_ROUNDS):
        value, slope, precision = _expected(
            problem, index[active], mean[active], covariance[active]
        )
        better = value > bound[active] - 1e-3
        good = active[better]
        best_mean[good], best_covariance[good] = mean[good], covariance[good]
        bound[good] = value[better]
        shrink[active] = torch.where(better, shrink[active], shrink[active] / 3)
        wanted = regular(positive_part(precision))
        step = torch.linalg.solve(wanted, slope[..., None])[..., 0]
        length = _length(step, torch.linalg.inv(wanted))
        step = step * (shrink[active] / (length / _TRUST).clamp_min(1.0))[:, None]
        # Where the last step failed the next one starts from the best so far.
        mean[active] = torch.where(better[:, None], mean[active], best_mean[active]) + step
        old = torch.linalg.inv(best_covariance[active])
        share = shrink[active][:, None, None]
        covariance[active] = torch.linalg.inv((1 - share) * old + share * wanted)
        active = active[~better | (length > _SETTLED)]
        if len(active) == 0:
            break
    held = [0, 1, *range(2 + problem.fluxes, mean.shape[1])]
    root = root_of(best_covariance[:, held][:, :, held])
    points = qmc.Sobol(len(held), seed=1).random(_DRAWS)
    z = torch.as_tensor(norm.ppf(np.clip(points, 1e-6, 1 - 1e-6)))
    draws = best_mean[:, None, held] + z @ root.transpose(1, 2)
    return Gaussians(*best, draws, torch.full_like(draws[..., 0], 1 / _DRAWS))


def _expected(
    problem: SourceProblem, index: torch.Tensor, mean: torch.Tensor, covariance: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The bound, E[gradient] and -E[second derivatives] of Gaussians."""
    d = mean.shape[1]
    root = root_of(covariance)
    at, here = problem.log_density(index, mean)
    value, plus, minus = _along_axes(problem, index, mean, root)
    bound = at + (value - 2 * d * at) / 6
    bound = (
        bound + root.diagonal(dim1=1, dim2=2).log().sum(1) + d / 2 * math.log(2 * math.pi) + d / 2
    )
    slope = here + (plus + minus - 2 * here[:, None]).sum(1) / 6
    second = (minus - plus) @ root / math.sqrt(12.0)  # along the axes
    inverse = torch.linalg.inv(root)
    matrix = inverse.transpose(1, 2) @ ((second + second.transpose(1, 2)) / 2) @ inverse
    return bound, slope, matrix


def _along_axes(
    problem: SourceProblem, index: torch.Tensor, theta: torch.Tensor, root: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Sum of ln p (A,) at the points theta +- sqrt(3) columns of `root`, and the gradients there.

    The latter (A, D, D), a row for each axis.
    """
    a, d = theta.shape
    arms = math.sqrt(3.0) * root.transpose(1, 2)
    points = torch.cat([theta[:, None] + arms, theta[:, None] - arms], 1).flatten(0, 1)
    value, slope = problem.log_density(index.repeat_interleave(2 * d), points)
    plus, minus = slope.view(a, 2, d, d).unbind(1)
    return value.view(a, -1).sum(1), plus, minus


def _length(step: torch.Tensor, covariance: torch.Tensor) -> torch.Tensor:
    """Length of steps (A, D) in standard deviations, at least 1e-12."""
    solved = torch.linalg.solve(covariance, step[..., None])[..., 0]
    return (step * solved).sum(1).clamp_min(1e-24).sqrt()


def root_of(covariance: torch.Tensor) -> torch.Tensor:
    """Cholesky factors of covariances, whatever the parameters' scales."""
    scale = covariance.diagonal(dim1=1, dim2=2).clamp_min(1e-300).sqrt()
    return scale[:, :, None] * torch.linalg.cholesky(
        regular(covariance / scale[:, :, None] / scale[:, None, :])
    )


def regular(matrix: torch.Tensor) -> torch.Tensor:
    """Positive matrices that can be inverted."""
    diagonal = matrix.diagonal(dim1=1, dim2=2).clamp_min(1e-12)
    return matrix + torch.diag_embed(1e-9 * diagonal)
