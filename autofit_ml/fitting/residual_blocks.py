r"""Pulls of rings and sectors of the residual on a fit, and those that noise alone would give.

With :math:`C = A^{-1}` the covariance of a fit and :math:`J_p` the derivatives of pixel p, the
pixel pulls parameter j by :math:`w_{pj} r_p`, :math:`w = C J^T W`. A block b of pixels pulls it by
:math:`u_{bj} = \sum_{p \in b} w_{pj} r_p`: by so much the parameter would change if the block's
pixels were another galaxy's. Over all blocks the pulls of a fit add up to nothing. Under noise
alone the sum of their squares is a known share of :math:`C_{jj}` (all but what the fitted
parameters take); what is beyond is due to the model (cluster-robust covariance: White 1980,
Econometrica 48, 817; Liang & Zeger 1986, Biometrika 73, 13).

**Rings** are elliptical annuli of the target, as seen through the PSF: they tell a wrong profile,
and whether light lies off the centre. They fade into their neighbours: with sharp edges, which cut
pixels unevenly on opposite sides, a wrong profile of a symmetric galaxy would pull at its position.
**Sectors** tell arms, bars and tides.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from autofit_ml.fitting.pixels import ImageData

__all__ = ["N_BLOCKS", "RINGS", "SECTORS", "block_pulls", "product", "ring_and_sector"]

_CORE, _DENSITY = 0.4, 1.6
RINGS = tuple(round(_CORE * math.sqrt(math.expm1(k / _DENSITY)), 3) for k in range(11))
"""Radii of the rings, units of the half-light ellipse: each has weight 1 at its own, and none from
its neighbours' on; the last has all beyond."""

SECTORS = 8  # octants
N_BLOCKS = len(RINGS) + SECTORS


def block_pulls(
    channels: list[torch.Tensor],
    jacobian: torch.Tensor,
    score: torch.Tensor,
    covariance: torch.Tensor,
    place: tuple[torch.Tensor, torch.Tensor],
) -> torch.Tensor:
    """Pulls of the rings, then of the sectors, in one image, float64, (A, K, N_BLOCKS).

    Parameters
    ----------
    channels, jacobian : as `SceneProblem.channels` returns them
    score : Tensor, (A, ny, nx)
        Of the likelihood (`PixelTerms`).
    covariance : Tensor, float64, (A, K, D)
        Rows of the fit's covariance: those of the parameters that are asked for.
    place : (ring, sector), (A, ny, nx)
        From `ring_and_sector`.
    """
    ring, sector = _from_each(place[0], len(RINGS)), _from_each(place[1], SECTORS)
    inside = torch.cat([ring.abs_().neg_().add_(1).clamp_min_(0), (sector == 0).to(ring)], 1)
    scores = inside.mul_(score.flatten(1)[:, None]).transpose(1, 2)
    sums = [torch.bmm(one.flatten(2), scores) for one in channels]
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


def _from_each(of: torch.Tensor, count: int) -> torch.Tensor:
    """How far each pixel is from each of `count` blocks, (A, count, pixels)."""
    return of.flatten(1)[:, None] - torch.arange(count, device=of.device)[:, None].to(of.dtype)


def ring_and_sector(
    data: ImageData, index: torch.Tensor, ellipses: np.ndarray, fwhm: np.ndarray
) -> tuple[torch.Tensor, torch.Tensor]:
    """Ring (a fraction between two) and sector (an integer) of each pixel, (A, ny, nx).

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
    ring = (_DENSITY * torch.log1p(squared / _CORE**2)).clamp_max(len(RINGS) - 1)
    # Sectors are centred on the axes of the ellipse: octants of what is turned by half a sector.
    turn = math.pi / SECTORS
    u = along * math.cos(turn) - across * math.sin(turn)
    v = along * math.sin(turn) + across * math.cos(turn)
    octant = (u > 0).to(torch.uint8) * 4 + (v > 0).to(torch.uint8) * 2 + (u.abs() > v.abs())
    return ring, octant
