"""`diff_run`: a reference subtracted from images of other epochs, and what has changed."""

import io
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from astropy.io import fits
from astropy.table import QTable, vstack

from autofit_ml.catalogue import atomic_write_bytes, atomic_write_ecsv, file_stem
from autofit_ml.difference import Subtraction, subtract_frames
from autofit_ml.difference.result import MASK_BITS
from autofit_ml.errors import InputError, SettingsError
from autofit_ml.images import Source, discover, read_frame
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


Found = tuple[Subtraction, QTable]
"""A science image's difference, and what has changed."""


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
        PSF; MASK_SCIENCE and MASK_REFERENCE: bits of the masks of the images), ``<id>_diff.png``
        and ``changes.ecsv``. A run that stopped there is continued.
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

    def begin(folder: RunFolder | None) -> Handle[list[Result[Found]]]:
        def handle(
            sources: Sequence[Source], results: list[Result[Found]]
        ) -> Iterator[tuple[int, Mapping[str, Any]]]:
            assert folder is not None
            tables = []
            for result in results:
                if result.value is not None:
                    _write(result.id, *result.value, folder.path, settings.pictures)
                    tables.append(result.value[1])
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
) -> list[Result[Found]]:
    out: list[Result[Found]] = []
    known: Frame | None = None
    for source in sources:
        hashes = source_hashes(source)
        try:
            known = known or read_frame(reference, settings.read)
            frame = read_frame(source, settings.read)
            value = subtract_frames(frame, known, settings.part(SubtractSettings))
            changes = value.changes(settings.threshold)
        except InputError as error:
            out.append(Result(source.id, None, str(error), hashes))
            continue
        changes.add_column(np.full(len(changes), source.id, dtype=object), name="id", index=0)
        out.append(Result(source.id, (value, changes), "", hashes, value.messages))
    return out


def _write(name: str, one: Subtraction, changes: QTable, folder: Path, pictures: bool) -> None:
    result, white = one.result, one.whitened
    planes = {
        "DIFFERENCE": result.difference,
        "SIGMA": result.variance.sqrt(),
        "MASK": torch.as_tensor(one.bits),
        "WHITENED": white.difference,
        "SCORE": white.score,
        "KERNEL": result.kernel.planes,
        "PSF": white.psf,
    }
    for image, frame in (("SCIENCE", one.science), ("REFERENCE", one.reference)):
        if frame.mask_bits is not None:
            planes[f"MASK_{image}"] = torch.as_tensor(frame.mask_bits)
    primary = fits.PrimaryHDU()
    scale, error = result.scale
    primary.header["CONVOLVD"] = (result.convolved, "image that was convolved")
    for image, value in result.amplified.items():
        card = f"AMP{image[:3].upper()}"
        primary.header[card] = (value, f"noise amplified if {image} is convolved")
    primary.header["SCALE"] = (scale, "flux in science of flux 1 in the reference")
    primary.header["SCALEERR"] = (error, "its 1-sigma error")
    hdus = [primary]
    for key, plane in planes.items():
        array = plane.numpy()
        kind = {"MASK": "u1"}.get(key, "i4" if key.startswith("MASK") else "f4")
        hdu = fits.ImageHDU(array.astype(kind), name=key)
        if key == "MASK":
            for what, bit in MASK_BITS.items():
                hdu.header[f"BIT_{bit}"] = what
        if one.science.wcs is not None and array.shape == one.science.data.shape:
            hdu.header.extend(one.science.wcs.to_header(relax=True).cards, update=True)
        hdus.append(hdu)
    buffer = io.BytesIO()
    fits.HDUList(hdus).writeto(buffer)
    atomic_write_bytes(folder / f"{file_stem(name)}_diff.fits", buffer.getvalue())
    if pictures:
        picture = triplet_png(
            one.reference, one.science, result.difference.numpy(), result.variance.sqrt().numpy(),
            ~result.good.numpy(), changes,
        )  # fmt: skip
        atomic_write_bytes(folder / f"{file_stem(name)}_diff.png", picture)
