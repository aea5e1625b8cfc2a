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
from collections.abc import Callable
from dataclasses import dataclass

import torch

from autofit_ml.deconvolution.operator import LEAST_POWER
from autofit_ml.deconvolution.spectra import Grid, fft2, grid_of
from autofit_ml.deconvolution.target import TARGET_FWHM, TRANSFER_LIMIT, target_transfer

__all__ = ["Observations", "draw_observations", "turned"]

Range = tuple[float, float]


@dataclass(frozen=True)
class Observations:
    """Ranges of the PSFs and noise through which galaxies are seen.

    Attributes
    ----------
    fwhm : (low, high)
        Of the PSF, units of the target's.
    ellipticity : float
        Scatter of each component.
    coarse, correlated : float
        Shares with pixels twice as wide as the output's, and with correlated noise.
    snr : (low, high)
        Of the observed galaxy, log-uniform.
    prior, white : float
        Shares of which only the flux is known, and with white noise alone.
    flux_error : (low, high)
        Relative, where only the flux is known.
    """

    fwhm: Range
    ellipticity: float
    coarse: float
    correlated: float
    snr: Range
    prior: float
    flux_error: Range
    white: float


class _Dice:
    """Random numbers of a batch, on its device; the same on each device with a generator."""

    def __init__(self, images: torch.Tensor, generator: torch.Generator | None) -> None:
        self.number, self.device, self.generator = len(images), images.device, generator

    def uniform(self, low: float, high: float) -> torch.Tensor:
        return low + (high - low) * self._drawn(torch.rand, self.number)

    def log_uniform(self, low: float, high: float) -> torch.Tensor:
        return self.uniform(math.log(low), math.log(high)).exp()

    def normal(self, *shape: int) -> torch.Tensor:
        return self._drawn(torch.randn, self.number, *shape)

    def coin(self, share: float) -> torch.Tensor:
        return self.uniform(0.0, 1.0) < share

    def _drawn(self, kind: Callable[..., torch.Tensor], *shape: int) -> torch.Tensor:
        where = self.device if self.generator is None else self.generator.device
        return kind(*shape, generator=self.generator, device=where).to(self.device)


def turned(images: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
    """Mirrored, and turned by quarters, each another way."""
    dice = _Dice(images, generator)
    for axis in (-1, -2):
        images = torch.where(dice.coin(0.5)[:, None, None], images.flip(axis), images)
    return torch.where(dice.coin(0.5)[:, None, None], images.transpose(-1, -2), images)


def draw_observations(
    images: torch.Tensor, settings: Observations, generator: torch.Generator | None = None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Fluxes (B,), spectra (B, G, G // 2 + 1) and sigma (B,) for images of unit flux.

    Parameters
    ----------
    images : Tensor, shape (B, G, G)
    settings : Observations
    generator : torch.Generator, optional
        Any device's.
    """
    side, dice = images.shape[-1], _Dice(images, generator)
    grid = grid_of(side, str(images.device))
    coarse = dice.coin(settings.coarse)
    low, high = settings.fwhm
    fwhm = dice.log_uniform(low * TARGET_FWHM, high * TARGET_FWHM)
    fwhm = torch.where(coarse, fwhm.clamp_min(2 * TARGET_FWHM), fwhm)
    power = dice.uniform(1.1, 2.0)
    correlated = dice.coin(settings.correlated)
    length = dice.uniform(0.3, 1.2) * torch.where(coarse, 2.0, 1.0)
    shear = settings.ellipticity * dice.normal(2)
    transfer = _transfer(grid, fwhm, power, shear.clamp(-0.3, 0.3), coarse)

    # Correlated noise is a gain that rises with k.
    k2 = grid.kx.square() + grid.ky.square()
    colour = (-k2 * length.square()[:, None]).exp().clamp_min(LEAST_POWER)
    colour = colour / (colour @ grid.count / grid.count.sum())[:, None]
    transfer = torch.where(correlated[:, None], transfer / colour.sqrt(), transfer)

    signal = fft2(images).flatten(1).abs().square()
    unit = ((transfer.square() * signal) @ grid.count).sqrt()
    flux = dice.log_uniform(*settings.snr) / unit
    kind = dice.uniform(0.0, 1.0)
    prior = kind < settings.prior
    white = (kind >= settings.prior) & (kind < settings.prior + settings.white)
    # Nothing but the flux: its relative error decides the noise of the only known mode.
    error = dice.log_uniform(*settings.flux_error)
    known = torch.zeros_like(transfer)
    known[:, 0] = side / (flux * error)
    transfer = torch.where(prior[:, None], known, transfer)
    transfer = torch.where(white[:, None], torch.zeros_like(transfer), transfer)

    least = (1e-6 * flux).clamp_min(0.01)
    most = (flux / 16).clamp_min(10.0)
    ln_sigma = least.log() + (most / least).log() * dice.uniform(0.0, 1.0)
    ln_sigma = torch.where(white, dice.log_uniform(0.01, 2.0).log(), ln_sigma)
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
