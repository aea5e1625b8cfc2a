"""Images of elliptical profiles and their derivatives, in batches.

See `autofit_ml.rendering.fourier` for the equations and the layout of Fourier space.
"""

from __future__ import annotations

import math

import torch

from autofit_ml.profiles import Table
from autofit_ml.profiles.products import ROWS
from autofit_ml.rendering.fourier import FourierPlan
from autofit_ml.rendering.synthesis import phase, synthesise, synthesise_derivatives

__all__ = ["PARAMETERS", "Shared", "elliptical_channels", "render"]

_GROUP = 1 << 20
"""Complex numbers of the spectra that are made at a time: what fits the processor's cache, and
less than what the allocator would fetch from the system anew every time (32 MB)."""

PARAMETERS = ("x", "y", "ln_flux", "ln_rc", "ln_n", "eta1", "eta2")
"""Fit-space parameters of one component, in order. rc = re sqrt(q) in pixels; eta as in
`autofit_ml.scenes`. x, y in 0-based stamp pixels."""


Shared = dict[tuple[int, int, int, bool], tuple[torch.Tensor, tuple[torch.Tensor, ...]]]
"""What images of the same objects on the same pixels have in common: kept by the first of them that
is drawn, taken up by those with the same geometry (in bands, only flux and PSF differ)."""


def render(
    plan: FourierPlan,
    table: Table,
    psf: torch.Tensor,
    parameters: torch.Tensor,
    shared: Shared | None = None,
) -> torch.Tensor:
    """PSF-convolved images of one component per object.

    Differentiable by autograd with respect to `parameters` and `psf`.

    Parameters
    ----------
    plan : FourierPlan
    table : Table
        Of the profile, with S shape parameters.
    psf : Tensor, complex, shape (B, n_modes)
        From `autofit_ml.rendering.psf_modes`.
    parameters : Tensor, float64, shape (B, 6 + S)
        Columns as in `PARAMETERS`, with the profile's shapes in the place of ln n.
    shared : dict, optional
        See `Shared`.

    Returns
    -------
    Tensor, shape (B, ny, nx)
        Light per pixel, in the unit of the flux.
    """
    where, transform = _spectra(plan, table, parameters, metric(parameters), False, shared)
    flux = parameters[:, 2, None].to(plan.dtype).exp()
    return synthesise(plan, psf * where * (transform * flux))


@torch.no_grad()
def elliptical_channels(
    plan: FourierPlan,
    table: Table,
    psf: torch.Tensor,
    parameters: torch.Tensor,
    shared: Shared | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    r"""Images that span the derivatives of `render`, and what combines them.

    Only :math:`\kappa^2 = \mathbf{k}^T M \mathbf{k}` knows of size and shape, so that with the
    image g of :math:`\partial S / \partial \kappa^2` and its second derivatives

    .. math:: \frac{\partial f}{\partial \theta} =
              - \frac{\partial M_{xx}}{\partial \theta} \frac{\partial^2 g}{\partial x^2}
              - \frac{\partial M_{yy}}{\partial \theta} \frac{\partial^2 g}{\partial y^2}
              - 2 \frac{\partial M_{xy}}{\partial \theta} \frac{\partial^2 g}{\partial x
              \partial y} .

    Parameters
    ----------
    plan, table, psf, parameters, shared : as in `render`.

    Returns
    -------
    channels : Tensor, (B, 6 + S, ny, nx)
        Channel 2 is the image.
    mixing : Tensor, float64, (B, 6 + S, 6 + S)
        Derivative by parameter p = sum over channels c of channel c times ``mixing[:, c, p]``.
    """
    s = parameters.shape[1] - 6
    size = 6 + s
    images = psf.real.new_empty((len(parameters), size, *plan.shape))
    rows = max(1, _GROUP // (size * plan.n_modes))
    rows = rows // ROWS * ROWS or rows
    shapes = [(2 + k, 0, 0) for k in range(s)]
    orders = [(0, 1, 0), (0, 0, 1), (0, 0, 0), (1, 2, 0), *shapes, (1, 0, 2), (1, 1, 1)]
    shape, slopes = metric_and_slopes(parameters)
    for start in range(0, len(parameters), rows):
        some = slice(start, start + rows)
        where, *factors = _spectra(plan, table, parameters[some], shape[some], True, shared, start)
        base = psf[some] * (where * parameters[some, 2, None].to(plan.dtype).exp())
        synthesise_derivatives(plan, base, factors, orders, images[some])
    mixing = torch.eye(size, dtype=parameters.dtype, device=parameters.device)
    mixing = mixing.expand(len(parameters), size, size).clone()
    which = [3, 4 + s, 5 + s]  # g_xx, g_yy, g_xy; and the parameters ln rc, eta1, eta2
    mixing[:, [[i] for i in which], which] = -slopes
    return images, mixing


def _spectra(
    plan: FourierPlan,
    table: Table,
    parameters: torch.Tensor,
    shape: torch.Tensor,
    derivatives: bool,
    shared: Shared | None = None,
    first: int = 0,
) -> tuple[torch.Tensor, ...]:
    """exp(-i k . x_c) and `_profile_transform` at all modes, (B, n_modes) each.

    `shape`: `metric`. `first`: number of the first object among those that share.
    """
    key = (id(plan), id(table), first, derivatives)
    geometry = torch.cat([parameters[:, :2], parameters[:, 3:]], 1)
    if shared is not None and key in shared and torch.equal(shared[key][0], geometry):
        return shared[key][1]
    x, y = parameters[:, :2].to(plan.dtype).unbind(1)
    out = phase(plan, x, y), *_profile_transform(plan, table, parameters, shape, derivatives)
    if shared is not None:
        shared[key] = geometry, out
    return out


def _profile_transform(
    plan: FourierPlan,
    table: Table,
    parameters: torch.Tensor,
    shape: torch.Tensor,
    derivatives: bool,
) -> tuple[torch.Tensor, ...]:
    """S at all modes (B, n_modes); with derivatives also those by kappa^2 and by the shapes."""
    dtype = plan.dtype
    rows = table.rows(parameters[:, 4:-2], dtype, derivatives)
    xx, yy, xy = shape.to(dtype)[..., None].unbind(1)
    kappa2 = torch.addcmul(xx * plan.quadratic[0], yy, plan.quadratic[1])
    kappa2 = torch.addcmul(kappa2, xy, plan.quadratic[2])
    kappa2 = kappa2.clamp_min(math.exp(2 * table.log_kappa_min))
    position = (kappa2.log() * (0.5 / table.log_kappa_step)) - (
        table.log_kappa_min / table.log_kappa_step
    )
    position = position.clamp(0.0, table.n_kappa - 1e-3)
    index = position.detach().floor()
    t = position - index
    flat = index.to(torch.int32)
    if len(rows) > 1 or len(parameters) == 1:  # else one row serves all objects
        first = torch.arange(len(parameters), device=plan.device, dtype=torch.int32)
        flat = flat + first[:, None] * table.n_kappa
    width = rows.shape[-1] if derivatives else 4
    columns = rows[..., :width].reshape(-1, width).t().contiguous()
    c = columns.index_select(1, flat.flatten()).view(width, *t.shape)
    if not derivatives:
        return (_cubic(c, t),)
    slope = torch.addcmul(c[1], t, torch.addcmul(c[2], t, c[3], value=1.5), value=2.0)
    by_shapes = [_cubic(c[i : i + 4], t) for i in range(4, width, 4)]
    return _cubic(c[:4], t), slope * (0.5 / table.log_kappa_step) / kappa2, *by_shapes


def _cubic(c: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """c0 + c1 t + c2 t^2 + c3 t^3."""
    return torch.addcmul(c[0], t, torch.addcmul(c[1], t, torch.addcmul(c[2], t, c[3])))


def metric(parameters: torch.Tensor) -> torch.Tensor:
    """(M_xx, M_yy, 2 M_xy) of M = rc^2 exp(eta1 sigma_z + eta2 sigma_x), float64, (B, 3)."""
    rc2 = (2 * parameters[:, 3]).exp()
    eta1, eta2 = parameters[:, -2], parameters[:, -1]
    cosh, sinhc = _cosh_sinhc(eta1.square() + eta2.square())
    along, across = eta1 * sinhc, 2 * eta2 * sinhc
    return torch.stack([cosh + along, cosh - along, across], dim=1) * rc2[:, None]


def metric_and_slopes(parameters: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """`metric` and its derivatives by ln rc, eta1 and eta2, (B, 3, 3)."""
    rc2 = (2 * parameters[:, 3]).exp()
    eta1, eta2 = parameters[:, -2], parameters[:, -1]
    square = eta1.square() + eta2.square()
    cosh, sinhc = _cosh_sinhc(square)
    # d cosh|eta| / d eta_i = eta_i sinhc;  d sinhc / d eta_i = eta_i (cosh - sinhc) / |eta|^2
    ratio = torch.where(square > 1e-8, (cosh - sinhc) / square.clamp_min(1e-8), 1 / 3 + square / 30)
    along, across = eta1 * sinhc, eta2 * sinhc
    first, second = sinhc + eta1.square() * ratio, sinhc + eta2.square() * ratio
    both = eta1 * eta2 * ratio
    metrics = [cosh + along, cosh - along, 2 * across]
    by_eta = [along + first, across + both, along - first, across - both, 2 * both, 2 * second]
    every = torch.stack([*metrics, *by_eta], 1) * rc2[:, None]
    shape = every[:, :3]
    return shape, torch.cat([2 * shape[..., None], every[:, 3:].unflatten(1, (3, 2))], 2)


def _cosh_sinhc(square: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """cosh|eta| and sinh|eta| / |eta| of |eta|^2, smooth (and differentiable) at eta = 0."""
    small = square < 1e-8
    size = torch.where(small, 1.0, square).sqrt()
    # By exponentials: cosh and sinh differ in the last bit with the place in a batch.
    grow, shrink = size.exp(), (-size).exp()
    cosh = torch.where(small, 1 + square / 2, (grow + shrink) / 2)
    sinhc = torch.where(small, 1 + square / 6, (grow - shrink) / (2 * size))
    return cosh, sinhc
