"""`read`: stamps from paths in one call."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from pathlib import Path

from autofit_ml.errors import AutofitWarning, InputError, SettingsError
from autofit_ml.images.discover import discover
from autofit_ml.images.options import ReadOptions
from autofit_ml.images.reader import read_source
from autofit_ml.images.stamp import Stamp

__all__ = ["read"]


def read(
    paths: str | Path | Iterable[str | Path] | None = None,
    *,
    manifest: str | Path | None = None,
    errors: str = "raise",
    **options,
) -> list[Stamp]:
    """Stamps of all objects in files, folders, globs or a manifest.

    Parameters
    ----------
    paths : path or iterable of paths, optional
    manifest : path, optional
    errors : {"raise", "skip"}
        "skip": objects that cannot be read are left out, each with an `AutofitWarning`.
    **options
        Fields of `ReadOptions`.

    Returns
    -------
    list of Stamp
        In the order of `discover`.

    Raises
    ------
    InputError
        The first object that cannot be read (with ``errors="raise"``), or a frame: frames are
        read by `read_frame` and cut by `cut_stamps`.
    SettingsError
        Nothing found, or a wrong option.
    """
    if errors not in ("raise", "skip"):
        raise SettingsError(f"errors is {errors!r}", "use raise or skip")
    try:
        settings = ReadOptions(**options)
    except TypeError as error:
        raise SettingsError(f"unknown option: {error}", "see ReadOptions") from error
    stamps = []
    found = discover(paths, manifest=manifest, survey=settings.survey, mode=settings.mode)
    for source in found:
        try:
            item = read_source(source, settings).item
            if not isinstance(item, Stamp):
                raise InputError(
                    f"a frame of {item.data.shape} pixels, not a stamp",
                    "use read_frame and cut_stamps, or mode='stamp'",
                    source.file,
                )
        except InputError as error:
            if errors == "raise":
                raise
            warnings.warn(str(error), AutofitWarning, stacklevel=2)
            continue
        stamps.append(item)
    return stamps
