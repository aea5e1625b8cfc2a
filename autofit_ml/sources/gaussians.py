r"""A Gaussian for each source and type, and the evidence that comes with it.

**Laplace.** At the maximum of the posterior density p, with the curvature H of -ln p,

.. math:: \ln Z = \ln p(\hat\theta) + \tfrac D2 \ln 2\pi - \tfrac12 \ln\det H,
          \qquad \theta \sim N(\hat\theta, H^{-1}) .

H is the exact second derivative: that of the prior, and central differences of the pixels' gradient
over a third of a standard deviation (Gauss-Newton leaves out the images' own curvature, which
decides the sizes of faint sources).

**Variational.** The Gaussian N(m, S) of largest :math:`E[\ln p] + \tfrac12\ln\det 2\pi e S`, a
lower bound of ln Z. At its maximum (Opper and Archambeau 2009, Neural Comput. 21, 786)

.. math:: E[\nabla \ln p] = 0, \qquad S^{-1} = -E[\nabla\nabla \ln p],

solved by Newton steps :math:`m \leftarrow m + S\,E[\nabla\ln p]` in a trust region, with the
expectations taken at the 2D points :math:`m \pm \sqrt{D}\,L e_i` of the cubature rule
(:math:`S = LL^T`; exact for polynomials of third order, where the delta method stops at the second)
and, by Stein's identity, second derivatives from the gradients at these points.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from autofit_ml.sources.problem import SourceProblem, positive_part

__all__ = ["Gaussians", "laplace", "variational"]

_DIFFERENCE = 0.33
"""Step of the differences, standard deviations."""

_ROUNDS, _TRUST = 6, 1.5
"""Variational steps, and the longest, in standard deviations."""

_SETTLED = 0.02
"""Step in standard deviations at which the variational Gaussian has settled."""


@dataclass(frozen=True)
class Gaussians:
    """Posterior of A sources of one type.

    Attributes
    ----------
    mean : Tensor, float64, (A, D)
    covariance : Tensor, float64, (A, D, D)
    log_evidence : Tensor, float64, (A,)
        Up to a constant that is the same for both types of a source.
    """

    mean: torch.Tensor
    covariance: torch.Tensor
    log_evidence: torch.Tensor


def laplace(problem: SourceProblem, index: torch.Tensor, theta: torch.Tensor) -> Gaussians:
    """The Gaussian at the maxima `theta` (A, D) of sources `index`."""
    state = problem.evaluate(index, theta)
    rough = torch.linalg.inv(_regular(state.matrix))
    steps = _DIFFERENCE * torch.diag_embed(rough.diagonal(dim1=1, dim2=2).clamp_min(1e-18).sqrt())
    curvature = _curvature(problem, index, theta, steps)
    slope = problem.prior.evaluate(theta)[2]
    matrix = _regular(positive_part(curvature - slope))
    d = theta.shape[1]
    evidence = -state.chi2 / 2 + d / 2 * math.log(2 * math.pi) - torch.logdet(matrix) / 2
    return Gaussians(theta, torch.linalg.inv(matrix), evidence)


def _curvature(
    problem: SourceProblem, index: torch.Tensor, theta: torch.Tensor, steps: torch.Tensor
) -> torch.Tensor:
    """Second derivatives of half of the pixels' chi2, by differences over diagonal steps."""
    a, d = theta.shape
    points = torch.cat([theta[:, None] + steps, theta[:, None] - steps], 1).flatten(0, 1)
    gradient = problem.pixels(index.repeat_interleave(2 * d), points).gradient.view(a, 2, d, d)
    width = steps.diagonal(dim1=1, dim2=2)
    rows = (gradient[:, 1] - gradient[:, 0]) / (2 * width[:, :, None])
    return (rows + rows.transpose(1, 2)) / 2


def variational(
    problem: SourceProblem, index: torch.Tensor, start: Gaussians
) -> Gaussians:
    """The Gaussians of largest bound, from those of `laplace`."""
    mean, covariance = start.mean.clone(), start.covariance.clone()
    bound = torch.full_like(start.log_evidence, -math.inf)
    best = Gaussians(mean.clone(), covariance.clone(), bound.clone())
    active = torch.arange(len(mean))
    shrink = torch.ones(len(mean), dtype=mean.dtype)
    for _ in range(_ROUNDS):
        value, slope, precision = _expected(
            problem, index[active], mean[active], covariance[active]
        )
        better = value > best.log_evidence[active] - 1e-9
        good = active[better]
        best.mean[good], best.covariance[good] = mean[good], covariance[good]
        best.log_evidence[good] = value[better]
        shrink[active] = torch.where(better, shrink[active], shrink[active] / 3)
        regular = _regular(positive_part(precision))
        wanted = torch.linalg.inv(regular)
        step = (wanted @ slope[..., None])[..., 0]
        length = (step[:, None] @ regular @ step[..., None])[:, 0, 0].sqrt()
        scale = shrink[active] / (length / _TRUST).clamp_min(1.0)
        # Where the last step failed the next one starts from the best so far.
        here = torch.where(better[:, None], mean[active], best.mean[active])
        old = torch.where(better[:, None, None], covariance[active], best.covariance[active])
        mean[active] = here + scale[:, None] * step
        share = shrink[active][:, None, None]
        covariance[active] = torch.linalg.inv(
            (1 - share) * torch.linalg.inv(old) + share * regular
        )
        active = active[~better | (length > _SETTLED)]
        if len(active) == 0:
            break
    return best


def _expected(
    problem: SourceProblem, index: torch.Tensor, mean: torch.Tensor, covariance: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The bound, E[gradient] and -E[second derivatives] of Gaussians."""
    a, d = mean.shape
    root = torch.linalg.cholesky(covariance)
    arms = math.sqrt(d) * root.transpose(1, 2)  # rows: the columns of L
    points = torch.cat([mean[:, None] + arms, mean[:, None] - arms], 1).flatten(0, 1)
    value, slope = problem.log_density(index.repeat_interleave(2 * d), points)
    slope = slope.view(a, 2, d, d)
    # E[(theta - m) gradient^T] = S E[second derivatives]
    product = (arms.transpose(1, 2) @ (slope[:, 0] - slope[:, 1])) / (2 * d)
    second = torch.linalg.solve(covariance, product)
    entropy = root.diagonal(dim1=1, dim2=2).log().sum(1) + d / 2 * math.log(2 * math.pi * math.e)
    bound = value.view(a, -1).mean(1) + entropy
    return bound, slope.mean((1, 2)), -(second + second.transpose(1, 2)) / 2


def _regular(matrix: torch.Tensor) -> torch.Tensor:
    """Positive matrices that can be inverted."""
    diagonal = matrix.diagonal(dim1=1, dim2=2).clamp_min(1e-12)
    return matrix + torch.diag_embed(1e-9 * diagonal)
