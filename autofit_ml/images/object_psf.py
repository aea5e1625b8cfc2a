"""Choice of an object's PSF: the option's, its own plane's, an analytic one."""

import dataclasses
import functools
import math
from pathlib import Path

import numpy as np
from astropy.io import fits

from autofit_ml.catalogue.flags import Flag
from autofit_ml.errors import InputError
from autofit_ml.images.fitsfile import FitsFile, HduInfo
from autofit_ml.images.header import header_pixel_scale, number_card, text_card, truth_card
from autofit_ml.images.load import Planes
from autofit_ml.images.piff import is_piff, piff_psf
from autofit_ml.images.planes import plane_array
from autofit_ml.images.psf import centre_psf, moffat_psf, no_psf, resample_psf
from autofit_ml.images.psf_checks import check_psf, find_damage
from autofit_ml.images.psf_grid import gridded_psf, is_psf_grid, read_psf_grid
from autofit_ml.images.psfex import is_psfex, psfex_psf
from autofit_ml.images.sdss import is_psfield, psfield_psf
from autofit_ml.images.source import Source
from autofit_ml.images.stamp import PSF, VaryingPSF
from autofit_ml.images.survey_files import is_survey_plane
from autofit_ml.settings import FITTED_PSFS, ReadOptions

__all__ = ["THREE_WAYS", "choose_psf"]

MAX_OVERSAMPLING = 25

SAME_SCALE = 0.02
"""Pixel scales this close, relative, are the same: cards are rounded."""

THREE_WAYS = "give a PSF plane (<name>_psf.fits), --psf FILE, or --psf-fwhm ARCSEC"
WAYS_IN_MEMORY = (
    "give psf=ARRAY, psf_fwhm=ARCSEC (with a pixel_scale or a wcs), or psf='none' to fit without"
)


def choose_psf(
    planes: Planes, source: Source, options: ReadOptions, required: bool
) -> tuple[PSF | VaryingPSF | None, int]:
    """(PSF, flags) by precedence: option, plane, FWHM; None when not required and not found."""
    overrides = source.overrides
    has_pixel = options.psf_has_pixel
    if has_pixel is None:
        has_pixel = overrides.get("psf_has_pixel")
    messages = planes.messages
    given = options.psf if options.psf is not None else overrides.get("psf")
    if isinstance(given, (PSF, VaryingPSF)):
        return given, 0
    if hasattr(given, "grid_xypos"):
        return gridded_psf(given, has_pixel=has_pixel is not False), 0
    if isinstance(given, str) and given == "none":
        messages.append("fitted without a PSF, as asked")
        return no_psf(), 0
    if isinstance(given, str) and given in FITTED_PSFS:
        if required:
            raise InputError(
                f"a {given} PSF is fitted to the stars of a frame, and this is a stamp",
                THREE_WAYS,
                planes.image_file,
            )
        return None, 0
    scale = planes.calibration.pixel_scale
    if given is not None and not isinstance(given, np.ndarray):
        return _psf_from_file(Path(given), None, planes, source, options, has_pixel)
    if isinstance(given, np.ndarray):
        psf, notes = centre_psf(
            given,
            has_pixel=True if has_pixel is None else bool(has_pixel),
            oversampling=int(options.psf_oversampling or 1),
            source="array",
        )
        messages += notes
        return _checked(given, psf, messages)
    if planes.psf_at is not None:
        path, key = planes.psf_at
        return _psf_from_file(path, key, planes, source, options, has_pixel)
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
    ways = WAYS_IN_MEMORY if source.content else THREE_WAYS
    raise InputError("no PSF", ways + _typical_seeing(planes), planes.image_file)


def _typical_seeing(planes: Planes) -> str:
    if planes.preset is None:
        return ""
    seeing = planes.preset.typical_seeing(planes.calibration.filter)
    return "" if seeing is None else f"; {planes.preset.name} is typically {seeing:g} arcsec"


def _psf_from_file(
    path: Path,
    key: int | str | None,
    planes: Planes,
    source: Source,
    options: ReadOptions,
    has_pixel: bool | None,
) -> tuple[PSF | VaryingPSF, int]:
    messages = planes.messages
    oversampling = source.overrides.get("psf_oversampling", options.psf_oversampling)
    model = _model_of_file(planes.files.open(path), key, planes, oversampling, has_pixel)
    if model is not None:
        return model, 0
    image_info = HduInfo(0, str(planes.header.get("EXTNAME", "")).upper(), 1, "image", (), True)
    data, file, info = plane_array((path, key), "psf", planes.files, image_info, messages)
    headers = [file.hdus[info.index].header]
    step = 1.0
    if oversampling is None:
        oversampling, step = _sampling(headers, planes, path)
    if oversampling > MAX_OVERSAMPLING:
        raise InputError(
            f"a PSF oversampled {oversampling} times (at most {MAX_OVERSAMPLING} are possible)",
            "bin it",
            path,
        )
    if has_pixel is None:
        has_pixel = truth_card([*headers, planes.header], "PSFPIX", messages)
    pixels = np.asarray(data, np.float64)
    psf, notes, flags = _centred(
        (pixels.tobytes(), pixels.shape),
        path,
        has_pixel is None or bool(has_pixel),
        int(oversampling),
        step,
    )
    messages.extend(notes)
    return psf, flags


def _model_of_file(
    file: FitsFile,
    key: int | str | None,
    planes: Planes,
    oversampling: int | None,
    has_pixel: bool | None,
) -> VaryingPSF | None:
    """The varying PSF of a file that holds one (PSFEx, Piff, psField, a grid); else None."""
    if key is not None and file.find(key).kind != "table":
        return None
    preset, header = planes.preset, planes.header
    ltv = [number_card([header], (card,), planes.messages) for card in ("LTV1", "LTV2")]
    offset = tuple(0.0 if math.isnan(value) else -value for value in ltv)
    place = (offset[0], offset[1])
    whole = None if oversampling is None else int(oversampling)
    named = preset is not None and preset.psf_reader and is_survey_plane(preset, file.path, "psf")
    if named or is_psfield(file):
        model = psfield_psf(file, planes.calibration.filter, offset=place)
    elif is_psfex(file):
        detector = text_card([header], ("CCDNAME", "EXTNAME"))
        number = _image_number(planes)
        model = psfex_psf(
            file, key=key, offset=place, number=number, detector=detector, oversampling=whole
        )
    elif is_piff(file):
        model = piff_psf(file, planes.calibration.wcs, planes.data.shape, oversampling=whole)
    elif is_psf_grid(file):
        return read_psf_grid(file, offset=place, has_pixel=has_pixel is not False)
    else:
        return None
    if has_pixel is False:
        planes.messages.append("the PSF model contains the pixel: --psf-optical ignored")
    return model


def _image_number(planes: Planes) -> int:
    """Number of an image among those of its file, from 0."""
    file = planes.files.open(planes.image_file)
    images = [info.index for info in file.infos if info.kind == "image" and info.role == "image"]
    headers = [file.hdus[index].header for index in images]
    return next((k for k, header in enumerate(headers) if header is planes.header), 0)


@functools.lru_cache(maxsize=8)
def _centred(
    image: tuple[bytes, tuple[int, ...]],
    path: Path,
    has_pixel: bool,
    oversampling: int,
    step: float,
) -> tuple[PSF, tuple[str, ...], int]:
    """(PSF, messages, flags) by an image's float64 pixels and shape; many objects may share it."""
    pixels = np.frombuffer(image[0]).reshape(image[1])
    psf, notes = centre_psf(
        pixels, has_pixel=has_pixel, oversampling=oversampling, source=str(path), file=path
    )
    messages, flags = list(notes), 0
    if step != 1.0:
        resampled = resample_psf(psf.data.astype(np.float64), step)
        psf = dataclasses.replace(psf, data=(resampled / resampled.sum()).astype(np.float32))
        flags = int(Flag.BAD_PSF)
    psf, found = _checked(pixels, psf, messages)
    psf.data.flags.writeable = False
    return psf, tuple(messages), flags | found


def _checked(given: np.ndarray, psf: PSF, messages: list[str]) -> tuple[PSF, int]:
    """The PSF without what is wrong with its image, and BAD_PSF where something was."""
    damage = find_damage(given, psf.data, psf.shift)
    checked = check_psf(psf.data)
    messages += [*damage, *checked.messages]
    flags = int(Flag.BAD_PSF) if damage or checked.bad else 0
    if not checked.bad:
        return psf, flags
    return dataclasses.replace(psf, data=checked.data.astype(np.float32)), flags


def _sampling(headers: list[fits.Header], planes: Planes, path: Path) -> tuple[int, float]:
    """(oversampling, size of a wanted pixel in the PSF's own) by its header; (1, 1) when unknown.

    Pixel scales tell it best; an OVERSAMP card decides where they contradict it.
    """
    if not headers:
        return 1, 1.0
    messages = planes.messages
    card = number_card(headers, ("OVERSAMP", "PSFOVER"), messages, 1.0, 64.0)
    if math.isfinite(card) and card != int(card):
        messages.append(f"OVERSAMP={card:g} is not a whole number, ignored")
        card = math.nan
    scale = header_pixel_scale(headers[0], messages)
    image = planes.calibration.pixel_scale
    ratio = image / scale
    if math.isfinite(card) and not 0.8 < ratio / card < 1.25:
        return int(card), 1.0
    if not math.isfinite(ratio):
        return 1, 1.0
    if not 0.4 < ratio < MAX_OVERSAMPLING + 0.5:
        raise InputError(
            f"the PSF's pixels of {scale:.4g} arcsec do not go with the image's of {image:.4g}",
            "correct its PIXSCALE or WCS, or give --psf-oversampling",
            path,
        )
    whole = max(1, round(ratio))
    if whole > 1:
        messages.append(f"PSF taken as {whole} times oversampled, by its pixel scale")
    if abs(ratio / whole - 1.0) <= SAME_SCALE:
        return whole, 1.0
    messages.append(
        f"PSF resampled: its pixels are {scale:.4g} arcsec, the image's {image:.4g}"
        + (f" / {whole}" if whole > 1 else "")
    )
    return whole, ratio / whole
