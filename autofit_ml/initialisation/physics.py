r"""The renderer's verdict on parameters, on the network's own cut-outs.

.. math:: \chi^2 = \frac{1}{N} \sum_i \rho\!\left(
    \frac{d_i - m_i(\theta) - s}{\sqrt{\sigma_i^2 + (\epsilon\, m_i)^2}}\right)

over the usable pixels around the target, with Huber's :math:`\rho` (scaled so that a good model of
Gaussian noise has about 1), a sky offset s that is fitted, and a relative error :math:`\epsilon` of
the model, without which bright cores decide alone. Differentiable: it is the physics term of the
network's loss, and tells a start that fits from one that does not.
"""

import math
from dataclasses import dataclass

import torch

from autofit_ml.initialisation.cutouts import PSF_SIDE, SIDE
from autofit_ml.initialisation.network import USUAL_LN_N
from autofit_ml.profiles import N_MAX, N_MIN, sersic_table
from autofit_ml.rendering import Accuracy, make_plan, psf_modes, render

__all__ = ["PhysicsSettings", "cut_out_parameters", "model_images", "robust_chi2"]

_ACCURACY = Accuracy(1.2, 8.0, refinements=())


@dataclass(frozen=True)
class PhysicsSettings:
    """Settings of the loss that compares a model with the image.

    Attributes
    ----------
    model_error : float
        Relative error of the model; real galaxies are no Sérsic profiles.
    huber : float
        Residuals beyond this many sigma count linearly.
    reach : float
        Radius of the region that is looked at, in radii of the footprint.
    smallest : float
        Of that radius, binned pixels.
    """

    model_error: float = 0.03
    huber: float = 3.0
    reach: float = 2.5
    smallest: float = 6.0


def cut_out_parameters(
    relative: torch.Tensor, centre: torch.Tensor, flux: torch.Tensor, radius: torch.Tensor
) -> torch.Tensor:
    """The network's relative parameters in binned pixels of the cut-out, float64, (B, 7).

    Parameters
    ----------
    relative : Tensor, shape (B, 7)
    centre : Tensor, shape (B, 2)
    flux, radius : Tensor, shape (B,)
        As in `Cutouts`.

    Notes
    -----
    Limited to what the renderer can draw on a cut-out; the limits have no gradient.
    """
    theta = relative.to(torch.float64)
    x, y, ln_flux, ln_rc, ln_n, eta1, eta2 = theta.unbind(-1)
    length = torch.hypot(eta1, eta2).clamp_min(1e-12).detach()
    squeeze = (3.0 / length).clamp_max(1.0)
    return torch.stack(
        [
            (x + centre[:, 0]).clamp(-SIDE / 4, 1.25 * SIDE),
            (y + centre[:, 1]).clamp(-SIDE / 4, 1.25 * SIDE),
            ln_flux.clamp(-8.0, 8.0) + flux.to(torch.float64).log(),
            (ln_rc + (0.5 * radius.to(torch.float64)).log()).clamp(math.log(0.05), math.log(SIDE)),
            (ln_n + USUAL_LN_N).clamp(math.log(N_MIN), math.log(N_MAX)),
            eta1 * squeeze,
            eta2 * squeeze,
        ],
        dim=-1,
    )


def model_images(parameters: torch.Tensor, psf: torch.Tensor) -> torch.Tensor:
    """PSF-convolved images (B, SIDE, SIDE) of parameters from `cut_out_parameters`.

    Parameters
    ----------
    parameters : Tensor, shape (B, 7)
    psf : Tensor, shape (B, PSF_SIDE, PSF_SIDE)
    """
    plan = make_plan((SIDE, SIDE), (PSF_SIDE, PSF_SIDE), 1, _ACCURACY, parameters.device)
    contains = torch.ones(len(psf), dtype=torch.bool, device=psf.device)
    return render(plan, sersic_table(), psf_modes(plan, psf.float(), contains), parameters)


def robust_chi2(
    model: torch.Tensor,
    data: torch.Tensor,
    root_weight: torch.Tensor,
    centre: torch.Tensor,
    radius: torch.Tensor,
    settings: PhysicsSettings | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean of the scaled Huber loss around the target, and the number of pixels in it.

    Parameters
    ----------
    model, data, root_weight : Tensor, shape (B, SIDE, SIDE)
    centre : Tensor, shape (B, 2)
    radius : Tensor, shape (B,)
    settings : PhysicsSettings, optional

    Returns
    -------
    chi2 : Tensor, shape (B,)
        About 1 for a model that is as good as the noise allows.
    number : Tensor, shape (B,)
    """
    settings = settings or PhysicsSettings()
    data, root_weight = data.float(), root_weight.float()
    usable = root_weight > 0
    relative = settings.model_error * model.detach() * root_weight
    root = root_weight / (1 + relative.square()).sqrt()
    weight = root.square()
    residual = data - model
    offset = (weight * residual).sum((1, 2)) / weight.sum((1, 2)).clamp_min(1e-12)
    scaled = (residual - offset[:, None, None]) * root
    size = scaled.abs()
    limit = settings.huber
    loss = torch.where(size <= limit, size.square(), 2 * limit * size - limit**2)
    pixels = torch.arange(SIDE, device=data.device, dtype=data.dtype)
    reach = (settings.reach * radius.float()).clamp_min(settings.smallest)
    distance2 = (pixels[None, :, None] - centre[:, 1, None, None].float()).square() + (
        pixels[None, None, :] - centre[:, 0, None, None].float()
    ).square()
    region = usable & (distance2 <= reach[:, None, None].square())
    number = region.sum((1, 2)).to(data.dtype)
    return (loss * region).sum((1, 2)) / number.clamp_min(1.0), number
