r"""Catalogue parameters and the smooth fit space.

The fit space replaces (flux, re, n, q, pa) by

.. math:: \ln F,\quad \ln r_c = \ln(r_e \sqrt q),\quad \ln n,\quad
          \eta_1 = |\eta| \cos 2\theta,\quad \eta_2 = |\eta| \sin 2\theta,

with :math:`|\eta| = -\ln q` and :math:`\theta` the angle of the major axis from +x. Nothing is
singular for a round galaxy, positive quantities stay positive, and the axes swap smoothly.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from autofit_ml.profiles import N_MAX, N_MIN

__all__ = [
    "CATALOGUE_PARAMETERS",
    "FIT_PARAMETERS",
    "Bounds",
    "to_catalogue",
    "to_fit_space",
]

CATALOGUE_PARAMETERS = ("x", "y", "flux", "re", "n", "q", "pa", "sky")
"""x, y 0-based stamp pixels; flux and sky in image units; re semi-major, pixels; pa degrees."""

FIT_PARAMETERS = ("x", "y", "ln_flux", "ln_rc", "ln_n", "eta1", "eta2", "sky")


@dataclass(frozen=True)
class Bounds:
    """Ranges of the fitted parameters.

    Attributes
    ----------
    n : tuple of float
        Sérsic index.
    re_min : float
        Smallest circularised half-light radius, pixels.
    re_max_stamps : float
        Largest one, in units of the stamp's longer side.
    q_min : float
        Smallest axis ratio.
    """

    n: tuple[float, float] = (N_MIN, N_MAX)
    re_min: float = 0.05
    re_max_stamps: float = 4.0
    q_min: float = 0.05


def to_fit_space(values: torch.Tensor) -> torch.Tensor:
    """Catalogue parameters (..., 8) to fit space (..., 8), float64."""
    x, y, flux, re, n, q, pa, sky = values.to(torch.float64).unbind(-1)
    eta = -q.log()
    twice = 2 * torch.deg2rad(pa + 90.0)
    return torch.stack(
        [
            x,
            y,
            flux.log(),
            re.log() + 0.5 * q.log(),
            n.log(),
            eta * twice.cos(),
            eta * twice.sin(),
            sky,
        ],
        dim=-1,
    )


def to_catalogue(theta: torch.Tensor) -> torch.Tensor:
    """Fit space (..., 8) to catalogue parameters (..., 8); pa in [0, 180)."""
    x, y, ln_flux, ln_rc, ln_n, eta1, eta2, sky = theta.unbind(-1)
    eta = torch.hypot(eta1, eta2)
    pa = torch.remainder(torch.rad2deg(torch.atan2(eta2, eta1)) / 2 - 90.0, 180.0)
    pa = torch.where(pa >= 180.0, torch.zeros_like(pa), pa)
    return torch.stack(
        [x, y, ln_flux.exp(), (ln_rc + eta / 2).exp(), ln_n.exp(), (-eta).exp(), pa, sky], dim=-1
    )
