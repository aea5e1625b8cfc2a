"""One component of a scene, whatever its profile: image, and derivatives by its parameters.

In: a `Profile`, the modes of the PSF, and fit-space parameters in the order of
``profile.fit_parameters``. Out: images. Chooses between the paths of this package: elliptical
profiles (`elliptical`), other isophotes (`polar`), the point source and the sky (here).
"""

from __future__ import annotations

import torch

from autofit_ml.profiles import Profile
from autofit_ml.profiles.polar import polar_table
from autofit_ml.profiles.tables import profile_table
from autofit_ml.rendering.elliptical import Shared, elliptical_channels, render
from autofit_ml.rendering.fourier import FourierPlan
from autofit_ml.rendering.polar import render_polar, render_polar_with_jacobian
from autofit_ml.rendering.synthesis import phase, synthesise, synthesise_derivatives

__all__ = ["component_channels", "component_jacobian", "render_component"]


def render_component(
    plan: FourierPlan,
    profile: Profile,
    psf: torch.Tensor,
    parameters: torch.Tensor,
    shared: Shared | None = None,
) -> torch.Tensor:
    """PSF-convolved images of one component per object.

    Differentiable by autograd with respect to `parameters` and `psf`.

    Parameters
    ----------
    plan : FourierPlan
    profile : Profile
    psf : Tensor, complex, shape (B, n_modes)
        From `autofit_ml.rendering.psf_modes`, or a derivative of that. A background ignores it.
    parameters : Tensor, float64, shape (B, P)
        Order of ``profile.fit_parameters``.
    shared : dict, optional
        What the images of the same objects in several bands have in common (`Shared`).

    Returns
    -------
    Tensor, shape (B, ny, nx)
        Light per pixel.
    """
    if profile.kind == "background":
        shape = _background_shape(plan, parameters.shape[1])
        return (parameters.to(plan.dtype)[:, :, None, None] * shape).sum(1)
    if profile.kind == "point":
        theta = parameters.to(plan.dtype)
        light = phase(plan, theta[:, 0], theta[:, 1]) * theta[:, 2].exp()[:, None]
        return synthesise(plan, psf * light)
    if profile.kind == "pixel":
        return render_polar(plan, polar_table(profile), psf, parameters)
    return render(plan, profile_table(profile), psf, parameters, shared)


@torch.no_grad()
def component_channels(
    plan: FourierPlan,
    profile: Profile,
    psf: torch.Tensor,
    parameters: torch.Tensor,
    shared: Shared | None = None,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Images that span the derivatives of `render_component`, and what combines them.

    Parameters
    ----------
    plan, profile, psf, parameters, shared : as in `render_component`.

    Returns
    -------
    channels : Tensor, (B, P, ny, nx)
        The channel in the place of ln flux is the image itself.
    mixing : Tensor, float64, (B, P, P), or None
        Derivative by parameter p = sum over channels c of channel c times ``mixing[:, c, p]``.
        None: the channels are the derivatives.
    """
    if profile.kind == "background":
        shape = _background_shape(plan, parameters.shape[1])
        return shape.expand(len(parameters), -1, -1, -1), None
    if profile.kind == "point":
        theta = parameters.to(plan.dtype)
        light = phase(plan, theta[:, 0], theta[:, 1]) * theta[:, 2].exp()[:, None]
        images = psf.real.new_empty((len(psf), 3, *plan.shape))
        orders = [(0, 1, 0), (0, 0, 1), (0, 0, 0)]
        synthesise_derivatives(plan, psf, [light], orders, images)
        return images, None
    if profile.kind == "pixel":
        return render_polar_with_jacobian(plan, polar_table(profile), psf, parameters), None
    return elliptical_channels(plan, profile_table(profile), psf, parameters, shared)


def component_jacobian(
    plan: FourierPlan, profile: Profile, psf: torch.Tensor, parameters: torch.Tensor
) -> torch.Tensor:
    """Derivatives of `render_component` with respect to its parameters, (B, P, ny, nx).

    The derivative with respect to ln flux is the image itself. Fits use `component_channels`.

    Parameters
    ----------
    plan, profile, psf, parameters : as in `render_component`.
    """
    channels, mixing = component_channels(plan, profile, psf, parameters)
    if mixing is None:
        return channels
    return torch.einsum("bcyx,bcp->bpyx", channels, mixing.to(channels.dtype))


def _background_shape(plan: FourierPlan, terms: int) -> torch.Tensor:
    """1, x - x_c, y - y_c on the stamp: the first `terms` of them, (terms, ny, nx)."""
    ny, nx = plan.shape
    y = torch.arange(ny, device=plan.device, dtype=plan.dtype) - (ny - 1) / 2
    x = torch.arange(nx, device=plan.device, dtype=plan.dtype) - (nx - 1) / 2
    one = torch.ones((ny, nx), device=plan.device, dtype=plan.dtype)
    return torch.stack([one, x.expand(ny, nx), y[:, None].expand(ny, nx)])[:terms]
