"""Epochs of one piece of sky: when they were taken, and how bright the same star is in each."""

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from astropy import units
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.table import QTable
from astropy.time import Time

from autofit_ml.difference.photometry import point_image
from autofit_ml.errors import InputError, SettingsError
from autofit_ml.images.fitsfile import READ_FAILURES, opened_headers
from autofit_ml.images.sky_coordinates import pixel_positions, sky_positions
from autofit_ml.images.source import Source
from autofit_ml.images.stamp import PSF, Frame
from autofit_ml.measure import find_stars, fourier_shift, psf_fwhm
from autofit_ml.settings import date_ranges

__all__ = ["Scale", "absent_at", "observed", "pixels_of", "places", "relative_scale"]

_MJD = ("MJD-OBS", "MJD-AVG", "MJD_OBS", "MJDOBS", "MJD", "EXPMJD", "OBSMJD")
_DATE = ("DATE-OBS", "DATE-AVG")
_FEWEST = 3
"""Stars that a photometric scale is measured with, at least."""

_AT = "give RA,DEC in degrees, pixel:X,Y, or a table with the columns ra and dec, or x and y"


def observed(source: Source) -> float:
    """Modified Julian date of an image by its header; NaN where it does not say."""
    if source.problem is not None or "image" not in source.planes:
        return math.nan
    path, key = source.planes["image"]
    content = source.content_of(path)
    try:
        with opened_headers(path) if content is None else fits.open(io.BytesIO(content)) as hdus:
            headers = [hdu.header for hdu in hdus]
            if key is not None:
                headers = [hdus[key].header, *headers[:1]]
            return _date(headers)
    except READ_FAILURES:
        return math.nan


def _date(headers: Sequence[Mapping[str, Any]]) -> float:
    for header in headers:
        for card in _MJD:
            try:
                value = float(header.get(card, math.nan))
            except (TypeError, ValueError):
                continue
            if value > 0:
                return value
    for header in headers:
        for card in _DATE:
            try:
                return float(Time(str(header[card]), scale="utc").mjd)
            except (KeyError, ValueError):
                continue
    return math.nan


def places(at: Any, reference: Frame) -> QTable:
    """Positions of a light curve: ``name x y`` (pixels of the reference), ``ra dec`` with a WCS.

    Parameters
    ----------
    at : str, path, table, or array_like (n, 2)
        ``RA,DEC`` (degrees), ``pixel:X,Y``, a file or table with the columns ``ra`` and ``dec`` or
        ``x`` and ``y`` (and ``name`` or ``id``); pairs are ra and dec where the reference has a
        WCS, else x and y.

    Raises
    ------
    SettingsError
        They cannot be understood, or two have one name.
    InputError
        Positions on the sky, and the reference has no WCS; one lies outside the reference.
    """
    table = _table(at, reference.wcs is not None)
    sky = "ra" in table.colnames and "dec" in table.colnames
    pair = ("ra", "dec") if sky else ("x", "y")
    if not set(pair) <= set(table.colnames) or not len(table):
        raise SettingsError(f"no positions in {table.colnames or 'it'}", _AT)
    first, second = (_degrees(table[name]) for name in pair)
    key = next((name for name in ("name", "id") if name in table.colnames), "")
    default = [f"at_{k}" for k in range(1, len(table) + 1)]
    names = [str(name) for name in table[key]] if key else default
    if len(set(names)) < len(names):
        raise SettingsError("two positions have one name", "give each a name of its own")
    if sky and reference.wcs is None:
        raise InputError(
            "positions on the sky, and no WCS", "give pixel:X,Y, or images with a WCS",
            reference.file,
        )  # fmt: skip
    x, y = pixel_positions(reference.wcs, first, second) if sky else (first, second)
    ny, nx = reference.data.shape
    for name, column, row in zip(names, x, y, strict=True):
        if not (-0.5 <= column < nx - 0.5 and -0.5 <= row < ny - 0.5):
            raise InputError(
                f"{name} lies at x {column:.1f}, y {row:.1f}, outside the reference of {nx} x {ny}",
                _AT, reference.file,
            )  # fmt: skip
    out = QTable({"name": names, "x": x, "y": y})
    if reference.wcs is not None:
        out["ra"], out["dec"] = (first, second) if sky else sky_positions(reference.wcs, x, y)
    return out


def _table(at: Any, sky: bool) -> QTable:
    if isinstance(at, (str, Path)):
        text = str(at)
        if Path(text).is_file():
            try:
                if text.endswith(".parquet"):
                    import pyarrow.parquet as pq

                    return QTable(pq.read_table(text).to_pydict())
                return QTable.read(text)
            except Exception as error:  # whatever a table of anything makes astropy raise
                raise SettingsError(f"{text} is no table ({error})", _AT) from error
        kind, _, numbers = text.rpartition(":")
        if kind == "pixel" or (not kind and not sky):
            names = ("x", "y")
        else:
            names, numbers = ("ra", "dec"), text
        try:
            if names[0] == "ra" and ":" in numbers:
                spot = SkyCoord(numbers.replace(",", " "), unit=(units.hourangle, units.deg))
                return QTable({"ra": [spot.ra.deg], "dec": [spot.dec.deg]})
            one, two = (float(word) for word in numbers.split(","))
        except ValueError as error:
            raise SettingsError(f"{text!r} is no position, nor a file", _AT) from error
        return QTable({names[0]: [one], names[1]: [two]})
    if hasattr(at, "colnames"):
        return QTable(at)
    pairs = np.atleast_2d(np.asarray(at, float))
    if pairs.ndim != 2 or pairs.shape[1] != 2:
        raise SettingsError(f"positions of shape {pairs.shape}", _AT)
    return QTable(dict(zip(("ra", "dec") if sky else ("x", "y"), pairs.T, strict=True)))


def _degrees(column: Any) -> np.ndarray:
    values = column.to_value(units.deg) if hasattr(column, "to_value") and column.unit else column
    try:
        return np.asarray(values, float)
    except ValueError as error:
        raise SettingsError("positions that are no numbers", _AT) from error


def pixels_of(table: QTable, frame: Frame, reference: Frame) -> tuple[np.ndarray, np.ndarray]:
    """Pixels (x, y) of `places` in an image; those of the reference where neither has a WCS.

    Raises
    ------
    InputError
        One image has a WCS and the other has not, or their grids differ and neither has.
    """
    if frame.wcs is not None and reference.wcs is not None:
        return pixel_positions(frame.wcs, np.asarray(table["ra"]), np.asarray(table["dec"]))
    if frame.data.shape != reference.data.shape:
        raise InputError(
            f"without a WCS its pixels cannot be related to those of {reference.id}",
            "give both a WCS, or put them on one grid", frame.file,
        )  # fmt: skip
    return np.asarray(table["x"], float), np.asarray(table["y"], float)


@dataclass(frozen=True)
class Scale:
    """Flux in an image of a source with flux 1 in the reference.

    Attributes
    ----------
    value, error : float
    how : str
        "stars", "zero points", "kernel" or "none".
    number : int
        Stars.
    """

    value: float
    error: float
    how: str
    number: int = 0


def relative_scale(
    frame: Frame, psf: PSF, reference: Frame, reference_psf: PSF, how: str = "auto"
) -> Scale | None:
    """Measure how bright stars are in an image, beside the reference.

    PSF photometry of the same stars in both, each on its own pixels and with its own PSF: what is
    wrong with a PSF's size is the same for its stars and for the source.

    Returns
    -------
    Scale or None
        None where neither stars nor zero points tell (`how` "auto").

    Raises
    ------
    InputError
        They do not, and `how` is "stars" or "zeropoints".
    """
    if how in ("auto", "stars"):
        found = _by_stars(frame, psf, reference, reference_psf)
        if found is not None:
            return found
    if how in ("auto", "zeropoints"):
        value = 10 ** (0.4 * (frame.zeropoint - reference.zeropoint))
        if math.isfinite(value):
            return Scale(value, 0.0, "zero points")
    if how == "auto":
        return None
    what = f"fewer than {_FEWEST} good stars in common" if how == "stars" else "no zero points"
    raise InputError(f"{what} with {reference.id}", "use --scale auto", frame.file)


def _by_stars(frame: Frame, psf: PSF, reference: Frame, reference_psf: PSF) -> Scale | None:
    try:
        stars = find_stars(reference.data, reference.sigma, reference.mask)[:200]
    except InputError:
        return None
    if len(stars) < _FEWEST:
        return None
    x, y = stars[:, 0], stars[:, 1]
    if frame.wcs is not None and reference.wcs is not None:
        there = pixel_positions(frame.wcs, *sky_positions(reference.wcs, x, y))
    elif frame.data.shape == reference.data.shape:
        there = x, y
    else:
        return None
    one, one_err = _star_fluxes(frame, psf, *there)
    other, other_err = _star_fluxes(reference, reference_psf, x, y)
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = one / other
        error = np.abs(ratio) * np.hypot(one_err / one, other_err / other)
    good = (one > 20 * one_err) & (other > 20 * other_err) & np.isfinite(ratio)
    ratio, error = ratio[good], error[good]
    for _ in range(5):
        if len(ratio) < _FEWEST:
            return None
        middle = np.median(ratio)
        excess = max((1.4826 * np.median(np.abs(ratio - middle))) ** 2 - np.median(error) ** 2, 0.0)
        spread = np.sqrt(error**2 + excess)
        keep = np.abs(ratio - middle) < 4 * spread
        if keep.all():
            break
        ratio, error = ratio[keep], error[keep]
    weight = 1 / (error**2 + excess)
    return Scale(
        float((weight * ratio).sum() / weight.sum()), float(weight.sum() ** -0.5), "stars",
        len(ratio),
    )  # fmt: skip


def _star_fluxes(
    frame: Frame, psf: PSF, x: np.ndarray, y: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Fluxes of stars by PSF, its derivatives (the position) and a sky; NaN where not possible."""
    shape = point_image(psf)
    # Near the core: light of neighbours, and wings, differ with the seeing.
    reach = min(min(shape.shape) // 2, max(4, round(1.25 * psf_fwhm(psf) / psf.oversampling)))
    middle = tuple(side // 2 for side in shape.shape)
    flux, error = np.full(len(x), np.nan), np.full(len(x), np.nan)
    for k, (at_x, at_y) in enumerate(zip(x, y, strict=True)):
        if not (math.isfinite(at_x) and math.isfinite(at_y)):
            continue
        column, row = round(at_x), round(at_y)
        window = np.s_[row - reach : row + reach + 1, column - reach : column + reach + 1]
        good = ~frame.mask[window] if min(row, column) >= reach else np.zeros((0, 0), bool)
        if good.shape != (2 * reach + 1,) * 2 or good[reach - 3 : reach + 4].mean() < 1:
            continue
        shifted = fourier_shift(shape, at_x - column, at_y - row)
        down, right = np.gradient(shifted)
        cut = np.s_[
            middle[0] - reach : middle[0] + reach + 1, middle[1] - reach : middle[1] + reach + 1
        ]
        columns = np.stack([shifted[cut], down[cut], right[cut], np.ones(good.shape)], -1)
        # All pixels weigh alike, as the source's do where the sky is brighter than it is.
        noise = frame.sigma[window][good].astype(float)
        design, data = columns[good], frame.data[window][good].astype(float)
        inverse = np.linalg.pinv(design)
        flux[k] = inverse[0] @ data
        error[k] = math.sqrt(float((inverse[0] ** 2 * noise**2).sum()))
    return flux, error


def absent_at(times: Sequence[float], ranges: str) -> np.ndarray:
    """Epochs without the source, bool, by ranges of MJD like ``:58000,58100:58200``.

    Raises
    ------
    SettingsError
        No epoch in them.
    """
    out = np.zeros(len(times), bool)
    for low, high in date_ranges(ranges):
        out |= (np.asarray(times) >= low) & (np.asarray(times) <= high)
    if ranges and not out.any():
        raise SettingsError(
            f"no epoch lies in {ranges}", "the dates are MJD, by the images' headers"
        )
    return out
