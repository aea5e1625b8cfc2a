r"""`refit_population`: expectation propagation between a population and its objects' images.

A catalogue says of every object a Gaussian, made where its own image alone had the say. Here the
images are asked again where the population says that the objects are. The image of object i is
replaced by a Gaussian site :math:`s_i(\theta)`; with the sites the population is inferred as always
(`infer`), and what it then says of an object without its own image is the cavity

.. math:: c_i(\theta) \propto \int p(\theta | h)\, p(h | s_1 \ldots s_N)\, dh

(the object's own site is in it once: it divides the object's posterior). The image is fitted again
with the cavity as its prior, the moments of :math:`p(d_i|\theta)\,c_i(\theta)` are those of points
around that fit, and

.. math:: s_i \leftarrow s_i^{1 - a}\, \big[\mathrm{Gaussian}(p(d_i|\theta)\,c_i(\theta)) /
          c_i(\theta)\big]^a

until the fits stay where they are (Minka 2001, UAI 17, 362; Gelman et al. 2014, arXiv:1412.4869).
Parameters whose scatter is 0 in the model are shared exactly: one centre, one width of the PSF, one
index for all objects, or (`by`) for those of a field or a redshift bin.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from autofit_ml.errors import SettingsError
from autofit_ml.fitting.levenberg_marquardt import minimise
from autofit_ml.fitting.priors import GaussianPrior
from autofit_ml.fitting.problem import SceneProblem
from autofit_ml.fitting.results import SceneFit
from autofit_ml.fitting.uncertainties import laplace
from autofit_ml.population.catalogue import population_map
from autofit_ml.population.coordinates import Coordinates
from autofit_ml.population.density import Numbers, gaussian_of, log_weights
from autofit_ml.population.infer import PopulationSettings, infer
from autofit_ml.population.model import PopulationModel, read_population_model
from autofit_ml.population.nodes import Rule
from autofit_ml.population.objects import GaussianObjects, divided, pseudo_inverse
from autofit_ml.population.posterior import PopulationPosterior
from autofit_ml.population.selection import Selection

__all__ = ["Propagated", "propagate", "refit_population"]

_DRAWS = 128
"""Of the population, for the cavities."""

_RULE = Rule(3, 4)
_SETTLED = 0.05
"""Movement in standard deviations at which the sites have settled."""

_UNLIKE = 5.0
"""Variance of the points' weights beyond which a Gaussian does not hold a posterior."""

Gaussians = tuple[torch.Tensor, torch.Tensor]
"""Means (N, P) and covariances or precisions (N, P, P)."""


@dataclass(frozen=True)
class Propagated:
    """A population inferred from images.

    Attributes
    ----------
    population : PopulationPosterior
        Its ``shrink()`` are the objects under each other's messages.
    sites : GaussianObjects
        What each image says where the population says that the object is.
    rounds : int
        Times that the images were fitted.
    moved : float
        Largest movement of an object in the last of them, in standard deviations.
    """

    population: PopulationPosterior
    sites: GaussianObjects
    rounds: int
    moved: float


def refit_population(
    fits: Sequence[SceneFit],
    *,
    model: str | Path | Mapping[str, Any] | PopulationModel,
    pixel_scale: float | np.ndarray = 1.0,
    zeropoint: float | np.ndarray = 0.0,
    covariates: Mapping[str, np.ndarray] | None = None,
    selection: Selection | None = None,
    rounds: int = 12,
    damping: float = 0.3,
    settings: PopulationSettings | None = None,
) -> Propagated:
    """Infer a population and fit its objects' images again under what it says of them.

    Parameters
    ----------
    fits : sequence of SceneFit, N
        With their problems (``RefineSettings(keep=True)``). The population takes the place of the
        prior that they had on its parameters.
    model : path, mapping or PopulationModel
        Population file in which numbers may be free. Beside mag, ln_re (re), ln_n (n) and q its
        parameters may be any of ``fit.layout.names``, those of the first component without its
        name: x, y, psf_1, sky, disc.ln_rc. A scatter of 0: shared exactly.
    pixel_scale, zeropoint : float or ndarray, (N,)
        Of the first image, for sizes in arcsec and magnitudes.
    covariates, selection : optional
        See `fit_population`.
    rounds : int
        At most so many times the images are fitted.
    damping : float
        Share of the old site that is kept, from 0 to below 1.
    settings : PopulationSettings, optional
        Of the last inference.

    Returns
    -------
    Propagated

    Raises
    ------
    SettingsError
        Fits without a problem or without one of the parameters; the model.
    """
    known = model if isinstance(model, PopulationModel) else read_population_model(model)
    if not fits or any(fit.problem is None for fit in fits):
        raise SettingsError("a fit without its problem", "fit with RefineSettings(keep=True)")
    n = len(fits)
    scale, zero = (np.broadcast_to(np.asarray(v, float), n) for v in (pixel_scale, zeropoint))
    groups: dict[tuple, list[int]] = {}
    for k, fit in enumerate(fits):
        plans = tuple(id(image.plan) for image in fit.problem.images)  # type: ignore[union-attr]
        groups.setdefault((fit.layout.names, plans), []).append(k)  # type: ignore[union-attr]
    images = [_Images.of(fits, rows, known, scale, zero) for rows in groups.values()]
    size = len(images[0].coordinates.names)
    first = torch.empty((n, size), dtype=torch.float64)
    extra = torch.empty((n, size, size), dtype=torch.float64)
    for one in images:
        first[one.rows], extra[one.rows] = one.seen(one.theta), one.shortcomings(fits)

    def tilted(mean: torch.Tensor, precision: torch.Tensor) -> Gaussians:
        found = torch.empty_like(mean), torch.empty_like(precision)
        for one in images:
            found[0][one.rows], found[1][one.rows] = one.fit(mean[one.rows], precision[one.rows])
        return found

    return propagate(
        tilted, images[0].coordinates, first, known, extra=extra, covariates=covariates or {},
        selection=selection, rounds=rounds, damping=damping, settings=settings,
    )  # fmt: skip


def propagate(
    tilted: Callable[[torch.Tensor, torch.Tensor], Gaussians],
    coordinates: Coordinates,
    start: torch.Tensor,
    model: PopulationModel,
    *,
    extra: torch.Tensor | None = None,
    covariates: Mapping[str, np.ndarray],
    selection: Selection | None = None,
    rounds: int = 12,
    damping: float = 0.3,
    settings: PopulationSettings | None = None,
) -> Propagated:
    """Sites of N objects and their population, in turn, until both agree.

    Parameters
    ----------
    tilted : callable
        Means and precisions of Gaussians (N, P), (N, P, P) -> means and covariances of the objects
        with these as priors.
    coordinates : Coordinates, P
    start : Tensor, (N, P)
        Where the objects roughly are.
    extra : Tensor, (N, P, P), optional
        Covariance to add to the sites: what their models cannot describe.
    model, covariates, selection, rounds, damping, settings
        See `refit_population`.
    """
    settings = settings or PopulationSettings()
    quick = replace(settings, sampler="laplace", chains=1, draws=_DRAWS)
    n, size = start.shape
    nothing = torch.zeros((n, size, size), dtype=torch.float64)
    spread = (2 * start.std(0)).clamp_min(1e-3) if n > 1 else torch.ones(size).double()
    cavity: Gaussians = start.mean(0).expand(n, -1), torch.diag(spread**-2).expand(n, -1, -1)
    old: Gaussians | None = None  # natural parameters
    before, moved, done = start, math.inf, 0
    sites = found = None

    def inferred(how: PopulationSettings) -> PopulationPosterior:
        return infer(
            sites, model, covariates=covariates, selection=selection, measured={}, noise="fixed",
            outliers=False, settings=how,
        )  # fmt: skip

    while done < rounds and moved > _SETTLED:
        mean, cov = tilted(*cavity)
        done += 1
        whole = torch.linalg.inv(cov)
        new = (
            torch.einsum("nij,nj->ni", whole, mean)
            - torch.einsum("nij,nj->ni", cavity[1], cavity[0]),
            whole - cavity[1],
        )
        if old is not None:
            new = tuple(damping * a + (1 - damping) * b for a, b in zip(old, new, strict=True))
        old = new
        precision, at, _ = divided(new[1], nothing, new[0])
        if extra is not None:
            eye = torch.eye(size, dtype=torch.float64)
            precision = torch.linalg.solve(eye + precision @ extra, precision)
            precision = (precision + precision.mT) / 2
        weak = torch.zeros(n, dtype=torch.bool)
        sites = GaussianObjects(coordinates, at, precision, mean, cov, weak)
        sd = cov.diagonal(dim1=1, dim2=2).sqrt()
        moved = float(((mean - before).abs() / sd).max())
        before = mean
        if moved > _SETTLED:
            found = inferred(quick)
            cavity = _cavities(found, sites)
    return Propagated(inferred(settings), sites, done, moved)


def _cavities(found: PopulationPosterior, sites: GaussianObjects) -> Gaussians:
    """What the population says of each object without its own site: means and precisions."""
    model, block = found.model, found.problem.blocks[0]
    u = found.some(_DRAWS)
    values = found.vector.values(u)
    shares = log_weights(model, values).exp().expand(len(u), -1)
    n, size = sites.mean.shape
    eye = torch.eye(size, dtype=torch.float64)
    first, second = torch.zeros_like(sites.mean), torch.zeros_like(sites.precision)
    for a in range(len(u)):
        here = {name: value[a : a + 1] for name, value in values.items()}
        mean, square = torch.zeros_like(first), torch.zeros_like(second)
        for part in range(len(model.base.parts)):
            known = gaussian_of(Numbers(model, here, block.codes), part, block.covariates, n)
            m, c = sites.coordinates.gaussian(*known, model.names)
            mean += shares[a, part] * m
            square += shares[a, part] * (c + m[:, :, None] * m[:, None])
        spread = square - mean[:, :, None] * mean[:, None]
        narrow = torch.linalg.solve(eye + spread @ sites.precision, spread)
        pull = torch.einsum("nij,nj->ni", sites.precision, sites.mean - mean)
        at = mean + torch.einsum("nij,nj->ni", narrow, pull)
        first += at / len(u)
        second += (narrow + at[:, :, None] * at[:, None]) / len(u)
    cov = second - first[:, :, None] * first[:, None]
    own = cov.diagonal(dim1=1, dim2=2)
    whole = torch.linalg.inv(cov + torch.diag_embed(1e-9 * own + 1e-12))
    pull = torch.einsum("nij,nj->ni", whole, first)
    pull = pull - torch.einsum("nij,nj->ni", sites.precision, sites.mean)
    precision, mean, _ = divided(whole, sites.precision, pull)
    return mean, precision


@dataclass
class _Images:
    """Images of objects with one layout, and the way from their fits to the population.

    Attributes
    ----------
    rows : Tensor, (B,)
        Places among all objects.
    problem : SceneProblem
        Without a prior on what the population speaks of.
    theta : Tensor, (B, D)
        Where the last fits ended.
    limits : Tensor, (2, B, D)
    coordinates : Coordinates, P
    turn, shift : Tensor, (B, P, D), (B, P)
    """

    rows: torch.Tensor
    problem: SceneProblem
    theta: torch.Tensor
    limits: torch.Tensor
    coordinates: Coordinates
    turn: torch.Tensor
    shift: torch.Tensor

    @classmethod
    def of(
        cls,
        fits: Sequence[SceneFit],
        rows: Sequence[int],
        model: PopulationModel,
        scale: np.ndarray,
        zeropoint: np.ndarray,
    ) -> _Images:
        some = [fits[k] for k in rows]
        problem = SceneProblem.join([fit.problem for fit in some if fit.problem is not None])
        theta = torch.as_tensor(np.stack([fit.theta for fit in some]))
        limits = np.stack([fit.limits for fit in some if fit.limits is not None], 1)
        target = f"{problem.layout.spans[0].component.name}."
        names = tuple(name.removeprefix(target) for name in problem.layout.names)
        coordinates, turn, shift, places = population_map(
            names, theta, model.names, scale[list(rows)], zeropoint[list(rows)]
        )
        precision = problem.prior.precision.clone()
        precision[:, places] = 0.0
        precision[:, :, places] = 0.0
        problem = replace(problem, prior=GaussianPrior(problem.prior.mean, precision))
        return cls(
            torch.as_tensor(rows), problem, theta, torch.as_tensor(limits), coordinates,
            turn[:, places], shift[:, places],
        )  # fmt: skip

    def seen(self, theta: torch.Tensor) -> torch.Tensor:
        """Coordinates of the population, (B, ..., P), of the fits' (B, ..., D)."""
        flat = theta.view(len(theta), -1, theta.shape[-1])
        return (flat @ self.turn.mT + self.shift[:, None]).view(*theta.shape[:-1], -1)

    def shortcomings(self, fits: Sequence[SceneFit]) -> torch.Tensor:
        """Covariances of the model errors, (B, P, P)."""
        some = [fits[k].theta_cov - fits[k].theta_cov_stat for k in self.rows.tolist()]
        return self.turn @ torch.as_tensor(np.stack(some)) @ self.turn.mT

    def fit(self, mean: torch.Tensor, precision: torch.Tensor) -> Gaussians:
        """Means and covariances of the objects with Gaussians (B, P), (B, P, P) as their priors."""
        own, device = self.problem.prior, self.problem.base.device
        whole = own.precision.cpu() + self.turn.mT @ precision @ self.turn
        pull = torch.einsum("nij,nj->ni", own.precision.cpu(), own.mean.cpu())
        pull = pull + torch.einsum("npd,npq,nq->nd", self.turn, precision, mean - self.shift)
        middle = torch.einsum("nij,nj->ni", pseudo_inverse(whole), pull)
        prior = GaussianPrior(middle.to(device), whole.to(device))
        problem = replace(self.problem, prior=prior)
        low, high = self.limits.to(device)
        best = minimise(
            problem.evaluate, self.theta.to(device), low, high, problem.layout.max_step.to(device)
        )
        self.theta = best.theta.cpu()
        cov = laplace(best.state.matrix, low == high)[0].cpu()
        centre, cov = _moments(problem, self.theta, cov, self.limits)
        return self.seen(centre), self.turn @ cov @ self.turn.mT


def _moments(
    problem: SceneProblem, theta: torch.Tensor, cov: torch.Tensor, limits: torch.Tensor
) -> Gaussians:
    """Means and covariances of posteriors near Gaussians, from weighted points, built twice.

    Of posteriors that are not like a Gaussian at all, the Gaussian.
    """
    (b, d), (low, high), device = theta.shape, limits, problem.base.device
    centre = theta
    for _ in range(2):
        z, share = _RULE.draw(b, d, 0)
        points = centre[:, None] + z @ _root(cov).mT
        inside = ((points >= low[:, None]) & (points <= high[:, None])).all(2)
        at = torch.maximum(torch.minimum(points, high[:, None]), low[:, None]).flatten(0, 1)
        index = torch.arange(b).repeat_interleave(z.shape[1])
        index, at = index.to(device), at.to(device)
        log_p = problem.extras.measure(problem.layout, at, problem.base[index])[0]
        log_p = (log_p - 0.5 * problem.measure(index, at)).cpu().view(b, -1)
        log_p = torch.where(inside, log_p + 0.5 * z.square().sum(2) + share, -math.inf)
        weight = torch.softmax(log_p, 1)
        good = (weight.square() / share.exp()).sum(1) < 1 + _UNLIKE
        mean = torch.einsum("bk,bkd->bd", weight, points)
        off = points - mean[:, None]
        spread = torch.einsum("bk,bki,bkj->bij", weight, off, off)
        centre = torch.where(good[:, None], mean, centre)
        cov = torch.where(good[:, None, None], spread, cov)
    return centre, cov


def _root(cov: torch.Tensor) -> torch.Tensor:
    """Matrices (B, D, D) with root @ root.T = cov; rows without variance are 0."""
    sd = cov.diagonal(dim1=1, dim2=2).clamp_min(0).sqrt()
    inverse = torch.where(sd > 0, 1 / sd, 0.0)
    values, vectors = torch.linalg.eigh(cov * inverse[:, :, None] * inverse[:, None])
    return sd[:, :, None] * vectors * values.clamp_min(0).sqrt()[:, None]
