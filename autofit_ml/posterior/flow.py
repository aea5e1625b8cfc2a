r"""Motion in a Gaussian potential between hard walls, solved exactly.

In coordinates z in which the reference Gaussian is standard, a particle with momentum p moves on

.. math:: z(t) = z \cos t + p \sin t, \qquad p(t) = p \cos t - z \sin t .

A bound of parameter i is a wall :math:`a_i \cdot z = c` (:math:`a_i`: row i of the root S of the
covariance). Along the motion :math:`a_i \cdot z(t) = r \cos(t - \varphi)`, so that the time of the
hit has a closed form; there the momentum is mirrored, :math:`p \to p - 2 a (a \cdot p) / |a|^2`,
and the motion goes on (Pakman and Paninski 2014, J. Comput. Graph. Stat. 23, 518). The map is
reversible, preserves volume and energy, and never leaves the box: bounds cost no bias and no
rejections.
"""

from __future__ import annotations

import math

import torch

__all__ = ["harmonic_flow"]

_MOST_HITS = 100
"""Walls that a particle may hit in one motion; one that hits more is in a corner, and is given up
(its proposal is rejected, as it would be on the way back)."""

_JUST_HIT = 1e-7
"""Angle under which a wall ahead is the one that was just hit."""


def harmonic_flow(
    z: torch.Tensor,
    p: torch.Tensor,
    time: torch.Tensor,
    root: torch.Tensor,
    lower: torch.Tensor,
    upper: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Move particles for a time.

    Parameters
    ----------
    z, p : Tensor, float64, (A, D)
        Inside the walls.
    time : Tensor, float64, (A,)
        Less than 2 pi, positive.
    root : Tensor, float64, (A, D, D)
        S; the walls are ``lower <= S z <= upper``.
    lower, upper : Tensor, float64, (A, D)
        May be infinite.

    Returns
    -------
    z, p : Tensor, (A, D)
    lost : Tensor, bool, (A,)
        Particles that hit too many walls.
    """
    end_z, end_p = _rotate(z, p, time)
    lost = torch.zeros(len(z), dtype=torch.bool, device=z.device)
    reach = _reach(_times(root, z), _times(root, p))
    index = ((reach > upper) | (-reach < lower)).any(1).nonzero()[:, 0]
    z, p, time = z[index], p[index], time[index]
    for _ in range(_MOST_HITS):
        if len(index) == 0:
            return end_z, end_p, lost
        first, wall = _next_wall(z, p, root[index], lower[index], upper[index])
        free = first >= time
        z, p = _rotate(z, p, torch.minimum(first, time))
        normal = root[index].gather(1, wall[:, None, None].expand(-1, 1, z.shape[1]))[:, 0]
        along = (normal * p).sum(1) / normal.square().sum(1)
        p = torch.where(free[:, None], p, p - 2 * along[:, None] * normal)
        end_z[index], end_p[index] = z, p
        go = (~free).nonzero()[:, 0]  # here the host waits for the device, once a wall
        index, z, p, time = index[go], z[go], p[go], (time - first)[go]
    lost[index] = True
    return end_z, end_p, lost


def _rotate(z: torch.Tensor, p: torch.Tensor, time: torch.Tensor):
    c, s = time.cos()[:, None], time.sin()[:, None]
    return z * c + p * s, p * c - z * s


def _times(matrix: torch.Tensor, vector: torch.Tensor) -> torch.Tensor:
    return (matrix * vector[:, None]).sum(-1)


def _reach(place: torch.Tensor, speed: torch.Tensor) -> torch.Tensor:
    return (place.square() + speed.square()).sqrt()


def _next_wall(z, p, root, lower, upper) -> tuple[torch.Tensor, torch.Tensor]:
    """When the next wall is hit, and which (A,)."""
    place, speed = _times(root, z), _times(root, p)
    reach = _reach(place, speed).clamp_min(1e-300)
    # Twice the angle of half the size: PyTorch's atan2 and hypot round differently at the end of an
    # array, which would make an object depend on its batch.
    half = torch.where(place >= 0, speed / (reach + place), (reach - place) / speed)
    angle = 2 * half.atan()
    to_upper = _ahead(angle - torch.acos((upper / reach).clamp(-1, 1)), speed > 0)
    to_lower = _ahead(angle + torch.acos((lower / reach).clamp(-1, 1)), speed < 0)
    never = torch.full_like(place, math.inf)
    when = torch.minimum(
        torch.where(reach > upper, to_upper, never), torch.where(-reach < lower, to_lower, never)
    )
    return when.min(1)


def _ahead(angle: torch.Tensor, outwards: torch.Tensor) -> torch.Tensor:
    """Angle in [0, 2 pi); rounding may leave a particle that moves outwards just past its wall."""
    turn = 2 * math.pi
    angle = torch.remainder(angle, turn)
    return torch.where(outwards & (angle > turn - _JUST_HIT), torch.zeros_like(angle), angle)
