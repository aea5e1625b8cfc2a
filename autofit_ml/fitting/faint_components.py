r"""Fluxes of components without significant light: linear, and so of either sign.

Fluxes are fitted as their logarithms. A component that has no light runs to nothing then, and its
number says neither how much there is nor how much there could be. Where a component other than the
brightest is not significant, the last step is therefore taken in its flux F itself: with the
normal equations in :math:`\ln F`, rows and columns divided by F are those of the flux, in which the
model is linear. Its shape stays as it is, since light that is not there has none.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from autofit_ml.fitting.levenberg_marquardt import LMResult
from autofit_ml.fitting.uncertainties import laplace
from autofit_ml.scenes.layout import Layout

__all__ = ["LinearFluxes", "with_linear_fluxes"]

_SIGNIFICANT = 3.0
"""Flux over its error above which the logarithm does."""


@dataclass(frozen=True)
class LinearFluxes:
    """Fits whose faint components have linear fluxes.

    Attributes
    ----------
    fit : LMResult
        At the new minimum; logarithms of the faint fluxes stay where they were.
    covariance : Tensor, float64, (B, D, D)
    ratio : Tensor, float64, (B, components of the target)
        By which a component's light is to be multiplied: 1 for all others.
    linear : ndarray, bool, (B, D)
        The logarithms that were replaced.
    """

    fit: LMResult
    covariance: torch.Tensor
    ratio: torch.Tensor
    linear: np.ndarray


def with_linear_fluxes(
    layout: Layout,
    target: Sequence[str],
    main: np.ndarray,
    fit: LMResult,
    covariance: torch.Tensor,
    frozen: torch.Tensor,
    bounds: tuple[torch.Tensor, torch.Tensor],
    counts: torch.Tensor,
) -> LinearFluxes:
    """Fits with linear fluxes where these are not significant.

    Parameters
    ----------
    layout : Layout
        Of one image; nothing is changed where there are several.
    target : sequence of str
    main : ndarray, (B,)
        The brightest component.
    fit : LMResult
    covariance : Tensor, float64, (B, D, D)
        Of theta.
    frozen, counts : Tensor, bool, (B, D)
        Fixed or on a bound; what the main component and the sky depend on.
    bounds : (Tensor, Tensor), (B, D) each
        Of theta. Where the step leads out of them the fit stays as it is.
    """
    fixed = bounds[0] == bounds[1]
    ratio = fit.theta.new_ones((len(fit.theta), len(target)))
    out = LinearFluxes(fit, covariance, ratio, np.zeros(fit.theta.shape, dtype=bool))
    if layout.n_images > 1 or len(target) == 1:
        return out
    device = frozen.device
    linear, idle = torch.zeros_like(frozen), torch.zeros_like(frozen)
    places = {}
    for k, name in enumerate(target):
        if f"{name}.ln_flux" not in layout.names:
            continue
        j = places[k] = layout.names.index(f"{name}.ln_flux")
        own = torch.tensor([other.startswith(f"{name}.") for other in layout.names], device=device)
        held = frozen | (own & ~counts)
        held[:, j] = False
        error = laplace(fit.state.matrix, held)[0][:, j, j].sqrt()  # of ln F: of F, over F
        faint = torch.as_tensor(main != k, device=device) & ~fixed[:, j] & ~counts[:, j]
        linear[:, j] = faint & ~(error < 1 / _SIGNIFICANT)
        idle |= own & ~counts & linear[:, j, None]
    rows = linear.any(1).nonzero()[:, 0]
    if len(rows) == 0:
        return out
    held = (frozen[rows] | idle[rows]) & ~linear[rows]
    changed, _ = laplace(fit.state.matrix[rows], held)
    step = (changed @ fit.state.gradient[rows][..., None])[..., 0]
    moved = fit.theta[rows] + torch.where(linear[rows], 0.0, step)
    inside = ((moved >= bounds[0][rows]) & (moved <= bounds[1][rows]) | held).all(1)
    linear[rows[~inside]] = False
    rows, step, changed = rows[inside], step[inside], changed[inside]
    some = linear[rows]
    theta, covariance, chi2 = fit.theta.clone(), covariance.clone(), fit.state.chi2.clone()
    covariance[rows] = changed
    chi2[rows] -= (step * fit.state.gradient[rows]).sum(1)
    theta[rows] += torch.where(some, 0.0, step)
    for k, j in places.items():
        ratio[rows, k] += torch.where(some[:, j], step[:, j], 0.0)
    fit = dataclasses.replace(fit, theta=theta, state=dataclasses.replace(fit.state, chi2=chi2))
    return LinearFluxes(fit, covariance, ratio, linear.cpu().numpy())
