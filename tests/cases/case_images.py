"""Small images with known truth, drawn by GalSim: situations that users of fitters report.

Where nothing else is said: a galaxy `TRUTH` (zero point 25), white noise of `NOISE`, a PSF of 3
pixels FWHM, 0.2 arcsec a pixel.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import galsim
import numpy as np
from astropy.io import fits

from autofit_ml.runs import FitSettings, fit_run

SHAPE = (101, 101)
TRUTH = {"x": 50.3, "y": 49.6, "flux": 2e4, "re": 8.0, "n": 2.0, "q": 0.6, "pa": 35.0}
NOISE = 3.0
EXACT = galsim.GSParams(maximum_fft_size=20000)
MOFFAT = galsim.Moffat(beta=3.0, fwhm=3.0)


def psf_image(size: int = 41) -> np.ndarray:
    """The PSF, pixel included; sum slightly below 1 (its wings are cut)."""
    return MOFFAT.drawImage(nx=size, ny=size, scale=1.0).array.astype(float)


def _drawn(profile, shape, x, y) -> np.ndarray:
    ny, nx = shape
    offset = (x - (nx - 1) / 2, y - (ny - 1) / 2)
    return profile.drawImage(nx=nx, ny=ny, scale=1.0, offset=offset).array.astype(float)


def galaxy(shape=SHAPE, *, seeing=True, **changes) -> np.ndarray:
    """Noise-free light of the galaxy; without seeing only the pixels are in the way."""
    at = {**TRUTH, **changes}
    profile = galsim.Sersic(
        n=at["n"], half_light_radius=at["re"] * np.sqrt(at["q"]), flux=at["flux"], gsparams=EXACT
    ).shear(q=at["q"], beta=(at["pa"] + 90) * galsim.degrees)
    seen = galsim.Convolve(profile, MOFFAT) if seeing else profile
    return _drawn(seen, shape, at["x"], at["y"])


def point(shape, x, y, flux) -> np.ndarray:
    """Noise-free light of a point source."""
    return _drawn(MOFFAT * flux, shape, x, y)


def noisy(image, seed, noise=NOISE) -> np.ndarray:
    """With white noise; `noise` may be an image."""
    return image + np.random.default_rng(seed).normal(0, 1, image.shape) * noise


def header(shape, **cards) -> fits.Header:
    """0.2 arcsec a pixel, north up, zero point 25."""
    out = fits.Header({"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": 150.0, "CRVAL2": 2.0})
    out.update(CRPIX1=(shape[1] + 1) / 2, CRPIX2=(shape[0] + 1) / 2, CUNIT1="deg", CUNIT2="deg")
    out.update(CD1_1=-0.2 / 3600, CD1_2=0.0, CD2_1=0.0, CD2_2=0.2 / 3600, ZP=25.0)
    out.update(cards)
    return out


def write(path: Path, data, head: fits.Header | None = None) -> Path:
    """A file with one image; float32 where it is of floating point."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = np.asarray(data)
    kept = data.astype(np.float32) if data.dtype.kind == "f" else data
    fits.writeto(path, kept, head, overwrite=True)
    return path


def fitted(folder: Path | list[Path] | None, out: Path | None = None, **options) -> dict[str, Any]:
    """The rows of a run, by id."""
    manifest = options.pop("manifest", None)
    settings = FitSettings(**{"workers": 0, "save": "none", **options})
    summary = fit_run(folder, out, settings, manifest=manifest)
    return {row["id"]: row for row in summary.table.to_pylist()}


def assert_near(row, sigmas=3.0, names=("x", "y", "flux", "re", "n", "q", "pa"), **truth) -> None:
    """Parameters within some errors of the truth."""
    for name in names:
        value, error = row[name], row[f"{name}_err"]
        expected = {**TRUTH, **truth}[name]
        assert abs(value - expected) < sigmas * error, (row["id"], name, value, error, expected)
