"""Images of a survey: where they lie on the sky, by their headers, and the cells they are cut into.

Detection is done cell by cell. Cells follow from an image's size alone and not from the tiling, so
that an object is detected in one way whatever tile it falls into. An image of up to about
`Cells.core` pixels is one cell.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from astropy.wcs import WCS

from autofit_ml.catalogue.filenames import file_stem
from autofit_ml.errors import InputError
from autofit_ml.images import Source
from autofit_ml.images.fitsfile import READ_FAILURES, list_hdus, opened_headers
from autofit_ml.images.header import read_calibration
from autofit_ml.images.planes import group_hdus
from autofit_ml.images.sky_coordinates import pixel_positions, sky_positions
from autofit_ml.survey.sky import Tiling, offset_positions

__all__ = [
    "Cell",
    "Footprint",
    "cells_of",
    "covering",
    "footprint",
    "grid",
    "inside",
    "tiles_near",
]

Window = tuple[int, int, int, int]
"""x0, x1, y0, y1 in pixels, without x1 and y1."""

_SAMPLES = 8
"""Positions along a tile's width at which an image's place is looked at."""

_HALO = 256
"""Pixels around a cell's core that detection also sees."""


_EACH_WAY = 17
"""Positions along the sides of an image at which a reference's reach is looked at."""

_WORTH = 0.01
"""Share of an image that a reference must cover, and no earlier one does."""


@dataclass(frozen=True)
class Footprint:
    """An image's place on the sky, by its header.

    Attributes
    ----------
    shape : tuple of int
        (ny, nx).
    wcs : WCS
    pixel_scale : float
        Arcsec.
    band : str
        Filter.
    """

    shape: tuple[int, int]
    wcs: WCS
    pixel_scale: float
    band: str

    @property
    def corners(self) -> tuple[np.ndarray, np.ndarray]:
        """Positions of the corners, degrees."""
        ny, nx = self.shape
        x, y = np.array([0, nx, nx, 0]) - 0.5, np.array([0, 0, ny, ny]) - 0.5
        return sky_positions(self.wcs, x, y)

    @property
    def centre(self) -> tuple[float, float]:
        """Position of the middle, degrees."""
        ny, nx = self.shape
        ra, dec = sky_positions(self.wcs, np.array([(nx - 1) / 2]), np.array([(ny - 1) / 2]))
        return float(ra[0]), float(dec[0])


@dataclass(frozen=True)
class Cell:
    """A part of an image in which sources are detected.

    Attributes
    ----------
    source : Source
    number : int
        Of the cell in its image.
    core, window : tuple of int
        x0, x1, y0, y1 of its own part, and with the halo.
    shape : tuple of int
        (ny, nx) of the image.
    priority : float
        Of overlapping images the one of the highest priority keeps an object.
    band : str
    """

    source: Source
    number: int
    core: Window
    window: Window
    shape: tuple[int, int]
    priority: float = 0.0
    band: str = ""

    @property
    def name(self) -> str:
        """Unique within a survey, a safe file name."""
        return f"{file_stem(self.source.id)}.{self.number}"

    @property
    def whole(self) -> bool:
        """True if the cell is its image."""
        ny, nx = self.shape
        return self.core == (0, nx, 0, ny)


def footprint(source: Source) -> Footprint:
    """Read where an image lies, without its pixels.

    Raises
    ------
    InputError
        There is no image, or it has no WCS.
    """
    if source.problem is not None:
        raise source.problem
    path, key = source.planes["image"]
    if key is None:
        grouping = group_hdus(list_hdus(path))
        if not grouping.objects:
            raise InputError("no image HDU", "give a FITS image", path)
        key = grouping.objects[0][1]["image"]
    try:
        with opened_headers(Path(path)) as hdus:
            hdu = hdus[key]
            shape, own = tuple(hdu.shape), hdu.header.copy()
            headers = [own] if hdu is hdus[0] else [own, hdus[0].header.copy()]
    except READ_FAILURES as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"the header cannot be read: {error}", "check the file", path) from error
    if len(shape) != 2 or min(shape) < 1:
        raise InputError(f"an image of {len(shape)} axes", "give an image of two axes", path)
    calibration = read_calibration(headers)
    if calibration.wcs is None:
        raise InputError(
            "no WCS: its place on the sky is not known",
            "add one, or fit it by itself with autofit-ml fit",
            path,
        )
    band = source.band or str(source.overrides.get("filter", calibration.filter))
    return Footprint((shape[0], shape[1]), calibration.wcs, calibration.pixel_scale, band)


def cells_of(
    source: Source, shape: tuple[int, int], core: int, priority: float = 0.0, band: str = ""
) -> Iterator[Cell]:
    """Cut an image into cells, row by row.

    Parameters
    ----------
    source : Source
    shape : tuple of int
        (ny, nx).
    core : int
        Longest side of a cell's own part, pixels; images of up to a quarter more are not cut.
    """
    ny, nx = shape
    rows, columns = _cuts(ny, core), _cuts(nx, core)
    number = 0
    for y0, y1 in rows:
        for x0, x1 in columns:
            window = (
                max(x0 - _HALO, 0), min(x1 + _HALO, nx), max(y0 - _HALO, 0), min(y1 + _HALO, ny)
            )  # fmt: skip
            yield Cell(source, number, (x0, x1, y0, y1), window, shape, priority, band)
            number += 1


def _cuts(number: int, core: int) -> list[tuple[int, int]]:
    """Cut `number` pixels into parts of nearly one length."""
    parts = 1 if number <= 1.25 * core else -(-number // core)
    edges = [number * k // parts for k in range(parts + 1)]
    return list(pairwise(edges))


def tiles_near(place: Footprint, window: Window, tiling: Tiling, reach: float) -> np.ndarray:
    """Tiles that lie within `reach` degrees of a part of an image, and perhaps a few more.

    No tile is missed: positions in the part, at most an eighth of a tile apart, are looked at, and
    circles around them that reach over what lies between them.

    Returns
    -------
    ndarray of int64
        Sorted.
    """
    x0, x1, y0, y1 = window
    step = tiling.width / _SAMPLES
    side = place.pixel_scale / 3600.0
    axes = [
        np.linspace(a - 0.5, b - 0.5, 1 + max(1, math.ceil((b - a) * side / step)))
        for a, b in ((x0, x1), (y0, y1))
    ]
    x, y = (np.ravel(one) for one in np.meshgrid(*axes))
    ra, dec = sky_positions(place.wcs, x, y)
    known = np.isfinite(ra) & np.isfinite(dec)
    around = 1.1 * (0.75 * step + reach)  # the circle's 16 points leave out 2 % of its radius
    return np.unique(tiling.index(*offset_positions(ra[known], dec[known], around)))


def covering(
    place: Footprint, references: Sequence[tuple[Footprint, Source]]
) -> tuple[Source, ...]:
    """References that cover an image together: each in turn the one that adds the most."""
    ny, nx = place.shape
    left = grid(place.wcs, (0, nx, 0, ny))
    chosen: list[Source] = []
    reached = [inside(one.wcs, one.shape, *left) for one, _ in references]
    seen = np.zeros(len(left[0]), bool)
    while reached:
        best = int(np.argmax([(one & ~seen).sum() for one in reached]))
        if (reached[best] & ~seen).mean() < _WORTH:
            break
        seen |= reached[best]
        chosen.append(references[best][1])
    return tuple(chosen)


def grid(wcs: WCS, window: Window) -> tuple[np.ndarray, np.ndarray]:
    """Positions all over a part of an image, degrees."""
    x0, x1, y0, y1 = window
    x, y = np.meshgrid(np.linspace(x0, x1 - 1, _EACH_WAY), np.linspace(y0, y1 - 1, _EACH_WAY))
    return sky_positions(wcs, x.ravel(), y.ravel())


def inside(wcs: WCS, shape: tuple[int, ...], ra: np.ndarray, dec: np.ndarray) -> np.ndarray:
    """True for positions that lie in an image."""
    x, y = pixel_positions(wcs, ra, dec)
    return (x > -0.5) & (x < shape[1] - 0.5) & (y > -0.5) & (y < shape[0] - 0.5)
