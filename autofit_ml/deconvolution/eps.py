r"""Exact posterior score: posterior samples with one network call a step.

For data :math:`y = A x + n` of noise precision W and a diffused sample
:math:`x_t = x + \sigma \varepsilon`, both are Gaussian measurements of x; together they are one,

.. math::
    \mu_\ast = Q (x_t / \sigma^2 + A^T W y), \qquad Q = (1 / \sigma^2 + A^T W A)^{-1},

so :math:`E[x \mid x_t, y] = E[x \mid \mu_\ast] = D(\mu_\ast; Q)`, with a denoiser D for Gaussian
noise of covariance Q. With uniform noise, no mask and no folding, Q is diagonal in Fourier space
(`operator.Observation.spectrum`), the network is trained for that, and what is sampled is its
posterior up to the steps' size.

Approximations otherwise: (1) masked pixels, and those between the stamp's edge and the grid's, are
filled at each step with a draw from the model of the last estimate, so that Q stays stationary;
they are then known better than they should be, by the lag of one step (of a Gaussian prior, the
variance in a hole of 6 x 6 pixels under a PSF of 3 is 10 % too small, that behind scattered masked
pixels 1 %, that of seen pixels exact). (2) With a noise map
:math:`\mu_\ast` is solved with the true W by conjugate gradients, but the network is told the
spectrum of the mean precision. (3) With folded light (s = 2 and a PSF image that has light
beyond the data's band) :math:`\mu_\ast` is exact and the network is told the diagonal. `gibbs`
makes none of these.
"""

import torch

from autofit_ml.deconvolution.diffusion import Denoises, Draws, levels, reverse
from autofit_ml.deconvolution.operator import Observation

__all__ = ["denoised", "highest_level", "sample_eps"]


def denoised(
    denoiser: Denoises, u: torch.Tensor, spectrum: torch.Tensor, batch: int = 64
) -> torch.Tensor:
    """`denoiser` for images (B, N, G, G), in batches."""
    spectrum = spectrum.expand(*u.shape[:2], *spectrum.shape[-2:]).flatten(0, 1)
    parts = [
        denoiser.denoise(images, powers)
        for images, powers in zip(u.flatten(0, 1).split(batch), spectrum.split(batch), strict=True)
    ]
    return torch.cat(parts).unflatten(0, u.shape[:2])


def highest_level(observation: Observation) -> torch.Tensor:
    """Noise at which nothing of an object is left, (B, 1, 1, 1): 4 F / G, and 10 at least.

    A point source of flux F has the amplitude F / G in every mode of a grid of G pixels.
    """
    light = (observation.data * observation.known).sum((-2, -1), keepdim=True).abs()
    noise = observation.known.sum((-2, -1), keepdim=True).sqrt()
    return (4 * (light + 3 * noise) / observation.side).clamp_min(10.0)


@torch.no_grad()
def sample_eps(
    denoiser: Denoises,
    observation: Observation,
    number: int,
    draws: Draws,
    *,
    steps: int = 48,
    lowest: float = 0.02,
    highest: torch.Tensor | None = None,
    start: torch.Tensor | None = None,
    batch: int = 64,
) -> tuple[torch.Tensor, int]:
    """Posterior samples.

    Parameters
    ----------
    denoiser : Denoises
    observation : Observation
        Of B objects.
    number : int
        N, samples of each.
    draws : Draws
    steps : int
        Noise levels.
    lowest : float
        Last level, units of the data's noise: what is finer in a sample is the mean.
    highest : Tensor, shape (B, 1, 1, 1), optional
        First level; None: `highest_level`.
    start : Tensor, shape (B, N, G, G), optional
        Images at the first level; None: noise about what the data say.
    batch : int
        Images that go through the network together.

    Returns
    -------
    samples : Tensor, shape (B, N, G, G)
        In units of each object's noise.
    calls : int
        Network calls per sample.
    """
    high = highest_level(observation) if highest is None else highest
    sigmas = levels(high, torch.full_like(high, lowest), steps)
    calls = 0
    last: torch.Tensor | None = None

    def estimate(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        nonlocal calls, last
        calls += 1
        data = observation.filled(last, x.shape[1], draws)
        last = denoised(
            denoiser, observation.solve(x, sigma, data), observation.spectrum(sigma), batch
        )
        return last

    if start is None:
        empty = high.new_zeros((len(high), number, observation.side, observation.side))
        # The middle of the first level is where the data say that the object is.
        middle = estimate(high * draws.normal(empty), high)
        start = middle + high * draws.normal(empty)
    samples = reverse(estimate, start, sigmas, draws)
    return samples, calls
