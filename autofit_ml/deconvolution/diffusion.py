r"""The reverse diffusion that all samplers share.

One step from level :math:`\sigma` to :math:`\sigma' < \sigma` with the mean
:math:`\hat x = E[x \mid x_t, \ldots]`:

.. math::
    x' = \hat x_\ast + (\sigma'/\sigma)^2 (x_t - \hat x_\ast)
        + \sigma' \sqrt{1 - \sigma'^2 / \sigma^2}\, \varepsilon, \qquad
    \hat x_\ast = \hat x + \frac{h}{2 h_-} (\hat x - \hat x_-),

the ancestral step with the mean extrapolated to the middle of the step from the one before
(h: steps of :math:`\ln \sigma`), which makes it of second order with one call of the network:
DPM-Solver++(2M) in its stochastic form (Lu et al. 2022, arXiv:2211.01095, section 5). For a
Gaussian posterior and :math:`\sigma` falling by 10^5 in 48 steps the variance is 2 % too large;
it is 22 % too small without the extrapolation.
"""

from collections.abc import Callable
from typing import Protocol

import torch

from autofit_ml.posterior.random_streams import RandomStreams

__all__ = ["Denoises", "Draws", "levels", "reverse"]


class Denoises(Protocol):
    """Anything with the conditional mean of x under coloured noise."""

    def denoise(self, u: torch.Tensor, spectrum: torch.Tensor) -> torch.Tensor:
        """E[x | u] for images (M, G, G) with noise of power (M, G, G // 2 + 1)."""
        ...


class Draws:
    """Normal numbers that belong to each object, whatever else is in its batch.

    Parameters
    ----------
    seed : int
    keys : Tensor, int64, shape (B,)
        Identity of each object.
    """

    def __init__(self, seed: int, keys: torch.Tensor) -> None:
        self._streams = RandomStreams(seed, keys)
        self._step = 0

    def normal(self, like: torch.Tensor) -> torch.Tensor:
        """The next numbers, with the shape (B, ...), dtype and device of `like`."""
        drawn = self._streams.normal(0, self._step, *like.shape[1:])
        self._step += 1
        return drawn.to(like)


def levels(
    high: torch.Tensor, low: torch.Tensor, steps: int, power: float | None = None
) -> torch.Tensor:
    """Noise levels (steps, ...) from `high` to `low`, evenly in the logarithm.

    With `power` evenly in that root (Karras et al. 2022, arXiv:2206.00364, eq. 5): closer at the
    top.
    """
    share = torch.linspace(0, 1, steps, device=high.device).reshape(-1, *[1] * high.ndim)
    if power is not None:
        return (high ** (1 / power) * (1 - share) + low ** (1 / power) * share) ** power
    return (high.log() * (1 - share) + low.log() * share).exp()


def reverse(
    estimate: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    x: torch.Tensor,
    sigmas: torch.Tensor,
    draws: Draws,
) -> torch.Tensor:
    """Run the reverse diffusion from x at level ``sigmas[0]``; the last estimate is the draw.

    Parameters
    ----------
    estimate : callable
        ``(x_t, sigma) -> mean``; called once for each level.
    x : Tensor, shape (B, N, G, G)
    sigmas : Tensor, shape (steps, B, 1, 1, 1)
    draws : Draws
    """
    before: torch.Tensor | None = None
    step_before: torch.Tensor | None = None
    for k in range(len(sigmas) - 1):
        sigma, lower = sigmas[k], sigmas[k + 1]
        mean = estimate(x, sigma)
        step = (sigma / lower).log()
        ahead = mean
        if before is not None and step_before is not None:
            ahead = mean + 0.5 * step / step_before * (mean - before)
        ratio = (lower / sigma).square()
        noise = lower * (1 - ratio).sqrt() * draws.normal(x)
        x = ahead + ratio * (x - ahead) + noise
        before, step_before = mean, step
    return estimate(x, sigmas[-1])
