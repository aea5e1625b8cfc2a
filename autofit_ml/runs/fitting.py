"""Fit one prepared batch: the only part of the flow that needs torch."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from autofit_ml.errors import InputError
from autofit_ml.fitting import Likelihood, RefineSettings, SceneObject, join_images, object_of
from autofit_ml.images.stamp import Stamp
from autofit_ml.initialisation import Starts
from autofit_ml.runs.model import RunModel, population_of
from autofit_ml.runs.modelled import without_modelled
from autofit_ml.runs.object_fit import ObjectFit
from autofit_ml.runs.prepare import Failure, Prepared
from autofit_ml.runs.rows import catalogue_rows
from autofit_ml.runs.scenes import fit_objects
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
    return prepared, fits, catalogue_rows(prepared, fits, model, settings, milliseconds)


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
        one = without_modelled(one, self.model.scene)
        if self.settings.neighbours == "fit":
            one = one.with_neighbours(self.refining.max_neighbours)
        return one

    def fit(self, some: Sequence[SceneObject], starts: Starts) -> list[ObjectFit]:
        """Fits of some objects."""
        if self.model.stages:
            from autofit_ml.runs.staged import fit_in_stages

            settings = [self._refining(stage.settings) for stage in self.model.stages]
            return fit_in_stages(
                some, starts, self.model, settings, images=self.images, watch=self.watch
            )
        return fit_objects(
            some, starts, self.model, self.refining, self.settings.posterior,
            images=self.images, watch=self.watch,
        )  # fmt: skip


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
