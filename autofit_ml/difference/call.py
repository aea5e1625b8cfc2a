"""`light_curve`: light curves of images in memory or in files, in one call."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

from autofit_ml.difference.epochs import observed, places
from autofit_ml.difference.light_curve import LightCurve, light_curve_of, measure_epoch, with_psf
from autofit_ml.errors import SettingsError
from autofit_ml.images import Source, discover, read_frame
from autofit_ml.images.memory import images_in_memory, is_paths
from autofit_ml.images.stamp import Frame
from autofit_ml.options import called_with
from autofit_ml.settings import InMemory, LightCurveCall, LightCurveOptions, ReadOptions

__all__ = ["light_curve"]


@called_with(LightCurveCall)
def light_curve(call: LightCurveCall) -> LightCurve | list[LightCurve]:
    """Measure the flux of a source in images of many epochs.

    Parameters
    ----------
    images : list of Frame, of images as `autofit_ml.fit` takes them, or of paths
        One for each epoch, of one band. Images with a WCS need not share pixels.
    at : str, path, table, or array_like (2,) or (n, 2)
        Where: ra and dec in degrees where the reference has a WCS, else x and y; ``"RA,DEC"``,
        ``"pixel:X,Y"``, or a table with the columns ``ra`` and ``dec`` or ``x`` and ``y``.

    Returns
    -------
    LightCurve
        For several positions a list of them.

    Raises
    ------
    SettingsError
        No images or no position, or lists of different lengths.
    InputError
        An image cannot be read or measured.
    """
    if call.images is None or call.at is None:
        raise SettingsError("images or position missing", "give a list of images and a position")
    frames, times = _frames(call.images, call)
    if call.times is not None:
        times = [float(value) for value in np.atleast_1d(np.asarray(call.times, float))]
        if len(times) != len(frames):
            raise SettingsError(
                f"{len(times)} times for {len(frames)} images", "give one for each image"
            )
    own = call.reference is not None
    reference = frames[0]
    if own:
        given = call.reference
        several = given if isinstance(given, list) else [given]
        shared = dataclasses.replace(call, sigma=_shared(call.sigma), psf=_shared(call.psf))
        (reference,), _ = _frames(several, dataclasses.replace(shared, mask=None, wcs=None))
    reference = with_psf(reference)[0]
    if not own:
        frames[0] = reference
    settings = call.part(LightCurveOptions)
    where = places(call.at, reference)
    measured = [
        measure_epoch(frame, reference, where, settings, time=when)
        for frame, when in zip(frames, times, strict=True)
    ]
    if own:
        measured.append(measure_epoch(reference, reference, where, settings, name=""))
    zeropoint = reference.zeropoint if call.zeropoint is None else call.zeropoint
    curves = [
        light_curve_of(measured, k, str(name), settings, zeropoint)
        for k, name in enumerate(where["name"])
    ]
    return curves[0] if len(curves) == 1 else curves


def _shared(value: Any) -> Any:
    """A value that was given for all images; those of single images are not the reference's."""
    return None if isinstance(value, (list, tuple)) else value


def _frames(images: Any, call: LightCurveCall) -> tuple[list[Frame], list[float]]:
    """Frames and their dates."""
    if isinstance(images, (list, tuple)) and all(isinstance(one, Frame) for one in images):
        return list(images), [math.nan] * len(images)
    planes = {name: getattr(call, name) for name in ("sigma", "mask", "psf", "wcs")}
    given = {name: value for name, value in planes.items() if value is not None}
    options, sources = ReadOptions(mode="frame"), list[Source]()
    if is_paths(images):
        if given.keys() - {"psf"}:
            raise SettingsError(
                f"{', '.join(given)} with images in files", "put the planes beside the images"
            )
        options = ReadOptions(mode="frame", psf=_shared(call.psf))
        sources += discover(images, mode="frame").sources
    else:
        sources += images_in_memory(list(images), InMemory(**given)).sources
    return [read_frame(one, options) for one in sources], [observed(one) for one in sources]
