r"""Split Gibbs with matched noise: the reference for `eps`, exact for masks, noise maps, folding.

With :math:`z = x + \rho \varepsilon` and the noise of the data split as
:math:`n = \rho A \varepsilon + n'`, :math:`n' \sim N(0, N - \rho^2 A A^T)`, the joint density

.. math:: p(x)\, N(z; x, \rho^2)\, N(y; A z, N - \rho^2 A A^T)

has exactly the posterior as its marginal in x, for any :math:`\rho` with
:math:`\rho^2 A A^T \le N`. Both conditionals can be drawn from:

- x given z: the prior under white noise :math:`\rho`, by reverse diffusion from
  :math:`\sigma = \rho`;
- z given x and y: given x, the residual :math:`r = y - A x` has the covariance N and the
  covariance :math:`\rho A^T` with :math:`\varepsilon`. So with a draw
  :math:`(\varepsilon_0, n'_0)` from the prior and :math:`r_0 = \rho A \varepsilon_0 + n'_0`,
  :math:`\varepsilon = \varepsilon_0 + \rho A^T N^{-1} (r - r_0)` (Matheron's rule; Hoffman &
  Ribak 1991): no linear system is solved, whatever mask and noise map are.

The noise :math:`n'_0` is drawn as that of a periodic image of spectrum
:math:`c - \rho^2 |H|^2`, with c the smallest variance, plus white noise of the variance that a
pixel has above c.

What remains is mixing: where the data say little, x moves by about :math:`\rho` a sweep. Chains
begin at `eps` samples; `summary.split_rhat` of their statistics tells whether they still move.
"""

import torch

from autofit_ml.deconvolution.diffusion import Denoises, Draws, levels, reverse
from autofit_ml.deconvolution.eps import denoised
from autofit_ml.deconvolution.operator import Observation
from autofit_ml.deconvolution.spectra import fft2, ifft2
from autofit_ml.errors import SettingsError

__all__ = ["GIBBS_STEPS", "matched_noise", "sample_gibbs"]

GIBBS_STEPS = 12
"""Network calls a sweep."""


def matched_noise(observation: Observation) -> torch.Tensor:
    """The largest allowed rho, less 1 %, (B, 1, 1, 1)."""
    most = observation.weight.amax((-2, -1), keepdim=True)
    gain = observation.transfer.abs().amax((-2, -1), keepdim=True)
    return 0.99 / (most.sqrt() * gain)


@torch.no_grad()
def sample_gibbs(
    denoiser: Denoises,
    observation: Observation,
    start: torch.Tensor,
    draws: Draws,
    *,
    sweeps: int = 40,
    steps: int = GIBBS_STEPS,
    lowest: float = 0.05,
    batch: int = 64,
    keep: int = 1,
) -> tuple[torch.Tensor, int]:
    """Posterior samples: a chain from each of `start`.

    Parameters
    ----------
    denoiser : Denoises
    observation : Observation
    start : Tensor, shape (B, N, G, G)
        Samples of `eps`.
    draws : Draws
    sweeps : int
    steps : int
        Network calls a sweep.
    lowest : float
        Last level, units of rho.
    batch : int
    keep : int
        Last states of each chain that are returned.

    Returns
    -------
    samples : Tensor, shape (B, N, keep, G, G)
    calls : int
        Network calls per chain.
    """
    if observation.colour is not None:
        raise SettingsError(
            "the Gibbs sampler supposes white noise, and this noise is correlated",
            "use the sampler eps, or take noise_correlation from the stamp",
        )
    side = observation.side
    rho = matched_noise(observation)
    least = 1 / observation.weight.amax((-2, -1), keepdim=True)
    power = (least - rho.square() * observation.transfer.abs().square()).clamp_min(0)
    excess = torch.where(
        observation.known, 1 / observation.weight.clamp_min(1e-12) - least, 0.0
    ).clamp_min(0)
    # Fourth root: the ratio of levels is smallest at the top, where x moves; a Gaussian chain's
    # variance is then within 2 % for 12 levels (4 % too small with even ratios).
    sigmas = levels(rho, lowest * rho, steps, power=4.0)
    s = observation.oversampling

    def estimate(z: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        white = sigma.square().expand(-1, -1, side, side // 2 + 1)
        return denoised(denoiser, z, white, batch)

    x, kept = start, []
    for sweep in range(sweeps):
        first = draws.normal(x)
        other = ifft2(fft2(draws.normal(x)) * power.sqrt(), side)[..., ::s, ::s]
        other = other + excess.sqrt() * draws.normal(other)
        drawn = rho * observation.forward(first) + other
        rest = observation.data - observation.forward(x) - drawn
        epsilon = first + rho * observation.adjoint(observation.weight * rest)
        x = reverse(estimate, x + rho * epsilon, sigmas, draws)
        if sweep >= sweeps - keep:
            kept.append(x)
    return torch.stack(kept, dim=2), sweeps * steps
