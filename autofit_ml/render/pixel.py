r"""Rendering of profiles that are not elliptical: integrate over pixels, then convolve.

The brightness is integrated over sub-pixels of 1/s of a pixel: by its value at the centre far from
the object's centre, and by Gauss-Legendre quadrature on ever finer **even** subgrids near it (an
odd subgrid would sample the cusp itself). Inside a tiny generalised radius the cusp is replaced by
its mean brightness, which keeps the flux exactly and changes nothing that a PSF leaves visible. The
transform of the sub-pixel image is divided by the sub-pixel's own transform, multiplied by the PSF,
and folded to the pixel grid like that of every other profile.

Everything is plain tensor arithmetic, so autograd gives the derivatives.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from autofit_ml.profiles import HankelTable, sersic_b
from autofit_ml.render.elliptical import render
from autofit_ml.render.fourier import FourierPlan, synthesise

__all__ = ["PixelAccuracy", "boxy_sersic", "render_boxy_sersic", "render_pixels"]

Brightness = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""(dx, dy) offsets from the centre in pixels, each (B, ...) -> light per square pixel (B, ...)."""


_CORE = 0.008
"""Radius along the minor axis inside which a cusp becomes its mean brightness, pixels."""


@dataclass(frozen=True)
class PixelAccuracy:
    """Accuracy settings of the pixel renderer.

    Attributes
    ----------
    sub_pixels : int
        Sub-pixels per pixel along each axis (at least the PSF's oversampling).
    rings : tuple of (radius, cells)
        Within `radius` pixels of the centre (half side of a square) each sub-pixel is cut into
        cells x cells, `cells` even, with 2 x 2 Gauss points in each. Outermost first.
    """

    sub_pixels: int = 4
    rings: tuple[tuple[float, int], ...] = ((6.0, 2), (2.0, 8), (0.3, 64))


def render_pixels(
    plan: FourierPlan,
    psf: torch.Tensor,
    centre: torch.Tensor,
    brightness: Brightness,
    accuracy: PixelAccuracy | None = None,
) -> torch.Tensor:
    """PSF-convolved images of any brightness function.

    Parameters
    ----------
    plan : FourierPlan
        Without refinements, and with an oversampling of at least 1; its padding bounds the light
        that is seen.
    psf : Tensor, complex, (B, n_modes)
        From `autofit_ml.render.psf_modes`.
    centre : Tensor, (B, 2)
        x and y of the centre, 0-based stamp pixels.
    brightness : callable
        See `Brightness`.
    accuracy : PixelAccuracy, optional

    Returns
    -------
    Tensor, (B, ny, nx)

    Raises
    ------
    ValueError
        The plan has refinements.
    """
    if len(plan.levels) != 1:
        raise ValueError("the pixel renderer needs a plan without refinements")
    accuracy = accuracy or PixelAccuracy()
    s = max(accuracy.sub_pixels, plan.oversampling)
    (ny, nx), (ly, lx) = plan.shape, plan.fft_shape
    device, dtype = centre.device, centre.dtype
    # The stamp sits in the middle of the padded field.
    x0, y0 = -((lx - nx) // 2), -((ly - ny) // 2)
    xs = x0 - 0.5 + (torch.arange(lx * s, device=device, dtype=dtype) + 0.5) / s
    ys = y0 - 0.5 + (torch.arange(ly * s, device=device, dtype=dtype) + 0.5) / s
    dx = xs[None, None, :] - centre[:, 0, None, None]
    dy = ys[None, :, None] - centre[:, 1, None, None]
    dx, dy = torch.broadcast_tensors(dx, dy)
    image = brightness(dx, dy) / s**2
    for radius, cells in accuracy.rings:
        image = _refine_square(image, brightness, dx, dy, radius, cells, s)

    spectrum = torch.fft.rfft2(image.to(torch.promote_types(dtype, plan.dtype)))
    level = plan.levels[0]
    ky, kx = level.ky.flatten(), level.kx.flatten()
    row = torch.round(ky * (ly / (2 * math.pi))).to(torch.int64)
    column = torch.round(kx * (lx / (2 * math.pi))).to(torch.int64)
    # Negative kx is the conjugate of the mirrored mode.
    mirrored = column < 0
    column = column.abs()
    mirrored_row = (-row) % (ly * s)
    direct = spectrum[:, (row % (ly * s))[:, None], column[None, :]]
    conjugate = spectrum[:, mirrored_row[:, None], column[None, :]].conj()
    modes = torch.where(mirrored[None, None, :], conjugate, direct)
    # From sub-pixel index 0 to the stamp's first pixel, and without the sub-pixel's own width.
    shift_y, shift_x = y0 - 0.5 + 0.5 / s, x0 - 0.5 + 0.5 / s
    turn = torch.polar(torch.ones_like(ky), -ky * shift_y)[:, None] * torch.polar(
        torch.ones_like(kx), -kx * shift_x
    )
    width = torch.sinc(ky / (2 * math.pi * s))[:, None] * torch.sinc(kx / (2 * math.pi * s))
    modes = (modes * (turn / width)).transpose(1, 2).flatten(1)  # ky runs fastest
    missing = plan.n_modes - modes.shape[1]
    modes = torch.cat([modes, modes.new_zeros((len(modes), missing))], dim=1)
    return synthesise(plan, modes.to(psf.dtype) * psf)


def render_boxy_sersic(
    plan: FourierPlan,
    table: HankelTable,
    psf: torch.Tensor,
    parameters: torch.Tensor,
    boxiness: torch.Tensor,
    accuracy: PixelAccuracy | None = None,
) -> torch.Tensor:
    """PSF-convolved images of Sérsic profiles with superelliptical isophotes.

    The elliptical profile of the same parameters carries the cusp and is drawn in Fourier space;
    only the difference to it, whose cusp is weak, goes through the pixels. With boxiness 0 the
    image is the Fourier renderer's.

    Parameters
    ----------
    plan, table, psf, parameters
        As in `autofit_ml.render.render`; the plan without refinements.
    boxiness : Tensor, float64, (B,)
        See `boxy_sersic`.
    accuracy : PixelAccuracy, optional

    Returns
    -------
    Tensor, (B, ny, nx)
    """
    boxy = boxy_sersic(parameters, boxiness)
    elliptical = boxy_sersic(parameters, torch.zeros_like(boxiness))
    difference = render_pixels(
        plan, psf, parameters[:, :2], lambda dx, dy: boxy(dx, dy) - elliptical(dx, dy), accuracy
    )
    return render(plan, table, psf, parameters) + difference


def _refine_square(
    image: torch.Tensor,
    brightness: Brightness,
    dx: torch.Tensor,
    dy: torch.Tensor,
    radius: float,
    cells: int,
    s: int,
) -> torch.Tensor:
    """`image` with finer integrals in the square of half side `radius` about each centre."""
    b, height, width = image.shape
    size = 2 * math.ceil(radius * s) + 2
    if size > min(height, width):
        return image
    first_x = (dx[:, 0].detach().abs().argmin(1) - size // 2).clamp(0, width - size)
    first_y = (dy[:, :, 0].detach().abs().argmin(1) - size // 2).clamp(0, height - size)
    steps = torch.arange(size, device=image.device)
    rows, columns = first_y[:, None] + steps, first_x[:, None] + steps
    which = torch.arange(b, device=image.device)[:, None]
    at_x, at_y = dx[:, 0][which, columns], dy[:, :, 0][which, rows]
    # Two Gauss points in each cell, cell edges at multiples of 1 / cells of a sub-pixel.
    half = 0.5 / math.sqrt(3.0)
    cell = (torch.arange(cells, device=image.device, dtype=image.dtype) + 0.5) / cells - 0.5
    points = torch.cat([cell - half / cells, cell + half / cells]) / s
    total = torch.zeros((b, size, size), dtype=image.dtype, device=image.device)
    for offset in points:
        fine_y = (at_y + offset)[:, :, None, None]
        fine_x = at_x[:, None, :, None] + points
        total = total + brightness(*torch.broadcast_tensors(fine_x, fine_y)).sum(-1)
    fine = total / (len(points) ** 2 * s**2)
    return image.index_put((which[:, :, None], rows[:, :, None], columns[:, None, :]), fine)


def boxy_sersic(parameters: torch.Tensor, boxiness: torch.Tensor) -> Brightness:
    r"""A Sérsic profile with superelliptical isophotes.

    .. math:: r = \left(|X|^{c} + |Y / q|^{c}\right)^{1/c}, \qquad c = C_0 + 2,

    X along the major axis (Athanassoula et al. 1990, MNRAS 245, 130; Peng et al. 2002, AJ 124, 266,
    whose normalisation keeps the total flux).

    Parameters
    ----------
    parameters : Tensor, float64, (B, 7)
        As in `autofit_ml.render.PARAMETERS` (x and y are not used here).
    boxiness : Tensor, float64, (B,)
        C_0: > 0 boxy, < 0 discy, 0 elliptical; > -2.

    Returns
    -------
    callable
        See `Brightness`.
    """
    flux, rc, n = parameters[:, 2].exp(), parameters[:, 3].exp(), parameters[:, 4].exp()
    eta = torch.hypot(parameters[:, 5], parameters[:, 6]).clamp_min(1e-12)
    angle = torch.atan2(parameters[:, 6], parameters[:, 5]) / 2
    major, minor = rc * (eta / 2).exp(), rc * (-eta / 2).exp()
    c = boxiness + 2.0
    b = _sersic_b(n)
    # Area of the unit superellipse over that of the circle.
    area = (
        4.0
        / (math.pi * c)
        * (torch.lgamma(1 / c) + torch.lgamma(1 + 1 / c)).exp()
        / (torch.lgamma(1 + 2 / c).exp())
    )
    log_norm = torch.log(2 * math.pi * n) + torch.lgamma(2 * n) - 2 * n * torch.log(b)
    peak = flux / (major * minor * area) * (-log_norm).exp()
    # Mean brightness within the softened core, from the light inside it.
    core = (_CORE / minor).clamp_max(0.5)
    x = b * core ** (1 / n)
    inside = torch.special.gammainc((2 * n).detach(), x.detach())
    inside_slope = (-x + (2 * n - 1) * x.log() - torch.lgamma(2 * n)).exp().detach()
    inside = inside + inside_slope * (x - x.detach())
    plateau = flux * inside / (math.pi * area * major * minor * core**2)

    def brightness(dx: torch.Tensor, dy: torch.Tensor) -> torch.Tensor:
        extra = (1,) * (dx.ndim - 1)

        def wide(value: torch.Tensor) -> torch.Tensor:
            return value.view(-1, *extra)

        cos, sin = wide(angle.cos()), wide(angle.sin())
        along = ((cos * dx + sin * dy) / wide(major)).abs().clamp_min(1e-9)
        across = ((-sin * dx + cos * dy) / wide(minor)).abs().clamp_min(1e-9)
        exponent = wide(c)
        log_r = torch.log(along**exponent + across**exponent) / exponent
        outside = wide(peak) * (-wide(b) * (log_r / wide(n)).exp()).exp()
        return torch.where(log_r < wide(core).log(), wide(plateau), outside)

    return brightness


def _sersic_b(n: torch.Tensor) -> torch.Tensor:
    """b_n, exact in value; its derivative by a central difference of the exact function."""
    values = n.detach().cpu().numpy()
    step = 1e-4
    slope = (sersic_b(values * (1 + step)) - sersic_b(values * (1 - step))) / (2 * step * values)
    exact = torch.as_tensor(np.asarray(sersic_b(values)), dtype=n.dtype, device=n.device)
    by_n = torch.as_tensor(np.asarray(slope), dtype=n.dtype, device=n.device)
    return exact + by_n * (n - n.detach())
