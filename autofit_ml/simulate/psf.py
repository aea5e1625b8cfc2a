"""Point-spread functions as pixel images."""

from __future__ import annotations

import numpy as np

from autofit_ml.errors import SettingsError
from autofit_ml.images.stamp import PSF

__all__ = ["moffat_psf", "require_galsim"]


def require_galsim():
    """The galsim module, or an error that says how to get it."""
    try:
        import galsim
    except ImportError as error:
        raise SettingsError(
            "simulated images need GalSim, which is not installed",
            "pip install 'autofit-ml[simulate]'",
        ) from error
    return galsim


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
    if has_pixel:
        profile = galsim.Convolve(profile, galsim.Pixel(1.0))
    image = profile.drawImage(
        nx=size, ny=size, scale=1.0 / oversampling, method="no_pixel", dtype=float
    ).array
    return PSF(
        data=np.asarray(image / image.sum(), dtype=np.float32),
        has_pixel=has_pixel,
        oversampling=oversampling,
        source="simulated",
    )
