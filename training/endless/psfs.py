"""PSF images of endless stamps: Moffat PSFs, and what is asked of given ones."""

import math

import numpy as np
import torch

from autofit_ml.errors import InputError, SettingsError

__all__ = ["band_edge", "checked_psfs", "core_width", "moffat_images"]


def moffat_images(
    fwhm: torch.Tensor,
    beta: torch.Tensor,
    shear: torch.Tensor,
    side: int,
    *,
    oversampling: int = 1,
    has_pixel: bool = True,
    smallest_fwhm: float | None = None,
) -> torch.Tensor:
    """Elliptical Moffat PSFs.

    ``I ~ (1 + (r / alpha)^2)^-beta``, ``alpha = fwhm / (2 sqrt(2^(1/beta) - 1))`` (Moffat 1969,
    A&A 3, 455), with r measured after an area-preserving shear.

    Parameters
    ----------
    fwhm : Tensor, shape (B,)
        Before the pixel and the shear, **image** pixels.
    beta : Tensor, shape (B,)
        Above 1.
    shear : Tensor, shape (B, 2)
        Reduced shear (g1, g2), of length below 1.
    side : int
        PSF pixels, odd.
    oversampling : int
        PSF pixels per image pixel.
    has_pixel : bool
        Average over the image pixel by Gauss-Legendre quadrature, else sample at the centres.
    smallest_fwhm : float, optional
        Sets the number of nodes (errors under 5e-5 of the peak); without it `fwhm` is looked at,
        which waits for the device.

    Returns
    -------
    Tensor, float32, shape (B, side, side)
        Each sums to 1.
    """
    if side % 2 == 0:
        raise SettingsError(f"PSF of {side} pixels a side", "give an odd side")
    if smallest_fwhm is None:
        smallest_fwhm = float(fwhm.min())
    order = 2 + math.ceil(4 / smallest_fwhm) if has_pixel else 1
    nodes, weights = np.polynomial.legendre.leggauss(order)
    offset = (np.arange(side) - side // 2)[:, None] / oversampling + 0.5 * nodes
    across = torch.as_tensor(offset.ravel(), dtype=torch.float32, device=fwhm.device)
    half = across[: (side // 2 + 1) * order]  # the rest by point symmetry
    weight = torch.as_tensor(weights / 2, dtype=torch.float32, device=fwhm.device)
    g1, g2 = shear.to(torch.float64).unbind(1)
    alpha = fwhm / (2 * (2 ** (1 / beta.to(torch.float64)) - 1).sqrt())
    scale = 1 / ((1 - g1 * g1 - g2 * g2) * alpha**2)
    size2 = 1 + g1 * g1 + g2 * g2
    xx, yy, xy = (
        (value * scale).to(torch.float32)[:, None, None]
        for value in (size2 - 2 * g1, size2 + 2 * g1, -4 * g2)
    )
    y, x = half[:, None], across[None, :]
    r2 = torch.addcmul(xx * (x * x) + yy * (y * y), xy, x * y)
    light = r2.add_(1.0).log_().mul_(-beta.to(torch.float32)[:, None, None]).exp_()
    light = light.view(len(light), -1, order, side, order) @ weight
    upper = torch.einsum("bioj,o->bij", light, weight)
    image = torch.cat([upper, upper[:, :-1].flip(1, 2)], dim=1)
    return image / image.sum((1, 2), keepdim=True)


def checked_psfs(psfs: torch.Tensor) -> torch.Tensor:
    if psfs.ndim != 3 or not len(psfs):
        raise InputError(f"PSFs of shape {tuple(psfs.shape)}", "give (P, h, w)")
    total = psfs.double().sum((1, 2))
    if not bool(torch.isfinite(total).all()) or float((total - 1).abs().max()) > 1e-3:
        raise InputError("PSF images that do not sum to 1", "normalise them")
    return psfs


def core_width(psfs: torch.Tensor, oversampling: int) -> torch.Tensor:
    """FWHM of PSF images from the area above half of the maximum, image pixels, float64, (P,)."""
    above = (psfs > 0.5 * psfs.amax((1, 2), keepdim=True)).sum((1, 2)).to(torch.float64)
    return 2 * (above / math.pi).sqrt() / oversampling


def band_edge(psf: torch.Tensor) -> torch.Tensor:
    """Largest |transform| of PSF images (B, h, w) at the two axes' Nyquist frequencies, (B,)."""
    edges = []
    for axis in (1, 2):
        along = psf.sum(3 - axis)
        sign = 1 - 2 * (torch.arange(along.shape[1], device=psf.device) % 2)
        edges.append((along * sign).sum(1).abs())
    return torch.maximum(*edges)
