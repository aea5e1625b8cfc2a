r"""Pulls of nested apertures of the residual on a fit.

With :math:`C = A^{-1}` the covariance of a fit and :math:`J_p` the derivatives of pixel p, the
pixel pulls parameter j by :math:`w_{pj} r_p`, :math:`w = C J^T W`. An aperture b of pixels pulls it
by :math:`u_{bj} = \sum_{p \in b} w_{pj} r_p`: by so much the parameter would change if what is
inside, or outside, were another galaxy's; all pixels together pull a fit by nothing. Under noise
alone the mean squares of the pulls are known shares of :math:`C_{jj}`; what is beyond is due to the
model (a cluster-robust covariance: White 1980, Econometrica 48, 817; Liang & Zeger 1986, Biometrika
73, 13). A wrong profile is wrong over many neighbouring rings, with one sign: the squares of rings
take it for chance, and have a fifth of the variance of flux, those of nested apertures nearly all.

Apertures are ellipses of the target, as seen through the PSF, with soft edges: with sharp ones,
which cut pixels unevenly on opposite sides, a wrong profile of a symmetric galaxy would pull at its
position.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from autofit_ml.fitting.pixels import ImageData

__all__ = ["APERTURES", "aperture_pulls", "product", "radial_number"]

_CORE, _DENSITY = 0.4, 1.6
APERTURES = tuple(round(_CORE * math.sqrt(math.expm1(k / _DENSITY)), 3) for k in range(11))
"""Radii, units of the half-light ellipse: the aperture of each has weight 1 up to its own and none
from the next on; the last of them ends the outermost."""


def aperture_pulls(
    channels: list[torch.Tensor],
    jacobian: torch.Tensor,
    score: torch.Tensor,
    covariance: torch.Tensor,
    number: torch.Tensor,
) -> torch.Tensor:
    """Pulls of all apertures but the last radius' (all pixels) in one image, float64, (A, K, 10).

    Parameters
    ----------
    channels, jacobian : as `SceneProblem.channels` returns them
    score : Tensor, (A, ny, nx)
        Of the likelihood (`PixelTerms`).
    covariance : Tensor, float64, (A, K, D)
        Rows of the fit's covariance: those of the parameters that are asked for.
    number : Tensor, (A, ny, nx)
        From `radial_number`.
    """
    last = len(APERTURES) - 1
    steps = torch.arange(1, last + 1, device=score.device, dtype=score.dtype)[:, None]
    inside = (steps - number.flatten(1)[:, None].nan_to_num(last)).clamp(0, 1)
    scores = inside * score.flatten(1)[:, None]
    sums = [torch.bmm(one.flatten(2), scores.transpose(1, 2)) for one in channels]
    weights = product(covariance, jacobian.transpose(1, 2))
    return product(weights, torch.cat(sums, 1).to(torch.float64))


def product(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Products of small matrices, (A, K, M) and (A, M, N).

    Sum by sum: the last digits of a matrix product depend on where in memory a matrix begins, and
    so on how many objects are in a batch.
    """
    out = left[:, :, 0, None] * right[:, None, 0]
    for m in range(1, right.shape[1]):
        out = out + left[:, :, m, None] * right[:, None, m]
    return out


def radial_number(
    data: ImageData, index: torch.Tensor, ellipses: np.ndarray, fwhm: np.ndarray
) -> torch.Tensor:
    """Place of each pixel among `APERTURES`, a fraction between two numbers, (A, ny, nx).

    Parameters
    ----------
    ellipses : ndarray, (A, 5)
        x, y, re, q, pa of the targets in their first images.
    fwhm : ndarray, (A,)
        Of the first image's PSF, pixels.
    """
    ny, nx = data.plan.shape
    device, dtype = data.data.device, data.data.dtype
    x0, y0, re, q, pa, width = (
        torch.as_tensor(part, device=device).to(torch.float64)[:, None, None]
        for part in (*ellipses.T, fwhm)
    )
    blur = (width / 2).square()
    major, minor = (re.square() + blur).sqrt(), ((q * re).square() + blur).sqrt()
    cos, sin = torch.deg2rad(pa).cos(), torch.deg2rad(pa).sin()
    # (dx, dy) -> along and across, in units of the ellipse
    to_ellipse = torch.stack(
        [torch.cat([-sin, cos], 2) / major, torch.cat([cos, sin], 2) / minor], 1
    )[:, :, 0]
    centre = torch.cat([x0, y0], 1)
    if data.placement is not None:
        here = data.placement.select(index)
        to_ellipse = to_ellipse @ torch.linalg.inv(here.matrix)
        centre = here.matrix @ centre + here.offset[..., None]
    dx = torch.arange(nx, device=device) - centre[:, 0, :, None]
    dy = torch.arange(ny, device=device)[:, None] - centre[:, 1, :, None]
    m = to_ellipse[..., None, None]
    along = (m[:, 0, 0] * dx).to(dtype) + (m[:, 0, 1] * dy).to(dtype)
    across = (m[:, 1, 0] * dx).to(dtype) + (m[:, 1, 1] * dy).to(dtype)
    squared = along.square() + across.square()
    return (_DENSITY * torch.log1p(squared / _CORE**2)).clamp_max(len(APERTURES) - 1)
