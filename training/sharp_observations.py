r"""Spectra of noise for the denoiser's training: what `autofit_ml.deconvolution.eps` meets.

A galaxy observed through a transfer H (from the target PSF to the data's) with white noise of
variance 1 is denoised at level sigma under :math:`q = 1 / (1 / \sigma^2 + |H|^2)`. Three kinds of
batches' members:

- ``observed``: H is the ratio of a random PSF to the target's. PSFs have transforms
  :math:`\exp(-(k r)^p)`, p from 1.1 (wings of a Moffat profile) over 5/3 (Kolmogorov) to 2
  (Gaussian), elliptical; a share of them is seen through pixels twice as wide, with nothing beyond
  their band; a share of them has correlated noise;
- ``prior``: nothing but the flux is known, H = 0 but for k = 0;
- ``white``: H = 0, flux as bright as in data, sigma about the noise of data: what `gibbs` meets.
"""

from __future__ import annotations

import math

import torch
from omegaconf import DictConfig

from autofit_ml.deconvolution.operator import LEAST_POWER
from autofit_ml.deconvolution.spectra import Grid, fft2, grid_of
from autofit_ml.deconvolution.target import TARGET_FWHM, TRANSFER_LIMIT, target_transfer

__all__ = ["draw_observations", "turned"]


def turned(images: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
    """Mirrored, and turned by quarters, each another way."""
    for axis in (-1, -2):
        where = torch.rand(len(images), generator=generator) < 0.5
        images = torch.where(where[:, None, None], images.flip(axis), images)
    where = torch.rand(len(images), generator=generator) < 0.5
    return torch.where(where[:, None, None], images.transpose(-1, -2), images)


def draw_observations(
    images: torch.Tensor, settings: DictConfig, generator: torch.Generator | None = None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Fluxes (B,), spectra (B, G, G // 2 + 1) and sigma (B,) for images of unit flux.

    Parameters
    ----------
    images : Tensor, shape (B, G, G)
    settings : DictConfig
        ``observations`` of ``conf/model/deconvolve.yaml``.
    generator : torch.Generator, optional
    """
    b, side = len(images), images.shape[-1]
    grid = grid_of(side)

    def uniform(low: float, high: float) -> torch.Tensor:
        return low + (high - low) * torch.rand(b, generator=generator)

    def log_uniform(low: float, high: float) -> torch.Tensor:
        return uniform(math.log(low), math.log(high)).exp()

    coarse = torch.rand(b, generator=generator) < settings.coarse
    low, high = settings.fwhm
    fwhm = log_uniform(low * TARGET_FWHM, high * TARGET_FWHM)
    fwhm = torch.where(coarse, fwhm.clamp_min(2 * TARGET_FWHM), fwhm)
    power = uniform(1.1, 2.0)
    correlated = torch.rand(b, generator=generator) < settings.correlated
    length = uniform(0.3, 1.2) * torch.where(coarse, 2.0, 1.0)
    shear = settings.ellipticity * torch.randn(b, 2, generator=generator)
    transfer = _transfer(grid, fwhm, power, shear.clamp(-0.3, 0.3), coarse)

    # Correlated noise is a gain that rises with k.
    k2 = grid.kx.square() + grid.ky.square()
    colour = (-k2 * length.square()[:, None]).exp().clamp_min(LEAST_POWER)
    colour = colour / (colour @ grid.count / grid.count.sum())[:, None]
    transfer = torch.where(correlated[:, None], transfer / colour.sqrt(), transfer)

    signal = fft2(images).flatten(1).abs().square()
    unit = ((transfer.square() * signal) @ grid.count).sqrt()
    snr = log_uniform(*settings.snr)
    flux = snr / unit
    kind = torch.rand(b, generator=generator)
    prior = kind < settings.prior
    white = (kind >= settings.prior) & (kind < settings.prior + settings.white)
    # Nothing but the flux: its relative error decides the noise of the only known mode.
    error = log_uniform(*settings.flux_error)
    known = torch.zeros_like(transfer)
    known[:, 0] = side / (flux * error)
    transfer = torch.where(prior[:, None], known, transfer)
    transfer = torch.where(white[:, None], torch.zeros_like(transfer), transfer)

    least = torch.maximum(torch.full((b,), 0.01), 1e-6 * flux)
    most = torch.maximum(torch.full((b,), 10.0), flux / 16)
    ln_sigma = least.log() + (most / least).log() * uniform(0.0, 1.0)
    ln_sigma = torch.where(white, log_uniform(0.01, 2.0).log(), ln_sigma)
    sigma = ln_sigma.exp()
    spectra = 1 / (sigma.square().reciprocal()[:, None] + transfer.square())
    return flux, spectra.unflatten(1, grid.shape), sigma


def _transfer(
    grid: Grid,
    fwhm: torch.Tensor,
    power: torch.Tensor,
    shear: torch.Tensor,
    coarse: torch.Tensor,
) -> torch.Tensor:
    """Moduli of transfers, (B, K)."""
    # FWHM over r of exp(-(k r)^p): 1.533 at p = 1, 2.92 at 5/3, 3.33 at 2; the parabola.
    radius = fwhm / (1.533 + 2.465 * (power - 1) - 0.668 * (power - 1).square())
    g1, g2 = shear[:, :1], shear[:, 1:]
    kx, ky = grid.kx, grid.ky
    k2 = (1 + g1) * kx.square() + (1 - g1) * ky.square() + 2 * g2 * kx * ky
    seen = (-((k2.sqrt() * radius[:, None]) ** power[:, None])).exp()
    inside = (kx.abs() <= math.pi / 2) & (ky.abs() <= math.pi / 2)
    seen = torch.where(coarse[:, None] & ~inside, torch.zeros_like(seen), seen)
    return (seen / target_transfer(ky, kx).float()).clamp_max(TRANSFER_LIMIT)
