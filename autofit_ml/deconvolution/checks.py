"""True if a stamp can be deconvolved."""

import math

import numpy as np

from autofit_ml.deconvolution.target import TARGET_FWHM
from autofit_ml.errors import InputError
from autofit_ml.images.stamp import Stamp
from autofit_ml.measure import psf_fwhm

__all__ = ["check_stamp"]

_CENTRED = 0.3
"""A PSF's centroid may be off its array's centre by this many data pixels."""


def check_stamp(stamp: Stamp, oversampling: int) -> None:
    """Refuse what a reader would have repaired or refused.

    Raises
    ------
    InputError
    """
    name = stamp.id
    if not np.isfinite(stamp.data[~stamp.mask]).all():
        raise InputError(f"{name}: the image has NaN or infinite pixels", "mask them")
    sigma = stamp.sigma[~stamp.mask]
    if sigma.size == 0:
        raise InputError(f"{name}: every pixel is masked", "check the mask")
    if not (np.isfinite(sigma).all() and (sigma > 0).all()):
        raise InputError(
            f"{name}: the noise is zero, negative or not finite somewhere",
            "give the 1-sigma noise of each pixel, or mask those pixels",
        )
    psf = np.asarray(stamp.psf.data, dtype=np.float64)
    if psf.ndim != 2 or not np.isfinite(psf).all():
        raise InputError(f"{name}: the PSF is no finite image", "give another PSF")
    total = psf.sum()
    if abs(total - 1) > 1e-3:
        raise InputError(
            f"{name}: the PSF sums to {total:.4g}, not 1", "normalise it (images.centre_psf)"
        )
    y, x = np.indices(psf.shape)
    bright = psf > 0.1 * psf.max()
    off = [
        float((psf * axis)[bright].sum() / psf[bright].sum() - (n - 1) / 2) / stamp.psf.oversampling
        for axis, n in zip((y, x), psf.shape, strict=True)
    ]
    if max(map(abs, off)) > _CENTRED:
        raise InputError(
            f"{name}: the PSF is off its array's centre by ({off[1]:+.2f}, {off[0]:+.2f}) pixels",
            "centre it (images.centre_psf), or the galaxy would be moved",
        )
    width = psf_fwhm(stamp.psf)
    if not stamp.psf.has_pixel:
        width = math.hypot(width, 0.8)
    if width * oversampling < 0.95 * TARGET_FWHM:
        remedy = "use oversampling 2" if oversampling == 1 else "there is nothing to sharpen"
        raise InputError(
            f"{name}: the PSF's FWHM of {width:.2f} pixels is below the target's of "
            f"{TARGET_FWHM / oversampling:g}",
            remedy,
        )
    if min(stamp.shape) < max(9, 2.5 * width):
        raise InputError(
            f"{name}: a stamp of {stamp.shape} pixels is too small for a PSF of FWHM "
            f"{width:.1f} pixels",
            f"cut out at least {math.ceil(max(9, 2.5 * width))} pixels",
        )
