r"""The Sérsic profile.

.. math:: I(r) = I_e \exp\{-b_n [(r/r_e)^{1/n} - 1]\},

with :math:`b_n` such that :math:`r_e` holds half of the light, :math:`\gamma(2n, b_n) =
\Gamma(2n)/2` (Graham & Driver 2005, PASA 22, 118, eqs. 1-4).
"""

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from scipy import special

if TYPE_CHECKING:
    import torch

    from autofit_ml.profiles.hankel import HankelTable

__all__ = [
    "N_MAX",
    "N_MIN",
    "sersic_b",
    "sersic_b_series",
    "sersic_brightness",
    "sersic_flux_within",
    "sersic_intensity_at_re",
    "sersic_light",
    "sersic_table",
]

N_MIN, N_MAX = 0.3, 8.0
"""Range of the Sérsic index that is fitted."""

_TABLE_RANGE = (0.28, 8.6)
"""Range of the table: a little wider, so that nothing is evaluated at its edge."""


def sersic_b(n):
    """b_n of the Sérsic profile, exact (inverse incomplete gamma function); `n` > 0."""
    return special.gammaincinv(2.0 * np.asarray(n, dtype=np.float64), 0.5)


def sersic_intensity_at_re(flux, re, n, q=1.0):
    """Brightness at the half-light radius, flux per unit area.

    Parameters
    ----------
    flux : array_like
        Total flux to infinity.
    re : array_like
        Half-light radius along the major axis.
    n, q : array_like
        Sérsic index and axis ratio.
    """
    b = sersic_b(n)
    log_norm = np.log(2 * np.pi * np.asarray(n)) + b + special.gammaln(2 * np.asarray(n))
    log_norm -= 2 * np.asarray(n) * np.log(b)
    return flux / (np.asarray(re) ** 2 * q * np.exp(log_norm))


def sersic_brightness(r, n):
    """Brightness at radius `r` (in half-light radii) of the circular profile of unit flux."""
    return sersic_intensity_at_re(1.0, 1.0, n) * np.exp(
        -sersic_b(n) * (np.asarray(r) ** (1.0 / n) - 1.0)
    )


def sersic_flux_within(r, n):
    """Fraction of the total flux within radius `r` (in half-light radii)."""
    return special.gammainc(2.0 * np.asarray(n), sersic_b(n) * np.asarray(r) ** (1.0 / n))


def _log_slope(r: np.ndarray, n: float) -> np.ndarray:
    """r dI/dr of `sersic_brightness`."""
    return -sersic_b(n) / n * r ** (1.0 / n) * sersic_brightness(r, n)


@lru_cache(maxsize=1)
def sersic_table() -> "HankelTable":
    """Hankel table of the Sérsic family, n from `N_MIN` to `N_MAX` (about 0.3 s, made once)."""
    from autofit_ml.profiles.hankel import tabulate

    return tabulate(sersic_brightness, _log_slope, _TABLE_RANGE)


def sersic_light(r: "torch.Tensor", n: "torch.Tensor") -> "torch.Tensor":
    """Brightness in an arbitrary unit, for tensors; `r` in half-light radii to about 1e-5."""
    return (-sersic_b_series(n) * r ** (1 / n)).exp()


def sersic_b_series(n: "torch.Tensor") -> "torch.Tensor":
    """b_n by its asymptotic series (Ciotti & Bertin 1999, A&A 352, 447, eq. 18), for tensors; good
    to 1e-5 from n = 0.5 up, 5 % at n = 0.3."""
    return 2 * n - 1 / 3 + 4 / (405 * n) + 46 / (25515 * n.square()) + 131 / (1148175 * n**3)
