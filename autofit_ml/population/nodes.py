r"""Integrals over what is not known of each object, as sums over weighted points.

.. math:: L_i(h) = \int p(d_i | x)\, p(x | h)\, dx \approx \sum_k a_{ik}\, p(x_{ik} | h)

The points are those of an object's posterior under the population as it is known so far
(:math:`h_0`), a Gaussian q:

.. math:: a_{ik} = w_{ik}\, p(d_i | x_{ik}) / q_i(x_{ik})

so that only the population's density at fixed points depends on h; errors that depend on x,
distributions of any form and posterior samples (whose points and weights are given) are all the
same sum. It is exact at h_0 where everything is Gaussian, and so is its gradient; the fit builds
the points again until they no longer matter.

The rule: shells at the radii of generalised Gauss-Laguerre quadrature, on each of which lie the
ends of one or several frames, turned at random for each object, so that what is left of their error
(fourth order in the angles) has mean zero over the objects.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import roots_genlaguerre

from autofit_ml.population.coordinates import Coordinates
from autofit_ml.population.density import Numbers, gaussian_of
from autofit_ml.population.noise import NoiseModel
from autofit_ml.population.objects import GaussianObjects

__all__ = ["Nodes", "Rule", "gaussian_nodes"]

_HALF_LN_2PI = 0.5 * math.log(2 * math.pi)
_TOGETHER = 4096


@dataclass(frozen=True)
class Rule:
    """Points of the standard normal distribution.

    Attributes
    ----------
    shells, frames : int
        Their number is 2 D shells frames.
    seed : int
    """

    shells: int = 3
    frames: int = 2
    seed: int = 0

    def draw(self, n: int, d: int, first: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Points (n, K, d) and ln of their weights (K,); `first` tells batches apart."""
        if d == 0:
            return torch.zeros((n, 1, 0), dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
        rng = torch.Generator().manual_seed(self.seed * 1_000_003 + first)
        radius, weight = roots_genlaguerre(self.shells, d / 2 - 1)
        radii = torch.as_tensor(np.sqrt(2 * radius))
        if d == 1:
            turns = torch.ones((n, 1, 1, 1), dtype=torch.float64)
        else:
            shape = (n, self.frames, d, d)
            noise = torch.randn(shape, generator=rng, dtype=torch.float64)
            turns = torch.linalg.qr(noise).Q
        ends = torch.cat([turns, -turns], 2).flatten(1, 2)
        z = (radii[:, None, None] * ends[:, None]).flatten(1, 2)
        share = torch.as_tensor(weight / weight.sum()).log() - math.log(ends.shape[1])
        return z, share.repeat_interleave(ends.shape[1])


@dataclass(frozen=True)
class Exact:
    """Likelihood of parameters that objects share exactly, at the nodes of the others.

    Attributes
    ----------
    coordinates : Coordinates
    places : tuple of int, E
        Their coordinates.
    mean : Tensor, (n, E)
    precision : Tensor, (n, E, E)
    pull : Tensor, (n, K, E)
        Precision times what the other coordinates are off.
    """

    coordinates: Coordinates
    places: tuple[int, ...]
    mean: torch.Tensor
    precision: torch.Tensor
    pull: torch.Tensor

    def rows(self, some: slice) -> Exact:
        """Select some of the objects."""
        parts = (self.mean[some], self.precision[some], self.pull[some])
        return Exact(self.coordinates, self.places, *parts)

    def log_likelihood(self, x: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """ln of the likelihood that the nodes' weights lack, of all parameters, (A, n, K)."""
        names, values = list(x), torch.broadcast_tensors(*x.values())
        whole = dict(zip(names, values, strict=True))
        theta = self.coordinates.theta(whole, torch.zeros_like(values[0]))
        off = theta[..., list(self.places)] - self.mean[:, None]
        return -(0.5 * (off @ self.precision) + self.pull).mul(off).sum(-1)


@dataclass(frozen=True)
class Nodes:
    """Weighted points of n objects.

    Attributes
    ----------
    names : tuple of str, D
    x : Tensor, (D, n, K)
    log_weight : Tensor, (n, K)
    exact : Exact, optional
        Where the population has parameters without scatter; their x say nothing.
    """

    names: tuple[str, ...]
    x: torch.Tensor
    log_weight: torch.Tensor
    exact: Exact | None = None

    def rows(self, some: slice) -> Nodes:
        """The nodes of some objects."""
        exact = self.exact and self.exact.rows(some)
        return Nodes(self.names, self.x[:, some], self.log_weight[some], exact)

    @property
    def parameters(self) -> dict[str, torch.Tensor]:
        """The points by name, (n, K) each."""
        return dict(zip(self.names, self.x, strict=True))


def gaussian_nodes(
    objects: GaussianObjects,
    numbers: Numbers,
    part: int,
    covariates: Mapping[str, torch.Tensor],
    rule: Rule,
    *,
    noise: NoiseModel | None = None,
    wider: float = 1.0,
    spread: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> Nodes:
    """Points of the posteriors of Gaussian objects.

    Parameters
    ----------
    objects : GaussianObjects
    numbers : Numbers
        Of the population as it is known, A = 1.
    part : int
    covariates : dict of str to Tensor, (n, 1)
    rule : Rule
    noise : NoiseModel, optional
        Errors depend on the parameters; else they are as given.
    wider : float
        Factor of the errors.
    spread : (mean (n, D), covariance (n, D, D)), optional
        Of the coordinates, in place of the population's.
    """
    pieces, exact = list[Nodes](), tuple(map(objects.coordinates.place, numbers.model.exact))
    for first in range(0, len(objects), _TOGETHER):
        index = torch.arange(first, min(first + _TOGETHER, len(objects)))
        some = Numbers(
            numbers.model, numbers.values, {by: code[index] for by, code in numbers.codes.items()}
        )
        if spread is None:
            z = {name: value[index] for name, value in covariates.items()}
            known = objects.coordinates.gaussian(
                *gaussian_of(some, part, z, len(index)), numbers.model.names
            )
        else:
            known = (spread[0][index], spread[1][index])
        some_objects, names = objects.select(index), numbers.model.names
        pieces.append(_nodes(some_objects, known, names, rule, first, noise, wider, exact))
    return Nodes(
        numbers.model.names,
        torch.cat([piece.x for piece in pieces], 1),
        torch.cat([piece.log_weight for piece in pieces]),
        _joined([piece.exact for piece in pieces if piece.exact is not None]),
    )


def _joined(parts: Sequence[Exact]) -> Exact | None:
    if not parts:
        return None
    columns = ([getattr(one, name) for one in parts] for name in ("mean", "precision", "pull"))
    return Exact(parts[0].coordinates, parts[0].places, *map(torch.cat, columns))


def _nodes(
    objects: GaussianObjects,
    known: tuple[torch.Tensor, torch.Tensor],
    names: tuple[str, ...],
    rule: Rule,
    first: int,
    noise: NoiseModel | None,
    wider: float,
    exact: tuple[int, ...],
) -> Nodes:
    n, d = objects.mean.shape
    plain = objects.precision / wider**2
    mean, cov = known
    eye = torch.eye(d, dtype=torch.float64)
    stretch = torch.ones_like(mean)
    for _ in range(1 if noise is None else 3):
        likelihood = plain / (stretch[:, :, None] * stretch[:, None])
        narrow = torch.linalg.solve(eye + cov @ likelihood, cov)  # also of a scatter of 0
        off = torch.einsum("nij,nj->ni", likelihood, objects.mean - mean)
        middle = mean + torch.einsum("nij,nj->ni", narrow, off)
        if noise is not None:
            stretch = (noise.log_sigma(middle) - noise.log_sigma(objects.mean)).exp()
    free = [j for j in range(d) if j not in exact]
    narrow = narrow[:, free][:, :, free]
    root = torch.linalg.cholesky((narrow + narrow.mT) / 2)
    z, log_share = rule.draw(n, len(free), first)
    theta = torch.zeros((n, z.shape[1], d), dtype=torch.float64)
    theta[..., free] = middle[:, None, free] + z @ root.mT
    off = theta - objects.mean[:, None]
    off[..., list(exact)] = 0.0
    log_weight = log_share + 0.5 * z.square().sum(2) + len(free) * _HALF_LN_2PI
    log_weight = log_weight + root.diagonal(dim1=1, dim2=2).log().sum(1)[:, None]
    measured = objects.precision.diagonal(dim1=1, dim2=2) > 0
    if noise is not None:
        grown = noise.log_sigma(theta) - noise.log_sigma(objects.mean)[:, None]
        off = off * (-grown).exp()
        log_weight = log_weight - (grown * measured[:, None]).sum(2)
    pull, e = off @ plain, list(exact)
    log_weight = log_weight - 0.5 * (pull * off).sum(2)
    log_weight = log_weight - (measured.sum(1) * math.log(wider))[:, None]
    x, jacobian = objects.coordinates.parameters(theta)
    shared = None
    if exact:
        here = (objects.mean[:, e], plain[:, e][:, :, e], pull[..., e])
        shared = Exact(objects.coordinates, exact, *here)
    return Nodes(names, torch.stack([x[name] for name in names]), log_weight + jacobian, shared)
