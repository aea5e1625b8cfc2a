"""PSFEx models (``.psf``): images times polynomials in the position.

Source: PSFEx user manual (Bertin 2011, ASPC 442, 435), "The .psf file"; checked against the images
that PSFEx 3.21 itself makes. With u = (x - POLZERO1) / POLSCAL1 and v likewise, x and y counted
from 1,

    PSF = sum_k P_k p_k(u, v),   p = 1, u, u^2, ..., v, u v, ..., v^2, ...   (i + j <= POLDEG1),

sampled every PSF_SAMP image pixels and brought to image pixels by Lanczos-3 interpolation, as PSFEx
does it. The model contains the pixel.
"""

import math
import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from autofit_ml.errors import InputError, errors_as
from autofit_ml.images.fitsfile import READ_FAILURES, FitsFile
from autofit_ml.images.stamp import VaryingPSF
from autofit_ml.measure import lanczos_matrix

__all__ = ["is_psfex", "narrow_sampling", "psfex_psf"]

_ORDER = 3
_REMEDY = "give the .psf file that PSFEx wrote for this image"


@dataclass(frozen=True)
class _Model:
    """PSFEx's sum, on the pixels of the wanted images.

    Attributes
    ----------
    terms : ndarray, float64, shape (k, h, w)
    degree : int
    zero, scale : tuple of float
        Of x and y, 1-based pixels of the frame.
    offset : tuple of float
        From the image's 0-based pixels to those.
    """

    terms: np.ndarray
    degree: int
    zero: tuple[float, float]
    scale: tuple[float, float]
    offset: tuple[float, float]

    def __call__(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        u = (x + self.offset[0] - self.zero[0]) / self.scale[0]
        v = (y + self.offset[1] - self.zero[1]) / self.scale[1]
        return np.tensordot(_polynomial_terms(u, v, self.degree), self.terms, axes=1)


def _polynomial_terms(u: np.ndarray, v: np.ndarray, degree: int) -> np.ndarray:
    """Products ``u^i v^j`` with i + j <= degree, i running first; shape (n, k) of (n,)."""
    powers = [u**i * v**j for j in range(degree + 1) for i in range(degree + 1 - j)]
    return np.stack(powers, axis=-1)


def is_psfex(file: FitsFile) -> bool:
    """True if a file has a table with a column PSF_MASK."""
    return bool(_tables(file))


def _tables(file: FitsFile) -> list[int]:
    """Indices of the HDUs that are PSFEx's."""
    found = []
    for info in file.infos:
        names = _columns(file.hdus[info.index]) if info.kind == "table" else {}
        if "psf_mask" in names:
            found.append(info.index)
    return found


def _columns(hdu: Any) -> dict[str, str]:
    """Names of a table's columns by their lower-case names."""
    try:
        return {str(name).strip().lower(): str(name) for name in hdu.columns.names}
    except READ_FAILURES:
        return {}


def psfex_psf(
    file: FitsFile,
    *,
    key: int | str | None = None,
    offset: tuple[float, float] = (0.0, 0.0),
    number: int = 0,
    detector: str = "",
    oversampling: int | None = None,
) -> VaryingPSF:
    """A PSFEx model as a varying PSF.

    Parameters
    ----------
    file : FitsFile
        A ``.psf`` file, also as legacypipe cuts them (no POLNAXIS, PSFNAXIS or PSFAXISn; the column
        in lower case; PSF_SAMP = 0) and merges them (a row for each detector).
    key : int or str, optional
        Index or EXTNAME of the table.
    offset : tuple of float
        Where the image's first pixel is in the frame that the model is for (0-based x, y).
    number : int
        Which of several tables: the image's number among the images of its file.
    detector : str
        Which of several rows: that with this ``ccdname``.
    oversampling : int, optional
        By default 1 where the FWHM is 2.5 image pixels or more, else about that of the samples.

    Raises
    ------
    InputError
        The table is missing, damaged, ambiguous, or depends on something else than the position.
    """
    hdu, columns, row = _row_of(file, key, number, detector)

    def value(name: str, default: float) -> float:
        try:
            if name.lower() in columns:
                return float(np.ravel(row[columns[name.lower()]])[0])
            return float(hdu.header.get(name, default))
        except (TypeError, ValueError):
            return default

    axes = sum(f"POLNAME{k}" in hdu.header for k in (1, 2, 3, 4))
    axes = int(value("POLNAXIS", axes or 2))
    names = [str(hdu.header.get(f"POLNAME{k + 1}", "XY"[k : k + 1])).upper() for k in range(axes)]
    degree = int(value("POLDEG1", 0)) if axes else 0
    planes = _planes(file, hdu, row[columns["psf_mask"]], int(value("PSFAXIS3", 1)))
    if len(planes) == 1:
        degree = 0
    expected = (degree + 1) * (degree + 2) // 2
    known = [
        re.fullmatch(rf"{axis}([A-Z]*_IMAGE)?", name)
        for axis, name in zip("XY", names, strict=False)
    ]
    groups = int(value("POLNGRP", 1))
    if degree and (axes != 2 or not all(known) or groups > 1):
        raise InputError(
            f"the PSFEx model depends on {', '.join(names) or 'nothing'}"
            + (f" in {groups} groups" if groups > 1 else ""),
            "run PSFEx with PSFVAR_KEYS X_IMAGE,Y_IMAGE and PSFVAR_GROUPS 1,1",
            file.path,
        )
    if len(planes) != expected:
        raise InputError(
            f"the PSFEx model has {len(planes)} images, and degree {degree} needs {expected}",
            _REMEDY,
            file.path,
        )
    zero = value("POLZERO1", 0.0), value("POLZERO2", 0.0)
    scale = value("POLSCAL1", 1.0), value("POLSCAL2", 1.0)
    step = value("PSF_SAMP", 1.0)
    if not (np.all(np.isfinite([*zero, *scale, step])) and min(scale) > 0 and step >= 0):
        raise InputError(
            f"the PSFEx model has POLSCAL1, POLSCAL2 of {scale} and PSF_SAMP of {step:g}",
            _REMEDY,
            file.path,
        )
    step = step or 1.0
    fwhm = math.sqrt(np.count_nonzero(planes[0] > 0.5 * planes[0].max())) * step
    times = oversampling or narrow_sampling(fwhm, step)
    terms = _resampled(planes, step, times)
    shift = offset[0] + 1.0, offset[1] + 1.0
    reach = [s / 2 if degree else math.inf for s in scale]
    x, y = (z - s for z, s in zip(zero, shift, strict=True))
    return VaryingPSF(
        _Model(terms, degree, zero, scale, shift),
        oversampling=times,
        source=str(file.path),
        region=(x - reach[0], x + reach[0], y - reach[1], y + reach[1]),
    )


def _row_of(
    file: FitsFile, key: int | str | None, number: int, detector: str
) -> tuple[Any, dict[str, str], Any]:
    """(HDU, its columns, the row) of an image's model."""
    tables = [index for index in _tables(file) if key is None or index == file.find(key).index]
    if not tables:
        raise InputError("no table with a column PSF_MASK", _REMEDY, file.path)
    if len(tables) > 1 and number >= len(tables):
        raise InputError(
            f"the file has PSFEx models of {len(tables)} images, and this is image {number + 1} "
            "of its file",
            _REMEDY,
            file.path,
        )
    hdu = file.hdus[tables[number if len(tables) > 1 else 0]]
    columns = _columns(hdu)
    with errors_as(InputError, "damaged PSFEx table", _REMEDY, file.path):
        rows = hdu.data
        count = len(rows)
    if count == 1:
        return hdu, columns, rows[0]
    names = []
    if "ccdname" in columns:
        names = [str(name).strip().upper() for name in rows[columns["ccdname"]]]
    if not detector or names.count(detector.upper()) != 1:
        raise InputError(
            f"the file has PSFEx models of {count} detectors, none or several of them of "
            f"{detector or 'an image without CCDNAME or EXTNAME'}",
            "give the model of this detector alone",
            file.path,
        )
    return hdu, columns, rows[names.index(detector.upper())]


def _planes(file: FitsFile, hdu: Any, values: Any, count: int) -> np.ndarray:
    """The model's images, shape (k, h, w), by TDIM or PSFAXISn."""
    planes = np.asarray(values, np.float64)
    sides = [int(hdu.header.get(f"PSFAXIS{k}", 0) or 0) for k in (2, 1)]
    if planes.ndim == 1 and min(sides) > 0 and planes.size == max(count, 1) * sides[0] * sides[1]:
        planes = planes.reshape(-1, *sides)
    if planes.ndim == 2:
        planes = planes[None]
    if planes.ndim != 3 or min(planes.shape[1:]) < 3 or not np.all(np.isfinite(planes)):
        raise InputError(
            f"PSF_MASK has shape {planes.shape} or values that are not finite", _REMEDY, file.path
        )
    return planes


def narrow_sampling(fwhm: float, step: float) -> int:
    """PSF pixels per image pixel by FWHM and the model's own step, both in image pixels."""
    return 1 if fwhm >= 2.5 else max(1, round(1.0 / step))


def _resampled(planes: np.ndarray, step: float, times: int) -> np.ndarray:
    """The images at `times` samples per image pixel, PSFEx's centre in the middle."""
    axes = []
    for side in planes.shape[1:]:
        half = math.ceil((side // 2 + _ORDER - 1) * step * times)
        places = side // 2 + np.arange(-half, half + 1) / (step * times)
        axes.append(lanczos_matrix(places, side, _ORDER))
    return np.einsum("ya,kab,xb->kyx", axes[0], planes, axes[1], optimize=True)
