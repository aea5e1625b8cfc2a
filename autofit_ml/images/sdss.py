"""SDSS (DR8 and later): noise of a corrected frame, PSF from a psField file.

Sources: the data models of ``frame`` (units, calibration vector, sky image, gain and dark
variance; https://data.sdss.org/datamodel/files/BOSS_PHOTOOBJ/frames/RERUN/RUN/CAMCOL/frame.html)
and ``psField`` (Karhunen-Loeve PSF;
https://data.sdss.org/datamodel/files/PHOTO_REDUX/RERUN/RUN/objcs/CAMCOL/psField.html).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import ndimage

from autofit_ml.errors import InputError, errors_as
from autofit_ml.images.fitsfile import READ_FAILURES, FitsFile
from autofit_ml.images.header import Calibration, text_card
from autofit_ml.images.stamp import CENTROID_TOLERANCE, VaryingPSF
from autofit_ml.measure import core_centroid, expected_source, fourier_shift

__all__ = [
    "amplifier",
    "frame_noise",
    "is_psfield",
    "psfield_psf",
    "reconstruct_psf",
    "sky_image",
]

BANDS = "ugriz"
FIELD = (2048, 1489)
"""Columns and rows of a field."""


def amplifier(table: Mapping[str, Any], run: int, camcol: int, band: str) -> tuple[float, float]:
    """(gain in e-/count, dark variance in counts^2) of a CCD, from the preset's tables.

    Parameters
    ----------
    table : dict
        ``gain_table`` and ``dark_variance_table``: camcol -> band -> number, or
        ``{before: run, value: number, else: number}``.
    run, camcol : int
    band : str
        One of u g r i z.
    """
    values = []
    for name in ("gain_table", "dark_variance_table"):
        entry = table[name][camcol][band]
        if isinstance(entry, Mapping):
            entry = entry["value"] if run < int(entry["before"]) else entry["else"]
        values.append(float(entry))
    return values[0], values[1]


def sky_image(row: Any, shape: tuple[int, int]) -> np.ndarray:
    """Sky in counts on the frame's pixels: bilinear interpolation of ALLSKY.

    Parameters
    ----------
    row : record
        ALLSKY, XINTERP, YINTERP of HDU 2.
    shape : tuple of int
        (ny, nx) of the frame.
    """
    sky = np.asarray(row["ALLSKY"], dtype=np.float64)
    x = np.asarray(row["XINTERP"], dtype=np.float64).ravel()
    y = np.asarray(row["YINTERP"], dtype=np.float64).ravel()
    if sky.ndim != 2 or x.size != shape[1] or y.size != shape[0]:
        raise ValueError(f"sky table of shape {sky.shape}, {y.size} x {x.size} for {shape}")
    grid = np.meshgrid(y, x, indexing="ij")
    return ndimage.map_coordinates(sky, grid, order=1, mode="nearest")


def frame_noise(
    data: np.ndarray,
    mask: np.ndarray,
    file: FitsFile,
    calibration: Calibration,
    table: Mapping[str, Any],
) -> tuple[np.ndarray | None, tuple[str, ...]]:
    """Noise of a corrected frame, by its data model.

    ``dn = image / calib + sky``; ``dn_err = sqrt(dn / gain + dark_variance)``;
    ``err = dn_err * calib`` (nanomaggies). The counts of the source enter as their expectation
    (`autofit_ml.images.noise.expected_source`), so that the weights do not follow the noise.

    Returns
    -------
    sigma : ndarray or None
        None (with a message) when the file is not a whole frame with its three first HDUs.
    messages : tuple of str
    """
    header = file.hdus[0].header
    try:
        band = text_card([header], ("FILTER", "BAND"))[-1:]
        gain, dark = amplifier(table, int(header["RUN"]), int(header["CAMCOL"]), band)
        calib = np.asarray(file.hdus[1].data, dtype=np.float64).ravel()
        if calib.size != data.shape[1]:
            raise ValueError(f"calibration vector of {calib.size} for {data.shape[1]} columns")
        sky = sky_image(file.hdus[2].data[0], data.shape)
    except READ_FAILURES as error:
        return None, (f"SDSS noise model not used: {error}",)
    if np.any(calib <= 0) or not np.all(np.isfinite(calib)):
        return None, ("SDSS noise model not used: calibration vector not positive",)
    floor = np.maximum(sky / gain + dark, dark)
    counts = np.where(mask, 0.0, data) / calib
    source = expected_source(counts, np.sqrt(floor), gain)
    return np.sqrt(source / gain + floor) * calib, ()


def reconstruct_psf(table: Any, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """PSFs at positions of the field, as sums of eigenimages.

    ``PSF = sum_k a_k E_k`` with ``a_k = sum_ij C_k[i, j] (0.001 row)^i (0.001 col)^j``,
    i < nrow_b, j < ncol_b; E_k is RROWS reshaped to (RNROW, RNCOL).

    Parameters
    ----------
    table : FITS_rec
        HDU 1 to 5 (u g r i z) of a psField file: one row per eigenimage.
    rows, columns : ndarray, shape (n,)
        0-based y and x in the field.

    Returns
    -------
    ndarray, float64, shape (n, RNROW, RNCOL)
    """
    ny, nx = int(table["RNROW"][0]), int(table["RNCOL"][0])
    images = np.zeros((len(rows), ny * nx))
    for k in range(len(table)):
        n_i, n_j = int(table["nrow_b"][k]), int(table["ncol_b"][k])
        coefficients = np.asarray(table["c"][k], dtype=np.float64)[:n_i, :n_j]
        weight = np.polynomial.polynomial.polyval2d(0.001 * rows, 0.001 * columns, coefficients)
        images += weight[:, None] * np.asarray(table["RROWS"][k], dtype=np.float64)[: ny * nx]
    return images.reshape(-1, ny, nx)


@dataclass(frozen=True)
class _Field:
    """PSFs of a psField table, centred; `offset` leads from the image's pixels to the field's."""

    table: np.ndarray
    offset: tuple[float, float]

    def __call__(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        images = reconstruct_psf(self.table, y + self.offset[1], x + self.offset[0])
        middle = [(n - 1) / 2 for n in images.shape[:0:-1]]
        for k, image in enumerate(images):
            off = np.subtract(middle, core_centroid(image)[:2])
            if np.abs(off).max() > CENTROID_TOLERANCE:
                images[k] = fourier_shift(image, *off)
        return images


def is_psfield(file: FitsFile) -> bool:
    """True if a file has the tables of a psField."""
    try:
        return len(file.hdus) > len(BANDS) and "RROWS" in file.hdus[1].columns.names
    except READ_FAILURES:
        return False


def psfield_psf(
    file: FitsFile, filter_name: str, *, offset: tuple[float, float] = (0.0, 0.0)
) -> VaryingPSF:
    """The PSF of a psField file in a filter.

    Parameters
    ----------
    file : FitsFile
    filter_name : str
        Its last letter is the band.
    offset : tuple of float
        Where the image's first pixel is in the field (0-based x, y).

    Raises
    ------
    InputError
        Unknown filter or not a psField file.
    """
    band = filter_name[-1:].lower()
    if band not in BANDS or not band:
        raise InputError(
            f"filter {filter_name!r} is none of u g r i z: no PSF from psField",
            "set the filter in the manifest",
            file.path,
        )
    with errors_as(InputError, "not a psField file", "give the field's psField-*.fit", file.path):
        model = _Field(np.asarray(file.hdus[1 + BANDS.index(band)].data), offset)
        model(*np.array([[700.0], [1000.0]]))
    (x0, y0), (nx, ny) = offset, FIELD
    return VaryingPSF(model, source=str(file.path), region=(-x0, nx - 1 - x0, -y0, ny - 1 - y0))
