"""Objects through the stages of a pipeline: each fit begins from what an earlier one found."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from autofit_ml.catalogue import Flag
from autofit_ml.fitting import RefineSettings, SceneFit, SceneObject
from autofit_ml.fitting.choice import criteria
from autofit_ml.fitting.grids import FRACTION, GridFit, known_of
from autofit_ml.fitting.known import Known
from autofit_ml.initialisation import Starts
from autofit_ml.runs.model import RunModel
from autofit_ml.runs.object_fit import ObjectFit, fit_of_scene
from autofit_ml.runs.pipeline import Stage, second_name
from autofit_ml.runs.scenes import Outcome, fits_of, with_samples
from autofit_ml.scenes.coordinates import spans_of

if TYPE_CHECKING:
    from autofit_ml.posterior.watch import Watch

__all__ = ["fit_in_stages", "staged_outcomes"]


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
    out = []
    for k, one in enumerate(some):
        fits = [of_stage[k].fit for of_stage in results]
        last_one = results[-1][k]
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
        out.append(with_samples(described, last_one.samples, model.stages[-1].settings.posterior))
    return out


def staged_outcomes(
    some: Sequence[SceneObject],
    starts: Starts,
    model: RunModel,
    settings: Sequence[RefineSettings],
    *,
    images: bool = True,
    watch: Watch | None = None,
) -> list[list[Outcome]]:
    """Outcomes of every stage, for each object; see `fit_in_stages`."""
    results: list[list[Outcome]] = []
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
            fits_of(
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
