"""Estimate of a survey: area, objects, hours, memory, bytes, from a piece of its largest image."""

from __future__ import annotations

import dataclasses
import io
import math
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from autofit_ml.errors import InputError
from autofit_ml.extras import needs
from autofit_ml.runs.summary import Progress
from autofit_ml.survey.cells import cell_path, write_cell
from autofit_ml.survey.context import Measuring, OwnedObjects, Survey, frame_of
from autofit_ml.survey.images import Cell
from autofit_ml.survey.kinds import kind_of
from autofit_ml.survey.plan import Plan, PlannedImage
from autofit_ml.survey.tiles import memory_held
from autofit_ml.weights.choice import usable_device

if TYPE_CHECKING:
    from mocpy import MOC

__all__ = ["Estimate", "coverage", "estimate", "write_coverage"]

_OBJECTS = 24
"""Objects that are measured in a piece."""

_LONG = 10.0
"""Seconds after which a piece is not tried again."""

_ACROSS = 64
"""Pixels of the coverage along an image's side."""


@dataclass(frozen=True)
class Estimate:
    """Estimate of a survey.

    Attributes
    ----------
    tiles, images, cells : int
    area : float
        Covered sky, square degrees.
    pixels : float
    objects : float
        NaN where nothing could be tried.
    hours : float
        Processor hours: reading, detection, fits.
    memory : float
        Of a process, GB.
    bytes : float
        Of the catalogue.
    per_object, per_megapixel, per_image : float
        Seconds to fit an object, to detect in a million pixels, to read an image.
    tried : str
        What was tried, or why not.
    """

    tiles: int
    images: int
    cells: int
    area: float
    pixels: float
    objects: float = math.nan
    hours: float = math.nan
    memory: float = math.nan
    bytes: float = math.nan
    per_object: float = math.nan
    per_megapixel: float = math.nan
    per_image: float = math.nan
    tried: str = ""

    @property
    def minutes_per_tile(self) -> float:
        """Processor minutes of a tile, on average."""
        return 60 * self.hours / self.tiles


def coverage(plan: Plan) -> MOC:
    """Sky that the images cover."""
    with needs("survey", "the area of a survey"):
        from mocpy import MOC
    corners = np.array([image.corners for image in plan.images])
    sides = [max(image.shape) * image.pixel_scale / 3600.0 for image in plan.images]
    depth = math.ceil(math.log2(58.6 * _ACROSS / float(np.median(sides))))
    places = [one for image in corners for one in (image[0::2], image[1::2])]
    parts = MOC.from_polygons(places, max_depth=min(max(depth, 4), 29), n_threads=1)
    whole: MOC = parts[0].union(*parts[1:]) if len(parts) > 1 else parts[0]
    return whole


def write_coverage(plan: Plan, path: Path) -> None:
    """Write what the images cover as a MOC in FITS, which Aladin opens."""
    coverage(plan).save(str(path), format="fits", overwrite=True)


def estimate(plan: Plan, kind: str, settings: Measuring, *, tried: bool = True) -> Estimate:
    """Say what a survey would take.

    Parameters
    ----------
    plan : Plan
    kind : str
        Of survey.
    settings : FitSettings, CatalogSettings or DiffSettings
    tried : bool
        Do a piece of the largest image, to find out how long it takes.
    """
    whole = Estimate(
        len(plan.tiles),
        len(plan.images),
        plan.cells,
        coverage(plan).sky_fraction * 41252.96,
        plan.pixels,
    )
    if not tried:
        return whole
    image = max(plan.images, key=lambda one: math.prod(one.shape))
    settings = settings.replace(mode="frame")
    identity = kind_of(kind).identity(settings, plan, Progress())
    device = usable_device(getattr(settings, "device", "cpu"))
    with tempfile.TemporaryDirectory() as out:
        survey = Survey(
            Path(out), kind, settings, plan.tiling, 3600 * plan.halo, 1.0, device, plan.bands,
            identity,
        )  # fmt: skip
        try:
            return _tried(whole, plan, image, survey)
        except InputError as error:
            return dataclasses.replace(whole, tried=f"{image.source.id}: {error}")


def _tried(whole: Estimate, plan: Plan, image: PlannedImage, survey: Survey) -> Estimate:
    """Do a piece of an image with the survey's own tasks."""
    kind = kind_of(survey.kind)
    clock = time.process_time if survey.device == "cpu" else time.perf_counter
    ny, nx = image.shape
    x0, y0 = max(0, (nx - kind.piece) // 2), max(0, (ny - kind.piece) // 2)
    window = x0, min(nx, x0 + kind.piece), y0, min(ny, y0 + kind.piece)
    cell = Cell(image.joined, 0, window, window, image.shape)
    pixels = (window[1] - window[0]) * (window[3] - window[2])
    began = clock()
    images = frame_of(survey, cell)
    per_image = clock() - began
    for _ in range(2):  # the first call loads networks and tables
        began = clock()
        found = kind.find(survey, images, cell)
        per_pixel = (clock() - began) / pixels
        if per_pixel * pixels > _LONG:
            break
    write_cell(cell_path(survey.out, cell), found)
    density = len(found.rows) / (pixels * (image.pixel_scale / 3600.0) ** 2)
    some = np.linspace(0, len(found.rows) - 1, min(_OBJECTS, len(found.rows))).astype(int)
    per_object, size, empty = 0.0, 200.0, 0
    for rows in (some[:2], some) if len(some) else ():
        began = clock()
        table = kind.measure(survey, [OwnedObjects(found, rows)], "tried")
        per_object = (clock() - began) / len(rows)
        half, empty = table.num_rows // 2, _bytes(table.slice(0, 0))
        size = (_bytes(table) - _bytes(table.slice(0, half))) / max(1, table.num_rows - half)
    objects = density * whole.area
    windows = [one.window for each in plan.images for one in plan.cells_of(each)]
    looked_at = sum((b - a) * (d - c) for a, b, c, d in windows)
    reads = (
        len(plan.images)
        + kind.reads * sum(len(near) for one in plan.images for near in one.near) / 2
    )
    seconds = looked_at * per_pixel + objects * per_object + reads * per_image
    return dataclasses.replace(
        whole,
        objects=objects,
        hours=seconds / 3600.0,
        memory=memory_held() / 1024,
        bytes=objects * size + whole.tiles * empty,
        per_object=per_object,
        per_megapixel=1e6 * per_pixel,
        per_image=per_image,
        tried=f"{len(found.rows)} objects in {pixels} pixels of {image.source.id}",
    )


def _bytes(table: pa.Table) -> int:
    """Size of a table's file."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.tell()
