"""From where the fits of a batch ended to their results: errors, statistics, flags."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from autofit_ml.catalogue.flags import Flag
from autofit_ml.fitting.geometry import geometry_flags
from autofit_ml.fitting.levenberg_marquardt import LMResult, solve_damped
from autofit_ml.fitting.problem import pixel_sum
from autofit_ml.fitting.scenes.batch import Member, SceneBatch
from autofit_ml.fitting.scenes.problem import SceneProblem
from autofit_ml.fitting.scenes.results import SceneFit
from autofit_ml.fitting.uncertainties import (
    axis_ratio_error,
    correlated_products,
    laplace,
    position_angle_error,
)
from autofit_ml.measure.correlation import measure_correlation
from autofit_ml.scenes.derivatives import row_jacobian
from autofit_ml.scenes.layout import Layout, Span
from autofit_ml.scenes.model import Scene

__all__ = ["describe", "draws_to_values", "failed", "value_names"]

Problems = Callable[[torch.Tensor, torch.Tensor], list[tuple[torch.Tensor, SceneProblem]]]
"""(members, theta) -> (places in members, their problem) for each accuracy that is needed."""


@dataclass(frozen=True)
class _Value:
    """A catalogue value: its name, and the image and key it is read from."""

    name: str
    image: int
    key: str
    span: Span
    parameter: str


def _values(layout: Layout) -> list[_Value]:
    """Catalogue values of all components, those that differ from band to band once for each."""
    out = []
    firsts = {layout.bands.index(band): band for band in layout.bands}
    several = len(set(layout.bands)) > 1 or layout.n_images > 1
    for span in layout.spans:
        for parameter in span.component.profile.parameters:
            key = f"{span.component.name}.{parameter}"
            images = layout.images_of(span, parameter)
            for image in images:
                label = layout.labels[image] if len(images) > len(firsts) else layout.bands[image]
                several_here = several and len(images) > 1
                name = f"{key}[{label}]" if several_here else key
                out.append(_Value(name, image, key, span, parameter))
    return out


def value_names(layout: Layout) -> tuple[str, ...]:
    """Names of a `SceneFit`'s values."""
    names = [value.name for value in _values(layout)]
    return (*names, *_sky_names(layout))


def _absent(layout: Layout, image: int) -> np.ndarray:
    """Places of the values that only a certain image has."""
    names = [
        item.image == image and len(layout.images_of(item.span, item.parameter)) > 1
        for item in _values(layout)
    ]
    skies = [f"[{layout.labels[image]}]" in name for name in _sky_names(layout)]
    return np.array([*names, *skies], dtype=bool)


def _sky_names(layout: Layout) -> list[str]:
    terms = ("sky", "sky_dx", "sky_dy")[: max(1, layout.sky_terms)]
    several = layout.n_images > 1
    return [
        f"{term}[{layout.labels[i]}]" if several else term
        for i in range(layout.n_images)
        for term in terms
    ]


def failed(layout: Layout, scene: Scene, why: str) -> SceneFit:
    """A result without a fit."""
    names = value_names(layout)
    v, d = len(names), layout.size
    images = layout.n_images
    nan = math.nan
    return SceneFit(
        names, np.full(v, nan), np.full(v, nan), np.full((v, v), nan), np.full(v, nan), None,
        np.full(d, nan), np.full((d, d), nan), np.full(images, nan), np.full(images, nan),
        nan, nan, nan, nan, nan, 0, 0, 0, 0, nan, nan, nan, int(Flag.FAILED), (),
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
    n_starts: int,
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
    n_iter : Tensor, (B,)
    n_starts : int
    components : bool
        Keep the components' images.
    problems : callable
    """
    layout = batch.layout
    members = torch.as_tensor(rows, device=batch.device)
    base = batch.base[members.cpu()].to(batch.device)
    frozen = (lower == upper) | fit.at_bound
    covariance, good = laplace(fit.state.matrix, frozen)
    variance = covariance.diagonal(dim1=1, dim2=2)
    tolerance = batch.settings.refine.final.tolerance
    settled = _settled(layout, scene, fit, frozen, variance, tolerance)
    seen = [_Seen() for _ in rows]
    change = torch.zeros_like(covariance)
    slope_change = torch.zeros_like(covariance)
    for places, problem in problems(members, fit.theta):
        for first in range(0, len(places), problem.chunk):
            index = torch.arange(
                first, min(first + problem.chunk, len(places)), device=places.device
            )
            at = places[index]
            middle, slope = _look(
                batch, scene, problem, index, fit.theta[at], [rows[k] for k in at.tolist()],
                [seen[k] for k in at.tolist()], components,
            )  # fmt: skip
            change[at], slope_change[at] = middle, slope
            for k, one, by_theta in zip(
                at.tolist(), *problem.component_light(index, fit.theta[at], 0), strict=True
            ):
                seen[k].light, seen[k].light_slope = one, by_theta
            if batch.settings.keep:
                for k, i in zip(at.tolist(), index, strict=True):
                    seen[k].problem = problem.select(i[None])
    covariance = _sandwiched(fit.state.matrix, covariance, change, slope_change, frozen)
    numbers = _catalogue(batch, scene, rows, fit.theta, base, covariance, started)
    out = []
    names = value_names(layout)
    chi2 = fit.state.chi2.cpu().numpy()
    n_free = (lower < upper).sum(1).cpu().numpy()
    n_pix = batch.total("n_pix")[rows]
    log_sigma = batch.total("log_sigma")[rows]
    bound = (fit.at_bound & (lower < upper)).cpu().numpy()
    converged, good_cov = settled.cpu().numpy(), good.cpu().numpy()
    spent = n_iter.cpu().numpy()
    theta, theta_cov = fit.theta.cpu().numpy(), covariance.cpu().numpy()
    limits = torch.stack([lower, upper]).cpu().numpy()
    target = {component.name for component in scene.components}
    stamp_flux, stamp_error = _stamp_light(seen, covariance, batch, members, len(target))
    for k, row in enumerate(rows):
        member, look = batch.members[row], seen[k]
        at_bound = tuple(
            name
            for j, name in enumerate(layout.names)
            if bound[k, j] and name.rpartition(".")[0] in target | {""}
        )
        values, errors = numbers.values[k], numbers.errors[k]
        total, total_err = numbers.total[k], numbers.total_err[k]
        for image in batch.missing(int(row)):
            absent = _absent(layout, image)
            values[absent] = errors[absent] = np.nan
            total[image] = total_err[image] = np.nan
        flags = _flags(member, layout, values, names)
        present = np.isfinite(values) | bool(batch.missing(int(row)))
        finite = bool(np.isfinite(theta_cov[k]).all() and present.all())
        ndof = int(n_pix[k] - n_free[k])
        own = max(look.sky_chi2, 1e-6)
        spread = math.sqrt(2.0 / max(ndof, 1)) * (2.0 if look.correlated else 1.0)
        reduced = chi2[k] / max(ndof, 1)
        for raised, flag in (
            (not converged[k], Flag.NOT_CONVERGED),
            (bool(at_bound), Flag.AT_BOUND),
            (not (good_cov[k] and finite), Flag.BAD_COVARIANCE),
            (look.correlated, Flag.CORRELATED_NOISE),
            (look.snr2**0.5 < 10, Flag.LOW_SNR),
            (look.blended > 0.05, Flag.BLENDED),
            (abs(reduced / own - 1) > 5 * spread, Flag.POOR_FIT),
        ):
            flags |= int(flag) if raised else 0
        normaliser = batch.settings.likelihood.log_normaliser * n_pix[k]
        logl = -0.5 * chi2[k] - log_sigma[k] - normaliser
        penalty = n_free[k] * math.log(max(n_pix[k], 2))
        # Gaussian: chi2 + k ln n, as everywhere; what is constant in a comparison is left out.
        bic = chi2[k] + penalty
        out.append(
            SceneFit(
                names,
                values,
                numbers.errors[k],
                numbers.cov[k],
                numbers.start[k],
                layout,
                theta[k],
                theta_cov[k],
                numbers.total[k],
                numbers.total_err[k],
                numbers.fraction[k],
                numbers.fraction_err[k],
                float(chi2[k]),
                float(logl),
                float(bic),
                ndof,
                int(n_pix[k]),
                int(spent[k]),
                n_starts,
                look.snr2**0.5,
                look.blended,
                look.correlation,
                flags,
                at_bound,
                len(layout.scene.components) - len(scene.components),
                look.components,
                look.problem,
                limits[:, k],
                flux_stamp=stamp_flux[k],
                flux_stamp_err=stamp_error[k],
            )
        )
    return out


def _settled(
    layout: Layout,
    scene: Scene,
    fit: LMResult,
    frozen: torch.Tensor,
    variance: torch.Tensor,
    tolerance: float,
) -> torch.Tensor:
    """Fits that have converged as far as the target is concerned, bool, (B,).

    The minimiser asks that the expected decrease of chi2, g^T A^-1 g, be small. Where it stopped
    earlier because a neighbour wanders (a smudge of a few sigma has no definite shape), the target
    may be settled all the same: when no parameter of its own, and no sky, would still move by more
    than the square root of the same tolerance, in units of its error.
    """
    undamped = torch.zeros(len(fit.theta), dtype=fit.theta.dtype, device=fit.theta.device)
    step, expected = solve_damped(fit.state, undamped, frozen)
    target = {component.name for component in scene.components}
    own = [name.rpartition(".")[0] in target | {""} for name in layout.names]
    moves = step.square() / variance.clamp_min(1e-300) > tolerance
    moves &= torch.tensor(own, device=moves.device) & ~frozen
    return fit.converged | (torch.isfinite(expected) & ~moves.any(1))


def draws_to_values(fit: SceneFit, draws: torch.Tensor) -> tuple[tuple[str, ...], np.ndarray]:
    """Catalogue values of draws of theta.

    Parameters
    ----------
    fit : SceneFit
        With its problem.
    draws : Tensor, (N, D)

    Returns
    -------
    names : tuple of str
        Of the fit's values, and "fraction" where the target has several components.
    values : ndarray, (N, V)
        Position angles within 90 degrees of the fit's.
    """
    layout, problem = fit.layout, fit.problem
    if layout is None or problem is None:
        raise ValueError("a fit without its problem")
    draws = draws.to(torch.float64)
    base = problem.base.expand(len(draws), -1, -1)
    got = [layout.values(draws, base, i) for i in range(layout.n_images)]
    columns = []
    for k, item in enumerate(_values(layout)):
        value = got[item.image][item.key]
        if item.parameter == "pa":
            middle = float(fit.values[k])
            value = middle + torch.remainder(value - middle + 90.0, 180.0) - 90.0
        columns.append(value)
    for i, image in enumerate(problem.images):
        where = layout.sky_slice(i)
        for k in range(max(1, layout.sky_terms)):
            level = image.pedestal[0] if k == 0 else 0.0
            slope = draws[:, where.start + k] * image.scale[0] if layout.sky_terms else 0.0
            columns.append(torch.zeros(len(draws), dtype=draws.dtype) + level + slope)
    names = fit.names
    target = layout.scene.components[: len(layout.scene.components) - fit.neighbours]
    if len(target) > 1:
        fluxes = [got[0][f"{component.name}.flux"] for component in target]
        columns.append(fluxes[0] / sum(fluxes))
        names = (*names, "fraction")
    return names, torch.stack([column.cpu() for column in columns], 1).numpy()


class _Seen:
    """What looking at an object's images tells."""

    def __init__(self) -> None:
        self.snr2 = 0.0
        self.blended = 0.0
        self.correlation = math.nan
        self.correlated = False
        self.sky_chi2 = 1.0
        self.light = self.light_slope = torch.zeros(0)
        self.components: list[dict[str, np.ndarray]] | None = None
        self.problem: SceneProblem | None = None


def _stamp_light(
    seen: list[_Seen],
    covariance: torch.Tensor,
    batch: SceneBatch,
    members: torch.Tensor,
    n_target: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Light of the target's components inside the first image and its error, (B, components)."""
    scale, _ = batch.units(0, members)
    light = torch.stack([one.light for one in seen])[:, :n_target]
    slope = torch.stack([one.light_slope for one in seen])[:, :n_target]
    variance = ((slope @ covariance) * slope).sum(2).clamp_min(0)
    error = torch.where(variance > 0, variance.sqrt(), torch.nan)
    return (light * scale[:, None]).cpu().numpy(), (error * scale[:, None]).cpu().numpy()


def _look(
    batch: SceneBatch,
    scene: Scene,
    problem: SceneProblem,
    index: torch.Tensor,
    theta: torch.Tensor,
    rows: list[int],
    seen: list[_Seen],
    components: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Fill `seen`; changes of the score's variance and of the curvature, (A, D, D) each."""
    layout, settings = batch.layout, batch.settings.refine
    likelihood = batch.settings.likelihood
    n_target = len(scene.components)
    change = theta.new_zeros((len(theta), theta.shape[1], theta.shape[1]))
    slope = torch.zeros_like(change)
    for i in range(layout.n_images):
        data = problem.images[i]
        images = problem.component_images(index, theta, i)
        sky = problem.sky_image(index, theta, i)
        target = torch.stack(images[:n_target]).sum(0)
        whole = torch.stack(images).sum(0)
        root = data.root_weight[index]
        residual = (data.data[index] - whole - sky) * root
        snr2 = pixel_sum((target * root).to(torch.float64).square())
        usable = _sky_pixels(batch, rows, i, root)
        correlation, adjacent, error = measure_correlation(
            residual, usable, settings.correlated_lag
        )
        widened = adjacent > torch.maximum(
            torch.full_like(error, settings.correlated_threshold), 4 * error
        )
        count = usable.sum((1, 2)).clamp_min(1)
        own = pixel_sum(residual**2 * usable) / count
        if likelihood.robust or bool(widened.any()):
            weighted = problem.design(index, theta, i) * root[:, None]
            flat = weighted.to(torch.float64).flatten(2)
            white = flat @ flat.transpose(1, 2)
            products = correlated_products(weighted, correlation) - white
            change += torch.where(widened[:, None, None], products, torch.zeros_like(products))
            if likelihood.robust:
                terms = likelihood.terms(residual, torch.zeros_like(residual), root.sign())
                held = terms.curvature.to(torch.float64).flatten(1)
                irls = (flat * held[:, None]) @ flat.transpose(1, 2)
                # Huber 1981 (Robust Statistics, section 7.6): the score's mean square and mean
                # slope over all pixels; pixel by pixel they would be as noisy as a few pixels are.
                used = (root > 0).to(torch.float64)
                pixels = used.sum((1, 2)).clamp_min(1)
                square = pixel_sum(terms.score.to(torch.float64).square()) / pixels
                true = likelihood.slope(residual.to(torch.float64))
                steepness = (pixel_sum(true * used) / pixels).clamp_min(0.05)
                change += square[:, None, None] * white - irls
                slope += steepness[:, None, None] * white - irls
        for k, one in enumerate(seen):
            one.snr2 += float(snr2[k])
            if i == 0:
                one.correlation = float(adjacent[k])
                one.sky_chi2 = float(own[k])
                one.components = [] if components else None
                one.blended = _blended(problem, theta[k], index[k], target[k], whole[k])
            one.correlated |= bool(widened[k])
            if one.components is not None:
                stamp = batch.members[rows[k]].object.stamps[i]
                h, w = batch.shapes[i] if stamp is None else stamp.shape
                unit = float(data.scale[index[k]])
                kept = {
                    span.component.name: (image[k, :h, :w].double() * unit).float().cpu().numpy()
                    for span, image in zip(layout.spans, images, strict=True)
                }
                level = float(data.pedestal[index[k]])
                kept["sky"] = (sky[k, :h, :w].double() * unit + level).float().cpu().numpy()
                one.components.append(kept)
    return change, slope


def _sky_pixels(batch: SceneBatch, rows: list[int], image: int, root: torch.Tensor) -> torch.Tensor:
    """Unmasked pixels outside all footprints; all unmasked ones where they are too few."""
    out = torch.zeros(root.shape, dtype=torch.bool)
    for k, row in enumerate(rows):
        one = batch.members[row].object
        stamp = one.stamps[image]
        if stamp is None:
            continue
        labels = one.contaminants(image, np.asarray(one.segmentation.labels) != 0)
        h, w = stamp.shape
        out[k, :h, :w] = torch.from_numpy(~labels)
    usable = out.to(root.device) & (root > 0)
    few = usable.sum((1, 2)) < 200
    return torch.where(few[:, None, None], root > 0, usable)


def _blended(
    problem: SceneProblem,
    theta: torch.Tensor,
    index: torch.Tensor,
    target: torch.Tensor,
    whole: torch.Tensor,
) -> float:
    """Neighbours' light over the target's, inside the target's half-light ellipse."""
    layout = problem.layout
    values = layout.values(theta[None], problem.base[index][None], 0)
    x, y, re, q, pa = _main_component(layout, {k: float(v[0]) for k, v in values.items()})
    ny, nx = target.shape
    gy, gx = torch.meshgrid(
        torch.arange(ny, device=target.device) - y,
        torch.arange(nx, device=target.device) - x,
        indexing="ij",
    )
    angle = math.radians(pa)
    along = -gx * math.sin(angle) + gy * math.cos(angle)
    across = gx * math.cos(angle) + gy * math.sin(angle)
    radius = max(re, 1.0)
    inside = along**2 + (across / max(q, 0.05)) ** 2 <= radius**2
    own = float((target * inside).sum())
    return float(((whole - target) * inside).sum()) / own if own > 0 else 0.0


def _main_component(
    layout: Layout, values: dict[str, float]
) -> tuple[float, float, float, float, float]:
    """x, y, re, q, pa of the target's brightest extended component (of a point: re 1)."""
    best, out = -1.0, (0.0, 0.0, 1.0, 1.0, 0.0)
    for span in layout.spans:
        name = span.component.name
        if name.startswith("neighbour_"):
            continue
        flux = values[f"{name}.flux"] * (1.0 if f"{name}.re" in values else 1e-6)
        if flux > best:
            best = flux
            out = (
                values[f"{name}.x"],
                values[f"{name}.y"],
                values.get(f"{name}.re", 1.0),
                values.get(f"{name}.q", 1.0),
                values.get(f"{name}.pa", 0.0),
            )
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


@dataclass(frozen=True)
class _Numbers:
    values: np.ndarray
    errors: np.ndarray
    cov: np.ndarray
    start: np.ndarray
    total: np.ndarray
    total_err: np.ndarray
    fraction: np.ndarray
    fraction_err: np.ndarray


def _catalogue(
    batch: SceneBatch,
    scene: Scene,
    rows: np.ndarray,
    theta: torch.Tensor,
    base: torch.Tensor,
    covariance: torch.Tensor,
    started: torch.Tensor,
) -> _Numbers:
    """Catalogue values, errors and covariances."""
    layout = batch.layout
    wanted = _values(layout)
    n, images = layout.n_shape, layout.n_images
    target = [component.name for component in scene.components]

    def numbers(shape: torch.Tensor, start: torch.Tensor) -> torch.Tensor:
        got = [layout.values(shape, start, i) for i in range(images)]
        values = [got[item.image][item.key] for item in wanted]
        totals = [sum(got[i][f"{name}.flux"] for name in target) for i in range(images)]
        share = got[0][f"{target[0]}.flux"] / totals[0]
        return torch.stack([*values, *[torch.as_tensor(t) for t in totals], share], -1)

    shape = theta[:, :n]
    value = numbers(shape, base)
    jacobian = row_jacobian(numbers, shape, base)
    begun = numbers(started[:, :n], base)
    b, v = len(theta), len(wanted)
    skies = len(_sky_names(layout))
    whole = theta.new_zeros((b, v + skies + images + 1, theta.shape[1]))
    whole[:, :v, :n] = jacobian[:, :v]
    whole[:, v + skies :, :n] = jacobian[:, v:]
    sky, sky_start = theta.new_zeros((b, skies)), theta.new_zeros((b, skies))
    per_image = skies // images
    index = torch.as_tensor(rows, device=theta.device)
    for i in range(images):
        scale, pedestal = batch.units(i, index)
        where = layout.sky_slice(i)
        for k in range(per_image):
            column = i * per_image + k
            level = pedestal if k == 0 else torch.zeros_like(pedestal)
            if layout.sky_terms:
                j = where.start + k
                sky[:, column] = level + scale * theta[:, j]
                sky_start[:, column] = level + scale * started[:, j]
                whole[:, v + column, j] = scale
            else:
                sky[:, column] = sky_start[:, column] = level
    cov = whole @ covariance @ whole.transpose(1, 2)
    variance = cov.diagonal(dim1=1, dim2=2)
    errors = torch.where(variance > 0, variance.clamp_min(0).sqrt(), torch.nan)
    for i in range(images):
        full, by_theta = layout.parameters(theta, base, i)
        full_cov = by_theta @ covariance[:, :n, :n] @ by_theta.transpose(1, 2)
        for k, item in enumerate(wanted):
            if item.image != i or item.parameter not in ("q", "pa"):
                continue
            j = item.span.index("q")
            pair = torch.zeros((b, 8), dtype=theta.dtype, device=theta.device)
            block = torch.zeros((b, 8, 8), dtype=theta.dtype, device=theta.device)
            pair[:, 5:7] = full[:, j : j + 2]
            block[:, 5:7, 5:7] = full_cov[:, j : j + 2, j : j + 2]
            found = axis_ratio_error if item.parameter == "q" else position_angle_error
            known = errors[:, k] > 0
            errors[:, k] = torch.where(known, found(pair, block), torch.nan)
    first = v + skies

    def plain(tensor: torch.Tensor) -> np.ndarray:
        return tensor.detach().cpu().numpy()

    return _Numbers(
        plain(torch.cat([value[:, :v], sky], 1)),
        plain(errors[:, :first]),
        plain(cov[:, :first, :first]),
        plain(torch.cat([begun[:, :v], sky_start], 1)),
        plain(value[:, v : v + images]),
        plain(errors[:, first : first + images]),
        plain(value[:, -1]),
        plain(errors[:, -1]),
    )


def _flags(member: Member, layout: Layout, values: np.ndarray, names: tuple[str, ...]) -> int:
    """Flags of position and masks, from the brightest extended component."""
    first: dict[str, float] = {}
    for name, value in zip(names, values, strict=True):
        first.setdefault(name.partition("[")[0], float(value))
    x, y, re, q, pa = _main_component(layout, first)
    segmentation = dataclasses.replace(
        member.object.segmentation, contaminants=member.masked, blend_fraction=0.0
    )
    row = np.array([x, y, 1.0, re, 1.0, q, pa, 0.0])
    return geometry_flags(member.object.reference, segmentation, row)
