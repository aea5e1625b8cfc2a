"""Rounds of a population fit: points for the population as known, its maximum, again; draws."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch

from autofit_ml.errors import SettingsError
from autofit_ml.population.coordinates import PlainCoordinates
from autofit_ml.population.density import Numbers, is_linear
from autofit_ml.population.hyper import HyperVector
from autofit_ml.population.model import PopulationModel
from autofit_ml.population.nodes import Nodes, Rule, gaussian_nodes
from autofit_ml.population.noise import NoiseModel
from autofit_ml.population.objects import GaussianObjects, SampledObjects
from autofit_ml.population.posterior import PopulationPosterior
from autofit_ml.population.problem import Block, HyperProblem, object_terms
from autofit_ml.population.selection import Injections, Selection, selection_nodes
from autofit_ml.posterior import (
    HMCSettings,
    LaplaceSettings,
    PosteriorSamples,
    sample_hmc,
    sample_laplace,
)

__all__ = ["PopulationSettings", "Work"]

WRONG = 5.0
"""Factor by which the errors of outliers are too small."""

_SMALL = 2000
_REPRESENTATIVES = 64
_MOVED = 0.1
_FARR = 4
"""Independent injections for each object."""

_FEW = 500
"""Objects up to which points cost nothing."""


@dataclass(frozen=True)
class PopulationSettings:
    """Settings of `fit_population` beside the model.

    Attributes
    ----------
    sampler : {"hmc", "laplace"}
        "laplace": draws of the Gaussian at the maximum; enough where thousands of objects decide.
    chains, draws, warmup : int
        Of the sampler.
    shells, frames : int
        Points of each object are 2 x parameters x shells x frames; 0: as many as it takes.
    least_size : float
        Objects whose samples are worth fewer independent ones are taken as Gaussians.
    selection_points : int
        Points of the selection's integral; a power of two.
    rounds : int
        At most so many times the points are built anew.
    seed : int
    """

    sampler: str = "hmc"
    chains: int = 4
    draws: int = 250
    warmup: int = 100
    shells: int = 0
    frames: int = 0
    least_size: float = 10.0
    selection_points: int = 1 << 13
    rounds: int = 12
    seed: int = 0


@dataclass
class Work:
    """Objects, model and settings of one fit, and its steps."""

    objects: GaussianObjects | SampledObjects
    gaussian: GaussianObjects
    model: PopulationModel
    vector: HyperVector
    covariates: Mapping[str, torch.Tensor]
    codes: Mapping[str, torch.Tensor]
    noise: NoiseModel | None
    modelled: bool
    selection: Selection | None
    outliers: bool
    settings: PopulationSettings

    def fit(self) -> PopulationPosterior:
        n = len(self.objects)
        everyone = torch.arange(n)
        few = torch.full((n,), bool(self.model.exact))
        u = self.vector.start()
        cov = torch.diag(self.vector.scales.square())
        if n > 2 * _SMALL:
            rng = torch.Generator().manual_seed(self.settings.seed)
            some = torch.randperm(n, generator=rng)[:_SMALL].sort().values
            u, cov, few, _ = self._settle(u, cov, some, few, None)
            start: torch.Tensor | None = u
        else:
            start = None
        u, cov, few, problem = self._settle(u, cov, everyone, few, start)
        if isinstance(self.selection, Injections):
            _refuse_few(problem.selection_size(u), n)
        samples = self._sample(problem, u, cov)
        return PopulationPosterior(
            self.model,
            self.vector,
            samples,
            problem,
            u,
            self.gaussian,
            few if isinstance(self.objects, SampledObjects) else torch.zeros_like(few),
            self.noise,
            self.selection,
            self._rebuilt(problem, samples, everyone, few),
        )

    def _settle(
        self,
        u: torch.Tensor,
        cov: torch.Tensor,
        index: torch.Tensor,
        few: torch.Tensor,
        known: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, HyperProblem]:
        """Maximise, and build the points anew, until nothing moves."""
        for round_ in range(self.settings.rounds):
            problem = self.problem(
                u, index, few, self.settings.seed, first=known is None and round_ == 0
            )
            if self.vector.size == 0:
                return u, cov, few, problem
            new, cov, _ = problem.maximise(u)
            again = few
            if isinstance(self.objects, SampledObjects):
                again = few.clone()
                again[index] |= self._sizes(problem, new, index) < self.settings.least_size
            moved = float(((new - u).abs() / cov.diagonal().sqrt().clamp_min(1e-12)).max())
            same = bool((again == few).all())
            u, few = new, again
            if moved < _MOVED and same and (round_ > 0 or known is not None):
                break
        return u, cov, few, problem

    def _sizes(self, problem: HyperProblem, u: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        """Independent samples that each object's are worth; infinite for Gaussians."""
        sizes = torch.full((len(self.objects),), math.inf, dtype=torch.float64)
        values = self.vector.values(u[None])
        with torch.no_grad():
            for block in problem.blocks:
                if not block.sampled:
                    continue
                terms = object_terms(block, self.model, values)
                good = torch.cat([t[0] for (_, wrong), t in terms.items() if not wrong], 1)
                share = torch.softmax(good, 1)
                sizes[block.places] = 1 / share.square().sum(1)
        return sizes[index]

    def problem(
        self,
        u: torch.Tensor,
        index: torch.Tensor,
        few: torch.Tensor,
        seed: int,
        first: bool = False,
    ) -> HyperProblem:
        """The density, with points for a population at u; of some objects."""
        numbers = Numbers(self.model, self.vector.values(u[None]), {})
        blocks = []
        sampled = isinstance(self.objects, SampledObjects)
        for samples in (False, True) if sampled else (False,):
            some = index[few[index] != samples] if sampled else index
            if len(some):
                blocks.append(self._block(numbers, some, samples, seed, first))
        if self.selection is not None:
            blocks.append(self._selected(numbers, index, seed))
        return HyperProblem(self.model, self.vector, blocks)

    def _block(
        self, numbers: Numbers, index: torch.Tensor, samples: bool, seed: int, first: bool
    ) -> Block:
        covariates = {name: value[index] for name, value in self.covariates.items()}
        codes = {name: value[index] for name, value in self.codes.items()}
        some = self.gaussian.select(index)
        here = replace(numbers, codes=codes)
        rule = self._rule(some, seed)
        spread = _data_spread(some) if first else None
        nodes: dict[tuple[int, bool], Nodes] = {}
        for part in range(len(self.model.base.parts)):
            if samples and isinstance(self.objects, SampledObjects):
                objects = self.objects
                columns = [objects.names.index(name) for name in self.model.names]
                x = objects.values[index][:, :, columns].movedim(2, 0).contiguous()
                nodes[part, False] = Nodes(self.model.names, x, objects.log_weight[index])
            for wrong in (False, True) if self.outliers else (False,):
                if (part, wrong) not in nodes:
                    nodes[part, wrong] = gaussian_nodes(
                        some,
                        here,
                        part,
                        covariates,
                        rule,
                        noise=self.noise if self.modelled else None,
                        wider=WRONG if wrong else 1.0,
                        spread=spread,
                    )
        ones = torch.ones(len(index), dtype=torch.float64)
        return Block(nodes, covariates, codes, ones, index, samples)

    def _rule(self, objects: GaussianObjects, seed: int) -> Rule:
        """Points of each object: many where there are few objects, and numbers range widely."""
        plain = isinstance(objects.coordinates, PlainCoordinates) and all(
            is_linear(self.model, part) for part in range(len(self.model.base.parts))
        )
        few = len(self.objects) <= _FEW
        single = objects.mean.shape[1] == 1
        shells = self.settings.shells or ((12 if single else 6) if few else 3)
        return Rule(shells, self.settings.frames or (1 if plain and not few else 4), seed)

    def _selected(self, numbers: Numbers, index: torch.Tensor, seed: int) -> Block:
        """Points of the selection, for representatives of all covariates."""
        rows, counts = representatives(
            {name: value[index] for name, value in self.covariates.items()},
            {name: value[index] for name, value in self.codes.items()},
            len(index),
            _REPRESENTATIVES,
        )
        covariates, codes = rows
        points = self.settings.selection_points
        if len(index) > 20 * _SMALL:
            points *= 4
        points = max(256, points // (1 << math.ceil(math.log2(len(counts)))))
        nodes = {
            (part, False): selection_nodes(
                self.selection,
                replace(numbers, codes=codes),
                part,
                covariates,
                len(counts),
                points,
                noise=self.noise,
                coordinates=self.gaussian.coordinates,
                seed=seed,
            )
            for part in range(len(self.model.base.parts))
        }
        places = torch.full((len(counts),), -1, dtype=torch.int64)
        return Block(nodes, covariates, codes, -counts, places)

    def _sample(
        self, problem: HyperProblem, u: torch.Tensor, cov: torch.Tensor
    ) -> PosteriorSamples:
        s = self.settings
        if self.vector.size == 0:
            return PosteriorSamples.empty("fixed", 1, 1, 1, 0, u)
        low, high = self.vector.limits
        if s.sampler == "laplace":
            drawing = LaplaceSettings(draws=s.chains * s.draws, seed=s.seed)
            return sample_laplace(u[None], cov[None], low[None], high[None], drawing)
        wanted = HMCSettings(
            chains=s.chains, draws=s.draws, warmup=s.warmup, seed=s.seed, rounds=2,
            rhat=max(1.01, 1 + 2.5 / s.draws),  # short chains differ by chance
        )  # fmt: skip
        return sample_hmc(problem.log_density, u[None], cov[None], low[None], high[None], wanted)

    def _rebuilt(
        self,
        problem: HyperProblem,
        samples: PosteriorSamples,
        index: torch.Tensor,
        few: torch.Tensor,
    ) -> float:
        """Scatter of ln p over posterior draws between two sets of points, on up to 4000 objects.

        Scaled to all objects, whose errors are independent.
        """
        if self.vector.size == 0:
            return 0.0
        draws = samples.draws[0].flatten(0, 1)
        some = draws[torch.linspace(0, len(draws) - 1, 8).long()]
        rng = torch.Generator().manual_seed(self.settings.seed + 1)
        part = index
        if len(index) > 2 * _SMALL:
            part = index[torch.randperm(len(index), generator=rng)[: 2 * _SMALL].sort().values]
        centre = draws.median(0).values
        none = torch.zeros(len(some), dtype=torch.int64)
        ends = [
            self.problem(centre, part, few, seed).log_density(none, some)[0]
            for seed in (self.settings.seed + 1, self.settings.seed + 2)
        ]
        return float((ends[0] - ends[1]).std() / math.sqrt(2) * math.sqrt(len(index) / len(part)))


def _refuse_few(size: float, n: int) -> None:
    """Refuse injections whose noise moves the result (Farr 2019, arXiv:1904.10879)."""
    if size < _FARR * n:
        raise SettingsError(
            f"the injections that were found are worth {size:.0f} of this population's galaxies",
            f"inject more: {n} objects need {_FARR * n}; or give detection_surface(x, found)",
        )


def _data_spread(objects: GaussianObjects) -> tuple[torch.Tensor, torch.Tensor]:
    """A Gaussian that holds all measured objects, for each of them."""
    at = objects.posterior_mean
    known = torch.isfinite(at)
    filled = torch.where(known, at, torch.nan)
    middle = filled.nanquantile(0.5, 0).nan_to_num()
    ends = filled.nanquantile(torch.tensor([0.1587, 0.8413], dtype=at.dtype), 0)
    sd = ((ends[1] - ends[0]) / 2).nan_to_num(nan=1.0).clamp_min(1e-6)
    n = len(at)
    return middle.expand(n, -1), torch.diag_embed((1.2 * sd).square().expand(n, -1))


def representatives(
    covariates: Mapping[str, torch.Tensor], codes: Mapping[str, torch.Tensor], n: int, most: int
) -> tuple[tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]], torch.Tensor]:
    """Few objects that stand for all: their covariates (R, 1) and codes (R,), and of how many.

    Objects of a group with similar covariates are represented by their mean.
    """
    if not covariates and not codes:
        return ({}, {}), torch.tensor([float(n)], dtype=torch.float64)
    label = torch.zeros(n, dtype=torch.int64)
    for code in codes.values():
        label = label * (int(code.max()) + 1) + code
    kinds = label.unique()
    columns = [value[:, 0] for value in covariates.values()]
    cell = torch.zeros(n, dtype=torch.int64)
    if columns:
        each = max(1, int((most / len(kinds)) ** (1 / len(columns))))
        for value in columns:
            ranks = value.argsort().argsort()
            cell = cell * each + ranks * each // n
    _, place = torch.unique(torch.stack([label, cell], 1), dim=0, return_inverse=True)
    counts = torch.bincount(place).to(torch.float64)
    z = {
        name: torch.zeros(len(counts), dtype=torch.float64).index_add_(0, place, value[:, 0])[
            :, None
        ]
        / counts[:, None]
        for name, value in covariates.items()
    }
    k = {
        name: torch.zeros(len(counts), dtype=torch.int64).index_copy_(0, place, code)
        for name, code in codes.items()
    }
    return (z, k), counts
