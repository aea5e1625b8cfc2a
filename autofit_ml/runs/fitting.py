"""Fit one prepared batch: the only part of the flow that needs torch."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import ndimage

from autofit_ml.catalogue import Flag, empty_rows
from autofit_ml.errors import InputError, brief
from autofit_ml.fitting import Likelihood, RefineSettings, SceneObject, join_images, object_of
from autofit_ml.images.stamp import Stamp
from autofit_ml.initialisation import Starts
from autofit_ml.measure import psf_fwhm
from autofit_ml.runs.model import RunModel, population_of
from autofit_ml.runs.object_fit import ObjectFit
from autofit_ml.runs.pipeline import Stage
from autofit_ml.runs.prepare import Failure, Prepared
from autofit_ml.runs.scenes import fit_in_stages, fit_simplest
from autofit_ml.scenes import Parameter, Scene
from autofit_ml.scenes.populations import Population
from autofit_ml.settings import FitSettings

if TYPE_CHECKING:
    from autofit_ml.posterior.watch import Watch

__all__ = ["FitPolicy", "FittedBatch", "fit_batch"]

FittedBatch = tuple[Prepared, dict[str, ObjectFit], dict[str, np.ndarray]]
"""The batch (without the objects on which the refiner broke), its fits by id, its rows."""


def fit_batch(
    prepared: Prepared,
    model: RunModel,
    settings: FitSettings,
    device: str,
    images: bool,
    out: Path | None = None,
) -> FittedBatch:
    """Fit one batch.

    Parameters
    ----------
    prepared : Prepared
    model : RunModel
    settings : FitSettings
    device : str
    images : bool
        Keep the images of the fits.
    out : Path, optional
        Results folder, for pictures of long searches.
    """
    began = time.perf_counter()
    fits: dict[str, ObjectFit] = {}
    if prepared.stamps:
        measured = "morphology" in settings.measure
        policy = FitPolicy(model, settings, device, images or measured, out)
        prepared, fits = _fitted(prepared, policy)
        if measured:
            fits = _with_morphology(prepared, fits)
    seconds = prepared.seconds + time.perf_counter() - began
    milliseconds = 1e3 * seconds / max(1, len(prepared.order))
    return prepared, fits, _catalogue_rows(prepared, fits, model, settings, milliseconds)


def _with_morphology(prepared: Prepared, fits: dict[str, ObjectFit]) -> dict[str, ObjectFit]:
    from autofit_ml.runs.morphology import morphology

    out = {}
    for stamp, segmentation in zip(prepared.stamps, prepared.segmentations, strict=True):
        fit = fits[stamp.id]
        numbers = {**fit.numbers, **morphology(stamp, segmentation, fit)}
        out[stamp.id] = dataclasses.replace(fit, numbers=numbers)
    return out


@dataclasses.dataclass(frozen=True)
class FitPolicy:
    """Fitting policy of a run: model, settings, device, and whether images of the fits are kept."""

    model: RunModel
    settings: FitSettings
    device: str
    images: bool
    out: Path | None = None

    @cached_property
    def watch(self) -> Watch | None:
        """Pictures of long searches, where they are wanted."""
        if self.out is None or not self.settings.watch:
            return None
        from autofit_ml.posterior.watch import Watch

        return Watch(self.out, 60 * self.settings.watch)

    @cached_property
    def refining(self) -> RefineSettings:
        """Settings of the refiner."""
        return self._refining(self.settings)

    def _refining(self, settings: FitSettings) -> RefineSettings:
        return RefineSettings(
            likelihood=Likelihood.parse(settings.likelihood),
            error_floor=settings.error_floor,
            neighbours=settings.neighbours,
            prior=population_of(settings) or settings.prior,
            keep=settings.posterior != "laplace",
            weights=settings.weights,
            device=self.device,
        )

    def object(self, stamp: Stamp, prepared: Prepared, k: int) -> SceneObject:
        """Stamp k of a batch with its neighbours.

        Raises
        ------
        InputError
            It cannot be fitted with this model.
        """
        segmentation = prepared.segmentations[k]
        one = object_of(stamp, segmentation)
        if len(self.model.bands) > 1:
            one = join_images((stamp, *prepared.others[stamp.id]), segmentation)
        if self.settings.likelihood == "poisson":
            for image in one.stamps:
                if image is not None and not image.gain > 0:
                    raise InputError(
                        "the poisson likelihood needs the gain",
                        "give --gain, or the card GAIN (electrons per image unit)",
                        image.file,
                    )
        if isinstance(self.refining.prior, Population):
            _check_units(self.refining.prior, stamp)
        one = _without_modelled(one, self.model.scene)
        if self.settings.neighbours == "fit":
            one = one.with_neighbours(self.refining.max_neighbours)
        return one

    def fit(self, some: Sequence[SceneObject], starts: Starts) -> list[ObjectFit]:
        """Fits of some objects."""
        more: Any = {"images": self.images, "watch": self.watch}
        if self.model.auto:
            how = self.settings.posterior
            return fit_simplest(some, starts, self.model, self.refining, how, **more)
        settings = [self._refining(stage.settings) for stage in self.staged.stages]
        return fit_in_stages(some, starts, self.staged, settings, **more)

    @cached_property
    def staged(self) -> RunModel:
        """The model; a plain fit is one stage."""
        stage = Stage("fit", self.model.scene, self.settings, None, {}, {})
        return dataclasses.replace(self.model, stages=self.model.stages or (stage,))


def _check_units(population: Population, stamp: Stamp) -> None:
    """True if a population's magnitudes and sizes can be those of an image."""
    given = {name.removeprefix("ln_") for name in population.names}
    if "re" in given and not stamp.pixel_scale > 0:
        raise InputError(
            "the population has sizes in arcsec, and the pixel scale is unknown",
            "give --pixel-scale",
            stamp.file,
        )
    if "mag" not in given:
        return
    if not math.isfinite(stamp.zeropoint):
        raise InputError(
            "the population has magnitudes, and the zero point is unknown",
            "give --zeropoint",
            stamp.file,
        )
    if stamp.filter and stamp.filter.lower() != population.band.lower():
        raise InputError(
            f"the population has magnitudes in {population.band}, and the image is in "
            f"{stamp.filter}",
            "give a population of that band, or one without magnitudes",
            stamp.file,
        )


def _fitted(prepared: Prepared, policy: FitPolicy) -> tuple[Prepared, dict[str, ObjectFit]]:
    """Fits of a batch; an object on which the refiner breaks fails alone, with the reason."""
    starts = prepared.starts
    if starts is None:
        raise ValueError("stamps without starts")
    failures = list(prepared.failures)
    objects: dict[int, SceneObject] = {}
    for k, stamp in enumerate(prepared.stamps):
        try:
            objects[k] = policy.object(stamp, prepared, k)
        except Exception as error:  # one object must never cost the others
            failures.append(_failure(stamp, error))
    fits: dict[str, ObjectFit] = {}
    for k, made in _each(list(objects), objects, starts, policy.fit):
        stamp = prepared.stamps[k]
        if isinstance(made, Exception):
            failures.append(_failure(stamp, made))
        else:
            fits[stamp.id] = made
    good = [k for k, stamp in enumerate(prepared.stamps) if stamp.id in fits]
    return _some(prepared, good, failures), fits


def _each(
    members: list[int],
    objects: dict[int, SceneObject],
    starts: Starts,
    fit: Callable[[Sequence[SceneObject], Starts], list[ObjectFit]],
) -> Iterator[tuple[int, ObjectFit | Exception]]:
    """Fits of some members of a batch, together; the one that breaks the fit by itself."""
    pieces = [members] if members else []
    while pieces:
        piece = pieces.pop(0)
        try:
            made = fit([objects[k] for k in piece], starts.some(piece))
        except Exception as error:  # find the object that breaks the batch; keep the others
            if len(piece) == 1:
                yield piece[0], error
                continue
            middle = len(piece) // 2
            pieces[:0] = [piece[:middle], piece[middle:]]
            continue
        yield from zip(piece, made, strict=True)


def _failure(stamp: Stamp, error: Exception) -> Failure:
    if isinstance(error, InputError):
        named = error.file is not None or stamp.file in str(error)
        text = str(error) if named else f"{stamp.file}: {error}"
        return Failure(stamp.id, stamp.file, text, stamp)
    return Failure(
        stamp.id,
        stamp.file,
        f"{stamp.file}: unexpected {type(error).__name__} in the fit: {error} "
        "(this is a bug: please report it with the file)",
        stamp,
    )


def _some(prepared: Prepared, members: list[int], failures: list[Failure]) -> Prepared:
    """A batch with some of its stamps only."""
    starts = None if prepared.starts is None else prepared.starts.some(members)
    return dataclasses.replace(
        prepared,
        stamps=[prepared.stamps[i] for i in members],
        segmentations=[prepared.segmentations[i] for i in members],
        starts=starts if members else None,
        failures=failures,
    )


def _without_modelled(one: SceneObject, scene: Scene) -> SceneObject:
    """The object, its contaminants without those at the positions of the model's components.

    A model may have components for neighbours (a GALFIT file usually does): their pixels are
    neither masked nor do they get a second component. They count as the target's.

    Parameters
    ----------
    one : SceneObject
    scene : Scene
        Positions in pixels of the file.
    """
    segmentation, origin = one.segmentation, one.reference.origin
    labels = np.asarray(segmentation.labels)
    contaminants = np.asarray(segmentation.contaminants, dtype=bool)
    ny, nx = labels.shape
    taken: set[int] = set()
    owner = labels
    for component in scene.components[1:]:
        x, y = (_start(component.parameters[axis]) for axis in ("x", "y"))
        if x is None or y is None:
            continue
        column, row = round(x) - origin[0], round(y) - origin[1]
        if not (0 <= column < nx and 0 <= row < ny and contaminants[row, column]):
            continue
        if owner is labels:
            foreign = (labels != 0) & (labels != segmentation.target)
            nearest = ndimage.distance_transform_edt(
                ~foreign, return_distances=False, return_indices=True
            )
            owner = labels[tuple(nearest)]
        taken.add(int(owner[row, column]))
    if not taken:
        return one
    mine = np.isin(labels, sorted(taken))
    changed = dataclasses.replace(
        segmentation,
        labels=np.where(mine, segmentation.target, labels),
        contaminants=contaminants & ~np.isin(owner, sorted(taken)),
    )
    return dataclasses.replace(one, segmentation=changed)


def _start(parameter: Parameter) -> float | None:
    return None if parameter.tie else parameter.value


def _catalogue_rows(
    prepared: Prepared,
    fits: Mapping[str, ObjectFit],
    model: RunModel,
    settings: FitSettings,
    milliseconds: float,
) -> dict[str, np.ndarray]:
    """Rows of one batch, in the order of its inputs.

    Parameters
    ----------
    prepared : Prepared
    fits : mapping
        Id -> fit, of every stamp of `prepared`.
    model : RunModel
    settings : FitSettings
    milliseconds : float
        Wall time per object.

    Returns
    -------
    dict of ndarray
        The columns of the run's model (`RunModel.columns`).
    """
    rows = empty_rows(len(prepared.order), model.columns)
    place = {name: i for i, name in enumerate(prepared.order)}
    known: dict[str, Any] = {"id": prepared.order, "model": model.scene.name, "init": settings.init}
    known |= {"survey": settings.read.survey or "", "time_ms": milliseconds}
    _put(rows, slice(None), known)
    for one in prepared.failures:
        _put(rows, place[one.id], {"file": one.file, "message": brief(one.message)})
    for k, stamp in enumerate(prepared.stamps):
        _put(rows, place[stamp.id], _numbers(prepared, k, fits[stamp.id]))
    return rows


def _put(rows: dict[str, np.ndarray], i: int | slice, values: Mapping[str, Any]) -> None:
    """Put values into row i."""
    for name, value in values.items():
        rows[name][i] = value


def _numbers(prepared: Prepared, k: int, fit: ObjectFit) -> dict[str, Any]:
    """Values of the row of stamp k with its fit."""
    stamp, segmentation, starts = prepared.stamps[k], prepared.segmentations[k], prepared.starts
    flags, weights = fit.flags | stamp.flags, [segmentation.weights]
    if starts is not None:
        flags |= int(starts.flags[k])
        weights += starts.weights[k : k + 1]
    messages = [*stamp.messages, *filter(None, [fit.message])]
    if fit.problem:
        messages.append(f"{stamp.file}: {fit.problem}")
    values: dict[str, Any] = {
        "file": stamp.file,
        "filter": stamp.filter,
        "zeropoint": stamp.zeropoint,
        "pixel_scale": stamp.pixel_scale,
        "psf_fwhm": psf_fwhm(stamp.psf),
        "segmenter": segmentation.method,
        "object_class": segmentation.target_class,
        "model": fit.model,
        "weights": ", ".join(filter(None, weights)),
        "flags": flags,
        "message": brief("; ".join(messages)),
    }
    if flags & int(Flag.INIT_FALLBACK):
        values["init"] = "moments"
    return values if fit.problem else {**values, "status": "ok", **fit.numbers}
