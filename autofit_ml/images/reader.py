"""Read one object (or frame): planes, masks, noise, PSF and header into `Stamp` or `Frame`.

Each file is read from disk once per object; its sha256 is handed on for the run's record.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits

from autofit_ml.catalogue.flags import Flag
from autofit_ml.errors import InputError
from autofit_ml.images.background import background_map, measure_sky
from autofit_ml.images.fitsfile import FitsFile, HduInfo, image_array, open_fits
from autofit_ml.images.frame import cut_stamps
from autofit_ml.images.header import Calibration, number_card, read_calibration
from autofit_ml.images.noise import expected_source, model_sigma
from autofit_ml.images.options import FRAME_SIDE, MAX_STAMP_SIDE, MIN_SIDE, ReadOptions
from autofit_ml.images.planes import Grouping, group_hdus
from autofit_ml.images.psf import centre_psf, crop_psf, moffat_psf, no_psf
from autofit_ml.images.roles import NOISE_PLANES
from autofit_ml.images.source import Source
from autofit_ml.images.stamp import PSF, Frame, Stamp
from autofit_ml.images.stars import psf_from_stars
from autofit_ml.images.surveys import SurveyPreset, survey_preset

__all__ = ["ReadResult", "read_frame", "read_source", "read_stamp", "read_stamp_with_hashes"]

SENTINEL_SIGMA = 1e10
"""A sigma this large stands for "no weight"."""

SENTINEL_VALUE = 1e30
"""A pixel this large stands for "no data" (SExtractor's and others' convention)."""

THREE_WAYS = "give a PSF plane (<name>_psf.fits), --psf FILE, or --psf-fwhm ARCSEC"


@dataclass(frozen=True)
class ReadResult:
    """A stamp or frame and what it was made from.

    Attributes
    ----------
    item : Stamp or Frame
    hashes : dict
        File (as given) -> sha256 of its bytes on disk.
    psf_at : callable or None
        PSF at position (x, y) of a frame, where the survey's PSF format has it; for `cut_stamps`.
    """

    item: Stamp | Frame
    hashes: dict[str, str] = field(default_factory=dict)
    psf_at: Callable[[float, float], PSF] | None = None

    @property
    def stamp(self) -> Stamp:
        """The stamp (TypeError if a frame was read)."""
        if not isinstance(self.item, Stamp):
            raise TypeError(f"{self.item.id} is a frame")
        return self.item


@dataclass
class _Files:
    """Files of one object, opened once each."""

    opened: dict[Path, FitsFile] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)

    def open(self, path: Path) -> FitsFile:
        if path not in self.opened:
            file = open_fits(path)
            self.opened[path] = file
            self.messages.extend(file.messages)
        return self.opened[path]

    def hashes(self) -> dict[str, str]:
        return {str(path): file.sha256 for path, file in self.opened.items()}


@dataclass
class _Planes:
    """Arrays common to stamps and frames."""

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
    files: _Files
    preset: SurveyPreset | None
    image_file: Path


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
    planes = _read_planes(source, options)
    kind = _kind(source, options, planes)
    if kind == "frame" and _has_position(source.overrides):
        frame = _make_frame(source, options, planes)
        x, y = _position(source.overrides, planes.calibration)
        detection = {"id": source.id, "x": x, "y": y, "radius": source.overrides.get("radius")}
        psf_at = _varying_psf(planes, options)
        stamp = next(iter(cut_stamps(frame, [detection], options, psf_at=psf_at)))
        return ReadResult(stamp.replace(id=source.id), planes.files.hashes())
    if kind == "frame":
        frame = _make_frame(source, options, planes)
        return ReadResult(frame, planes.files.hashes(), _varying_psf(planes, options))
    return ReadResult(_make_stamp(source, options, planes), planes.files.hashes())


def read_stamp(source: Source, options: ReadOptions | None = None) -> Stamp:
    """Read one object's planes into a `Stamp`, whatever its size up to 4096 pixels a side.

    Parameters
    ----------
    source : Source
        From `discover`.
    options : ReadOptions, optional

    Raises
    ------
    InputError
        Anything that makes the object unusable; names the file and the remedy.
    """
    return read_stamp_with_hashes(source, options).stamp


def read_stamp_with_hashes(source: Source, options: ReadOptions | None = None) -> ReadResult:
    """As `read_stamp`, with the sha256 of every file read."""
    options = ReadOptions() if options is None else options
    planes = _read_planes(source, options)
    return ReadResult(_make_stamp(source, options, planes), planes.files.hashes())


def read_frame(source: Source, options: ReadOptions | None = None) -> Frame:
    """Read a large image; its PSF is the plane's, the option's, or built from its stars.

    Parameters
    ----------
    source : Source
    options : ReadOptions, optional

    Raises
    ------
    InputError
        As `read_stamp`; also when a PSF has to be built and too few stars are found.
    """
    options = ReadOptions() if options is None else options
    return _make_frame(source, options, _read_planes(source, options))


def _kind(source: Source, options: ReadOptions, planes: _Planes) -> str:
    if options.mode != "auto":
        return options.mode
    if source.kind is not None:
        return source.kind
    return "frame" if max(planes.data.shape) > FRAME_SIDE else "stamp"


def _has_position(overrides: Mapping[str, Any]) -> bool:
    return ("x" in overrides and "y" in overrides) or ("ra" in overrides and "dec" in overrides)


def _position(
    overrides: Mapping[str, Any], calibration: Calibration
) -> tuple[float | None, float | None]:
    """Target position in file pixels, from x, y or from ra, dec through the WCS."""
    if "x" in overrides and "y" in overrides:
        return float(overrides["x"]), float(overrides["y"])
    if "ra" in overrides and "dec" in overrides:
        if calibration.wcs is None:
            raise InputError("ra and dec are given but the image has no WCS", "give x and y")
        x, y = calibration.wcs.wcs_world2pix(
            [[float(overrides["ra"]), float(overrides["dec"])]], 0
        )[0]
        return float(x), float(y)
    return None, None


# --- planes ---------------------------------------------------------------------------------


def _read_planes(source: Source, options: ReadOptions) -> _Planes:
    if source.problem is not None:
        raise source.problem
    preset_name = options.survey or source.survey
    preset = survey_preset(preset_name) if preset_name else None
    files = _Files()
    messages: list[str] = list(source.messages)
    planes = _resolve_planes(source, files, preset, messages)
    image_path, image_key = planes["image"]
    image_file = files.open(image_path)
    info = image_file.find(image_key)  # type: ignore[arg-type]
    data, notes = image_array(image_file, info, "image")
    messages += notes
    data = np.asarray(data, dtype=np.float64)
    _check_size(data, image_path)

    header = image_file.hdus[info.index].header
    primary = image_file.hdus[0].header
    headers = [header] if info.index == 0 else [header, primary]
    calibration = read_calibration(headers)
    messages += calibration.messages
    calibration = _with_overrides(calibration, source, options, preset, messages)

    finite = np.isfinite(data) & (np.abs(data) < SENTINEL_VALUE)
    mask = ~finite
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
        mask |= _read_mask(planes["mask"], files, data.shape, info, preset, options, messages)
    saturated = _saturated(data, mask, calibration, messages)
    if saturated is not None:
        mask |= saturated
    if mask.all():
        raise InputError("every pixel is masked", "check the mask", image_path)

    labels, target = None, calibration.target
    if "seg" in planes:
        labels, seg_target = _read_labels(planes["seg"], files, data.shape, info, messages)
        target = seg_target if seg_target is not None else target
        wanted = source.overrides.get("target")
        target = int(wanted) if wanted is not None else target
        if target is not None and not np.any(labels == target):
            messages.append(f"TARGET={target} is not in the segmentation, ignored")
            target = None
    else:
        target = None

    flags = 0
    sigma = None
    if options.noise == "given":
        sigma, estimated = _read_sigma(planes, files, data, mask, info, messages)
        flags |= int(Flag.SIGMA_ESTIMATED) if estimated else 0
    if sigma is None and options.sigma is not None:
        sigma = np.full(data.shape, float(options.sigma))
    return _Planes(
        data=data,
        mask=mask,
        sigma=sigma,
        saturated=saturated,
        labels=labels,
        target=target,
        calibration=calibration,
        header=header,
        psf_at=planes.get("psf"),
        flags=flags,
        messages=messages,
        files=files,
        preset=preset,
        image_file=image_path,
    )


def _resolve_planes(
    source: Source, files: _Files, preset: SurveyPreset | None, messages: list[str]
) -> dict[str, tuple[Path, int | str | None]]:
    """Fill in the HDU of every plane; add planes found beside the image in its own file."""
    planes = dict(source.planes)
    if "image" not in planes:
        raise InputError("no image plane", "add the image, or name it in a manifest")
    path, key = planes["image"]
    if key is None:
        file = files.open(path)
        group = _only_group(group_hdus(file.infos), file, messages)
        for role, index in group.items():
            if role == "image" or role not in planes:
                planes[role] = (path, index)
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


def _plane_array(
    plane: tuple[Path, int | str | None],
    role: str,
    files: _Files,
    image_info: HduInfo,
    messages: list[str],
) -> tuple[np.ndarray, FitsFile, HduInfo]:
    """Array of a plane other than the image.

    In a file of its own: the HDU named, else the one called like the plane, like the image's HDU,
    else the only (first) image.
    """
    path, key = plane
    file = files.open(path)
    if key is not None:
        info = file.find(key)
    else:
        images = [i for i in file.infos if i.kind in ("image", "vector")]
        if not images:
            raise InputError(f"the {role} file has no image HDU", "give a FITS image", path)
        grouping = group_hdus(file.infos)
        same_role = [i for i in images if i.name and _is_role(i, role, grouping)]
        same_name = [i for i in images if i.name and i.name == image_info.name]
        info = (same_role or same_name or images)[0]
    data, notes = image_array(file, info, role)
    messages.extend(notes)
    return data, file, info


def _is_role(info: HduInfo, role: str, grouping: Grouping) -> bool:
    return grouping.roles.get(info.index) == role


def _check_shape(data: np.ndarray, shape: tuple[int, ...], role: str, path: Path) -> None:
    if data.shape != shape:
        raise InputError(
            f"the {role} has shape {data.shape}, the image {shape} (ny, nx)",
            "give planes cut to the same pixels",
            path,
        )


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
    files: _Files,
    shape: tuple[int, ...],
    image_info: HduInfo,
    preset: SurveyPreset | None,
    options: ReadOptions,
    messages: list[str],
) -> np.ndarray:
    """True = bad: non-zero, after leaving out the bits that the options or preset ignore."""
    values, file, info = _plane_array(plane, "mask", files, image_info, messages)
    _check_shape(values, shape, "mask", plane[0])
    header = file.hdus[info.index].header
    ignore = options.mask_ignore_bits
    if ignore is None and preset is not None:
        ignore = preset.ignored_bits(header)
    if values.dtype.kind == "f":
        whole = np.where(np.isfinite(values), values, 1.0)
        if not ignore:
            return whole != 0
        values = whole.astype(np.int64)
    if ignore:
        return (values.astype(np.int64) & ~np.int64(ignore)) != 0
    return values != 0


def _read_labels(
    plane: tuple[Path, int | str | None],
    files: _Files,
    shape: tuple[int, ...],
    image_info: HduInfo,
    messages: list[str],
) -> tuple[np.ndarray, int | None]:
    values, file, info = _plane_array(plane, "seg", files, image_info, messages)
    _check_shape(values, shape, "segmentation", plane[0])
    labels = np.nan_to_num(np.asarray(values, np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    if np.any(labels != np.rint(labels)) or np.any(np.abs(labels) > 2**31 - 1):
        raise InputError(
            "the segmentation holds numbers that are not labels",
            "give whole numbers, 0 for sky",
            plane[0],
        )
    found: list[str] = []
    target = number_card([file.hdus[info.index].header], ("TARGET",), found)
    messages.extend(found)
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


def _read_sigma(
    planes: Mapping[str, tuple[Path, int | str | None]],
    files: _Files,
    data: np.ndarray,
    mask: np.ndarray,
    image_info: HduInfo,
    messages: list[str],
) -> tuple[np.ndarray | None, bool]:
    """(sigma, estimated) from the preferred noise plane; bad pixels are added to `mask`."""
    present = [role for role in (*NOISE_PLANES, "noise") if role in planes]
    if not present:
        return None, False
    role = present[0]
    if len(present) > 1:
        messages.append(f"several noise planes ({', '.join(present)}): {role} is used")
    values, _, info = _plane_array(planes[role], role, files, image_info, messages)
    path = planes[role][0]
    if np.asarray(values).dtype.kind != "f":
        values = np.asarray(values, dtype=np.float64)
    _check_shape(values, data.shape, role, path)
    if role == "noise":
        role = _guess_noise_role(values, data, mask)
        if role == "":
            messages.append(f"unnamed HDU {info.index} is not a noise map of the image: not used")
            return None, False
        messages.append(f"unnamed HDU {info.index} taken as {role}: it matches the sky's scatter")
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        if role == "sigma":
            sigma = values
        elif role == "var":
            sigma = np.sqrt(values)
        else:
            sigma = 1.0 / np.sqrt(values)
        bad = ~np.isfinite(sigma) | (sigma <= 0) | (sigma >= SENTINEL_VALUE)
    large = ~bad & (sigma >= SENTINEL_SIGMA)
    if large.any() and not (large | bad).all():
        usual = float(np.median(sigma[~(large | bad)]))
        if usual < 1e-3 * SENTINEL_SIGMA:
            bad |= large
    if bad.all() or not (~bad & ~mask).any():
        raise InputError(
            f"no usable pixel in the {role} plane (zero, negative, NaN or without weight)",
            "give the 1-sigma noise per pixel in image units, or leave the plane out",
            path,
        )
    n_bad = int((bad & ~mask).sum())
    if n_bad:
        messages.append(f"{n_bad} pixels without valid {role} masked")
    mask |= bad
    sigma = np.where(bad, 1.0, sigma)
    if role == "wht":
        return _rescaled_weight(sigma, data, mask, messages)
    return sigma, False


def _guess_noise_role(values: np.ndarray, data: np.ndarray, mask: np.ndarray) -> str:
    """Whether an unnamed plane is ivar, sigma or var: the one whose sky noise fits the image's."""
    good = np.isfinite(values) & (values > 0) & ~mask
    if good.mean() < 0.3:
        return ""
    sky = measure_sky(data, mask)
    typical = float(np.median(values[good]))
    if not sky.rms > 0:
        return ""
    ratios = {
        "ivar": sky.rms * math.sqrt(typical),
        "sigma": sky.rms / typical,
        "var": sky.rms / math.sqrt(typical),
    }
    role = min(ratios, key=lambda name: abs(math.log(ratios[name])))
    return role if 0.5 < ratios[role] < 2.0 else ""


def _rescaled_weight(
    sigma: np.ndarray, data: np.ndarray, mask: np.ndarray, messages: list[str]
) -> tuple[np.ndarray, bool]:
    """A weight map may be an exposure map: scale it to the measured sky if it is far off."""
    sky = measure_sky(data, mask, np.where(mask, np.inf, sigma))
    expected = float(np.median(sigma[~mask]))
    if sky.n_pixels and sky.rms > 0 and not 1 / 3 < sky.rms / expected < 3:
        messages.append(
            f"weight map scaled by {expected / sky.rms:.3g} in sigma to the measured sky scatter: "
            "it is not an inverse variance"
        )
        return sigma * (sky.rms / expected), True
    return sigma, False


def _with_overrides(
    calibration: Calibration,
    source: Source,
    options: ReadOptions,
    preset: SurveyPreset | None,
    messages: list[str],
) -> Calibration:
    """Manifest over options over header over preset."""
    changes: dict[str, Any] = {}
    names = {
        "zeropoint": "zeropoint",
        "pixel_scale": "pixel_scale",
        "gain": "gain",
        "rdnoise": "rdnoise",
        "saturate": "saturate",
        "sky_subtracted": "sky_subtracted",
        "sky_level": "sky_level",
        "exptime": "exptime",
        "filter": "filter",
    }
    for name, attribute in names.items():
        value = source.overrides.get(name)
        if value is None:
            value = getattr(options, name, None)
        if value is not None:
            changes[attribute] = value
            continue
        current = getattr(calibration, attribute)
        missing = current == "" if isinstance(current, str) else not math.isfinite(current)
        if missing and preset is not None:
            default = preset.default(name, calibration.filter)
            if default is not None:
                changes[attribute] = default
                if name in ("zeropoint", "gain", "pixel_scale"):
                    messages.append(f"{name} {default:g} from the preset {preset.name}")
    return dataclasses.replace(calibration, **changes)


# --- stamps and frames ----------------------------------------------------------------------


def _finish_sigma(planes: _Planes, source: Source, options: ReadOptions, frame: bool) -> None:
    """Build sigma where none was given, and flag it."""
    if planes.sigma is not None:
        return
    calibration = planes.calibration
    preset = planes.preset
    sigma = None
    if preset is not None and preset.noise_model is not None and options.noise == "given":
        file = planes.files.open(planes.image_file)
        sigma, notes = preset.build_noise(planes.data, planes.mask, file, calibration)
        planes.messages += notes
        if sigma is not None:
            bad = ~np.isfinite(sigma) | (sigma <= 0)
            planes.mask |= bad
            planes.sigma = np.where(bad, 1.0, sigma)
            return
    if frame and not math.isfinite(calibration.sky_subtracted):
        background, rms, _ = background_map(planes.data, planes.mask)
        variance = np.square(rms, dtype=np.float64)
        if not np.all(variance > 0):
            raise InputError(
                "no noise map, and the frame has no scatter to measure one from",
                "give a sigma plane, or gain and read noise",
                planes.image_file,
            )
        if math.isfinite(calibration.gain):
            light = np.where(planes.mask, 0.0, planes.data - background)
            variance = variance + expected_source(light, rms) / calibration.gain
            planes.messages.append("sigma built from the measured sky scatter and the gain")
        else:
            planes.messages.append(
                "sigma is the measured sky scatter: without a gain photon noise is left out"
            )
        planes.sigma = np.sqrt(variance)
    else:
        planes.sigma, notes = model_sigma(
            planes.data,
            planes.mask,
            gain=calibration.gain,
            rdnoise=calibration.rdnoise,
            sky_subtracted=calibration.sky_subtracted,
            sky_level=calibration.sky_level,
            file=str(planes.image_file),
        )
        planes.messages += notes
    planes.flags |= int(Flag.SIGMA_ESTIMATED)


def _final_arrays(planes: _Planes) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """float32 data and sigma, finite everywhere; mask."""
    if planes.sigma is None:
        raise InputError("no noise", "give a sigma plane", planes.image_file)
    usable = ~planes.mask & (planes.sigma > 1.2e-38)
    if not usable.any():
        raise InputError("every pixel is masked", "check mask and sigma", planes.image_file)
    data = np.where(np.isfinite(planes.data), planes.data, 0.0).astype(np.float32)
    sigma = np.where(usable, planes.sigma, 1.0).astype(np.float32)
    return data, sigma, ~usable


def _psf(
    planes: _Planes, source: Source, options: ReadOptions, required: bool
) -> tuple[PSF | None, int]:
    """(PSF, flags) by precedence: option, plane, FWHM; None when not required and not found."""
    overrides = source.overrides
    has_pixel = options.psf_has_pixel
    if has_pixel is None:
        has_pixel = overrides.get("psf_has_pixel")
    messages = planes.messages
    given = options.psf
    if isinstance(given, PSF):
        return given, 0
    if isinstance(given, str) and given == "none":
        messages.append("fitted without a PSF, as asked")
        return no_psf(), 0
    scale = planes.calibration.pixel_scale
    if given is not None and not isinstance(given, np.ndarray):
        return _psf_from_file(Path(given), None, planes, source, options, has_pixel), 0
    if isinstance(given, np.ndarray):
        psf, notes = centre_psf(
            given,
            has_pixel=True if has_pixel is None else bool(has_pixel),
            oversampling=int(options.psf_oversampling or 1),
            source="array",
        )
        messages += notes
        return psf, 0
    if planes.psf_at is not None:
        path, key = planes.psf_at
        return _psf_from_file(path, key, planes, source, options, has_pixel), 0
    fwhm = overrides.get("psf_fwhm", options.psf_fwhm)
    if fwhm is not None:
        if not math.isfinite(scale):
            raise InputError(
                "the pixel scale is unknown, so a PSF FWHM in arcsec has no meaning",
                "give --pixel-scale, a PIXSCALE card or a WCS",
                planes.image_file,
            )
        pixels = float(fwhm) / scale
        if not 0.2 <= pixels <= 200:
            raise InputError(
                f"a PSF of {float(fwhm):g} arcsec is {pixels:.3g} pixels wide",
                "check --psf-fwhm and the pixel scale",
                planes.image_file,
            )
        messages.append(f"analytic PSF: Moffat, beta 3, FWHM {pixels:.2f} px")
        return moffat_psf(pixels), int(Flag.PSF_ESTIMATED)
    if not required:
        return None, 0
    raise InputError("no PSF", THREE_WAYS + _typical_seeing(planes), planes.image_file)


def _typical_seeing(planes: _Planes) -> str:
    if planes.preset is None:
        return ""
    seeing = planes.preset.seeing(planes.calibration.filter)
    return "" if seeing is None else f"; {planes.preset.name} is typically {seeing:g} arcsec"


def _psf_from_file(
    path: Path,
    key: int | str | None,
    planes: _Planes,
    source: Source,
    options: ReadOptions,
    has_pixel: bool | None,
) -> PSF:
    messages = planes.messages
    file = planes.files.open(path)
    preset = planes.preset
    if preset is not None and preset.psf_reader is not None and key is None:
        row, column = ((n - 1) / 2 for n in planes.data.shape)
        data = preset.read_psf(file, planes.calibration, planes.header, row, column)
        header = None
    else:
        image_info = HduInfo(0, str(planes.header.get("EXTNAME", "")).upper(), 1, "image", (), True)
        data, file, info = _plane_array((path, key), "psf", planes.files, image_info, messages)
        header = file.hdus[info.index].header
    headers = [] if header is None else [header]
    oversampling = source.overrides.get("psf_oversampling", options.psf_oversampling)
    if oversampling is None:
        oversampling = _psf_oversampling(headers, planes, path)
    if has_pixel is None:
        for candidate in (*headers, planes.header):
            value = candidate.get("PSFPIX")
            if isinstance(value, (bool, np.bool_)):
                has_pixel = bool(value)
                break
    psf, notes = centre_psf(
        np.asarray(data, np.float64),
        has_pixel=True if has_pixel is None else bool(has_pixel),
        oversampling=int(oversampling),
        source=str(path),
        file=path,
    )
    messages += notes
    return psf


def _varying_psf(planes: _Planes, options: ReadOptions) -> Callable[[float, float], PSF] | None:
    """PSF as a function of position, where the survey's own format gives it."""
    preset = planes.preset
    if options.psf is not None or planes.psf_at is None or preset is None:
        return None
    path, key = planes.psf_at
    if preset.psf_reader is None or key is not None:
        return None
    file = planes.files.open(path)

    def psf_at(x: float, y: float) -> PSF:
        image = preset.read_psf(file, planes.calibration, planes.header, y, x)
        return centre_psf(image, source=str(path), file=path)[0]

    return psf_at


def _psf_oversampling(headers: list[fits.Header], planes: _Planes, path: Path) -> int:
    """OVERSAMP of the PSF's header, else the ratio of the pixel scales; 1 when unknown."""
    if not headers:
        return 1
    card = number_card(headers, ("OVERSAMP", "PSFOVER"), planes.messages, 1.0, 64.0)
    if math.isfinite(card):
        if card != int(card):
            planes.messages.append(f"OVERSAMP={card:g} is not a whole number, ignored")
        else:
            return int(card)
    scale = number_card(headers, ("PIXSCALE", "PIXELSCL"), planes.messages, 1e-5, 1e4)
    image = planes.calibration.pixel_scale
    if not (math.isfinite(scale) and math.isfinite(image)):
        return 1
    ratio = image / scale
    whole = max(1, round(ratio))
    if abs(ratio / whole - 1.0) <= 0.05:
        if whole > 1:
            planes.messages.append(f"PSF taken as {whole} times oversampled, by its PIXSCALE")
        return whole
    planes.messages.append(
        f"the PSF's pixel scale {scale:g} differs from the image's {image:.4g} arcsec/px: "
        "its pixels are taken as image pixels"
    )
    return 1


def _make_stamp(source: Source, options: ReadOptions, planes: _Planes) -> Stamp:
    if max(planes.data.shape) > MAX_STAMP_SIDE:
        raise InputError(
            f"{planes.data.shape} pixels are too many for a stamp",
            "use --mode frame, or cut the object out",
            planes.image_file,
        )
    _finish_sigma(planes, source, options, frame=False)
    data, sigma, mask = _final_arrays(planes)
    psf, psf_flags = _psf(planes, source, options, required=True)
    if psf is None:
        raise InputError("no PSF", THREE_WAYS, planes.image_file)
    psf, notes = crop_psf(psf, data.shape)  # type: ignore[arg-type]
    planes.messages += notes
    calibration = planes.calibration
    x, y = _position(source.overrides, calibration)
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
        labels=planes.labels,
        target_label=planes.target,
        saturated=planes.saturated,
        wcs=calibration.wcs,
        pixel_scale=calibration.pixel_scale,
        zeropoint=calibration.zeropoint,
        filter=calibration.filter,
        gain=calibration.gain,
        flags=planes.flags | psf_flags,
        messages=_unique(planes),
        file=str(source.planes["image"][0]),
    )


def _make_frame(source: Source, options: ReadOptions, planes: _Planes) -> Frame:
    _finish_sigma(planes, source, options, frame=True)
    data, sigma, mask = _final_arrays(planes)
    psf, psf_flags = _psf(planes, source, options, required=False)
    calibration = planes.calibration
    frame = Frame(
        id=source.id,
        data=data,
        sigma=sigma,
        mask=mask,
        psf=psf,
        saturated=planes.saturated,
        wcs=calibration.wcs,
        pixel_scale=calibration.pixel_scale,
        zeropoint=calibration.zeropoint,
        filter=calibration.filter,
        gain=calibration.gain,
        flags=planes.flags | psf_flags,
        messages=_unique(planes),
        file=str(source.planes["image"][0]),
    )
    if psf is None:
        built, notes = psf_from_stars(frame)
        frame = frame.replace(
            psf=built,
            flags=frame.flags | int(Flag.PSF_ESTIMATED),
            messages=(*frame.messages, *notes),
        )
    return frame


def _unique(planes: _Planes) -> tuple[str, ...]:
    return tuple(dict.fromkeys([*planes.messages, *planes.files.messages]))
