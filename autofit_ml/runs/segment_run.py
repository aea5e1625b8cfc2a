"""`segment_run`: labels and instances of images, without a fit."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.table import QTable, vstack
from astropy.wcs import WCS

from autofit_ml.catalogue import atomic_write_bytes, atomic_write_ecsv
from autofit_ml.errors import InputError, SettingsError
from autofit_ml.images import Source, discover, read_item
from autofit_ml.images.stamp import Frame, Stamp
from autofit_ml.measure import psf_fwhm
from autofit_ml.report import segmentation_png
from autofit_ml.runs.settings import FitSettings
from autofit_ml.segmentation.dispatch import check_segmenter, detect_in_frame, segment_all
from autofit_ml.segmentation.instances import instance_table

__all__ = ["SegmentSummary", "segment_run"]

_TOGETHER = 64
"""Images that are read before their stamps go through the network."""


@dataclass
class SegmentSummary:
    """What a run of `segment_run` did.

    Attributes
    ----------
    out : Path
    images, instances : int
        Segmented images, and instances in them.
    failures : dict
        Image -> why it could not be segmented.
    """

    out: Path
    images: int = 0
    instances: int = 0
    failures: dict[str, str] = field(default_factory=dict)

    @property
    def exit_status(self) -> int:
        """As of the command: 0 all, 3 some failed, 1 none could be segmented."""
        if not self.failures:
            return 0
        return 3 if self.images else 1


def segment_run(
    paths: str | Path | Iterable[str | Path] | None,
    out: str | Path,
    settings: FitSettings | None = None,
    *,
    manifest: str | Path | None = None,
    pictures: bool = True,
    progress: Callable[[int, int], object] | None = None,
) -> SegmentSummary:
    """Segment images and write what was found.

    Parameters
    ----------
    paths : path or iterable of paths, or None
        Files, folders, globs; None with a manifest.
    out : path
        Folder for ``<id>_seg.fits`` (labels, with the card TARGET for stamps and CLASSn for each
        label of known class), ``<id>_seg.png`` and ``instances.ecsv``. Labels beside their images
        are what `fit` reads.
    settings : FitSettings, optional
        Its ``read``, ``segmenter`` and ``weights`` matter.
    manifest : path, optional
        Table of objects.
    pictures : bool
        Draw the outlines.
    progress : callable, optional
        Called with (images that are done, all of them).

    Returns
    -------
    SegmentSummary

    Raises
    ------
    SettingsError, WeightsError
        Nothing to segment, or weights that cannot be used.
    """
    settings = settings or FitSettings()
    folder = Path(out)
    found = discover(paths, manifest=manifest, survey=settings.read.survey, mode=settings.read.mode)
    if not found.sources:
        raise SettingsError("nothing to segment", "give FITS files or folders of them")
    check_segmenter(settings.segmenter, settings.weights)
    folder.mkdir(parents=True, exist_ok=True)
    summary = SegmentSummary(folder)
    tables = []
    number = len(found.sources)
    for first in range(0, number, _TOGETHER):
        if progress is not None:
            progress(first, number)
        for result in _segmented(found.sources[first : first + _TOGETHER], settings):
            if isinstance(result, _Failed):
                summary.failures[result.id] = result.why
                continue
            _write(result, folder, pictures)
            tables.append(_table_of(result))
            summary.images += 1
            summary.instances += len(tables[-1])
    if progress is not None:
        progress(number, number)
    if tables:
        atomic_write_ecsv(folder / "instances.ecsv", vstack(tables))
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


@dataclass(frozen=True)
class _Failed:
    id: str
    why: str


def _segmented(sources: Sequence[Source], settings: FitSettings) -> Iterator[_Segmented | _Failed]:
    """Frames one by one, stamps together."""
    stamps: dict[str, Stamp] = {}
    for source in sources:
        try:
            item = read_item(source, settings.read)
            if isinstance(item, Stamp):
                stamps[source.id] = item
                continue
            seeing = 3.0 if item.psf is None else psf_fwhm(item.psf)
            item, found = detect_in_frame(
                item, seeing, settings.segmenter, settings.weights, settings.device
            )
        except InputError as error:
            yield _Failed(source.id, str(error))
            continue
        yield _Segmented(
            source.id, item, found.labels, found.classes, found.method, found.background, None
        )
    results = segment_all(
        list(stamps.values()), settings.segmenter, settings.weights, settings.device
    )
    for name, (stamp, result) in zip(stamps, results, strict=True):
        if isinstance(result, Exception):
            yield _Failed(name, str(result))
            continue
        yield _Segmented(
            name,
            stamp,
            result.labels,
            result.classes,
            result.method,
            result.sky_level,
            result.target,
        )


def _write(result: _Segmented, folder: Path, pictures: bool) -> None:
    item = result.item
    payload = _labels_fits(result.labels, result.classes, result.target, result.method, item.wcs)
    atomic_write_bytes(folder / f"{result.id}_seg.fits", payload)
    if pictures:
        picture = segmentation_png(
            item.data - result.level,
            item.sigma,
            item.mask,
            result.labels,
            result.target or 0,
            classes=result.classes,
        )
        atomic_write_bytes(folder / f"{result.id}_seg.png", picture)


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
