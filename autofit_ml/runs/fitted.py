"""Sources from their files to their rows, in a worker: reading, fitting, pictures.

Processes that fit share nothing: of two threads in one process each waits for the other's Python
half of the time.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from autofit_ml.images import Source
from autofit_ml.runs.prepare import Prepared, failed, prepare, with_sources
from autofit_ml.runs.rows import Fitted
from autofit_ml.runs.sources import Job
from autofit_ml.settings import FitSettings

if TYPE_CHECKING:
    from autofit_ml.runs.pictured import FittedImages

__all__ = ["FittingTask", "fit_job", "fitted_together"]

_SOURCES = 256
"""The most sources that a worker fits together: with 64, calls cost a fifth of the time."""


@dataclass(frozen=True)
class FittingTask:
    """What is done with prepared objects.

    Attributes
    ----------
    bands : tuple of str
    device : str
    pictures : Path, optional
        Folder of the results, where pictures and files of the objects are wanted.
    keep : bool
        Hand the images of the fits on.
    """

    bands: tuple[str, ...]
    device: str
    pictures: Path | None
    keep: bool = False

    def fit(self, prepared: Prepared, settings: FitSettings) -> Fitted:
        """Fit a batch, and save its pictures."""
        from autofit_ml.runs.fitting import fit_batch
        from autofit_ml.runs.model import run_model

        model = run_model(settings, self.bands)
        images = self.pictures is not None or self.keep
        prepared, fits, rows = fit_batch(prepared, model, settings, self.device, images)
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
    """The job of workers that fit what they read."""
    return Job(
        partial(_sources, task),
        _joined,
        lambda part: len(part.rows["id"]),
        lambda source, message: task.fit(failed(source, message), settings),
        in_parts=partial(_parts, task),
        per_task=min(_SOURCES, fitted_together(settings)),
        complete=True,
    )


def fitted_together(settings: FitSettings) -> int:
    """Objects after which rows are saved.

    Nested sampling takes minutes, object by object: a kill loses the one it interrupts.
    """
    return 1 if settings.posterior.startswith("nested") else settings.batch_size


def _sources(task: FittingTask, sources: Sequence[Source], settings: FitSettings) -> Fitted:
    return task.fit(prepare(sources, settings), settings)


def _parts(
    task: FittingTask, sources: list[Source], settings: FitSettings, done: Collection[str]
) -> Iterator[tuple[list[Source], Fitted]]:
    for ended, part in with_sources(sources, settings, done):
        yield ended, task.fit(part, settings)


def _joined(parts: Sequence[Fitted]) -> Fitted:
    columns = {name: [part.rows[name] for part in parts] for name in parts[0].rows}
    return Fitted(
        {name: np.concatenate(values) for name, values in columns.items()},
        {name: ids for part in parts for name, ids in part.objects.items()},
        {file: text for part in parts for file, text in part.hashes.items()},
        parts[-1].unfinished,
        {name: images for part in parts for name, images in part.kept.items()},
    )
