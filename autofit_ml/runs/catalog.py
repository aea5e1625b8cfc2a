"""`catalog_run`: the stars and galaxies of frames, with fluxes in all bands."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from astropy.table import QTable

from autofit_ml.catalogue import (
    atomic_write_bytes,
    atomic_write_ecsv,
    atomic_write_text,
    file_stem,
    write_catalogue_files,
)
from autofit_ml.catalogue.atomic import file_sha256
from autofit_ml.images import Discovery, Source
from autofit_ml.images.bands import blue_to_red
from autofit_ml.report import FramePlanes, write_frame_page
from autofit_ml.runs.folder import RunFolder
from autofit_ml.runs.frames import frame_of, read_bands
from autofit_ml.runs.identity import identity_of
from autofit_ml.runs.kinds import CATALOGUED
from autofit_ml.runs.results import Result, one_by_one, run_each
from autofit_ml.runs.sources import inputs_of
from autofit_ml.runs.summary import Progress, RunSummary
from autofit_ml.settings import CatalogSettings, Paths, Selected, SourceSettings
from autofit_ml.sources import SourceCatalogue, catalogue_frames
from autofit_ml.sources.files import arrow_table, image_files, regions_text
from autofit_ml.sources.forced import ForcedSources, forced_frames, read_forced

__all__ = ["catalog_run", "catalog_sources"]


def catalog_run(
    paths: Paths,
    out: str | Path,
    settings: CatalogSettings | None = None,
    *,
    manifest: str | Path | None = None,
    restart: bool = False,
    only: Selected | None = None,
    progress: Progress | None = None,
) -> RunSummary:
    """Catalogue the sources of frames.

    Parameters
    ----------
    paths : path or iterable of paths, or None
        Files, folders, globs; None with a manifest.
    out : path
        Folder for ``catalog.parquet``, ``catalog.fits`` and, for each frame,
        ``<id>.html``, ``<id>_model.fits``, ``<id>_residual.fits``, ``<id>.reg``. A run that stopped
        there is continued.
    settings : CatalogSettings, optional
    manifest : path, optional
        Table of frames.
    restart : bool
        Begin anew in a folder that holds results.
    only : Selected, optional
        Which of the frames.
    progress : Progress, optional

    Returns
    -------
    RunSummary
        With ``n_instances`` (sources) and ``failures``.

    Raises
    ------
    SettingsError
        Nothing to do; `ResumeError` for a folder that belongs to another run.
    """
    settings = (settings or CatalogSettings()).replace(mode="frame")
    bands = tuple(settings.bands)
    found = inputs_of(
        paths, manifest, survey=settings.survey, mode="frame", bands=bands,
        epochs=settings.forced is None,
    )  # fmt: skip
    return catalog_sources(found, out, settings, restart=restart, only=only, progress=progress)[0]


def catalog_sources(
    found: Discovery,
    out: str | Path | None,
    settings: CatalogSettings,
    *,
    restart: bool = False,
    only: Selected | None = None,
    progress: Progress | None = None,
) -> tuple[RunSummary, QTable | None]:
    """The same of frames that are known already; with the table.

    Without a folder nothing is written.
    """
    settings = settings.replace(mode="frame", bands=found.bands or tuple(settings.bands))
    tables: list[QTable] = []
    identity = identity_of(settings)
    forced = None
    if settings.forced is not None:
        forced = read_forced(settings.forced)
        identity |= {"forced": file_sha256(settings.forced)}

    def finish(folder: RunFolder | None, table: QTable | None, summary: RunSummary) -> None:
        if table is not None:
            tables.append(table)
            if folder is not None:
                write_catalogue_files(arrow_table(table), folder.path)

    job = one_by_one(partial(_cataloguing, forced))
    summary = run_each(
        found, CATALOGUED, job, settings, identity, out,
        save=partial(_write, settings.save), finish=finish,
        restart=restart, only=only, progress=progress,
    )  # fmt: skip
    return summary, tables[0] if tables else None


def _cataloguing(
    forced: ForcedSources | None, settings: CatalogSettings
) -> Callable[[Source], Result[SourceCatalogue]]:
    def catalogued(source: Source) -> Result[SourceCatalogue]:
        hashes: dict[str, str] = {}
        read = read_bands(source, settings.read, hashes)
        frames, names = [], []
        for part, one in zip((source, *source.others), read, strict=True):
            if part is not None and one is not None:
                frames.append(frame_of(one, settings.read))
                names.append(part.band or frames[-1].filter or "1")
        frames[0] = frames[0].replace(id=source.id)
        how = settings.part(SourceSettings)
        if forced is None:
            value = catalogue_frames(frames, names, how)
        else:
            value = forced_frames(frames, names, forced, how)
        return Result(source.id, value, "", hashes, value.messages)

    return catalogued


def _write(
    save: Sequence[str],
    folder: RunFolder | None,
    result: Result[SourceCatalogue],
    found: SourceCatalogue,
) -> QTable:
    if folder is None:
        return found.table
    stem = folder.path / file_stem(result.id)
    if "images" in save:
        for ending, content in image_files(found):
            atomic_write_bytes(f"{stem}{ending}", content)
    if found.covariance is not None:
        atomic_write_ecsv(f"{stem}_covariance.ecsv", found.covariance)
    if "regions" in save:
        atomic_write_text(f"{stem}.reg", regions_text(found.table))
    if "page" in save:
        write_frame_page(
            f"{stem}.html",
            arrow_table(found.table),
            _planes(found),
            title=result.id,
            pixel_scale=found.field.first.frame.pixel_scale,
            messages=found.messages,
        )
    return found.table


def _planes(found: SourceCatalogue) -> dict[str, FramePlanes]:
    """Images of the bands that have the first one's pixels, the first epochs, from blue to red."""
    planes: dict[str, FramePlanes] = {}
    for b, band in enumerate(found.field.bands):
        if band.aligned and band.band.name not in planes:
            sky = np.asarray(found.sky[b], np.float32)
            light, frame = found.model(b), band.frame
            planes[band.band.name] = FramePlanes(frame.data - sky, light, frame.sigma, frame.mask)
    return {name: planes[name] for name in blue_to_red(list(planes))}
