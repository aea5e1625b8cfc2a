"""`segment_run`: labels and instances of images, without a fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.table import QTable
from astropy.wcs import WCS

from autofit_ml.catalogue import (
    atomic_write_bytes,
    atomic_write_ecsv,
    atomic_write_fits,
    file_stem,
)
from autofit_ml.errors import InputError
from autofit_ml.images import Frame, ReadResult, Source, Stamp, read_source
from autofit_ml.measure import psf_fwhm
from autofit_ml.report import segmentation_png
from autofit_ml.runs.folder import RunFolder
from autofit_ml.runs.identity import identity_of, weights_text
from autofit_ml.runs.kinds import SEGMENTED
from autofit_ml.runs.results import Result, each, run_each
from autofit_ml.runs.sources import inputs_of
from autofit_ml.runs.summary import Progress, RunSummary
from autofit_ml.segmentation import Detections, Segmentation
from autofit_ml.segmentation.detection import instance_table
from autofit_ml.segmentation.dispatch import check_segmenter, detect_in_frame, segment_all
from autofit_ml.settings import Paths, SegmentSettings, Selected

__all__ = ["segment_run"]


def segment_run(
    paths: Paths,
    out: str | Path,
    settings: SegmentSettings | None = None,
    *,
    manifest: str | Path | None = None,
    restart: bool = False,
    only: Selected | None = None,
    progress: Progress | None = None,
) -> RunSummary:
    """Segment images and write what was found.

    Parameters
    ----------
    paths : path or iterable of paths, or None
        Files, folders, globs; None with a manifest.
    out : path
        Folder for ``<id>_seg.fits`` (labels, with the card TARGET for stamps and CLASSn for each
        label of known class), ``<id>_seg.png`` and ``instances.ecsv``. Labels beside their images
        are what `fit` reads. A run that stopped there is continued.
    settings : SegmentSettings, optional
    manifest : path, optional
        Table of objects.
    restart : bool
        Begin anew in a folder that holds results.
    only : Selected, optional
        Which of the images.
    progress : Progress, optional

    Returns
    -------
    RunSummary
        With ``n_instances`` and ``failures``.

    Raises
    ------
    SettingsError, WeightsError
        Nothing to segment, or weights that cannot be used; `ResumeError` for a folder that belongs
        to another run.
    """
    settings = settings or SegmentSettings()
    found = inputs_of(paths, manifest, survey=settings.survey, mode=settings.mode)
    used = check_segmenter(settings.segmenter, settings.weights)
    identity = identity_of(settings) | {"weights": weights_text(used, settings.weights)}
    # Labels beside the images, the run's own among them, are no input.
    return run_each(
        found, SEGMENTED, each(_segmented), settings, identity, out,
        save=partial(_write, settings.pictures), finish=_finish,
        restart=restart, only=only, progress=progress, leave_out=("seg",),
    )  # fmt: skip


@dataclass(frozen=True)
class _Segmented:
    item: Stamp | Frame
    found: Segmentation | Detections
    level: np.ndarray | float
    target: int | None = None


def _segmented(sources: Sequence[Source], settings: SegmentSettings) -> list[Result[_Segmented]]:
    """Frames one by one, stamps together."""
    stamps: list[tuple[Source, ReadResult]] = []
    out: dict[str, Result[_Segmented]] = {}
    chosen = (settings.segmenter, settings.weights, settings.device)
    for source in sources:
        try:
            read = read_source(source, settings.read)
            if isinstance(read.item, Stamp):
                stamps.append((source, read))
                continue
            seeing = 3.0 if read.frame.psf is None else psf_fwhm(read.frame.psf)
            frame, found = detect_in_frame(read.frame, seeing, *chosen)
        except InputError as error:
            out[source.id] = Result.failed(source, str(error))
            continue
        value = _Segmented(frame, found, found.background)
        out[source.id] = Result(source.id, value, "", read.hashes)
    done = segment_all([read.stamp for _, read in stamps], *chosen)
    for (source, read), (stamp, result) in zip(stamps, done, strict=True):
        if isinstance(result, Exception):
            out[source.id] = Result.failed(source, str(result))
            continue
        value = _Segmented(stamp, result, result.sky_level, result.target)
        out[source.id] = Result(source.id, value, "", read.hashes)
    return [out[source.id] for source in sources]


def _write(
    pictures: bool, folder: RunFolder | None, result: Result[_Segmented], value: _Segmented
) -> QTable:
    assert folder is not None
    item, found, stem = value.item, value.found, folder.path / file_stem(result.id)
    hdu = _labels_hdu(found.labels, found.classes, value.target, found.method, item.wcs)
    atomic_write_fits(f"{stem}_seg.fits", [hdu])
    data = item.data - value.level
    if pictures:
        picture = segmentation_png(
            data, item.sigma, item.mask, found.labels, value.target or 0, classes=found.classes
        )
        atomic_write_bytes(f"{stem}_seg.png", picture)
    table = instance_table(
        np.where(item.mask, 0, data), item.sigma, found.labels, found.classes, value.target
    )
    table.add_column(np.full(len(table), result.id), name="id", index=0)
    return table


def _finish(folder: RunFolder | None, table: QTable | None, summary: RunSummary) -> None:
    if folder is not None and table is not None:
        atomic_write_ecsv(folder.path / "instances.ecsv", table)


def _labels_hdu(
    labels: np.ndarray, classes: Mapping[int, str], target: int | None, method: str, wcs: WCS | None
) -> fits.PrimaryHDU:
    hdu = fits.PrimaryHDU(labels.astype(np.int32))
    hdu.header["SEGMENTR"] = (method, "how the instances were found")
    if target is not None:
        hdu.header["TARGET"] = (int(target), "label of the target, 0 = not detected")
    for label, kind in sorted(classes.items()):
        if label < 1000:  # a keyword has 8 letters; instances.ecsv has them all
            hdu.header[f"CLASS{label}"] = (kind, f"of label {label}")
    if wcs is not None:
        hdu.header.extend(wcs.to_header(relax=True).cards, update=True)
    return hdu
