"""Builders of small FITS inputs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from astropy.io import fits


def galaxy(shape=(40, 44), flux=2000.0, scale=3.0, sky=5.0, noise=1.0, seed=0) -> np.ndarray:
    """Exponential disc with noise."""
    rng = np.random.default_rng(seed)
    y, x = np.indices(shape, dtype=float)
    radius = np.hypot(x - (shape[1] - 1) / 2, (y - (shape[0] - 1) / 2) / 0.7)
    model = flux / (2 * np.pi * 0.7 * scale**2) * np.exp(-radius / scale)
    return (model + sky + rng.normal(0, noise, shape)).astype(np.float32)


def gaussian(shape=(21, 21), fwhm=3.0, dx=0.0, dy=0.0) -> np.ndarray:
    """Sampled Gaussian off the array's centre by (dx, dy), sum 1."""
    y, x = np.indices(shape, dtype=float)
    sigma = fwhm / 2.3548
    r2 = (x - (shape[1] - 1) / 2 - dx) ** 2 + (y - (shape[0] - 1) / 2 - dy) ** 2
    image = np.exp(-0.5 * r2 / sigma**2)
    return image / image.sum()


def wcs_cards(scale=0.2, crpix=(10.0, 12.0)) -> dict:
    return {
        "CTYPE1": "RA---TAN",
        "CTYPE2": "DEC--TAN",
        "CRVAL1": 150.0,
        "CRVAL2": 2.0,
        "CRPIX1": crpix[0],
        "CRPIX2": crpix[1],
        "CD1_1": -scale / 3600,
        "CD1_2": 0.0,
        "CD2_1": 0.0,
        "CD2_2": scale / 3600,
    }


class Writer:
    """Writes planes of objects into one folder."""

    def __init__(self, folder: Path):
        self.folder = folder

    def plane(self, name: str, data, cards: dict | None = None) -> Path:
        path = self.folder / name
        header = fits.Header()
        for key, value in (cards or {}).items():
            header[key] = value
        fits.writeto(path, np.asarray(data), header, overwrite=True)
        return path

    def object(self, name="g1", image=None, sigma=1.0, psf=None, mask=None, cards=None) -> Path:
        """Image, sigma and PSF (leave one out with ``False``)."""
        image = galaxy() if image is None else np.asarray(image)
        path = self.plane(f"{name}_image.fits", image, cards)
        if sigma is not False:
            shape = image.shape[-2:]
            plane = np.full(shape, sigma, np.float32) if np.isscalar(sigma) else sigma
            self.plane(f"{name}_sigma.fits", plane)
        if psf is not False:
            self.plane(f"{name}_psf.fits", gaussian().astype(np.float32) if psf is None else psf)
        if mask is not None:
            self.plane(f"{name}_mask.fits", mask)
        return path
