"""Draws from the Laplace approximation: a Gaussian, cut off at the bounds."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from autofit_ml.errors import SettingsError
from autofit_ml.posterior.flow import harmonic_flow
from autofit_ml.posterior.random_streams import RandomStreams
from autofit_ml.posterior.samples import PosteriorSamples

__all__ = ["LaplaceSettings", "sample_laplace"]

_TRIES = 20
"""Times that a draw outside the bounds is made again."""

_MOTIONS = 40
"""Quarter periods that the rest, clipped to the bounds, is moved between them."""

_DRAW, _AGAIN, _MOVE = range(3)
"""What random numbers are for."""


@dataclass(frozen=True)
class LaplaceSettings:
    """Settings of `sample_laplace`.

    Attributes
    ----------
    draws : int
        Per object.
    seed : int
    """

    draws: int = 4000
    seed: int = 0

    def __post_init__(self):
        if self.draws < 1:
            raise SettingsError(f"{self.draws} draws", "ask for one at least")


def sample_laplace(
    theta: torch.Tensor,
    covariance: torch.Tensor,
    lower: torch.Tensor,
    upper: torch.Tensor,
    settings: LaplaceSettings | None = None,
    keys: torch.Tensor | None = None,
) -> PosteriorSamples:
    """Independent draws of the Gaussian around a fit, inside the bounds.

    Parameters
    ----------
    theta : Tensor, float64, (B, D)
        Centre, inside the bounds.
    covariance : Tensor, float64, (B, D, D)
        A parameter without variance stays where it is.
    lower, upper : Tensor, float64, (B, D)
        Possibly infinite; equal values hold a parameter fixed.
    settings : LaplaceSettings, optional
    keys : Tensor, int64, (B,), optional
        Identity of each object for the random numbers.

    Returns
    -------
    PosteriorSamples
        One chain. ``ok`` is False where centre or covariance are not finite.
    """
    settings = settings or LaplaceSettings()
    b, d = theta.shape
    n = settings.draws
    keys = torch.arange(b, device=theta.device) if keys is None else keys
    out = PosteriorSamples.empty("laplace", b, 1, n, d, theta)
    free = lower < upper
    both = free[:, :, None] & free[:, None, :]
    covariance = torch.where(both, covariance.to(torch.float64), 0.0)
    good = torch.isfinite(theta).all(1) & torch.isfinite(covariance).all(2).all(1)
    for row in good.nonzero()[:, 0].tolist():  # N draws of one object are work enough for a call
        streams = RandomStreams(settings.seed, keys[row : row + 1])
        draws, z = _one(theta[row], _root(covariance[row]), lower[row], upper[row], streams, n)
        out.draws[row, 0] = draws
        out.log_density[row, 0] = -z.square().sum(1) / 2
        out.accept[row] = 1.0
        moves = draws.amax(0) > draws.amin(0)
        out.rhat[row] = torch.where(moves, 1.0, math.nan)
        for size in (out.ess_bulk, out.ess_tail):
            size[row] = torch.where(moves, float(n), math.nan)
        out.ok[row] = True
    return out


def _root(covariance: torch.Tensor) -> torch.Tensor:
    """A matrix (D, D) with root @ root.T = covariance; rows without variance are 0."""
    sd = covariance.diagonal().clamp_min(0).sqrt()
    inverse = torch.where(sd > 0, 1 / sd, 0.0)
    values, vectors = torch.linalg.eigh(covariance * inverse[:, None] * inverse[None, :])
    return sd[:, None] * vectors * values.clamp_min(0).sqrt()


def _one(
    centre: torch.Tensor,
    root: torch.Tensor,
    lower: torch.Tensor,
    upper: torch.Tensor,
    streams: RandomStreams,
    n: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draws (n, D) of one object, and their coordinates."""
    d = len(centre)
    low, high = lower - centre, upper - centre

    def outside(z: torch.Tensor) -> torch.Tensor:
        x = z @ root.T
        return ((x < low) | (x > high)).any(1).nonzero()[:, 0]

    z = streams.normal(_DRAW, 0, n, d)[0]
    todo = outside(z)
    for attempt in range(_TRIES):
        if len(todo) == 0:
            break
        z[todo] = streams.normal(_AGAIN, attempt, n, d)[0, todo]
        todo = todo[outside(z[todo])]
    if len(todo):
        # Few draws fall between the bounds: start at the centre, and move within them instead.
        at = torch.zeros_like(z[todo])
        roots = root.expand(len(todo), d, d)
        walls = low.expand(len(todo), d), high.expand(len(todo), d)
        time = torch.full((len(todo),), math.pi / 2, dtype=z.dtype, device=z.device)
        for motion in range(_MOTIONS):
            momentum = streams.normal(_MOVE, motion, n, d)[0, todo]
            at = harmonic_flow(at, momentum, time, roots, *walls)[0]
        z[todo] = at
    return torch.maximum(torch.minimum(centre + z @ root.T, upper), lower), z
