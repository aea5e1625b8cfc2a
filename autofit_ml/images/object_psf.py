"""Which PSF an object gets: the option's, its own plane's, an analytic one."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
from astropy.io import fits

from autofit_ml.catalogue.flags import Flag
from autofit_ml.errors import InputError
from autofit_ml.images.fitsfile import HduInfo
from autofit_ml.images.header import number_card
from autofit_ml.images.load import Planes, plane_array
from autofit_ml.images.options import FITTED_PSFS, ReadOptions
from autofit_ml.images.psf import centre_psf, moffat_psf, no_psf
from autofit_ml.images.sdss import psfield_psf
from autofit_ml.images.source import Source
from autofit_ml.images.stamp import PSF
from autofit_ml.images.survey_files import is_survey_plane, read_survey_psf

__all__ = ["THREE_WAYS", "choose_psf", "varying_psf"]

THREE_WAYS = "give a PSF plane (<name>_psf.fits), --psf FILE, or --psf-fwhm ARCSEC"


def choose_psf(
    planes: Planes, source: Source, options: ReadOptions, required: bool
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
) -> PSF:
    messages = planes.messages
    file = planes.files.open(path)
    row, column = ((n - 1) / 2 for n in planes.data.shape)
    own = None
    if key is None:
        own = read_survey_psf(planes.preset, file, planes.calibration, planes.header, row, column)
    if own is not None:
        data, header = own, None
    else:
        image_info = HduInfo(0, str(planes.header.get("EXTNAME", "")).upper(), 1, "image", (), True)
        data, file, info = plane_array((path, key), "psf", planes.files, image_info, messages)
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


def varying_psf(planes: Planes, options: ReadOptions) -> Callable[[float, float], PSF] | None:
    """PSF as a function of position, where the survey's own format gives it."""
    preset = planes.preset
    if options.psf is not None or planes.psf_at is None or preset is None:
        return None
    path, key = planes.psf_at
    if preset.psf_reader is None or key is not None or not is_survey_plane(preset, path, "psf"):
        return None
    file = planes.files.open(path)

    def psf_at(x: float, y: float) -> PSF:
        image = psfield_psf(file, planes.calibration, planes.header, y, x)
        return centre_psf(image, source=str(path), file=path)[0]

    return psf_at


def _psf_oversampling(headers: list[fits.Header], planes: Planes, path: Path) -> int:
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
