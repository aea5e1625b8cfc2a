r"""Light and moments of a circular profile within a radius, for many objects at once.

With the brightness I of unit flux and radii in units of the half-light radius,

.. math:: F_j(\rho) = 2\pi \int_0^{\rho} I(r)\, r^{1+j}\, dr, \qquad j = 0, 1, 2 .

F_0 is the light within the radius. The integrals are sums over a grid in ln r with the first
correction of Euler and Maclaurin, and cubic Hermite polynomials in between.
"""

import dataclasses
from dataclasses import dataclass

import torch

from autofit_ml.profiles.profile import Profile

__all__ = ["Enclosed", "enclosed", "has_circular_form"]

_STEP = 0.0625
_INNERMOST, _OUTERMOST = -16.0, 13.5
"""Range of ln r, in the profile's natural unit; profiles with an edge end at r = 1."""

_ORDERS = 3
_SHORT = 1e-4


@dataclass(frozen=True)
class Enclosed:
    """Light that the profiles of B objects hold within a radius.

    Attributes
    ----------
    slopes, sums : Tensor, float64, (B, 3, points)
        dF_j / d ln r, and F_j, on the grid; natural units.
    end : float
        ln r of its last point.
    total : Tensor, float64, (B,)
    half : Tensor, float64, (B,)
        Logarithm of the half-light radius, natural units.
    """

    slopes: torch.Tensor
    sums: torch.Tensor
    end: float
    total: torch.Tensor
    half: torch.Tensor

    def detach(self) -> "Enclosed":
        """The same without the graph of its derivatives."""
        tensors = (self.total.detach(), self.half.detach())
        return Enclosed(self.slopes.detach(), self.sums.detach(), self.end, *tensors)

    def moments(self, log_radius: torch.Tensor) -> torch.Tensor:
        """F_0, F_1, F_2, (B, 3, T), within radii (B, T): logarithms, half-light radii."""
        order = torch.arange(_ORDERS, dtype=log_radius.dtype, device=log_radius.device)
        unit = (order * self.half[:, None]).exp() * self.total[:, None]
        return self._at(log_radius + self.half[:, None]) / unit[..., None]

    def _at(self, x: torch.Tensor) -> torch.Tensor:
        """F_j (B, 3, T) at ln r = x (B, T), natural units."""
        place = ((x - self.end) / _STEP + self.sums.shape[-1] - 1).clamp(0, self.sums.shape[-1] - 1)
        left = place.detach().long().clamp_max(self.sums.shape[-1] - 2)
        t = (place - left)[:, None]
        index = left[:, None].expand(-1, _ORDERS, -1)
        f0, f1 = self.sums.gather(2, index), self.sums.gather(2, index + 1)
        s0, s1 = self.slopes.gather(2, index) * _STEP, self.slopes.gather(2, index + 1) * _STEP
        rise = f1 - f0
        return f0 + t * (s0 + t * (3 * rise - 2 * s0 - s1 + t * (s0 + s1 - 2 * rise)))


def has_circular_form(profile: Profile) -> bool:
    """True if a profile, without its modifiers, has circular isophotes."""
    return profile.kind == "elliptical" or bool(profile.modifiers)


def enclosed(profile: Profile, shapes: torch.Tensor) -> Enclosed:
    """Tables of a profile for B objects; differentiable in the shapes.

    Parameters
    ----------
    profile : Profile
        Modifiers are left out.
    shapes : Tensor, float64, (B, S)
        Its own shape parameters, catalogue units.

    Raises
    ------
    ValueError
        The profile has no circular form.
    """
    if profile.light is None or not has_circular_form(profile):
        raise ValueError(f"profile {profile.name} has no circular form")
    end = 0.0 if profile.truncated else _OUTERMOST
    count = int((end - _INNERMOST) / _STEP) + 1
    x = end + _STEP * torch.arange(1 - count, 1, dtype=shapes.dtype, device=shapes.device)
    r = x.exp().expand(len(shapes), -1)
    light = profile.light(r, *(column[:, None] for column in shapes.unbind(1)))
    slopes = torch.stack([light * r ** (2 + j) for j in range(_ORDERS)], 1)
    sums = slopes.cumsum(-1) - slopes / 2
    rise = (slopes[..., 2:] - slopes[..., :-2]) / 24
    sums = _STEP * torch.cat([sums[..., :1], sums[..., 1:-1] - rise, sums[..., -1:]], -1)
    total = sums[:, 0, -1] + _tail(slopes[:, 0])
    table = Enclosed(slopes, sums, end, total, torch.zeros_like(total))
    return dataclasses.replace(table, half=_half_light(table))


def _tail(slopes: torch.Tensor) -> torch.Tensor:
    """Light beyond the grid, (B,): the power law of its last two points goes on."""
    last, before = slopes[:, -1], slopes[:, -2]
    falls = (last > 0) & (last < before)
    ratio = torch.where(falls, last / torch.where(falls, before, 1.0), 0.0)
    return _STEP * last * torch.where(falls, 0.5 + ratio / (1 - ratio), 0.0)


def _half_light(table: Enclosed) -> torch.Tensor:
    """Logarithm of the half-light radius, (B,)."""
    wanted = table.total / 2
    beyond = (table.sums[:, 0] > wanted[:, None]).sum(1)
    x = table.end - _STEP * (beyond - 0.5)
    for _ in range(5):  # Newton's; the last step has the derivatives
        x = x.detach()
        near = table._at(torch.stack([x - _SHORT, x, x + _SHORT], 1))[:, 0]
        slope = (near[:, 2] - near[:, 0]).detach() / (2 * _SHORT)
        x = x + (wanted - near[:, 1]) / slope
    return x
