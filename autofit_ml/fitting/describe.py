"""Results of a batch from its minima: errors, statistics, flags."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from autofit_ml.catalogue.flags import Flag
from autofit_ml.fitting.batch import SceneBatch
from autofit_ml.fitting.flags import flags_of, wrong_noise
from autofit_ml.fitting.image_statistics import ImageStatistics, measure_images
from autofit_ml.fitting.levenberg_marquardt import LMResult
from autofit_ml.fitting.minima import Known, Minima, known_of
from autofit_ml.fitting.model_error import with_model_error
from autofit_ml.fitting.neighbours import Neighbour
from autofit_ml.fitting.passes import evaluate_each
from autofit_ml.fitting.problem import SceneProblem
from autofit_ml.fitting.results import SceneFit
from autofit_ml.fitting.uncertainties import laplace
from autofit_ml.fitting.valleys import stretched
from autofit_ml.fitting.values import (
    absent_values,
    catalogue_errors,
    value_names,
)
from autofit_ml.scenes.layout import Layout
from autofit_ml.scenes.model import Scene

__all__ = ["describe", "failed"]

Problems = Callable[[torch.Tensor, torch.Tensor], list[tuple[torch.Tensor, SceneProblem]]]
"""(members, theta) -> (places in members, their problem) for each accuracy that is needed."""


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
    batch: SceneBatch, scene: Scene, minima: Minima, components: bool, problems: Problems
) -> list[SceneFit]:
    """Results of the batch's usable rows.

    Parameters
    ----------
    batch : SceneBatch
    scene : Scene
        Without neighbours.
    minima : Minima
    components : bool
        Keep the components' images.
    problems : callable
    """
    known = known_of(batch, scene, minima)
    drawn = problems(known.members, known.fit.theta)
    seen, kept = _measured(batch, known, drawn, components)
    errors = _errors(batch, known, seen, drawn)
    columns = _columns(batch, known, seen, errors)
    return [
        _result(batch, scene, known, seen, errors, columns, kept.get(k), k)
        for k in range(len(minima.rows))
    ]


def _measured(
    batch: SceneBatch,
    known: Known,
    drawn: Sequence[tuple[torch.Tensor, SceneProblem]],
    components: bool,
) -> tuple[ImageStatistics, dict[int, SceneProblem]]:
    """Statistics of the images, and each object's own problem where that is kept."""
    rows, theta, linear = known.minima.rows, known.fit.theta, known.linear
    n, n_target = len(rows), len(known.target)
    seen = ImageStatistics.empty(n, theta, batch.layout.n_images, n_target, len(known.own))
    kept: dict[int, SceneProblem] = {}
    for places, problem in drawn:
        for first in range(0, len(places), problem.chunk):
            last = min(first + problem.chunk, len(places))
            index = torch.arange(first, last, device=places.device)
            at = places[index]
            here = at.cpu().numpy()
            found = measure_images(
                batch, problem, index, theta[at], rows[here], n_target, known.ellipses[here],
                components, linear.ratio[at], linear.covariance[at][:, known.own],
            )  # fmt: skip
            seen.put(at, found)
            if batch.settings.keep:
                kept |= {k: problem.select(i[None]) for k, i in zip(here, index, strict=True)}
    return seen, kept


@dataclass(frozen=True)
class _Errors:
    """Covariances of theta by the noise and in total, (B, D, D); (errors, covariances) of the
    catalogue's values by each; a word for objects without a model error."""

    noise: torch.Tensor
    total: torch.Tensor
    by_noise: tuple[np.ndarray, np.ndarray]
    in_all: tuple[np.ndarray, np.ndarray]
    words: list[str]


def _errors(
    batch: SceneBatch,
    known: Known,
    seen: ImageStatistics,
    drawn: list[tuple[torch.Tensor, SceneProblem]],
) -> _Errors:
    fit, linear, minima = known.fit, known.linear, known.minima
    noise = curvature = linear.covariance
    if bool(seen.widens.any()):
        noise = _sandwiched(fit.state.matrix, noise, seen.change, seen.slope, known.frozen)
    if len(known.target) > 1:
        noise = stretched(
            batch.layout, known.target, known.base, fit, curvature, noise,
            (minima.lower, minima.upper), linear.linear,
            lambda some, at: evaluate_each(drawn, some, at),
        )  # fmt: skip
    extra, words = with_model_error(batch, minima.rows, fit.theta, noise, known.own, seen.pulls)

    def carried(covariance: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
        return catalogue_errors(batch.layout, known.values, fit.theta, known.base, covariance)

    by_noise = in_all = carried(noise)
    total = noise if extra is None else noise + extra
    if extra is not None:
        in_all = carried(total)
    return _Errors(noise, total, by_noise, in_all, words)


def _columns(
    batch: SceneBatch, known: Known, seen: ImageStatistics, errors: _Errors
) -> dict[str, np.ndarray]:
    """Numbers of all objects for `_result`, each with the objects along its first axis."""
    minima, fit, layout = known.minima, known.fit, batch.layout
    free = minima.lower < minima.upper
    gaussian = batch.prior.select(known.members)
    prior, _ = gaussian.pull(fit.theta)
    unit = batch.units(0, known.members)[0]
    tensors = {
        "chi2": fit.state.chi2 - prior[:, : layout.n_shape].sum(1),
        "n_free": free.sum(1),
        "bound": fit.at_bound & free,
        "held": (fit.at_bound & free & known.counts).any(1),
        "settled": known.settled,
        "good": known.good,
        "n_iter": minima.n_iter,
        "n_starts": minima.n_starts,
        "theta": fit.theta,
        "theta_cov": errors.total,
        "theta_cov_stat": errors.noise,
        "limits": torch.stack([minima.lower, minima.upper], 1),
        "unit": unit,
        "light": seen.light * unit[:, None],
        "light_error": _light_errors(fit, errors.total, unit, len(layout.spans), known.target),
        "snr": seen.snr2.sqrt(),
        "n_eff": seen.snr2.square() / seen.snr4.clamp_min(1e-300),
        "spread": seen.spread2.sqrt() * torch.where(seen.correlated, 2.0, 1.0),
        "prior_mean": gaussian.mean,
        "prior_precision": gaussian.precision,
    }
    names = ("scatter", "misfit", "allowed", "correlated", "adjacent", "blended", "pulls")
    tensors |= {name: getattr(seen, name) for name in names}
    totals = ("n_pix", "log_sigma", "given_log_sigma")
    out = {name: tensor.cpu().numpy() for name, tensor in tensors.items()}
    return out | {name: batch.total(name)[minima.rows] for name in totals}


def _result(
    batch: SceneBatch,
    scene: Scene,
    known: Known,
    seen: ImageStatistics,
    errors: _Errors,
    columns: dict[str, np.ndarray],
    problem: SceneProblem | None,
    k: int,
) -> SceneFit:
    """The result of object k."""
    layout, row = batch.layout, int(known.minima.rows[k])
    member, target, linear = batch.members[row], known.target, known.linear.linear[k]
    of = {name: column[k] for name, column in columns.items()}
    fluxes = [known.names.index(f"{name}.flux") for name in target] if linear.any() else []
    values = known.values.values[k]
    values[fluxes] *= known.linear.ratio[k].cpu().numpy() if fluxes else 1.0
    (error, covariance), (error_stat, covariance_stat) = (
        (part[0][k], part[1][k]) for part in (errors.in_all, errors.by_noise)
    )
    for image in batch.missing(row):
        absent = absent_values(layout, image)
        values[absent] = error[absent] = error_stat[absent] = np.nan
    at_bound = tuple(
        name
        for j, name in enumerate(layout.names)
        if of["bound"][j] and name.rpartition(".")[0] in {*target, ""} and not linear[j]
    )
    blend = float(of["blended"]) if member.neighbours else member.object.segmentation.blend_fraction
    flags, lost = flags_of(batch, scene, known, of, values, error, blend, k)
    wrong = wrong_noise(batch, row, of["scatter"], bool(of["correlated"]))
    n_pix, n_free, n_eff = int(of["n_pix"]), int(of["n_free"]), float(of["n_eff"])
    # Gaussian: chi2 + k ln n; what is constant in a comparison is left out.
    # Where the noise depends on the model, its normalisation does too.
    loudness = 2 * (of["log_sigma"] - of["given_log_sigma"])
    normaliser = batch.settings.likelihood.log_normaliser * n_pix
    return SceneFit(
        known.names,
        values,
        error,
        covariance,
        error_stat,
        covariance_stat,
        known.values.start[k],
        layout,
        of["theta"],
        of["theta_cov"],
        of["theta_cov_stat"],
        float(of["chi2"]),
        float(-0.5 * of["chi2"] - of["log_sigma"] - normaliser),
        float(of["chi2"] + loudness + n_free * math.log(max(n_eff, 2))),
        n_pix - n_free,
        n_pix,
        n_eff,
        int(of["n_iter"]),
        int(of["n_starts"]),
        float(of["snr"]),
        max(blend, 0.0),
        float(of["adjacent"]),
        flags,
        at_bound,
        len(layout.spans) - len(target),
        seen.images.get(k),
        problem,
        of["limits"],
        flux_stamp=of["light"],
        flux_stamp_err=of["light_error"],
        around=tuple(member.neighbours),
        companions=_in_image_units(seen.companions.get(k, ()), float(of["unit"])),
        pulls=of["pulls"],
        message="; ".join(filter(None, [lost, *wrong, errors.words[k]])),
        prior=batch.prior_names[row],
        prior_gaussian=(of["prior_mean"], of["prior_precision"]),
    )


def _in_image_units(found: Sequence[Neighbour], unit: float) -> tuple[Neighbour, ...]:
    """Companions whose fluxes were in other units."""
    factor = np.array([1.0, 1.0, unit, 1.0, 1.0, 1.0, 1.0, 1.0])
    return tuple(dataclasses.replace(item, start=item.start * factor) for item in found)


def _light_errors(
    fit: LMResult, covariance: torch.Tensor, unit: torch.Tensor, n: int, target: Sequence[str]
) -> torch.Tensor:
    """Errors of the light of the target's components inside the first image, (B, components).

    `unit` (B,): image units per unit of the fit; `n`: components, those of neighbours included.
    """
    slope = fit.state.light.unflatten(1, (n, -1))[:, : len(target)]
    variance = ((slope @ covariance) * slope).sum(2).clamp_min(0)
    return torch.where(variance > 0, variance.sqrt(), torch.nan) * unit[:, None]


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
