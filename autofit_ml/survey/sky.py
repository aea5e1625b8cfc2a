"""Tilings of the sky: each position belongs to one tile, by arithmetic.

The tile of a position is a function of its right ascension and declination with whole numbers as
values, so that no position has two owners or none: cores are half-open, right ascension is taken
modulo 360, and the poles belong to the first and last band. No bounds are compared, and none can be
edited into gaps.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np
from astropy import units

from autofit_ml.errors import SettingsError
from autofit_ml.extras import needs

__all__ = ["Grid", "HEALPix", "Tiling", "offset_positions", "separation", "tiling", "unit_vectors"]

_FINEST = 18
"""Of HEALPix: tiles of 0.8 arcsec."""

_EDGE = 16
"""Points along a side of a tile's outline."""


@dataclass(frozen=True)
class HEALPix:
    """Pixels of HEALPix in the nested order.

    Attributes
    ----------
    order : int
        0 to 18; the sky has 12 · 4^order tiles.
    """

    order: int

    @property
    def text(self) -> str:
        """Name as it is given: ``healpix:8``."""
        return f"healpix:{self.order}"

    @property
    def width(self) -> float:
        """Root of a tile's area, degrees."""
        return math.sqrt(41252.96 / (12 * 4**self.order))

    def index(self, ra: np.ndarray, dec: np.ndarray) -> np.ndarray:
        """The tile of each position (degrees), int64."""
        with needs("survey", "a tiling of the sky"):
            from astropy_healpix.core import lonlat_to_healpix

        place = np.mod(ra, 360.0) * units.deg, np.clip(dec, -90.0, 90.0) * units.deg
        return np.asarray(lonlat_to_healpix(*place, 2**self.order, order="nested"), dtype=np.int64)

    def centre(self, tile: int) -> tuple[float, float]:
        """Right ascension and declination of a tile's middle, degrees."""
        with needs("survey", "a tiling of the sky"):
            from astropy_healpix.core import healpix_to_lonlat

        ra, dec = healpix_to_lonlat(tile, 2**self.order, order="nested")
        return float(ra.to_value("deg")) % 360.0, float(dec.to_value("deg"))

    def outline(self, tile: int, step: int = _EDGE) -> tuple[np.ndarray, np.ndarray]:
        """Positions around a tile, degrees, shape (4 step,)."""
        with needs("survey", "a tiling of the sky"):
            from astropy_healpix.core import boundaries_lonlat

        ra, dec = boundaries_lonlat([tile], step, 2**self.order, order="nested")
        return np.ravel(ra.to_value("deg")) % 360.0, np.ravel(dec.to_value("deg"))

    def area(self, tile: int) -> float:
        """Square degrees."""
        return self.width**2

    def name(self, tile: int) -> str:
        """Name of a tile, and of its file."""
        return f"hp{self.order}-{tile}"


@dataclass(frozen=True)
class Grid:
    """Bands of declination, cut into cells of about one width in right ascension.

    Attributes
    ----------
    degrees : float
        Width that was asked for; a whole number of bands fits between the poles.
    """

    degrees: float

    @property
    def text(self) -> str:
        """Name as it is given: ``grid:0.5``."""
        return f"grid:{self.degrees:g}"

    @property
    def width(self) -> float:
        """Height of a band, degrees."""
        return 180.0 / len(self._cells)

    @functools.cached_property
    def _edges(self) -> np.ndarray:
        """Limits of the bands, degrees."""
        return np.linspace(-90.0, 90.0, max(1, math.ceil(180.0 / self.degrees)) + 1)

    @functools.cached_property
    def _cells(self) -> np.ndarray:
        """Number of cells of each band."""
        edges = self._edges
        nearest = np.maximum(0.0, np.maximum(edges[:-1], -edges[1:]))  # to the equator
        around = 2 * (len(edges) - 1) * np.cos(np.radians(nearest))
        return np.maximum(1, np.ceil(around - 1e-9)).astype(np.int64)

    @functools.cached_property
    def _first(self) -> np.ndarray:
        """Number of the first tile of each band, and of one after the last."""
        return np.concatenate([[0], np.cumsum(self._cells)])

    def index(self, ra: np.ndarray, dec: np.ndarray) -> np.ndarray:
        """The tile of each position (degrees), int64."""
        cells = self._cells
        band = np.searchsorted(self._edges, np.asarray(dec, dtype=float), side="right") - 1
        band = np.clip(band, 0, len(cells) - 1)
        place = np.floor(np.mod(ra, 360.0) / 360.0 * cells[band]).astype(np.int64)
        return self._first[band] + np.clip(place, 0, cells[band] - 1)

    def _bounds(self, tile: int) -> tuple[float, float, float, float]:
        """Limits of a tile: right ascension, then declination."""
        band = int(np.searchsorted(self._first, tile, side="right")) - 1
        step = 360.0 / int(self._cells[band])
        ra = step * (tile - int(self._first[band]))
        return ra, ra + step, float(self._edges[band]), float(self._edges[band + 1])

    def centre(self, tile: int) -> tuple[float, float]:
        """Right ascension and declination of a tile's middle, degrees."""
        a, b, c, d = self._bounds(tile)
        return (a + b) / 2 % 360.0, (c + d) / 2

    def outline(self, tile: int, step: int = _EDGE) -> tuple[np.ndarray, np.ndarray]:
        """Positions around a tile, degrees, shape (4 step,)."""
        a, b, c, d = self._bounds(tile)
        t = np.arange(step) / step
        ra = np.concatenate([a + (b - a) * t, np.full(step, b), b - (b - a) * t, np.full(step, a)])
        dec = np.concatenate([np.full(step, c), c + (d - c) * t, np.full(step, d), d - (d - c) * t])
        return ra % 360.0, dec

    def area(self, tile: int) -> float:
        """Square degrees."""
        a, b, c, d = self._bounds(tile)
        sines = math.sin(math.radians(d)) - math.sin(math.radians(c))
        return math.degrees(math.radians(b - a) * sines) * math.degrees(1.0)

    def name(self, tile: int) -> str:
        """Name of a tile, and of its file."""
        return f"grid{self.degrees:g}-{tile}"


Tiling = HEALPix | Grid


def tiling(text: str) -> Tiling:
    """The tiling of a text: ``healpix:ORDER`` or ``grid:DEGREES``.

    Raises
    ------
    SettingsError
        It is neither, or out of range.
    """
    kind, _, number = text.partition(":")
    try:
        if kind == "healpix" and 0 <= int(number) <= _FINEST:
            return HEALPix(int(number))
        if kind == "grid" and 0.001 <= float(number) <= 90:
            return Grid(float(number))
    except ValueError:
        pass
    raise SettingsError(
        f"{text!r} is no tiling of the sky",
        f"use healpix:ORDER (0 to {_FINEST}) or grid:DEGREES (0.001 to 90)",
    )


def unit_vectors(ra: np.ndarray, dec: np.ndarray) -> np.ndarray:
    """Unit vectors of positions in degrees, shape (n, 3)."""
    a, d = np.radians(ra), np.radians(dec)
    return np.stack([np.cos(d) * np.cos(a), np.cos(d) * np.sin(a), np.sin(d)], axis=-1)


def separation(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Angle between unit vectors, arcsec; shape as they broadcast, without the last axis."""
    chord = np.linalg.norm(one - other, axis=-1)
    return np.degrees(2 * np.arcsin(np.minimum(chord / 2, 1.0))) * 3600.0


def offset_positions(
    ra: np.ndarray, dec: np.ndarray, degrees: float, directions: int = 16
) -> tuple[np.ndarray, np.ndarray]:
    """Positions on circles around others, and those themselves; shape (n (directions + 1),)."""
    vectors = unit_vectors(np.ravel(ra), np.ravel(dec))
    # Two directions at right angles to each vector: with the axis that it is farthest from.
    axis = np.eye(3)[np.argmin(np.abs(vectors), axis=1)]
    first = np.cross(vectors, axis)
    first /= np.linalg.norm(first, axis=1, keepdims=True)
    second = np.cross(vectors, first)
    out = [vectors]
    for turn in 2 * math.pi * np.arange(directions) / directions:
        along = math.cos(turn) * first + math.sin(turn) * second
        angle = math.radians(degrees)
        out.append(math.cos(angle) * vectors + math.sin(angle) * along)
    x, y, z = np.concatenate(out).T
    return np.degrees(np.arctan2(y, x)) % 360.0, np.degrees(np.arcsin(np.clip(z, -1, 1)))
