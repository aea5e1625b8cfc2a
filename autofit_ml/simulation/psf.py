"""Point-spread functions as pixel images, the same everywhere or varying over a frame."""

import functools
import itertools
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from astropy.io import fits

from autofit_ml.errors import SettingsError
from autofit_ml.images.stamp import PSF
from autofit_ml.measure import core_centroid, fourier_shift
from autofit_ml.simulation.sources import require_galsim

if TYPE_CHECKING:
    from autofit_ml.simulation.survey import PSFModel

__all__ = ["PSFGrid", "draw_psf", "draw_psf_grid", "moffat_psf"]


@dataclass(frozen=True)
class PSFGrid:
    """A PSF that varies over an image: bilinear interpolation of PSF images at nodes.

    Attributes
    ----------
    data : ndarray, float32, shape (rows, columns, h, w)
        PSF images, each of sum 1, at nodes spread evenly over the image, its corners included.
    shape : tuple of int
        (ny, nx) of the image.
    has_pixel, oversampling : as in `PSF`
    """

    data: np.ndarray
    shape: tuple[int, int]
    has_pixel: bool = True
    oversampling: int = 1

    def at(self, x: float, y: float) -> PSF:
        """The PSF at image position (x, y), pixels; positions outside take the border's."""
        rows, columns = self.data.shape[:2]
        v = min(max(y / (self.shape[0] - 1), 0.0), 1.0) * (rows - 1)
        h = min(max(x / (self.shape[1] - 1), 0.0), 1.0) * (columns - 1)
        i, j = min(int(v), rows - 2), min(int(h), columns - 2)
        v, h = v - i, h - j
        image = (
            (1 - v) * ((1 - h) * self.data[i, j] + h * self.data[i, j + 1])
            + v * ((1 - h) * self.data[i + 1, j] + h * self.data[i + 1, j + 1])
        ).astype(np.float32)
        return PSF(image, self.has_pixel, self.oversampling, source="simulated")


def draw_psf(model: "PSFModel", pixel_scale: float, rng: np.random.Generator, seed: int = 0) -> PSF:
    """One PSF of a survey.

    Parameters
    ----------
    model : PSFModel
    pixel_scale : float
        arcsec per image pixel.
    rng : numpy.random.Generator
    seed : int
        Of the set: fixes the pool that optical PSFs are drawn from.

    Returns
    -------
    PSF
    """
    if model.kind == "optical":
        return _optical_psf(model, pixel_scale, seed, int(rng.integers(model.pool)))
    if model.kind == "folder":
        pool = _folder_psfs(model)
        return pool[int(rng.integers(len(pool)))]
    return _seeing_psf(model, pixel_scale, *_draw_seeing(model, rng))


def draw_psf_grid(
    model: "PSFModel",
    pixel_scale: float,
    shape: tuple[int, int],
    rng: np.random.Generator,
    seed: int = 0,
    nodes: int = 4,
) -> PSFGrid:
    """A PSF that varies smoothly over a frame.

    Moffat and Kolmogorov widths and ellipticities follow a plane plus a bowl whose scatter is
    `PSFModel.variation`; optical and folder PSFs differ from corner to corner.
    """
    if model.kind in ("optical", "folder"):
        images = np.stack([draw_psf(model, pixel_scale, rng, seed).data for _ in range(4)])
        data = images.reshape(2, 2, *images.shape[1:])
    else:
        fwhm, beta, *shear = _draw_seeing(model, rng)
        mean = np.array([0.0, *shear])
        scatter = np.array([model.variation, model.variation / 3, model.variation / 3])
        slope_y, slope_x, bowl = rng.normal(0, 1, (3, 3)) * scatter / 2
        side = _side(model)
        data = np.empty((nodes, nodes, side, side), np.float32)
        for i, v in enumerate(np.linspace(-1, 1, nodes)):
            for j, h in enumerate(np.linspace(-1, 1, nodes)):
                width, e1, e2 = mean + slope_y * v + slope_x * h + bowl * (v * v + h * h - 2 / 3)
                psf = _seeing_psf(model, pixel_scale, fwhm * math.exp(width), beta, e1, e2)
                data[i, j] = psf.data
    return PSFGrid(data, shape, model.has_pixel, model.oversampling)


def _side(model: "PSFModel") -> int:
    """Side of the PSF's image, PSF pixels; odd."""
    return model.size * model.oversampling | 1


def _draw_seeing(model: "PSFModel", rng: np.random.Generator) -> tuple[float, ...]:
    """FWHM (arcsec), beta, and the two components of the shear."""
    low, high = np.log(model.fwhm)
    fwhm = math.exp(rng.normal((low + high) / 2, (high - low) / (2 * 1.645)))
    return fwhm, rng.uniform(*model.beta), *rng.normal(0, model.ellipticity, 2)


def _seeing_psf(
    model: "PSFModel", pixel_scale: float, fwhm: float, beta: float, e1: float, e2: float
) -> PSF:
    galsim = require_galsim()
    size = math.hypot(e1, e2)
    if size > 0.3:
        e1, e2 = 0.3 * e1 / size, 0.3 * e2 / size
    moffat = {"beta": beta} if model.kind == "moffat" else {}
    profile = (galsim.Moffat if moffat else galsim.Kolmogorov)(fwhm=fwhm / pixel_scale, **moffat)
    return _draw(profile.shear(g1=e1, g2=e2), _side(model), model.oversampling, model.has_pixel)


@functools.lru_cache(maxsize=512)
def _optical_psf(model: "PSFModel", pixel_scale: float, seed: int, member: int) -> PSF:
    galsim = require_galsim()
    rng = np.random.default_rng([seed, 0x4F50, member])
    coefficients = [0.0] * 4 + list(rng.normal(0, model.aberrations, 8))
    angle = rng.uniform(0, 90) * galsim.degrees
    if model.aperture == "round":
        aperture: dict[str, Any] = {"obscuration": model.obscuration, "nstruts": model.struts}
        aperture |= {"strut_thick": 0.03, "strut_angle": angle}
    else:
        pupil = _hexagons()
        aperture = {"pupil_plane_im": pupil, "pupil_plane_scale": 2 / len(pupil)}
        aperture |= {"pupil_angle": angle}
    width = model.lam_over_diam / pixel_scale  # taken as arcsec, and the diameter as a metre
    profile = galsim.OpticalPSF(
        lam=width * (galsim.arcsec / galsim.radians) * 1e9,
        diam=1.0,
        aberrations=coefficients,
        oversampling=1.5,
        pad_factor=2.0,
        **aperture,
    )
    if model.jitter:
        profile = galsim.Convolve(profile, galsim.Gaussian(sigma=model.jitter / pixel_scale))
    psf = _draw(profile, _side(model), model.oversampling, model.has_pixel)
    return _centred(psf.data.astype(float), model)


@functools.cache
def _hexagons(side: int = 512) -> np.ndarray:
    """JWST's aperture: two rings of hexagons, three struts; half as wide as the array."""
    place = (np.arange(side) - (side - 1) / 2) * (2 / side)
    x, y = place[None, :], place[:, None]
    turns = np.deg2rad([30.0, 90.0, 150.0])
    normals = np.stack([np.cos(turns), np.sin(turns)], axis=1)
    across = normals[:, :1, None] * x + normals[:, 1:, None] * y
    pitch = 0.2  # flat to flat: 1.32 of 6.6 m
    aperture = np.zeros((side, side))
    for i, j in itertools.product(range(-2, 3), repeat=2):
        if max(abs(i), abs(j), abs(i + j)) in (1, 2):
            offset = normals @ (pitch * (i * normals[0] + j * normals[1]))
            aperture[(np.abs(across - offset[:, None, None]) < 0.495 * pitch).all(0)] = 1
    for turn in np.deg2rad([90.0, 240.0, 300.0]):
        along, beside = (x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn))
        aperture[(along > 0) & (np.abs(beside) < 0.01)] = 0
    return aperture


@functools.lru_cache(maxsize=4)
def _folder_psfs(model: "PSFModel") -> tuple[PSF, ...]:
    folder = Path(str(model.folder))
    files = sorted(
        path for path in folder.iterdir() if path.name.endswith((".fits", ".fits.gz", ".fits.fz"))
    )
    named = [path for path in files if "psf" in path.name.lower()]
    side = _side(model)
    pool = []
    for path in named or files:
        with fits.open(path) as hdus:
            planes = [hdu for hdu in hdus if hdu.data is not None and hdu.data.ndim == 2]
            if not planes:
                continue
            data = np.asarray(planes[0].data, dtype=np.float64)
        if not (np.isfinite(data).all() and data.sum() > 0):
            raise SettingsError(f"PSF image {path} is not finite and positive", "remove it")
        pool.append(_fit_into(data, side))
    if not pool:
        raise SettingsError(f"no PSF images in {folder}", "FITS files with a 2-d image each")
    return tuple(_centred(data, model) for data in pool)


def _centred(data: np.ndarray, model: "PSFModel") -> PSF:
    """Normalised, its centroid on the middle of the array (a Fourier shift)."""
    height, width = data.shape
    x, y, _ = core_centroid(data / data.sum())
    shifted = fourier_shift(data, (width - 1) / 2 - x, (height - 1) / 2 - y)
    image = (shifted / shifted.sum()).astype(np.float32)
    return PSF(image, model.has_pixel, model.oversampling, source="simulated")


def _fit_into(data: np.ndarray, side: int) -> np.ndarray:
    """Crop or fill up to an odd square, the brightest pixel's neighbourhood in the middle."""
    y, x = np.unravel_index(int(np.argmax(data)), data.shape)
    half = side // 2
    padded = np.pad(data, half)
    return padded[y : y + side, x : x + side]


def _draw(profile, side: int, oversampling: int, has_pixel: bool) -> PSF:
    galsim = require_galsim()
    if has_pixel:
        profile = galsim.Convolve(profile, galsim.Pixel(1.0))
    image = profile.drawImage(
        nx=side, ny=side, scale=1.0 / oversampling, method="no_pixel", dtype=float
    ).array
    return PSF(
        data=np.asarray(image / image.sum(), dtype=np.float32),
        has_pixel=has_pixel,
        oversampling=oversampling,
        source="simulated",
    )


def moffat_psf(
    fwhm: float,
    *,
    beta: float = 3.0,
    ellipticity: tuple[float, float] = (0.0, 0.0),
    size: int = 25,
    oversampling: int = 1,
    has_pixel: bool = True,
) -> PSF:
    """A Moffat PSF drawn on `size` x `size` pixels and normalised to 1.

    Parameters
    ----------
    fwhm : float
        Full width at half maximum in **image** pixels (before the pixel), > 0.
    beta : float
        Moffat exponent, > 1.
    ellipticity : tuple of float
        (g1, g2) reduced shear.
    size : int
        Side in PSF pixels (image pixels / `oversampling`).
    oversampling : int
        PSF pixels per image pixel.
    has_pixel : bool
        Integrate over the image pixel (True) or leave the pixel to the renderer.

    Returns
    -------
    PSF
    """
    galsim = require_galsim()
    if not (fwhm > 0 and beta > 1 and size >= 3 and oversampling >= 1):
        raise SettingsError(
            f"PSF with fwhm={fwhm}, beta={beta}, size={size}, oversampling={oversampling}",
            "need fwhm > 0, beta > 1, size >= 3, oversampling >= 1",
        )
    profile = galsim.Moffat(beta=beta, fwhm=fwhm).shear(g1=ellipticity[0], g2=ellipticity[1])
    return _draw(profile, size, oversampling, has_pixel)
