"""`PopulationPosterior`: what a population fit knows, of the population and of each object."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from astropy.table import Table

from autofit_ml.catalogue import atomic_write_text
from autofit_ml.errors import SettingsError
from autofit_ml.population.density import Numbers
from autofit_ml.population.hyper import HyperVector
from autofit_ml.population.model import PopulationModel, to_yaml
from autofit_ml.population.noise import NoiseModel
from autofit_ml.population.objects import GaussianObjects
from autofit_ml.population.problem import HyperProblem, node_values, object_terms
from autofit_ml.population.selection import Injections, Selection, as_measured, within
from autofit_ml.posterior import PosteriorSamples, corner_figure, to_inference_data
from autofit_ml.scenes.populations import Population, parse_population

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["PopulationPosterior", "Shrunk"]

_LEAST = 1e-3
"""Scatter in the file of what is shared exactly."""

_FILED = 4000
"""Draws of a density whose Gaussian is written to the file."""

_AVERAGED = 32
"""Draws of the population over which an object's posterior is averaged."""


@dataclass(frozen=True)
class Shrunk:
    """Posteriors of N objects with the population as their prior.

    Attributes
    ----------
    names : tuple of str, D
    mean : ndarray, (N, D)
    cov : ndarray, (N, D, D)
    p_outlier : ndarray, (N,)
        Probability that the errors of an object are too small.
    p_part : ndarray, (N, parts)
        Probability of each part of the population.
    """

    names: tuple[str, ...]
    mean: np.ndarray
    cov: np.ndarray
    p_outlier: np.ndarray
    p_part: np.ndarray

    @property
    def errors(self) -> np.ndarray:
        """Standard deviations, (N, D)."""
        return np.sqrt(np.clip(np.einsum("ndd->nd", self.cov), 0, None))

    def table(self, parts: tuple[str, ...] = ()) -> Table:
        """Values, errors and probabilities, one row an object."""
        table = Table()
        for k, name in enumerate(self.names):
            table[name], table[f"{name}_err"] = self.mean[:, k], self.errors[:, k]
        table["p_outlier"] = self.p_outlier
        for k, name in enumerate(parts if len(parts) > 1 else ()):
            table[f"p_{name}"] = self.p_part[:, k]
        return table


@dataclass(frozen=True)
class PopulationPosterior:
    """Posterior of a population.

    Attributes
    ----------
    model : PopulationModel
    vector : HyperVector
        The free numbers as the sampler sees them.
    samples : PosteriorSamples
        In that space, with R-hat and effective sizes.
    problem : HyperProblem
    best : Tensor, (H,)
        Most probable vector.
    objects : GaussianObjects
    as_gaussian : Tensor, bool, (N,)
        Objects whose samples were too few, and that were taken as Gaussians.
    noise : NoiseModel or None
    selection : Selection or None
    integration_error : float
        Scatter of ln of the posterior density from the points of the integrals; well below 1.
    """

    model: PopulationModel
    vector: HyperVector
    samples: PosteriorSamples
    problem: HyperProblem
    best: torch.Tensor
    objects: GaussianObjects
    as_gaussian: torch.Tensor
    noise: NoiseModel | None
    selection: Selection | None
    integration_error: float

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the free numbers."""
        return self.vector.names

    @cached_property
    def draws(self) -> np.ndarray:
        """Draws of the free numbers, (chains, draws, H)."""
        u = self.samples.draws[0]
        if self.vector.size == 0:
            return np.zeros((*u.shape[:2], 0))
        return self.vector.flat(u.flatten(0, 1)).view(u.shape).numpy()

    def __getitem__(self, name: str) -> np.ndarray:
        """Draws of one number, (chains draws,)."""
        if name not in self.names:
            raise KeyError(f"{name}: there are {', '.join(self.names)}")
        return self.draws[..., self.names.index(name)].ravel()

    def table(self) -> Table:
        """Median, error, 16 % and 84 % quantiles, R-hat and effective size of each number."""
        low, middle, high = (
            np.quantile(self.draws.reshape(-1, len(self.names)), q, axis=0)
            for q in (0.1587, 0.5, 0.8413)
        )
        return Table(
            {
                "name": list(self.names),
                "median": middle,
                "error": (high - low) / 2,
                "low": low,
                "high": high,
                "rhat": self.samples.rhat[0].numpy(),
                "ess": torch.minimum(self.samples.ess_bulk, self.samples.ess_tail)[0].numpy(),
            }
        )

    def __repr__(self) -> str:
        return "\n".join(self.table().pformat(max_lines=-1, max_width=-1))

    @property
    def diagnostics(self) -> dict[str, float]:
        """Figures that say how far the result can be trusted.

        ``rhat`` (largest), ``ess`` (smallest), ``divergences``, ``integration_error``,
        ``detected`` (mean probability of being in the catalogue), ``selection_size`` (independent
        points or injections that this is worth), ``objects``, ``undivided``
        (interim priors wider than the posterior), ``as_gaussian`` (too few samples),
        ``samples_variance`` (Monte Carlo variance of ln likelihood).
        """
        sampled = self.vector.size > 0
        return {
            "objects": float(len(self.objects)),
            "rhat": float(self.samples.rhat.max()) if sampled else float("nan"),
            "ess": float(torch.minimum(self.samples.ess_bulk, self.samples.ess_tail).min())
            if sampled
            else float("nan"),
            "divergences": float(self.samples.divergences.sum()),
            "integration_error": self.integration_error,
            "detected": float(self.problem.detected(self.best[None]).exp()[0]),
            "selection_size": self.problem.selection_size(self.best),
            "undivided": float(self.objects.undivided.sum()),
            "as_gaussian": float(self.as_gaussian.sum()),
            "samples_variance": self._samples_variance,
        }

    @cached_property
    def _samples_variance(self) -> float:
        total = 0.0
        values = self.vector.values(self.best[None])
        with torch.no_grad():
            for block in self.problem.blocks:
                if block.sampled:
                    terms = object_terms(block, self.model, values)
                    good = torch.cat([t[0] for (_, wrong), t in terms.items() if not wrong], 1)
                    counts = torch.isfinite(next(iter(block.nodes.values())).log_weight).sum(1)
                    size = torch.softmax(good, 1).square().sum(1)
                    total += float((size - 1 / counts).clamp_min(0).sum())
        return total

    # ------------------------------------------------------------------ objects

    def shrink(self) -> Shrunk:
        """Posteriors of the objects with the population as their prior.

        Averaged over the population's posterior. Nothing is fitted again: the points of each
        object are weighted anew.
        """
        n, names = len(self.objects), self.model.names
        d, parts = len(names), len(self.model.base.parts)
        first = torch.zeros((n, d), dtype=torch.float64)
        second = torch.zeros((n, d, d), dtype=torch.float64)
        outlier = torch.zeros(n, dtype=torch.float64)
        of_part = torch.zeros((n, parts), dtype=torch.float64)
        u = self.some(_AVERAGED)
        with torch.no_grad():
            values = self.vector.values(u)
            for piece in self.problem.pieces(len(u)):
                if bool((piece.power < 0).any()):
                    continue
                terms = object_terms(piece, self.model, values)
                whole = torch.logsumexp(
                    torch.stack([torch.logsumexp(term, 2) for term in terms.values()]), 0
                )
                at = piece.places
                for (part, wrong), term in terms.items():
                    weight = (term - whole[..., None]).exp() / len(u)
                    numbers = Numbers(self.model, values, piece.codes)
                    at_nodes = node_values(piece, (part, wrong), numbers)
                    some = torch.broadcast_tensors(*(at_nodes[name] for name in names))
                    x = torch.stack(some)  # (D, n, K), or (D, A, n, K)
                    weight = weight if x.ndim == 4 else weight.sum(0)
                    first[at] += torch.einsum("...nk,d...nk->nd", weight, x)
                    second[at] += torch.einsum("...nk,d...nk,e...nk->nde", weight, x, x)
                    share = weight.sum(-1).view(-1, len(at)).sum(0)
                    of_part[at, part] += share
                    outlier[at] += share if wrong else 0.0
        cov = second - first[:, :, None] * first[:, None]
        return Shrunk(names, first.numpy(), cov.numpy(), outlier.numpy(), of_part.numpy())

    def some(self, count: int) -> torch.Tensor:
        """Some draws of the vector, evenly spaced, (count, H)."""
        u = self.samples.draws[0].flatten(0, 1)
        if self.vector.size == 0:
            return self.best[None]
        return u[torch.linspace(0, len(u) - 1, min(count, len(u))).long()]

    def predictive(
        self, n: int | None = None, *, seed: int = 0, measured: bool = False
    ) -> dict[str, np.ndarray]:
        """Draw new objects from the population, averaged over its posterior.

        Parameters
        ----------
        n : int, optional
            As many as there are objects by default. Their covariates are those of objects.
        seed : int
        measured : bool
            With errors and selection: to be compared with the catalogue.

        Returns
        -------
        dict of str to ndarray, (n,)
        """
        rng = np.random.default_rng(seed)
        wanted = len(self.objects) if n is None else n
        found: list[dict[str, np.ndarray]] = []
        have = tried = 0
        while have < wanted and tried < 10000 * wanted:
            batch = max(1000, wanted - have)
            drawn = self._drawn(batch, rng)
            if measured:
                drawn = self._as_measured(drawn, rng)
            tried += batch
            found.append(drawn)
            have += len(next(iter(drawn.values())))
        if have < wanted:
            raise SettingsError("hardly anything of the population is selected", "check selection")
        return {name: np.concatenate([one[name] for one in found])[:wanted] for name in found[0]}

    def _drawn(self, n: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        blocks = [block for block in self.problem.blocks if bool((block.power > 0).all())]
        z = {k: torch.cat([b.covariates[k] for b in blocks])[:, 0] for k in blocks[0].covariates}
        codes = {k: torch.cat([b.codes[k] for b in blocks]) for k in blocks[0].codes}
        pick = torch.as_tensor(rng.integers(0, sum(map(len, blocks)), n))
        which = torch.as_tensor(rng.integers(0, 20, n))
        u = self.some(20)
        which = which % len(u)
        values = self.vector.values(u)
        out = {name: np.empty(n) for name in (*self.model.names, *z)}
        keys = torch.stack([which, *(codes[k][pick] for k in codes)], 1)
        for key in keys.unique(dim=0):
            rows = (keys == key).all(1).nonzero()[:, 0].numpy()
            group = dict(zip(codes, key[1:].tolist(), strict=True))
            numbers = {
                item.name: float(
                    values[item.name][key[0], group[item.by]]
                    if item.by
                    else values[item.name][key[0]]
                )
                for item in self.model.hyper
            }
            population, _ = self.model.at(numbers)
            given = {k: z[k][pick[rows]].numpy() for k in z}
            weights = np.array([part.weight for part in population.parts])
            label = rng.choice(len(weights), len(rows), p=weights / weights.sum())
            for k, part in enumerate(population.parts):
                mine = np.flatnonzero(label == k)
                some = {name: v[mine] for name, v in given.items()}
                for name, value in part.draw(len(mine), rng, some).items():
                    out[name][rows[mine]] = value
        return out

    def _as_measured(
        self, drawn: dict[str, np.ndarray], rng: np.random.Generator
    ) -> dict[str, np.ndarray]:
        if self.noise is None:
            raise SettingsError(
                "how errors depend on the parameters is not known", "fit with noise='model'"
            )
        if isinstance(self.selection, Injections):
            raise SettingsError(
                "injections say nothing of single objects",
                "give the selection as limits or a function",
            )
        coordinates = self.objects.coordinates
        true = {name: torch.as_tensor(drawn[name]) for name in self.model.names}
        theta = coordinates.theta(
            true, torch.as_tensor(rng.random(len(drawn[self.model.names[0]])))
        )
        normal = torch.as_tensor(rng.standard_normal(theta.shape))
        seen = as_measured(theta, coordinates, self.noise, normal)
        keep = np.ones(len(theta), bool)
        if isinstance(self.selection, Mapping):
            keep = within(self.selection, seen).numpy()
        elif self.selection is not None:
            given = {name: drawn[name] for name in self.model.names}
            keep = rng.random(len(theta)) < self.selection(given)
        out = drawn | {name: value.numpy() for name, value in seen.items()}
        return {name: value[keep] for name, value in out.items()}

    # ------------------------------------------------------------------ files and pictures

    def content(self) -> dict[str, Any]:
        """The population at the medians, as a population file holds it.

        Averaged over covariates and groups: what differs between them is added to the scatter.
        """
        medians = dict(
            zip(self.names, np.median(self.draws.reshape(-1, len(self.names)), 0), strict=True)
        )
        blocks = [block for block in self.problem.blocks if bool((block.power > 0).all())]
        numbers, scatter = {}, {}
        for item in self.model.hyper:
            if not item.by:
                numbers[item.name] = medians[item.name]
                continue
            code = torch.cat([block.codes[item.by] for block in blocks]).numpy()
            of = np.array([medians[f"{item.name}[{g}]"] for g in self.vector.groups[item.by]])[code]
            numbers[item.name], scatter[item.name] = of.mean(), of.std()
        population, content = self.model.at(numbers, least=_LEAST)
        z = {
            name: torch.cat([block.covariates[name] for block in blocks])[:, 0].numpy()
            for name in self.model.covariates
        }
        return _without_covariates(content, self.model, population, z, scatter)

    def population(self) -> Population:
        """The population at the medians; see `content`."""
        return parse_population(self.content(), covariates=True)

    def text(self) -> str:
        """Text of a population file, for ``fit --prior population:FILE``."""
        return to_yaml(self.content())

    def write(self, path: str | Path) -> Path:
        """Write a population file; see `text`."""
        atomic_write_text(Path(path), self.text())
        return Path(path)

    def to_inference_data(self) -> Any:
        """ArviZ data of the free numbers."""
        return to_inference_data(self.samples, 0, self.names, values=self.draws)

    def corner(self, truths: Mapping[str, float] | None = None) -> Figure:
        """Corner plot of the free numbers; see `autofit_ml.posterior.corner_figure`."""
        marks = [(truths or {}).get(name, np.nan) for name in self.names]
        return corner_figure(self.draws.reshape(-1, len(self.names)), self.names, marks)


def _without_covariates(
    content: dict[str, Any],
    model: PopulationModel,
    population: Population,
    z: Mapping[str, np.ndarray],
    scatter: Mapping[str, float],
) -> dict[str, Any]:
    """Dependences on covariates averaged out; densities in Python as their Gaussians."""
    out = copy.deepcopy(content)
    rng = np.random.default_rng(0)
    given = {name: rng.choice(values, _FILED) for name, values in z.items()}
    components = out.get("components")
    bodies = list(components.values()) if components else [out]
    for k, (body, part) in enumerate(zip(bodies, model.base.parts, strict=True)):
        for key, entry in list(body["parameters"].items()):
            names = tuple(name.strip() for name in str(key).split(","))
            wide = [
                scatter[name]
                for place, name in model.places.items()
                if place.part == k
                and place.names == names
                and name in scatter
                and place.number == "mean"
            ]
            term = next(term for term in part.terms if term.names == names)
            if term.density is not None:
                drawn = population.parts[k].draw(_FILED, rng, given)[names[0]]
                rest = {name: entry[name] for name in ("unit", "band") if name in entry}
                normal = [float(drawn.mean()), float(drawn.std())]
                body["parameters"][key] = rest | {"normal": normal}
                continue
            if term.kind != "on" and not (wide and term.kind == "normal"):
                continue
            body["parameters"][key] = _averaged(entry, term.on, z, sum(w**2 for w in wide))
    return out


def _averaged(
    entry: Mapping[str, Any], on: tuple[str, ...], z: Mapping[str, np.ndarray], variance: float
) -> dict[str, Any]:
    out = dict(entry)
    if "normal" in out:
        mean, sd = list(
            out["normal"].values() if isinstance(out["normal"], Mapping) else out["normal"]
        )
        out["normal"] = [mean, float(np.sqrt(sd**2 + variance))]
        return out
    at, slope = (np.atleast_1d(np.asarray(out[name], float)) for name in ("at", "slope"))
    gone = [j for j, name in enumerate(on) if name in z]
    kept = [j for j in range(len(on)) if j not in gone]
    mean, spread = float(out["mean"]), float(out["scatter"])
    if gone:
        shift = sum(slope[j] * (z[on[j]] - at[j]) for j in gone)
        mean, variance = mean + float(np.mean(shift)), variance + float(np.var(shift))
    spread = float(np.sqrt(spread**2 + variance))
    rest = {key: out[key] for key in ("unit", "band", "truncate") if key in out}
    if not kept:
        return rest | {"normal": [mean, spread]}
    several = len(kept) > 1
    return rest | {
        "on": [on[j] for j in kept] if several else on[kept[0]],
        "at": [float(at[j]) for j in kept] if several else float(at[kept[0]]),
        "mean": mean,
        "slope": [float(slope[j]) for j in kept] if several else float(slope[kept[0]]),
        "scatter": spread,
    }
