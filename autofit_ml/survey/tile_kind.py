"""Kind of survey: what is found in a cell, and what is measured of a tile's objects."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from autofit_ml.runs.frames import FrameImages
from autofit_ml.runs.summary import Progress
from autofit_ml.survey.cells import CellSources, cell_path, read_cell
from autofit_ml.survey.context import OwnedObjects, Survey
from autofit_ml.survey.images import Cell
from autofit_ml.survey.plan import Plan

__all__ = ["TileKind", "listed_tile"]


@dataclass(frozen=True)
class TileKind:
    """Kind of survey.

    Attributes
    ----------
    identity : callable
        ``identity(settings, plan, progress)``: what decides the results, checked.
    find : callable
        ``find(survey, images, cell)``: what there is in a cell.
    measure : callable
        ``measure(survey, parts, tile)``: rows of a tile's objects.
    epochs : bool
        What is found in two images is two objects, however near.
    reads : bool
        Its tiles read the images again.
    piece : int
        Side of what is tried for an estimate, pixels.
    """

    identity: Callable[[Any, Plan, Progress], dict[str, Any]]
    find: Callable[[Survey, FrameImages, Cell], CellSources]
    measure: Callable[[Survey, Sequence[OwnedObjects], str], pa.Table]
    epochs: bool = False
    reads: bool = False
    piece: int = 768


def listed_tile(
    columns: Callable[[Survey], pa.Table], survey: Survey, parts: Sequence[OwnedObjects], tile: str
) -> pa.Table:
    """List the objects of a tile with what their cells say of them; `columns`: of no object."""
    tables = [columns(survey)]
    for part in parts:
        cell = part.sources.cell
        known = read_cell(cell_path(survey.out, cell), cell, whole=True).table
        assert known is not None
        some = known.take(pa.array(part.chosen))
        tables.append(some.set_column(0, tables[0].schema.field(0), pa.array(part.ids)))
    return pa.concat_tables(tables)
