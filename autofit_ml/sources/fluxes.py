r"""Fluxes of sources whose positions and shapes are held: linear least squares.

With unit-flux images :math:`g_i` and weights w the fluxes of a band solve

.. math:: \sum_j A_{ij} F_j = b_i, \qquad A_{ij} = \sum_p w_p\,g_{ip}\,g_{jp}, \qquad
          b_i = \sum_p w_p\,g_{ip}\,d_p .

A is sparse: only sources whose patches overlap are in each other's rows. Its inverse is the fluxes'
covariance, computed group by group (sources that overlap with one another).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from scipy import sparse
from scipy.sparse import csgraph

from autofit_ml.fitting.likelihoods import Likelihood
from autofit_ml.sources.field import Field
from autofit_ml.sources.priors import SourcePrior
from autofit_ml.sources.problem import SourceProblem

__all__ = ["LinearFluxes", "Templates", "overlaps", "solve_fluxes", "templates"]

_BATCH = 256

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


@dataclass(frozen=True)
class Templates:
    """Images of unit flux of N sources in one band, and the pixels under them.

    Attributes
    ----------
    images, data, root : list of Tensor, (side, side)
        Data and 1/sigma in scaled units.
    corners : ndarray of int, (N, 2)
        x and y of the patches' first pixels.
    """

    images: list[torch.Tensor]
    data: list[torch.Tensor]
    root: list[torch.Tensor]
    corners: np.ndarray


def templates(
    field: Field,
    priors: tuple[SourcePrior, SourcePrior],
    anchor: np.ndarray,
    side: np.ndarray,
    star: np.ndarray,
    shape: np.ndarray,
    of_rest: bool = False,
) -> list[Templates]:
    """Templates of sources in each band of a field.

    Parameters
    ----------
    field : Field
    priors : tuple of SourcePrior
        Of stars and galaxies: they say which profile galaxies have.
    anchor : ndarray of int, (N, 2)
        Pixels in the first band.
    side : ndarray of int, (N,)
        Of the patches.
    star : ndarray of bool, (N,)
    shape : ndarray, (N, 6)
        x and y from the anchor, ln rc, profile, eta1 and eta2 (`problem`); the latter four of
        galaxies only.
    of_rest : bool
        Data without the field's model.
    """
    n, nb = len(anchor), len(field.bands)
    nothing = torch.zeros(0)
    out = [
        Templates([nothing] * n, [nothing] * n, [nothing] * n, np.zeros((n, 2), np.int64))
        for _ in range(nb)
    ]
    fluxes = np.zeros((n, nb))
    stars = torch.as_tensor(np.hstack([shape[:, :2], fluxes]))
    galaxies = torch.as_tensor(np.hstack([shape[:, :2], fluxes, shape[:, 2:]]))
    for width in np.unique(side):
        for prior, theta, kind in zip(priors, (stars, galaxies), (True, False), strict=True):
            every = np.flatnonzero((side == width) & (star == kind))
            for first in range(0, len(every), _BATCH):
                some = every[first : first + _BATCH]
                own = [torch.zeros((len(some), int(width), int(width)))] * nb
                patches, corners = field.patches(int(width), anchor[some], own)
                problem = SourceProblem(prior, patches, Likelihood())
                drawn = problem.images(torch.arange(len(some)), theta[some])
                for b, one in enumerate(out):
                    one.corners[some] = corners[b].numpy()
                    for k, i in enumerate(some):
                        one.images[i] = drawn[b][k]
                        rest = patches[b].others[k] if of_rest else 0.0
                        one.data[i], one.root[i] = patches[b].data[k] - rest, patches[b].root[k]
    return out


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


def solve_fluxes(one: Templates) -> LinearFluxes:
    """Fluxes of N sources in one band."""
    images, data, root, corners = one.images, one.data, one.root, one.corners
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
    empty = np.zeros(0)
    at, to, inside = (
        np.concatenate(column)
        for column in zip(*parts, (empty.astype(int), empty.astype(int), empty), strict=True)
    )
    covariance = sparse.csr_array((inside, (at, to)), shape=(n, n))
    return LinearFluxes(flux, error, covariance, group)
