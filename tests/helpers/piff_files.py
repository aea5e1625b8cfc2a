"""Files as Piff writes them, with a pickle in the place of the WCS that tells when it is loaded."""

from __future__ import annotations

import base64
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS

POINTING = 150.1, 2.05
SHAPE = 800, 800


def chip_wcs(chip: int = 0) -> WCS:
    """WCS of one of two chips side by side, turned and sheared."""
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = [150.0, 2.0]
    wcs.wcs.crpix = [400 - 900 * chip, 400]
    wcs.wcs.cd = np.array([[-0.2, 0.03], [0.028, 0.21]]) / 3600
    wcs.pixel_shape = SHAPE
    return wcs


class Trap:
    """A pickle of it makes a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def table(name: str, **columns: Any) -> fits.BinTableHDU:
    """A table of one row, or of as many as the columns have."""
    out = {}
    for key, value in columns.items():
        array = np.atleast_1d(np.asarray(value))
        out[key] = array.astype(array.dtype.str.replace("U", "S"))
    rows = len(next(iter(out.values())))
    kind = np.dtype([(key, array.dtype, array.shape[1:]) for key, array in out.items()])
    data = np.zeros(rows, kind)
    for key, array in out.items():
        data[key] = array
    return fits.BinTableHDU(data, name=name)


def chip_tables(
    prefix: str,
    chip: int,
    model: Mapping[str, Any],
    interpolation: Mapping[str, Any],
    solution: fits.BinTableHDU,
    trap: Path,
) -> list[fits.BinTableHDU]:
    """Tables of one chip's model."""
    rng = np.random.default_rng(chip)
    x, y = rng.uniform(20, 780, (2, 30))
    ra, dec = chip_wcs(chip).all_pix2world(np.stack([x, y], 1), 1).T
    solution.name = f"{prefix}_interp_solution"
    text = base64.b64encode(pickle.dumps(Trap(trap))).decode()
    return [
        table(f"{prefix}", type="SimplePSF", model=0, interp=0),
        table(f"{prefix}_stars", x=x, y=y, ra=ra / 15, dec=dec, chipnum=np.full(30, chip)),
        table(f"{prefix}_wcs", chipnums=[chip], nchunks=[1], wcs_str_0000=[text],
              ra=[POINTING[0] / 15], dec=[POINTING[1]]),
        table(f"{prefix}_model", **model),
        table(f"{prefix}_interp", **interpolation),
        solution,
    ]  # fmt: skip


def polynomial_solution(coefficients: np.ndarray) -> fits.BinTableHDU:
    """Piff's table of a Polynomial, from coefficients (p, i, j)."""
    places = np.stack(np.indices(coefficients.shape)).reshape(3, -1)
    names = ("PARAM", "U_EXPONENT", "V_EXPONENT")
    return table("x", **dict(zip(names, places, strict=True)), COEFF=coefficients.ravel())


def write_piff(
    path: Path,
    model: Mapping[str, Any],
    interpolation: Mapping[str, Any],
    solution: fits.BinTableHDU,
) -> Path:
    """A file of one chip; loading its pickle makes ``<path>.loaded``."""
    trap = path.with_suffix(".loaded")
    hdus = chip_tables("psf", 0, model, interpolation, solution, trap)
    fits.HDUList([fits.PrimaryHDU(), *hdus]).writeto(path)
    return path
