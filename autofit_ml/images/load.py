"""Load the planes of one object: arrays, masks, noise and calibration, checked.

In: a `Source`. Out: `Planes`, from which `autofit_ml.images.reader` makes a stamp or a frame.
"""

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits

from autofit_ml.catalogue.flags import Flag
from autofit_ml.errors import InputError, errors_of_file
from autofit_ml.images.fitsfile import FitsFile, HduInfo, image_array
from autofit_ml.images.gaps import constant_regions
from autofit_ml.images.header import Calibration, number_card, read_calibration
from autofit_ml.images.noise_plane import SENTINEL_VALUE, read_sigma
from autofit_ml.images.planes import (
    Grouping,
    OpenFiles,
    check_shape,
    group_hdus,
    plane_array,
    unused_hdus,
)
from autofit_ml.images.roles import is_fits_name
from autofit_ml.images.source import Source
from autofit_ml.images.survey_files import build_noise
from autofit_ml.measure import model_sigma
from autofit_ml.presets import SurveyPreset, survey_preset
from autofit_ml.settings import ReadOptions

__all__ = ["MIN_SIDE", "Planes", "finish_sigma", "read_planes"]


MIN_SIDE = 5
"""Smallest side of an image (pixels)."""


@dataclass
class Planes:
    """Planes of an object as its files hold them, in image units.

    Attributes
    ----------
    data : ndarray, float64, shape (ny, nx)
        Finite; 0 where bad.
    mask : ndarray of bool, shape (ny, nx)
        True = do not use.
    sigma : ndarray, float64, shape (ny, nx), or None
        None until `finish_sigma` has built it.
    saturated, labels, target
        As in `Stamp`.
    calibration : Calibration
        After manifest, options and preset.
    header : Header
        Of the image's HDU.
    psf_at : (path, HDU) or None
        Where the PSF plane is.
    flags : int
    messages : list of str
    files : OpenFiles
    preset : SurveyPreset or None
    image_file : Path
    background : ndarray, float64, shape (ny, nx), or None
        As ``background_sigma`` of a `Stamp`.
    mask_bits : ndarray, int64, shape (ny, nx), or None
        As in `Frame`.
    """

    data: np.ndarray
    mask: np.ndarray
    sigma: np.ndarray | None
    saturated: np.ndarray | None
    labels: np.ndarray | None
    target: int | None
    calibration: Calibration
    header: fits.Header
    psf_at: tuple[Path, int | str | None] | None
    flags: int
    messages: list[str]
    files: OpenFiles
    preset: SurveyPreset | None
    image_file: Path
    background: np.ndarray | None = None
    mask_bits: np.ndarray | None = None


def read_planes(source: Source, options: ReadOptions) -> Planes:
    """Read and check every plane but the PSF.

    Raises
    ------
    InputError
        Anything that makes the object unusable.
    """
    if source.problem is not None:
        raise source.problem
    preset_name = options.survey or source.survey
    preset = survey_preset(preset_name) if preset_name else None
    files = OpenFiles(source.content)
    messages: list[str] = list(source.messages)
    planes = _resolve_planes(source, files, preset, messages)
    image_path, image_key = planes["image"]
    image_file = files.open(image_path)
    info = image_file.find(image_key)  # type: ignore[arg-type]
    data, notes = image_array(image_file, info, "image")
    messages += notes
    data = np.asarray(data, dtype=np.float64)
    _check_size(data, image_path)

    hdu = image_file.hdus[info.index]
    header = hdu.header
    primary = image_file.hdus[0].header
    headers = [header] if info.index == 0 else [header, primary]
    calibration = read_calibration(headers, getattr(hdu, "text", ""))
    messages += calibration.messages
    calibration = _with_overrides(calibration, source, options, preset, messages)

    finite = np.isfinite(data) & (np.abs(data) < SENTINEL_VALUE)
    mask, bits = ~finite, None
    n_bad = int(mask.sum())
    if n_bad == data.size:
        raise InputError(
            "no finite pixel (all NaN, infinite or beyond 1e30)", "check the image", image_path
        )
    if n_bad:
        messages.append(f"{n_bad} NaN, infinite or absurd pixels masked")
        data[mask] = 0.0
    good_values = data[finite]
    if good_values.size > 1 and good_values.min() == good_values.max():
        raise InputError(
            f"the image is constant ({good_values[0]:g} everywhere)", "check the image", image_path
        )
    if np.abs(good_values).max() < 1e-35:
        raise InputError(
            "pixel values are below the range of single precision",
            "multiply image, sigma and zero point's unit by a power of ten",
            image_path,
        )

    if "mask" in planes:
        bad, bits = _read_mask(planes["mask"], files, data.shape, info, preset, options, messages)
        mask |= bad
    saturated = _saturated(data, mask, calibration, messages)
    if saturated is not None:
        mask |= saturated
    gaps, full, said = constant_regions(data, mask)
    messages += said
    mask |= gaps | full
    if full.any():
        saturated = full if saturated is None else saturated | full
    if mask.all():
        raise InputError("every pixel is masked", "check the mask", image_path)

    labels = target = None
    if "seg" in planes:
        labels, seg_target = _read_labels(planes["seg"], files, data.shape, info, messages)
        told = (source.overrides.get("target"), seg_target, calibration.target)
        target = next((int(label) for label in told if label is not None), None)
        if target is not None and not np.any(labels == target):
            messages.append(f"TARGET={target} is not in the segmentation, ignored")
            target = None

    sigma, estimated = None, False
    if options.noise == "given":
        sigma, estimated = read_sigma(planes, files, data, mask, info, messages)
    if sigma is None and options.sigma is not None:
        sigma = np.full(data.shape, float(options.sigma))
    return Planes(
        data=data,
        mask=mask,
        sigma=sigma,
        saturated=saturated,
        labels=labels,
        target=target,
        calibration=calibration,
        header=header,
        psf_at=planes.get("psf"),
        flags=int(Flag.SIGMA_ESTIMATED) if estimated else 0,
        messages=messages,
        files=files,
        preset=preset,
        image_file=image_path,
        mask_bits=bits,
    )


def _resolve_planes(
    source: Source, files: OpenFiles, preset: SurveyPreset | None, messages: list[str]
) -> dict[str, tuple[Path, int | str | None]]:
    """Fill in the HDU of every plane; add planes found beside the image in its own file."""
    planes = dict(source.planes)
    if "image" not in planes:
        raise InputError("no image plane", "add the image, or name it in a manifest")
    path, key = planes["image"]
    file = files.open(path)
    grouping = group_hdus(file.infos)
    if key is None:
        group = _only_group(grouping, file, messages)
        planes["image"] = (path, group["image"])
    else:
        wanted = file.find(key).index
        group = next((g for _, g in grouping.objects if g["image"] == wanted), {"image": wanted})
    if source.psf_shared and "psf" in group:
        del planes["psf"]
    elif source.psf_shared:
        messages.append(f"PSF shared by the folder: {planes['psf'][0].name}")
    for role, index in group.items():
        planes.setdefault(role, (path, index))
    if len(grouping.objects) == 1 and not (preset is not None and preset.noise):
        own = [at for where, at in planes.values() if where == path and at is not None]
        mine = {file.find(at).index for at in own}
        messages += unused_hdus(file.path, [i for i in grouping.unused if i.index not in mine])
    return planes


def _only_group(grouping: Grouping, file: FitsFile, messages: list[str]) -> dict[str, int]:
    if grouping.problem:
        raise InputError(grouping.problem, "give each plane once", file.path)
    if not grouping.objects:
        raise InputError(
            "no image HDU (" + (grouping.why_none or "nothing in the file") + ")",
            "give a FITS image",
            file.path,
        )
    if len(grouping.objects) > 1:
        first = grouping.objects[0][0]
        messages.append(
            f"{len(grouping.objects)} images in the file: only {first or 'the first'} is used"
        )
    return dict(grouping.objects[0][1])


def _check_size(data: np.ndarray, path: Path) -> None:
    if data.size == 0:
        raise InputError("the image is empty", "check NAXIS1 and NAXIS2", path)
    if min(data.shape) < MIN_SIDE:
        raise InputError(
            f"the image is too small {data.shape}",
            f"cut stamps of at least {MIN_SIDE} pixels a side, better 10 half-light radii",
            path,
        )


def _read_mask(
    plane: tuple[Path, int | str | None],
    files: OpenFiles,
    shape: tuple[int, ...],
    image_info: HduInfo,
    preset: SurveyPreset | None,
    options: ReadOptions,
    messages: list[str],
) -> tuple[np.ndarray, np.ndarray | None]:
    """True = bad: non-zero, after leaving out the bits that the options or preset ignore.

    And the bits themselves, of an integer mask with more than one. A text file lists bad pixels, as
    GALFIT reads them.
    """
    if not is_fits_name(plane[0]) and plane[0] not in files.content:
        return _listed_pixels(plane[0], shape), None
    values, file, info = plane_array(plane, "mask", files, image_info, messages)
    check_shape(values, shape, "mask", plane[0])
    header = file.hdus[info.index].header
    ignore = options.mask_ignore_bits
    if ignore is None and preset is not None:
        ignore = preset.ignored_bits(header)
    if values.dtype.kind == "f":
        values = np.where(np.isfinite(values), values, 1.0)
    whole = values.dtype.kind in "iu" and values.max(initial=0) > 1
    bits = values.astype(np.int64) if whole else None
    if ignore:
        values = values.astype(np.int64) & ~np.int64(ignore)
    return values != 0, bits


def _listed_pixels(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """Bad pixels from the lines "x y" of a text file, counted from 1; those outside are skipped."""
    try:
        x, y = np.loadtxt(path, usecols=(0, 1), ndmin=2).T
    except (OSError, ValueError) as error:
        raise InputError(
            f"the mask is neither a FITS image nor a list of pixels ({error})",
            "give lines of x and y, counted from 1",
            path,
        ) from None
    column, row = np.rint(x).astype(int) - 1, np.rint(y).astype(int) - 1
    inside = (column >= 0) & (column < shape[1]) & (row >= 0) & (row < shape[0])
    mask = np.zeros(shape, bool)
    mask[row[inside], column[inside]] = True
    return mask


def _read_labels(
    plane: tuple[Path, int | str | None],
    files: OpenFiles,
    shape: tuple[int, ...],
    image_info: HduInfo,
    messages: list[str],
) -> tuple[np.ndarray, int | None]:
    values, file, info = plane_array(plane, "seg", files, image_info, messages)
    check_shape(values, shape, "segmentation", plane[0])
    labels = values
    if not np.can_cast(values.dtype, np.int32):
        labels = np.nan_to_num(np.asarray(values, np.float64), nan=0.0, posinf=0.0, neginf=0.0)
        if np.any(labels != np.rint(labels)) or np.any(np.abs(labels) > 2**31 - 1):
            raise InputError(
                "the segmentation holds numbers that are not labels",
                "give whole numbers, 0 for sky",
                plane[0],
            )
    target = number_card([file.hdus[info.index].header], ("TARGET",), messages)
    return labels.astype(np.int32), int(target) if math.isfinite(target) else None


def _saturated(
    data: np.ndarray, mask: np.ndarray, calibration: Calibration, messages: list[str]
) -> np.ndarray | None:
    """Pixels at or above SATURATE; the card counts the sky that was subtracted (SKYSUB)."""
    level = calibration.saturate
    if not math.isfinite(level):
        return None
    removed = calibration.sky_subtracted if math.isfinite(calibration.sky_subtracted) else 0.0
    saturated = (data + removed >= level) & ~mask
    fraction = saturated.sum() / max(1, (~mask).sum())
    if fraction > 0.5:
        messages.append(f"SATURATE={level:g} would mask {100 * fraction:.0f} % of pixels, ignored")
        return None
    if saturated.any():
        messages.append(f"{int(saturated.sum())} saturated pixels masked")
    return saturated


_CALIBRATED = (
    *("zeropoint", "pixel_scale", "gain", "rdnoise", "saturate"),
    *("sky_subtracted", "sky_level", "exptime", "filter"),
)


def _with_overrides(
    calibration: Calibration,
    source: Source,
    options: ReadOptions,
    preset: SurveyPreset | None,
    messages: list[str],
) -> Calibration:
    """Manifest over options over header over preset."""
    changes: dict[str, Any] = {}
    for name in _CALIBRATED:
        given = (source.overrides.get(name), getattr(options, name, None))
        value = next((one for one in given if one is not None), None)
        current = getattr(calibration, name)
        missing = current == "" if isinstance(current, str) else not math.isfinite(current)
        if value is None and missing and preset is not None:
            value = preset.default(name, calibration.filter)
            if value is not None and name in ("zeropoint", "gain", "pixel_scale"):
                messages.append(f"{name} {value:g} from the preset {preset.name}")
        if value is not None:
            changes[name] = value
    return dataclasses.replace(calibration, **changes)


def finish_sigma(planes: Planes, source: Source, options: ReadOptions, frame: bool) -> None:
    """Build sigma where none was given, and flag it."""
    if planes.sigma is not None:
        return
    calibration = planes.calibration
    preset = planes.preset
    if preset is not None and options.noise == "given":
        file = planes.files.open(planes.image_file)
        sigma, notes = build_noise(preset, planes.data, planes.mask, file, calibration)
        planes.messages += notes
        if sigma is not None:
            bad = ~np.isfinite(sigma) | (sigma <= 0)
            planes.mask |= bad
            planes.sigma = np.where(bad, 1.0, sigma)
            return
    with errors_of_file(planes.image_file):
        planes.sigma, planes.background, notes = model_sigma(
            planes.data,
            planes.mask,
            gain=calibration.gain,
            rdnoise=calibration.rdnoise,
            sky_subtracted=calibration.sky_subtracted,
            sky_level=calibration.sky_level,
            varying=frame,
        )
    planes.messages += notes
    planes.flags |= int(Flag.SIGMA_ESTIMATED)
