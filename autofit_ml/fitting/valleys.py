r"""Errors of components that trade their light: how long the valley is, not how sharp its bottom.

A bulge and a disc can share the same light in many ways. Along that valley chi2 is no parabola: it
rises as the curvature at the minimum says, then levels off, mostly to one side, so that errors by
the curvature are too small. With :math:`u = \ln(F_1 / \sum_{k>1} F_k)`, its derivatives h by the
parameters and their covariance C, chi2 is evaluated one standard deviation :math:`\sigma` of u
along the valley to both sides, :math:`\theta \pm C h / \sigma`. Gradient and matrix there tell
where, with all other parameters at their best, chi2 has risen by one. The covariance is stretched
along the valley to the longer of the two sides, :math:`\sigma'`:

.. math:: C' = C + (\sigma'^2 - \sigma^2)\, C h\, (C h)^T / \sigma^4 .
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from autofit_ml.fitting.levenberg_marquardt import (
    Evaluate,
    Evaluation,
    LMResult,
    against_bounds,
)
from autofit_ml.fitting.uncertainties import laplace
from autofit_ml.scenes.derivatives import row_jacobian
from autofit_ml.scenes.layout import Layout

__all__ = ["stretched"]

_LONGEST = 4.0
"""Largest factor by which an error grows."""

_VAGUE = 1.5
"""Error of u above which nothing is known of the shares anyway."""


def stretched(
    layout: Layout,
    target: Sequence[str],
    base: torch.Tensor,
    fit: LMResult,
    curvature: torch.Tensor,
    covariance: torch.Tensor,
    bounds: tuple[torch.Tensor, torch.Tensor],
    linear: np.ndarray,
    evaluate: Evaluate,
) -> torch.Tensor:
    """Covariances, (B, D, D), stretched along the valleys in which components trade their light.

    Parameters
    ----------
    layout : Layout
    target : sequence of str
        Names of the target's components, two at least.
    base : Tensor
        As for `Layout.values`.
    fit : LMResult
    curvature, covariance : Tensor, float64, (B, D, D)
        Covariance by the curvature of chi2, and what is to be stretched (they differ where noise
        is correlated).
    bounds : tuple of Tensor, (B, D)
        Lower, upper.
    linear : ndarray, bool, (B, D)
        Logarithms of fluxes that were not fitted as such.
    evaluate : callable
        See `autofit_ml.fitting.levenberg_marquardt.Evaluate`.
    """
    slope, n = torch.zeros_like(fit.theta), layout.n_shape

    def balance(shape: torch.Tensor, base: torch.Tensor) -> torch.Tensor:
        values = layout.values(shape, base, 0)
        fluxes = torch.stack([values[f"{name}.flux"] for name in target], -1)
        return fluxes[..., :1].log() - fluxes[..., 1:].sum(-1, keepdim=True).log()

    slope[:, :n] = row_jacobian(balance, fit.theta[:, :n], base)[:, 0]
    # What sits on a bound is free to leave it: on the way to another share it will.
    lower, upper = bounds
    leaving, good = laplace(fit.state.matrix, lower == upper)
    variance = _variance(leaving, slope)
    known = good & (_variance(curvature, slope) > 0) & (variance < _VAGUE**2)
    some = (known & ~torch.as_tensor(linear, device=known.device).any(1)).nonzero()[:, 0]
    if len(some) == 0:
        return covariance
    sigma, slope, lower, upper = variance[some].sqrt(), slope[some], lower[some], upper[some]
    step = (leaving[some] @ slope[..., None])[..., 0] / sigma[:, None]
    before = _variance(curvature[some], slope).sqrt()
    longest = before
    for sign in (1.0, -1.0):
        at = torch.minimum(torch.maximum(fit.theta[some] + sign * step, lower), upper)
        there = evaluate(some, at)
        frozen = (lower == upper) | against_bounds(at, there.gradient, lower, upper)
        went = sign * ((at - fit.theta[some]) * slope).sum(1)
        side = _side(there, fit.state.chi2[some], sign * slope, went, frozen)
        longest = torch.where(side > longest, side, longest)
    growth = (longest / before).clamp_max(_LONGEST).square() - 1
    out, along = covariance.clone(), (covariance[some] @ slope[..., None])[..., 0]
    growth = growth / _variance(covariance[some], slope)
    out[some] += growth[:, None, None] * along[:, :, None] * along[:, None]
    return out


def _variance(covariance: torch.Tensor, slope: torch.Tensor) -> torch.Tensor:
    """Variance of a function of the parameters by its derivatives (B, D)."""
    return (slope[:, None] @ covariance @ slope[..., None])[:, 0, 0]


def _side(
    there: Evaluation,
    least: torch.Tensor,
    slope: torch.Tensor,
    went: torch.Tensor,
    frozen: torch.Tensor,
) -> torch.Tensor:
    """Distance of u from the minimum at which chi2 is larger by one, (B,); NaN: not known.

    `there` is `went` away. Along u, all other parameters at their best, chi2 is
    chi2_1 - 2 p x + x^2 / s^2 at the distance x from there, by gradient g and matrix A there:
    s^2 = h^T A^-1 h, p = h^T A^-1 g / s^2, chi2_1 = chi2 - g^T A^-1 g + p^2 s^2.
    """
    inverse, good = laplace(there.matrix, frozen)
    towards = (inverse @ there.gradient[..., None])[..., 0]
    width = _variance(inverse, slope)
    push = (slope * towards).sum(1) / width
    rise = there.chi2 - least - (there.gradient * towards).sum(1) + push.square() * width
    root = (push * width).square() - (rise - 1) * width
    side = went + push * width + root.clamp_min(0).sqrt()
    return torch.where(good & (width > 0), side, torch.nan)
