"""Objects that need `autofit_ml.fitting.scenes`: several components, neighbours, bands, ...

Beyond the fit itself: neighbours that turn out to have no light of their own are dropped, and small
single galaxies are compared with a point source.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from autofit_ml.catalogue import Flag
from autofit_ml.fitting.scenes import SceneFit, SceneObject, SceneSettings, fit_scenes
from autofit_ml.fitting.scenes.choice import choose_models
from autofit_ml.fitting.scenes.neighbours import Neighbour
from autofit_ml.initialisation import Starts
from autofit_ml.measure import psf_fwhm
from autofit_ml.runs.model import RunModel
from autofit_ml.runs.modelled import has_positions
from autofit_ml.runs.object_fit import ObjectFit, fit_of_scene
from autofit_ml.scenes import Scene, parse_model, shifted

if TYPE_CHECKING:
    from autofit_ml.posterior.scenes import ScenePosterior

__all__ = ["fit_objects"]

_SIGNIFICANT = 5.0
"""A neighbour's flux in units of its error below which it is dropped: a detected one has more, a
fragment of the target that was taken for a neighbour has not."""

_DISAGREE = 1.02
"""R-hat above which a row's message says so."""

_POINT_LIKE = 1.0
"""Fitted re, in units of the PSF's FWHM, below which a point source is tried too."""

Plain = Callable[[Sequence[SceneObject], Starts], list[ObjectFit]]


def fit_objects(
    some: Sequence[SceneObject],
    starts: Starts,
    model: RunModel,
    settings: SceneSettings,
    plain: Plain,
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
    settings : SceneSettings
    plain : callable
        Fits objects that turn out to have no neighbours, where the model is a plain Sérsic profile.
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
        chosen, begun = [some[k] for k in members], starts.some(members)
        chosen, fits = _fitted(chosen, begun, scene, model, settings, images)
        lonely = [i for i, one in enumerate(chosen) if model.plain and fits[i] is None]
        if lonely:
            made = plain([chosen[i] for i in lonely], begun.some(lonely))
            out |= {members[i]: fit for i, fit in zip(lonely, made, strict=True)}
        bics = _point_sources(chosen, begun, fits, model, settings)
        present = [i for i, fit in enumerate(fits) if fit is not None]
        sampled = _sampled([fit for fit in fits if fit is not None], posterior)
        for i, (fit, samples) in zip(present, sampled, strict=True):
            described = fit_of_scene(fit, chosen[i], scene, model.layout)
            described = _compared(described, bics.get(i, math.nan))
            out[members[i]] = _with_samples(described, samples, posterior)
    return [out[k] for k in range(len(some))]


def _chosen(
    some: Sequence[SceneObject],
    starts: Starts,
    model: RunModel,
    settings: SceneSettings,
    posterior: str,
    images: bool,
) -> list[ObjectFit]:
    """The simplest model that describes each object.

    Neighbours that a Sérsic target leaves without light of their own are dropped for all models.
    """
    sersic = parse_model("sersic", model.scene.sky)
    chosen, known = _fitted(some, starts, sersic, model, settings, images)
    choices = choose_models(
        chosen,
        starts,
        bands=model.bands,
        wavelengths=model.wavelengths,
        sky=model.scene.sky,
        settings=settings,
        components=images,
        sersic=[fit for fit in known if fit is not None],
    )
    if posterior == "nested":
        from autofit_ml.posterior.choice import choose_by_evidence

        decided = choose_by_evidence(choices)
        choices = [choice for choice, _ in decided]
        sampled = _with_errors((choice.fit, samples) for choice, samples in decided)
    else:
        sampled = _sampled([choice.fit for choice in choices], posterior)
    out = []
    for one, choice, (fit, samples) in zip(chosen, choices, sampled, strict=True):
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
        return [(fit, None) for fit in fits]
    # Imported where it is wanted: arviz and nautilus take a second.
    from autofit_ml.posterior.scenes import sample_scenes

    return _with_errors(zip(fits, sample_scenes(fits, method), strict=True))


def _with_errors(
    drawn: Iterable[tuple[SceneFit, ScenePosterior | None]],
) -> list[tuple[SceneFit, ScenePosterior | None]]:
    """Fits with the errors of their samples."""
    from autofit_ml.posterior.scenes import with_posterior

    return [
        (fit if samples is None else with_posterior(fit, samples), samples)
        for fit, samples in drawn
    ]


def _with_samples(fit: ObjectFit, samples: ScenePosterior | None, method: str) -> ObjectFit:
    """With the samples, and a word where they are not to be trusted."""
    if method == "laplace" or fit.problem:
        return fit
    message = ""
    if samples is None:
        message = f"no {method} samples could be drawn: errors are Laplace's"
    else:
        worst = float(samples.samples.rhat.nan_to_num(1.0).max())
        if worst > _DISAGREE:
            message = f"the chains of the posterior disagree (R-hat {worst:.3f})"
    return dataclasses.replace(fit, posterior=samples, message=message)


def _by_origin(scene: Scene, some: Sequence[SceneObject]) -> dict[tuple[int, int], list[int]]:
    """Objects whose stamps begin at the same pixel of their files, if the model has positions.

    Positions in a model are in the file's pixels, as in the catalogue.
    """
    if not has_positions(scene):
        return {(0, 0): list(range(len(some)))}
    out: dict[tuple[int, int], list[int]] = {}
    for k, one in enumerate(some):
        out.setdefault(one.reference.origin, []).append(k)
    return out


def _fitted(
    some: Sequence[SceneObject],
    starts: Starts,
    scene: Scene,
    model: RunModel,
    settings: SceneSettings,
    images: bool,
) -> tuple[list[SceneObject], list[SceneFit | None]]:
    """Objects without the neighbours that were dropped, and their fits.

    None for those without a neighbour left that a plain Sérsic profile serves.
    """
    objects = list(some)
    fits: list[SceneFit | None] = [None] * len(objects)
    todo = list(range(len(objects)))
    while todo:
        some_objects = [objects[k] for k in todo]
        made = _scenes(some_objects, starts.some(todo), scene, model, settings, images)
        again = []
        for k, fit in zip(todo, made, strict=True):
            fits[k] = fit
            before = objects[k].neighbours or ()
            kept = _kept(before, fit)
            if len(kept) == len(before):
                continue
            objects[k] = dataclasses.replace(objects[k], neighbours=kept)
            if kept or not model.plain:
                again.append(k)
            else:
                fits[k] = None
        todo = again
    return objects, fits


def _scenes(
    some: Sequence[SceneObject],
    starts: Starts,
    scene: Scene,
    model: RunModel,
    settings: SceneSettings,
    images: bool,
) -> list[SceneFit]:
    return fit_scenes(
        some,
        scene,
        starts,
        bands=model.bands,
        wavelengths=model.wavelengths,
        settings=settings,
        components=images,
    )


def _kept(neighbours: tuple[Neighbour, ...], fit: SceneFit) -> tuple[Neighbour, ...]:
    """The neighbours whose light in any image is significant; of all others the pixels stay."""
    if fit.flags & int(Flag.FAILED):
        return neighbours
    kept = []
    for number, neighbour in enumerate(neighbours, start=1):
        key = f"neighbour_{number}.flux"
        places = [i for i, name in enumerate(fit.names) if name.partition("[")[0] == key]
        with np.errstate(invalid="ignore", divide="ignore"):
            ratio = fit.values[places] / fit.errors[places]
        known = ratio[np.isfinite(ratio)]
        if known.size == 0 or known.max() >= _SIGNIFICANT:
            kept.append(neighbour)
    return tuple(kept)


def _point_sources(
    some: Sequence[SceneObject],
    starts: Starts,
    fits: Sequence[SceneFit | None],
    model: RunModel,
    settings: SceneSettings,
) -> dict[int, float]:
    """BIC of a point source in place of each small galaxy, where one Sérsic profile is fitted."""
    if not model.scene.single_sersic:
        return {}
    name = f"{model.scene.components[0].name}.re"
    small = [
        k
        for k, (one, fit) in enumerate(zip(some, fits, strict=True))
        if fit is not None
        and not fit.flags & int(Flag.FAILED)
        and fit[name] < _POINT_LIKE * psf_fwhm(one.reference.psf)
    ]
    if not small:
        return {}
    point = parse_model("point", model.scene.sky)
    made = _scenes([some[k] for k in small], starts.some(small), point, model, settings, False)
    return {k: fit.bic for k, fit in zip(small, made, strict=True)}


def _compared(fit: ObjectFit, bic_point: float) -> ObjectFit:
    """With the BIC of a point source, and POINT_SOURCE where it is the smaller one."""
    if not math.isfinite(bic_point) or fit.problem:
        return fit
    flags = fit.flags
    if bic_point <= fit.numbers["bic"]:
        flags |= int(Flag.POINT_SOURCE)
    numbers = {**fit.numbers, "bic_point_source": bic_point}
    return dataclasses.replace(fit, numbers=numbers, flags=flags)
