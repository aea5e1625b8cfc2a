"""Fits of a batch's objects as a run wants them.

Beyond the fit itself: the simplest model is chosen (``--model auto``), samples are drawn, and each
stage of a pipeline begins from what an earlier one found.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from autofit_ml.catalogue import Flag
from autofit_ml.fitting import RefineSettings, SceneFit, SceneObject, refine, with_totals
from autofit_ml.fitting.choice import choose_models, criteria
from autofit_ml.fitting.grids import FRACTION, Axis, GridFit, known_of, refine_grid
from autofit_ml.fitting.known import Known
from autofit_ml.initialisation import Starts
from autofit_ml.runs.model import RunModel
from autofit_ml.runs.object_fit import ObjectFit, fit_of_scene
from autofit_ml.runs.pipeline import Stage, second_name
from autofit_ml.scenes import Scene, parse_model, shifted
from autofit_ml.scenes.coordinates import spans_of

if TYPE_CHECKING:
    from autofit_ml.posterior.scenes import ScenePosterior
    from autofit_ml.posterior.watch import Watch

__all__ = ["fit_in_stages", "fit_simplest", "staged_outcomes"]

_DISAGREE = 1.02
"""R-hat above which a row's message says so."""


@dataclass(frozen=True)
class _Outcome:
    """Fit of an object, its samples, the scene in the stamp's pixels, and what a grid tells."""

    fit: SceneFit
    samples: ScenePosterior | None
    scene: Scene
    grid: GridFit | None = None


def _fits_of(
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
) -> list[_Outcome]:
    """Fit objects with one scene (positions in pixels of the files), over a grid if there is one.

    Parameters are those of `fit_in_stages` and `fit_simplest`; `axes` are the grid's.
    """
    out: dict[int, _Outcome] = {}
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
            out[k] = _Outcome(fit, samples, own, grid)
    return [out[k] for k in range(len(some))]


def fit_simplest(
    some: Sequence[SceneObject],
    starts: Starts,
    model: RunModel,
    settings: RefineSettings,
    posterior: str = "laplace",
    *,
    images: bool = True,
    watch: Watch | None = None,
) -> list[ObjectFit]:
    """Fit each object with the simplest model that describes it; see `fit_in_stages`.

    `posterior` says where errors come from.
    """
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
        out.append(_with_samples(described, samples, posterior))
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


# --- stages of a pipeline ---------------------------------------------------------------------


def fit_in_stages(
    some: Sequence[SceneObject],
    starts: Starts,
    model: RunModel,
    settings: Sequence[RefineSettings],
    *,
    images: bool = True,
    watch: Watch | None = None,
) -> list[ObjectFit]:
    """Fit objects with every stage of a model in turn; the last one's fits are the result.

    Parameters
    ----------
    some : sequence of SceneObject
        With their neighbours.
    starts : Starts
    model : RunModel
    settings : sequence of RefineSettings
        One a stage.
    images : bool
        Keep the images of the last fits.
    watch : Watch, optional
        Pictures of long searches for samples.
    """
    results = staged_outcomes(some, starts, model, settings, images=images, watch=watch)
    stars: Mapping[int, _Outcome] = {}
    if model.stages[-1].scene.single_sersic and not model.stages[-1].axes:
        stars = _stars(some, results[-1], starts, model, settings[-1], images=images)
    out = []
    for k, one in enumerate(some):
        fits = [of_stage[k].fit for of_stage in results]
        last_one = stars.get(k, results[-1][k])
        described = fit_of_scene(last_one.fit, one, last_one.scene, model.layout)
        if not described.problem:
            numbers = {**described.numbers, "n_iter": sum(fit.n_iter for fit in fits)}
            if len(fits) > 1:
                names = [stage.name for stage in model.stages]
                bic = criteria(dict(zip(names, fits, strict=True)))
                numbers |= {f"chi2_{name}": fit.chi2 for name, fit in zip(names, fits, strict=True)}
                numbers |= {f"bic_{name}": bic[name] for name in names}
            if last_one.grid is not None:
                numbers |= _of_grid(last_one.grid, model.stages[-1])
            described = dataclasses.replace(described, numbers=numbers)
        out.append(_with_samples(described, last_one.samples, model.stages[-1].settings.posterior))
    return out


def _stars(
    some: Sequence[SceneObject],
    found: Sequence[_Outcome],
    starts: Starts,
    model: RunModel,
    settings: RefineSettings,
    *,
    images: bool,
) -> dict[int, _Outcome]:
    """Point sources in the place of Sérsic profiles at a bound that are no better, in frames."""
    wanted = int(Flag.AT_BOUND) | int(Flag.POINT_SOURCE)
    stars = [
        k
        for k, (one, outcome) in enumerate(zip(some, found, strict=True))
        if outcome.fit.flags & wanted == wanted and one.reference.of_frame
    ]
    objects = [dataclasses.replace(some[k], neighbours=found[k].fit.around) for k in stars]
    stage = model.stages[-1]
    made = _fits_of(
        objects,
        starts.some(stars),
        parse_model("point", stage.scene.sky),
        model,
        dataclasses.replace(settings, drop_neighbours=False, companions=0),
        posterior=stage.settings.posterior,
        images=images,
    )
    out = {}
    for k, outcome in zip(stars, made, strict=True):
        sersic, flags = found[k].fit, outcome.fit.flags | int(Flag.POINT_SOURCE)
        fit = dataclasses.replace(
            outcome.fit, flags=flags, bic_point_source=sersic.bic_point_source
        )
        if not flags & int(Flag.FAILED):
            out[k] = dataclasses.replace(outcome, fit=fit)
    return out


def staged_outcomes(
    some: Sequence[SceneObject],
    starts: Starts,
    model: RunModel,
    settings: Sequence[RefineSettings],
    *,
    images: bool = True,
    watch: Watch | None = None,
) -> list[list[_Outcome]]:
    """Outcomes of every stage, for each object; see `fit_in_stages`."""
    results: list[list[_Outcome]] = []
    for number, (stage, how) in enumerate(zip(model.stages, settings, strict=True)):
        objects = list(some)
        if number:  # the neighbours that the first fit left are those of all
            earlier = [one.fit for one in results[stage.follows or 0]]
            objects = [_begun(*pair, stage) for pair in zip(some, earlier, strict=True)]
            how = dataclasses.replace(how, drop_neighbours=False, companions=0)
        last = number + 1 == len(model.stages)
        if not last:
            asked = any(
                later.follows == number and any(width.times for width in later.widths.values())
                for later in model.stages
            )
            how = dataclasses.replace(how, point_source=False, model_error=asked)
        results.append(
            _fits_of(
                objects, starts, stage.scene, model, how,
                posterior=stage.settings.posterior, axes=stage.axes, images=images and last,
                watch=watch,
            )
        )  # fmt: skip
    return results


def _of_grid(grid: GridFit, stage: Stage) -> Mapping[str, Any]:
    flat = grid.chi2.ravel()
    numbers: dict[str, Any] = {"grid_chi2": flat if len(flat) > 1 else flat[0]}
    numbers["minima"] = grid.minima
    if grid.second is not None:
        numbers["second_chi2"] = grid.second.chi2 - grid.fit.chi2
        for axis in stage.axes:
            share = axis.name == FRACTION
            value = grid.second.fraction if share else grid.second.value_in(axis.name, 0)
            numbers[second_name(axis)] = value
    return numbers


def _begun(one: SceneObject, fit: SceneFit, stage: Stage) -> SceneObject:
    """An object with what an earlier stage found of it; as it is where that has failed."""
    found = known_of(fit)
    if found is None or fit.flags & int(Flag.FAILED):
        return one
    if one.neighbours is not None:
        one = dataclasses.replace(one, neighbours=fit.around)
    if stage.follows is None:
        return one
    before = {name: torch.as_tensor(values) for name, values in found.values.items()}
    images = len(one.stamps)

    def value(expression: Any) -> np.ndarray:
        made = expression(before)
        return np.broadcast_to(np.asarray(made, dtype=np.float64), (images,)).copy()

    values = {name: value(expression) for name, expression in stage.start.items()}
    logs = {span.full(name) for span in spans_of(stage.scene) for name in span.logs}
    widths, centres = {}, {}
    for name, width in stage.widths.items():
        centre = value(width.at)
        at = abs(float(centre[0]))
        place = fit.place(name, 0)
        error = 0.0 if place is None else float(np.nan_to_num(fit.errors[place]))
        size = max(width.absolute, width.relative * at, width.times * error)
        size = size / at if name in logs and at > 0 else size
        if size > 0 and math.isfinite(size):
            widths[name], centres[name] = size, centre
    return dataclasses.replace(one, known=Known(values, widths, centres))
