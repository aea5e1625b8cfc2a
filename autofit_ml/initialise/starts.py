"""What an initialiser hands on: starting values, and how far to trust them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["PARAMETERS", "Starts"]

PARAMETERS = ("x", "y", "flux", "re", "n", "q", "pa", "sky")
"""Order of the columns of `Starts.values` (conventions and units as in the catalogue; positions
in stamp pixels, flux and sky in image units)."""


@dataclass(frozen=True)
class Starts:
    """Starting parameters of B objects.

    Attributes
    ----------
    values : ndarray, float64, shape (B, 8)
        Columns in the order of `PARAMETERS`; finite everywhere, flux > 0, re > 0.
    cov : ndarray, float64, shape (B, 8, 8), or None
        Covariance in the refiner's fit space (x, y, ln flux, ln rc, ln n, eta1, eta2, sky).
    flags : ndarray, int32, shape (B,)
        INIT_FALLBACK, OUT_OF_DOMAIN where they apply.
    method : str
        "moments" or "resnet".
    weights : str
        Bundle that made them, "" for moments.
    """

    values: np.ndarray
    cov: np.ndarray | None
    flags: np.ndarray
    method: str = "moments"
    weights: str = ""
