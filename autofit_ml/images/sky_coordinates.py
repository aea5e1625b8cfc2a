"""Positions on the sky: ICRS, whatever system, axis order and distortion a WCS has."""

import functools
import math
import re
import warnings
from typing import TypeAlias

import numpy as np
from astropy import units
from astropy.coordinates import (
    FK4,
    ICRS,
    BarycentricMeanEcliptic,
    BaseCoordinateFrame,
    CartesianRepresentation,
    FK4NoETerms,
    SkyCoord,
)
from astropy.time import Time
from astropy.wcs import WCS, WCSHDO_P17, WCSHDO_all, Wcsprm
from astropy.wcs.utils import wcs_to_celestial_frame

__all__ = [
    "is_undistorted",
    "packed_wcs",
    "pixel_positions",
    "sky_angle",
    "sky_positions",
    "undistorted_wcs",
    "unpacked_wcs",
]

_STANDARD_CARD = re.compile(
    r"(?=.{8}= )[A-Z][A-Z0-9_-]* *= +"
    r"('([^']|'')*'|[TF]|[+-]?(\d+\.?\d*|\.\d+)([ED][+-]?\d+)?)? *(/.*)?|(COMMENT|HISTORY| {8}).*"
)
_DISTORTION = re.compile(r"[AB]P?_|C[PQ]|D[PQ]\d|D2IM|P[SV]\d|WAT\d|CTYPE\d *= *'.{8} *[^' ]")


def is_undistorted(text: str) -> bool:
    """True if header cards are in standard form and tell of no distortion (SIP, TPV, tables).

    Parameters
    ----------
    text : str
        Cards of 80 characters each, without the END card.
    """
    cards = range(0, len(text), 80)
    return bool(text) and all(
        _STANDARD_CARD.fullmatch(text, card, card + 80) and not _DISTORTION.match(text, card)
        for card in cards
    )


def undistorted_wcs(text: str, pixels: tuple[int, int] | None) -> WCS:
    """The WCS of the first two axes by header cards for which `is_undistorted` is true.

    astropy looks for distortions first, which takes ten times as long.

    Parameters
    ----------
    text : str
    pixels : tuple of int or None
        (nx, ny) of the image.
    """
    wcs = WCS(naxis=2)
    wcs.wcs = Wcsprm(header=text.encode("ascii"), relax=True).sub(2)
    wcs.wcs.set()
    wcs.pixel_shape = pixels
    return wcs


PackedWCS: TypeAlias = WCS | tuple[str, tuple[int, int] | None] | None


def packed_wcs(wcs: WCS | None) -> PackedWCS:
    """A WCS as it is sent to another process: exact, and without distortions as header cards.

    astropy's own way writes a FITS file, in which numbers are rounded.
    """
    if wcs is None or wcs.has_distortion or wcs.wcs.get_pv() or wcs.wcs.get_ps():
        return wcs
    return wcs.wcs.to_header(relax=WCSHDO_all | WCSHDO_P17), wcs.pixel_shape


def unpacked_wcs(packed: PackedWCS) -> WCS | None:
    """The WCS of `packed_wcs`."""
    return undistorted_wcs(*packed) if isinstance(packed, tuple) else packed


def sky_positions(wcs: WCS, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """ICRS right ascension and declination of pixels, degrees.

    Parameters
    ----------
    wcs : WCS
        Celestial; SIP, TPV and PV distortions are used.
    x, y : ndarray, shape (n,)
        0-based pixels.

    Raises
    ------
    Exception
        What astropy raises where a WCS cannot be used or its system is unknown.
    """
    world = wcs.all_pix2world(np.stack([x, y], axis=1), 0)
    longitude, latitude = world[:, wcs.wcs.lng], world[:, wcs.wcs.lat]
    if wcs.wcs.radesys != "ICRS" or wcs.wcs.lngtyp != "RA":
        longitude, latitude = _turned(wcs, longitude, latitude, inverse=False)
    return longitude % 360.0, latitude


def pixel_positions(wcs: WCS, ra: np.ndarray, dec: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """0-based pixels of ICRS positions in degrees, shape (n,); the inverse of `sky_positions`.

    Positions that a distortion does not reach are NaN.
    """
    world = np.empty((len(ra), 2))
    sky = ra, dec
    if wcs.wcs.radesys != "ICRS" or wcs.wcs.lngtyp != "RA":
        sky = _turned(wcs, ra, dec, inverse=True)
    world[:, wcs.wcs.lng], world[:, wcs.wcs.lat] = sky
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pixels = wcs.all_world2pix(world, 0, quiet=True)
    return pixels[:, 0], pixels[:, 1]


def sky_angle(wcs: WCS, x: float, y: float, pa: float) -> tuple[float, float, float]:
    """Right ascension, declination and position angle east of north at a pixel, ICRS degrees.

    Parameters
    ----------
    wcs : WCS
    x, y : float
        0-based pixels.
    pa : float
        Degrees counter-clockwise from +y.

    Notes
    -----
    The angle is measured on the sky between the place and a point one pixel along the direction,
    so that rotation, flips and distortion of the image are all in it.
    """
    turn = math.radians(pa)
    columns, rows = np.array([x, x - math.sin(turn)]), np.array([y, y + math.cos(turn)])
    ra, dec = sky_positions(wcs, columns, rows)
    east = ((ra[1] - ra[0] + 180.0) % 360.0 - 180.0) * math.cos(math.radians(dec[0]))
    return float(ra[0]), float(dec[0]), math.degrees(math.atan2(east, dec[1] - dec[0])) % 180.0


def _turned(
    wcs: WCS, longitude: np.ndarray, latitude: np.ndarray, *, inverse: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Degrees of the WCS's system as ICRS, or the other way."""
    system = _system(wcs.wcs.lngtyp, wcs.wcs.radesys, str(wcs.wcs.equinox))
    if isinstance(system, BaseCoordinateFrame):
        first, second = (system, "icrs")[:: -1 if inverse else 1]
        sky = SkyCoord(longitude, latitude, unit=units.deg, frame=first).transform_to(second)
        return sky.spherical.lon.deg, sky.spherical.lat.deg
    a, d = np.radians(longitude), np.radians(latitude)
    vectors = np.stack([np.cos(d) * np.cos(a), np.cos(d) * np.sin(a), np.sin(d)])
    x, y, z = (system.T if inverse else system) @ vectors
    return np.degrees(np.arctan2(y, x)) % 360.0, np.degrees(np.arctan2(z, np.hypot(x, y)))


@functools.lru_cache(maxsize=16)
def _system(longitude: str, system: str, equinox: str) -> np.ndarray | BaseCoordinateFrame:
    """Matrix from a system's unit vectors to those of ICRS; a frame where that is no rotation."""
    frame: BaseCoordinateFrame
    if longitude == "ELON":  # astropy's WCS knows no ecliptic
        frame = BarycentricMeanEcliptic(equinox=Time(_year(equinox), format="jyear"))
    else:
        wcs = WCS(naxis=2)
        wcs.wcs.ctype = {"GLON": ["GLON-TAN", "GLAT-TAN"]}.get(longitude, ["RA---TAN", "DEC--TAN"])
        wcs.wcs.radesys, wcs.wcs.equinox = system, float(equinox)
        frame = wcs_to_celestial_frame(wcs)
    if isinstance(frame, (FK4, FK4NoETerms)):
        return frame
    axes = frame.realize_frame(CartesianRepresentation(*np.eye(3)))
    return axes.transform_to(ICRS()).cartesian.xyz.value


def _year(equinox: str) -> float:
    year = float(equinox)
    return year if math.isfinite(year) else 2000.0
