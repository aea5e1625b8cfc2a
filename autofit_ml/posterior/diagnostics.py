r"""Have the chains converged, and how many independent draws are they worth?

Rank-normalised split R-hat and effective sample sizes of Vehtari, Gelman, Simpson, Carpenter and
Bürkner (2021, Bayesian Analysis 16, 667), for the parameters of all objects at once.

Each chain is cut into halves. Draws are replaced by normal scores of their ranks (with ties at
their mean rank, Blom's offset 3/8), so that nothing assumes finite moments. R-hat is the larger of
that of the scores and of the scores of the distance from the median. The bulk size is that of the
scores; the tail size the smaller of those of the indicators of the 5 % and 95 % quantiles. With the
mean autocovariance :math:`\bar c_t` of the half-chains, their mean variance W and the pooled
variance V,

.. math:: \hat\rho_t = 1 - \frac{W - \bar c_t}{V}, \qquad
          \mathrm{ESS} = \frac{M N}{-1 + 2 \sum_t \hat\rho_t},

where the sum runs over pairs of lags :math:`\hat\rho_{2k} + \hat\rho_{2k+1}` while they are
positive, and no pair may exceed the one before it (Geyer 1992, Statist. Sci. 7, 473). ESS is
limited to :math:`MN \log_{10} MN`.
"""

from __future__ import annotations

import math

import torch

from autofit_ml.errors import SettingsError

__all__ = ["diagnose", "normal_scores", "split_rhat"]

_ROWS = 1 << 21
"""Draws that are worked on together (their transforms take 100 bytes a draw)."""

_FEWEST_DRAWS = 10


def diagnose(draws: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """R-hat, bulk and tail effective sample sizes at once.

    Parameters
    ----------
    draws : Tensor, (B, chains, draws, D)

    Returns
    -------
    rhat, bulk, tail : Tensor, float64, (B, D)
        NaN for a parameter that never moves (one that is held fixed) or has draws that are not
        finite.

    Raises
    ------
    SettingsError
        Fewer than 10 draws a chain.
    """
    b, chains, n, d = draws.shape
    if n < _FEWEST_DRAWS:
        raise SettingsError(
            f"{n} draws a chain are too few for R-hat", f"draw at least {_FEWEST_DRAWS}"
        )
    out = torch.empty((3, b, d), dtype=torch.float64, device=draws.device)
    step = max(1, _ROWS // (chains * n * d))
    for first in range(0, b, step):
        some = draws[first : first + step].to(torch.float64).movedim(3, 1).flatten(0, 1)
        spread = some.amax((1, 2)) - some.amin((1, 2))
        values = torch.stack(_measured(torch.nan_to_num(some)))
        usable = torch.isfinite(spread) & (spread > 0)  # a NaN among the draws makes it NaN
        values = torch.where(usable, values, torch.nan)
        out[:, first : first + step] = values.view(3, -1, d)
    return out[0], out[1], out[2]


def split_rhat(draws: torch.Tensor) -> torch.Tensor:
    """Rank-normalised split R-hat of draws (B, chains, draws, D), (B, D); see `diagnose`."""
    return diagnose(draws)[0]


def normal_scores(values: torch.Tensor) -> torch.Tensor:
    """Normal scores of the ranks along the last axis, float64; ties share their mean rank."""
    n = values.shape[-1]
    ordered = values.sort(dim=-1).values
    values = values.contiguous()
    below = torch.searchsorted(ordered, values)
    up_to = torch.searchsorted(ordered, values, right=True)
    rank = (below + up_to + 1).to(torch.float64) / 2
    return torch.special.ndtri((rank - 0.375) / (n + 0.25))


def _measured(chains: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """R-hat, bulk and tail sizes of chains (R, M, N), (R,) each."""
    halves = _halves(chains)
    scores = _scores(halves)
    middle = halves.flatten(1).quantile(0.5, dim=1)[:, None, None]
    rhat = torch.maximum(_rhat(scores), _rhat(_scores((halves - middle).abs())))
    return rhat, _size(scores), _tail_size(chains)


def _halves(chains: torch.Tensor) -> torch.Tensor:
    """First and second halves as chains of their own, (R, 2 M, N // 2)."""
    n = chains.shape[2]
    return torch.cat([chains[..., : n // 2], chains[..., n - n // 2 :]], dim=1)


def _scores(halves: torch.Tensor) -> torch.Tensor:
    """Normal scores among all draws of a parameter, (R, M, N)."""
    return normal_scores(halves.flatten(1)).view(halves.shape)


def _rhat(halves: torch.Tensor) -> torch.Tensor:
    n = halves.shape[2]
    between = halves.mean(2).var(1)
    within = halves.var(2).mean(1)
    return (between / within + (n - 1) / n).sqrt()


def _tail_size(chains: torch.Tensor) -> torch.Tensor:
    ends = torch.tensor([0.05, 0.95], dtype=chains.dtype, device=chains.device)
    low, high = (q[:, None, None] for q in chains.flatten(1).quantile(ends, dim=1))
    return torch.minimum(
        _size(_halves((chains <= low).to(chains.dtype))),
        _size(_halves((chains <= high).to(chains.dtype))),
    )


def _size(halves: torch.Tensor) -> torch.Tensor:
    """Effective sample size of half-chains (R, M, N)."""
    _, m, n = halves.shape
    covariance = _autocovariance(halves).mean(1)
    within = covariance[:, 0] * n / (n - 1)
    pooled = covariance[:, 0]
    if m > 1:
        pooled = pooled + halves.mean(2).var(1)
    rho = 1 - (within[:, None] - covariance) / pooled[:, None]
    rho[:, 0] = 1.0
    pairs_used = (n - 4 + n % 2) // 2 + 1  # the last lags have too few products
    even, odd = rho[:, 0 : 2 * pairs_used : 2], rho[:, 1 : 2 * pairs_used : 2]
    pairs = even[:, : odd.shape[1]] + odd
    number = pairs.shape[1]
    index = torch.arange(number, device=halves.device)
    last = torch.where(pairs > 0, number - 1, index).amin(1)  # the first that is not positive
    falling = pairs.cummin(1).values
    total = torch.where(index < last[:, None], falling, torch.zeros_like(falling)).sum(1)
    # Half of the pair at which the sum ends still counts where it is positive.
    beyond, end = even.gather(1, last[:, None])[:, 0], pairs.gather(1, last[:, None])[:, 0]
    tau = -1 + 2 * total + torch.where((beyond > 0) | (end >= 0), beyond, 0.0)
    size = m * n / tau.clamp_min(1 / math.log10(m * n))
    # An indicator that is the same for all draws (many ties) says nothing against them.
    return torch.where(pooled > 0, size, float(m * n))


def _autocovariance(halves: torch.Tensor) -> torch.Tensor:
    """Autocovariance at all lags (divided by N), along the last axis."""
    n = halves.shape[-1]
    length = 2 ** math.ceil(math.log2(2 * n))
    spectrum = torch.fft.rfft(halves - halves.mean(-1, keepdim=True), n=length)
    power = spectrum.real.square() + spectrum.imag.square()
    return torch.fft.irfft(power, n=length)[..., :n] / n
