r"""`refit_population`: expectation propagation between a population and its objects' images.

A catalogue says of every object a Gaussian, made where its own image alone had the say. Here the
images are asked again where the population says that the objects are. The image of object i is
replaced by a Gaussian site :math:`s_i(\theta)`; with the sites the population is inferred as always
(`infer`), and what it then says of an object without its own image is the cavity

.. math:: c_i(\theta) \propto \int p(\theta | h)\, p(h | s_{j \neq i})\, dh

with all sites but its own. The image is fitted again with the cavity as its prior; the new site is
the ratio of the Gaussian with the moments of :math:`t_i = p(d_i|\theta)\,c_i(\theta)` and of the
cavity (Minka 2001, UAI 17, 362), damped by a power, until the population stays where it is. The
ratio of two nearly equal Gaussians is all rounding; integrated by parts it is a regression of the
likelihood's gradient,

.. math:: \Lambda = -\mathrm{Cov}_t(\theta)^{-1}\,
          \mathrm{Cov}_t(\theta, \nabla \ln p(d|\theta)), \qquad
          \Lambda\mu = \Lambda\, E_t\theta + E_t \nabla \ln p(d|\theta),

with expectations over weighted points around the fit.
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
from autofit_ml.population.infer import infer
from autofit_ml.population.model import PopulationModel, read_population_model
from autofit_ml.population.nodes import Rule
from autofit_ml.population.objects import GaussianObjects, divided, pseudo_inverse
from autofit_ml.population.posterior import PopulationPosterior
from autofit_ml.population.rounds import PopulationSettings
from autofit_ml.population.selection import Selection

__all__ = ["Propagated", "propagate", "refit_population"]

_DRAWS, _TERMS = (256, 2048), 2_000_000
"""Draws of the population for the cavities, and by how many objects these are multiplied at most:
all objects have the same draws, whose noise would move the population from round to round."""

_RULE = Rule(3, 2)
_SETTLED = 0.1
"""Movement in standard deviations, without damping, at which the sites have settled."""

_BATCH = 1000
"""Images that are asked at once: what bounds the memory."""

_UNLIKE = 5.0
"""Variance of the points' weights beyond which a Gaussian does not hold a posterior."""

Gaussians = tuple[torch.Tensor, torch.Tensor]
"""Means (N, P) and covariances or precisions (N, P, P)."""

Tilted = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]
"""Means (N, P) and covariances (N, P, P) of objects with their cavities as priors; precisions
(N, P, P) of their sites, and these times the sites' means (N, P)."""


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
        Largest movement of a free number in the last of them, in standard deviations.
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
    rounds: int = 20,
    damping: float = 0.6,
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
    images = [
        _Images.of(fits, rows[first : first + _BATCH], known, scale, zero)
        for rows in groups.values()
        for first in range(0, len(rows), _BATCH)
    ]
    size = len(images[0].coordinates.names)
    first = torch.empty((n, size), dtype=torch.float64)
    extra = torch.empty((n, size, size), dtype=torch.float64)
    for one in images:
        first[one.rows], extra[one.rows] = one.seen(one.theta), one.shortcomings(fits)

    def tilted(mean: torch.Tensor, precision: torch.Tensor) -> Tilted:
        parts = [one.fit(mean[one.rows], precision[one.rows]) for one in images]
        order = torch.cat([one.rows for one in images]).argsort()
        mean, cov, own, pull = (torch.cat(each)[order] for each in zip(*parts, strict=True))
        return mean, cov, own, pull

    return propagate(
        tilted, images[0].coordinates, first, known, extra=extra, covariates=covariates or {},
        selection=selection, rounds=rounds, damping=damping, settings=settings,
    )  # fmt: skip


def propagate(
    tilted: Callable[[torch.Tensor, torch.Tensor], Tilted],
    coordinates: Coordinates,
    start: torch.Tensor,
    model: PopulationModel,
    *,
    extra: torch.Tensor | None = None,
    covariates: Mapping[str, np.ndarray],
    selection: Selection | None = None,
    rounds: int = 20,
    damping: float = 0.6,
    settings: PopulationSettings | None = None,
) -> Propagated:
    """Sites of N objects and their population, in turn, until both agree.

    Parameters
    ----------
    tilted : callable
        Means and precisions of the cavities (N, P), (N, P, P) -> see `Tilted`.
    coordinates : Coordinates, P
    start : Tensor, (N, P)
        Where the objects roughly are.
    extra : Tensor, (N, P, P), optional
        Covariance to add to the sites: what their models cannot describe.
    model, covariates, selection, rounds, damping, settings
        See `refit_population`.
    """
    settings = settings or PopulationSettings()
    n, size = start.shape
    draws = min(max(_TERMS // n, _DRAWS[0]), _DRAWS[1])
    quick = replace(settings, sampler="laplace", chains=1, draws=draws)
    nothing = torch.zeros((n, size, size), dtype=torch.float64)
    spread = (2 * start.std(0)).clamp_min(1e-3) if n > 1 else torch.ones(size).double()
    cavity: Gaussians = start.mean(0).expand(n, -1), torch.diag(spread**-2).expand(n, -1, -1)
    old: Gaussians | None = None  # sites: precisions, and these times their means
    before: torch.Tensor | None = None
    moved, done = math.inf, 0

    def inferred(how: PopulationSettings) -> PopulationPosterior:
        return infer(
            sites, model, covariates=covariates, selection=selection, measured={}, noise="fixed",
            outliers=False, settings=how,
        )  # fmt: skip

    while done < rounds and moved > _SETTLED * (1 - damping):
        mean, cov, *new = tilted(*cavity)
        done += 1
        if old is not None:
            new = [damping * a + (1 - damping) * b for a, b in zip(old, new, strict=True)]
        old = new[0], new[1]
        precision, at, _ = divided(new[0], nothing, new[1])
        if extra is not None:
            eye = torch.eye(size, dtype=torch.float64)
            precision = torch.linalg.solve(eye + precision @ extra, precision)
            precision = (precision + precision.mT) / 2
        weak = torch.zeros(n, dtype=torch.bool)
        sites = GaussianObjects(coordinates, at, precision, mean, cov, weak)
        found = inferred(quick)
        sd = found.samples.draws[0].flatten(0, 1).std(0).clamp_min(1e-12)
        moved = math.inf if before is None else float(((found.best - before).abs() / sd).max())
        before = found.best
        cavity = _cavities(found, sites)
    return Propagated(inferred(settings), sites, done, moved)


def _cavities(found: PopulationPosterior, sites: GaussianObjects) -> Gaussians:
    """Means and precisions of the cavities: the population's word on objects without their sites.

    Draws of the population, each weighted by the inverse of the object's likelihood, no weight
    larger than the mean's times the root of their number (Ionides 2008, J. Comput. Graph. Stat.
    17, 295).
    """
    model, block = found.model, found.problem.blocks[0]
    u = found.some(_DRAWS[1])
    values = found.vector.values(u)
    ln = -found.problem.log_likelihoods(u)
    ln = torch.minimum(ln, ln.logsumexp(0) - 0.5 * math.log(len(u)))
    weight = torch.softmax(ln, 0)[..., None]  # (A, N, 1)
    shares = log_weights(model, values).exp().expand(len(u), -1)
    first, second = torch.zeros_like(sites.mean), torch.zeros_like(sites.precision)
    for a in range(len(u)):
        here = Numbers(model, {k: v[a : a + 1] for k, v in values.items()}, block.codes)
        for part in range(len(model.base.parts)):
            known = gaussian_of(here, part, block.covariates, len(sites))
            mean, cov = sites.coordinates.gaussian(*known, model.names)
            share = shares[a, part] * weight[a]
            first += share * mean
            second += share[..., None] * (cov + mean[:, :, None] * mean[:, None])
    cov = second - first[:, :, None] * first[:, None]
    floor = 1e-6 * (1e-6 + cov.diagonal(dim1=1, dim2=2))
    return first, torch.linalg.inv(cov + torch.diag_embed(floor))


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
    whole : Tensor, (B, D, D)
        Derivatives of coordinates, of the population at `places`, by the fits'.
    places : list of int, P
    shift : Tensor, (B, P)
    """

    rows: torch.Tensor
    problem: SceneProblem
    theta: torch.Tensor
    limits: torch.Tensor
    coordinates: Coordinates
    whole: torch.Tensor
    places: list[int]
    shift: torch.Tensor

    @property
    def turn(self) -> torch.Tensor:
        """Derivatives of the population's coordinates, (B, P, D)."""
        return self.whole[:, self.places]

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
            turn, places, shift[:, places],
        )  # fmt: skip

    def seen(self, theta: torch.Tensor) -> torch.Tensor:
        """Coordinates of the population, (B, ..., P), of the fits' (B, ..., D)."""
        flat = theta.view(len(theta), -1, theta.shape[-1])
        return (flat @ self.turn.mT + self.shift[:, None]).view(*theta.shape[:-1], -1)

    def shortcomings(self, fits: Sequence[SceneFit]) -> torch.Tensor:
        """Covariances of the model errors, (B, P, P)."""
        some = [fits[k].theta_cov - fits[k].theta_cov_stat for k in self.rows.tolist()]
        return self.turn @ torch.as_tensor(np.stack(some)) @ self.turn.mT

    def fit(self, mean: torch.Tensor, precision: torch.Tensor) -> Tilted:
        """The objects with Gaussians (B, P), (B, P, P) as their priors; see `Tilted`."""
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
        points, weight, gradient = _weighted(problem, self.theta, cov, self.limits)
        x = self.seen(points)
        back = torch.linalg.inv(self.whole)[:, :, self.places]
        slope = gradient @ back + (x - mean[:, None]) @ precision  # of ln likelihood
        at, push = (torch.einsum("bk,bkp->bp", weight, part) for part in (x, slope))
        off, turned = x - at[:, None], slope - push[:, None]
        cov = torch.einsum("bk,bki,bkj->bij", weight, off, off)
        site = -torch.linalg.solve(cov, torch.einsum("bk,bki,bkj->bij", weight, off, turned))
        site = (site + site.mT) / 2
        return at, cov, site, torch.einsum("bij,bj->bi", site, at) + push


def _weighted(
    problem: SceneProblem, theta: torch.Tensor, cov: torch.Tensor, limits: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Points (B, K, D) of posteriors, weights (B, K), gradients of ln p (B, K, D).

    Points around the fit, then around the mean of these with their covariance; of posteriors that
    are nothing like a Gaussian the Gaussian's.
    """
    (b, d), (low, high), device = theta.shape, limits, problem.base.device
    z, share = _RULE.draw(b, d, 0)
    index = torch.arange(b, device=device).repeat_interleave(z.shape[1])
    centre = theta
    for _ in range(2):
        points = centre[:, None] + z @ _root(cov).mT
        inside = ((points >= low[:, None]) & (points <= high[:, None])).all(2)
        points = torch.maximum(torch.minimum(points, high[:, None]), low[:, None])
        log_p, gradient = problem.log_density(index, points.flatten(0, 1).to(device))
        log_p = log_p.cpu().view(b, -1) + 0.5 * z.square().sum(2) + share
        weight = torch.softmax(torch.where(inside, log_p, -math.inf), 1)
        good = (weight.square() / share.exp()).sum(1) < 1 + _UNLIKE
        weight = torch.where(good[:, None], weight, share.exp())
        centre = torch.einsum("bk,bkd->bd", weight, points)
        off = points - centre[:, None]
        cov = torch.einsum("bk,bki,bkj->bij", weight, off, off)
    return points, weight, gradient.cpu().view(points.shape)


def _root(cov: torch.Tensor) -> torch.Tensor:
    """Matrices (B, D, D) with root @ root.T = cov; rows without variance are 0."""
    sd = cov.diagonal(dim1=1, dim2=2).clamp_min(0).sqrt()
    inverse = torch.where(sd > 0, 1 / sd, 0.0)
    values, vectors = torch.linalg.eigh(cov * inverse[:, :, None] * inverse[:, None])
    return sd[:, :, None] * vectors * values.clamp_min(0).sqrt()[:, None]
