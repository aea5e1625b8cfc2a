r"""Hamiltonian Monte Carlo for many objects at once, objects x chains in lock-step.

The density of an object is written as :math:`p(\theta) \propto N(\theta; m, C)\, e^{-V(\theta)}`
with a reference Gaussian (`autofit_ml.posterior.reference`). A step of length h is half a kick,
:math:`p \to p - \frac h2 \nabla V`, the exact motion in the Gaussian for a time h, mirrored at the
bounds (`autofit_ml.posterior.flow`), and half a kick (Shahbaba, Lan, Johnson and Neal 2014, Stat.
Comput. 24, 339). Where the posterior is the Gaussian, V is constant, every proposal is accepted,
and one step of a quarter period gives an independent draw for one gradient. Elsewhere the step
shrinks: per object, until the first proposals are accepted with the wanted probability (dual
averaging: Hoffman and Gelman 2014, J. Mach. Learn. Res. 15, 1593), and the trajectory takes as many
steps as it needs. Its length is drawn anew each time.

A rejected proposal is tried again with steps several times shorter over the same time: delayed
rejection (Tierney and Mira 1999, Stat. Med. 18, 2507; for HMC Modi, Barnett and Carpenter 2024,
Bayesian Anal. 19, 815). With the first proposal's acceptance :math:`\alpha_1` from both ends, the
second is accepted with probability

.. math:: \min\Big(1, \frac{\pi(y_2)\,[1 - \alpha_1(y_2)]}{\pi(x)\,[1 - \alpha_1(x)]}\Big),

which leaves the density unchanged, and frees chains from narrow places for which the usual step is
too long.

Warm-up: windows of draws and gradients give the reference, the last part only the step. An object
whose chains disagree at the end (R-hat) takes everything so far as a warm-up and is drawn again
with twice the thinning, a few times at most; the others are left alone.
"""

from __future__ import annotations

import math

import torch

from autofit_ml.errors import SettingsError
from autofit_ml.posterior.chains import Chains, HMCSettings, LogDensity, start_chains
from autofit_ml.posterior.diagnostics import diagnose
from autofit_ml.posterior.reference import laplace_reference
from autofit_ml.posterior.samples import PosteriorSamples

__all__ = ["HMCSettings", "LogDensity", "sample_hmc"]

_WINDOWS = (0.15, 0.45, 0.8)
"""Shares of the warm-up after which the reference is fitted."""


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
        See `LogDensity`; is called with several points of an object at a time.
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
    if covariance.shape != (b, d, d) or not lower.shape == upper.shape == (b, d):
        raise SettingsError(
            f"theta {tuple(theta.shape)}, covariance {tuple(covariance.shape)}, "
            f"bounds {tuple(lower.shape)} and {tuple(upper.shape)}",
            "give (B, D), (B, D, D), (B, D) and (B, D)",
        )
    lower, upper = lower.to(torch.float64), upper.to(torch.float64)
    theta = torch.maximum(torch.minimum(theta.to(torch.float64), upper), lower)
    keys = torch.arange(b, device=theta.device) if keys is None else keys
    out = PosteriorSamples.empty("hmc", b, settings.chains, settings.draws, d, theta)
    reference, good = laplace_reference(theta, covariance.to(torch.float64), lower, upper)
    chains = start_chains(density, theta, lower, upper, reference, good, settings, keys)
    for round_ in range(settings.rounds):
        if len(chains) == 0:
            break
        if round_ == 0:
            chains.warm_up(settings.warmup, _WINDOWS)
        else:
            chains.warm_up(settings.warmup // 2, (0.0, 0.6))
        agrees = _draw(out, chains, 2**round_)
        chains = chains.select((~agrees).nonzero()[:, 0])
    return out


def _draw(out: PosteriorSamples, chains: Chains, thin: int) -> torch.Tensor:
    """Fill the rows of `out` with draws and diagnostics; which objects' chains agree, (B,)."""
    settings, rows = chains.settings, chains.objects
    shape = (len(rows), settings.chains)
    draws = torch.empty(
        (*shape, settings.draws, chains.theta.shape[1]), dtype=torch.float64, device=rows.device
    )
    log_density = torch.empty(draws.shape[:3], dtype=torch.float64, device=rows.device)
    for i in range(settings.draws):
        for _ in range(thin):
            chains.step()
        draws[:, :, i] = chains.theta.view(*shape, -1)
        log_density[:, :, i] = chains.log_density.view(shape)
        chains.remember()
    out.draws[rows] = draws
    out.log_density[rows] = log_density
    out.accept[rows] = chains.accepted / chains.tried
    out.step_size[rows] = chains.step_size.log_step.exp()
    out.divergences[rows] = chains.diverged
    out.n_gradients[rows] = chains.n_gradients
    rhat, out.ess_bulk[rows], out.ess_tail[rows] = diagnose(draws)
    out.rhat[rows] = rhat
    out.ok[rows] = True
    stuck = chains.reference.free & ~torch.isfinite(rhat)
    return (torch.where(stuck, math.inf, rhat).nan_to_num(nan=1.0) <= settings.rhat).all(1)
