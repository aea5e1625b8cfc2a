"""Read one object (or frame): planes, masks, noise, PSF and header into `Stamp` or `Frame`.

Each file is read from disk once per object; its sha256 is handed on for the run's record.
"""

import contextlib
import math
import threading
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from astropy.wcs import WCS

from autofit_ml.errors import AutofitWarning, InputError
from autofit_ml.images.discover import discover
from autofit_ml.images.frame import cut_stamps
from autofit_ml.images.load import MIN_SIDE, Planes, finish_sigma, read_planes
from autofit_ml.images.memory import images_in_memory, is_paths, read_options, refuse_planes
from autofit_ml.images.object_psf import THREE_WAYS, choose_psf
from autofit_ml.images.psf import crop_psf
from autofit_ml.images.sky_coordinates import pixel_positions
from autofit_ml.images.source import Source
from autofit_ml.images.stamp import Frame, Stamp, VaryingPSF
from autofit_ml.images.star_psf import with_star_psf
from autofit_ml.options import called_with
from autofit_ml.settings import ReadCall, ReadOptions

__all__ = [
    "FRAME_SIDE",
    "ReadResult",
    "read",
    "read_frame",
    "read_item",
    "read_source",
]

_last = threading.local()
"""The frame that a thread read last, for further positions in it."""

FRAME_SIDE = 512
"""An image larger than this along either axis is a frame in mode "auto" (pixels)."""

MAX_STAMP_SIDE = 4096
"""A stamp larger than this is refused: one galaxy is not fitted on that many pixels."""

LARGEST_PSF = 8
"""A PSF image is at most this many times larger than the stamp along an axis."""


@dataclass(frozen=True)
class ReadResult:
    """A stamp or frame and what it was made from.

    Attributes
    ----------
    item : Stamp or Frame
    hashes : dict
        File (as given) -> sha256 of its bytes on disk.
    """

    item: Stamp | Frame
    hashes: dict[str, str] = field(default_factory=dict)

    @property
    def stamp(self) -> Stamp:
        """The stamp (TypeError if a frame was read)."""
        if not isinstance(self.item, Stamp):
            raise TypeError(f"{self.item.id} is a frame")
        return self.item

    @property
    def frame(self) -> Frame:
        """The frame (TypeError if a stamp was read)."""
        if not isinstance(self.item, Frame):
            raise TypeError(f"{self.item.id} is a stamp")
        return self.item


def read_source(source: Source, options: ReadOptions | None = None) -> ReadResult:
    """Read a source as what it is: a stamp, or (by size, preset or mode) a frame.

    A source with a position (manifest columns x, y or ra, dec) in an image larger than 512
    pixels is cut out of it.

    Parameters
    ----------
    source : Source
        From `discover`.
    options : ReadOptions, optional

    Returns
    -------
    ReadResult

    Raises
    ------
    InputError
        The object cannot be used; names the file and the remedy.
    """
    options = ReadOptions() if options is None else options
    if _has_position(source.overrides):
        return _read_positioned(source, options)
    planes = read_planes(source, options)
    if _kind(source, options, planes) == "frame":
        frame = _make_frame(source, options, planes)
        return ReadResult(frame, planes.files.hashes())
    return ReadResult(_make_stamp(source, options, planes), planes.files.hashes())


def _read_positioned(source: Source, options: ReadOptions) -> ReadResult:
    """The stamp around a position.

    Many positions of one frame are common: the frame that was read last is kept, until another
    is; so is the reason why it cannot be used.
    """
    key = _frame_key(source, options)
    frame: ReadResult | InputError
    if getattr(_last, "key", None) == key:
        frame = _last.frame
    else:
        _last.key = None
        planes = read_planes(source, options)
        if _kind(source, options, planes) != "frame":  # what is wrong with it may be the position
            return ReadResult(_make_stamp(source, options, planes), planes.files.hashes())
        try:
            item = _make_frame(source, options, planes)
            frame = ReadResult(item, planes.files.hashes())
        except InputError as error:
            frame = error
        _last.key, _last.frame = key, frame
    if isinstance(frame, InputError):
        raise frame
    x, y = _position(source.overrides, frame.item.wcs)
    detection = {"id": source.id, "x": x, "y": y, "radius": source.overrides.get("radius")}
    stamps = cut_stamps(frame.frame, [detection], options)
    return ReadResult(next(iter(stamps)).replace(id=source.id), frame.hashes)


def _frame_key(source: Source, options: ReadOptions) -> tuple:
    """Key of what a frame depends on: files with their times, values but the position, options."""
    planes = []
    for role, (path, hdu) in sorted(source.planes.items()):
        with contextlib.suppress(OSError):
            status = path.stat()
            planes.append((role, path, hdu, status.st_ino, status.st_size, status.st_mtime_ns))
    place = ("x", "y", "ra", "dec", "radius")
    values = sorted((name, value) for name, value in source.overrides.items() if name not in place)
    named = options.psf is None or isinstance(options.psf, (str, Path))
    chosen = options.replace(psf=None), repr(options.psf) if named else id(options.psf)
    content = tuple(source.content.items())
    return (*planes, *values, content, source.kind, source.survey, source.messages, *chosen)


def read_item(source: Source, options: ReadOptions | None = None) -> Stamp | Frame:
    """The image of `read_source`, without Python's warnings: what matters is in its messages."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return read_source(source, options).item


def read_frame(source: Source, options: ReadOptions | None = None) -> Frame:
    """Read a large image; its PSF is the plane's, the option's, or built from its stars.

    Parameters
    ----------
    source : Source
    options : ReadOptions, optional

    Raises
    ------
    InputError
        As `read_source`; also when a PSF has to be built and too few stars are found.
    """
    options = ReadOptions() if options is None else options
    return _make_frame(source, options, read_planes(source, options))


def _kind(source: Source, options: ReadOptions, planes: Planes) -> str:
    if options.mode != "auto":
        return options.mode
    if source.kind is not None:
        return source.kind
    return "frame" if max(planes.data.shape) > FRAME_SIDE else "stamp"


def _has_position(overrides: Mapping[str, Any]) -> bool:
    return ("x" in overrides and "y" in overrides) or ("ra" in overrides and "dec" in overrides)


def _position(overrides: Mapping[str, Any], wcs: WCS | None) -> tuple[float | None, float | None]:
    """Target position in file pixels, from x, y or from ra, dec through the WCS."""
    if "x" in overrides and "y" in overrides:
        return float(overrides["x"]), float(overrides["y"])
    if "ra" in overrides and "dec" in overrides:
        if wcs is None:
            raise InputError("ra and dec are given but the image has no WCS", "give x and y")
        ra, dec = float(overrides["ra"]), float(overrides["dec"])
        x, y = pixel_positions(wcs, np.array([ra]), np.array([dec]))
        if not math.isfinite(x[0] + y[0]):
            raise InputError(
                f"ra {ra:g}, dec {dec:g} are outside of the image's WCS",
                "give ICRS degrees inside the image, or x and y",
            )
        return float(x[0]), float(y[0])
    return None, None


def _final_arrays(planes: Planes) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """float32 data and sigma, finite everywhere; mask."""
    if planes.sigma is None:
        raise InputError("no noise", "give a sigma plane", planes.image_file)
    usable = ~planes.mask & (planes.sigma > 1.2e-38)
    if not usable.any():
        raise InputError("every pixel is masked", "check mask and sigma", planes.image_file)
    data = np.where(np.isfinite(planes.data), planes.data, 0.0).astype(np.float32)
    sigma = np.where(usable, planes.sigma, 1.0).astype(np.float32)
    if planes.background is not None:
        planes.background = planes.background.astype(np.float32)
    return data, sigma, ~usable


def _region(source: Source, planes: Planes) -> tuple[slice, slice]:
    """Rows and columns of the image that the stamp takes: all, as a rule."""
    ny, nx = planes.data.shape
    x0, x1, y0, y1 = source.overrides.get("region", (0, nx, 0, ny))
    x0, x1, y0, y1 = max(0, int(x0)), min(nx, int(x1)), max(0, int(y0)), min(ny, int(y1))
    if x1 - x0 < MIN_SIDE or y1 - y0 < MIN_SIDE:
        raise InputError(
            f"the region {source.overrides.get('region')} leaves no pixels of the {ny} x {nx} "
            "(ny, nx) image",
            "correct the region",
            planes.image_file,
        )
    return slice(y0, y1), slice(x0, x1)


def _make_stamp(source: Source, options: ReadOptions, planes: Planes) -> Stamp:
    window = _region(source, planes)
    if max(part.stop - part.start for part in window) > MAX_STAMP_SIDE:
        raise InputError(
            f"{planes.data.shape} pixels are too many for a stamp",
            "use --mode frame, or cut the object out",
            planes.image_file,
        )
    finish_sigma(planes, source, options, frame=False)
    data, sigma, mask = (array[window] for array in _final_arrays(planes))
    if mask.all():
        raise InputError("every pixel is masked", "check mask and sigma", planes.image_file)
    x, y = _position(source.overrides, planes.calibration.wcs)
    psf, psf_flags = choose_psf(planes, source, options, required=True)
    if isinstance(psf, VaryingPSF):
        middle = ((part.start + part.stop - 1) / 2 for part in window[::-1])
        place = (x, y) if x is not None and y is not None else tuple(middle)
        psf = psf.psf(*place)
        planes.messages.append(f"PSF model evaluated at pixel ({place[0]:.0f}, {place[1]:.0f})")
    if psf is None:
        raise InputError("no PSF", THREE_WAYS, planes.image_file)
    larger = float(np.max(np.divide(psf.data.shape, data.shape))) / psf.oversampling
    if larger > LARGEST_PSF:
        raise InputError(
            f"the PSF of {psf.data.shape} pixels is {larger:.0f} times larger than the stamp",
            "cut the PSF, or say how it is oversampled (--psf-oversampling)",
            planes.image_file,
        )
    psf, notes = crop_psf(psf, data.shape)
    planes.messages += notes
    wcs = planes.calibration.wcs
    x0, y0 = window[1].start, window[0].start
    if x is not None and y is not None:
        x, y = x - x0, y - y0
    ny, nx = data.shape
    if x is not None and y is not None and not (-0.5 <= x <= nx - 0.5 and -0.5 <= y <= ny - 0.5):
        raise InputError(
            f"the target position ({x:g}, {y:g}) is outside the {ny} x {nx} (ny, nx) image",
            "give 0-based x and y in the image's pixels",
            planes.image_file,
        )
    return Stamp(
        id=source.id,
        data=data,
        sigma=sigma,
        mask=mask,
        psf=psf,
        x=x,
        y=y,
        origin=(x0, y0),
        labels=None if planes.labels is None else planes.labels[window],
        target_label=planes.target,
        saturated=None if planes.saturated is None else planes.saturated[window],
        wcs=wcs if wcs is None or data.shape == planes.data.shape else wcs[window],
        background_sigma=None if planes.background is None else planes.background[window],
        **_common(source, planes, psf_flags),
    )


def _make_frame(source: Source, options: ReadOptions, planes: Planes) -> Frame:
    finish_sigma(planes, source, options, frame=True)
    arrays = _final_arrays(planes)
    psf, flags = choose_psf(planes, source, options, required=False)
    varying = psf if isinstance(psf, VaryingPSF) else None
    if isinstance(psf, VaryingPSF):
        ny, nx = planes.data.shape
        psf = psf.psf((nx - 1) / 2, (ny - 1) / 2)
    frame = Frame(
        source.id,
        *arrays,
        psf,
        varying,
        saturated=planes.saturated,
        wcs=planes.calibration.wcs,
        background_sigma=planes.background,
        mask_bits=planes.mask_bits,
        **_common(source, planes, flags),
    )
    if psf is None:
        # A Moffat profile is fitted later, where PyTorch is.
        named = options.psf if isinstance(options.psf, str) else None
        frame = with_star_psf(frame, "stack" if named == "moffat" else named)
    return frame


def _common(source: Source, planes: Planes, psf_flags: int) -> dict[str, Any]:
    """Attributes that stamps and frames share."""
    calibration = planes.calibration
    names = ("pixel_scale", "zeropoint", "filter", "gain", "unit")
    return {name: getattr(calibration, name) for name in names} | {
        "flags": planes.flags | psf_flags,
        "messages": tuple(dict.fromkeys([*planes.messages, *planes.files.messages])),
        "file": str(source.planes["image"][0]),
    }


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
