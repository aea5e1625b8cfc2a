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

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
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

    def rows(
        self, shapes: torch.Tensor, dtype: torch.dtype, derivatives: bool = True
    ) -> torch.Tensor:
        """Cubic coefficients of the transform and of its derivatives.

        Parameters
        ----------
        shapes : Tensor, float64, (B, S)
            Fit-space shapes.
        dtype : torch.dtype
            Of the result.
        derivatives : bool
            Without them S counts as 0 in the result, unless the shapes require a gradient.

        Returns
        -------
        Tensor, (B, n_kappa, 4 (1 + S))
            Differentiable: gradients reach the shapes from the first four columns.
        """
        return _Rows.apply(shapes, self, derivatives).to(dtype)

    def half_light(self, shapes: torch.Tensor) -> "HalfLight":
        """Light and half-light radius; `shapes` (B, S) in the fit space."""
        return half_light(self.grid, *sample_light(self.light, self.log, shapes, self.grid, False))

    def node_values(
        self, shapes: torch.Tensor, derivatives: bool = True
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """S and dS/dln kappa at the nodes of the grid, and their derivatives by the shapes.

        Parameters
        ----------
        shapes : Tensor, float64, (B, S)
        derivatives : bool
            Without them S counts as 0 in the result.

        Returns
        -------
        value, slope : Tensor, (B, 1 + S, n_kappa + 1)
            Slopes per unit of ln kappa.
        """
        grid = self.grid
        a, da = sample_light(self.light, self.log, shapes, grid, derivatives)
        half = half_light(grid, a, da)
        omega = grid.on(a.device).omega
        s = torch.complex(torch.full_like(omega, grid.bias), omega)
        spectra = grid.spectrum(torch.cat([a[:, None], da], dim=1))
        value, change = spectra[:, :1], spectra[:, 1:]
        change = change + half.log_radius_by_shape[..., None] * (s * value)
        rise = half.integral_by_shape / half.integral[:, None]
        every = torch.cat([value, change - rise[..., None] * value], dim=1)
        both = torch.stack([every, -s * every], dim=1)
        both = grid.transform(both, half.log_radius[:, None, None])
        value, slope = (both / half.integral[:, None, None, None]).unbind(1)
        return value, slope


class _Rows(torch.autograd.Function):
    """Rows of a live table; the derivative columns are their own gradient."""

    @staticmethod
    def forward(
        ctx: Any, shapes: torch.Tensor, table: LiveTable, derivatives: bool
    ) -> torch.Tensor:
        value, slope = table.node_values(shapes.detach(), derivatives or ctx.needs_input_grad[0])
        rows = cubic_coefficients(value, slope * table.log_kappa_step)
        rows = rows.transpose(1, 2).flatten(2).contiguous()
        ctx.save_for_backward(rows)
        return rows

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (rows,) = ctx.saved_tensors
        by_shape = rows[..., 4:].unflatten(-1, (-1, 4))
        return (grad[..., None, :4] * by_shape).sum((1, 3)), None, None


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
    light: Light,
    log: tuple[bool, ...],
    shapes: torch.Tensor,
    grid: LogGrid,
    derivatives: bool = True,
) -> tuple[torch.Tensor, torch.Tensor]:
    """r^2 I(r) at the grid's points (B, points), and its derivatives by the fit-space shapes
    (B, S, points); without derivatives S counts as 0."""
    r = grid.on(shapes.device).r
    size = (len(shapes), len(r))
    derivatives = derivatives and bool(log)
    with torch.set_grad_enabled(derivatives):
        leaves = [
            (column.exp() if is_log else column)[:, None]
            .expand(size)
            .contiguous()
            .requires_grad_(derivatives)
            for column, is_log in zip(shapes.detach().unbind(1), log, strict=True)
        ]
        brightness = light(r.expand(size), *leaves)
        slopes = torch.autograd.grad(brightness.sum(), leaves) if derivatives else ()
    by_fit = [
        slope * leaf.detach() if is_log else slope
        for slope, leaf, is_log in zip(slopes, leaves, log, strict=False)
    ]
    square = r.square()
    da = torch.stack(by_fit, dim=1) if by_fit else r.new_zeros(size[0], 0, size[1])
    return brightness.detach() * square, da * square


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

    Between the grid's points a(x) is the polynomial through the six nearest ones; its integrals
    over whole intervals add up to the light within the grid's points.
    """
    total = grid.integral(a)
    total_by_shape = grid.integral_derivative(a[:, None], da)
    inside = _cumulative(grid, a)
    half = total / 2
    n = inside.shape[1]
    j = torch.searchsorted(inside, half[:, None], right=True)[:, 0].sub(1).clamp(2, n - 4)
    near = torch.arange(-2, 4, device=a.device) + j[:, None]
    around = a.gather(1, near)
    missing = (half - inside.gather(1, j[:, None])[:, 0]) / grid.step
    t = (missing / around[:, 2]).clamp(0.0, 1.0)
    for _ in range(6):
        value, integral = _interpolation(t)
        t = t - ((around * integral).sum(1) - missing) / (around * value).sum(1)
    value, integral = _interpolation(t)
    every = near[:, None].expand(-1, da.shape[1], -1)
    here = j[:, None, None].expand(-1, da.shape[1], 1)
    inside_by_shape = _cumulative(grid, da).gather(2, here)[..., 0]
    inside_by_shape = inside_by_shape + grid.step * (da.gather(2, every) * integral[:, None]).sum(2)
    density = (around * value).sum(1)
    by_shape = (total_by_shape / 2 - inside_by_shape) / density[:, None]
    return HalfLight(total, total_by_shape, grid.x0 + grid.step * (j + t), by_shape)


_POWERS = np.linalg.inv(np.arange(-2.0, 4.0)[:, None] ** np.arange(6))
"""The polynomial through the values at -2, ..., 3 has the coefficients _POWERS @ values."""

_INTERVAL = (1 / np.arange(1, 7)) @ _POWERS
"""Its integral from 0 to 1 is _INTERVAL @ values."""


def _cumulative(grid: LogGrid, a: torch.Tensor) -> torch.Tensor:
    """Integral of a from the third point to each point of the grid (..., n), up to the edge's outer
    part. What lies further in is far less than can be seen."""
    a = a[..., : grid.sampled]
    count = a.shape[-1] - 5
    steps = torch.zeros_like(a)
    for i, weight in enumerate(_INTERVAL):
        steps[..., 3:-2] += a[..., i : i + count] * (weight * grid.step)
    return steps.cumsum(-1)


def _interpolation(t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights (..., 6) of the points at -2, ..., 3 in the polynomial at t, and in its integral from
    0 to t."""
    coefficients = torch.as_tensor(_POWERS, device=t.device)
    powers = torch.arange(6, device=t.device)
    value = t[..., None] ** powers
    integral = value * t[..., None] / (powers + 1)
    return (
        (value[..., :, None] * coefficients).sum(-2),
        (integral[..., :, None] * coefficients).sum(-2),
    )
