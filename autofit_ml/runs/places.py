"""Empty places in a user's own images, for galaxies to be injected."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from autofit_ml.errors import AutofitError
from autofit_ml.images import Source, read_item
from autofit_ml.images.stamp import Frame, Stamp
from autofit_ml.injection.stamps import PARAMETERS, emptied, empty_regions, light_of
from autofit_ml.measure import psf_fwhm
from autofit_ml.runs.summary import Progress
from autofit_ml.segmentation import Segmentation
from autofit_ml.segmentation.dispatch import detect_in_frame, segment_all
from autofit_ml.settings import FitSettings, ReadOptions

__all__ = ["empty_places"]

_TOGETHER = 32
_PER_FRAME = 64


def empty_places(
    sources: Sequence[Source],
    settings: FitSettings,
    number: int,
    rng: np.random.Generator,
    rows: Mapping[str, Mapping[str, Any]],
    told: Progress,
    *,
    keep_mask: bool = False,
) -> tuple[list[Stamp], int]:
    """Empty stamps, and the number of images that had none; not many more than are needed.

    Parameters
    ----------
    sources : sequence of Source
    settings : FitSettings
        Of a run of these images: how they are read and segmented.
    number : int
        Of stamps that are wanted.
    rng : Generator
    rows : mapping
        Id -> row of that run's catalogue: the light of its galaxies is subtracted.
    told : Progress
    keep_mask : bool
        Keep the masks of stamps.
    """
    found: list[Stamp] = []
    skipped = 0
    order = [sources[k] for k in rng.permutation(len(sources))]
    for first in range(0, len(order), _TOGETHER):
        if len(found) >= number:
            break
        if first:
            told.stage(f"looking for empty sky: {len(found)} places in {first} images")
        stamps: list[Stamp] = []
        for item in _read(order[first : first + _TOGETHER], settings.read):
            if isinstance(item, Stamp):
                stamps.append(item)
                continue
            regions = _of_frame(item, settings, rng)
            found += regions
            skipped += not regions
        for stamp, segmentation in segment_all(
            stamps, settings.segmenter, settings.weights, settings.device
        ):
            empty = None
            if isinstance(segmentation, Segmentation):
                light = _light(stamp, rows.get(stamp.id))
                empty = emptied(stamp, segmentation, rng, light, keep_mask=keep_mask)
            if empty is None:
                skipped += 1
            else:
                found.append(empty)
    return found, skipped


def _read(sources: Sequence[Source], options: ReadOptions) -> Iterator[Stamp | Frame]:
    for source in sources:
        try:
            yield read_item(source, options)
        except AutofitError:
            continue  # its row of the run says why


def _light(stamp: Stamp, row: Mapping[str, Any] | None) -> np.ndarray | float:
    """Light of the galaxy that the run fitted; 0 without a usable row."""
    if row is None or not row["use"]:
        return 0.0
    galaxy = {name: float(row[name]) for name in PARAMETERS}
    galaxy["x"] -= stamp.origin[0]
    galaxy["y"] -= stamp.origin[1]
    return light_of(galaxy, stamp)


def _of_frame(frame: Frame, settings: FitSettings, rng: np.random.Generator) -> list[Stamp]:
    seeing = 3.0 if frame.psf is None else psf_fwhm(frame.psf)
    frame, detections = detect_in_frame(
        frame, seeing, settings.segmenter, settings.weights, settings.device
    )
    radius = float(np.median(detections.sources["radius"])) if len(detections.sources) else 10.0
    return empty_regions(frame, detections.labels, _PER_FRAME, radius, rng, settings.read)
