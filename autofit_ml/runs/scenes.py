"""Fits of a batch's objects as a run wants them.

Beyond the fit itself: the simplest model is chosen (``--model auto``), and samples are drawn.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from autofit_ml.catalogue import Flag
from autofit_ml.fitting import RefineSettings, SceneFit, SceneObject, refine, with_totals
from autofit_ml.fitting.choice import choose_models
from autofit_ml.fitting.grids import Axis, GridFit, refine_grid
from autofit_ml.initialisation import Starts
from autofit_ml.runs.model import RunModel
from autofit_ml.runs.object_fit import ObjectFit, fit_of_scene
from autofit_ml.scenes import Scene, parse_model, shifted

if TYPE_CHECKING:
    from autofit_ml.posterior.scenes import ScenePosterior
    from autofit_ml.posterior.watch import Watch

__all__ = ["Outcome", "fit_objects", "fits_of", "with_samples"]

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
    watch: Watch | None = None,
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
    watch : Watch, optional
        Pictures of long searches for samples.

    Returns
    -------
    list of ObjectFit
    """
    if model.auto:
        return _chosen(some, starts, model, settings, posterior, images, watch)
    made = fits_of(
        some, starts, model.scene, model, settings,
        posterior=posterior, images=images, watch=watch,
    )  # fmt: skip
    return [
        with_samples(fit_of_scene(of.fit, one, of.scene, model.layout), of.samples, posterior)
        for one, of in zip(some, made, strict=True)
    ]


@dataclass(frozen=True)
class Outcome:
    """Fit of an object, its samples, the scene in the stamp's pixels, and what a grid tells."""

    fit: SceneFit
    samples: ScenePosterior | None
    scene: Scene
    grid: GridFit | None = None


def fits_of(
    some: Sequence[SceneObject],
    starts: Starts,
    scene: Scene,
    model: RunModel,
    settings: RefineSettings,
    *,
    posterior: str = "laplace",
    axes: Sequence[Axis] = (),
    images: bool = True,
    watch: Watch | None = None,
) -> list[Outcome]:
    """Fit objects with one scene (positions in pixels of the files), over a grid if there is one.

    Parameters are those of `fit_objects`; `axes` are the grid's.
    """
    out: dict[int, Outcome] = {}
    how: dict[str, Any] = {"bands": model.bands, "wavelengths": model.wavelengths}
    for origin, members in _by_origin(scene, some).items():
        own = shifted(scene, -origin[0], -origin[1])
        objects, begun = [some[k] for k in members], starts.some(members)
        grids: Sequence[GridFit | None] = [None] * len(members)
        if axes:
            made = refine_grid(objects, own, begun, axes, settings, components=images, **how)
            grids, fits = made, [one.fit for one in made]
        else:
            fits = list(refine(objects, own, begun, settings=settings, components=images, **how))
        drawn = _sampled(fits, posterior, watch, [one.reference.id for one in objects])
        for k, (fit, samples), grid in zip(members, drawn, grids, strict=True):
            out[k] = Outcome(fit, samples, own, grid)
    return [out[k] for k in range(len(some))]


def _chosen(
    some: Sequence[SceneObject],
    starts: Starts,
    model: RunModel,
    settings: RefineSettings,
    posterior: str,
    images: bool,
    watch: Watch | None,
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
        ids = [one.reference.id for one in some]
        sampled = _sampled([choice.fit for choice in choices], posterior, watch, ids)
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
        out.append(with_samples(described, samples, posterior))
    return out


def _sampled(
    fits: Sequence[SceneFit], method: str, watch: Watch | None, ids: Sequence[str]
) -> list[tuple[SceneFit, ScenePosterior | None]]:
    """Fits with the errors of their samples; as they are for Laplace errors."""
    if method == "laplace":
        return _totalled((fit, None) for fit in fits)
    # Imported where it is wanted: arviz and nautilus take a second.
    from autofit_ml.posterior.scenes import sample_fits

    return _with_errors(zip(fits, sample_fits(fits, method, watch=watch, ids=ids), strict=True))


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


def with_samples(fit: ObjectFit, samples: ScenePosterior | None, method: str) -> ObjectFit:
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
