"""Overlapping frames of one simulated sky: FITS images with WCS, noise planes and a PSF."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS

SCALE = 0.4
"""Arcsec per pixel."""

SEEING = 3.0
"""FWHM of the PSF, pixels."""


def tangent_plane(ra: float, dec: float, shape: tuple[int, int], turn: float = 0.0) -> WCS:
    """A gnomonic WCS about the middle of an image, turned by some degrees."""
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = [ra % 360.0, dec]
    wcs.wcs.crpix = [(shape[1] + 1) / 2, (shape[0] + 1) / 2]
    cos, sin = np.cos(np.radians(turn)), np.sin(np.radians(turn))
    wcs.wcs.cd = SCALE / 3600.0 * np.array([[-cos, sin], [sin, cos]])
    wcs.wcs.set()
    return wcs


def draw(wcs: WCS, shape: tuple[int, int], sky: np.ndarray, noise: float, seed: int) -> np.ndarray:
    """An image of round Gaussian galaxies: columns ra, dec, flux, sigma (pixels)."""
    image = np.random.default_rng(seed).normal(0.0, noise, shape)
    x, y = wcs.all_world2pix(sky[:, 0], sky[:, 1], 0)
    for one, (a, b) in zip(sky, np.stack([x, y], axis=1), strict=True):
        width = np.hypot(one[3], SEEING / 2.3548)
        half = int(6 * width) + 2
        if not (-half < a < shape[1] + half and -half < b < shape[0] + half):
            continue
        x0, x1 = max(0, int(a) - half), min(shape[1], int(a) + half + 1)
        y0, y1 = max(0, int(b) - half), min(shape[0], int(b) + half + 1)
        v, h = np.mgrid[y0:y1, x0:x1]
        light = np.exp(-0.5 * ((h - a) ** 2 + (v - b) ** 2) / width**2)
        image[y0:y1, x0:x1] += one[2] / (2 * np.pi * width**2) * light
    return image.astype(np.float32)


def galaxies(ra: float, dec: float, radius: float, number: int, seed: int = 0) -> np.ndarray:
    """Positions in a square of so many arcsec around a place, fluxes and sizes."""
    rng = np.random.default_rng(seed)
    offsets = rng.uniform(-radius, radius, (number, 2)) / 3600.0
    flat = tangent_plane(ra, dec, (1, 1))
    places = flat.all_pix2world(offsets * 3600.0 / SCALE, 0)
    flux = 10 ** rng.uniform(2.6, 4.0, number)
    return np.c_[places[:, 0] % 360.0, places[:, 1], flux, rng.uniform(1.0, 3.5, number)]


def four_frames(
    folder: Path,
    *,
    ra: float = 150.0,
    dec: float = 2.0,
    side: int = 300,
    overlap: int = 60,
    number: int = 120,
    noise: float = 1.0,
    seed: int = 0,
) -> np.ndarray:
    """Write a 2 x 2 mosaic of overlapping frames; the galaxies in it.

    Returns
    -------
    ndarray, shape (n, 4)
        ra, dec, flux, sigma of every galaxy, those outside of the frames too.
    """
    folder.mkdir(parents=True, exist_ok=True)
    step = (side - overlap) / 2 * SCALE
    sky = galaxies(ra, dec, (side + step / SCALE) * SCALE / 2 * 1.1, number, seed)
    centre = tangent_plane(ra, dec, (1, 1))
    for k, (h, v) in enumerate(((-1, -1), (1, -1), (-1, 1), (1, 1))):
        place = centre.all_pix2world([[-h * step / SCALE, v * step / SCALE]], 0)[0]
        wcs = tangent_plane(place[0], place[1], (side, side), turn=3.0 * k)
        image = draw(wcs, (side, side), sky, noise, 100 + k)
        header = wcs.to_header()
        header["FILTER"], header["ZP"] = "r", 25.0
        fits.writeto(folder / f"f{k}_image.fits", image, header, overwrite=True)
        fits.writeto(folder / f"f{k}_sigma.fits", np.full_like(image, noise), overwrite=True)
    v, h = np.mgrid[-12:13, -12:13]
    psf = np.exp(-0.5 * (h**2 + v**2) / (SEEING / 2.3548) ** 2)
    fits.writeto(folder / "psf.fits", (psf / psf.sum()).astype(np.float32), overwrite=True)
    return sky
