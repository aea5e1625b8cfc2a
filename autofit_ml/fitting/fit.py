"""Fit a list of stamps: bucket them by shape, search, fit, and attach errors and flags."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from autofit_ml.catalogue.flags import Flag
from autofit_ml.errors import SettingsError
from autofit_ml.fitting.geometry import geometry_flags, padded_shape
from autofit_ml.fitting.levenberg_marquardt import LMResult, minimise
from autofit_ml.fitting.parallel import object_threads
from autofit_ml.fitting.point_source import point_source_chi2
from autofit_ml.fitting.problem import Problem, chunk_size, pixel_sum
from autofit_ml.fitting.results import FitResults
from autofit_ml.fitting.search import search, several_starts
from autofit_ml.fitting.settings import RefineSettings
from autofit_ml.fitting.uncertainties import (
    axis_ratio_error,
    laplace,
    position_angle_error,
    sandwich,
)
from autofit_ml.images.stamp import Stamp
from autofit_ml.initialisation.starts import Starts
from autofit_ml.measure import bin_images, psf_fwhm
from autofit_ml.measure.correlation import measure_correlation
from autofit_ml.profiles import sersic_table
from autofit_ml.rendering import Accuracy, make_plan, psf_modes
from autofit_ml.scenes import (
    FIT_PARAMETERS,
    Scene,
    catalogue_jacobian,
    sersic,
    to_catalogue,
    to_fit_space,
)
from autofit_ml.segmentation.result import Segmentation

__all__ = ["refine"]

_MAX_STEP = (2.0, 2.0, 1.5, 1.0, 0.7, 0.7, 0.7, float("inf"))
"""Largest change of each fit parameter in one step."""

_SMALLEST_TASK, _LARGEST_TASK = 8, 512
"""Objects that a thread fits together: fewer than 8 cost more than a second thread gains; the more,
the smaller the share of the steps that only a few of them still need; 512 a thread take 350 MB."""


def refine(
    stamps: Sequence[Stamp],
    scene: Scene | None = None,
    init: Starts | None = None,
    segmentations: Sequence[Segmentation] | None = None,
    settings: RefineSettings | None = None,
    *,
    models: bool = False,
) -> FitResults:
    """Fit a scene to each stamp.

    Parameters
    ----------
    stamps : sequence of Stamp
        Any mixture of shapes; stamps of similar shape share the work.
    scene : Scene, optional
        What to fit; one Sérsic with a free sky by default.
    init : Starts, optional
        Starting values; those of `autofit_ml.initialisation` by default.
    segmentations : sequence of Segmentation, optional
        Contaminants to leave out, and the sky pixels on which the noise is measured; by default
        those of `autofit_ml.segmentation`.
    settings : RefineSettings, optional
    models : bool
        Keep the model images.

    Returns
    -------
    FitResults
        One row per stamp, in order. A stamp that cannot be fitted (fewer good pixels than
        parameters) has a row of NaN with the FAILED bit.
    """
    scene = scene or sersic()
    settings = settings or RefineSettings()
    if segmentations is None:
        from autofit_ml.segmentation import segment

        segmentations = segment(stamps)
    if init is None:
        from autofit_ml.initialisation import initialise

        init = initialise(stamps, segmentations)
    if not len(stamps) == len(segmentations) == len(init.values):
        raise SettingsError(
            f"{len(stamps)} stamps, {len(segmentations)} segmentations, {len(init.values)} starts",
            "give one of each per object",
        )
    results = FitResults.empty(len(stamps), np.array(init.values, dtype=np.float64), models)

    def fit_task(index: np.ndarray) -> FitResults:
        batch = _Batch(
            [stamps[i] for i in index],
            [segmentations[i] for i in index],
            init.values[index],
            None if init.cov is None else init.cov[index],
        )
        return _fit_batch(batch, scene, settings, models)

    with object_threads(torch.device(settings.device)) as run:
        tasks = [
            np.array(members[first : first + size])
            for members in _buckets(stamps, segmentations, init, settings)
            for size in [_task_size(len(members), run.threads, settings.batch_size)]
            for first in range(0, len(members), size)
        ]
        for index, part in zip(tasks, run(fit_task, tasks), strict=True):
            results.put(index, part)
    return results


@dataclass(frozen=True)
class _Batch:
    """Objects of one bucket."""

    stamps: list[Stamp]
    segmentations: list[Segmentation]
    start: np.ndarray
    start_cov: np.ndarray | None


def _task_size(n: int, threads: int, batch_size: int) -> int:
    """Objects of a bucket that one thread fits together: equal shares for all threads."""
    rounds = -(-n // (threads * min(batch_size, _LARGEST_TASK)))
    return max(_SMALLEST_TASK, -(-n // (threads * rounds)))


def _buckets(
    stamps: Sequence[Stamp],
    segmentations: Sequence[Segmentation],
    init: Starts,
    settings: RefineSettings,
) -> list[list[int]]:
    """Indices of the stamps that can share a plan; the key depends on the object alone."""
    buckets: dict[tuple, list[int]] = {}
    for i, stamp in enumerate(stamps):
        binning = _binning(stamp, init.values[i])
        key = (padded_shape(stamp.shape), stamp.psf.data.shape, stamp.psf.oversampling, binning)
        buckets.setdefault(key, []).append(i)
    return [buckets[key] for key in sorted(buckets)]


def _binning(stamp: Stamp, start: np.ndarray) -> int:
    """Block size of the search: as coarse as the PSF and the object allow."""
    finest = max(psf_fwhm(stamp.psf) / 1.4, 0.6 * start[3] * math.sqrt(start[5]))
    for factor in (8, 4, 2):
        if factor <= finest and min(padded_shape(stamp.shape)) // factor >= 16:
            return factor
    return 1


def _fit_batch(batch: _Batch, scene: Scene, settings: RefineSettings, models: bool) -> FitResults:
    device = torch.device(settings.device)
    table = sersic_table()
    shape = padded_shape(batch.stamps[0].shape)
    psf_images = torch.as_tensor(np.stack([s.psf.data for s in batch.stamps]), device=device)
    has_pixel = torch.tensor([s.psf.has_pixel for s in batch.stamps], device=device)
    data, root_weight, scale, pedestal = _scaled_images(batch, shape, scene)
    data, root_weight = data.to(device), root_weight.to(device)
    scale, pedestal = scale.to(device), pedestal.to(device)
    n_pix = (root_weight > 0).sum((1, 2)).cpu().numpy()

    start = torch.as_tensor(batch.start, device=device).clone()
    start[:, 2] /= scale
    start[:, 7] = (start[:, 7] - pedestal) / scale
    theta = to_fit_space(start)
    lower, upper = _limits(batch, theta, scale, pedestal, scene)
    start_cov = None
    if batch.start_cov is not None:
        start_cov = torch.as_tensor(batch.start_cov, device=device)
        start_cov = start_cov / _sky_units(scale)
    prior_mean, prior_precision = _prior(batch, theta, scale, pedestal)
    if settings.prior == "network":
        _add_prior(prior_precision, start_cov)
    max_step = torch.tensor(_MAX_STEP, dtype=torch.float64, device=device)

    oversampling = batch.stamps[0].psf.oversampling
    psf_shape = psf_images.shape[1:]

    def problem(accuracy: Accuracy, members: torch.Tensor, binning: int = 1) -> Problem:
        plan = make_plan(
            (shape[0] // binning, shape[1] // binning),
            (psf_shape[0] // binning, psf_shape[1] // binning),
            oversampling if binning == 1 else 1,
            accuracy,
            device,
        )
        modes = psf_modes(plan, psf_images[members], has_pixel[members], oversampling, binning)
        image, root = data[members], root_weight[members]
        mean, precision = prior_mean[members], prior_precision[members]
        if binning > 1:
            image, root = bin_images(image, root, binning)
            factor = _binned_units(binning, device)
            mean = _to_binned(mean, binning)
            precision = precision / (factor[:, None] * factor[None, :])
        return Problem(
            plan, table, modes, image, root, mean, precision, scale[members], chunk_size(plan)
        )

    everyone = torch.arange(len(theta), device=device)
    enough = torch.as_tensor(n_pix > 8, device=device)
    everyone = everyone[enough]
    out = FitResults.empty(len(theta), batch.start.copy(), models)
    out.n_pix[:] = n_pix
    out.flags[~enough.cpu().numpy()] |= int(Flag.FAILED)
    if len(everyone) == 0:
        return out

    # 1. Search over the starts on binned images.
    binning = _binning(batch.stamps[0], batch.start[0])
    starts, wanted = several_starts(
        theta[everyone],
        settings.start_n,
        lower[everyone],
        upper[everyone],
        None if start_cov is None else start_cov[everyone],
        settings.spread,
        settings.certain,
    )
    low, high = _to_binned(lower[everyone], binning), _to_binned(upper[everyone], binning)
    coarse = problem(settings.coarse, everyone, binning)
    found, chi2, n_iter = search(
        coarse, _to_binned(starts, binning), low, high, max_step, settings.search, wanted
    )
    found = _from_binned(found, binning)

    # 2. The fit itself, from the best start and from rivals that are nearly as good.
    rivals = (chi2 < chi2[:, :1] + 25.0) & torch.isfinite(chi2)
    rivals[:, 0] = True
    owner, which = rivals.nonzero(as_tuple=True)
    fits = _fit_from(
        problem, everyone[owner], found[owner, which], lower, upper, max_step, settings, shape
    )
    best = _best_of(fits, owner, len(everyone))
    fit = fits.select(best)
    spent = torch.zeros(len(everyone), dtype=torch.int32, device=device)
    spent.index_add_(0, owner, fits.n_iter)
    rows = everyone.cpu().numpy()
    out.n_iter[rows] = (n_iter + spent).cpu().numpy()
    out.n_starts[rows] = wanted.sum(1).cpu().numpy()

    # 3. Errors, alternatives, flags.
    wide = needs_wide(fit.theta, shape, settings)
    for accuracy, sel in ((settings.compact, ~wide), (settings.wide, wide)):
        some = sel.nonzero()[:, 0]
        if len(some) == 0:
            continue
        members = everyone[some]
        part = fit.select(some)
        _describe(
            problem(accuracy, members),
            members.cpu().numpy(),
            part,
            batch,
            scene,
            settings,
            out,
            lambda members: problem(settings.point_source, members),
            pedestal[members],
            lower[members] == upper[members],
        )
    return out


def _scaled_images(batch: _Batch, shape: tuple[int, int], scene: Scene):
    """Data and 1/sigma in units in which sigma is about 1, without the sky's pedestal."""
    b = len(batch.stamps)
    data = np.zeros((b, *shape), dtype=np.float32)
    root = np.zeros((b, *shape), dtype=np.float32)
    scale, pedestal = np.ones(b), np.zeros(b)
    for i, (stamp, segmentation) in enumerate(zip(batch.stamps, batch.segmentations, strict=True)):
        good = ~(stamp.mask | segmentation.contaminants)
        sigma = stamp.sigma.astype(np.float64)
        if good.any():
            scale[i] = np.median(sigma[good])
        level = batch.start[i, 7] if scene.fixed_sky is None else scene.fixed_sky
        pedestal[i] = level
        ny, nx = stamp.shape
        data[i, :ny, :nx] = np.where(good, (stamp.data.astype(np.float64) - level) / scale[i], 0.0)
        root[i, :ny, :nx] = np.where(good, scale[i] / sigma, 0.0)
    return (
        torch.from_numpy(data),
        torch.from_numpy(root),
        torch.from_numpy(scale),
        torch.from_numpy(pedestal),
    )


def _limits(batch: _Batch, theta, scale, pedestal, scene: Scene):
    """Bounds in fit space (scaled units), (B, 8) each."""
    bounds = scene.bounds
    shapes = np.array([s.shape for s in batch.stamps], dtype=np.float64)
    size = torch.as_tensor(shapes, device=theta.device)
    eta = -math.log(bounds.q_min)
    lower, upper = torch.empty_like(theta), torch.empty_like(theta)
    lower[:, 0] = lower[:, 1] = -0.5
    upper[:, 0], upper[:, 1] = size[:, 1] - 0.5, size[:, 0] - 0.5
    lower[:, 2], upper[:, 2] = math.log(1e-3), math.log(1e12)
    lower[:, 3] = math.log(bounds.re_min)
    upper[:, 3] = (bounds.re_max_stamps * size.amax(1)).log()
    lower[:, 4], upper[:, 4] = math.log(bounds.n[0]), math.log(bounds.n[1])
    lower[:, 5:7], upper[:, 5:7] = -eta, eta
    if scene.fixed_sky is None:
        lower[:, 7], upper[:, 7] = -torch.inf, torch.inf
    else:
        lower[:, 7] = upper[:, 7] = (scene.fixed_sky - pedestal) / scale
    return lower, upper


def _prior(batch: _Batch, theta, scale, pedestal):
    """Gaussian prior in scaled fit space: the sky that was measured outside the stamp."""
    mean = theta.clone()
    precision = torch.zeros((*theta.shape, 8), dtype=theta.dtype, device=theta.device)
    for i, stamp in enumerate(batch.stamps):
        if stamp.sky_prior is None:
            continue
        level, error = stamp.sky_prior
        if error > 0 and math.isfinite(level) and math.isfinite(error):
            mean[i, 7] = (level - pedestal[i]) / scale[i]
            precision[i, 7, 7] = (scale[i] / error) ** 2
    return mean, precision


def _sky_units(scale: torch.Tensor) -> torch.Tensor:
    """What a covariance (B, 8, 8) in image units is divided by in scaled units."""
    units = torch.ones((len(scale), 8), dtype=torch.float64, device=scale.device)
    units[:, 7] = scale
    return units[:, :, None] * units[:, None, :]


def _add_prior(precision: torch.Tensor, cov: torch.Tensor | None) -> None:
    """The start's Gaussian as a prior of everything but the sky; in place.

    Its mean is the start itself, which `_prior` has put there.
    """
    if cov is None:
        return
    shape = cov[:, :7, :7]
    given = torch.isfinite(shape).all((1, 2)) & (shape.diagonal(dim1=1, dim2=2) > 0).all(1)
    if given.any():
        precision[given, :7, :7] += torch.linalg.inv(shape[given])


def _binned_units(binning: int, device) -> torch.Tensor:
    """d(binned parameters) / d(parameters), (8,)."""
    units = torch.ones(8, dtype=torch.float64, device=device)
    units[:2] = 1.0 / binning
    units[7] = float(binning * binning)
    return units


def _to_binned(theta: torch.Tensor, binning: int) -> torch.Tensor:
    """Fit-space parameters in units of binned pixels (..., 8)."""
    if binning == 1:
        return theta
    out = theta.clone()
    out[..., :2] = (theta[..., :2] + 0.5) / binning - 0.5
    out[..., 3] = theta[..., 3] - math.log(binning)
    out[..., 7] = theta[..., 7] * binning**2
    return out


def _from_binned(theta: torch.Tensor, binning: int) -> torch.Tensor:
    """Inverse of `_to_binned`."""
    if binning == 1:
        return theta
    out = theta.clone()
    out[..., :2] = (theta[..., :2] + 0.5) * binning - 0.5
    out[..., 3] = theta[..., 3] + math.log(binning)
    out[..., 7] = theta[..., 7] / binning**2
    return out


def needs_wide(
    theta: torch.Tensor, shape: tuple[int, int], settings: RefineSettings
) -> torch.Tensor:
    """Objects whose light reaches too far for the compact renderer (needles reach further)."""
    eta = torch.hypot(theta[:, 5], theta[:, 6])
    re, q = (theta[:, 3] + eta / 2).exp(), (-eta).exp()
    return re > settings.compact_re * min(shape) * (q / 0.4).clamp_max(1.0)


def _fit_from(
    problem, members, theta, lower, upper, max_step, settings: RefineSettings, shape
) -> LMResult:
    """Fit every start; objects that turn out to be large are fitted on with the wide renderer."""
    lower, upper = lower[members], upper[members]
    result = LMResult.empty(theta, 7)
    todo = torch.arange(len(members), device=members.device)
    wide = needs_wide(theta, shape, settings)
    for accuracy, serve_wide in ((settings.compact, False), (settings.wide, True)):
        some = todo[wide if serve_wide else ~wide]
        if len(some) == 0:
            continue
        needed, slot = torch.unique(members[some], return_inverse=True)
        batch = problem(accuracy, needed)
        out = minimise(
            batch.evaluator(slot),
            result.theta[some],
            lower[some],
            upper[some],
            max_step,
            settings.final,
        )
        result.put(some, out)
        if not serve_wide:  # compact fits that grew large go on in the wide pass
            wide = wide.clone()
            wide[some] = needs_wide(out.theta, shape, settings)
    return result


def _best_of(fits: LMResult, owner: torch.Tensor, n: int) -> torch.Tensor:
    """For each object, the index of its fit with the smallest chi2."""
    chi2 = torch.nan_to_num(fits.state.chi2, nan=torch.inf)
    order = torch.argsort(chi2, stable=True)
    by_owner = order[torch.argsort(owner[order], stable=True)]
    first = torch.ones_like(by_owner, dtype=torch.bool)
    first[1:] = owner[by_owner[1:]] != owner[by_owner[:-1]]
    best = by_owner[first]
    if len(best) != n:
        raise ValueError("an object has no fit")
    return best


def _describe(
    problem: Problem,
    rows: np.ndarray,
    fit: LMResult,
    batch: _Batch,
    scene: Scene,
    settings: RefineSettings,
    out: FitResults,
    point_problem: Callable[[torch.Tensor], Problem],
    pedestal: torch.Tensor,
    fixed: torch.Tensor,
) -> None:
    """Fill the rows of `out`: errors, statistics, flags."""
    scale = problem.scale
    frozen = fixed | fit.at_bound
    covariance, good = laplace(fit.state.matrix, frozen)
    n = len(rows)
    ny, nx = problem.plan.shape
    stamps = [batch.stamps[i] for i in rows]
    segmentations = [batch.segmentations[i] for i in rows]
    sky_region = torch.zeros((n, ny, nx), dtype=torch.bool)
    log_sigma = np.zeros(n)
    for i, (stamp, segmentation) in enumerate(zip(stamps, segmentations, strict=True)):
        h, w = stamp.shape
        sky_region[i, :h, :w] = torch.from_numpy(np.asarray(segmentation.labels) == 0)
        used = ~(stamp.mask | segmentation.contaminants)
        log_sigma[i] = np.log(stamp.sigma[used].astype(np.float64)).sum()
    sky_region = sky_region.to(problem.data.device)

    snr = torch.empty(n, dtype=torch.float64, device=scale.device)
    light = torch.empty(n, dtype=torch.float64, device=scale.device)
    adjacent = torch.empty_like(light)
    widened = torch.zeros(n, dtype=torch.bool, device=scale.device)
    sky_chi2 = torch.empty_like(light)
    images: list[np.ndarray] = []
    for start in range(0, n, problem.chunk):
        index = torch.arange(start, min(start + problem.chunk, n), device=scale.device)
        theta = fit.theta[index]
        root = problem.root_weight[index]
        model = problem.image(index, theta)
        snr[index] = pixel_sum((model * root).to(torch.float64).square()).sqrt()
        sky = theta[:, 7].to(model.dtype)[:, None, None]
        residual = (problem.data[index] - model - sky) * root
        usable = (root > 0) & sky_region[index]
        few = usable.sum((1, 2)) < 200
        usable = torch.where(few[:, None, None], root > 0, usable)
        correlation, lag1, error = measure_correlation(residual, usable, settings.correlated_lag)
        adjacent[index] = lag1.to(torch.float64)
        count = usable.sum((1, 2)).clamp_min(1)
        sky_chi2[index] = (pixel_sum(residual**2 * usable) / count).to(torch.float64)
        correlated = lag1 > torch.maximum(
            torch.full_like(error, settings.correlated_threshold), 4 * error
        )
        widened[index] = correlated
        if correlated.any():
            some = correlated.nonzero()[:, 0]
            design = problem.design(index[some], theta[some])
            weighted = design * root[some][:, None]
            covariance[index[some]] = sandwich(covariance[index[some]], weighted, correlation[some])
        for i, row in enumerate(index.tolist()):
            h, w = stamps[row].shape
            inside = model[i, :h, :w].to(torch.float64)
            light[row] = pixel_sum(inside)
            if out.models is not None:
                images.append((inside * scale[row]).float().cpu().numpy())
    # d(light inside the stamp) / d(parameters), from the last evaluation (over the filled-up stamp)
    slope = torch.cat([fit.state.light, torch.zeros_like(light)[:, None]], dim=1)
    variance = (slope[:, None] @ covariance @ slope[..., None])[:, 0, 0].clamp_min(0)
    light_error = variance.sqrt()

    # Back to image units.
    units = torch.ones((n, 8), dtype=torch.float64, device=scale.device)
    units[:, 7] = scale
    theta = fit.theta * units
    theta[:, 2] += scale.log()
    theta[:, 7] += pedestal
    theta_cov = covariance * units[:, :, None] * units[:, None, :]
    values = to_catalogue(theta)
    jacobian = catalogue_jacobian(theta)
    cov = jacobian @ theta_cov @ jacobian.transpose(1, 2)
    errors = cov.diagonal(dim1=1, dim2=2).clamp_min(0).sqrt()
    errors[:, 5] = axis_ratio_error(theta, theta_cov)
    errors[:, 6] = position_angle_error(theta, theta_cov)
    errors[:, 7] = torch.where(fixed[:, 7], torch.nan, errors[:, 7])
    errors[:, 4] = torch.where(frozen[:, 4], torch.nan, errors[:, 4])

    chi2 = fit.state.chi2.cpu().numpy()
    n_free = (~fixed).sum(1).cpu().numpy()
    n_pix = out.n_pix[rows]
    flags = np.zeros(n, dtype=np.int32)

    def raise_flag(where, flag: Flag) -> None:
        flags[np.asarray(where)] |= int(flag)

    raise_flag((~fit.converged).cpu().numpy(), Flag.NOT_CONVERGED)
    bound = (fit.at_bound & ~fixed).cpu().numpy()
    raise_flag(bound.any(1), Flag.AT_BOUND)
    finite = torch.isfinite(errors[:, :4]).all(1) & torch.isfinite(cov).all((1, 2))
    raise_flag((~(good & finite)).cpu().numpy(), Flag.BAD_COVARIANCE)
    raise_flag(widened.cpu().numpy(), Flag.CORRELATED_NOISE)
    raise_flag(snr.cpu().numpy() < 10, Flag.LOW_SNR)
    ndof = n_pix - n_free
    reduced = chi2 / np.maximum(ndof, 1)
    own = np.maximum(sky_chi2.cpu().numpy(), 1e-6)
    spread = np.sqrt(2.0 / np.maximum(ndof, 1)) * np.where(widened.cpu().numpy(), 2.0, 1.0)
    raise_flag(
        (reduced > own * (1 + 5 * spread)) | (reduced < own * (1 - 5 * spread)), Flag.POOR_FIT
    )

    # A point source instead? Only objects not much larger than their PSF can be one.
    log_n = np.log(np.maximum(n_pix, 2))
    bic = chi2 + n_free * log_n
    sky_free = scene.fixed_sky is None
    limit = torch.as_tensor(chi2 + 10 * log_n, device=scale.device)
    point, n_point = point_source_chi2(
        point_problem(torch.as_tensor(rows, device=scale.device)), fit.theta, sky_free, limit
    )
    bic_point = point.cpu().numpy() + int(n_point) * log_n
    raise_flag(bic_point <= bic, Flag.POINT_SOURCE)

    out.values[rows] = values.cpu().numpy()
    out.errors[rows] = errors.cpu().numpy()
    out.cov[rows] = cov.cpu().numpy()
    out.theta[rows] = theta.cpu().numpy()
    out.theta_cov[rows] = theta_cov.cpu().numpy()
    out.chi2[rows] = chi2
    out.logl[rows] = -0.5 * chi2 - log_sigma - 0.5 * n_pix * math.log(2 * math.pi)
    out.bic[rows] = bic
    out.bic_point_source[rows] = np.where(np.isfinite(bic_point), bic_point, np.nan)
    out.ndof[rows] = ndof
    out.snr[rows] = snr.cpu().numpy()
    out.flux_stamp[rows] = (light * scale).cpu().numpy()
    out.flux_stamp_err[rows] = (light_error * scale).cpu().numpy()
    out.noise_correlation[rows] = adjacent.cpu().numpy()
    values_np = out.values
    for i, row in enumerate(rows):
        row = int(row)
        out.at_bound[row] = ",".join(FIT_PARAMETERS[j] for j in np.nonzero(bound[i])[0])
        if out.models is not None:
            out.models[row] = images[i]
        flags[i] |= geometry_flags(stamps[i], segmentations[i], values_np[row])
    out.flags[rows] |= flags
