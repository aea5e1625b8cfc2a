"""Tasks of a survey: the detections of a cell, the objects of a tile.

Both are idempotent. What is finished is a file with its final name, looked for before anything is
done; it is written beside that name first, and the first to finish gives it. Nothing but a few
numbers is returned: whatever a scheduler repeats, loses or doubles, the files decide.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import time
import traceback
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from autofit_ml.catalogue import atomic_write_json, flagged, usable
from autofit_ml.catalogue.arrow import numpy_values
from autofit_ml.catalogue.atomic import atomic_file
from autofit_ml.errors import AutofitError, OutputError, WeightsError, brief
from autofit_ml.survey.cells import CellSources, cell_path, read_cell, write_cell
from autofit_ml.survey.context import OwnedObjects, Survey, frame_of
from autofit_ml.survey.images import Cell
from autofit_ml.survey.kinds import kind_of
from autofit_ml.survey.plan import TileJob
from autofit_ml.survey.resolve import DETECTION, Resolved, tile_objects
from autofit_ml.survey.sky import HEALPix, Tiling

__all__ = [
    "SPATIAL",
    "TileOutcome",
    "do_cell",
    "do_tile",
    "failure_path",
    "failures",
    "memory_held",
    "tile_outcome",
    "tile_path",
    "tile_record",
    "write_failure",
]

ABOUT = b"autofit_ml.tile"
"""Key of a tile's own record among the metadata of its Parquet file."""

_PER_FOLDER = 10_000

SPATIAL = 29
"""Order of the HEALPix index that each row carries (HATS)."""


@dataclass(frozen=True)
class TileOutcome:
    """Outcome of a tile, in a few bytes.

    Attributes
    ----------
    name : str
    detected, objects : int
        Detections in its core, and what is left of them without duplicates.
    usable, flagged, failed : int
        Of the objects.
    seconds, processor : float
        Wall and CPU time.
    memory : float
        The most that the process has held, MB.
    new : bool
        Whether it was done just now.
    problem : str
        Why it could not be done.
    """

    name: str
    detected: int = 0
    objects: int = 0
    usable: int = 0
    flagged: int = 0
    failed: int = 0
    seconds: float = 0.0
    processor: float = 0.0
    memory: float = 0.0
    new: bool = False
    problem: str = ""


def tile_path(out: Path, sky: Tiling, tile: int) -> Path:
    """File of a tile's rows; at most ten thousand in a folder."""
    return out / "tiles" / str(tile // _PER_FOLDER * _PER_FOLDER) / f"{sky.name(tile)}.parquet"


def failure_path(out: Path, what: str, name: str) -> Path:
    """File that says why the image of a cell, or a tile, could not be done."""
    return out / "failed" / what / f"{name}.json"


def write_failure(out: Path, what: str, name: str, message: str) -> None:
    """Record that the image of a cell ("images") or a tile ("tiles") cannot be done."""
    content = {"what": what, "name": name, "message": message}
    atomic_write_json(failure_path(out, what, name), content)


def failures(out: Path, what: str) -> dict[str, str]:
    """Images ("images") or tiles ("tiles") that could not be done -> why."""
    told = {}
    for path in sorted((out / "failed" / what).glob("*.json")):
        with contextlib.suppress(OSError, ValueError, KeyError):
            content = json.loads(path.read_text("utf-8"))
            told[str(content["name"])] = str(content["message"])
    return told


# --- cells ------------------------------------------------------------------------------------


def do_cell(survey: Survey, cell: Cell) -> str:
    """Detect the sources of a cell, unless that is done; its name.

    An image that cannot be used leaves a file in ``failed/``, and its tiles go on without it.

    Raises
    ------
    OutputError
        The disk is full.
    WeightsError
        That concerns the whole survey.
    """
    path = cell_path(survey.out, cell)
    if path.exists() or failure_path(survey.out, "images", cell.name).exists():
        return cell.name
    try:
        images = frame_of(survey, cell)
        found = kind_of(survey.kind).find(survey, images, cell)
    except (OutputError, WeightsError):
        raise
    except Exception as error:  # one image must never cost the others
        write_failure(survey.out, "images", cell.name, _reason(error, cell.source.file))
        return cell.name
    write_cell(path, dataclasses.replace(found, hashes=images.hashes))
    return cell.name


def _reason(error: Exception, file: str) -> str:
    """Why something failed, with the file in it."""
    if isinstance(error, AutofitError):
        text = str(error)
        return text if error.file is not None or not file else f"{file}: {text}"
    last = traceback.extract_tb(error.__traceback__)[-1]
    return brief(
        f"{file}: unexpected {type(error).__name__}: {error} ({Path(last.filename).name}:"
        f"{last.lineno}; this is a bug: please report it with the file)"
    )


# --- tiles ------------------------------------------------------------------------------------


def do_tile(survey: Survey, job: TileJob) -> TileOutcome:
    """Do a tile, unless it is done.

    Raises
    ------
    OutputError
        The disk is full.
    WeightsError
        That concerns the whole survey.
    """
    name = survey.sky.name(job.tile)
    path = tile_path(survey.out, survey.sky, job.tile)
    if path.exists():
        return tile_outcome(path)
    failed = failure_path(survey.out, "tiles", name)
    if failed.exists():
        return TileOutcome(name, problem=json.loads(failed.read_text("utf-8"))["message"])
    began, used = time.perf_counter(), time.process_time()
    try:
        return _done(survey, job, path, began, used)
    except (OutputError, WeightsError):
        raise
    except Exception as error:  # one tile must never cost the others
        message = _reason(error, "")
        write_failure(survey.out, "tiles", name, message)
        return TileOutcome(name, problem=message)


def _done(survey: Survey, job: TileJob, path: Path, began: float, used: float) -> TileOutcome:
    cells, lacking = [], []
    for cell in job.cells:
        do_cell(survey, cell)
        place = cell_path(survey.out, cell)
        if place.exists():
            cells.append(read_cell(place, cell))
        else:
            lacking.append(cell.name)
    found, of_cell, row = _joined(cells, kind_of(survey.kind).epochs)
    resolved = tile_objects(found, job.tile, survey.sky, survey.match, survey.halo)
    parts = [
        OwnedObjects(one, row[resolved.kept & (of_cell == k)])
        for k, one in enumerate(cells)
        if (resolved.kept & (of_cell == k)).any()
    ]
    rows = kind_of(survey.kind).measure(survey, parts, survey.sky.name(job.tile))
    table = _with_place(rows, cells, found, of_cell, row, resolved, survey.sky.name(job.tile))
    counts = _counts(table)
    outcome = TileOutcome(
        survey.sky.name(job.tile),
        int(resolved.owned.sum()),
        table.num_rows,
        *counts,
        round(time.perf_counter() - began, 3),
        round(time.process_time() - used, 3),
        round(memory_held(), 1),
        True,
    )
    about = asdict(outcome) | {
        "tile": job.tile,
        "cells": [one.cell.name for one in cells],
        "lacking": lacking,
        "settings": dict(survey.identity),
    }
    about.pop("new")
    table = table.replace_schema_metadata({ABOUT: json.dumps(about).encode()})
    with atomic_file(path, replace=False) as file:
        pq.write_table(table, file, compression="zstd")
    return outcome


def tile_outcome(path: Path) -> TileOutcome:
    """Record of a finished tile.

    Raises
    ------
    OutputError
        The file is damaged.
    """
    about = tile_record(path)
    names = TileOutcome.__dataclass_fields__
    return TileOutcome(**{key: about[key] for key in names if key in about})


def tile_record(path: Path) -> dict[str, Any]:
    """The record of a finished tile: its outcome, its cells, the settings.

    Raises
    ------
    OutputError
        The file is damaged.
    """
    try:
        record: dict[str, Any] = json.loads(pq.read_schema(path).metadata[ABOUT])
        return record
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
        raise OutputError(
            f"the tile cannot be read: {error}",
            "delete this file and run the same command again: it is made anew",
            path,
        ) from error


def _joined(
    cells: Sequence[CellSources], epochs: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Detections of several cells for `resolve`; the cell and the row of each.

    `epochs`: each image has objects of its own.
    """
    names = sorted(one.cell.name for one in cells)
    images = sorted({one.cell.source.id for one in cells})
    bands = sorted({one.cell.band for one in cells})
    parts = []
    for one in cells:
        part = np.zeros(len(one.rows), DETECTION)
        for name in ("ra", "dec", "arcsec", "border", "cut", "core", "number"):
            part[name] = one.rows[name]
        part["priority"] = one.cell.priority
        part["cell"] = names.index(one.cell.name)
        part["image"] = images.index(one.cell.source.id)
        part["band"] = part["image"] if epochs else bands.index(one.cell.band)
        parts.append(part)
    sizes = [len(part) for part in parts]
    return (
        np.concatenate([np.zeros(0, DETECTION), *parts]),
        np.repeat(np.arange(len(cells)), sizes),
        np.concatenate([np.zeros(0, int), *map(np.arange, sizes)]),
    )


def _with_place(
    rows: pa.Table,
    cells: Sequence[CellSources],
    found: np.ndarray,
    cell: np.ndarray,
    row: np.ndarray,
    resolved: Resolved,
    tile: str,
) -> pa.Table:
    """Rows with what the survey knows of each object, sorted by place.

    Raises
    ------
    RuntimeError
        Not one row for each object.
    """
    ids = [one.ids for one in cells]
    kept = np.flatnonzero(resolved.kept)
    place = {ids[cell[k]][row[k]]: k for k in kept}
    order = [place.get(name, -1) for name in rows.column("id").to_pylist()]
    if sorted(order) != sorted(kept):
        raise RuntimeError(f"{len(kept)} objects have {len(order)} rows")
    take = np.array(order, dtype=np.int64)
    spatial = HEALPix(SPATIAL).index(found["ra"], found["dec"])[take]
    about = (
        ("tile", pa.array([tile] * len(take), pa.string()), "", "tile that owns the object"),
        (
            "image",
            pa.array([cells[cell[k]].cell.source.id for k in take], pa.string()),
            "",
            "image that it was measured in",
        ),
        (
            "seen",
            pa.array(resolved.seen[take], pa.int32()),
            "",
            "overlapping images in which it was detected",
        ),
        ("ra_detected", pa.array(found["ra"][take]), "deg", "right ascension of the detection"),
        ("dec_detected", pa.array(found["dec"][take]), "deg", "declination of the detection"),
        (
            f"_healpix_{SPATIAL}",
            pa.array(spatial, pa.int64()),
            "",
            "HEALPix index of that place, nested",
        ),
    )
    for name, values, unit, text in about:
        column = pa.field(name, values.type, metadata={"unit": unit, "description": text})
        rows = rows.append_column(column, values)
    names = np.array(rows.column("id").to_pylist(), dtype=object)
    return rows.take(pa.array(np.lexsort((names, spatial))))


def _counts(table: pa.Table) -> tuple[int, int, int]:
    """Usable, flagged and failed rows."""
    flags = numpy_values(table.column("flags")) if table.num_rows else np.zeros(0, np.int32)
    use = table.column("use").to_pylist() if "use" in table.column_names else usable(flags)
    failed = table.column("status").to_pylist().count("failed")
    return int(np.sum(use)), int(np.sum(flagged(flags))), failed


def memory_held() -> float:
    """The most memory that this process has held, MB."""
    try:
        import resource
    except ImportError:  # Windows
        return 0.0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
