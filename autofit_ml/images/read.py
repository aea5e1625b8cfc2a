"""`read`: stamps from paths in one call."""

import warnings

from autofit_ml.errors import AutofitWarning, InputError
from autofit_ml.images.discover import discover
from autofit_ml.images.memory import images_in_memory, is_paths, read_options, refuse_planes
from autofit_ml.images.reader import read_source
from autofit_ml.images.stamp import Stamp
from autofit_ml.options import called_with
from autofit_ml.settings import ReadCall, ReadOptions

__all__ = ["read"]


@called_with(ReadCall)
def read(call: ReadCall) -> list[Stamp]:
    """Read stamps from files, folders, globs or a manifest, or make them of images in memory.

    Parameters
    ----------
    data : path or iterable of paths, or images, optional
        Images in memory as `autofit_ml.fit` takes them.

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
    if is_paths(call.data):
        refuse_planes(call)
        settings = call.part(ReadOptions)
        found = discover(
            call.data, manifest=call.manifest, survey=settings.survey, mode=settings.mode
        )
    else:
        settings = read_options(call)
        found = images_in_memory(call.data, call)
    stamps = []
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
