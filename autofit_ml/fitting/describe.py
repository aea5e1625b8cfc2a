"""Results of a batch from its minima: errors, statistics, flags."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np
import torch

from autofit_ml.catalogue.flags import Flag
from autofit_ml.fitting.batch import SceneBatch
from autofit_ml.fitting.faint_components import LinearFluxes, with_linear_fluxes
from autofit_ml.fitting.geometry import covers_stamp, geometry_flags, target_found
from autofit_ml.fitting.image_statistics import ImageStatistics, measure_images
from autofit_ml.fitting.levenberg_marquardt import LMResult, solve_damped
from autofit_ml.fitting.model_error import with_model_error
from autofit_ml.fitting.neighbours import Neighbour
from autofit_ml.fitting.passes import evaluate_each
from autofit_ml.fitting.problem import SceneProblem
from autofit_ml.fitting.results import SceneFit
from autofit_ml.fitting.sky_noise import RIGHT, likely_cause
from autofit_ml.fitting.uncertainties import laplace
from autofit_ml.fitting.valleys import stretched
from autofit_ml.fitting.values import CatalogueValues, absent_values, catalogue_values, value_names
from autofit_ml.scenes.layout import Layout
from autofit_ml.scenes.model import Scene

__all__ = ["describe", "failed", "undetermined"]

Problems = Callable[[torch.Tensor, torch.Tensor], list[tuple[torch.Tensor, SceneProblem]]]
"""(members, theta) -> (places in members, their problem) for each accuracy that is needed."""

_BLENDED = 0.05
"""Neighbours' light over the target's, inside re, that raises BLENDED."""

_LEAST_SNR = 10.0

_MAGNITUDE = 2.5 / math.log(10)
_LARGEST_SIZE_ERROR, _LARGEST_MAG_ERROR = 0.5, 0.5
"""re_err / re and mag_err above which UNDETERMINED is raised."""

_LEAST_LIGHT = 0.5
"""Share of the flux in the stamp below which EXTRAPOLATED is raised."""


def failed(layout: Layout, scene: Scene, why: str) -> SceneFit:
    """A result without a fit."""
    names = value_names(layout)
    v, d = len(names), layout.size
    nan = math.nan

    def unknown(*shape: int) -> np.ndarray:
        return np.full(shape, nan)

    return SceneFit(
        names, unknown(v), unknown(v), unknown(v, v), unknown(v), unknown(v, v), unknown(v),
        None, unknown(d), unknown(d, d), unknown(d, d),
        nan, nan, nan, 0, 0, nan, 0, 0, nan, nan, nan, int(Flag.FAILED), (),
        len(layout.scene.components) - len(scene.components),
        message=why,
    )  # fmt: skip


def describe(
    batch: SceneBatch,
    scene: Scene,
    rows: np.ndarray,
    fit: LMResult,
    lower: torch.Tensor,
    upper: torch.Tensor,
    started: torch.Tensor,
    n_iter: torch.Tensor,
    n_starts: torch.Tensor,
    components: bool,
    problems: Problems,
) -> list[SceneFit]:
    """Results of the batch's usable rows.

    Parameters
    ----------
    batch : SceneBatch
    scene : Scene
        Without neighbours.
    rows : ndarray
        Members that were fitted.
    fit : LMResult
    lower, upper : Tensor, (B, D)
    started : Tensor, (B, D)
        Where the winning start's search ended.
    n_iter, n_starts : Tensor, (B,)
    components : bool
        Keep the components' images.
    problems : callable
    """
    layout, settings = batch.layout, batch.settings
    members = torch.as_tensor(rows, device=batch.device)
    target = [component.name for component in scene.components]
    base = batch.base[members.cpu()].to(batch.device)
    frozen = (lower == upper) | fit.at_bound
    covariance, good = laplace(fit.state.matrix, frozen)
    variance = covariance.diagonal(dim1=1, dim2=2)
    names = value_names(layout)
    numbers = catalogue_values(batch, rows, fit.theta, base, covariance, started)
    main = _brightest(target, numbers.values, names)
    counts = _that_count(layout, target, main, fit.theta, base)
    settled = _settled(fit, counts & ~frozen, frozen, variance, settings.final.tolerance)
    linear = with_linear_fluxes(
        layout, target, main, fit, covariance, frozen, lower == upper, counts
    )
    fit, covariance = linear.fit, linear.covariance
    if linear.linear.any():
        numbers = catalogue_values(batch, rows, fit.theta, base, covariance, started)
    own = [j for j in range(layout.n_shape) if layout.names[j].rpartition(".")[0] in target]
    seen = ImageStatistics.empty(len(rows), fit.theta, layout.n_images, len(target), len(own))
    kept: dict[int, SceneProblem] = {}
    shape = _main_ellipses(layout, target, numbers.values, names)
    drawn = problems(members, fit.theta)
    for places, problem in drawn:
        for first in range(0, len(places), problem.chunk):
            index = torch.arange(
                first, min(first + problem.chunk, len(places)), device=places.device
            )
            at = places[index]
            seen.put(
                at,
                measure_images(
                    batch, problem, index, fit.theta[at], rows[at.cpu().numpy()], len(target),
                    shape[at.cpu().numpy()], components, linear.ratio[at],
                    covariance[at][:, own],
                ),
            )  # fmt: skip
            if settings.keep:
                for k, i in zip(at.tolist(), index, strict=True):
                    kept[k] = problem.select(i[None])
    curvature = covariance
    if bool(seen.widens.any()):
        covariance = _sandwiched(fit.state.matrix, covariance, seen.change, seen.slope, frozen)
    if len(target) > 1:
        covariance = stretched(
            layout, target, base, fit, curvature, covariance, (lower, upper), linear.linear,
            lambda some, at: evaluate_each(drawn, some, at),
        )  # fmt: skip
    if covariance is not curvature:
        numbers = catalogue_values(batch, rows, fit.theta, base, covariance, started)
    noise, noise_numbers = covariance, numbers
    extra, unknown = with_model_error(batch, rows, fit.theta, noise, own, seen.pulls)
    if extra is not None:
        covariance = noise + extra
        numbers = catalogue_values(batch, rows, fit.theta, base, covariance, started)
    _put_linear(numbers, target, names, linear)
    prior = batch.prior.select(members)
    known, _ = prior.pull(fit.theta)
    known_mean, known_precision = prior.mean.cpu().numpy(), prior.precision.cpu().numpy()
    chi2 = (fit.state.chi2 - known[:, : layout.n_shape].sum(1)).cpu().numpy()
    n_free = (lower < upper).sum(1).cpu().numpy()
    n_pix = batch.total("n_pix")[rows]
    log_sigma = batch.total("log_sigma")[rows]
    given_log_sigma = batch.total("given_log_sigma")[rows]
    bound = (fit.at_bound & (lower < upper)).cpu().numpy()
    held = (fit.at_bound & (lower < upper) & counts).any(1).cpu().numpy()
    converged, good_cov = settled.cpu().numpy(), good.cpu().numpy()
    spent, begun = n_iter.cpu().numpy(), n_starts.cpu().numpy()
    theta, theta_cov = fit.theta.cpu().numpy(), covariance.cpu().numpy()
    theta_cov_stat, pulls = noise.cpu().numpy(), seen.pulls.cpu().numpy()
    limits = torch.stack([lower, upper]).cpu().numpy()
    light_error = _light_errors(fit, covariance, batch, members, len(layout.spans), len(target))
    snr, scatter = seen.snr2.sqrt().cpu().numpy(), seen.scatter.cpu().numpy()
    n_eff = (seen.snr2.square() / seen.snr4.clamp_min(1e-300)).cpu().numpy()
    misfit, allowed = seen.misfit.cpu().numpy(), seen.allowed.cpu().numpy()
    noise_of_misfit = seen.spread2.sqrt().cpu().numpy()
    correlated, adjacent = seen.correlated.cpu().numpy(), seen.adjacent.cpu().numpy()
    light = (seen.light * batch.units(0, members)[0][:, None]).cpu().numpy()
    blend, unit = seen.blended.cpu().numpy(), batch.units(0, members)[0].tolist()
    out = []
    for k, row in enumerate(rows):
        member = batch.members[row]
        at_bound = tuple(
            name
            for j, name in enumerate(layout.names)
            if bound[k, j] and name.rpartition(".")[0] in {*target, ""} and not linear.linear[k, j]
        )
        values, errors = numbers.values[k], numbers.errors[k]
        for image in batch.missing(int(row)):
            absent = absent_values(layout, image)
            values[absent] = errors[absent] = noise_numbers.errors[k, absent] = np.nan
        found = member.object.segmentation
        blended = float(blend[k]) if member.neighbours else found.blend_fraction
        reference, ellipse = member.object.reference, shape[k]
        flags = geometry_flags(reference, found, member.masked, *ellipse)
        flags |= _size_flags(names, values, errors, target[main[k]], light[k, main[k]])
        seen_there = snr[k] > _LEAST_SNR and not flags & Flag.UNDETERMINED
        lost = (
            ""
            if scene.has_positions
            else target_found(reference, found, member.masked, *ellipse[:2], significant=seen_there)
        )
        present = np.isfinite(values) | bool(batch.missing(int(row)))
        finite = bool(np.isfinite(theta_cov[k]).all() and present.all())
        ndof = int(n_pix[k] - n_free[k])
        filled = covers_stamp(reference, found, member.masked)
        spread = noise_of_misfit[k] * (2.0 if correlated[k] else 1.0)
        left = misfit[k] - allowed[k] * max(ndof, 1) / n_pix[k]
        poor = abs(left) > 5 * spread
        wrong = _wrong_noise(batch, int(row), scatter[k], bool(correlated[k]))
        for raised, flag in (
            (not converged[k], Flag.NOT_CONVERGED),
            (held[k], Flag.AT_BOUND),
            (bool(lost), Flag.NO_TARGET),
            (not (good_cov[k] and finite), Flag.BAD_COVARIANCE),
            (correlated[k], Flag.CORRELATED_NOISE),
            (snr[k] < _LEAST_SNR, Flag.LOW_SNR),
            (blended > _BLENDED, Flag.BLENDED),
            (poor, Flag.POOR_FIT),
            (filled, Flag.EXTRAPOLATED),
            (
                filled and (left > 5 * spread or ellipse[2] > min(reference.shape) / 4),
                Flag.UNDETERMINED,
            ),
            (_bad(scatter[k]).any(), Flag.BAD_SIGMA),
        ):
            flags |= int(flag) if raised else 0
        normaliser = settings.likelihood.log_normaliser * n_pix[k]
        logl = -0.5 * chi2[k] - log_sigma[k] - normaliser
        # Gaussian: chi2 + k ln n; what is constant in a comparison is left out.
        # Where the noise depends on the model, its normalisation does too.
        loudness = 2 * (log_sigma[k] - given_log_sigma[k])
        bic = chi2[k] + loudness + n_free[k] * math.log(max(n_eff[k], 2))
        out.append(
            SceneFit(
                names,
                values,
                errors,
                numbers.cov[k],
                noise_numbers.errors[k],
                noise_numbers.cov[k],
                numbers.start[k],
                layout,
                theta[k],
                theta_cov[k],
                theta_cov_stat[k],
                float(chi2[k]),
                float(logl),
                float(bic),
                ndof,
                int(n_pix[k]),
                float(n_eff[k]),
                int(spent[k]),
                int(begun[k]),
                float(snr[k]),
                max(blended, 0.0),
                float(adjacent[k]),
                flags,
                at_bound,
                len(layout.spans) - len(target),
                seen.images.get(k) if components else None,
                kept.get(k),
                limits[:, k],
                flux_stamp=light[k],
                flux_stamp_err=light_error[k],
                around=tuple(member.neighbours),
                companions=_in_image_units(seen.companions.get(k, ()), unit[k]),
                pulls=pulls[k],
                message="; ".join(filter(None, [lost, *wrong, unknown[k]])),
                prior=batch.prior_names[row],
                prior_gaussian=(known_mean[k], known_precision[k]),
            )
        )
    return out


def _in_image_units(found: Sequence[Neighbour], unit: float) -> tuple[Neighbour, ...]:
    """Companions whose fluxes were in other units."""
    factor = np.array([1.0, 1.0, unit, 1.0, 1.0, 1.0, 1.0, 1.0])
    return tuple(dataclasses.replace(item, start=item.start * factor) for item in found)


def _put_linear(
    numbers: CatalogueValues, target: list[str], names: tuple[str, ...], linear: LinearFluxes
) -> None:
    """Fluxes of components without significant light, in place."""
    if not linear.linear.any():
        return
    ratio = linear.ratio.cpu().numpy()
    places = [names.index(f"{name}.flux") for name in target]
    numbers.values[:, places] *= ratio


def _bad(scatter: np.ndarray) -> np.ndarray:
    """Images whose noise plane is not the noise (not those where that is not known)."""
    return (scatter < RIGHT[0]) | (scatter > RIGHT[1])


def _wrong_noise(batch: SceneBatch, row: int, scatter: np.ndarray, correlated: bool) -> list[str]:
    """Messages about an object's noise planes."""
    out = []
    member = batch.members[row]
    for i, stamp in enumerate(member.object.stamps):
        if stamp is None:
            continue
        band = f"{batch.layout.bands[i]}: " if batch.layout.n_images > 1 else ""
        sky = batch.empty(i)[row]
        if not math.isfinite(scatter[i]):
            out.append(f"{band}noise not checked: {int(sky.sum())} pixels of sky tell too little")
        if not _bad(scatter)[i]:
            continue
        sigma = float(np.median(stamp.sigma[sky[: stamp.shape[0], : stamp.shape[1]].cpu().numpy()]))
        cause = likely_cause(
            float(scatter[i]), sigma, gain=stamp.gain, correlated=correlated,
            built=bool(stamp.flags & Flag.SIGMA_ESTIMATED),
            poisson=batch.settings.likelihood.name == "poisson",
        )  # fmt: skip
        out.append(f"{band}sky pixels scatter by {scatter[i]:.3g} of the noise plane; {cause}")
    return out


def _settled(
    fit: LMResult,
    counts: torch.Tensor,
    frozen: torch.Tensor,
    variance: torch.Tensor,
    tolerance: float,
) -> torch.Tensor:
    """Fits that have converged as far as the target is concerned, bool, (B,).

    The minimiser asks that the expected decrease of chi2, g^T A^-1 g, be small. Where it stopped
    earlier because a neighbour wanders (a smudge of a few sigma has no definite shape), the target
    may be settled all the same: when no parameter that counts, (B, D), would still move by more
    than the square root of the same tolerance, in units of its error.
    """
    undamped = torch.zeros(len(fit.theta), dtype=fit.theta.dtype, device=fit.theta.device)
    _, step, expected, _ = solve_damped(fit.state, undamped, frozen)
    moves = step.square() / variance.clamp_min(1e-300) > tolerance
    return fit.converged | (torch.isfinite(expected) & ~(moves & counts).any(1))


def _that_count(
    layout: Layout, target: list[str], main: np.ndarray, theta: torch.Tensor, base: torch.Tensor
) -> torch.Tensor:
    """Parameters that the main component's values depend on, and the skies, bool, (B, D).

    The row is as good as its main component: one without light has neither place nor shape.
    """
    out = torch.zeros(theta.shape, dtype=torch.bool, device=theta.device)
    out[:, layout.n_shape :] = True
    spans = [layout.spans[k] for k in range(len(target))]
    for i in range(layout.n_images):
        _, jacobian = layout.parameters(theta, base, i)
        for k, span in enumerate(spans):
            rows = torch.as_tensor(main == k, device=theta.device)
            touched = (jacobian[:, span.slice] != 0).any(1)
            out[:, : layout.n_shape] |= touched & rows[:, None]
    return out


def _size_flags(
    names: tuple[str, ...], values: np.ndarray, errors: np.ndarray, main: str, light: float
) -> int:
    """UNDETERMINED and EXTRAPOLATED of the main component, `light` of which is in the stamp."""
    flags = Flag.UNDETERMINED if undetermined(names, values, errors, main) else Flag(0)
    place = _places(names)
    if f"{main}.re" in place and light < _LEAST_LIGHT * values[place[f"{main}.flux"]]:
        flags |= Flag.EXTRAPOLATED
    return int(flags)


def undetermined(names: tuple[str, ...], values: np.ndarray, errors: np.ndarray, main: str) -> bool:
    """True if the errors say that the data do not tell size or magnitude of a component."""
    place = _places(names)
    limits = {"flux": _LARGEST_MAG_ERROR / _MAGNITUDE, "re": _LARGEST_SIZE_ERROR}
    known = [(place[f"{main}.{n}"], most) for n, most in limits.items() if f"{main}.{n}" in place]
    return any(errors[j] > most * values[j] for j, most in known)


def _places(names: tuple[str, ...]) -> dict[str, int]:
    """Place of each parameter in the first image."""
    return {name.partition("[")[0]: j for j, name in reversed(list(enumerate(names)))}


def _light_errors(
    fit: LMResult,
    covariance: torch.Tensor,
    batch: SceneBatch,
    members: torch.Tensor,
    n_components: int,
    n_target: int,
) -> np.ndarray:
    """Errors of the light of the target's components inside the first image, (B, components)."""
    scale, _ = batch.units(0, members)
    slope = fit.state.light.unflatten(1, (n_components, -1))[:, :n_target]
    variance = ((slope @ covariance) * slope).sum(2).clamp_min(0)
    error = torch.where(variance > 0, variance.sqrt(), torch.nan)
    return (error * scale[:, None]).cpu().numpy()


def _brightest(target: list[str], values: np.ndarray, names: tuple[str, ...]) -> np.ndarray:
    """Index of the target's main component, the brightest in the first image, (B,)."""
    first: dict[str, np.ndarray] = {}
    for j, name in enumerate(names):
        first.setdefault(name.partition("[")[0], values[:, j])
    fluxes = np.stack([first[f"{name}.flux"] for name in target])
    return np.nan_to_num(fluxes, nan=-np.inf).argmax(0)


def _main_ellipses(
    layout: Layout, target: list[str], values: np.ndarray, names: tuple[str, ...]
) -> np.ndarray:
    """x, y, re, q, pa of the target's brightest extended component (of a point: re 1), (B, 5)."""
    first: dict[str, np.ndarray] = {}
    for j, name in enumerate(names):
        first.setdefault(name.partition("[")[0], values[:, j])
    best, out = np.full(len(values), -1.0), np.tile([0.0, 0.0, 1.0, 1.0, 0.0], (len(values), 1))
    for name in target:
        extended = f"{name}.re" in first
        flux = first[f"{name}.flux"] * (1.0 if extended else 1e-6)
        wins = flux > best
        best = np.where(wins, flux, best)
        for j, (key, blank) in enumerate((("x", 0), ("y", 0), ("re", 1), ("q", 1), ("pa", 0))):
            column = first.get(f"{name}.{key}", np.full(len(values), float(blank)))
            out[:, j] = np.where(wins, column, out[:, j])
    return out


def _sandwiched(
    matrix: torch.Tensor,
    covariance: torch.Tensor,
    change: torch.Tensor,
    slope: torch.Tensor,
    frozen: torch.Tensor,
) -> torch.Tensor:
    """C = H^-1 B H^-1 with B = A + change and H = A + slope; C = A^-1 where neither changes."""
    touched = (change != 0).any(2).any(1) | (slope != 0).any(2).any(1)
    if not bool(touched.any()):
        return covariance
    bread = covariance
    if bool((slope != 0).any()):
        steep, good = laplace(matrix + slope, frozen)
        bread = torch.where(good[:, None, None], steep, covariance)
    out = bread @ (matrix + change) @ bread
    out = (out + out.transpose(1, 2)) / 2
    return torch.where(touched[:, None, None], out, covariance)
