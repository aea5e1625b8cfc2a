"""Fit one prepared batch: the only part of the flow that needs torch."""

from __future__ import annotations

import dataclasses
import time

import numpy as np

from autofit_ml.pipeline.prepare import Failure, Prepared
from autofit_ml.pipeline.rows import catalogue_rows
from autofit_ml.pipeline.settings import FitSettings
from autofit_ml.refine import FitResults, RefineSettings, refine
from autofit_ml.scene import sersic

__all__ = ["FittedBatch", "fit_batch"]

FittedBatch = tuple[Prepared, FitResults | None, dict[str, np.ndarray]]
"""The batch (without the objects on which the refiner broke), its fits, its catalogue rows."""


def fit_batch(prepared: Prepared, settings: FitSettings, device: str, models: bool) -> FittedBatch:
    """Fit one batch.

    Parameters
    ----------
    prepared : Prepared
    settings : FitSettings
    device : str
    models : bool
        Keep the model images.
    """
    began = time.perf_counter()
    results = None
    if prepared.stamps:
        prepared, results = _refined(prepared, settings, device, models)
    seconds = prepared.seconds + time.perf_counter() - began
    rows = catalogue_rows(prepared, results, settings, 1e3 * seconds / max(1, len(prepared.order)))
    return prepared, results, rows


def _refined(
    prepared: Prepared, settings: FitSettings, device: str, models: bool
) -> tuple[Prepared, FitResults | None]:
    """Fits of a batch; an object on which the refiner breaks fails alone, with the reason."""
    starts = prepared.starts
    if starts is None:
        raise ValueError("stamps without starts")
    good: list[tuple[list[int], FitResults]] = []
    failures = list(prepared.failures)
    pieces = [list(range(len(prepared.stamps)))]
    while pieces:
        piece = pieces.pop(0)
        some = _some(prepared, piece)
        try:
            fits = refine(
                some.stamps,
                sersic(settings.sky_value),
                some.starts,
                some.segmentations,
                RefineSettings(device=device, prior=settings.prior),
                models=models,
            )
        except Exception as error:  # find the object that breaks the batch; keep the others
            if len(piece) > 1:
                middle = len(piece) // 2
                pieces[:0] = [piece[:middle], piece[middle:]]
                continue
            stamp = prepared.stamps[piece[0]]
            failures.append(
                Failure(
                    stamp.id,
                    stamp.file,
                    f"{stamp.file}: unexpected {type(error).__name__} in the fit: {error} "
                    "(this is a bug: please report it with the file)",
                )
            )
            continue
        good.append((piece, fits))
    if not good:
        return _some(prepared, [], failures), None
    if len(good) == 1:
        return _some(prepared, good[0][0], failures), good[0][1]
    members = [index for piece, _ in good for index in piece]
    results = FitResults.empty(len(members), np.zeros((len(members), 8)), models)
    done = 0
    for piece, fits in good:
        results.put(np.arange(done, done + len(piece)), fits)
        done += len(piece)
    return _some(prepared, members, failures), results


def _some(
    prepared: Prepared, members: list[int], failures: list[Failure] | None = None
) -> Prepared:
    """A batch with some of its stamps only."""
    starts = None if prepared.starts is None else prepared.starts.some(members)
    return dataclasses.replace(
        prepared,
        stamps=[prepared.stamps[i] for i in members],
        segmentations=[prepared.segmentations[i] for i in members],
        starts=starts if members else None,
        failures=prepared.failures if failures is None else failures,
    )
