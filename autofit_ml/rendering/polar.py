r"""Images of profiles with any isophotes, in Fourier space, and their derivatives.

A mode **k** of the image reads the transform :math:`S(\kappa, \psi)` of `autofit_ml.profiles.polar`
at the polar coordinates of :math:`\boldsymbol\kappa = r_c \exp[(\eta_1\sigma_z +
\eta_2\sigma_x)/2]\,\mathbf k`, by bicubic Hermite interpolation. Everything else is as for
elliptical profiles (`autofit_ml.rendering.elliptical`): no pixels, no padding of its own, any PSF.
"""

from __future__ import annotations

from typing import Any

import torch

from autofit_ml.profiles.polar import PolarTable
from autofit_ml.rendering.elliptical import metric_and_slopes
from autofit_ml.rendering.fourier import FourierPlan
from autofit_ml.rendering.synthesis import phase, synthesise, synthesise_derivatives

__all__ = ["render_polar", "render_polar_with_jacobian"]

_ROUND = 1e-3
"""Ellipticity |eta| under which the direction of the major axis is taken to change no faster."""


def render_polar(
    plan: FourierPlan, table: PolarTable, psf: torch.Tensor, parameters: torch.Tensor
) -> torch.Tensor:
    """PSF-convolved images of one component per object.

    Differentiable by autograd with respect to `parameters` and `psf`.

    Parameters
    ----------
    plan : FourierPlan
    table : PolarTable
    psf : Tensor, complex, shape (B, n_modes)
    parameters : Tensor, float64, shape (B, P)
        Order of ``profile.fit_parameters``.

    Returns
    -------
    Tensor, shape (B, ny, nx)
    """
    theta = parameters.to(plan.dtype)
    transform = _Transform.apply(parameters, plan, table)
    light = phase(plan, theta[:, 0], theta[:, 1]) * theta[:, 2].exp()[:, None]
    return synthesise(plan, psf * light * transform)


@torch.no_grad()
def render_polar_with_jacobian(
    plan: FourierPlan, table: PolarTable, psf: torch.Tensor, parameters: torch.Tensor
) -> torch.Tensor:
    """Derivatives of `render_polar` with respect to its parameters, (B, P, ny, nx); channel 2 is
    the image."""
    theta = parameters.to(plan.dtype)
    value, changes = _polar_transform(plan, table, parameters, derivatives=True)
    base = psf * (phase(plan, theta[:, 0], theta[:, 1]) * theta[:, 2].exp()[:, None])
    images = psf.real.new_empty((len(base), 3 + changes.shape[1], *plan.shape))
    orders = [(0, 1, 0), (0, 0, 1), (0, 0, 0), *((1 + k, 0, 0) for k in range(changes.shape[1]))]
    synthesise_derivatives(plan, base, [value, *changes.unbind(1)], orders, images)
    return images


class _Transform(torch.autograd.Function):
    """S at all modes (B, n_modes); its gradient by the derivatives that the fit uses."""

    @staticmethod
    def forward(
        ctx: Any, parameters: torch.Tensor, plan: FourierPlan, table: PolarTable
    ) -> torch.Tensor:
        derivatives = ctx.needs_input_grad[0]
        value, changes = _polar_transform(plan, table, parameters, derivatives)
        ctx.save_for_backward(changes)
        return value

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (changes,) = ctx.saved_tensors
        by_parameter = (changes.conj() * grad[:, None]).sum(-1)
        if by_parameter.is_complex():
            by_parameter = by_parameter.real
        return torch.nn.functional.pad(by_parameter, (3, 0)).to(torch.float64), None, None


def _polar_transform(
    plan: FourierPlan, table: PolarTable, parameters: torch.Tensor, derivatives: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """S at all modes (B, n_modes) and its derivatives by all parameters from ln rc on
    (B, P - 3, n_modes); none of these if not wanted."""
    dtype, own = plan.dtype, table.n_own
    eta = parameters[:, 4 + own : 6 + own]
    shapes = torch.cat([parameters[:, 4 : 4 + own], parameters[:, 6 + own :]], dim=1)
    twice, twice_by_eta = _direction(eta)
    pair = table.pair
    shapes = table.turned(shapes, twice)

    # kappa = rc exp(eta / 2) k, from the metric of half of the size and of the ellipticity
    halved = torch.cat([parameters[:, 3:4].expand(-1, 4) / 2, eta / 2], dim=1)
    kx, ky = plan.frequencies
    root, slopes = metric_and_slopes(halved)
    x, y = _product(root.to(dtype), kx, ky)
    square = (x.square() + y.square()).clamp_min(1e-20)
    psi = torch.atan2(y, x)
    if table.aligned:
        psi = psi - table.axis(twice).to(dtype)[:, None]

    position = (square.log() / 2 - table.grid.y0) / table.grid.step
    position = position.clamp(0.0, table.grid.n_kappa - 1e-3)
    row = position.floor()
    t = position - row
    turn = psi / table.psi_step
    column = turn.floor()
    s = turn - column
    left = column.to(torch.int64).remainder(table.n_psi)
    right = (left + 1).remainder(table.n_psi)
    lower = row.to(torch.int64) * table.n_psi

    nodes = table.nodes(shapes, dtype, derivatives)
    b, n_rows, n_psi, _, tangents, parts = nodes.shape
    if b > 1 or len(parameters) == 1:  # else one table serves all objects
        lower = lower + torch.arange(b, device=plan.device)[:, None] * (n_rows * n_psi)
    # Rows of the four numbers at the four corners, in the order of `_weighted`.
    kind = torch.int32 if nodes.numel() < 2**31 else torch.int64
    first_row, first_column = (4 * lower).to(kind), (4 * left).to(kind)
    at_row = [first_row, first_row + 1, first_row + 4 * n_psi, first_row + 4 * n_psi + 1]
    second_column = (4 * right).to(kind)
    at_column = [first_column, first_column + 2, second_column, second_column + 2]
    index = torch.stack(at_row, dim=-1)[..., None] + torch.stack(at_column, dim=-1)[..., None, :]
    index = index.view(-1, 16)
    along, across = _hermite(t), _hermite(s)
    every = _weighted(nodes.view(-1, tangents * parts), index, along, across)
    every = _join(every.view(*psi.shape, tangents, parts)).movedim(2, 1)
    value = every[:, 0]
    if not derivatives:
        return value, value.new_zeros(())
    first = nodes[..., 0, :].reshape(-1, parts)
    by_log_kappa, by_psi = (
        _join(_weighted(first, index, *weights).view(*psi.shape, parts)) / step
        for weights, step in (
            ((_hermite_slope(t), across), table.grid.step),
            ((along, _hermite_slope(s)), table.psi_step),
        )
    )
    by_shapes = every[:, 1:]
    changes = [by_log_kappa[:, None], by_shapes[:, :own]]
    by_modifiers = by_shapes[:, own:]
    if pair is not None and table.aligned:
        k = pair - own
        cos_, sin_, one_, two_ = (
            z.to(dtype)[:, None]
            for z in (twice.cos(), twice.sin(), shapes[:, pair], shapes[:, pair + 1])
        )
        first, second = by_modifiers[:, k], by_modifiers[:, k + 1]
        by_pair = torch.stack([cos_ * first - sin_ * second, sin_ * first + cos_ * second], dim=1)
        by_modifiers = torch.cat([by_modifiers[:, :k], by_pair, by_modifiers[:, k + 2 :]], dim=1)
        by_twice = first * two_ - second * one_ - by_psi / 2
    else:
        by_twice = -by_psi / 2
    for i in range(2):
        dx, dy = _product(slopes[:, :, 1 + i].to(dtype) / 2, kx, ky)
        change = ((x * dx + y * dy) * by_log_kappa + (x * dy - y * dx) * by_psi) / square
        if table.aligned:
            change = change + twice_by_eta[:, i, None].to(dtype) * by_twice
        changes.append(change[:, None])
    return value, torch.cat([*changes, by_modifiers], dim=1)


def _direction(eta: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Twice the angle of the major axis (B,), in (-pi, pi], and its derivatives by eta (B, 2)."""
    square = eta.square().sum(1, keepdim=True).clamp_min(_ROUND**2)
    return torch.atan2(eta[:, 1], eta[:, 0]), torch.stack([-eta[:, 1], eta[:, 0]], 1) / square


def _product(
    symmetric: torch.Tensor, kx: torch.Tensor, ky: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Symmetric matrices (B, 3) of (xx, yy, 2 xy) times (kx, ky): two of (B, n_modes)."""
    xx, yy, xy = symmetric[:, 0, None], symmetric[:, 1, None], symmetric[:, 2, None] / 2
    return xx * kx + xy * ky, xy * kx + yy * ky


def _hermite(t: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Weights of the value and the slope at the lower end, and of both at the upper end."""
    t2, t3 = t.square(), t**3
    rise = 3 * t2 - 2 * t3
    return 1 - rise, t3 - 2 * t2 + t, rise, t3 - t2


def _hermite_slope(t: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Derivatives of `_hermite`."""
    t2 = t.square()
    rise = 6 * (t - t2)
    return -rise, 3 * t2 - 4 * t + 1, rise, 3 * t2 - 2 * t


def _weighted(
    nodes: torch.Tensor,
    index: torch.Tensor,
    along: tuple[torch.Tensor, ...],
    across: tuple[torch.Tensor, ...],
) -> torch.Tensor:
    """Sums of rows of `nodes` (n, c), `index` (m, 16), with the products of the four weights along
    kappa and the four across it: (m, c)."""
    each = torch.stack(along, dim=-1)[..., None] * torch.stack(across, dim=-1)[..., None, :]
    return torch.nn.functional.embedding_bag(
        index, nodes, mode="sum", per_sample_weights=each.view(-1, 16)
    )


def _join(parts: torch.Tensor) -> torch.Tensor:
    """Real (and imaginary) parts along the last axis to one number."""
    if parts.shape[-1] == 1:
        return parts[..., 0]
    return torch.view_as_complex(parts.contiguous())
