"""Statistics of the images of fits: light, S/N, noise and its correlation, blending."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch

from autofit_ml.fitting.batch import SceneBatch
from autofit_ml.fitting.companions import compact_residuals
from autofit_ml.fitting.neighbours import Neighbour
from autofit_ml.fitting.pixels import pixel_sum
from autofit_ml.fitting.problem import SceneProblem
from autofit_ml.fitting.residual_apertures import APERTURES, aperture_pulls, radial_number
from autofit_ml.fitting.sky_noise import RIGHT, sky_scatter
from autofit_ml.fitting.uncertainties import correlated_products
from autofit_ml.measure.correlation import adjacent_correlation, measure_correlation

__all__ = ["ImageStatistics", "measure_images"]

_LEAST_SKY = 200
"""Pixels of sky below which the noise is measured on all unmasked pixels."""


@dataclass
class ImageStatistics:
    """Image statistics of B objects.

    Attributes
    ----------
    snr2 : Tensor, (B,)
        Square of the target's S/N in all images together.
    snr4 : Tensor, (B,)
        Sum of the fourth powers of its pixels' S/N.
    blended : Tensor, (B,)
        Neighbours' light over the target's, inside the target's half-light ellipse.
    adjacent : Tensor, (B,)
        Correlation of the noise of adjacent pixels in the first image.
    correlated : Tensor, bool, (B,)
        In any image.
    scatter : Tensor, (B, images)
        Of sky pixels, in units of sigma (`sky_scatter`).
    misfit, allowed, spread2 : Tensor, (B,)
        Sum of `Likelihood.misfit` over all pixels, what the sky's own noise makes of it, and its
        variance.
    light : Tensor, (B, components of the target)
        Inside the first image, units of its scale.
    change, slope : Tensor, (B, D, D)
        What correlated noise and a robust likelihood change in the variance of the score and in
        the curvature.
    images : dict
        Object -> for each image a dict component -> image, float32, image units, and "sky".
    companions : dict
        Object -> `compact_residuals` of the first image, units of its scale.
    """

    snr2: torch.Tensor
    snr4: torch.Tensor
    blended: torch.Tensor
    adjacent: torch.Tensor
    correlated: torch.Tensor
    scatter: torch.Tensor
    misfit: torch.Tensor
    allowed: torch.Tensor
    spread2: torch.Tensor
    light: torch.Tensor
    change: torch.Tensor
    slope: torch.Tensor
    pulls: torch.Tensor
    images: dict[int, list[dict[str, np.ndarray]]] = field(default_factory=dict)
    companions: dict[int, tuple[Neighbour, ...]] = field(default_factory=dict)

    @classmethod
    def empty(
        cls, n: int, theta: torch.Tensor, n_images: int, n_target: int, n_pulled: int
    ) -> ImageStatistics:
        """Blank statistics of n objects; `theta` (..., D) gives size and device."""
        zeros, d = theta.new_zeros(n), theta.shape[-1]
        square = theta.new_zeros((n, d, d))
        return cls(
            zeros, zeros.clone(), zeros.clone(), zeros + torch.nan, zeros > 0,
            theta.new_full((n, n_images), torch.nan), zeros.clone(), zeros.clone(), zeros.clone(),
            theta.new_zeros((n, n_target)), square, square.clone(),
            theta.new_zeros((n, n_pulled, len(APERTURES) - 1)),
        )  # fmt: skip

    @property
    def widens(self) -> torch.Tensor:
        """Objects whose covariance changes, bool, (B,)."""
        return (self.change != 0).any(2).any(1) | (self.slope != 0).any(2).any(1)

    def put(self, index: torch.Tensor, other: ImageStatistics) -> None:
        """Overwrite some objects."""
        for name in (
            "snr2", "snr4", "blended", "adjacent", "correlated", "scatter", "misfit", "allowed",
            "spread2", "light", "change", "slope", "pulls",
        ):  # fmt: skip
            getattr(self, name)[index] = getattr(other, name)
        for k, i in enumerate(index.tolist()):
            if k in other.images:
                self.images[i] = other.images[k]
            if k in other.companions:
                self.companions[i] = other.companions[k]


def measure_images(
    batch: SceneBatch,
    problem: SceneProblem,
    index: torch.Tensor,
    theta: torch.Tensor,
    rows: np.ndarray,
    n_target: int,
    ellipses: np.ndarray,
    components: bool,
    ratio: torch.Tensor,
    covariance: torch.Tensor,
) -> ImageStatistics:
    """Statistics of the objects `index` (A,) of a problem at `theta` (A, D).

    Parameters
    ----------
    batch : SceneBatch
    problem : SceneProblem
    index, theta : Tensor
    rows : ndarray, (A,)
        Their places in the batch.
    n_target : int
        Components of the target; the others are neighbours.
    ellipses : ndarray, (A, 5)
        x, y, re, q, pa of the targets.
    components : bool
        Keep the components' images.
    ratio : Tensor, (A, n_target)
        By which the light of the target's components is multiplied.
    covariance : Tensor, (A, K, D)
        Of the fit: rows of the numbers whose pulls are wanted.
    """
    layout, settings = batch.layout, batch.settings
    out = ImageStatistics.empty(len(index), theta, layout.n_images, n_target, covariance.shape[1])
    fwhm = np.array([batch.members[row].fwhm[0] for row in rows])
    members = torch.as_tensor(rows, device=theta.device)
    shared = problem.shared()
    numbers: dict[tuple[int, int], torch.Tensor] = {}
    for i in range(layout.n_images):
        data = problem.images[i]
        if data.placement is not None or data.plan.shape not in numbers:
            numbers[data.plan.shape] = radial_number(data, index, ellipses, fwhm)
        channels, jacobian = problem.channels(index, theta, i, shared)
        images = problem.light_of(channels)
        for k in (ratio != 1).any(0).nonzero()[:, 0].tolist():
            images[k] = images[k] * ratio[:, k, None, None].to(images[k].dtype)
        sky = problem.sky_image(index, theta, i)
        target = torch.stack(images[:n_target]).sum(0) if n_target > 1 else images[0]
        whole = target if len(images) == n_target else target + sum(images[n_target:])
        out.pulls += aperture_pulls(
            channels,
            jacobian,
            problem.pixel_terms(index, i, whole + sky).score,
            covariance,
            numbers[data.plan.shape],
        )
        root = data.root_weight[index]
        residual = (data.data[index] - whole - sky) * root
        signal2 = (target * root).to(torch.float64).square()
        out.snr2 += pixel_sum(signal2)
        out.snr4 += pixel_sum(signal2.square())
        usable = batch.empty(i)[members] & (root > 0)
        few = usable.sum((1, 2)) < _LEAST_SKY
        _weigh_misfit(out, batch, problem, index, members, i, whole + sky, residual, usable, few)
        usable = torch.where(few[:, None, None], root > 0, usable)
        adjacent, error = adjacent_correlation(residual, usable)
        widened = adjacent > torch.maximum(
            torch.full_like(error, settings.correlated_threshold), 4 * error
        )
        out.correlated |= widened
        if i == 0:
            out.adjacent = adjacent.to(torch.float64)
            out.light = torch.stack(
                [pixel_sum(image.to(torch.float64)) for image in images[:n_target]], 1
            )
            if len(images) > n_target:
                out.blended = _blended(target, whole - target, ellipses)
            if settings.companions:
                width = [batch.members[row].fwhm[0] for row in rows]
                out.companions = compact_residuals(
                    residual, root, target, whole - target, ellipses, width
                )
        _robust_changes(out, problem, index, theta, i, residual, usable, widened, settings)
        if components:
            _keep_images(out, batch, problem, index, rows, i, images, sky)
    return out


def _weigh_misfit(
    out: ImageStatistics,
    batch: SceneBatch,
    problem: SceneProblem,
    index: torch.Tensor,
    members: torch.Tensor,
    i: int,
    model: torch.Tensor,
    residual: torch.Tensor,
    sky: torch.Tensor,
    few: torch.Tensor,
) -> None:
    """Add one image's misfit and the scatter of its sky pixels, in place.

    What is allowed is the sky's own misfit, unless that is not the noise plane's (`RIGHT`), or
    there are too few pixels to know.
    """
    data, likelihood = problem.images[i], problem.likelihood
    electrons = None if data.electrons is None else data.electrons[index].to(data.data.dtype)
    pixels, variance = likelihood.misfit(
        data.data[index], model, data.root_weight[index], electrons
    )
    # Counts of few photons have longer tails than a Gaussian.
    few_photons = (data.root_weight[index] / batch.photons(i)[members, None, None]).square()
    pixels, variance = pixels.to(torch.float64), variance + few_photons
    own = pixel_sum(pixels * sky) / sky.sum((1, 2)).clamp_min(1)
    scatter = sky_scatter(residual, data.data[index], sky)
    if likelihood.name == "poisson":  # the noise plane is not what counts
        scatter = torch.where(scatter.isfinite(), own.sqrt(), scatter)
    low, high = RIGHT
    wrong = few | (scatter < low) | (scatter > high)
    own = torch.where(wrong, 1.0, own.clamp(low**2, high**2))
    out.scatter[:, i] = scatter
    out.misfit += pixel_sum(pixels)
    out.allowed += own * (data.root_weight[index] > 0).sum((1, 2))
    out.spread2 += pixel_sum(variance.to(torch.float64)) * own.square()


def _robust_changes(
    out: ImageStatistics,
    problem: SceneProblem,
    index: torch.Tensor,
    theta: torch.Tensor,
    i: int,
    residual: torch.Tensor,
    usable: torch.Tensor,
    widened: torch.Tensor,
    settings,
) -> None:
    """Add one image's changes to the variance of the score and the curvature, in place."""
    likelihood = settings.likelihood
    some = torch.arange(len(index), device=theta.device)
    if not likelihood.robust:
        some = widened.nonzero()[:, 0]
    if len(some) == 0:
        return
    root = problem.images[i].root_weight[index[some]]
    weighted = problem.design(index[some], theta[some], i) * root[:, None]
    flat = weighted.to(torch.float64).flatten(2)
    white = flat @ flat.transpose(1, 2)
    correlation, _, _ = measure_correlation(residual[some], usable[some], settings.correlated_lag)
    products = correlated_products(weighted, correlation) - white
    change = torch.where(widened[some][:, None, None], products, torch.zeros_like(products))
    if likelihood.robust:
        part = residual[some]
        terms = likelihood.terms(part, torch.zeros_like(part), root.sign())
        held = terms.curvature.to(torch.float64).flatten(1)
        irls = (flat * held[:, None]) @ flat.transpose(1, 2)
        # Huber 1981 (Robust Statistics, section 7.6): the score's mean square and mean
        # slope over all pixels; pixel by pixel they would be as noisy as a few pixels are.
        used = (root > 0).to(torch.float64)
        pixels = used.sum((1, 2)).clamp_min(1)
        square = pixel_sum(terms.score.to(torch.float64).square()) / pixels
        true = likelihood.slope(part.to(torch.float64))
        steepness = (pixel_sum(true * used) / pixels).clamp_min(0.05)
        change = change + square[:, None, None] * white - irls
        out.slope[some] += steepness[:, None, None] * white - irls
    out.change[some] += change


def _blended(target: torch.Tensor, others: torch.Tensor, ellipses: np.ndarray) -> torch.Tensor:
    """Neighbours' light over the target's inside the target's half-light ellipse, (A,)."""
    ny, nx = target.shape[1:]
    x, y, re, q, pa = torch.as_tensor(ellipses, dtype=target.dtype, device=target.device).unbind(1)
    gx = torch.arange(nx, device=target.device) - x[:, None]
    gy = torch.arange(ny, device=target.device) - y[:, None]
    cos, sin = torch.deg2rad(pa).cos(), torch.deg2rad(pa).sin()
    along = -gx[:, None, :] * sin[:, None, None] + gy[:, :, None] * cos[:, None, None]
    across = gx[:, None, :] * cos[:, None, None] + gy[:, :, None] * sin[:, None, None]
    ratio = across / q.clamp_min(0.05)[:, None, None]
    inside = along.square() + ratio.square() <= re.clamp_min(1.0).square()[:, None, None]
    own = pixel_sum((target * inside).to(torch.float64))
    foreign = pixel_sum((others * inside).to(torch.float64))
    return torch.where(own > 0, foreign / own.clamp_min(1e-300), 0.0)


def _keep_images(
    out: ImageStatistics,
    batch: SceneBatch,
    problem: SceneProblem,
    index: torch.Tensor,
    rows: np.ndarray,
    i: int,
    images: list[torch.Tensor],
    sky: torch.Tensor,
) -> None:
    """Add the components' images of image i, image units."""
    data = problem.images[i]
    unit, level = data.scale[index].tolist(), data.pedestal[index].tolist()
    for k, row in enumerate(rows):
        stamp = batch.members[row].object.stamps[i]
        h, w = batch.shapes[i] if stamp is None else stamp.shape
        kept = {
            span.component.name: (image[k, :h, :w].double() * unit[k]).float().cpu().numpy()
            for span, image in zip(batch.layout.spans, images, strict=True)
        }
        kept["sky"] = (sky[k, :h, :w].double() * unit[k] + level[k]).float().cpu().numpy()
        out.images.setdefault(k, []).append(kept)
