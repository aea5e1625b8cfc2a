"""Detections in the cells of images, once and for all: positions are frozen by the first file.

Of several processes that look at one cell (a worker that was thought dead, a second scheduler)
the first to finish names the file, and all go on with what is in it: numbers, positions and owners
of objects cannot differ between two tiles, even where the machines round differently.

``cells/<image>/<number>.npz`` has ``sources`` (one row a detection, in pixels of the image and on
the sky) and ``about`` (JSON); where more is known of a detection than its place, ``table``
(Parquet), else, where a network drew the outlines, ``labels`` of the window: one file, so that all
of it is of one process.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from autofit_ml.catalogue.atomic import atomic_file
from autofit_ml.catalogue.filenames import file_stem
from autofit_ml.errors import InputError, OutputError
from autofit_ml.images.sky_coordinates import sky_positions
from autofit_ml.images.stamp import Frame
from autofit_ml.segmentation import Detections
from autofit_ml.survey.images import Cell

__all__ = ["CellSources", "cell_path", "nothing", "placed", "read_cell", "write_cell"]

_MARGIN = 8
"""Pixels beyond a cell's core in which it still lists detections: of two cells that place an object
on either side of their seam, one has it in any case, and `resolve` keeps it once."""

_EDGE = 2
"""Pixels: an isophote that comes so near to the border is cut off by it."""

_COLUMNS = (
    *("label", "x", "y", "a", "b", "theta", "flux", "radius", "snr"),
    *("number", "ra", "dec", "arcsec", "border", "cut", "core"),
)


@dataclass(frozen=True)
class CellSources:
    """Detections of a cell.

    Attributes
    ----------
    cell : Cell
    rows : structured array, shape (n,)
        As of `Detections.sources`, in pixels of the image, and ``number`` (from 1 in the order of
        position), ``ra``, ``dec`` (degrees), ``arcsec`` (radius of the isophote), ``border``
        (distance from the image's border, arcsec; negative beyond it), ``cut`` (the border cuts
        the isophote) and ``core`` (within the cell's own part).
    kinds : dict
        Label -> "galaxy" or "star".
    method : str
    flags : int
        What detection adds to the flags of the image.
    messages : tuple of str
    hashes : dict
        File of the image -> sha256.
    labels : ndarray, int32, or None
        Of the cell's window, where they are kept.
    table : pyarrow.Table or None
        What else is known of each detection, row by row.
    """

    cell: Cell
    rows: np.ndarray
    kinds: dict[int, str]
    method: str
    flags: int
    messages: tuple[str, ...]
    hashes: Mapping[str, str] = field(default_factory=dict)
    labels: np.ndarray | None = None
    table: pa.Table | None = None

    @property
    def ids(self) -> list[str]:
        """Ids of the objects: ``<image>@<number>``, in a cell of several ``<image>@<cell>-<n>``."""
        cell = self.cell
        inner = "" if cell.whole else f"{cell.number}-"
        return [f"{cell.source.id}@{inner}{int(number):05d}" for number in self.rows["number"]]


def cell_path(out: Path, cell: Cell) -> Path:
    """File of a cell's detections."""
    return out / "cells" / file_stem(cell.source.id) / f"{cell.number}.npz"


def placed(
    found: Detections,
    frame: Frame,
    cell: Cell,
    told: Frame | None = None,
    table: pa.Table | None = None,
) -> CellSources:
    """Detections of a cell, with their places on the sky.

    Parameters
    ----------
    found : Detections
        In pixels of the cell's window.
    frame : Frame
        The whole image.
    cell : Cell
    told : Frame, optional
        With what detection has to say, beside `frame`.
    table : pyarrow.Table, optional
        What else is known of each detection, row by row.

    Raises
    ------
    InputError
        The image has no WCS.
    """
    told = told or frame
    rows, kept = _rows(found.sources, frame, cell)
    names, drawn = {int(label) for label in rows["label"]}, found.method == "maskrcnn"
    return CellSources(
        cell,
        rows,
        {label: kind for label, kind in found.classes.items() if label in names},
        found.method,
        int(told.flags & ~frame.flags),
        tuple(text for text in told.messages if text not in frame.messages),
        labels=found.labels.astype(np.int32) if table is None and drawn else None,
        table=None if table is None else table.filter(pa.array(kept)),
    )


def nothing() -> Detections:
    """No detections."""
    empty = np.zeros(0, [("label", int)] + [(name, float) for name in _COLUMNS[1:9]])
    return Detections(empty, np.zeros((1, 1), np.int32), np.zeros((1, 1), np.float32))


def _rows(found: np.ndarray, frame: Frame, cell: Cell) -> tuple[np.ndarray, np.ndarray]:
    """Detections in and near a cell's core, in the image's pixels; which ones these are."""
    if frame.wcs is None:
        raise InputError("the image has no WCS", "add one", frame.file)
    x, y = found["x"] + cell.window[0], found["y"] + cell.window[2]
    ra, dec = sky_positions(frame.wcs, np.asarray(x, float), np.asarray(y, float))
    ny, nx = cell.shape
    border = np.minimum(np.minimum(x, nx - 1 - x), np.minimum(y, ny - 1 - y)) + 0.5
    number = np.arange(1, len(found) + 1)
    x0, x1, y0, y1 = cell.core

    def within(margin: float) -> np.ndarray:
        """True where a position lies in the core, half-open, or so many pixels around it."""
        low = (x >= x0 - 0.5 - margin) & (y >= y0 - 0.5 - margin)
        inner = low & (x < x1 - 0.5 + margin) & (y < y1 - 0.5 + margin)
        return inner | (margin == 0 and cell.whole)

    columns = {name: np.asarray(found[name]) for name in ("a", "b", "theta", "flux", "snr")} | {
        "label": found["label"], "x": x, "y": y, "radius": found["radius"], "number": number,
        "ra": ra, "dec": dec, "arcsec": found["radius"] * frame.pixel_scale,
        "border": border * frame.pixel_scale, "cut": border <= _reach(found) + _EDGE,
        "core": within(0.0),
    }  # fmt: skip
    kept = (within(_MARGIN) | cell.whole) & np.isfinite(ra) & np.isfinite(dec)
    kinds = {"label": "i4", "number": "i4", "cut": "?", "core": "?"}
    rows = np.zeros(int(kept.sum()), [(name, kinds.get(name, "f8")) for name in _COLUMNS])
    for name in _COLUMNS:
        rows[name] = columns[name][kept]
    return rows, kept


def _reach(found: np.ndarray) -> np.ndarray:
    """Semi-major axis of an isophote, pixels: an ellipse with its area and axis ratio."""
    a, b = np.maximum(found["a"], 1e-3), np.maximum(found["b"], 1e-3)
    return np.minimum(found["radius"] * np.sqrt(a / b), 3 * found["radius"])


# --- files ------------------------------------------------------------------------------------


def write_cell(path: Path, sources: CellSources) -> None:
    """Write a cell's detections, unless another process has done so.

    Raises
    ------
    OutputError
        The file cannot be written.
    """
    about = {
        "cell": sources.cell.name,
        "method": sources.method,
        "flags": sources.flags,
        "messages": list(sources.messages),
        "kinds": {str(label): kind for label, kind in sources.kinds.items()},
        "hashes": dict(sources.hashes),
    }
    planes = {"about": np.frombuffer(json.dumps(about).encode(), dtype=np.uint8)}
    if sources.labels is not None:
        planes["labels"] = sources.labels
    if sources.table is not None:
        text = io.BytesIO()
        pq.write_table(sources.table, text)
        planes["table"] = np.frombuffer(text.getvalue(), dtype=np.uint8)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, sources=sources.rows, **planes)
    with atomic_file(path, replace=False) as file:
        file.write(buffer.getvalue())


def read_cell(path: Path, cell: Cell, *, whole: bool = False) -> CellSources:
    """Read a cell's detections; `whole`: with labels and table.

    Raises
    ------
    OutputError
        The file is damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            rows = file["sources"]
            about = json.loads(file["about"].tobytes())
            labels = file["labels"] if whole and "labels" in file else None
            table = None
            if whole and "table" in file:
                table = pq.read_table(io.BytesIO(file["table"].tobytes()))
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise OutputError(
            f"the detections cannot be read: {error}",
            "delete this file and run the same command again: they are made anew",
            path,
        ) from error
    kinds = {int(label): str(kind) for label, kind in _texts(about["kinds"]).items()}
    return CellSources(
        cell,
        rows,
        kinds,
        str(about["method"]),
        int(about["flags"]),
        tuple(about["messages"]),
        _texts(about["hashes"]),
        labels,
        table,
    )


def _texts(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
