r"""Hamiltonian Monte Carlo for many objects at once, objects x chains in lock-step.

The density of an object is written as :math:`p(\theta) \propto N(\theta; m, C)\, e^{-V(\theta)}`
with a reference Gaussian (`autofit_ml.posterior.reference`). A step of length h is

    half a kick  p <- p - h/2 grad V;  the exact motion in the Gaussian for a time h
    (`autofit_ml.posterior.flow`, which also mirrors it at the bounds);  half a kick

(Shahbaba, Lan, Johnson and Neal 2014, Stat. Comput. 24, 339). Where the posterior is the Gaussian,
V is constant, every proposal is accepted, and one step of a quarter period gives an independent
draw for one gradient. Elsewhere the step shrinks: per object, until the first proposals are
accepted with the wanted probability (dual averaging: Hoffman and Gelman 2014, J. Mach. Learn. Res.
15, 1593), and the trajectory takes as many steps as it needs. Its length is drawn anew each time.

A rejected proposal is tried again with steps several times shorter over the same time: delayed
rejection (Tierney and Mira 1999, Stat. Med. 18, 2507; for HMC Modi, Barnett and Carpenter 2024,
Bayesian Anal. 19, 815). With the first proposal's acceptance :math:`\alpha_1` from both ends, the
second is accepted with probability

.. math:: \min\Big(1, \frac{\pi(y_2)\,[1 - \alpha_1(y_2)]}{\pi(x)\,[1 - \alpha_1(x)]}\Big),

which leaves the density unchanged, and frees chains from narrow places that the usual step is too
long for.

Warm-up: windows of draws and gradients give the reference, the last part only the step.
An object whose chains disagree at the end (R-hat) takes everything so far as a warm-up and is
drawn again with twice the thinning, a few times at most; the others are left alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from autofit_ml.errors import SettingsError
from autofit_ml.posterior.diagnostics import effective_sample_size, split_rhat
from autofit_ml.posterior.flow import harmonic_flow
from autofit_ml.posterior.random_streams import RandomStreams
from autofit_ml.posterior.reference import Reference, fit_reference, laplace_reference, worth
from autofit_ml.posterior.samples import PosteriorSamples

__all__ = ["HMCSettings", "LogDensity", "sample_hmc"]

LogDensity = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
"""(index of objects (A,) int64, theta (A, D) float64) -> ln p (A,), d ln p / d theta (A, D).

ln p need not be normalised; a value or gradient that is not finite means "not allowed here"."""

_START, _MOMENTUM, _LENGTH, _ACCEPT, _RETRY = range(5)
"""What random numbers are for."""

_ROUND = 1 << 24
"""Iterations are counted from here on in each further round."""

_DIVERGED = 1000.0
"""Energy error of a trajectory that has gone astray."""

_SHORTEST_STEP = 0.01


@dataclass(frozen=True)
class HMCSettings:
    """Settings of `sample_hmc`.

    Attributes
    ----------
    chains, draws : int
        Per object; draws per chain after the warm-up.
    warmup : int
        Iterations. An iteration of a Gaussian-like posterior costs one or two gradients.
    rhat : float
        Objects with a larger R-hat of any parameter are drawn again, ...
    rounds : int
        ... until there were this many rounds.
    target_accept : float
        Wanted acceptance of first proposals, in (0, 1).
    trajectory : float
        Mean length of a trajectory, radians of the reference's motion; pi / 2 makes draws of a
        Gaussian independent.
    jitter : float
        Lengths are uniform in ``trajectory * (1 +- jitter)``.
    longer : float
        Where a step is much shorter than `trajectory`, the posterior is not Gaussian, and the
        trajectory is longer by up to this factor.
    retry : int
        How many times shorter the steps of the second proposal are; 0: no second proposal.
    max_steps : int
        Of a first proposal.
    seed : int
    dtype : torch.dtype
        Of the draws that are handed over; everything inside is float64.
    """

    chains: int = 4
    draws: int = 1000
    warmup: int = 250
    rhat: float = 1.01
    rounds: int = 3
    target_accept: float = 0.8
    trajectory: float = math.pi / 2
    jitter: float = 0.4
    longer: float = 1.5
    retry: int = 3
    max_steps: int = 32
    seed: int = 0
    dtype: torch.dtype = torch.float64

    def __post_init__(self):
        if self.chains < 1 or self.draws < 10 or self.warmup < 20 or self.rounds < 1:
            raise SettingsError(
                f"{self.chains} chains of {self.draws} draws after {self.warmup}, "
                f"{self.rounds} rounds",
                "use at least 1 chain of 10 draws, a warm-up of 20, 1 round",
            )
        if not 0 < self.target_accept < 1 or not 0 <= self.jitter < 1:
            raise SettingsError(
                f"target_accept {self.target_accept}, jitter {self.jitter}",
                "both lie between 0 and 1",
            )
        if not 0 < self.trajectory * (1 + self.jitter) * self.longer < 2 * math.pi:
            raise SettingsError(
                f"trajectory {self.trajectory} is too long", "stay under one period, 2 pi"
            )


def sample_hmc(
    density: LogDensity,
    theta: torch.Tensor,
    covariance: torch.Tensor,
    lower: torch.Tensor,
    upper: torch.Tensor,
    settings: HMCSettings | None = None,
    keys: torch.Tensor | None = None,
) -> PosteriorSamples:
    """Draw from the densities of B objects inside their boxes.

    Parameters
    ----------
    density : callable
        See `LogDensity`; is called with many points of an object at a time.
    theta : Tensor, float64, (B, D)
        Near the maximum of each density.
    covariance : Tensor, float64, (B, D, D)
        Laplace approximation; a rough one will do. Give that of all free parameters, also of those
        on their bounds.
    lower, upper : Tensor, float64, (B, D)
        Hard bounds, possibly infinite; equal values hold a parameter fixed.
    settings : HMCSettings, optional
    keys : Tensor, int64, (B,), optional
        Identity of each object for the random numbers, 0 to B - 1 by default. The draws of an
        object depend on (seed, key, what `density` says), not on the batch.

    Returns
    -------
    PosteriorSamples
        Objects without a finite density at their start, or with a covariance that is not finite,
        have NaN and ``ok`` False; the others are not affected.

    Raises
    ------
    SettingsError
        Shapes that do not fit together.
    """
    settings = settings or HMCSettings()
    b, d = theta.shape
    if covariance.shape != (b, d, d) or lower.shape != (b, d) or upper.shape != (b, d):
        raise SettingsError(
            f"theta {tuple(theta.shape)}, covariance {tuple(covariance.shape)}, "
            f"bounds {tuple(lower.shape)} and {tuple(upper.shape)}",
            "give (B, D), (B, D, D), (B, D) and (B, D)",
        )
    theta, covariance = theta.to(torch.float64), covariance.to(torch.float64)
    lower, upper = lower.to(torch.float64), upper.to(torch.float64)
    keys = torch.arange(b, device=theta.device) if keys is None else keys
    theta = torch.maximum(torch.minimum(theta, upper), lower)
    reference, good = laplace_reference(theta, covariance, lower, upper)
    out = _empty(b, d, settings, theta.device)
    with torch.no_grad():
        walkers = _Walkers(
            density, torch.arange(b, device=theta.device), keys, lower, upper, reference, settings
        )
        good &= walkers.start(theta, good)
        walkers = walkers.select(good.nonzero()[:, 0])
        for round_ in range(settings.rounds):
            if len(walkers) == 0:
                break
            if round_ == 0:
                walkers.warm_up(settings.warmup)
            else:
                walkers.warm_up_again(settings.warmup)
            _record(out, walkers, round_, settings)
            # Objects all of whose parameters are fixed have no R-hat: they are done.
            agrees = out.rhat[walkers.objects].nan_to_num(nan=1.0).amax(1) <= settings.rhat
            walkers = walkers.select((~agrees).nonzero()[:, 0])
    return out


def _record(out: PosteriorSamples, walkers: _Walkers, round_: int, settings: HMCSettings) -> None:
    """One round of draws, and what is to be said of them; in place."""
    walkers.count(round_)
    rows = walkers.objects
    fixed = ~walkers.reference.free
    for i in range(settings.draws):
        for _ in range(2**round_):
            walkers.step()
        out.draws[rows, :, i] = walkers.theta.to(settings.dtype)
        out.log_density[rows, :, i] = walkers.log_density
    walkers.keep_history(out.draws[rows])
    out.accept[rows] = walkers.accepted / walkers.tried
    out.step_size[rows] = walkers.step_size
    out.divergences[rows] = walkers.diverged
    out.n_gradients[rows] = walkers.n_gradients
    out.rhat[rows] = split_rhat(out.draws[rows])
    bulk, tail = effective_sample_size(out.draws[rows])
    out.ess_bulk[rows], out.ess_tail[rows] = bulk, tail
    for field in (out.rhat, out.ess_bulk, out.ess_tail):
        field[rows] = torch.where(fixed, math.nan, field[rows])
    out.ok[rows] = True
