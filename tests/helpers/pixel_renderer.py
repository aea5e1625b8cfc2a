r"""Rendering of any brightness function: integrate over pixels, then convolve.

Slow and plain: it checks `autofit_ml.rendering`, which is faster and exact at cusps. The brightness
is integrated over sub-pixels of 1/s of a pixel: by its value at the centre far from the object's
centre, and by Gauss-Legendre quadrature on ever finer **even** subgrids near it (an odd subgrid
would sample a cusp itself). The transform of the sub-pixel image is divided by the sub-pixel's own
transform, multiplied by the PSF, and folded to the pixel grid like that of every other profile.

Everything is plain tensor arithmetic, so autograd gives the derivatives.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from autofit_ml.profiles import Profile
from autofit_ml.profiles.polar import PolarTable, polar_table
from autofit_ml.profiles.tables import live_table
from autofit_ml.rendering.elliptical import metric
from autofit_ml.rendering.fourier import FourierPlan
from autofit_ml.rendering.synthesis import synthesise

__all__ = ["PixelAccuracy", "profile_brightness", "render_pixels"]

Brightness = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""(dx, dy) offsets from the centre in pixels, each (B, ...) -> light per square pixel (B, ...)."""


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
        From `autofit_ml.rendering.psf_modes`.
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


def profile_brightness(profile: Profile, parameters: torch.Tensor) -> Brightness:
    """The brightness of a component, for `render_pixels`.

    Parameters
    ----------
    profile : Profile
        Of kind "elliptical" or "pixel".
    parameters : Tensor, float64, (B, P)
        Order of ``profile.fit_parameters`` (x and y are not used here).

    Returns
    -------
    callable
        See `Brightness`; not differentiable with respect to the parameters.
    """
    assert profile.light is not None
    light = profile.light
    own = len(profile.own_shapes)
    eta = parameters[:, 4 + own : 6 + own]
    shapes = torch.cat([parameters[:, 4 : 4 + own], parameters[:, 6 + own :]], dim=1)
    twice = torch.atan2(eta[:, 1], eta[:, 0])
    angle = PolarTable.axis(twice)
    if profile.kind == "pixel":
        table = polar_table(profile)
        shapes, aligned = table.turned(shapes, twice), table.aligned
        half, log_unit = table.half_light(shapes)
    else:
        aligned, half = False, live_table(profile).half_light(shapes)
        log_unit = torch.zeros_like(half.log_radius)
    values = [
        value.exp() if shape.log else value
        for value, shape in zip(shapes.unbind(1), profile.shapes, strict=True)
    ]
    size = parameters[:, 3].exp()
    peak = parameters[:, 2].exp() / (2 * math.pi * half.integral * size.square())
    peak = peak * (2 * half.log_radius).exp()
    inverse = metric(torch.cat([-parameters[:, 3:4].expand(-1, 4) / 2, -eta / 2], dim=1))

    def brightness(dx: torch.Tensor, dy: torch.Tensor) -> torch.Tensor:
        def wide(value: torch.Tensor) -> torch.Tensor:
            return value.view(-1, *(1,) * (dx.ndim - 1))

        xx, yy, xy = (wide(x) for x in (inverse[:, 0], inverse[:, 1], inverse[:, 2] / 2))
        x, y = xx * dx + xy * dy, xy * dx + yy * dy
        phi = torch.atan2(y, x) - (wide(angle) if aligned else 0.0)
        log_u = torch.hypot(x, y).clamp_min(1e-30).log()
        shape = [wide(value) for value in values]
        if profile.kind == "pixel" and not profile.modifiers:
            r = (log_u + wide(half.log_radius)).exp()
            return wide(peak) * light(r * phi.cos(), r * phi.sin(), *shape)
        log_r, column = log_u + wide(half.log_radius + log_unit), own
        for modifier in profile.modifiers:
            mine = shape[column : column + len(modifier.shapes)]
            column += len(modifier.shapes)
            at = (log_u + wide(half.log_radius),) if modifier.radial else ()
            log_r = log_r + modifier.stretch(*at, phi, *mine)
        if not profile.truncated:
            return wide(peak) * light(log_r.exp(), *shape[:own])
        inside = light(log_r.clamp(max=0.0).exp(), *shape[:own])
        return torch.where(log_r < 0, wide(peak) * inside, torch.zeros_like(inside))

    return brightness
