"""`fit`: the whole pipeline as one function."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from astropy.table import QTable

from autofit_ml.catalogue import table_to_qtable
from autofit_ml.errors import SettingsError
from autofit_ml.images.options import ReadOptions
from autofit_ml.runs import FitSettings

__all__ = ["fit", "settings_from"]


def fit(
    paths: str | Path | Iterable[str | Path] | None = None,
    out: str | Path | None = None,
    *,
    manifest: str | Path | None = None,
    restart: bool = False,
    **options: Any,
) -> QTable:
    """Fit every galaxy in `paths`.

    Parameters
    ----------
    paths : path or iterable of paths, optional
        FITS files, folders or globs. None: those of a manifest or a GALFIT file.
    out : path, optional
        Results folder (catalogue, pictures, report); a stopped run there is continued. None:
        nothing is written.
    manifest : path, optional
        Table of objects instead of `paths`.
    restart : bool
        Begin anew in a folder that holds results.
    **options
        Fields of `autofit_ml.runs.FitSettings` (``model="sersic+exp"`` or a
        `autofit_ml.scenes.Scene`, ``bands=("g", "r")``, ``sky="fixed"``, ``device="cuda"`` ...) and
        of `autofit_ml.images.ReadOptions` (``psf=...``, ``psf_fwhm=0.8``, ``survey="kids"`` ...).

    Returns
    -------
    astropy.table.QTable
        One row per object, failed ones included; columns with units and descriptions.

    Raises
    ------
    SettingsError
        Nothing to fit, an unknown option, or a folder that belongs to another run.
    KeyboardInterrupt
        Interrupted; with `out`, what is finished is kept.
    """
    from autofit_ml.runs import fit_run

    settings = settings_from(options)
    summary = fit_run(paths, out, settings, manifest=manifest, restart=restart)
    if summary.interrupted or summary.table is None:
        raise KeyboardInterrupt
    return table_to_qtable(summary.table)


def settings_from(options: dict[str, Any]) -> FitSettings:
    """`FitSettings` from a flat dictionary of its own fields and those of `ReadOptions`."""
    mine = {item.name for item in dataclasses.fields(FitSettings)} - {"read"}
    reading = {item.name for item in dataclasses.fields(ReadOptions)}
    unknown = sorted(set(options) - mine - reading)
    if unknown:
        raise SettingsError(
            f"unknown option {', '.join(unknown)}",
            f"options are: {', '.join(sorted(mine | reading))}",
        )
    read = ReadOptions(**{k: v for k, v in options.items() if k in reading})
    return FitSettings(read=read, **{k: v for k, v in options.items() if k in mine})
