"""Surveys of fits and of detections: objects are found cell by cell and measured tile by tile."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa

from autofit_ml.catalogue import rows_to_table
from autofit_ml.errors import InputError
from autofit_ml.images import Discovery
from autofit_ml.images.stamp import Stamp
from autofit_ml.measure import psf_fwhm
from autofit_ml.runs.fit import fit_identity
from autofit_ml.runs.frames import Failure, FrameImages, Others, cut_objects, naming
from autofit_ml.runs.identity import identity_of, weights_text
from autofit_ml.runs.prepare import Objects, prepare_objects
from autofit_ml.runs.summary import Progress
from autofit_ml.segmentation import Detections
from autofit_ml.segmentation.dispatch import check_segmenter, detect_in_frame
from autofit_ml.settings import FitSettings
from autofit_ml.survey.cells import CellSources, cell_path, nothing, placed, read_cell
from autofit_ml.survey.context import OwnedObjects, Survey, frame_of
from autofit_ml.survey.images import Cell
from autofit_ml.survey.plan import Plan
from autofit_ml.survey.tile_kind import TileKind

__all__ = ["DETECT", "FIT"]

Item = tuple[str, Stamp | Failure]


def detect(survey: Survey, images: FrameImages, cell: Cell) -> CellSources:
    """Detect the objects of a cell in the reference band."""
    frame, settings = images.frame, survey.settings
    inside = frame if cell.whole else frame.cropped(*cell.window)
    if inside.mask.all():
        return placed(nothing(), frame, cell)
    seeing = 3.0 if frame.psf is None else psf_fwhm(frame.psf)
    told, found = detect_in_frame(
        inside, seeing, settings.segmenter, settings.weights, survey.device
    )
    return placed(found, frame, cell, told)


# --- fit --------------------------------------------------------------------------------------


def fit_tile(survey: Survey, parts: Sequence[OwnedObjects], tile: str) -> pa.Table:
    """Fit the objects of a tile."""
    from autofit_ml.runs.fitted import FittingTask
    from autofit_ml.runs.model import run_model

    settings = survey.settings
    pictures = survey.out / "pictures" / tile if settings.save else None
    task = FittingTask(survey.bands, survey.device, pictures)
    others: Others = {}
    items = _items(survey, parts, others)
    columns = run_model(settings, survey.bands).columns
    tables = [rows_to_table({column.name: [] for column in columns}, columns)]
    while some := list(islice(items, settings.batch_size)):
        taken = {one.id: others.pop(one.id) for _, one in some if one.id in others}
        fitted = task.fit(prepare_objects(Objects(some, taken), settings), settings)
        tables.append(rows_to_table(fitted.rows, columns))
    return pa.concat_tables(tables)


def _items(survey: Survey, parts: Sequence[OwnedObjects], others: Others) -> Iterator[Item]:
    """Stamps of a tile's objects; each image is read once."""
    for part in parts:
        cell = part.sources.cell
        try:
            found, names = _to_cut(survey, part)
            images = frame_of(survey, cell)
        except InputError as error:
            for name in part.ids:
                yield (
                    cell.source.id,
                    Failure(name, cell.source.file, naming(error, cell.source.file)),
                )
            continue
        frame = images.frame.replace(
            flags=images.frame.flags | part.sources.flags,
            messages=(*images.frame.messages, *part.sources.messages),
        )
        told = dataclasses.replace(images, frame=frame)
        for item in cut_objects(told, cell.source, found, names, survey.settings, others):
            yield cell.source.id, item


def _to_cut(survey: Survey, part: OwnedObjects) -> tuple[Detections, list[str]]:
    """A tile's detections in a cell, with the labels of the whole image."""
    cell = part.sources.cell
    labels = np.zeros(cell.shape, np.int32)
    known = read_cell(cell_path(survey.out, cell), cell, whole=True).labels
    if known is not None:
        x0, x1, y0, y1 = cell.window
        labels[y0:y1, x0:x1] = known
    return Detections(
        part.sources.rows[part.chosen],
        labels,
        np.zeros((1, 1), np.float32),
        part.sources.kinds,
        part.sources.method,
    ), part.ids


# --- detect -----------------------------------------------------------------------------------

_DETECTED: tuple[tuple[str, str, str], ...] = (
    ("x", "pix", "centre of the isophote, from 0"),
    ("y", "pix", "centre of the isophote, from 0"),
    ("ra", "deg", "right ascension"),
    ("dec", "deg", "declination"),
    ("flux", "", "inside the isophote, image units"),
    ("snr", "", "S/N of that flux"),
    ("radius", "pix", "of a circle with the isophote's area"),
    ("a", "pix", "rms semi-major axis"),
    ("b", "pix", "rms semi-minor axis"),
    ("theta", "rad", "counter-clockwise from +x"),
)


def detect_tile(survey: Survey, parts: Sequence[OwnedObjects], tile: str) -> pa.Table:
    """List the objects of a tile as they were detected, without a fit."""
    rows = [part.sources.rows[part.chosen] for part in parts]
    kinds = [
        part.sources.kinds.get(int(label), "")
        for part, some in zip(parts, rows, strict=True)
        for label in some["label"]
    ]
    flags = [np.full(len(part.chosen), part.sources.flags, np.int32) for part in parts]
    columns: dict[str, tuple[pa.Array, Mapping[str, str]]] = {
        "id": (pa.array([one for part in parts for one in part.ids], pa.string()), {}),
        "status": (pa.array(["ok"] * len(kinds), pa.string()), {}),
        "flags": (pa.array(np.concatenate([np.zeros(0, np.int32), *flags])), {}),
        "object_class": (pa.array(kinds, pa.string()), {}),
    }
    for name, unit, text in _DETECTED:
        values = np.concatenate([np.zeros(0), *(some[name] for some in rows)])
        columns[name] = (pa.array(values), {"unit": unit, "description": text})
    fields = [pa.field(k, v.type, metadata=dict(about)) for k, (v, about) in columns.items()]
    return pa.table([values for values, _ in columns.values()], pa.schema(fields))


def _detect_identity(settings: FitSettings, plan: Plan, progress: Progress) -> dict[str, Any]:
    used = check_segmenter(settings.segmenter, settings.weights)
    return identity_of(settings) | {"weights": weights_text(used, settings.weights)}


def _fit_identity(settings: FitSettings, plan: Plan, progress: Progress) -> dict[str, Any]:
    return fit_identity(settings, Discovery(plan.sources, bands=plan.bands), progress)[0]


FIT = TileKind(_fit_identity, detect, fit_tile, reads=True)
DETECT = TileKind(_detect_identity, detect, detect_tile)
