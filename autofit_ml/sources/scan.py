"""Joint inference of all sources of a field, block by block.

Each source is fitted as a star and as a galaxy, the light of the others held; sources whose light
does not overlap are fitted in one batch (colours of the overlap graph), and the model's light of a
source is the mean of both types by their probabilities. Sweeps over the colours go on until nothing
moves. Then each source gets a Gaussian and an evidence for each type (`gaussians`).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from autofit_ml.fitting.levenberg_marquardt import LMResult, LMSettings, minimise
from autofit_ml.fitting.likelihoods import Likelihood
from autofit_ml.sources.field import Field
from autofit_ml.sources.fluxes import overlaps
from autofit_ml.sources.gaussians import Gaussians, variational
from autofit_ml.sources.laplace import laplace
from autofit_ml.sources.priors import SourcePrior
from autofit_ml.sources.problem import SourceProblem

__all__ = ["Posterior", "Scan", "Starts", "maxima"]

_BATCH = 256
_MOVED = 0.1
"""A source whose neighbours have not changed their light by more, in sigma of their own parameters,
is not fitted again."""


@dataclass(frozen=True)
class Starts:
    """Starting values of N sources.

    Attributes
    ----------
    x, y : ndarray, (N,)
        Pixels of the first band.
    flux : ndarray, (N, bands)
        Scaled units, positive.
    rc : ndarray, (N,)
        Circularised half-light radius, pixels.
    eta : ndarray, (N, 2)
    side : ndarray of int, (N,)
        Of the patch.
    """

    x: np.ndarray
    y: np.ndarray
    flux: np.ndarray
    rc: np.ndarray
    eta: np.ndarray
    side: np.ndarray

    def __len__(self) -> int:
        return len(self.x)


@dataclass(frozen=True)
class Posterior:
    """Posteriors of N sources of both types.

    Attributes
    ----------
    anchor : ndarray of int, (N, 2)
        Positions in the means are from there.
    side : ndarray of int, (N,)
    stars, galaxies : Gaussians
    p_star : ndarray, (N,)
    converged : ndarray of bool, (N,)
    chi2 : ndarray, (N,)
        Of the likelier type on its patch, per pixel.
    n_pix : ndarray of int, (N,)
        Pixels of all bands on its patch.
    neighbours : ndarray, (N,)
        Light of other sources over its own, inside the seeing.
    seen : ndarray, (N, bands)
        Share of the pixels inside the seeing that are not masked.
    """

    anchor: np.ndarray
    side: np.ndarray
    stars: Gaussians
    galaxies: Gaussians
    p_star: np.ndarray
    converged: np.ndarray
    chi2: np.ndarray
    n_pix: np.ndarray
    neighbours: np.ndarray
    seen: np.ndarray


class Scan:
    """Sources of a field while they are fitted."""

    def __init__(
        self,
        field: Field,
        starts: Starts,
        priors: tuple[SourcePrior, SourcePrior],
        likelihood: Likelihood,
        known: Scan | None = None,
    ) -> None:
        n, nb = len(starts), len(field.bands)
        self.field, self.priors, self.likelihood = field, priors, likelihood
        self.anchor = np.rint(np.stack([starts.x, starts.y], 1)).astype(np.int64)
        self.side = starts.side
        ln_flux = np.log(starts.flux)
        at = np.stack([starts.x, starts.y], 1) - self.anchor
        star = np.hstack([at, ln_flux])
        shapes = np.column_stack([np.log(starts.rc), np.zeros(n), starts.eta])
        if priors[1].shape == "sersic":
            shapes[:, 1] = math.log(1.5)
        self.theta = [torch.as_tensor(star), torch.as_tensor(np.hstack([star, shapes]))]
        self.evidence = torch.zeros((n, 2), dtype=torch.float64)
        self.p_star = np.full(n, 0.5)
        self.converged = np.zeros((n, 2), bool)
        self.fitted = np.zeros(n, bool)
        if known is not None:
            self._take_over(known)
        self.light = {
            int(side): torch.zeros((nb, int((self.side == side).sum()), side, side))
            for side in np.unique(self.side)
        }
        self.row = np.zeros(n, np.int64)
        for side in self.light:
            self.row[self.side == side] = np.arange(int((self.side == side).sum()))
        self.edges = self._edges()
        self.colour = _coloured(self.edges, starts.flux.sum(1))
        for some in self._batches(np.arange(n)):
            problems, corners, rows = self.problems(some)
            self._show(some, problems, corners, rows)

    def __len__(self) -> int:
        return len(self.anchor)

    def joined(self, more: Starts) -> Scan:
        """This scan with further sources, which come last; the field's model is made anew."""
        nb = len(self.field.fluxes)
        at, shape = self.anchor + self.theta[1][:, :2].numpy(), self.theta[1][:, -4:].numpy()
        flux = np.exp(self.theta[1][:, 2 : 2 + nb].numpy())
        mine = Starts(at[:, 0], at[:, 1], flux, np.exp(shape[:, 0]), shape[:, 2:], self.side)
        for band in self.field.bands:
            band.model.zero_()
        return Scan(self.field, _both(mine, more), self.priors, self.likelihood, self)

    def _take_over(self, known: Scan) -> None:
        """Take the first sources as they are in another scan."""
        some = slice(len(known))
        self.anchor[some] = known.anchor
        for mine, theirs in zip(self.theta, known.theta, strict=True):
            mine[some] = theirs
        self.evidence[some], self.converged[some] = known.evidence, known.converged
        self.fitted[some] = known.fitted

    def _edges(self) -> list[list[int]]:
        """Sources whose patches overlap with each one's."""
        out: list[list[int]] = [[] for _ in range(len(self))]
        for i, j in overlaps(self.anchor - self.side[:, None] // 2, self.side):
            out[i].append(j)
            out[j].append(i)
        return out

    def _batches(self, sources: np.ndarray) -> Iterator[np.ndarray]:
        """Sources that are fitted together: of one colour and patch size, the brightest first."""
        for colour in np.unique(self.colour[sources]):
            for side in np.unique(self.side[sources]):
                here = sources[(self.colour[sources] == colour) & (self.side[sources] == side)]
                for first in range(0, len(here), _BATCH):
                    yield here[first : first + _BATCH]

    def problems(
        self, some: np.ndarray
    ) -> tuple[tuple[SourceProblem, SourceProblem], list[torch.Tensor], torch.Tensor]:
        """Both types' problems of sources of one patch size."""
        side = int(self.side[some[0]])
        rows = torch.as_tensor(self.row[some])
        patches, corners = self.field.patches(side, self.anchor[some], self.light[side][:, rows])
        star, galaxy = (SourceProblem(prior, patches, self.likelihood) for prior in self.priors)
        return (star, galaxy), corners, rows

    def sweep(self, sources: np.ndarray) -> np.ndarray:
        """Fit sources once; those whose light has changed, in sigma, by more than it matters."""
        moved = np.zeros(len(self), bool)
        for some in self._batches(sources):
            problems, corners, rows = self.problems(some)
            for kind, problem in enumerate(problems):
                moved[some] |= self._minimise(problem, kind, some)
            self._show(some, problems, corners, rows)
            self.fitted[some] = True
        return moved

    def run(self, sweeps: int, sources: np.ndarray | None = None) -> None:
        """Sweep over sources (all by default), then over those whose neighbours have moved."""
        todo = np.arange(len(self)) if sources is None else sources
        for _ in range(sweeps):
            moved = self.sweep(todo)
            todo = np.array(
                [i for i in range(len(self)) if any(moved[j] for j in self.edges[i])], dtype=int
            )
            if len(todo) == 0:
                break

    def _minimise(self, problem: SourceProblem, kind: int, some: np.ndarray) -> np.ndarray:
        """Move sources to their maxima; True where they moved by more than `_MOVED` sigma."""
        theta = self.theta[kind][some]
        starts = [theta]
        if kind and not self.fitted[some].all():
            starts = _galaxy_starts(theta, problem.prior.shape)
        result = maxima(problem, torch.arange(len(some)), starts)
        found, matrix = result.theta, result.state.matrix
        change = found - theta
        size = torch.einsum("ad,ade,ae->a", change, matrix, change).clamp_min(0).sqrt()
        self.theta[kind][some] = found
        self.converged[some, kind] = result.converged.numpy()
        scale = matrix + 1e-9 * torch.diag_embed(matrix.diagonal(dim1=1, dim2=2))
        d = found.shape[1]
        self.evidence[some, kind] = (
            -result.state.chi2 / 2
            + d / 2 * math.log(2 * math.pi)
            - torch.logdet(scale) / 2
            + problem.prior.log_share
        )
        return (size > _MOVED).numpy()

    def _show(
        self,
        some: np.ndarray,
        problems: tuple[SourceProblem, SourceProblem],
        corners: list[torch.Tensor],
        rows: torch.Tensor,
    ) -> None:
        """Put the sources' present light into the field's model."""
        index = torch.arange(len(some))
        self.p_star[some] = torch.sigmoid(self.evidence[some, 0] - self.evidence[some, 1]).numpy()
        share = torch.as_tensor(self.p_star[some], dtype=torch.float32)[:, None, None]
        kept = self.light[int(self.side[some[0]])]
        pairs = zip(
            problems[0].images(index, self.theta[0][some]),
            problems[1].images(index, self.theta[1][some]),
            strict=True,
        )
        for b, (star, galaxy) in enumerate(pairs):
            light = share * star + (1 - share) * galaxy
            self.field.add(b, corners[b], light - kept[b, rows])
            kept[b, rows] = light

    def design(
        self, i: int, kind: int, theta: torch.Tensor
    ) -> tuple[list[torch.Tensor], list[torch.Tensor], list[np.ndarray]]:
        """Derivatives of a source's images by theta (D,), 1/sigma and corners, for each band."""
        some = np.array([i])
        problems, corners, _ = self.problems(some)
        problem, index = problems[kind], torch.zeros(1, dtype=torch.int64)
        images = [problem.design(index, theta[None], b)[0] for b in range(len(problem.bands))]
        return images, [band.root[0] for band in problem.bands], [at[0].numpy() for at in corners]

    def posterior(self, inference: str, sources: np.ndarray | None = None) -> Posterior:
        """Gaussians and probabilities of both types, the others' light held.

        Parameters
        ----------
        inference : {"laplace", "vi"}
        sources : ndarray of int, optional
            Only of these; the others' rows mean nothing.
        """
        n = len(self)
        sources = np.arange(n) if sources is None else sources
        parts: tuple[list[Gaussians], list[Gaussians]] = ([], [])
        surroundings = np.zeros((n, 3 + len(self.field.bands)))
        order = []
        for some in self._batches(sources):
            problems, _, _ = self.problems(some)
            index = torch.arange(len(some))
            for kind, problem in enumerate(problems):
                got = laplace(problem, index, self.theta[kind][some])
                if inference == "vi":
                    got = variational(problem, index, got)
                evidence = got.log_evidence + problem.prior.log_share
                parts[kind].append(dataclasses.replace(got, log_evidence=evidence))
            surroundings[some] = self._surroundings(problems, index, some)
            order.append(some)
        place = torch.zeros(n, dtype=torch.int64)
        place[np.concatenate(order)] = torch.arange(len(sources))
        stars, galaxies = (Gaussians.join(part).select(place) for part in parts)
        p_star = torch.sigmoid(stars.log_evidence - galaxies.log_evidence).numpy()
        likely = (p_star < 0.5).astype(int)
        converged = self.converged[np.arange(n), likely]
        chi2, n_pix, neighbours, seen = np.split(surroundings, [1, 2, 3], 1)
        return Posterior(
            self.anchor, self.side, stars, galaxies, p_star, converged,
            chi2[:, 0], n_pix[:, 0].astype(int), neighbours[:, 0], seen,
        )  # fmt: skip

    def _surroundings(
        self, problems: tuple[SourceProblem, SourceProblem], index: torch.Tensor, some: np.ndarray
    ) -> np.ndarray:
        """Chi2 per pixel, pixels, light of others over its own, shares of seen pixels."""
        side = int(self.side[some[0]])
        kept = self.light[side][:, torch.as_tensor(self.row[some])]
        chi2, pixels, seen = torch.zeros(len(some)), torch.zeros(len(some)), []
        own, other = torch.zeros(len(some)), torch.zeros(len(some))
        steps = torch.arange(side, dtype=torch.float32)
        for b, band in enumerate(problems[0].bands):
            good = (band.root > 0).float()
            rho = problems[0].misfit(band, index, kept[b])
            chi2 += rho.sum((1, 2))
            pixels += good.sum((1, 2))
            middle = band.placement.offset.float()
            apart = torch.hypot(steps - middle[:, :1], torch.zeros(1))[:, None, :].square()
            apart = apart + (steps - middle[:, 1:])[:, :, None].square()
            core = (apart < max(self.field.bands[b].fwhm / 2, 1.0) ** 2).float()
            seen.append((core * good).sum((1, 2)) / core.sum((1, 2)).clamp_min(1))
            own += (core * kept[b]).sum((1, 2))
            other += (core * band.others.abs()).sum((1, 2))
        table = [chi2 / pixels.clamp_min(1), pixels, other / own.abs().clamp_min(1e-12), *seen]
        return torch.stack(table, 1).numpy()


def maxima(problem: SourceProblem, index: torch.Tensor, starts: Sequence[torch.Tensor]) -> LMResult:
    """The highest of the maxima that each start (A, D) of sources `index` (A,) leads to."""
    lower, upper, steps = problem.bounds(starts[0])
    owner, many = index.repeat(len(starts)), len(starts)
    result = minimise(
        _owned(problem.evaluate, owner),
        torch.cat(list(starts)),
        lower.repeat(many, 1),
        upper.repeat(many, 1),
        steps,
        LMSettings(0.02, 40),
        _owned(problem.measure, owner),
    )
    chi2 = result.state.chi2.view(many, -1).nan_to_num(nan=math.inf)
    return result.select(chi2.argmin(0) * len(index) + torch.arange(len(index)))


def _owned(call: Callable[..., Any], owner: torch.Tensor) -> Callable[..., Any]:
    """A function of sources as one of problems of which source ``owner[i]`` has the i-th."""
    return lambda index, theta: call(owner[index], theta)


def _galaxy_starts(theta: torch.Tensor, shape: str) -> list[torch.Tensor]:
    """A disc and a spheroid: from one of them the other may not be found."""
    disc, spheroid = theta.clone(), theta.clone()
    low, high = (math.log(1.0), math.log(3.5)) if shape == "sersic" else (-1.5, 1.5)
    disc[:, -3], spheroid[:, -3] = low, high
    return [disc, spheroid]


def _both(first: Starts, more: Starts) -> Starts:
    pairs = ((getattr(first, f.name), getattr(more, f.name)) for f in dataclasses.fields(Starts))
    return Starts(*map(np.concatenate, pairs))


def _coloured(edges: list[list[int]], flux: np.ndarray) -> np.ndarray:
    """A colour for each source such that none is that of a neighbour; the brightest first."""
    colour = np.full(len(edges), -1)
    for i in np.argsort(-flux, kind="stable"):
        taken = {colour[j] for j in edges[i]}
        colour[i] = next(c for c in range(len(edges) + 1) if c not in taken)
    return colour
