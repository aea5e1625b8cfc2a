"""Grids of PSF images: STPSF (WebbPSF) and STDPSF files, photutils' `GriddedPSFModel`.

Between the nodes of the grid the images are interpolated bilinearly, beyond them the nearest are
taken, as photutils does. All these images contain the pixel.

Sources: STPSF's ``psf_grid`` (cards ``DET_YX0`` ... of a cube, "(y, x)" as its comments say;
photutils until 2.0 reads them the other way round), the STDPSF files of Anderson (``NXPSFS``,
``IPSFX01`` ... counted from 1; four samples a pixel).
"""

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from astropy.io import fits

from autofit_ml.errors import InputError, errors_as
from autofit_ml.images.fitsfile import FitsFile
from autofit_ml.images.stamp import VaryingPSF

__all__ = ["gridded_psf", "is_psf_grid", "psf_of_nodes", "read_psf_grid"]

_STDPSF_SAMPLES = 4
_REMEDY = "give a cube of PSF images with DET_YX0, DET_YX1, ... and OVERSAMP, as STPSF writes it"


@dataclass(frozen=True)
class _Grid:
    """Images at nodes: shape (ny, nx, h, w), x (nx,) and y (ny,) in 0-based pixels, ascending."""

    images: np.ndarray
    x: np.ndarray
    y: np.ndarray

    def __call__(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        total = np.zeros((len(x), *self.images.shape[2:]))
        for row, across in _two_nodes(self.y, y):
            for column, along in _two_nodes(self.x, x):
                total += (across * along)[:, None, None] * self.images[row, column]
        return total


def _two_nodes(nodes: np.ndarray, places: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """(index, weight) of the nodes on both sides of each place."""
    if len(nodes) == 1:
        return [(np.zeros(len(places), int), np.ones(len(places)))]
    places = np.clip(places, nodes[0], nodes[-1])
    low = np.clip(np.searchsorted(nodes, places, side="right") - 1, 0, len(nodes) - 2)
    share = (places - nodes[low]) / (nodes[low + 1] - nodes[low])
    return [(low, 1 - share), (low + 1, share)]


def is_psf_grid(file: FitsFile) -> bool:
    """True if a file has a cube of images with their positions."""
    return _cube(file) is not None


def _cube(file: FitsFile) -> int | None:
    for info in file.infos:
        header = file.hdus[info.index].header
        if info.kind == "image" and (
            "DET_YX0" in header or (len(info.shape) == 3 and "NXPSFS" in header)
        ):
            return info.index
    return None


def read_psf_grid(
    file: FitsFile, *, offset: tuple[float, float] = (0.0, 0.0), has_pixel: bool = True
) -> VaryingPSF:
    """A grid of PSF images in a file as a varying PSF.

    Parameters
    ----------
    file : FitsFile
    offset : tuple of float
        Where the image's first pixel is on the detector (0-based x, y).
    has_pixel : bool
        The images contain the pixel, as those of both kinds of files do.

    Raises
    ------
    InputError
        Positions that are missing or no grid, several detectors, a damaged cube.
    """
    index = _cube(file)
    if index is None:
        raise InputError("no cube of PSF images", _REMEDY, file.path)
    header = file.hdus[index].header
    with errors_as(InputError, "the grid of PSFs cannot be read", _REMEDY, file.path):
        images = np.asarray(
            file.hdus[index].pixels if hasattr(file.hdus[index], "pixels") else
            file.hdus[index].data, np.float64,
        )  # fmt: skip
        images = images.reshape(-1, *images.shape[-2:])
        if "DET_YX0" in header:
            x, y, samples = _stpsf_nodes(header, len(images))
        else:
            x, y, samples = _stdpsf_nodes(header, len(images))
    return psf_of_nodes(
        images, x - offset[0], y - offset[1], samples, has_pixel=has_pixel, source=str(file.path)
    )


def _stpsf_nodes(header: fits.Header, number: int) -> tuple[np.ndarray, np.ndarray, int]:
    places = [
        [float(text) for text in re.findall(r"[-+.\deE]+", str(header[f"DET_YX{k}"]))]
        for k in range(number)
    ]
    y, x = np.array(places).T
    return x, y, int(header["OVERSAMP"])


def _stdpsf_nodes(header: fits.Header, number: int) -> tuple[np.ndarray, np.ndarray, int]:
    nx, ny = int(header["NXPSFS"]), int(header["NYPSFS"])
    if nx * ny != number or number in (36, 56, 90, 200):
        raise ValueError(
            f"{number} images of several detectors: choose one with photutils "
            "(GriddedPSFModel.read(..., detector_id=)) and give that from Python"
        )
    x = np.array([float(header[f"IPSFX{k:02d}"]) for k in range(1, nx + 1)]) - 1
    y = np.array([float(header[f"JPSFY{k:02d}"]) for k in range(1, ny + 1)]) - 1
    return np.tile(x, ny), np.repeat(y, nx), _STDPSF_SAMPLES


def gridded_psf(model: Any, *, has_pixel: bool = True) -> VaryingPSF:
    """A `photutils.psf.GriddedPSFModel` as a varying PSF.

    Raises
    ------
    InputError
        Unequal oversampling along the axes, or values that are not finite.
    """
    samples = np.unique(np.asarray(model.oversampling))
    if len(samples) != 1:
        raise InputError(
            f"a GriddedPSFModel with oversampling {model.oversampling}",
            "give one with the same oversampling along both axes",
        )
    x, y = np.asarray(model.grid_xypos, np.float64).T
    images = np.asarray(model.data, np.float64)
    return psf_of_nodes(images, x, y, int(samples[0]), has_pixel=has_pixel, source="array")


def psf_of_nodes(
    images: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    oversampling: int,
    *,
    has_pixel: bool = True,
    source: str = "array",
) -> VaryingPSF:
    """PSF images at the nodes of a rectangular grid as a varying PSF.

    Parameters
    ----------
    images : ndarray, shape (n, h, w)
        Any positive sums.
    x, y : ndarray, shape (n,)
        0-based pixels, in any order.
    oversampling : int
        PSF pixels per image pixel.
    has_pixel, source
        As in `PSF`.

    Raises
    ------
    InputError
        The positions are no grid, or an image is not finite or has no positive sum.
    """
    columns, rows = np.unique(x), np.unique(y)
    order = np.lexsort((x, y))
    expected = np.stack(np.meshgrid(columns, rows)).reshape(2, -1)
    if len(x) != len(images) or not np.array_equal(np.stack([x, y])[:, order], expected):
        raise InputError(
            f"the positions of the {len(images)} PSF images are no rectangular grid",
            _REMEDY,
            None if source == "array" else source,
        )
    total = images.sum(axis=(1, 2), keepdims=True)
    if oversampling < 1 or not np.all(np.isfinite(total) & (total > 0)):
        raise InputError(
            "the grid holds a PSF image with NaN or without a positive sum, or OVERSAMP is below 1",
            "remove it from the grid",
            None if source == "array" else source,
        )
    grid = (images / total)[order].reshape(len(rows), len(columns), *images.shape[1:])
    return VaryingPSF(_Grid(grid, columns, rows), has_pixel, oversampling, source)
