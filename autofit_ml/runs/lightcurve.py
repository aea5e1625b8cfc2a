"""`lightcurve_run`: fluxes at given places in images of many epochs."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.table import QTable, vstack

from autofit_ml.catalogue import (
    atomic_write_bytes,
    atomic_write_ecsv,
    atomic_write_fits,
    file_stem,
)
from autofit_ml.difference.epoch_file import read_epoch, write_epoch
from autofit_ml.difference.epochs import observed, places
from autofit_ml.difference.light_curve import (
    LightCurve,
    Measured,
    light_curve_of,
    measure_epoch,
    with_psf,
)
from autofit_ml.errors import SettingsError
from autofit_ml.images import Frame, Source, read_frame
from autofit_ml.report.light_curve import light_curve_png
from autofit_ml.runs.diff import single_image
from autofit_ml.runs.folder import RunFolder
from autofit_ml.runs.identity import identity_of, source_hashes
from autofit_ml.runs.kinds import LIGHT_CURVES
from autofit_ml.runs.results import Result, one_by_one, run_each
from autofit_ml.runs.sources import inputs_of
from autofit_ml.runs.summary import Progress, RunSummary
from autofit_ml.settings import LightCurveSettings, Paths, Selected

__all__ = ["lightcurve_run"]


def lightcurve_run(
    paths: Paths,
    at: Any,
    out: str | Path,
    settings: LightCurveSettings | None = None,
    *,
    reference: str | Path | None = None,
    manifest: str | Path | None = None,
    restart: bool = False,
    only: Selected | None = None,
    progress: Progress | None = None,
) -> RunSummary:
    """Measure light curves and write them.

    Parameters
    ----------
    paths : path or iterable of paths, or None
        One image for each epoch; None with a manifest.
    at : str, path or table
        Positions; see `autofit_ml.difference.places`.
    out : path
        Folder for ``lightcurves.ecsv``, ``covariance.fits`` (an image for each position and
        method), ``positions.ecsv``, ``curves/<name>.png`` and ``epochs/<id>.fits``. A run that
        stopped there is continued.
    settings : LightCurveSettings, optional
    reference : path, optional
        An image without the sources; the first of the images by default.
    manifest : path, optional
        Table of images.
    restart : bool
        Begin anew in a folder that holds results.
    only : Selected, optional
        Which of the images.
    progress : Progress, optional

    Returns
    -------
    RunSummary
        With ``n_instances`` (light curves), ``failures`` and ``concerns``.

    Raises
    ------
    SettingsError
        Nothing to measure, no single reference, or positions that cannot be understood;
        `ResumeError` for a folder that belongs to another run.
    InputError
        The reference cannot be used, or a position lies outside it.
    """
    settings = (settings or LightCurveSettings()).replace(mode="frame")
    progress = progress or Progress()
    found = inputs_of(paths, manifest, survey=settings.survey, mode="frame")
    first = found.sources[0] if reference is None else single_image(reference, settings.survey)
    frame = with_psf(read_frame(first, settings.read))[0]
    where = places(at, frame)
    own = reference is not None and first.file not in {source.file for source in found.sources}
    if not own and len(found.sources) < 2 and settings.method == "difference":
        raise SettingsError("one image and no reference", "give more epochs, or --reference FILE")
    identity = identity_of(settings) | {
        "reference": " ".join(sorted(source_hashes(first).values())),
        "at": " ".join(f"{n}:{x:.4f},{y:.4f}" for n, x, y in where["name", "x", "y"].iterrows()),
    }

    def finish(folder: RunFolder | None, table: QTable | None, summary: RunSummary) -> None:
        assert folder is not None
        measured = [
            read_epoch(_file(folder, source.id))
            for source in found.sources
            if source.id in folder.done and source.id not in summary.failures
        ]
        if not measured:
            return
        if own:
            measured.append(measure_epoch(frame, frame, where, settings, name=""))
        progress.stage("light curves")
        _write(folder.path, where, measured, settings, frame, summary)

    job = one_by_one(partial(_measuring, first, frame, where))
    return run_each(
        found, LIGHT_CURVES, job, settings, identity, out,
        save=_save, finish=finish, restart=restart, only=only, progress=progress,
    )  # fmt: skip


def _file(folder: RunFolder, name: str) -> Path:
    return folder.path / "epochs" / f"{file_stem(name)}.fits"


def _measuring(
    first: Source, reference: Frame, where: QTable, settings: LightCurveSettings
) -> Callable[[Source], Result[Measured]]:
    def measured(source: Source) -> Result[Measured]:
        frame = reference if source.file == first.file else read_frame(source, settings.read)
        value = measure_epoch(
            frame, reference, where, settings, time=observed(source), name=source.id
        )
        return Result(source.id, value, "", source_hashes(source), value.messages)

    return measured


def _save(folder: RunFolder | None, result: Result[Measured], value: Measured) -> None:
    assert folder is not None
    path = _file(folder, result.id)
    path.parent.mkdir(exist_ok=True)
    write_epoch(path, value)


def _write(
    folder: Path, where: QTable, measured: Sequence[Measured], settings: LightCurveSettings,
    reference: Frame, summary: RunSummary,
) -> None:  # fmt: skip
    """Light curves of all positions from the epochs, and what they are drawn from."""
    (folder / "curves").mkdir(exist_ok=True)
    curves: list[LightCurve] = []
    for k, name in enumerate(map(str, where["name"])):
        curve = light_curve_of(measured, k, name, settings, reference.zeropoint)
        summary.concerns += [f"{name}: {text}" for text in curve.messages]
        curves.append(curve)
        if settings.pictures and len(curve.table):
            picture = light_curve_png(name, curve.table, curve.images, reference.zeropoint)
            atomic_write_bytes(folder / "curves" / f"{file_stem(name)}.png", picture)
    tables = [curve.table for curve in curves if len(curve.table)]
    if tables:
        atomic_write_ecsv(folder / "lightcurves.ecsv", vstack(tables))
    _write_covariances(folder / "covariance.fits", curves)
    atomic_write_ecsv(folder / "positions.ecsv", _positions(where, curves))
    summary.n_instances = len(tables)


def _write_covariances(path: Path, curves: Sequence[LightCurve]) -> None:
    hdus: list[Any] = [fits.PrimaryHDU()]
    for curve in curves:
        for method, matrix in curve.covariance.items():
            hdu = fits.ImageHDU(matrix, name=f"{curve.name} {method}")
            for row, name in enumerate(curve.rows(method)["epoch"], start=1):
                hdu.header[f"EPOCH{row}"] = str(name)
            hdus.append(hdu)
    atomic_write_fits(path, hdus)


def _positions(where: QTable, curves: Sequence[LightCurve]) -> QTable:
    """Positions, with those that scenes have fitted, and their hosts."""
    out = where.copy()
    scenes = [curve.scene for curve in curves]
    if any(scenes):
        at = [(np.nan,) * 4 if s is None else (s.x, s.y, *s.position_error) for s in scenes]
        for name, values in zip(
            ("x_scene", "y_scene", "x_scene_err", "y_scene_err"), np.transpose(at), strict=True
        ):
            out[name] = values
        for name in dict.fromkeys(key for s in scenes if s is not None for key in s.host):
            out[name] = [np.nan if s is None else s.host.get(name, np.nan) for s in scenes]
    return out
