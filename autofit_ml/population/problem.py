"""The posterior of a population's free numbers, given the nodes of all objects."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from autofit_ml.population.density import (
    Numbers,
    exact_values,
    is_linear,
    linear_density,
    log_density,
    log_weights,
)
from autofit_ml.population.hyper import HyperVector
from autofit_ml.population.model import PopulationModel
from autofit_ml.population.nodes import Nodes

__all__ = ["Block", "HyperProblem", "node_values", "object_terms"]

_ELEMENTS = 1 << 18
"""Points that are worked on together: their arrays stay in the processor's cache."""

_CURVATURE = 10_000
"""Objects whose second derivatives stand for those of all: to a percent."""

OUTLIERS = "outliers"
"""Name of the share of objects whose errors are too small."""


@dataclass(frozen=True)
class Block:
    """Objects with their nodes.

    Attributes
    ----------
    nodes : dict of (int, bool) to Nodes
        By part of the population, and whether errors are those of outliers.
    covariates : dict of str to Tensor, (n, 1)
    codes : dict of str to Tensor, int64, (n,)
    power : Tensor, (n,)
        Of each object's likelihood: 1; minus a number of objects for the selection.
    places : Tensor, int64, (n,)
        Which objects they are; -1 for the selection.
    sampled : bool
        The nodes are posterior samples.
    """

    nodes: Mapping[tuple[int, bool], Nodes]
    covariates: Mapping[str, torch.Tensor]
    codes: Mapping[str, torch.Tensor]
    power: torch.Tensor
    places: torch.Tensor
    sampled: bool = False

    def __len__(self) -> int:
        return len(self.power)

    def rows(self, some: slice) -> Block:
        """Some of the objects."""
        return Block(
            {key: nodes.rows(some) for key, nodes in self.nodes.items()},
            {name: value[some] for name, value in self.covariates.items()},
            {name: value[some] for name, value in self.codes.items()},
            self.power[some],
            self.places[some],
            self.sampled,
        )


def object_terms(
    block: Block, model: PopulationModel, values: Mapping[str, torch.Tensor]
) -> dict[tuple[int, bool], torch.Tensor]:
    """ln of each node's share of its object's likelihood, (A, n, K), by part and outliers."""
    numbers = Numbers(model, values, block.codes)
    shares = log_weights(model, values)
    wrong = values.get(OUTLIERS)
    out = {}
    for (part, outlier), nodes in block.nodes.items():
        if is_linear(model, part):
            terms = linear_density(numbers, part, nodes.x, block.covariates)
        else:
            x = node_values(block, (part, outlier), numbers)
            terms = log_density(numbers, part, x)
            if nodes.exact is not None:
                terms = terms + nodes.exact.log_likelihood({name: x[name] for name in model.names})
        share = shares[:, part, None, None]
        if wrong is not None and any(flag for _, flag in block.nodes):
            wrongly = wrong.log() if outlier else torch.log1p(-wrong)
            share = share + wrongly[:, None, None]
        out[part, outlier] = terms + (nodes.log_weight + share)
    return out


def node_values(block: Block, key: tuple[int, bool], numbers: Numbers) -> dict[str, torch.Tensor]:
    """Parameters at the nodes, (n, K), or (A, n, K) of those without scatter; covariates."""
    x = {**block.nodes[key].parameters, **block.covariates}
    return x | exact_values(numbers, key[0], x)


def log_likelihoods(
    block: Block, model: PopulationModel, values: Mapping[str, torch.Tensor]
) -> torch.Tensor:
    """ln of the likelihood of each object, (A, n)."""
    terms = object_terms(block, model, values)
    return torch.logsumexp(torch.stack([torch.logsumexp(term, 2) for term in terms.values()]), 0)


@dataclass(frozen=True)
class HyperProblem:
    """Density of the vector of free numbers.

    Attributes
    ----------
    model : PopulationModel
    vector : HyperVector
    blocks : sequence of Block
    """

    model: PopulationModel
    vector: HyperVector
    blocks: Sequence[Block]

    def log_density(
        self, index: torch.Tensor, u: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """ln p (A,) and its gradient (A, H) at vectors (A, H); `index` is not used."""
        u = u.detach().requires_grad_(True)
        total = torch.zeros(len(u), dtype=torch.float64)
        with torch.enable_grad():
            for piece in self.pieces(len(u)):
                values = self.vector.values(u)
                some = (log_likelihoods(piece, self.model, values) * piece.power).sum(1)
                some.sum().backward()
                total += some.detach()
            prior = self.vector.log_prior(u)
            prior.sum().backward()
        gradient = u.grad if u.grad is not None else torch.zeros_like(u)
        return total + prior.detach(), gradient

    def log_likelihoods(self, u: torch.Tensor) -> torch.Tensor:
        """ln of all objects' likelihoods, selection left out, (A, N)."""
        with torch.no_grad():
            values = self.vector.values(u)
            return torch.cat(
                [
                    log_likelihoods(piece, self.model, values)
                    for piece in self.pieces(len(u))
                    if bool((piece.power > 0).all())
                ],
                1,
            )

    def detected(self, u: torch.Tensor) -> torch.Tensor:
        """ln of the probability of being in the catalogue, mean over the objects, (A,)."""
        with torch.no_grad():
            values = self.vector.values(u)
            total, count = torch.zeros(len(u), dtype=torch.float64), 0.0
            for block in self.blocks:
                if bool((block.power < 0).any()):
                    total += (log_likelihoods(block, self.model, values) * -block.power).sum(1)
                    count -= float(block.power.sum())
            return total / max(count, 1.0)

    def selection_size(self, u: torch.Tensor) -> float:
        """Independent points that the selection's integral is worth at (H,); infinite without."""
        least, values = math.inf, self.vector.values(u[None])
        with torch.no_grad():
            for block in self.blocks:
                if bool((block.power < 0).any()):
                    terms = object_terms(block, self.model, values).values()
                    share = torch.softmax(torch.cat([term[0] for term in terms], 1), 1)
                    least = min(least, float((1 / share.square().sum(1)).min()))
        return least

    def pieces(self, a: int):
        for block in self.blocks:
            k = max(nodes.log_weight.shape[1] for nodes in block.nodes.values())
            step = max(1, _ELEMENTS // (k * a))
            for first in range(0, len(block), step):
                yield block.rows(slice(first, first + step))

    def thinned(self, most: int) -> HyperProblem:
        """The density of evenly chosen objects, about `most`, that stand for all."""
        blocks = []
        for block in self.blocks:
            some = block.rows(slice(0, None, max(1, len(block) // most)))
            blocks.append(replace(some, power=some.power * (len(block) / len(some))))
        return replace(self, blocks=blocks)

    def hessian(self, u: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        """Second derivatives of ln p at (H,), from differences of gradients."""
        h = len(u)
        step = 1e-4 * scale
        moved = torch.cat([u + torch.diag(step), u - torch.diag(step)])
        rows = []
        for first in range(0, 2 * h, 16):
            some = moved[first : first + 16]
            rows.append(self.log_density(torch.zeros(len(some), dtype=torch.int64), some)[1])
        gradients = torch.cat(rows)
        out = (gradients[:h] - gradients[h:]) / (2 * step[:, None])
        return (out + out.T) / 2

    def maximise(
        self, u: torch.Tensor, iterations: int = 25
    ) -> tuple[torch.Tensor, torch.Tensor, bool]:
        """Climb to the maximum: where it is, the covariance there, whether that was reached."""
        low, high = self.vector.limits
        scale, curved = self.vector.scales, self.thinned(_CURVATURE)
        margin = 1e-6 * scale
        inner_low, inner_high = low + margin, high - margin
        u = torch.maximum(torch.minimum(u, inner_high), inner_low)
        one = torch.zeros(1, dtype=torch.int64)
        value, gradient = (part[0] for part in self.log_density(one, u[None]))
        done = False
        cov = torch.diag(scale.square())
        for _ in range(iterations):
            hessian = curved.hessian(u, scale)
            stuck = ((u <= inner_low) & (gradient < 0)) | ((u >= inner_high) & (gradient > 0))
            free = ~stuck
            both = free[:, None] & free
            unit = torch.where(both, -hessian * scale[:, None] * scale, torch.eye(len(u)).double())
            values, vectors = torch.linalg.eigh(unit)
            curvature = values.abs().clamp_min(max(1e-8 * float(values.abs().max()), 1e-3))
            g = torch.where(free, gradient * scale, 0.0)
            step = scale * (vectors @ ((vectors.T @ g) / curvature))
            covariance = (vectors / curvature) @ vectors.T * scale[:, None] * scale
            cov = torch.where(both, covariance, torch.diag((scale / 4).square()))
            step = step / max(1.0, float((step / scale).abs().max()))
            decrement = float((g * step / scale).sum())
            for _ in range(20):
                moved = torch.maximum(torch.minimum(u + step, inner_high), inner_low)
                new, new_gradient = (part[0] for part in self.log_density(one, moved[None]))
                if float(new) >= float(value) - 1e-9 * abs(float(value)):
                    break
                step = step / 3
            else:
                break
            u, value, gradient = moved, new, new_gradient
            if decrement < 1e-4:
                done = True
                break
        return u, cov, done
