"""Estimate of a survey: area, objects, hours, memory, bytes, from a piece of its largest image."""

from __future__ import annotations

import dataclasses
import io
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from autofit_ml.catalogue import rows_to_table
from autofit_ml.errors import InputError
from autofit_ml.extras import needs
from autofit_ml.runs.frames import Others, cut_objects, read_frames
from autofit_ml.runs.prepare import Objects, prepare_objects
from autofit_ml.settings import FitSettings
from autofit_ml.survey.cells import detect_cell
from autofit_ml.survey.images import Cell
from autofit_ml.survey.plan import Plan, PlannedImage
from autofit_ml.survey.tiles import memory_held
from autofit_ml.weights.choice import usable_device

if TYPE_CHECKING:
    from mocpy import MOC

__all__ = ["Estimate", "coverage", "estimate", "write_coverage"]

_PIECE = 768
"""Side of the piece that is tried, pixels."""

_OBJECTS = 24
"""Objects that are fitted in it."""

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


def estimate(plan: Plan, kind: str, settings: FitSettings, *, tried: bool = True) -> Estimate:
    """Say what a survey would take.

    Parameters
    ----------
    plan : Plan
    kind : str
        Of survey.
    settings : FitSettings
    tried : bool
        Detect and fit in a piece of the largest image, to find out how long it takes.
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
    try:
        return _tried(whole, plan, image, kind, settings.replace(mode="frame"))
    except InputError as error:
        return dataclasses.replace(whole, tried=f"{image.source.id}: {error}")


def _tried(
    whole: Estimate, plan: Plan, image: PlannedImage, kind: str, settings: FitSettings
) -> Estimate:
    device = usable_device(settings.device)
    clock = time.process_time if device == "cpu" else time.perf_counter
    began = clock()
    frames = read_frames(image.source, settings.read)
    per_image = clock() - began
    ny, nx = image.shape
    x0, y0 = max(0, (nx - _PIECE) // 2), max(0, (ny - _PIECE) // 2)
    window = x0, min(nx, x0 + _PIECE), y0, min(ny, y0 + _PIECE)
    cell = Cell(image.source, 0, window, window, image.shape)
    pixels = (window[1] - window[0]) * (window[3] - window[2])
    for _ in range(2):  # the first call loads networks and tables
        began = clock()
        found, labels = detect_cell(
            frames.frame, cell, settings.segmenter, settings.weights, device
        )
        per_pixel = (clock() - began) / pixels
    density = len(found.rows) / (pixels * (image.pixel_scale / 3600.0) ** 2)
    per_object, size = 0.0, 200.0
    if kind == "fit" and len(found.rows):
        per_object, size = _fitting(frames, cell, found, labels, plan, settings, device)
    objects = density * whole.area
    reads = len(plan.images) + sum(len(near) for one in plan.images for near in one.near) / 2
    seconds = whole.pixels * per_pixel + objects * per_object + reads * per_image
    return dataclasses.replace(
        whole,
        objects=objects,
        hours=seconds / 3600.0,
        memory=memory_held() / 1024,
        bytes=objects * size,
        per_object=per_object,
        per_megapixel=1e6 * per_pixel,
        per_image=per_image,
        tried=f"{len(found.rows)} objects in {pixels} pixels of {image.source.id}",
    )


def _fitting(
    frames: Any, cell: Cell, found: Any, labels: Any, plan: Plan, settings: FitSettings, device: str
) -> tuple[float, float]:
    """Seconds to fit an object, and bytes of its row."""
    from autofit_ml.runs.fitted import FittingTask
    from autofit_ml.runs.model import run_model
    from autofit_ml.segmentation import Detections

    clock = time.process_time if device == "cpu" else time.perf_counter
    full = np.zeros(cell.shape, np.int32)
    if labels is not None:
        x0, x1, y0, y1 = cell.window
        full[y0:y1, x0:x1] = labels
    blank = np.zeros((1, 1), np.float32)
    number = min(_OBJECTS, len(found.rows))
    some = np.unique(np.linspace(0, len(found.rows) - 1, number).astype(int))
    told = Detections(found.rows[some], full, blank, blank, found.kinds, found.method)
    task = FittingTask(plan.bands, device, None)
    seconds, size = 0.0, 0.0
    for names in (found.ids[:2], [found.ids[k] for k in some]):  # the first call loads networks
        few = dataclasses.replace(told, sources=told.sources[: len(names)])
        others: Others = {}
        began = clock()
        items = [
            (cell.source.id, item)
            for item in cut_objects(frames, cell.source, few, names, settings.read, others)
        ]
        fitted = task.fit(prepare_objects(Objects(items, others), settings), settings)
        seconds = (clock() - began) / max(1, len(names))
        table = rows_to_table(fitted.rows, run_model(settings, plan.bands).columns)
        half = table.num_rows // 2
        size = (_bytes(table) - _bytes(table.slice(0, half))) / max(1, table.num_rows - half)
    return seconds, size


def _bytes(table: pa.Table) -> int:
    """Size of a table's file."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.tell()
