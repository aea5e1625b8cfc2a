"""Small skies with known sources, drawn by GalSim."""

from __future__ import annotations

import math
from dataclasses import dataclass

import galsim
import numpy as np
from astropy.wcs import WCS

from autofit_ml.images.stamp import PSF, Frame

SCALE = 0.4


@dataclass(frozen=True)
class Known:
    """A source: position in arcsec east and north of the middle, fluxes by band; a galaxy's shape.

    re in arcsec, pa in degrees east of north.
    """

    east: float
    north: float
    flux: dict[str, float]
    re: float = 0.0
    q: float = 1.0
    pa: float = 0.0
    dev: float = 0.0


def sky_wcs(side: int, scale: float = SCALE, turn: float = 0.0, mirrored: bool = False) -> WCS:
    """North up and east left, turned by some degrees; `mirrored`: east right."""
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = [150.0, 2.0]
    wcs.wcs.crpix = [(side + 1) / 2] * 2
    angle = math.radians(turn)
    cos, sin = math.cos(angle), math.sin(angle)
    flip = np.diag([1.0 if mirrored else -1.0, 1.0])
    wcs.wcs.cd = scale / 3600 * flip @ np.array([[cos, -sin], [sin, cos]])
    return wcs


def drawn(
    sources: list[Known],
    band: str,
    *,
    side: int = 100,
    scale: float = SCALE,
    turn: float = 0.0,
    mirrored: bool = False,
    fwhm: float = 1.2,
    noise: float = 0.0,
    sigma: float = 0.03,
    seed: int = 1,
) -> Frame:
    """A frame of the sources, with a Gaussian PSF; `noise`: 1 for that of `sigma`, 0 for none."""
    wcs = sky_wcs(side, scale, turn, mirrored)
    to_pixels = np.linalg.inv(wcs.wcs.cd * 3600)  # from arcsec east, north
    image = galsim.ImageD(side, side, scale=1.0)
    psf = galsim.Gaussian(fwhm=fwhm / scale)
    for one in sources:
        x, y = to_pixels @ [one.east, one.north]
        light: galsim.GSObject = psf
        if one.re:
            rc = one.re * math.sqrt(one.q)
            disc = galsim.Exponential(half_light_radius=rc) * (1 - one.dev)
            bulge = galsim.DeVaucouleurs(half_light_radius=rc) * one.dev
            # In a plane with +x to the east and +y to the north.
            shape = (disc + bulge).shear(q=one.q, beta=(90 - one.pa) * galsim.degrees)
            shape = shape.transform(*to_pixels.ravel()) / abs(np.linalg.det(to_pixels))
            light = galsim.Convolve(shape, psf)
        middle = galsim.PositionD((side + 1) / 2 + x, (side + 1) / 2 + y)
        (light * one.flux[band]).drawImage(image, center=middle, add_to_image=True)
    array = image.array
    random = np.random.default_rng(seed)
    array = array + noise * sigma * random.standard_normal(array.shape)
    kernel = psf.drawImage(nx=31, ny=31, scale=1.0).array
    return Frame(
        "sky", array.astype(np.float32), np.full(array.shape, sigma, np.float32),
        np.zeros(array.shape, bool), PSF((kernel / kernel.sum()).astype(np.float32)),
        wcs=wcs, pixel_scale=scale, zeropoint=22.5, filter=band, gain=1000.0,
    )  # fmt: skip


def pixels(one: Known, frame: Frame) -> tuple[float, float]:
    """Where a source is in a frame."""
    side = frame.data.shape[0]
    x, y = np.linalg.inv(frame.wcs.wcs.cd * 3600) @ [one.east, one.north]
    return (side - 1) / 2 + x, (side - 1) / 2 + y


SOURCES = [
    Known(-10.0, -9.0, {"g": 8.0, "r": 14.0, "i": 18.0}),
    Known(9.0, -10.0, {"g": 3.0, "r": 5.0, "i": 6.0}),
    Known(-8.0, 10.0, {"g": 14.0, "r": 30.0, "i": 40.0}, 1.6, 0.5, 30.0, 0.0),
    Known(9.0, 9.0, {"g": 20.0, "r": 40.0, "i": 60.0}, 1.2, 0.7, 110.0, 1.0),
]
"""Two stars, a disc and a spheroid."""
