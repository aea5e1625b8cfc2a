"""`diff_run`: a reference subtracted from images of other epochs, and what has changed."""

import io
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from astropy.io import fits
from astropy.table import QTable, vstack

from autofit_ml.catalogue import atomic_write_bytes, atomic_write_ecsv, file_stem
from autofit_ml.difference import (
    Difference,
    Whitened,
    aligned,
    detect_changes,
    subtract_images,
    whitened,
)
from autofit_ml.errors import InputError, SettingsError
from autofit_ml.images import Source, discover, psf_from_stars, read_frame
from autofit_ml.images.sky_coordinates import sky_positions
from autofit_ml.images.stamp import Frame
from autofit_ml.report.triplet import triplet_png
from autofit_ml.runs.folder import RunFolder
from autofit_ml.runs.identity import identity_of, source_hashes
from autofit_ml.runs.kinds import DIFFERENCED
from autofit_ml.runs.loop import Handle, Work, go_through
from autofit_ml.runs.results import Result, count, each, rows_of, save_results, saved_tables
from autofit_ml.runs.sources import Paths, inputs_of
from autofit_ml.runs.summary import Progress, RunSummary
from autofit_ml.settings import DiffSettings, Selected, SubtractSettings

__all__ = ["diff_run"]


@dataclass(frozen=True)
class _Subtracted:
    """A science image with its difference."""

    frame: Frame
    reference: Frame
    result: Difference
    white: Whitened
    changes: QTable


def diff_run(
    reference: str | Path,
    paths: Paths,
    out: str | Path,
    settings: DiffSettings | None = None,
    *,
    manifest: str | Path | None = None,
    restart: bool = False,
    only: Selected | None = None,
    progress: Progress | None = None,
) -> RunSummary:
    """Subtract a reference from images and write differences and detections.

    Parameters
    ----------
    reference : path
        One image, with its planes as `fit` finds them.
    paths : path or iterable of paths, or None
        Files, folders, globs; None with a manifest.
    out : path
        Folder for ``<id>_diff.fits`` (planes DIFFERENCE, SIGMA, MASK, WHITENED, SCORE, KERNEL,
        PSF), ``<id>_diff.png`` and ``changes.ecsv``. A run that stopped there is continued.
    settings : DiffSettings, optional
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
        With ``n_instances`` (changes) and ``failures``.

    Raises
    ------
    SettingsError
        Nothing to subtract from, or no single reference; `ResumeError` for a folder that belongs
        to another run.
    """
    began = time.perf_counter()
    settings = (settings or DiffSettings()).replace(mode="frame")
    summary = RunSummary(Path(out))
    found = inputs_of(paths, manifest, survey=settings.survey, mode="frame")
    known = discover([reference], survey=settings.survey, mode="frame").sources
    if len(known) != 1:
        raise SettingsError(f"{len(known)} images are given as the reference", "give one image")
    hashes = source_hashes(known[0])
    identity = identity_of(settings) | {"reference": " ".join(sorted(hashes.values()))}

    def begin(folder: RunFolder | None) -> Handle[list[Result[_Subtracted]]]:
        def handle(
            sources: Sequence[Source], results: list[Result[_Subtracted]]
        ) -> Iterator[tuple[int, Mapping[str, Any]]]:
            assert folder is not None
            tables = []
            for result in results:
                if result.value is not None:
                    _write(result.id, result.value, folder.path, settings.pictures)
                    tables.append(result.value.changes)
            save_results(folder, results, vstack(tables) if tables else None)
            yield len(sources), rows_of(results)

        return handle

    def finish(folder: RunFolder | None) -> None:
        assert folder is not None
        tables = saved_tables(folder)
        if tables:
            atomic_write_ecsv(folder.path / "changes.ecsv", vstack(tables))
        summary.n_instances = sum(map(len, tables))
        count(summary, folder)

    work = Work(DIFFERENCED, each(partial(_subtracted, known[0])), begin, finish)
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


def _subtracted(
    reference: Source, sources: Sequence[Source], settings: DiffSettings
) -> list[Result[_Subtracted]]:
    out: list[Result[_Subtracted]] = []
    known: Frame | None = None
    for source in sources:
        hashes = source_hashes(source)
        try:
            known = known or read_frame(reference, settings.read)
            frame = read_frame(source, settings.read)
            value, said = _one(frame, known, settings)
        except InputError as error:
            out.append(Result(source.id, None, str(error), hashes))
            continue
        out.append(Result(source.id, value, "", hashes, said))
    return out


def _one(
    frame: Frame, reference: Frame, settings: DiffSettings
) -> tuple[_Subtracted, tuple[str, ...]]:
    """One science image: aligned, subtracted, searched; what is to be said of it."""
    said: list[str] = []
    point = frame.psf
    if point is None:
        point, notes = psf_from_stars(frame)
        said += notes
    placed, note = aligned(reference, frame)
    said += [note] if note else []
    result = subtract_images(frame, placed, settings.part(SubtractSettings))
    psf = np.asarray(point.data, float)
    white = whitened(result, torch.as_tensor(psf))
    changes = detect_changes(result, white, psf, settings.threshold)
    changes.add_column(np.full(len(changes), frame.id, dtype=object), name="id", index=0)
    if frame.wcs is not None:
        ra, dec = sky_positions(frame.wcs, changes["x"], changes["y"])
        changes.add_columns([ra, dec], names=["ra", "dec"], indexes=[3, 3])
    return _Subtracted(frame, placed, result, white, changes), tuple(said)


def _write(name: str, one: _Subtracted, folder: Path, pictures: bool) -> None:
    result = one.result
    planes = {
        "DIFFERENCE": result.difference,
        "SIGMA": result.variance.sqrt(),
        "MASK": (~result.good).to(torch.uint8),
        "WHITENED": one.white.difference,
        "SCORE": one.white.score,
        "KERNEL": result.kernel.planes,
        "PSF": one.white.psf,
    }
    primary = fits.PrimaryHDU()
    scale, error = result.scale
    primary.header["CONVOLVD"] = (result.convolved, "image that was convolved")
    primary.header["SCALE"] = (scale, "flux in science of flux 1 in the reference")
    primary.header["SCALEERR"] = (error, "its 1-sigma error")
    hdus = [primary]
    for key, plane in planes.items():
        array = plane.numpy()
        hdu = fits.ImageHDU(array.astype("u1" if key == "MASK" else "f4"), name=key)
        if one.frame.wcs is not None and array.shape == one.frame.data.shape:
            hdu.header.extend(one.frame.wcs.to_header(relax=True).cards, update=True)
        hdus.append(hdu)
    buffer = io.BytesIO()
    fits.HDUList(hdus).writeto(buffer)
    atomic_write_bytes(folder / f"{file_stem(name)}_diff.fits", buffer.getvalue())
    if pictures:
        picture = triplet_png(
            one.reference, one.frame, result.difference.numpy(), result.variance.sqrt().numpy(),
            ~result.good.numpy(), one.changes,
        )  # fmt: skip
        atomic_write_bytes(folder / f"{file_stem(name)}_diff.png", picture)
