"""Errors of a PSF: changes of width, of shape and of position, as parameters of a fit."""

import dataclasses

import numpy as np
from scipy import ndimage

from autofit_ml.images.stamp import PSF

__all__ = ["drawn_psfs", "with_errors"]


def with_errors(psf: PSF, width: float, position: float) -> PSF:
    """The PSF with `PSF.modes` for what is not known of it.

    Parameters
    ----------
    psf : PSF
        Its own modes are kept, in the place of those of width and shape.
    width : float
        1-sigma relative error of its width, and of its ellipticity along both diagonals; 0: none.
    position : float
        1-sigma error of where it is along each axis, image pixels; 0: none.

    Returns
    -------
    PSF
        A fit has the numbers of these changes as parameters with a unit Gaussian prior.
    """
    data = np.asarray(psf.data, float)
    modes = [] if psf.modes is None else list(psf.modes)
    if width and not modes:
        one, zero = width, 0.0
        modes += [
            _change(data, np.array(m))
            for m in (
                [[one, zero], [zero, one]],
                [[one, zero], [zero, -one]],
                [[zero, one], [one, zero]],
            )
        ]
    if position:
        down, right = np.gradient(data)
        modes += [-position * psf.oversampling * slope for slope in (right, down)]
    if not modes:
        return dataclasses.replace(psf, modes=None)
    return dataclasses.replace(psf, modes=np.stack(modes).astype(np.float32))


def drawn_psfs(psf: PSF, number: int, seed: int) -> list[PSF]:
    """PSFs as one with errors may be: it plus its `PSF.modes` times unit Gaussian numbers.

    Parameters
    ----------
    psf : PSF
        With modes.
    number, seed : int

    Returns
    -------
    list of PSF
        Each sums to 1 and has no modes.
    """
    assert psf.modes is not None
    rng = np.random.default_rng(seed)
    numbers = rng.normal(size=(number, len(psf.modes)))
    images = psf.data + np.tensordot(numbers, psf.modes, 1)
    images /= images.sum((1, 2), keepdims=True)
    return [dataclasses.replace(psf, data=i.astype(np.float32), modes=None) for i in images]


def _change(data: np.ndarray, strain: np.ndarray) -> np.ndarray:
    """Half of the difference between the image stretched by 1 + strain and by 1 - strain."""
    middle = (np.array(data.shape) - 1) / 2

    def stretched(sign: int) -> np.ndarray:
        inverse = np.linalg.inv(np.eye(2) + sign * strain)
        out = ndimage.affine_transform(data, inverse, middle - inverse @ middle, order=3)
        return out * np.linalg.det(inverse)

    return (stretched(1) - stretched(-1)) / 2
