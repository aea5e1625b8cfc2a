"""Priors whose posterior is known exactly: for tests of the samplers, and as examples.

A stationary Gaussian, and a mixture of templates with a little Gaussian scatter (METHODS: 128
templates). Both offer ``denoise(u, spectrum)`` like the network, and the exact posterior of an
`Observation` with uniform noise, no mask and no folding.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from autofit_ml.deconvolution.operator import Observation
from autofit_ml.deconvolution.spectra import coloured, fft2, ifft2

__all__ = ["GaussianPrior", "TemplatePrior"]


def _counts(side: int, device: torch.device) -> torch.Tensor:
    """Modes of the full plane that each mode of a half plane stands for, (G, G // 2 + 1)."""
    count = torch.full((side, side // 2 + 1), 2.0, device=device)
    count[:, 0] = 1.0
    if side % 2 == 0:
        count[:, -1] = 1.0
    return count


@dataclass(frozen=True)
class GaussianPrior:
    """Mean (G, G) and power (G, G // 2 + 1) of a stationary Gaussian."""

    mean: torch.Tensor
    power: torch.Tensor

    def denoise(self, u: torch.Tensor, spectrum: torch.Tensor) -> torch.Tensor:
        """E[x | u], (M, G, G)."""
        gain = self.power / (self.power + spectrum)
        return self.mean + ifft2(gain * fft2(u - self.mean), u.shape[-1])

    def draw(self, number: int, generator: torch.Generator | None = None) -> torch.Tensor:
        """(number, G, G)."""
        side = self.mean.shape[-1]
        return self.mean + coloured(self.power.expand(number, -1, -1), side, generator)

    def posterior(self, observation: Observation) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean image (B, G, G) and variance of each mode (B, G, G // 2 + 1)."""
        noise = _noise(observation)
        gain = observation.transfer[:, 0]
        variance = 1 / (1 / self.power + gain.abs().square() / noise)
        seen = fft2(observation.data[:, 0] - _seen(observation, self.mean))
        return self.mean + ifft2(
            variance * gain.conj() * seen / noise, self.mean.shape[-1]
        ), variance


@dataclass(frozen=True)
class TemplatePrior:
    """Equally probable templates (M, G, G), each with scatter of power (G, G // 2 + 1)."""

    templates: torch.Tensor
    power: torch.Tensor

    def denoise(self, u: torch.Tensor, spectrum: torch.Tensor) -> torch.Tensor:
        """E[x | u], (B, G, G)."""
        side = u.shape[-1]
        total = self.power + spectrum
        # |u - m|^2 without |u|^2, as products of matrices; float64, since it is a difference.
        weight = (_counts(side, u.device) / total).expand(len(u), side, -1).flatten(1).double()
        seen = weight * fft2(u).flatten(1)
        means = fft2(self.templates.double()).flatten(1)
        overlap = seen.real @ means.real.T + seen.imag @ means.imag.T
        log_odds = overlap - 0.5 * weight @ means.abs().square().T
        shares = log_odds.softmax(1).to(u.dtype)
        mean = torch.einsum("bm,mij->bij", shares, self.templates)
        return mean + ifft2(self.power / total * fft2(u - mean), side)

    def draw(self, number: int, generator: torch.Generator | None = None) -> torch.Tensor:
        """(number, G, G)."""
        side = self.templates.shape[-1]
        which = torch.randint(len(self.templates), (number,), generator=generator)
        return self.templates[which] + coloured(self.power.expand(number, -1, -1), side, generator)

    def posterior(
        self, observation: Observation
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Shares (B, M), means (B, M, G, G), variance of each mode (B, G, G // 2 + 1)."""
        side = self.templates.shape[-1]
        noise = _noise(observation)
        gain = observation.transfer[:, 0]
        variance = 1 / (1 / self.power + gain.abs().square() / noise)
        seen = fft2(observation.data) - gain[:, None] * fft2(self.templates)
        total = noise + gain.abs().square() * self.power
        misfit = (seen.abs().square() * (_counts(side, total.device) / total)[:, None]).sum(
            (-2, -1)
        )
        change = ifft2((variance * gain.conj() / noise)[:, None] * seen, side)
        return (-0.5 * misfit).softmax(1), self.templates + change, variance

    def draw_posterior(
        self, observation: Observation, number: int, generator: torch.Generator | None = None
    ) -> torch.Tensor:
        """Exact posterior samples (B, number, G, G)."""
        shares, means, variance = self.posterior(observation)
        side = self.templates.shape[-1]
        which = torch.multinomial(shares, number, replacement=True, generator=generator)
        members = torch.arange(len(shares))[:, None]
        scatter = coloured(variance[:, None].expand(-1, number, -1, -1), side, generator)
        return means[members, which] + scatter


def _noise(observation: Observation) -> torch.Tensor:
    """Its power in each mode."""
    noise = 1 / observation.typical[:, 0]
    if observation.colour is not None:
        noise = noise * observation.colour[:, 0, :, : observation.side // 2 + 1]
    return noise


def _seen(observation: Observation, image: torch.Tensor) -> torch.Tensor:
    return observation.forward(image.expand(1, 1, *image.shape))[:, 0]
