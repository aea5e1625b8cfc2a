"""Header cards: WCS, zero point, gain and the rest, each checked; bad cards become messages."""

import copy
import math
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.io.fits.verify import VerifyError
from astropy.wcs import WCS
from astropy.wcs.utils import proj_plane_pixel_scales

from autofit_ml.images.fitsfile import READ_FAILURES
from autofit_ml.images.sky_coordinates import is_undistorted, undistorted_wcs

__all__ = [
    "Calibration",
    "header_pixel_scale",
    "number_card",
    "read_calibration",
    "text_card",
    "truth_card",
    "unit_zeropoint",
]

ZEROPOINT_CARDS = ("ZP", "MAGZERO", "PHOTZP", "MAGZPT", "ZEROPNT", "MAGZP", "MAG0")
GAIN_CARDS = ("GAIN", "EGAIN", "ARAWGAIN", "CCDGAIN", "EFFGAIN")
READ_NOISE_CARDS = ("RDNOISE", "READNOIS", "RON", "READNSE")
PIXEL_SCALE_CARDS = ("PIXSCALE", "PIXELSCL", "PIXSCAL1", "SECPIX", "SECPIX1", "D001SCAL")
FILTER_CARDS = ("FILTER", "FILTER1", "FILTER2", "FILTNAM1", "BAND", "FILTNAME")
EXPTIME_CARDS = ("EXPTIME", "XPOSURE", "EXPOSURE", "TEXPTIME", "EFFEXPTM")

_WCS_NUMBERS = (
    *("CRVAL1", "CRVAL2", "CRPIX1", "CRPIX2", "CDELT1", "CDELT2", "CROTA2"),
    *(f"{kind}{i}_{j}" for kind in ("CD", "PC") for i in (1, 2) for j in (1, 2)),
)

AB_JANSKY = 3631.0
"""Flux density of AB magnitude 0 (Oke & Gunn 1983, ApJ 266, 713)."""

_UNIT_JANSKY = {
    "jy": 1.0,
    "jansky": 1.0,
    "mjy": 1e-3,
    "ujy": 1e-6,
    "microjy": 1e-6,
    "njy": 1e-9,
    "nanojy": 1e-9,
    "maggy": AB_JANSKY,
    "maggies": AB_JANSKY,
    "nanomaggy": 1e-9 * AB_JANSKY,
    "nanomaggies": 1e-9 * AB_JANSKY,
    "nmgy": 1e-9 * AB_JANSKY,
}


@dataclass(frozen=True)
class Calibration:
    """Calibration that a header gives of an image (NaN, None or "" where it gives nothing).

    Attributes
    ----------
    wcs : WCS or None
        Celestial and invertible.
    pixel_scale : float
        arcsec per pixel, from the WCS where there is one.
    zeropoint : float
        AB magnitude of one image unit.
    gain : float
        Electrons per image unit.
    rdnoise : float
        Electrons.
    exptime : float
        Seconds.
    sky_level, sky_subtracted, saturate : float
        Image units.
    filter, unit : str
    target : int or None
    messages : tuple of str
    """

    wcs: WCS | None = None
    pixel_scale: float = math.nan
    zeropoint: float = math.nan
    gain: float = math.nan
    rdnoise: float = math.nan
    exptime: float = math.nan
    sky_level: float = math.nan
    sky_subtracted: float = math.nan
    saturate: float = math.nan
    filter: str = ""
    unit: str = ""
    target: int | None = None
    messages: tuple[str, ...] = field(default=())


def _raw_card(header: fits.Header, name: str) -> Any:
    """Value of a card; None if absent, undefined or unparsable."""
    try:
        value = header.get(name)
    except (VerifyError, ValueError, KeyError, TypeError):
        return None
    return None if isinstance(value, fits.card.Undefined) else value


def number_card(
    headers: Sequence[fits.Header],
    names: Sequence[str],
    messages: list[str],
    low: float = -math.inf,
    high: float = math.inf,
    open_low: bool = False,
) -> float:
    """First usable number among cards `names`, searched header by header; NaN if none.

    A card with another type, NaN, or outside [low, high] is skipped with a message.
    """
    for header in headers:
        for name in names:
            value = _raw_card(header, name)
            if value is None:
                continue
            try:
                if isinstance(value, (bool, np.bool_)):
                    raise TypeError("a truth value")
                number = float(value)
            except (TypeError, ValueError, OverflowError):
                shown = value[:40] if isinstance(value, str) else value
                messages.append(f"{name}={shown!r} is not a number, ignored")
                continue
            possible = math.isfinite(number) and low <= number <= high
            if not possible or (open_low and number == low):
                messages.append(f"{name}={number:g} is not possible, ignored")
                continue
            return number
    return math.nan


def truth_card(headers: Sequence[fits.Header], name: str, messages: list[str]) -> bool | None:
    """First T or F of a card, searched header by header; None if there is none."""
    for header in headers:
        value = _raw_card(header, name)
        if isinstance(value, (bool, np.bool_)):
            return bool(value)
        if value is not None:
            messages.append(f"{name}={value!r} is not T or F, ignored")
    return None


def text_card(headers: Sequence[fits.Header], names: Sequence[str]) -> str:
    """First non-empty text among cards `names`; "" if none. CLEAR filter wheels are skipped."""
    for header in headers:
        for name in names:
            value = _raw_card(header, name)
            if value is None or isinstance(value, bool):
                continue
            text = str(value).strip()
            if text and not text.upper().startswith("CLEAR"):
                return text[:40]
    return ""


def unit_zeropoint(unit: str) -> float:
    """AB zero point of a flux-density unit ("nJy", "nanomaggy", ...); NaN if unknown."""
    if unit.strip() == "MJy":
        return -2.5 * math.log10(1e6 / AB_JANSKY)
    scale = _UNIT_JANSKY.get(unit.strip().lower().replace(" ", ""))
    return math.nan if scale is None else -2.5 * math.log10(scale / AB_JANSKY)


def _per_second(unit: str) -> bool:
    text = unit.lower().replace(" ", "")
    return text.endswith(("/s", "/sec", "/second", "s-1", "s^-1"))


def _zeropoint(
    headers: Sequence[fits.Header],
    unit: str,
    exptime: float,
    pixel_scale: float,
    messages: list[str],
) -> float:
    card = number_card(headers, ZEROPOINT_CARDS, messages, -70.0, 90.0)
    by_unit = unit_zeropoint(unit)
    if math.isfinite(card):
        if math.isfinite(by_unit) and abs(card - by_unit) > 0.01:
            messages.append(
                f"zero point {card:g} of the header differs from {by_unit:.3f} of BUNIT={unit!r}; "
                "the header's is used"
            )
        return card
    if math.isfinite(by_unit):
        return by_unit
    flux0 = number_card(headers, ("FLUXMAG0",), messages, 0.0, open_low=True)
    if math.isfinite(flux0):
        return 2.5 * math.log10(flux0)
    if re.sub(r"[\s*]", "", unit).lower() in ("mjy/sr", "mjysr-1", "mjy.sr-1"):
        surface = 1.0
    else:
        surface = number_card(headers, ("PHOTMJSR",), messages, 0.0, open_low=True)
    if math.isfinite(surface):
        # JWST: MJy/sr times the pixel's solid angle.
        area = number_card(headers, ("PIXAR_SR",), messages, 0.0, open_low=True)
        if not math.isfinite(area) and math.isfinite(pixel_scale):
            area = math.radians(pixel_scale / 3600.0) ** 2
        if math.isfinite(area):
            return -2.5 * math.log10(surface * 1e6 * area / AB_JANSKY)
    flam = number_card(headers, ("PHOTFLAM",), messages, 0.0, open_low=True)
    plam = number_card(headers, ("PHOTPLAM",), messages, 0.0, open_low=True)
    if math.isfinite(flam) and math.isfinite(plam):
        # HST: PHOTFLAM is for one electron (or DN) per second. ACS Data Handbook, 5.1.1.
        value = -2.5 * math.log10(flam) - 5.0 * math.log10(plam) - 2.408
        if unit and not _per_second(unit):
            if not math.isfinite(exptime):
                messages.append("PHOTFLAM needs EXPTIME for an image that is not a rate: no ZP")
                return math.nan
            value += 2.5 * math.log10(exptime)
        return value
    return math.nan


def _gain(
    headers: Sequence[fits.Header], unit: str, exptime: float, messages: list[str]
) -> tuple[float, float]:
    """(electrons per image unit, exposures that were averaged), and what was made of the cards.

    A BUNIT in electrons fixes the gain: 1, or the exposure time for a rate. Else the card's, or the
    mean of the amplifiers' GAINA, GAINB, is that of a count: for a rate it is multiplied by the
    exposure time (unless it is so large that this has been done), for an average of NCOMBINE
    exposures by their number, as GALFIT does.
    """
    gain = number_card(headers, GAIN_CARDS, messages, 0.0, open_low=True)
    text = unit.lower().replace(" ", "")
    if text.startswith(("electron", "e-", "e/", "photoelectron")) or text == "e":
        rate = _per_second(unit)
        used = exptime if rate else 1.0
        if math.isfinite(gain) and not math.isclose(gain, used):
            messages.append(f"GAIN={gain:g} not used: BUNIT={unit!r} are electrons")
        if rate and not math.isfinite(exptime):
            messages.append(f"BUNIT={unit!r} without EXPTIME: the gain is unknown")
        return used, 1.0
    if not math.isfinite(gain):
        amplifiers = [
            number_card(headers, (name,), messages, 0.0, open_low=True)
            for name in ("GAINA", "GAINB", "GAINC", "GAIND")
        ]
        amplifiers = [value for value in amplifiers if math.isfinite(value)]
        if amplifiers:
            gain = float(np.mean(amplifiers))
            messages.append(f"gain {gain:.3f} is the mean of {len(amplifiers)} amplifiers")
    if not math.isfinite(gain):
        return gain, 1.0
    said = f"gain {gain:g}"
    if _per_second(unit):
        if math.isfinite(exptime) and gain < exptime:
            said += f" x EXPTIME {exptime:g}"
            gain *= exptime
        else:
            messages.append(
                f"gain {gain:g} is taken as electrons per image unit, although BUNIT={unit!r}"
            )
    frames = number_card(headers, ("NCOMBINE",), [], 1.0, 1e6)
    averaged = frames if math.isfinite(frames) else 1.0
    if averaged > 1:
        said += f" x NCOMBINE {averaged:g} (taken as an average)"
        gain *= averaged
    if "x" in said:
        messages.append(f"{said} = {gain:.4g} electrons per image unit")
    return gain, averaged


def _common_units(header: fits.Header) -> fits.Header:
    """The header with "degree" and "degrees" written as the standard has it."""
    names = [
        name
        for name in ("CUNIT1", "CUNIT2")
        if str(_raw_card(header, name)).strip().lower() in ("degree", "degrees")
    ]
    if names:
        header = copy.copy(header)
        for name in names:
            header[name] = "deg"
    return header


def _wcs(given: fits.Header, text: str, messages: list[str]) -> WCS | None:
    """Celestial WCS of the first two axes, or None (with a message if one was tried)."""
    ctype = (_raw_card(given, "CTYPE1"), _raw_card(given, "CTYPE2"))
    if not all(isinstance(value, str) and value.strip() for value in ctype):
        return None
    for name in _WCS_NUMBERS:  # wcslib reads a text as 0 without a word
        value = _raw_card(given, name)
        if isinstance(value, (str, bool)):
            messages.append(f"broken WCS ignored: {name}={value!r} is not a number")
            return None
    header = _common_units(given)
    if not str(ctype[0]).endswith("-SIP"):
        sip = [name for name in header if re.fullmatch(r"[AB]P?_(ORDER|DMAX|\d_\d)", name)]
        if sip:  # left over from an image that was resampled since; astropy would use them
            header = header.copy()
            for name in sip:
                del header[name]
            messages.append(f"SIP coefficients without -SIP in CTYPE1={ctype[0]!r} ignored")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            if header is given and is_undistorted(text):
                wcs = undistorted_wcs(text, (header["NAXIS1"], header["NAXIS2"]))
            else:
                wcs = WCS(header, naxis=2, fix=False)
            if not wcs.has_celestial:
                messages.append(f"WCS with axes {ctype} is not celestial, ignored")
                return None
            scales = proj_plane_pixel_scales(wcs) * 3600.0
            if not (np.all(np.isfinite(scales)) and np.all(scales > 0)):
                raise ValueError("no pixel scale")
            area = abs(float(np.linalg.det(wcs.pixel_scale_matrix))) * 3600.0**2
            if area < 1e-3 * float(scales[0] * scales[1]):
                raise ValueError("singular pixel matrix")
            centre = wcs.wcs_pix2world([[wcs.wcs.crpix[0], wcs.wcs.crpix[1]]], 1)
            if not np.all(np.isfinite(centre)):
                raise ValueError("no sky position")
        except READ_FAILURES as error:
            reason = " ".join(str(error).split())[:120]
            messages.append(f"broken WCS ignored: {reason}")
            return None
    return wcs


def header_pixel_scale(header: fits.Header, messages: list[str]) -> float:
    """arcsec per pixel by a PIXSCALE card, else by CD, CDELT and PC; NaN where they do not say.

    Matrices without CTYPE count too (a PSF image has no position); a CDELT of 1 is the default.
    """
    scale = number_card([header], PIXEL_SCALE_CARDS, messages, 1e-5, 1e4)
    if math.isfinite(scale):
        return scale

    def matrix(kind: str, default: float) -> np.ndarray:
        names = [f"{kind}{i}_{j}" for i in (1, 2) for j in (1, 2)]
        values = [number_card([header], (name,), []) for name in names]
        missing = [default, 0.0, 0.0, default]
        filled = [
            one if math.isfinite(one) else other for one, other in zip(values, missing, strict=True)
        ]
        return np.array(filled).reshape(2, 2)

    steps = [number_card([header], (name,), []) for name in ("CDELT1", "CDELT2")]
    pixel = matrix("CD", 0.0)
    if not np.any(pixel) and all(map(math.isfinite, steps)):
        pixel = np.diag(steps) @ matrix("PC", 1.0)
    scale = 3600.0 * math.sqrt(abs(float(np.linalg.det(pixel))))
    return scale if 1e-4 < scale < 1800.0 else math.nan


def read_calibration(headers: Sequence[fits.Header], text: str = "") -> Calibration:
    """Calibration of an image from its own header, then its file's primary header.

    Parameters
    ----------
    headers : sequence of Header
        Searched in order.
    text : str
        The cards of the first header as they are in the file, where known.

    Returns
    -------
    Calibration
        Cards that are broken or impossible are ignored, each with a message.
    """
    notes: list[str] = []
    wcs = _wcs(headers[0], text, notes)
    card_scale = number_card(headers, PIXEL_SCALE_CARDS, notes, 1e-5, 1e4)
    pixel_scale = card_scale
    if wcs is not None:
        scales = proj_plane_pixel_scales(wcs) * 3600.0
        pixel_scale = float(np.sqrt(scales[0] * scales[1]))
        if abs(scales[0] / scales[1] - 1.0) > 0.02:
            notes.append(f"pixels are not square: {scales[0]:.4g} x {scales[1]:.4g} arcsec")
        if math.isfinite(card_scale) and abs(card_scale / pixel_scale - 1.0) > 0.05:
            notes.append(
                f"PIXSCALE={card_scale:g} differs from the WCS ({pixel_scale:.4g} arcsec/px); "
                "the WCS is used"
            )
    unit = text_card(headers, ("BUNIT",))
    exptime = number_card(headers, EXPTIME_CARDS, notes, 0.0, open_low=True)
    targets = (_raw_card(header, "TARGET") for header in headers)
    target = next((int(k) for k in targets if isinstance(k, int) and not isinstance(k, bool)), None)
    zeropoint = _zeropoint(headers, unit, exptime, pixel_scale, notes)
    gain, averaged = _gain(headers, unit, exptime, notes)
    read_noise = number_card(headers, READ_NOISE_CARDS, notes, 0.0)
    return Calibration(
        wcs=wcs,
        pixel_scale=pixel_scale,
        zeropoint=zeropoint,
        gain=gain,
        rdnoise=read_noise * math.sqrt(averaged),
        exptime=exptime,
        sky_level=number_card(headers, ("SKYLEVEL",), notes),
        sky_subtracted=number_card(headers, ("SKYSUB",), notes),
        saturate=number_card(
            headers, ("SATURATE", "SATLEVEL", "SATUR_LEVEL"), notes, 0.0, open_low=True
        ),
        filter=text_card(headers, FILTER_CARDS),
        unit=unit,
        target=target,
        messages=tuple(notes),
    )
