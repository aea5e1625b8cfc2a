"""Upper limits of fluxes."""

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

__all__ = ["flux_limit"]


def flux_limit(flux: ArrayLike, error: ArrayLike, confidence: float = 0.95) -> np.ndarray:
    """Flux below which 95 % of a Gaussian without its negative part lies.

    Parameters
    ----------
    flux, error : array_like
    confidence : float

    Returns
    -------
    ndarray
        NaN where the error is not positive.
    """
    flux, error = np.asarray(flux, float), np.asarray(error, float)
    known = error > 0
    z = np.divide(flux, error, out=np.full(np.shape(flux + error), np.nan), where=known)
    return flux - error * special.ndtri_exp(np.log(1 - confidence) + special.log_ndtr(z))
