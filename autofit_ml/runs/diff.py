"""`diff_run`: a reference subtracted from images of other epochs, and what has changed."""

import functools
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from astropy.io import fits
from astropy.table import QTable

from autofit_ml.catalogue import (
    atomic_write_bytes,
    atomic_write_ecsv,
    atomic_write_fits,
    file_stem,
)
from autofit_ml.difference import Subtraction, subtract_frames
from autofit_ml.difference.result import MASK_BITS
from autofit_ml.errors import SettingsError
from autofit_ml.images import Source, discover, read_frame
from autofit_ml.report.changes_page import Subtracted, write_changes_page
from autofit_ml.report.triplet import cutouts_png, triplet_png
from autofit_ml.runs.folder import RunFolder
from autofit_ml.runs.identity import identity_of, source_hashes
from autofit_ml.runs.kinds import DIFFERENCED
from autofit_ml.runs.results import Result, one_by_one, run_each
from autofit_ml.runs.sources import inputs_of
from autofit_ml.runs.summary import Progress, RunSummary
from autofit_ml.settings import DiffSettings, Paths, Selected, SubtractSettings

__all__ = ["diff_run", "single_image"]

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
        PSF; MASK_SCIENCE and MASK_REFERENCE: bits of the masks of the images), ``changes.ecsv``,
        pictures ``<id>_diff.png`` and ``<id>_changes.png``, and the page ``report.html``. A run
        that stopped there is continued.
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
    settings = (settings or DiffSettings()).replace(mode="frame")
    found = inputs_of(paths, manifest, survey=settings.survey, mode="frame")
    known = single_image(reference, settings.survey)
    hashes = source_hashes(known)
    identity = identity_of(settings) | {"reference": " ".join(sorted(hashes.values()))}
    return run_each(
        found, DIFFERENCED, one_by_one(partial(_subtracting, known)), settings, identity, out,
        save=partial(_write, settings.pictures), finish=partial(_finish, settings.pictures),
        restart=restart, only=only, progress=progress,
    )  # fmt: skip


def single_image(path: str | Path, survey: str | None) -> Source:
    """The one image that is given as the reference.

    Raises
    ------
    SettingsError
        None, or several.
    """
    known = discover([path], survey=survey, mode="frame").sources
    if len(known) != 1:
        raise SettingsError(f"{len(known)} images are given as the reference", "give one image")
    return known[0]


def _subtracting(reference: Source, settings: DiffSettings) -> Callable[[Source], Result[Found]]:
    known = functools.cache(lambda: read_frame(reference, settings.read))

    def subtracted(source: Source) -> Result[Found]:
        science = read_frame(source, settings.read)
        value = subtract_frames(science, known(), settings.part(SubtractSettings))
        changes = value.changes(settings.threshold)
        changes.add_column(np.full(len(changes), source.id, dtype=object), name="id", index=0)
        return Result(source.id, (value, changes), "", source_hashes(source), value.messages)

    return subtracted


def _write(pictures: bool, folder: RunFolder | None, done: Result[Found], value: Found) -> QTable:
    assert folder is not None
    stem, (one, changes) = folder.path / file_stem(done.id), value
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
    for image, noise in result.amplified.items():
        card = f"AMP{image[:3].upper()}"
        primary.header[card] = (noise, f"noise amplified if {image} is convolved")
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
    atomic_write_fits(f"{stem}_diff.fits", hdus)
    if pictures:
        shown = (
            one.reference, one.science, result.difference.numpy(), result.variance.sqrt().numpy(),
            ~result.good.numpy(), changes,
        )  # fmt: skip
        atomic_write_bytes(f"{stem}_diff.png", triplet_png(*shown))
        if len(changes):
            atomic_write_bytes(f"{stem}_changes.png", cutouts_png(*shown))
    return changes


def _finish(
    pictures: bool, folder: RunFolder | None, table: QTable | None, summary: RunSummary
) -> None:
    if folder is None or table is None:
        return
    atomic_write_ecsv(folder.path / "changes.ecsv", table)
    if pictures:
        images = [
            _subtracted(folder.path, name, summary.warnings.get(name, []))
            for name in folder.done
            if name not in summary.failures
        ]
        summary.report = folder.path / "report.html"
        write_changes_page(
            summary.report, images, table, summary.failures, title=folder.path.resolve().name
        )


def _subtracted(folder: Path, name: str, messages: Sequence[str]) -> Subtracted:
    """An image by the header of its difference."""
    header = fits.getheader(folder / f"{file_stem(name)}_diff.fits")
    return Subtracted(
        name, header["SCALE"], header["SCALEERR"], header["CONVOLVD"], tuple(messages)
    )
