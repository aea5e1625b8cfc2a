r"""What rings and sectors of the residual would move a fit by, and what noise alone would.

With :math:`C = A^{-1}` the covariance of a fit and :math:`J_p` the derivatives of pixel p, the
pixel pulls parameter j by :math:`w_{pj} r_p`, :math:`w = C J^T W`. A block b of pixels pulls it by
:math:`u_{bj} = \sum_{p \in b} w_{pj} r_p`: by so much the parameter would change if the block's
pixels were another galaxy's. Over all blocks the pulls of a fit add up to nothing. Their variance
under noise alone is :math:`s_b (1 - s_b)\, C_{jj}`, with :math:`s_b` the block's share of what is
known of the parameter; what is beyond it is due to the model (cluster-robust covariance: White
1980, Econometrica 48, 817; Liang & Zeger 1986, Biometrika 73, 13).

**Rings** are elliptical annuli of the target, as seen through the PSF: they tell a wrong profile.
**Sectors** tell arms, bars, tides and light off the centre.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from autofit_ml.fitting.problem import SceneProblem

__all__ = ["N_BLOCKS", "RINGS", "SECTORS", "block_pulls", "ring_and_sector"]

RINGS = (0.25, 0.5, 0.75, 1.0, 1.4, 2.0, 2.8, 4.0, 6.0, 9.0)
"""Edges of the rings, units of the half-light ellipse; the last ring is all beyond."""

SECTORS = 8
N_BLOCKS = len(RINGS) + 1 + SECTORS


def block_pulls(
    problem: SceneProblem,
    index: torch.Tensor,
    image: int,
    blocks: list[torch.Tensor],
    jacobian: torch.Tensor,
    model: torch.Tensor,
    covariance: torch.Tensor,
    place: tuple[torch.Tensor, torch.Tensor],
) -> torch.Tensor:
    """Pulls of rings and sectors in one image and their variances, (A, 2, K, N_BLOCKS).

    Parameters
    ----------
    problem : SceneProblem
    index : Tensor, (A,)
    image : int
    blocks, jacobian : as `SceneProblem.channels` returns them
    model : Tensor, (A, ny, nx)
        With the background.
    covariance : Tensor, float64, (A, K, D)
        Rows of the fit's covariance: those of the parameters that are asked for.
    place : (ring, sector), int64, (A, ny, nx)
        From `ring_and_sector`.
    """
    data = problem.images[image]
    terms = problem.pixel_terms(index, image, model)
    weights = covariance @ jacobian.transpose(1, 2)  # (A, K, P)
    a, k = weights.shape[:2]
    pull = model.new_zeros((a, k, model[0].numel()))
    first = 0
    for block in blocks:
        last = first + block.shape[1]
        part = weights[:, :, first:last].to(block.dtype)
        # background() is shared by all objects
        pull = torch.baddbmm(pull, part, block.flatten(2).expand(a, -1, -1))
        first = last
    both = torch.cat(
        [pull * terms.score.flatten(1)[:, None], pull.square() * terms.curvature.flatten(1)[:, None]],
        1,
    )
    members = torch.nn.functional.one_hot
    ring, sector = place
    inside = torch.cat(
        [members(ring.flatten(1), len(RINGS) + 1), members(sector.flatten(1), SECTORS)], 2
    ).to(both.dtype)
    del data
    return torch.bmm(both, inside).to(torch.float64).view(a, 2, k, N_BLOCKS)


def ring_and_sector(
    problem: SceneProblem, index: torch.Tensor, image: int, ellipses: np.ndarray, fwhm: np.ndarray
) -> tuple[torch.Tensor, torch.Tensor]:
    """Ring and sector of each pixel of an image, int64, (A, ny, nx).

    Parameters
    ----------
    ellipses : ndarray, (A, 5)
        x, y, re, q, pa of the targets in their first images.
    fwhm : ndarray, (A,)
        Of the first image's PSF, pixels.
    """
    data = problem.images[image]
    ny, nx = data.plan.shape
    device, dtype = data.data.device, data.data.dtype
    x0, y0, re, q, pa, width = (
        torch.as_tensor(part, device=device).to(torch.float64)[:, None, None]
        for part in (*ellipses.T, fwhm)
    )
    dx = torch.arange(nx, device=device, dtype=torch.float64).expand(len(index), 1, nx)
    dy = torch.arange(ny, device=device, dtype=torch.float64)[:, None].expand(len(index), ny, 1)
    if data.placement is not None:
        here = data.placement.select(index)
        inverse = torch.linalg.inv(here.matrix)[:, :, :, None, None]
        dx, dy = dx - here.offset[:, 0, None, None], dy - here.offset[:, 1, None, None]
        dx, dy = (
            inverse[:, 0, 0] * dx + inverse[:, 0, 1] * dy,
            inverse[:, 1, 0] * dx + inverse[:, 1, 1] * dy,
        )
    dx, dy = dx - x0, dy - y0
    cos, sin = torch.deg2rad(pa).cos(), torch.deg2rad(pa).sin()
    along, across = -dx * sin + dy * cos, dx * cos + dy * sin
    blur = (width / 2).square()
    major, minor = (re.square() + blur).sqrt(), ((q * re).square() + blur).sqrt()
    along, across = (along / major).to(dtype), (across / minor).to(dtype)
    edges = torch.tensor(RINGS, device=device, dtype=dtype).square()
    ring = torch.bucketize(along.square() + across.square(), edges)
    angle = torch.atan2(across, along) * (SECTORS / (2 * math.pi))
    return ring, torch.remainder(torch.round(angle).long(), SECTORS)
