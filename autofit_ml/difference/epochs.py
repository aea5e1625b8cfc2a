"""Epochs of one piece of sky: when they were taken, and where a position is in each."""

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from astropy import units
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.table import QTable
from astropy.time import Time

from autofit_ml.errors import InputError, SettingsError
from autofit_ml.images.fitsfile import READ_FAILURES, opened_headers
from autofit_ml.images.sky_coordinates import pixel_positions, sky_positions
from autofit_ml.images.source import Source
from autofit_ml.images.stamp import Frame
from autofit_ml.settings import date_ranges

__all__ = ["absent_at", "observed", "pixels_of", "places"]

_MJD = ("MJD-OBS", "MJD-AVG", "MJD_OBS", "MJDOBS", "MJD", "EXPMJD", "OBSMJD")
_DATE = ("DATE-OBS", "DATE-AVG")
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
