"""`segment_run`: labels and instances of images, without a fit."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.table import QTable, vstack
from astropy.wcs import WCS

from autofit_ml.catalogue import atomic_write_bytes, atomic_write_ecsv, file_stem
from autofit_ml.errors import InputError
from autofit_ml.images import Source, read_source
from autofit_ml.images.stamp import Frame, Stamp
from autofit_ml.measure import psf_fwhm
from autofit_ml.report import segmentation_png
from autofit_ml.runs.folder import RunFolder
from autofit_ml.runs.identity import identity_of, source_hashes, weights_text
from autofit_ml.runs.kinds import SEGMENTED
from autofit_ml.runs.loop import Handle, Work, go_through
from autofit_ml.runs.results import Result, count, each, rows_of, save_results, saved_tables
from autofit_ml.runs.sources import Paths, inputs_of
from autofit_ml.runs.summary import Progress, RunSummary
from autofit_ml.segmentation.detection import instance_table
from autofit_ml.segmentation.dispatch import check_segmenter, detect_in_frame, segment_all
from autofit_ml.settings import SegmentSettings, Selected

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
    began = time.perf_counter()
    settings, summary = settings or SegmentSettings(), RunSummary(Path(out))
    found = inputs_of(paths, manifest, survey=settings.survey, mode=settings.mode)
    used = check_segmenter(settings.segmenter, settings.weights)
    identity = identity_of(settings) | {"weights": weights_text(used, settings.weights)}

    def begin(folder: RunFolder | None) -> Handle[list[Result[_Segmented]]]:
        def handle(
            sources: Sequence[Source], results: list[Result[_Segmented]]
        ) -> Iterator[tuple[int, Mapping[str, Any]]]:
            assert folder is not None
            tables = []
            for result in results:
                if result.value is not None:
                    _write(result.value, folder.path, settings.pictures)
                    tables.append(_table_of(result.value))
            save_results(folder, results, vstack(tables) if tables else None)
            yield len(sources), rows_of(results)

        return handle

    def finish(folder: RunFolder | None) -> None:
        assert folder is not None
        tables = saved_tables(folder)
        if tables:
            atomic_write_ecsv(folder.path / "instances.ecsv", vstack(tables))
        summary.n_instances = sum(map(len, tables))
        count(summary, folder)

    # Labels beside the images, the run's own among them, are no input.
    work = Work(SEGMENTED, each(_segmented), begin, finish, leave_out=("seg",))
    go_through(
        found,
        work,
        settings,
        identity,
        out,
        summary,
        progress or Progress(),
        restart=restart,
        only=only,
    )
    summary.seconds = time.perf_counter() - began
    return summary


@dataclass(frozen=True)
class _Segmented:
    id: str
    item: Stamp | Frame
    labels: np.ndarray
    classes: dict[int, str]
    method: str
    level: np.ndarray | float
    target: int | None


def _segmented(sources: Sequence[Source], settings: SegmentSettings) -> list[Result[_Segmented]]:
    """Frames one by one, stamps together."""
    stamps: dict[str, Stamp] = {}
    out: dict[str, Result[_Segmented]] = {}
    hashes: dict[str, dict[str, str]] = {}
    chosen = (settings.segmenter, settings.weights, settings.device)
    for source in sources:
        name = source.id
        try:
            read = read_source(source, settings.read)
            item, hashes[name] = read.item, read.hashes
            if isinstance(item, Stamp):
                stamps[name] = item
                continue
            seeing = 3.0 if item.psf is None else psf_fwhm(item.psf)
            item, found = detect_in_frame(item, seeing, *chosen)
        except InputError as error:
            known = hashes.get(name) or source_hashes(source)
            out[name] = Result(name, None, str(error), known)
            continue
        value = _Segmented(
            name, item, found.labels, found.classes, found.method, found.background, None
        )
        out[name] = Result(name, value, "", hashes[name])
    for name, (stamp, result) in zip(
        stamps, segment_all(list(stamps.values()), *chosen), strict=True
    ):
        if isinstance(result, Exception):
            out[name] = Result(name, None, str(result), hashes[name])
            continue
        value = _Segmented(
            name,
            stamp,
            result.labels,
            result.classes,
            result.method,
            result.sky_level,
            result.target,
        )
        out[name] = Result(name, value, "", hashes[name])
    return [out[source.id] for source in sources]


def _write(result: _Segmented, folder: Path, pictures: bool) -> None:
    item = result.item
    payload = _labels_fits(result.labels, result.classes, result.target, result.method, item.wcs)
    atomic_write_bytes(folder / f"{file_stem(result.id)}_seg.fits", payload)
    if pictures:
        picture = segmentation_png(
            item.data - result.level,
            item.sigma,
            item.mask,
            result.labels,
            result.target or 0,
            classes=result.classes,
        )
        atomic_write_bytes(folder / f"{file_stem(result.id)}_seg.png", picture)


def _table_of(result: _Segmented) -> QTable:
    item = result.item
    data = np.where(item.mask, 0, item.data - result.level)
    table = instance_table(data, item.sigma, result.labels, result.classes, result.target)
    table.add_column(np.full(len(table), result.id), name="id", index=0)
    return table


def _labels_fits(
    labels: np.ndarray, classes: dict[int, str], target: int | None, method: str, wcs: WCS | None
) -> bytes:
    hdu = fits.PrimaryHDU(labels.astype(np.int32))
    hdu.header["SEGMENTR"] = (method, "how the instances were found")
    if target is not None:
        hdu.header["TARGET"] = (int(target), "label of the target, 0 = not detected")
    for label, kind in sorted(classes.items()):
        if label < 1000:  # a keyword has 8 letters; instances.ecsv has them all
            hdu.header[f"CLASS{label}"] = (kind, f"of label {label}")
    if wcs is not None:
        hdu.header.extend(wcs.to_header(relax=True).cards, update=True)
    buffer = io.BytesIO()
    fits.HDUList([hdu]).writeto(buffer)
    return buffer.getvalue()
