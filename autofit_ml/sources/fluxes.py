r"""Fluxes of sources whose positions and shapes are held: linear least squares.

With unit-flux images :math:`g_i` and weights w the fluxes of a band solve

.. math:: \sum_j A_{ij} F_j = b_i, \qquad A_{ij} = \sum_p w_p\,g_{ip}\,g_{jp}, \qquad
          b_i = \sum_p w_p\,g_{ip}\,d_p .

A is sparse: only sources whose patches overlap are in each other's rows. Its inverse is the fluxes'
covariance, computed group by group (sources that overlap with one another).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import sparse
from scipy.sparse import csgraph

__all__ = ["LinearFluxes", "overlaps", "solve_fluxes"]

_SHARED = 1e-4
"""Overlaps of patches with less than this share of the light of both count for nothing."""


@dataclass(frozen=True)
class LinearFluxes:
    """Fluxes of one band, scaled units.

    Attributes
    ----------
    flux, error : ndarray, float64, (N,)
        NaN where no pixel tells.
    covariance : scipy.sparse.csr_array, (N, N)
    group : ndarray of int, (N,)
        Sources with the same number overlap, directly or by others.
    """

    flux: np.ndarray
    error: np.ndarray
    covariance: sparse.csr_array
    group: np.ndarray


def overlaps(corners: np.ndarray, sides: np.ndarray) -> Iterator[tuple[int, int]]:
    """Pairs of patches that share pixels, each once.

    Parameters
    ----------
    corners : ndarray of int, (N, 2)
        x and y of the first pixels.
    sides : ndarray of int, (N,)
    """
    order = np.argsort(corners[:, 0], kind="stable")
    starts = corners[order, 0]
    for place, i in enumerate(order):
        last = np.searchsorted(starts, corners[i, 0] + sides[i], side="left")
        near = order[place + 1 : last]
        apart = corners[near, 1] - corners[i, 1]
        for j in near[(apart < sides[i]) & (-apart < sides[near])]:
            yield int(i), int(j)


def solve_fluxes(
    images: Sequence[torch.Tensor],
    data: Sequence[torch.Tensor],
    root: Sequence[torch.Tensor],
    corners: np.ndarray,
) -> LinearFluxes:
    """Fluxes of N sources in one band.

    Parameters
    ----------
    images : sequence of Tensor, (side, side)
        Of unit flux, one for each source.
    data, root : sequence of Tensor, (side, side)
        Image and 1/sigma on the sources' patches.
    corners : ndarray of int, (N, 2)
        x and y of the patches' first pixels.
    """
    n = len(images)
    weighted = [g * w * w for g, w in zip(images, root, strict=True)]
    own = np.array([float((g * h).sum()) for g, h in zip(images, weighted, strict=True)])
    right = np.array([float((d * h).sum()) for d, h in zip(data, weighted, strict=True)])
    rows, columns, values = [], [], []
    sides = np.array([len(g) for g in images])
    for i, j in overlaps(corners, sides):
        (x, y), (u, v) = corners[i], corners[j]
        x0, x1 = max(x, u), min(x + sides[i], u + sides[j])
        y0, y1 = max(y, v), min(y + sides[i], v + sides[j])
        mine = weighted[i][y0 - y : y1 - y, x0 - x : x1 - x]
        value = float((mine * images[j][y0 - v : y1 - v, x0 - u : x1 - u]).sum())
        if abs(value) > _SHARED * (own[i] * own[j]) ** 0.5:
            rows.append(i)
            columns.append(j)
            values.append(value)
    across = sparse.coo_array((values, (rows, columns)), shape=(n, n))
    matrix = (across + across.T + sparse.diags_array(own)).tocsr()
    _, group = csgraph.connected_components(matrix, directed=False)
    flux, error = np.full(n, np.nan), np.full(n, np.nan)
    parts = []
    for members in np.split(np.argsort(group, kind="stable"), np.cumsum(np.bincount(group))[:-1]):
        told = members[own[members] > 0]
        if len(told) == 0:
            continue
        dense = matrix[told][:, told].toarray()
        inverse = np.linalg.inv(dense + 1e-9 * np.diag(np.diag(dense)))
        flux[told] = inverse @ right[told]
        error[told] = np.sqrt(np.diag(inverse))
        parts.append((np.repeat(told, len(told)), np.tile(told, len(told)), inverse.ravel()))
    if parts:
        i, j, values = (np.concatenate(column) for column in zip(*parts, strict=True))
    else:
        i, j, values = np.zeros(0, int), np.zeros(0, int), np.zeros(0)
    covariance = sparse.csr_array((values, (i, j)), shape=(n, n))
    return LinearFluxes(flux, error, covariance, group)
