"""Fits of a batch's objects as a run wants them.

Beyond the fit itself: the simplest model is chosen (``--model auto``), and samples are drawn.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from autofit_ml.catalogue import Flag
from autofit_ml.fitting import RefineSettings, SceneFit, SceneObject, refine, with_totals
from autofit_ml.fitting.choice import choose_models
from autofit_ml.initialisation import Starts
from autofit_ml.runs.model import RunModel
from autofit_ml.runs.object_fit import ObjectFit, fit_of_scene
from autofit_ml.scenes import Scene, parse_model, shifted

if TYPE_CHECKING:
    from autofit_ml.posterior.scenes import ScenePosterior

__all__ = ["fit_objects"]

_DISAGREE = 1.02
"""R-hat above which a row's message says so."""


def fit_objects(
    some: Sequence[SceneObject],
    starts: Starts,
    model: RunModel,
    settings: RefineSettings,
    posterior: str = "laplace",
    *,
    images: bool = True,
) -> list[ObjectFit]:
    """Fit objects with a scene.

    Parameters
    ----------
    some : sequence of SceneObject
        With their neighbours.
    starts : Starts
    model : RunModel
    settings : RefineSettings
    posterior : str
        Where errors come from.
    images : bool
        Keep the images of the fits.

    Returns
    -------
    list of ObjectFit
    """
    if model.auto:
        return _chosen(some, starts, model, settings, posterior, images)
    out: dict[int, ObjectFit] = {}
    for origin, members in _by_origin(model.scene, some).items():
        scene = shifted(model.scene, -origin[0], -origin[1])
        fits = refine(
            [some[k] for k in members],
            scene,
            starts.some(members),
            settings=settings,
            bands=model.bands,
            wavelengths=model.wavelengths,
            components=images,
        )
        for i, (fit, samples) in enumerate(_sampled(fits, posterior)):
            described = fit_of_scene(fit, some[members[i]], scene, model.layout)
            out[members[i]] = _with_samples(described, samples, posterior)
    return [out[k] for k in range(len(some))]


def _chosen(
    some: Sequence[SceneObject],
    starts: Starts,
    model: RunModel,
    settings: RefineSettings,
    posterior: str,
    images: bool,
) -> list[ObjectFit]:
    """The simplest model that describes each object."""
    choices = choose_models(
        some,
        starts,
        bands=model.bands,
        wavelengths=model.wavelengths,
        sky=model.scene.sky,
        settings=settings,
        components=images,
    )
    if posterior == "nested":
        from autofit_ml.posterior.choice import choose_by_evidence

        decided = choose_by_evidence(choices)
        choices = [choice for choice, _ in decided]
        sampled = _with_errors((choice.fit, samples) for choice, samples in decided)
    else:
        sampled = _sampled([choice.fit for choice in choices], posterior)
    out = []
    for one, choice, (fit, samples) in zip(some, choices, sampled, strict=True):
        scene = parse_model(choice.model or "sersic", model.scene.sky)
        described = fit_of_scene(fit, one, scene, model.layout)
        if not described.problem:
            numbers = {**described.numbers, "models_tried": choice.tried}
            numbers["bic_point_source"] = choice.bic.get("point", math.nan)
            point = int(Flag.POINT_SOURCE) if choice.model == "point" else 0
            flags = described.flags | point
            described = dataclasses.replace(described, numbers=numbers, flags=flags)
        out.append(_with_samples(described, samples, posterior))
    return out


def _sampled(fits: Sequence[SceneFit], method: str) -> list[tuple[SceneFit, ScenePosterior | None]]:
    """Fits with the errors of their samples; as they are for Laplace errors."""
    if method == "laplace":
        return _totalled((fit, None) for fit in fits)
    # Imported where it is wanted: arviz and nautilus take a second.
    from autofit_ml.posterior.scenes import sample_fits

    return _with_errors(zip(fits, sample_fits(fits, method), strict=True))


def _with_errors(
    drawn: Iterable[tuple[SceneFit, ScenePosterior | None]],
) -> list[tuple[SceneFit, ScenePosterior | None]]:
    """Fits with the errors of their samples."""
    from autofit_ml.posterior.scenes import with_posterior

    return _totalled(
        (fit if samples is None else with_posterior(fit, samples), samples)
        for fit, samples in drawn
    )


def _totalled(
    fits: Iterable[tuple[SceneFit, ScenePosterior | None]],
) -> list[tuple[SceneFit, ScenePosterior | None]]:
    """Fits of several components with the size and shape of all of them together."""
    every = list(fits)
    return list(zip(with_totals([fit for fit, _ in every]), [one for _, one in every], strict=True))


def _with_samples(fit: ObjectFit, samples: ScenePosterior | None, method: str) -> ObjectFit:
    """Add the samples to a fit, and a word where they are not to be trusted."""
    if method == "laplace" or fit.problem:
        return fit
    message, numbers = "", {**fit.numbers}
    if samples is None:
        message = f"no {method} samples could be drawn: errors are Laplace's"
    else:
        rhat, ess = samples.samples.rhat, samples.samples.ess_bulk
        rhat, ess = rhat[rhat.isfinite()], ess[ess.isfinite()]
        numbers["rhat"] = float(rhat.max()) if len(rhat) else math.nan
        numbers["ess"] = float(ess.min()) if len(ess) else math.nan
        if numbers["rhat"] > _DISAGREE:
            message = f"the chains of the posterior disagree (R-hat {numbers['rhat']:.3f})"
    said = "; ".join(filter(None, [fit.message, message]))
    return dataclasses.replace(fit, numbers=numbers, posterior=samples, message=said)


def _by_origin(scene: Scene, some: Sequence[SceneObject]) -> dict[tuple[int, int], list[int]]:
    """Objects whose stamps begin at the same pixel of their files, if the model has positions.

    Positions in a model are in the file's pixels, as in the catalogue.
    """
    if not scene.has_positions:
        return {(0, 0): list(range(len(some)))}
    out: dict[tuple[int, int], list[int]] = {}
    for k, one in enumerate(some):
        out.setdefault(one.reference.origin, []).append(k)
    return out
