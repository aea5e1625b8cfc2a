"""Settings that the tasks of a survey share, and the frames that a process keeps."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from autofit_ml.runs.frames import FrameImages, read_frames
from autofit_ml.settings import CatalogSettings, DiffSettings, FitSettings
from autofit_ml.survey.cells import CellSources
from autofit_ml.survey.images import Cell
from autofit_ml.survey.sky import Tiling

__all__ = ["Measuring", "OwnedObjects", "Survey", "frame_of"]

Measuring = FitSettings | CatalogSettings | DiffSettings
"""Settings of what is done in a survey."""

_kept = threading.local()
"""The frame that a thread read last: tiles of one image follow each other."""


@dataclass(frozen=True)
class Survey:
    """Everything that the tasks of a survey share.

    Attributes
    ----------
    out : Path
        Its folder.
    kind : str
        Of `autofit_ml.survey.kinds.kind_of`.
    settings : Measuring
    sky : Tiling
    halo, match : float
        Arcsec; see `autofit_ml.survey.resolve`.
    device : str
    bands : tuple of str
    identity : dict
        What decides the results.
    """

    out: Path
    kind: str
    settings: Any
    sky: Tiling
    halo: float
    match: float
    device: str = "cpu"
    bands: tuple[str, ...] = ()
    identity: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class OwnedObjects:
    """Objects of a tile that were detected in one cell.

    Attributes
    ----------
    sources : CellSources
        All of the cell.
    chosen : ndarray of int
        Rows that are the tile's.
    """

    sources: CellSources
    chosen: np.ndarray

    @property
    def ids(self) -> list[str]:
        """Ids of the chosen."""
        every = self.sources.ids
        return [every[k] for k in self.chosen]


def frame_of(survey: Survey, cell: Cell) -> FrameImages:
    """The cell's image, in every band; the last one is kept."""
    planes = cell.source.every_plane
    times = []
    for path, _ in planes.values():
        with contextlib.suppress(OSError):
            times.append(os.stat(path).st_mtime_ns)
    key = (cell.source.id, repr(planes), tuple(times), repr(survey.settings))
    if getattr(_kept, "key", None) != key:
        _kept.key = _kept.frame = None
        _kept.frame = read_frames(cell.source, survey.settings.read)
        _kept.key = key
    frame: FrameImages = _kept.frame
    return frame
