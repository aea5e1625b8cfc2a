"""Samples of the prior: galaxies of a given total flux of which nothing else is known.

The operator of "nothing but the flux" is zero but for k = 0, where it is known well; so these are
posterior samples like any others (`eps`), and they are what `summary.prior_fraction` compares
with. The prior has no scale of its own: samples for a flux are those of unit flux times that flux.
"""

import torch

from autofit_ml.deconvolution.diffusion import Denoises, Draws, levels, reverse
from autofit_ml.deconvolution.eps import denoised

__all__ = ["sample_prior"]


@torch.no_grad()
def sample_prior(
    denoiser: Denoises,
    number: int,
    side: int,
    draws: Draws,
    *,
    error: float = 0.003,
    steps: int = 48,
    lowest: float = 2e-6,
    batch: int = 64,
    device: torch.device | str = "cpu",
) -> torch.Tensor:
    """Galaxies of unit flux, (number, side, side).

    Parameters
    ----------
    denoiser : Denoises
    number, side : int
    draws : Draws
        Of one object.
    error : float
        Relative error with which the flux is given.
    steps : int
    lowest : float
        Last noise level of a pixel, relative to the flux.
    batch : int
    device : torch.device or str
    """
    high = torch.full((1, 1, 1, 1), 4.0 / side, device=device)
    sigmas = levels(high, torch.full_like(high, lowest), steps)
    # In k = 0 of the orthonormal transform a flux of 1 is 1 / side.
    known = (side / error) ** 2
    empty = high.new_zeros((1, number, side, side))

    def estimate(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        variance = sigma.square()
        spectrum = variance.expand(1, 1, side, side // 2 + 1).clone()
        zero = 1 / (1 / variance[0, 0, 0, 0] + known)
        spectrum[..., 0, 0] = zero
        share = zero * known  # of the measured flux in the mean of both
        mean = x.mean((-2, -1), keepdim=True)
        u = x + share * (1 / side**2 - mean)
        return denoised(denoiser, u, spectrum, batch)

    start = estimate(high * draws.normal(empty), high)
    return reverse(estimate, start + high * draws.normal(empty), sigmas, draws)[0]
