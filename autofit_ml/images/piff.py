"""Piff models: pixel grids, Gaussians and Moffat profiles on the sky, by position.

Source: Piff (Jarvis et al. 2021, MNRAS 501, 1282), releases 0.2 to 1.7; checked against the images
that Piff 1.7 draws. A model is a function of (u, v), arcsec west and north of the object, whose
parameters are polynomials of the object's own (u, v), in the tangent plane at the pointing. Piff
stores the WCS as a pickle, which would run code from the file: it is never read. The image's own
WCS gives (u, v) and the local Jacobian, and tells which chip of several the image is.
"""

import math
import re
from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np
from astropy.wcs import WCS
from scipy.optimize import brentq

from autofit_ml.errors import InputError
from autofit_ml.images.fitsfile import READ_FAILURES, FitsFile
from autofit_ml.images.psfex import narrow_sampling
from autofit_ml.images.sky_coordinates import pixel_positions
from autofit_ml.images.sky_psf import (
    POLYNOMIALS,
    POSITIONS,
    PixelGrid,
    Polynomials,
    RoundProfile,
    SkyModel,
    on_the_sky,
)
from autofit_ml.images.stamp import VaryingPSF

__all__ = ["is_piff", "piff_psf"]

_REMEDY = "give a Piff file of this image, or another kind of PSF"
_MODELS = ("PixelGrid", "Gaussian", "Moffat")
_INTERPOLATIONS = ("BasisPolynomial", "Polynomial", "Mean")
SAME_PLACE = 30.0
"""Pixels within which the image's WCS puts a chip's stars where they are, if it is that chip."""


def is_piff(file: FitsFile) -> bool:
    """True if a file has a table called psf with a column called type."""
    return "type" in _named(file, "psf", ())


def _named(file: FitsFile, name: str, default: Any = None) -> Any:
    """Rows of the table called `name`, or its column names if `default` is a tuple."""
    for info in file.infos:
        if info.kind == "table" and info.name == name.upper():
            try:
                hdu = file.hdus[info.index]
                return tuple(hdu.columns.names) if isinstance(default, tuple) else hdu.data
            except READ_FAILURES as error:
                raise InputError(
                    f"damaged Piff table {name}: {error}", _REMEDY, file.path
                ) from None
    return default


def _struct(file: FitsFile, name: str) -> dict[str, Any]:
    """The one row of a table, by column."""
    rows = _named(file, name)
    if rows is None or len(rows) != 1:
        raise InputError(f"the Piff file has no table {name} of one row", _REMEDY, file.path)
    out = {}
    for column in rows.columns.names:
        value = rows[column][0]
        out[column] = value.item() if isinstance(value, np.generic) else value
    return out


def piff_psf(
    file: FitsFile,
    wcs: WCS | None,
    shape: tuple[int, int],
    *,
    oversampling: int | None = None,
) -> VaryingPSF:
    """A Piff model as a varying PSF.

    Parameters
    ----------
    file : FitsFile
        SimplePSF or SingleChip; PixelGrid, Gaussian or Moffat; BasisPolynomial, Polynomial or Mean
        in u, v (or x, y).
    wcs : WCS or None
        Of the image.
    shape : tuple of int
        (ny, nx) of the image.
    oversampling : int, optional
        As for `autofit_ml.images.psfex.psfex_psf`.

    Raises
    ------
    InputError
        A type that is not read, a damaged file, an image without a WCS, or of another field.
    """
    if wcs is None:
        raise InputError(
            "a Piff model is in sky coordinates, and the image has no WCS",
            "give the image a WCS, or another kind of PSF",
            file.path,
        )
    middle = (shape[1] - 1) / 2, (shape[0] - 1) / 2
    name, offset, region = _chip(file, wcs, middle)
    kind = _word(_struct(file, name).get("type"))
    if kind.removesuffix("PSF") != "Simple":
        _refuse(file, f"PSF of type {kind!r}", ("SimplePSF", "SingleChip"))
    pointing = _pointing(file, name)
    parameters = _parameters(file, name)
    profile, reach, scale = _profile(file, name, len(parameters.coefficients))
    x, y = (np.array([value]) for value in middle)
    u, v, jacobian = on_the_sky(wcs, x, y, pointing)
    pixel = math.sqrt(abs(float(np.linalg.det(jacobian[0]))))
    test = SkyModel(parameters, profile, wcs, pointing, offset, 24, 2)
    image = test.drawn(u, v, x + offset[0], y + offset[1], jacobian)[0]
    fwhm = math.sqrt(np.count_nonzero(image > 0.5 * image.max())) / 2
    times = oversampling or narrow_sampling(fwhm, (scale or pixel / 2) / pixel)
    half = math.ceil((reach / pixel if reach else 5 * fwhm) * times)
    model = SkyModel(parameters, profile, wcs, pointing, offset, half, times)
    return VaryingPSF(model, oversampling=times, source=str(file.path), region=region)


def _chip(
    file: FitsFile, wcs: WCS, middle: tuple[float, float]
) -> tuple[str, tuple[float, float], tuple[float, float, float, float]]:
    """(name of the model's tables, shift from the image's pixels to Piff's, region of its stars).

    The image's WCS puts the stars of its own chip on their pixels, but for one shift, and the
    middle of the image among them.
    """
    names = ["psf"]
    if _word(_struct(file, "psf").get("type")).removesuffix("PSF") == "SingleChip":
        chips = _named(file, "psf_chipnums")
        if chips is None or not len(chips):
            raise InputError("the Piff file has no table psf_chipnums", _REMEDY, file.path)
        names = [f"psf_{chip}" for chip in chips[chips.columns.names[0]]]
    best = (math.inf, "", (1.0, 1.0), (-math.inf, math.inf, -math.inf, math.inf))
    for name in names:
        stars = _named(file, f"{name}_stars")
        columns = {} if stars is None else {column: stars[column] for column in stars.columns.names}
        if not {"x", "y", "ra", "dec"} <= set(columns):
            if len(names) == 1:
                return name, best[2], best[3]
            raise InputError(
                f"the Piff file has {len(names)} chips, and no stars that tell which one this is",
                "give a file of this chip alone",
                file.path,
            )
        chipnum = np.asarray(columns.get("chipnum", np.zeros(len(stars))))
        for chip in np.unique(chipnum):
            x, y, ra, dec = (
                np.asarray(columns[key], np.float64)[chipnum == chip]
                for key in ("x", "y", "ra", "dec")
            )
            there = pixel_positions(wcs, 15.0 * ra, dec)
            off, scatter, outside, box = [], 0.0, 0.0, []
            for at, here, centre in zip((x, y), there, middle, strict=True):
                shift = np.nanmedian(at - here) if np.isfinite(here).any() else math.nan
                low, high = at.min() - shift, at.max() - shift
                scatter += float(np.nanmedian(np.abs(at - here - shift)))
                outside += max(low - centre, centre - high, 0.0)
                off.append(float(shift))
                box += [float(low), float(high)]
            if scatter < SAME_PLACE and scatter + outside < best[0]:
                best = (scatter + outside, name, (off[0], off[1]), (box[0], box[1], box[2], box[3]))
    if not best[1]:
        raise InputError(
            "the image's WCS does not put the stars of this Piff file where they are on its chips",
            _REMEDY,
            file.path,
        )
    return best[1:]


def _pointing(file: FitsFile, name: str) -> tuple[float, float]:
    """Right ascension and declination of the tangent point, degrees."""
    for table in (f"{name}_wcs", "psf_wcs"):
        rows = _named(file, table)
        if rows is not None and {"ra", "dec"} <= set(rows.columns.names):
            return 15.0 * float(rows["ra"][0]), float(rows["dec"][0])
    raise InputError(
        "the Piff file has no pointing (its WCS is not that of a sky)",
        "draw PSF images with Piff and give them by a manifest",
        file.path,
    )


def _parameters(file: FitsFile, name: str) -> Polynomials:
    """The interpolation of a chip's model."""
    about, solution = _struct(file, f"{name}_interp"), _named(file, f"{name}_interp_solution")
    kind = _word(about.get("type"))
    if kind not in _INTERPOLATIONS:
        _refuse(file, f"interpolation of type {kind!r}", _INTERPOLATIONS)
    try:
        if kind == "Mean":
            return Polynomials(np.asarray(solution["mean"], np.float64)[:, None, None])
        if kind == "Polynomial":
            places = [np.asarray(solution[f"{c}"]) for c in ("PARAM", "U_EXPONENT", "V_EXPONENT")]
            coefficients = np.zeros([place.max() + 1 for place in places])
            coefficients[tuple(places)] = solution["COEFF"]
            polynomial_kind = _word(about.get("poly_type", "poly"))
            if polynomial_kind not in POLYNOMIALS:
                _refuse(file, f"polynomial of type {polynomial_kind!r}", tuple(POLYNOMIALS))
            return Polynomials(coefficients, kind=polynomial_kind)
        keys = tuple(map(_word, np.ravel(about.get("keys", ("u", "v")))))
        if len(keys) != 2 or not set(keys) <= set(POSITIONS):
            _refuse(file, f"dependence on {', '.join(keys)}", ("u and v", "x and y"))
        orders = np.broadcast_to(np.asarray(about["order"], int), 2)
        most = int(about.get("max_order", orders.max()))
        total = np.add.outer(np.arange(orders[0] + 1), np.arange(orders[1] + 1))
        values = np.asarray(solution["q"][0], np.float64)
        coefficients = np.zeros((len(values), *total.shape))
        coefficients[:, total <= most] = values
        return Polynomials(coefficients, (keys[0], keys[1]))
    except InputError:
        raise
    except READ_FAILURES as error:
        raise InputError(
            f"the interpolation of the Piff file cannot be read: {error}", _REMEDY, file.path
        ) from error


def _profile(
    file: FitsFile, name: str, number: int
) -> tuple[PixelGrid | RoundProfile, float | None, float | None]:
    """(profile, how far it reaches, its samples' size; arcsec or None) of a chip's model."""
    about = _struct(file, f"{name}_model")
    kind = _word(about.get("type"))
    if kind not in _MODELS:
        _refuse(file, f"model of type {kind!r}", _MODELS)
    if kind == "PixelGrid":
        kernel = _word(about.get("interp", "Lanczos(3)"))
        order = re.search(r"Lanczos\((?:n=)?(\d+)", kernel)
        if order is None:
            _refuse(file, f"grid with the interpolant {kernel}", ("Lanczos",))
        size, scale = int(about["size"]), float(about["scale"])
        if number not in (size * size, size * size - 1, size * size - 3):
            raise InputError(
                f"the Piff model has {number} parameters, and its grid {size} x {size}",
                _REMEDY,
                file.path,
            )
        grid = PixelGrid(size, scale, int(order[1]))
        return grid, (size // 2 + grid.order) * scale, scale
    has_flux = bool(about.get("fit_flux", False))
    has_shift = not about.get("centered", about.get("force_model_center", True))
    if number != 3 + has_flux + 2 * has_shift:
        raise InputError(f"a {kind} of Piff with {number} parameters", _REMEDY, file.path)
    with_pixel = bool(about.get("include_pixel", True))
    if kind == "Gaussian":
        return RoundProfile(has_flux, has_shift, with_pixel), None, None
    beta, cut = float(about["beta"]), float(about.get("trunc", 0.0)) or math.inf
    core = _core_of_half_light(beta, cut)
    return RoundProfile(has_flux, has_shift, with_pixel, beta, core, cut), None, None


def _core_of_half_light(beta: float, truncation: float) -> float:
    """Core radius of a Moffat profile, in its half-light radius."""

    def excess(core: float) -> float:
        def within(radius: float) -> float:
            return 1 - (1 + (radius / core) ** 2) ** (1 - beta)

        return 2 * within(1.0) - (1.0 if math.isinf(truncation) else within(truncation))

    return float(brentq(excess, 1e-3, 1e3))


def _word(value: Any) -> str:
    """Text of a FITS table, which may be bytes."""
    return value.decode().strip() if isinstance(value, bytes) else str(value).strip()


def _refuse(file: FitsFile, what: str, known: Sequence[str]) -> NoReturn:
    raise InputError(
        f"this Piff file has a {what}, which is not read (only {', '.join(known)})",
        "draw PSF images with Piff and give them by a manifest",
        file.path,
    )
