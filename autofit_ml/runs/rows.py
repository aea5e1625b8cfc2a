"""Fitted objects to catalogue rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from autofit_ml.catalogue import Flag, empty_rows
from autofit_ml.errors import brief
from autofit_ml.measure import psf_fwhm
from autofit_ml.runs.model import RunModel
from autofit_ml.runs.object_fit import ObjectFit
from autofit_ml.runs.prepare import Failure, Prepared
from autofit_ml.settings import FitSettings

if TYPE_CHECKING:
    from autofit_ml.runs.pictured import FittedImages

__all__ = ["Fitted", "catalogue_rows"]


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


def catalogue_rows(
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
    rows["id"][:] = prepared.order
    rows["model"][:] = model.scene.name
    rows["init"][:] = settings.init
    rows["survey"][:] = settings.read.survey or ""
    rows["time_ms"][:] = milliseconds
    for failure in prepared.failures:
        _failed(rows, place[failure.id], failure)
    for k in range(len(prepared.stamps)):
        _fill(rows, place[prepared.stamps[k].id], prepared, k, fits[prepared.stamps[k].id])
    return rows


def _fill(rows: dict[str, np.ndarray], i: int, prepared: Prepared, k: int, fit: ObjectFit) -> None:
    """Row i from stamp k and its fit."""
    stamp, segmentation, starts = prepared.stamps[k], prepared.segmentations[k], prepared.starts
    rows["file"][i] = stamp.file
    rows["filter"][i] = stamp.filter
    rows["zeropoint"][i] = stamp.zeropoint
    rows["pixel_scale"][i] = stamp.pixel_scale
    rows["psf_fwhm"][i] = psf_fwhm(stamp.psf)
    rows["segmenter"][i] = segmentation.method
    rows["object_class"][i] = segmentation.target_class
    rows["model"][i] = fit.model
    flags = fit.flags | stamp.flags
    weights = [segmentation.weights]
    if starts is not None:
        flags |= int(starts.flags[k])
        weights += starts.weights[k : k + 1]
    rows["weights"][i] = ", ".join(filter(None, weights))
    if flags & int(Flag.INIT_FALLBACK):
        rows["init"][i] = "moments"
    rows["flags"][i] = flags
    messages = [*stamp.messages, *filter(None, [fit.message])]
    if fit.problem:
        messages.append(f"{stamp.file}: {fit.problem}")
    rows["message"][i] = brief("; ".join(messages))
    if fit.problem:
        return
    rows["status"][i] = "ok"
    for name, value in fit.numbers.items():
        rows[name][i] = value


def _failed(rows: dict[str, np.ndarray], i: int, failure: Failure) -> None:
    rows["file"][i] = failure.file
    rows["message"][i] = brief(failure.message)
