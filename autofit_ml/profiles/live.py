r"""Tables made for each object: profiles with several shape parameters.

A `LiveTable` samples the brightness of every object of a batch at its own shape parameters,
normalises it numerically, and transforms it (`autofit_ml.profiles.fftlog`). The only thing that a
profile has to bring is its brightness. For a profile of natural brightness :math:`I(r; p)`:

.. math:: F = 2\pi \int I r\,dr, \qquad 2\pi \int_0^{\rho} I r\,dr = F / 2, \qquad
          S(\kappa) = \frac{2\pi}{F} \int I(r)\, J_0(\kappa r / \rho)\, r\, dr .

Derivatives by the shapes p are linear in :math:`\partial I/\partial p` (taken by autograd, element
by element), apart from those of the half-light radius :math:`\rho`, which follow from its
definition.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from autofit_ml.profiles.fftlog import LogGrid

__all__ = ["HalfLight", "LiveTable", "half_light", "sample_light"]

Light = Callable[..., torch.Tensor]
"""(r, *shapes) -> brightness in any unit, element by element."""


@dataclass(frozen=True)
class LiveTable:
    """Transforms of a family with S >= 0 shape parameters; a `Table`.

    Attributes
    ----------
    light : callable
        See `autofit_ml.profiles.Profile`.
    log : tuple of bool
        For each shape: its fit-space value is the logarithm.
    grid : LogGrid
    """

    light: Light
    log: tuple[bool, ...]
    grid: LogGrid

    @property
    def n_shapes(self) -> int:
        """S."""
        return len(self.log)

    @property
    def log_kappa_min(self) -> float:
        """Start of the grid in ln kappa."""
        return self.grid.y0

    @property
    def log_kappa_step(self) -> float:
        """Its step."""
        return self.grid.step

    @property
    def n_kappa(self) -> int:
        """Number of intervals."""
        return self.grid.n_kappa

    def rows(self, shapes: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """Cubic coefficients of the transform and of its derivatives.

        Parameters
        ----------
        shapes : Tensor, float64, (B, S)
            Fit-space shapes.
        dtype : torch.dtype
            Of the result.

        Returns
        -------
        Tensor, (B, n_kappa, 4 (1 + S))
            Differentiable: gradients reach the shapes from the first four columns.
        """
        return _Rows.apply(shapes, self).to(dtype)

    def node_values(self, shapes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """S and dS/dln kappa at the nodes of the grid, and their derivatives by the shapes.

        Parameters
        ----------
        shapes : Tensor, float64, (B, S)

        Returns
        -------
        value, slope : Tensor, (B, 1 + S, n_kappa + 1)
            Slopes per unit of ln kappa.
        """
        grid = self.grid
        a, da = sample_light(self.light, self.log, shapes, grid)
        half = half_light(grid, a, da)
        s = torch.complex(
            torch.full_like(grid.on(a.device).omega, grid.bias), grid.on(a.device).omega
        )
        spectrum = grid.spectrum(torch.cat([a[:, None], da], dim=1))
        parts = [spectrum[:, :1]]
        if self.n_shapes:
            moved = spectrum[:, 1:] + half.log_radius_by_shape[..., None] * (s * spectrum[:, :1])
            parts.append(moved)
        every = torch.cat(parts, dim=1)
        both = torch.cat([every, -s * every], dim=1)
        scale = half.log_radius[:, None].expand(-1, both.shape[1])
        both = grid.transform(both, scale) / half.integral[:, None, None]
        value, slope = both.chunk(2, dim=1)
        if self.n_shapes:
            change = (half.integral_by_shape / half.integral[:, None])[..., None]
            value = torch.cat([value[:, :1], value[:, 1:] - change * value[:, :1]], dim=1)
            slope = torch.cat([slope[:, :1], slope[:, 1:] - change * slope[:, :1]], dim=1)
        return value, slope


class _Rows(torch.autograd.Function):
    """Rows of a live table; the derivative columns are their own gradient."""

    @staticmethod
    def forward(ctx: Any, shapes: torch.Tensor, table: LiveTable) -> torch.Tensor:
        value, slope = table.node_values(shapes.detach())
        rows = cubic_coefficients(value, slope * table.log_kappa_step)
        rows = rows.transpose(1, 2).flatten(2).contiguous()
        ctx.save_for_backward(rows)
        return rows

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        (rows,) = ctx.saved_tensors
        by_shape = rows[..., 4:].unflatten(-1, (-1, 4))
        return (grad[..., None, :4] * by_shape).sum((1, 3)), None


def cubic_coefficients(value: torch.Tensor, slope: torch.Tensor) -> torch.Tensor:
    """Ascending cubic coefficients on every interval from values and slopes (per step) at the
    nodes: (..., n + 1) to (..., n, 4)."""
    left, right = value[..., :-1], value[..., 1:]
    left_slope, right_slope = slope[..., :-1], slope[..., 1:]
    rise = right - left
    return torch.stack(
        [
            left,
            left_slope,
            3 * rise - 2 * left_slope - right_slope,
            left_slope + right_slope - 2 * rise,
        ],
        dim=-1,
    )


def sample_light(
    light: Light, log: tuple[bool, ...], shapes: torch.Tensor, grid: LogGrid
) -> tuple[torch.Tensor, torch.Tensor]:
    """r^2 I(r) at the grid's points (B, points), and its derivatives by the fit-space shapes
    (B, S, points)."""
    r = grid.on(shapes.device).r
    natural = [
        (column.exp() if is_log else column)[:, None].expand(-1, len(r)).contiguous()
        for column, is_log in zip(shapes.unbind(1), log, strict=True)
    ]
    square = r.square()
    if not natural:
        return (light(r) * square).expand(len(shapes), -1), r.new_zeros(len(shapes), 0, len(r))
    with torch.enable_grad():
        leaves = [column.requires_grad_() for column in natural]
        brightness = light(r.expand(len(shapes), -1), *leaves)
        by_shape = torch.autograd.grad(brightness.sum(), leaves)
    by_fit = [
        slope * column.detach() if is_log else slope
        for slope, column, is_log in zip(by_shape, leaves, log, strict=True)
    ]
    return brightness.detach() * square, torch.stack(by_fit, dim=1) * square


@dataclass(frozen=True)
class HalfLight:
    """Light and half-light radius of every object of a batch.

    Attributes
    ----------
    integral : Tensor, (B,)
        Light over 2 pi, in natural units.
    integral_by_shape : Tensor, (B, S)
    log_radius : Tensor, (B,)
        Logarithm of the half-light radius in natural units.
    log_radius_by_shape : Tensor, (B, S)
    """

    integral: torch.Tensor
    integral_by_shape: torch.Tensor
    log_radius: torch.Tensor
    log_radius_by_shape: torch.Tensor


def half_light(grid: LogGrid, a: torch.Tensor, da: torch.Tensor) -> HalfLight:
    """Half-light radii from `sample_light`.

    The light within the grid's points comes from the fourth-order rule for one interval; between
    them it is the integral of the cubic through the four nearest points.
    """
    total = grid.integral(a)
    total_by_shape = grid.integral_derivative(a[:, None], da)
    inside = _cumulative(grid, a)
    half = total / 2
    n = inside.shape[1]
    j = torch.searchsorted(inside, half[:, None], right=True)[:, 0].sub(1).clamp(1, n - 3)
    near = torch.arange(-1, 3, device=a.device) + j[:, None]
    around = a.gather(1, near)
    missing = (half - inside.gather(1, j[:, None])[:, 0]) / grid.step
    t = (missing / around[:, 1]).clamp(0.0, 1.0)
    for _ in range(6):
        t = t - ((around * _part(t)).sum(1) - missing) / (around * _lagrange(t)).sum(1)
    log_radius = grid.x0 + grid.step * (j + t)
    every = near[:, None].expand(-1, da.shape[1], -1)
    inside_by_shape = _cumulative(grid, da).gather(2, j[:, None, None].expand(-1, da.shape[1], 1))[
        ..., 0
    ] + grid.step * (da.gather(2, every) * _part(t)[:, None]).sum(2)
    density = (around * _lagrange(t)).sum(1)
    by_shape = (total_by_shape / 2 - inside_by_shape) / density[:, None]
    return HalfLight(total, total_by_shape, log_radius, by_shape)


def _cumulative(grid: LogGrid, a: torch.Tensor) -> torch.Tensor:
    """Integral of a from -infinity to each point of the grid (..., n), up to the edge's outer part.

    What lies inside the first point is left out: under 1e-16 of the light for anything shallower
    than r^-1.3.
    """
    a = a[..., : grid.sampled]
    middle = 13 * (a[..., 1:-2] + a[..., 2:-1]) - a[..., :-3] - a[..., 3:]
    steps = torch.zeros_like(a)
    steps[..., 2:-1] = middle * (grid.step / 24)
    return steps.cumsum(-1)


def _lagrange(t: torch.Tensor) -> torch.Tensor:
    """Weights of the points at -1, 0, 1, 2 in the cubic through them at t: (..., 4)."""
    return torch.stack(
        [
            -t * (t - 1) * (t - 2) / 6,
            (t + 1) * (t - 1) * (t - 2) / 2,
            -(t + 1) * t * (t - 2) / 2,
            (t + 1) * t * (t - 1) / 6,
        ],
        dim=-1,
    )


def _part(t: torch.Tensor) -> torch.Tensor:
    """Integral of `_lagrange` from 0 to t."""
    t2, t3, t4 = t.square(), t**3, t**4
    return torch.stack(
        [
            -(t4 / 4 - t3 + t2) / 6,
            (t4 / 4 - 2 * t3 / 3 - t2 / 2 + 2 * t) / 2,
            -(t4 / 4 - t3 / 3 - t2) / 2,
            (t4 / 4 - t2 / 2) / 6,
        ],
        dim=-1,
    )
