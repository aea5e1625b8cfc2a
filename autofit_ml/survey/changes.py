"""Changes in the cells of images, against the references that cover them.

A cell is subtracted from each of its references; where an earlier one reaches, a later one has
nothing to say. What is found in two images, which are of two epochs, is never one object.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from astropy.table import QTable, vstack
from scipy import ndimage

from autofit_ml.difference import subtract_frames
from autofit_ml.difference.epochs import observed
from autofit_ml.errors import InputError
from autofit_ml.images import Source
from autofit_ml.images.stamp import Frame
from autofit_ml.measure import psf_fwhm
from autofit_ml.runs.frames import FrameImages
from autofit_ml.runs.identity import identity_of
from autofit_ml.segmentation import Detections
from autofit_ml.settings import DiffSettings, SubtractSettings
from autofit_ml.sources.files import arrow_table
from autofit_ml.survey.cells import CellSources, nothing, placed
from autofit_ml.survey.images import Cell, grid, inside
from autofit_ml.survey.tile_kind import TileKind, listed_tile

__all__ = ["DIFF"]

_SEAM = 3
"""Pixels at the rim of a difference in which a later one is asked, too, and within which two
changes are one."""

_COLUMNS: Mapping[str, tuple[str, str]] = {
    "x": ("pix", "position, from 0"),
    "y": ("pix", "position, from 0"),
    "ra": ("deg", "right ascension"),
    "dec": ("deg", "declination"),
    "flux": ("", "of a point source, science minus reference"),
    "flux_err": ("", "1-sigma error"),
    "snr": ("", "S/N of the flux"),
    "score": ("", "S/N of the detection"),
    "chi2": ("", "reduced, of the PSF on the whitened difference"),
    "dipole": ("", "light of the other sign over that of the source's"),
    "width": ("", "second moment over the PSF's"),
    "masked": ("", "share of the PSF's footprint"),
    "reference_share": ("", "flux over the reference's light there"),
    "mjd": ("d", "of the image, by its header"),
}


def identity(settings: DiffSettings, plan: Any, progress: Any) -> dict[str, Any]:
    """Settings that decide the changes."""
    return identity_of(settings)


def find_changes(survey: Any, images: FrameImages, cell: Cell) -> CellSources:
    """Find what has changed in a cell.

    Raises
    ------
    InputError
        It cannot be subtracted from any of its references.
    """
    frame, settings = images.frame, survey.settings
    science = frame if cell.whole else frame.cropped(*cell.window)
    covered = np.zeros(science.data.shape, bool)
    tables: list[QTable] = [_no_rows()]
    problems: list[InputError] = []
    for reference in images.others:
        there = grid(frame.wcs, cell.window)
        if reference is None or not inside(reference.wcs, reference.data.shape, *there).any():
            continue
        try:
            one = subtract_frames(science, reference, settings.part(SubtractSettings))
            table = one.changes(settings.threshold)
        except InputError as error:
            problems.append(error)
            continue
        table["reference"] = np.full(len(table), reference.id, dtype=object)
        tables.append(table[_new(table, tables, covered)])
        covered |= ndimage.binary_erosion(~one.mask, iterations=_SEAM)
    if problems and len(tables) == 1:
        raise problems[0]
    found = vstack(tables)
    found["x"], found["y"] = found["x"], found["y"]
    found["mjd"] = np.full(len(found), observed(cell.source))
    told = science.replace(messages=(*science.messages, *map(str, problems)))
    return placed(_detections(found, science), frame, cell, told, _table(found, cell))


def _new(table: QTable, before: Sequence[QTable], covered: np.ndarray) -> np.ndarray:
    """Changes at places that no earlier reference has judged."""
    row, column = (np.rint(np.asarray(table[name])).astype(int) for name in "yx")
    new = ~covered[row, column]
    for other in before:
        apart = np.hypot(
            *(np.subtract.outer(table[name], np.asarray(other[name])) for name in "xy")
        )
        new &= ~(apart < _SEAM).any(1)
    return new


def _detections(table: QTable, frame: Frame) -> Detections:
    """Changes as detections: circles of the seeing."""
    seeing = 3.0 if frame.psf is None else psf_fwhm(frame.psf)
    known = {"a": seeing / 2.3548, "b": seeing / 2.3548, "theta": 0.0, "radius": seeing}
    empty = nothing()
    rows = np.zeros(len(table), empty.sources.dtype)
    assert rows.dtype.names is not None
    rows["label"] = np.arange(1, len(table) + 1)
    for name in rows.dtype.names[1:]:
        rows[name] = known[name] if name in known else table[name]
    return Detections(rows, empty.labels, empty.background, {}, "difference")


def _no_rows() -> QTable:
    table = QTable({name: np.zeros(0) for name in _COLUMNS})
    table["real"], table["reference"] = np.zeros(0, bool), np.zeros(0, object)
    return table


def _table(found: QTable, cell: Cell) -> pa.Table:
    """Changes as the rows of tiles, in the image's pixels."""
    table = QTable({"id": np.full(len(found), "", object), "status": np.full(len(found), "ok")})
    table["flags"] = np.zeros(len(found), np.int32)
    table["use"], table["reference"] = found["real"], found["reference"]
    for name, (unit, text) in _COLUMNS.items():
        shift = {"x": cell.window[0], "y": cell.window[2]}.get(name, 0.0)
        table[name] = np.asarray(found[name], float) + shift
        table[name].info.description = text
        table[name].info.unit = unit or None
    return arrow_table(table)


def no_changes(survey: Any) -> pa.Table:
    """The columns of changes."""
    return _table(_no_rows(), Cell(Source(""), 0, (0, 0, 0, 0), (0, 0, 0, 0), (0, 0)))


DIFF = TileKind(identity, find_changes, functools.partial(listed_tile, no_changes), epochs=True)
