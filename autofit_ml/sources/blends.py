r"""Errors of sources that overlap: the others' parameters are not known either.

Each posterior was found with the light of the others held. With the derivatives :math:`J_i` of the
images the joint precision of some sources has the blocks

.. math:: P_{ii} = S_i^{-1}, \qquad P_{ij} = \sum_p w_p\,J_{ip}^T J_{jp},

and what is known of source i, whatever the others are, is the block i of its inverse. Only sources
whose light shares pixels with that of i are taken in.
"""

from __future__ import annotations

import dataclasses
from functools import lru_cache

import numpy as np
import torch

from autofit_ml.sources.fluxes import overlaps
from autofit_ml.sources.scan import Posterior, Scan

__all__ = ["with_blends"]

_COUPLED = 0.03
"""Correlation of two sources' light from which they count as a blend."""

_MOST = 8
"""Neighbours that are taken in, the most strongly coupled ones."""

_KEPT = 128
"""Sources whose derivatives are kept in memory."""


def with_blends(scan: Scan, posterior: Posterior) -> Posterior:
    """The same with the likelier types' covariances in which overlapping sources are free."""
    coupled = _couplings(scan)
    if not coupled:
        return posterior
    likely = (posterior.p_star < 0.5).astype(int)
    both = (posterior.stars, posterior.galaxies)
    covariance = [one.covariance.clone() for one in both]

    @lru_cache(maxsize=_KEPT)
    def design(i: int) -> tuple[list[torch.Tensor], list[torch.Tensor], list[np.ndarray]]:
        return scan.design(i, int(likely[i]), both[likely[i]].mean[i])

    # Neighbours in the order of the sky: what one needs the next one needs too.
    for i in sorted(coupled, key=lambda k: tuple(scan.anchor[k] // 64)):
        near = sorted(coupled[i], key=lambda j: -coupled[i][j])[:_MOST]
        members = [i, *near]
        sizes = [both[likely[k]].mean.shape[1] for k in members]
        at = np.cumsum([0, *sizes])
        joint = torch.zeros((at[-1], at[-1]), dtype=torch.float64)
        for a, k in enumerate(members):
            precision = torch.linalg.inv(both[likely[k]].covariance[k])
            joint[at[a] : at[a + 1], at[a] : at[a + 1]] = precision
            for b in range(a):
                block = _shared(design(k), design(members[b]))
                joint[at[a] : at[a + 1], at[b] : at[b + 1]] = block
                joint[at[b] : at[b + 1], at[a] : at[a + 1]] = block.T
        found = _marginal(joint, sizes[0])
        if found is not None:
            covariance[likely[i]][i] = found
    stars, galaxies = (one.widened(wider) for one, wider in zip(both, covariance, strict=True))
    return dataclasses.replace(posterior, stars=stars, galaxies=galaxies)


def _marginal(joint: torch.Tensor, size: int) -> torch.Tensor | None:
    """Covariance of the first parameters; None where the joint precision is not positive."""
    scale = joint.diagonal().clamp_min(1e-300).sqrt()
    factor, failed = torch.linalg.cholesky_ex(joint / scale[:, None] / scale)
    if int(failed):
        return None
    inverse = torch.cholesky_inverse(factor) / scale[:, None] / scale
    return inverse[:size, :size]


def _couplings(scan: Scan) -> dict[int, dict[int, float]]:
    """Pairs whose light is correlated: source -> others -> correlation."""
    out: dict[int, dict[int, float]] = {}
    corner = scan.anchor - scan.side[:, None] // 2
    places = zip(scan.side, scan.row, strict=True)
    lights = [scan.light[int(side)][:, row].sum(0) for side, row in places]
    own = np.array([float(light.square().sum()) for light in lights])
    for i, j in overlaps(corner, scan.side):
        mine, other = _overlap(corner[i], corner[j], scan.side[i], scan.side[j])
        value = float((lights[i][mine] * lights[j][other]).sum())
        value /= max((own[i] * own[j]) ** 0.5, 1e-300)
        if value > _COUPLED:
            out.setdefault(i, {})[j] = value
            out.setdefault(j, {})[i] = value
    return out


def _overlap(
    first: np.ndarray, other: np.ndarray, side: int, width: int
) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Pixels that two patches share, in the coordinates of each; corners are x and y."""
    low = np.maximum(first, other)
    high = np.minimum(first + side, other + width)
    high = np.maximum(high, low)
    return tuple(
        (slice(*(low[1] - at[1], high[1] - at[1])), slice(*(low[0] - at[0], high[0] - at[0])))
        for at in (first, other)
    )  # type: ignore[return-value]


def _shared(
    one: tuple[list[torch.Tensor], list[torch.Tensor], list[np.ndarray]],
    other: tuple[list[torch.Tensor], list[torch.Tensor], list[np.ndarray]],
) -> torch.Tensor:
    """Sum over bands and shared pixels of the products of derivatives, weighted."""
    total = torch.zeros((len(one[0][0]), len(other[0][0])), dtype=torch.float64)
    for j, w, at, k, _, there in zip(*one, *other, strict=True):
        mine, theirs = _overlap(at, there, j.shape[-1], k.shape[-1])
        weighted = (j[:, *mine] * w[mine].square()).flatten(1)
        total += (weighted @ k[:, *theirs].flatten(1).T).double()
    return total
