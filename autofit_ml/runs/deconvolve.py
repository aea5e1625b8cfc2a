"""`deconvolve_run`: posterior samples of sharp images, from paths to a folder of FITS files."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from astropy.table import Table
from scipy import ndimage

from autofit_ml.catalogue import atomic_write_bytes, atomic_write_ecsv, file_stem
from autofit_ml.deconvolution import (
    SampleFits,
    Sharp,
    deconvolve_each,
    fit_samples,
    sharp_fits_bytes,
    sharp_preview_png,
)
from autofit_ml.deconvolution.operator import LARGEST, grid_side
from autofit_ml.errors import InputError, SettingsError
from autofit_ml.images import Frame, ReadResult, Source, Stamp, read_source
from autofit_ml.measure.correlation import measure_correlation
from autofit_ml.runs.folder import RunFolder
from autofit_ml.runs.identity import identity_of, weights_text
from autofit_ml.runs.kinds import DECONVOLVED
from autofit_ml.runs.loop import Handle, Work, go_through
from autofit_ml.runs.results import Result, count, each, rows_of, save_results, saved_tables
from autofit_ml.runs.sources import inputs_of
from autofit_ml.runs.summary import Progress, RunSummary
from autofit_ml.segmentation import Segmentation
from autofit_ml.segmentation.dispatch import check_segmenter, segment_all
from autofit_ml.settings import CLASSICAL, DeconvolveSettings, Paths, SamplingSettings, Selected
from autofit_ml.weights.choice import given_weights, usable_weights

__all__ = ["cut_out", "deconvolve_run", "sky_correlation"]

_SECONDS_A_PART = 10.0
"""Objects are saved when the last ones were saved so long ago: each, where it takes longer."""

_LAG = 3
_AWAY = 4
_LEAST_SKY = 400
_FITTED = ("flux", "re", "n", "q", "pa")


def deconvolve_run(
    paths: Paths,
    out: str | Path,
    settings: DeconvolveSettings | None = None,
    *,
    manifest: str | Path | None = None,
    restart: bool = False,
    only: Selected | None = None,
    progress: Progress | None = None,
) -> RunSummary:
    """Deconvolve images and write what was found.

    Other objects than the target are masked and the sky is subtracted, as the segmenter sees them;
    the correlation of the noise is measured on the sky (`sky_correlation`).

    Parameters
    ----------
    paths : path or iterable of paths, or None
        Files, folders, globs; None with a manifest.
    out : path
        Folder for ``<id>.fits`` (`autofit_ml.deconvolution.sharp_fits_bytes`), ``<id>.png`` and
        ``sharp.ecsv``, which has a row for every object (written again with each part). A run
        that stopped there is continued.
    settings : DeconvolveSettings, optional
    manifest : path, optional
        Table of objects.
    restart : bool
        Begin anew in a folder that holds results.
    only : Selected, optional
        Which of the images.
    progress : Progress, optional
        Told of every object.

    Returns
    -------
    RunSummary
        With ``failures`` and ``warnings``.

    Raises
    ------
    SettingsError, WeightsError
        Nothing to deconvolve, or weights that cannot be used; `ResumeError` for a folder that
        belongs to another run.
    """
    began = time.perf_counter()
    settings, summary = settings or DeconvolveSettings(), RunSummary(Path(out))
    told = progress or Progress()
    if settings.size and not 16 <= settings.size * settings.oversampling <= LARGEST:
        most = LARGEST // settings.oversampling
        raise SettingsError(f"a size of {settings.size} data pixels", f"give 16 to {most}, or 0")
    found = inputs_of(paths, manifest, survey=settings.survey, mode=settings.mode)
    used = check_segmenter(settings.segmenter, settings.weights)
    identity = identity_of(settings) | {"weights": weights_text(used, "")}
    sampled = settings.sampler not in CLASSICAL
    priors = usable_weights("deconvolve", settings.weights) if sampled else {}
    identity["prior_weights"] = weights_text(priors, "")
    prior = next(iter(given_weights("deconvolve", settings.weights)), "")
    sampling = settings.part(SamplingSettings, weights=prior)

    def begin(folder: RunFolder | None) -> Handle[list[Result[Stamp]]]:
        assert folder is not None
        every = [
            dict(zip(table.colnames, row, strict=True))
            for table in saved_tables(folder)
            for row in table
        ]

        def handle(
            sources: Sequence[Source], prepared: list[Result[Stamp]]
        ) -> Iterator[tuple[int, Mapping[str, Any]]]:
            files = {source.id: source.file for source in sources}
            results: list[Result[Stamp]] = []
            rows, saved = [], time.monotonic()

            def part(share: float) -> None:
                told.part(len(results) + share)

            sharp = _sharp(prepared, files, folder.path, sampling, settings, part)
            for number, (result, row) in enumerate(sharp, start=1):
                results.append(result)
                rows.append(row)
                if number == len(prepared) or time.monotonic() - saved > _SECONDS_A_PART:
                    save_results(folder, results, _table(rows))
                    every.extend(rows)
                    atomic_write_ecsv(folder.path / "sharp.ecsv", _table(every))
                    yield len(results), rows_of(results)
                    results, rows, saved = [], [], time.monotonic()

        return handle

    work = Work(DECONVOLVED, each(_prepared), begin, partial(count, summary), saves_each=True)
    go_through(found, work, settings, identity, out, summary, told, restart=restart, only=only)
    summary.seconds = time.perf_counter() - began
    return summary


def _prepared(sources: Sequence[Source], settings: DeconvolveSettings) -> list[Result[Stamp]]:
    """The targets, cut out; runs in worker processes."""
    stamps: list[tuple[Source, ReadResult]] = []
    out: dict[str, Result[Stamp]] = {}
    for source in sources:
        try:
            read = read_source(source, settings.read)
            if isinstance(read.item, Frame):
                raise InputError(
                    "a frame, not a stamp of one galaxy",
                    "cut the galaxies out (a manifest with x, y does), or give --mode stamp",
                    source.file,
                )
            stamps.append((source, read))
        except InputError as error:
            out[source.id] = Result.failed(source, str(error))
    segmented = segment_all(
        [read.stamp for _, read in stamps], settings.segmenter, settings.weights, settings.device
    )
    for (source, read), (stamp, segmentation) in zip(stamps, segmented, strict=True):
        if isinstance(segmentation, Exception):
            out[source.id] = Result.failed(source, str(segmentation))
            continue
        cut = cut_out(stamp, segmentation, settings.size, settings.oversampling)
        if settings.sampler == "eps" and cut.noise_correlation is None:
            cut = cut.replace(noise_correlation=sky_correlation(stamp, segmentation))
        out[source.id] = Result(source.id, cut, "", read.hashes)
    return [out[source.id] for source in sources]


def _sharp(
    prepared: Sequence[Result[Stamp]],
    files: Mapping[str, str],
    folder: Path,
    sampling: SamplingSettings,
    settings: DeconvolveSettings,
    told: Callable[[float], object],
) -> Iterator[tuple[Result[Stamp], dict[str, Any]]]:
    """Each object as it is found: deconvolved and written, or with what is wrong with it."""
    ready = [result.value for result in prepared if result.value is not None]
    found = deconvolve_each(ready, sampling, told=told)
    for one in prepared:
        file = files[one.id]
        why = one.why
        if one.value is not None:
            stamp, sharp = next(found)
            if isinstance(sharp, Sharp):
                fits = fit_samples(sharp, stamp.position) if settings.fit else None
                stem = file_stem(one.id)
                atomic_write_bytes(folder / f"{stem}.fits", sharp_fits_bytes(sharp, fits))
                if settings.pictures:
                    atomic_write_bytes(folder / f"{stem}.png", sharp_preview_png(sharp))
                row = _row(one.id, file, stamp, sharp, fits)
                yield Result(one.id, stamp, "", one.hashes, tuple(sharp.warnings)), row
                continue
            why = str(sharp)
        row = {"id": one.id, "file": file, "status": "failed", "message": why}
        yield Result(one.id, None, why, one.hashes), row


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


def _row(
    name: str, file: str, stamp: Stamp, sharp: Sharp, fits: SampleFits | None
) -> dict[str, Any]:
    flux = sharp.samples.sum(axis=(1, 2), dtype=np.float64)
    row: dict[str, Any] = {
        "id": name,
        "file": file,
        "status": "ok",
        "message": "; ".join(sharp.warnings),
        "x0": stamp.origin[0],
        "y0": stamp.origin[1],
        "flux_image": flux.mean(),
        "flux_image_err": flux.std(ddof=1) if sharp.is_posterior else np.nan,
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
_WHOLE = {"x0", "y0", "n_fitted"}


def _table(rows: Sequence[dict[str, Any]]) -> Table:
    """A row for every object; NaN (-1 for whole numbers) where there is nothing."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    blank = {name: "" if name in _TEXTS else -1 if name in _WHOLE else np.nan for name in names}
    return Table({name: [row.get(name, blank[name]) for row in rows] for name in names})
