"""Sources to their rows, in a worker: fitting, pictures, of stamps reading.

Processes that fit share nothing: of two threads in one process each waits for the other's Python
half of the time.
"""

from __future__ import annotations

import importlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from autofit_ml.images import Source
from autofit_ml.runs.jobs import Job
from autofit_ml.runs.prepare import (
    Objects,
    Prepared,
    failed,
    pieces,
    prepare_objects,
    read_objects,
    with_sources,
    without_stamps,
)
from autofit_ml.settings import FitSettings

if TYPE_CHECKING:
    from autofit_ml.runs.pictured import FittedImages

__all__ = ["Fitted", "FittingTask", "fit_job", "fitted_together"]

_SOURCES = 256
"""The most sources that a worker fits together: with 64, calls cost a fifth of the time."""

_FRAME = 128
"""The most objects of a frame that a worker fits together: the last ones leave no worker idle for
long."""


@dataclass(frozen=True)
class Fitted:
    """Outcome of some sources: rows, hashes, warnings.

    Attributes
    ----------
    rows : dict of ndarray
    objects : dict
        Source id -> ids of its objects, in order.
    hashes : dict
        File -> sha256.
    unfinished : frozenset
        Sources of which more objects follow.
    kept : dict
        Id -> images of its fit, where they are wanted in memory.
    """

    rows: dict[str, np.ndarray]
    objects: dict[str, list[str]]
    hashes: dict[str, str]
    unfinished: frozenset[str] = frozenset()
    kept: dict[str, FittedImages] = field(default_factory=dict)


@dataclass(frozen=True)
class FittingTask:
    """Task of fitting prepared objects.

    Attributes
    ----------
    bands : tuple of str
    device : str
    pictures : Path, optional
        Folder of the results, where pictures and files of the objects are wanted.
    keep : bool
        Hand the images of the fits on.
    out : Path, optional
        Folder of the results.
    """

    bands: tuple[str, ...]
    device: str
    pictures: Path | None
    keep: bool = False
    out: Path | None = None

    def sources(self, sources: Sequence[Source], settings: FitSettings) -> Fitted:
        """Read and fit sources."""
        return self.objects(read_objects(sources, settings), settings)

    def objects(self, part: Objects, settings: FitSettings) -> Fitted:
        """Fit objects."""
        return self.fit(prepare_objects(part, settings), settings)

    def fit(self, prepared: Prepared, settings: FitSettings) -> Fitted:
        """Fit a batch, and save its pictures."""
        from autofit_ml.runs.fitting import fit_batch
        from autofit_ml.runs.model import run_model

        model = run_model(settings, self.bands)
        images = self.pictures is not None or self.keep
        prepared, fits, rows = fit_batch(prepared, model, settings, self.device, images, self.out)
        if self.pictures is not None:
            from autofit_ml.runs.outputs import save_pictures

            save_pictures(self.pictures, prepared, fits, rows, model, settings)
        kept: dict[str, FittedImages] = {}
        if self.keep:
            from autofit_ml.runs.pictured import fitted_images

            for stamp, segmentation in zip(prepared.stamps, prepared.segmentations, strict=True):
                every = (stamp, *prepared.others.get(stamp.id, ()))
                kept[stamp.id] = fitted_images(every, segmentation, fits[stamp.id], model)
        return Fitted(rows, prepared.objects, prepared.hashes, prepared.unfinished, kept)


def fit_job(task: FittingTask, settings: FitSettings) -> Job[Fitted]:
    """The job of workers that fit what they, or the main process, read."""

    together = fitted_together(settings)
    return Job(
        task.sources,
        _joined,
        lambda part: len(part.rows["id"]),
        lambda source, message: task.objects(failed(source, message), settings),
        in_parts=partial(_parts, min(_FRAME, together)),
        rest=task.objects,
        one_by_one=lambda part: pieces(part, 1),
        lost=lambda part, message: task.objects(without_stamps(part, message), settings),
        warm_up=_warm_up,
        per_task=min(_SOURCES, together),
        complete=True,
    )


def fitted_together(settings: FitSettings) -> int:
    """Objects after which rows are saved.

    Nested sampling takes minutes, object by object: a kill loses the one it interrupts.
    """
    return 1 if settings.posterior.startswith("nested") else settings.batch_size


def _warm_up() -> None:
    importlib.import_module("autofit_ml.runs.fitting")


def _parts(
    size: int, sources: list[Source], settings: FitSettings, done: Collection[str]
) -> Iterator[tuple[list[Source], Objects]]:
    return with_sources(sources, settings.replace(batch_size=size), done)


def _joined(parts: Sequence[Fitted]) -> Fitted:
    columns = {name: [part.rows[name] for part in parts] for name in parts[0].rows}
    return Fitted(
        {name: np.concatenate(values) for name, values in columns.items()},
        {name: ids for part in parts for name, ids in part.objects.items()},
        {file: text for part in parts for file, text in part.hashes.items()},
        parts[-1].unfinished,
        {name: images for part in parts for name, images in part.kept.items()},
    )
