"""`deconvolve_run`: posterior samples of sharp images, from paths to a folder of FITS files."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from astropy.table import Table
from scipy import ndimage

from autofit_ml.catalogue import atomic_write_bytes, atomic_write_ecsv
from autofit_ml.deconvolution import (
    SampleFits,
    SamplingSettings,
    Sharp,
    deconvolve_each,
    fit_samples,
    sharp_fits_bytes,
    sharp_preview_png,
)
from autofit_ml.deconvolution.operator import LARGEST, grid_side
from autofit_ml.errors import InputError, SettingsError
from autofit_ml.images import Source, discover, read_item
from autofit_ml.images.stamp import Frame, Stamp
from autofit_ml.measure.correlation import measure_correlation
from autofit_ml.runs.settings import FitSettings
from autofit_ml.segmentation import Segmentation
from autofit_ml.segmentation.dispatch import check_segmenter, segment_all

__all__ = ["DeconvolveSummary", "cut_out", "deconvolve_run", "sky_correlation"]

_TOGETHER = 16
_LAG = 3
_AWAY = 4
_LEAST_SKY = 400
_FITTED = ("flux", "re", "n", "q", "pa")


@dataclass
class DeconvolveSummary:
    """What a run of `deconvolve_run` did.

    Attributes
    ----------
    out : Path
    objects : int
        Deconvolved.
    warnings, failures : dict
        Object -> what its samples cannot be trusted with; why there are none.
    """

    out: Path
    objects: int = 0
    warnings: dict[str, tuple[str, ...]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)

    @property
    def exit_status(self) -> int:
        """As of the command: 0 all, 3 some failed, 1 none could be deconvolved."""
        if not self.failures:
            return 0
        return 3 if self.objects else 1


def deconvolve_run(
    paths: str | Path | Iterable[str | Path] | None,
    out: str | Path,
    sampling: SamplingSettings | None = None,
    settings: FitSettings | None = None,
    *,
    manifest: str | Path | None = None,
    size: int = 0,
    fit: bool = False,
    pictures: bool = True,
    progress: Callable[[int, int], object] | None = None,
) -> DeconvolveSummary:
    """Deconvolve images and write what was found.

    Other objects than the target are masked and the sky is subtracted, as the segmenter sees them;
    the correlation of the noise is measured on the sky (`sky_correlation`).

    Parameters
    ----------
    paths : path or iterable of paths, or None
        Files, folders, globs; None with a manifest.
    out : path
        Folder for ``<id>.fits`` (`autofit_ml.deconvolution.sharp_fits_bytes`), ``<id>.png`` and
        ``sharp.ecsv``, which has a row for every object (written again after every 16).
    sampling : SamplingSettings, optional
    settings : FitSettings, optional
        Its ``read``, ``segmenter`` and ``weights`` (of the segmenter) matter.
    manifest : path, optional
        Table of objects.
    size : int
        Data pixels of the square around the target that is deconvolved; 0: what the target needs,
        at least 48.
    fit : bool
        Fit a Sérsic profile to each sample: more columns, and the planes STRUCTURE and STRUCTSIG.
    pictures : bool
    progress : callable, optional
        Called with (objects that are done, all of them).

    Returns
    -------
    DeconvolveSummary

    Raises
    ------
    SettingsError, WeightsError
        Nothing to deconvolve, or weights that cannot be used.
    """
    sampling, settings = sampling or SamplingSettings(), settings or FitSettings()
    if size and not 16 <= size * sampling.oversampling <= LARGEST:
        most = LARGEST // sampling.oversampling
        raise SettingsError(f"a size of {size} data pixels", f"give 16 to {most}, or 0")
    folder = Path(out)
    found = discover(paths, manifest=manifest, survey=settings.read.survey, mode=settings.read.mode)
    if not found.sources:
        raise SettingsError("nothing to deconvolve", "give FITS files or folders of them")
    check_segmenter(settings.segmenter, settings.weights)
    folder.mkdir(parents=True, exist_ok=True)
    summary, rows = DeconvolveSummary(folder), []
    number = len(found.sources)
    if progress is not None:
        progress(0, number)
    for first in range(0, number, _TOGETHER):
        some = found.sources[first : first + _TOGETHER]
        for source, stamp, result in _results(some, sampling, settings, size):
            if isinstance(result, Exception) or stamp is None:
                summary.failures[source.id] = str(result)
                rows.append({"id": source.id, "file": source.file, "status": "failed",
                             "message": str(result)})  # fmt: skip
            else:
                fits = fit_samples(result, stamp.position) if fit else None
                atomic_write_bytes(folder / f"{result.id}.fits", sharp_fits_bytes(result, fits))
                if pictures:
                    atomic_write_bytes(folder / f"{result.id}.png", sharp_preview_png(result))
                if result.warnings:
                    summary.warnings[result.id] = result.warnings
                rows.append(_row(source, stamp, result, fits))
                summary.objects += 1
            if progress is not None:
                progress(len(rows), number)
        _write_table(folder / "sharp.ecsv", rows)
    return summary


def _results(
    sources: Sequence[Source], sampling: SamplingSettings, settings: FitSettings, size: int
) -> Iterator[tuple[Source, Stamp | None, Sharp | Exception]]:
    """Each source with the stamp that was deconvolved and the result, or with what is wrong.

    One after the other, as they are found.
    """
    stamps: dict[str, Stamp] = {}
    problems: dict[str, Exception] = {}
    for source in sources:
        try:
            item = read_item(source, settings.read)
            if isinstance(item, Frame):
                raise InputError(
                    "a frame, not a stamp of one galaxy",
                    "cut the galaxies out (a manifest with x, y does), or give --mode stamp",
                    source.file,
                )
            stamps[source.id] = item
        except InputError as error:
            problems[source.id] = error
    segmented = segment_all(
        list(stamps.values()), settings.segmenter, settings.weights, settings.device
    )
    ready: dict[str, Stamp] = {}
    for name, (stamp, segmentation) in zip(stamps, segmented, strict=True):
        if isinstance(segmentation, Exception):
            problems[name] = segmentation
        else:
            cut = cut_out(stamp, segmentation, size, sampling.oversampling)
            if sampling.sampler == "eps" and cut.noise_correlation is None:
                cut = cut.replace(noise_correlation=sky_correlation(stamp, segmentation))
            ready[name] = cut
    results = deconvolve_each(list(ready.values()), sampling)
    for source in sources:
        if source.id in problems:
            yield source, None, problems[source.id]
        else:
            yield source, *next(results)


def cut_out(stamp: Stamp, segmentation: Segmentation, size: int, oversampling: int) -> Stamp:
    """The target alone: a square around it, sky subtracted, other objects masked.

    Parameters
    ----------
    stamp : Stamp
    segmentation : Segmentation
    size : int
        Data pixels; 0: three times the target's extent, at least 48 (where the stamp has them, and
        its grid, padding included, is not too large).
    oversampling : int
    """
    ny, nx = stamp.shape
    x, y = stamp.position
    own = segmentation.labels == segmentation.target
    if segmentation.target and own.any():
        rows, columns = np.nonzero(own)
        x, y = float(columns.mean()), float(rows.mean())
        extent = max(np.ptp(rows), np.ptp(columns)) + 1
        side = size or max(48, math.ceil(3 * extent / 8) * 8)
    else:
        side = size or 64
    cut = _window(stamp, segmentation, x, y, min(side, max(nx, ny)))
    while grid_side([cut], oversampling) > LARGEST:
        side = max(cut.shape) - 8
        cut = _window(stamp, segmentation, x, y, side)
    return cut


def sky_correlation(stamp: Stamp, segmentation: Segmentation) -> np.ndarray | None:
    """Correlation of neighbouring pixels' noise, for ``Stamp.noise_correlation``.

    Measured on the sky, away from footprints. None where it is not significant (3 standard
    errors, and 0.05 for adjacent pixels), or with fewer than 400 pixels of sky.
    """
    near = ndimage.binary_dilation(segmentation.labels > 0, iterations=_AWAY)
    sky = ~(near | stamp.mask | segmentation.contaminants)
    if sky.sum() < _LEAST_SKY:
        return None
    residual = (stamp.data - np.float32(segmentation.sky_level)) / stamp.sigma
    found, adjacent, error = measure_correlation(
        torch.from_numpy(np.where(sky, residual, 0).astype(np.float64))[None],
        torch.from_numpy(sky)[None],
        _LAG,
    )
    if not float(adjacent[0]) > max(0.05, 3 * float(error[0])):
        return None
    return found[0].numpy()


def _window(stamp: Stamp, segmentation: Segmentation, x: float, y: float, side: int) -> Stamp:
    """The square of `side` data pixels around (x, y), as far as the stamp has it."""
    ny, nx = stamp.shape
    x0 = min(max(round(x - (side - 1) / 2), 0), max(nx - side, 0))
    y0 = min(max(round(y - (side - 1) / 2), 0), max(ny - side, 0))
    window = (slice(y0, min(y0 + side, ny)), slice(x0, min(x0 + side, nx)))
    mask = stamp.mask | segmentation.contaminants
    return stamp.replace(
        data=stamp.data[window] - np.float32(segmentation.sky_level),
        sigma=stamp.sigma[window],
        mask=mask[window],
        x=x - x0,
        y=y - y0,
        origin=(stamp.origin[0] + x0, stamp.origin[1] + y0),
        labels=None,
        target_label=None,
        saturated=None if stamp.saturated is None else stamp.saturated[window],
        wcs=None if stamp.wcs is None else stamp.wcs[window],
        sky_prior=None,
    )


def _row(source: Source, stamp: Stamp, sharp: Sharp, fits: SampleFits | None) -> dict[str, Any]:
    flux = sharp.samples.sum(axis=(1, 2), dtype=np.float64)
    row: dict[str, Any] = {
        "id": source.id,
        "file": source.file,
        "status": "ok",
        "message": "; ".join(sharp.warnings),
        "x0": stamp.origin[0],
        "y0": stamp.origin[1],
        "flux_image": flux.mean(),
        "flux_image_err": flux.std(ddof=1),
        "detail": sharp.detail,
        "chi2_pixel": sharp.chi2,
        "distance": sharp.distance,
        "sampler": sharp.sampler,
        "weights": sharp.weights,
    }
    if fits is not None:
        for name in ("x", "y"):
            middle, error = fits.interval(name)
            row[name] = middle + stamp.origin[name == "y"]
            row[f"{name}_err"] = error
        for name in _FITTED:
            row[name], row[f"{name}_err"] = fits.interval(name)
        row["n_fitted"] = int(np.isfinite(fits.values).all(axis=1).sum())
    return row


_TEXTS = {"id", "file", "status", "message", "sampler", "weights"}


def _write_table(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """A row for every object; NaN (-1 for whole numbers) where there is nothing."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    whole = {"x0", "y0", "n_fitted"}
    blank = {name: "" if name in _TEXTS else -1 if name in whole else np.nan for name in names}
    table = Table({name: [row.get(name, blank[name]) for row in rows] for name in names})
    atomic_write_ecsv(path, table)
