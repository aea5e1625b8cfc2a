"""Stars and galaxies of the cells of images: each cell is a field, inferred as a whole.

Rows do not depend on tiles, which only own sources by where they were detected.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pyarrow as pa
from astropy.table import QTable
from astropy.wcs import WCS

from autofit_ml.errors import SettingsError
from autofit_ml.fitting.likelihoods import Likelihood
from autofit_ml.images.sky_coordinates import pixel_positions, sky_positions
from autofit_ml.images.stamp import PSF, Frame
from autofit_ml.runs.frames import FrameImages
from autofit_ml.runs.identity import identity_of, weights_text
from autofit_ml.segmentation.dispatch import check_segmenter
from autofit_ml.settings import CatalogSettings, SourceSettings
from autofit_ml.sources import NothingDetected, catalogue_frames, make_field
from autofit_ml.sources.files import arrow_table
from autofit_ml.sources.infer import make_priors
from autofit_ml.sources.rows import catalogue_rows
from autofit_ml.sources.scan import Scan, Starts
from autofit_ml.survey.cells import CellSources, nothing, placed
from autofit_ml.survey.images import Cell
from autofit_ml.survey.tile_kind import TileKind, listed_tile

__all__ = ["CATALOG"]


def identity(settings: CatalogSettings, plan: Any, progress: Any) -> dict[str, Any]:
    """Settings that decide the catalogue, checked.

    Raises
    ------
    SettingsError
        Images of several bands, and not said which are fitted together.
    """
    used = check_segmenter(settings.segmenter, settings.weights)
    bands = {image.band for image in plan.images}
    if not plan.bands and len(bands) > 1:
        raise SettingsError(
            f"the images are of the bands {', '.join(sorted(bands))}",
            "say which belong together, the reference first: --bands r,g,i",
        )
    text = weights_text(used, settings.weights)
    return identity_of(settings) | {"weights": text, "bands": ",".join(plan.bands or bands)}


def find_sources(survey: Any, images: FrameImages, cell: Cell) -> CellSources:
    """Infer the stars and galaxies of a cell.

    Raises
    ------
    InputError
        A band without a PSF.
    """
    frame, settings = images.frame, survey.settings
    cuts = [_cut(one, frame, cell) for one in (frame, *images.others)]
    there = [(one, name) for one, name in zip(cuts, _bands(survey), strict=True) if one is not None]
    frames, names = map(list, zip(*there, strict=True))
    table = no_sources(survey)
    if frames[0].mask.all():
        return placed(nothing(), frame, cell, table=table)
    try:
        found = catalogue_frames(frames, names, settings.part(SourceSettings))
    except NothingDetected:
        return placed(nothing(), frame, cell, table=table)
    told = frames[0].replace(messages=found.messages)
    assert found.detected is not None
    return placed(found.detected, frame, cell, told, _rows(found.table, survey, cell))


def _bands(survey: Any) -> tuple[str, ...]:
    return tuple(filter(None, survey.identity["bands"].split(","))) or ("1",)


def _cut(other: Frame | None, frame: Frame, cell: Cell) -> Frame | None:
    """The part of a band's image that shows a cell's window; None where it does not reach."""
    if other is None or cell.whole:
        return other
    x0, x1, y0, y1 = cell.window
    if other is not frame and other.wcs is not None:
        x, y = np.array([x0, x1 - 1, x0, x1 - 1]), np.array([y0, y0, y1 - 1, y1 - 1])
        there = np.rint(pixel_positions(other.wcs, *sky_positions(frame.wcs, x, y)))
        ny, nx = other.data.shape
        if not np.isfinite(there).all():
            return None
        x0, x1 = np.clip([there[0].min(), there[0].max() + 1], 0, nx).astype(int)
        y0, y1 = np.clip([there[1].min(), there[1].max() + 1], 0, ny).astype(int)
        if x1 <= x0 or y1 <= y0:
            return None
    return other.cropped(x0, x1, y0, y1)


def no_sources(survey: Any) -> pa.Table:
    """The columns of a catalogue."""
    return _columns(_bands(survey), survey.settings.galaxy)


@functools.cache
def _columns(bands: tuple[str, ...], galaxy: str) -> pa.Table:
    """Columns of a catalogue of nothing, in images with every band and bits in their masks."""
    shape = (8, 8)
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    frame = Frame(
        "", np.zeros(shape, np.float32), np.ones(shape, np.float32), np.zeros(shape, bool),
        PSF(np.ones((1, 1), np.float32)), wcs=wcs, pixel_scale=1.0, zeropoint=0.0,
        mask_bits=np.zeros(shape, np.int64),
    )  # fmt: skip
    field = make_field([frame] * len(bands), bands, [0.0] * len(bands))
    priors = make_priors(field, SourceSettings(galaxy=galaxy))
    middle, one = np.full(1, 4.0), np.ones(1)
    starts = Starts(middle, middle, np.ones((1, len(bands))), one, np.zeros((1, 2)), np.full(1, 16))
    posterior = Scan(field, starts, priors, Likelihood.parse("gaussian")).posterior("laplace")
    table = arrow_table(catalogue_rows(field, posterior, one, "", galaxy)).slice(0, 0)
    return table.add_column(1, "status", pa.array([], pa.string()))


def _rows(found: QTable, survey: Any, cell: Cell) -> pa.Table:
    """A cell's rows with the columns of the survey, in the image's pixels."""
    found = found.copy()
    found["x"] += cell.window[0] * found["x"].unit
    found["y"] += cell.window[2] * found["y"].unit
    found["frame"] = np.full(len(found), cell.source.id, dtype=object)
    found["status"] = np.full(len(found), "ok", dtype=object)
    known, empty = arrow_table(found), no_sources(survey)
    columns = []
    for field in empty.schema:
        at = known.schema.get_field_index(field.name)
        if at >= 0 and known.schema.field(at).type == field.type:
            columns.append(known.column(at))
        else:  # a band, or a mask, that this image has not
            absent = pa.scalar(np.nan if pa.types.is_floating(field.type) else None, field.type)
            columns.append(pa.array([absent.as_py()] * len(found), field.type))
    return pa.table(columns, empty.schema)


CATALOG = TileKind(identity, find_sources, functools.partial(listed_tile, no_sources), piece=256)
