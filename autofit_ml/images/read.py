"""`read`: stamps from paths in one call."""

import warnings

from autofit_ml.errors import AutofitWarning, InputError
from autofit_ml.images.discover import discover
from autofit_ml.images.reader import read_source
from autofit_ml.images.stamp import Stamp
from autofit_ml.options import called_with
from autofit_ml.settings import ReadCall

__all__ = ["read"]


@called_with(ReadCall)
def read(call: ReadCall) -> list[Stamp]:
    """Stamps of all objects in files, folders, globs or a manifest.

    ``read(paths, *, manifest, errors, ...)``; every further keyword is one of
    `autofit_ml.settings.ReadOptions` (``survey="kids"``, ``psf_fwhm=0.8``, ``gain=2.5`` ...).

    Parameters
    ----------
    paths : path or iterable of paths, optional
    manifest : path, optional
    errors : {"raise", "skip"}
        "skip": objects that cannot be read are left out, each with an `AutofitWarning`.

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
    settings = call.read
    stamps = []
    found = discover(call.paths, manifest=call.manifest, survey=settings.survey, mode=settings.mode)
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
            if call.errors == "raise":
                raise
            warnings.warn(str(error), AutofitWarning, stacklevel=3)
            continue
        stamps.append(item)
    return stamps
