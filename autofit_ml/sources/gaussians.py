r"""A Gaussian for each source and type, and the evidence that comes with it.

Both look at the density at the 2D points :math:`m \pm h\,L e_i` along the axes of a Gaussian
N(m, S), :math:`S = LL^T`; expectations are sums over the axes of Gauss and Hermite's rule of three
points (h = :math:`\sqrt 3`).

**Laplace.** At the maximum, with the curvature H of -ln p from differences of the gradients
(Gauss-Newton leaves out the images' own curvature, which decides the sizes of faint sources),

.. math:: \theta \sim N(\hat\theta + \delta, H^{-1}),
          \qquad \delta_i = \tfrac12 \sum_{jkl} S_{ij} S_{kl}\,\partial_j\partial_k\partial_l \ln p

:math:`\delta` carries the maximum to the mean (Tierney and Kadane 1986, J. Am. Stat. Assoc. 81,
82): fluxes are skewed in their logarithms. Along each axis of this Gaussian g the density is then
integrated with the rule's points, reweighted by p/g: that gives the evidence and corrects mean and
variance where tails are heavier or lighter than a Gaussian's.

**Variational.** The Gaussian of largest :math:`E[\ln p] + \tfrac12\ln\det 2\pi e S`, a lower bound
of ln Z. At its maximum (Opper and Archambeau 2009, Neural Comput. 21, 786)

.. math:: E[\nabla \ln p] = 0, \qquad S^{-1} = -E[\nabla\nabla \ln p],

solved by Newton steps :math:`m \leftarrow m + S\,E[\nabla\ln p]` in a trust region; second
derivatives by Stein's identity from the gradients.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from autofit_ml.sources.problem import SourceProblem, positive_part

__all__ = ["Gaussians", "laplace", "variational"]

_ARM = 1.0
_FARTHEST = 1.0
"""Largest shift from the maximum to the mean, standard deviations."""

_HEAVIEST, _SPREAD = 2.0, (0.4, 2.5)
"""ln of the largest weight of a point; least and largest correction of a variance."""

_ROUNDS, _TRUST = 8, 1.0
"""Variational steps, and the longest, in standard deviations."""

_SETTLED = 0.05
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
    root = _root(torch.linalg.inv(_regular(state.matrix)))
    _, plus, minus = _along_axes(problem, index, theta, root, _ARM)
    # In the coordinates of the axes: rows are derivatives along one of them.
    second = (minus - plus) @ root / (2 * _ARM)
    matrix = _regular(positive_part((second + second.transpose(1, 2)) / 2))
    bend = (plus + minus - 2 * state.gradient[:, None]).sum(1) / _ARM**2
    inverse = torch.linalg.inv(matrix)
    covariance = root @ inverse @ root.transpose(1, 2)
    covariance = (covariance + covariance.transpose(1, 2)) / 2
    shift = (covariance @ bend[..., None])[..., 0] / 2
    shift = shift * (_FARTHEST / _length(shift, covariance)).clamp_max(1.0)[:, None]
    return _reweighted(problem, index, theta + shift, covariance)


def _reweighted(
    problem: SourceProblem, index: torch.Tensor, mean: torch.Tensor, covariance: torch.Tensor
) -> Gaussians:
    """Gaussians with their moments along each axis corrected, and the evidence."""
    d = mean.shape[1]
    root = _root(covariance)
    points = torch.cat([mean[:, None], *_arms(mean, root, math.sqrt(3.0))], 1)
    every = index.repeat_interleave(2 * d + 1)
    log_p = -problem.measure(every, points.flatten(0, 1)).view(-1, 2 * d + 1) / 2
    weight = (log_p[:, 1:] - log_p[:, :1] + 1.5).clamp_max(_HEAVIEST).exp() / 6
    plus, minus = weight.view(-1, 2, d).unbind(1)
    total = 2 / 3 + plus + minus
    centre = math.sqrt(3.0) * (plus - minus) / total
    variance = (3 * (plus + minus) / total - centre.square()).clamp(*_SPREAD)
    shift = (root @ centre[..., None])[..., 0]
    evidence = log_p[:, 0] + d / 2 * math.log(2 * math.pi) + total.log().sum(1)
    return Gaussians(
        mean + shift,
        (root * variance[:, None]) @ root.transpose(1, 2),
        evidence + root.diagonal(dim1=1, dim2=2).log().sum(1),
    )


def variational(problem: SourceProblem, index: torch.Tensor, start: Gaussians) -> Gaussians:
    """The Gaussians of largest bound, from those of `laplace`."""
    mean, covariance = start.mean.clone(), start.covariance.clone()
    best = Gaussians(mean.clone(), covariance.clone(), torch.full_like(start.log_evidence, -1e300))
    active = torch.arange(len(mean))
    shrink = torch.ones(len(mean), dtype=mean.dtype)
    for _ in range(_ROUNDS):
        value, slope, precision = _expected(
            problem, index[active], mean[active], covariance[active]
        )
        better = value > best.log_evidence[active] - 1e-3
        good = active[better]
        best.mean[good], best.covariance[good] = mean[good], covariance[good]
        best.log_evidence[good] = value[better]
        shrink[active] = torch.where(better, shrink[active], shrink[active] / 3)
        wanted = _regular(positive_part(precision))
        step = torch.linalg.solve(wanted, slope[..., None])[..., 0]
        length = _length(step, torch.linalg.inv(wanted))
        step = step * (shrink[active] / (length / _TRUST).clamp_min(1.0))[:, None]
        # Where the last step failed the next one starts from the best so far.
        mean[active] = torch.where(better[:, None], mean[active], best.mean[active]) + step
        old = torch.linalg.inv(best.covariance[active])
        share = shrink[active][:, None, None]
        covariance[active] = torch.linalg.inv((1 - share) * old + share * wanted)
        active = active[~better | (length > _SETTLED)]
        if len(active) == 0:
            break
    return best


def _expected(
    problem: SourceProblem, index: torch.Tensor, mean: torch.Tensor, covariance: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The bound, E[gradient] and -E[second derivatives] of Gaussians."""
    d = mean.shape[1]
    root = _root(covariance)
    at, here = problem.log_density(index, mean)
    value, plus, minus = _along_axes(problem, index, mean, root, math.sqrt(3.0))
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
    problem: SourceProblem,
    index: torch.Tensor,
    theta: torch.Tensor,
    root: torch.Tensor,
    arm: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Sum of ln p (A,) at the points theta +- arm * columns of `root`, and the gradients there.

    The latter (A, D, D), a row for each axis.
    """
    a, d = theta.shape
    points = torch.cat(_arms(theta, root, arm), 1).flatten(0, 1)
    value, slope = problem.log_density(index.repeat_interleave(2 * d), points)
    plus, minus = slope.view(a, 2, d, d).unbind(1)
    return value.view(a, -1).sum(1), plus, minus


def _arms(theta: torch.Tensor, root: torch.Tensor, arm: float) -> tuple[torch.Tensor, torch.Tensor]:
    """theta + and - arm times the columns of `root`, (A, D, D) each."""
    arms = arm * root.transpose(1, 2)
    return theta[:, None] + arms, theta[:, None] - arms


def _length(step: torch.Tensor, covariance: torch.Tensor) -> torch.Tensor:
    """Length of steps (A, D) in standard deviations, at least 1e-12."""
    solved = torch.linalg.solve(covariance, step[..., None])[..., 0]
    return (step * solved).sum(1).clamp_min(1e-24).sqrt()


def _root(covariance: torch.Tensor) -> torch.Tensor:
    """Cholesky factors of covariances, whatever the parameters' scales."""
    scale = covariance.diagonal(dim1=1, dim2=2).clamp_min(1e-300).sqrt()
    return scale[:, :, None] * torch.linalg.cholesky(
        _regular(covariance / scale[:, :, None] / scale[:, None, :])
    )


def _regular(matrix: torch.Tensor) -> torch.Tensor:
    """Positive matrices that can be inverted."""
    diagonal = matrix.diagonal(dim1=1, dim2=2).clamp_min(1e-12)
    return matrix + torch.diag_embed(1e-9 * diagonal)
