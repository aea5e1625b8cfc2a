r"""Bootstrap: refit the model plus resampled residuals, many times.

No distribution of the noise is assumed; what is resampled are the residuals
:math:`r = d - \mathrm{model}`, so that errors come out right where the noise map is wrong.

**Wild** (the default; Wu 1986, Ann. Statist. 14, 1261). Each pixel's residual keeps its place and
gets a random sign. A galaxy image is heteroscedastic (its photon noise, its noise map), and
shuffling residuals between pixels would carry the noise of the core to the sky and back; signs keep
every pixel's variance.

**Block**. Neighbouring pixels of drizzled or resampled images share noise, which single signs would
destroy. Here all pixels of a block share their sign, and the grid of blocks is shifted at random in
each replicate: noise correlations at lags :math:`(\delta_y, \delta_x)` are kept with the weight
:math:`(1 - |\delta_y|/L)(1 - |\delta_x|/L)`, which is the dependent wild bootstrap with a Bartlett
kernel (Shao 2010, J. Am. Stat. Assoc. 105, 218). Choose L of several correlation lengths; few
blocks cover a galaxy's core if it is too large. Moving blocks instead of their signs would again
move noise between core and sky.

**Parametric**: new Gaussian noise from the noise map, if that is trusted.

A fit draws the model towards its pixels: residuals are smaller than the noise by
:math:`\sqrt{1 - P/N}`, which is divided out.

The draws estimate the distribution of the *estimator* around the fit. For a Gaussian-like problem
this is the posterior with flat priors; near bounds and for skewed posteriors it is not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from autofit_ml.errors import SettingsError
from autofit_ml.posterior.random_streams import RandomStreams
from autofit_ml.posterior.samples import PosteriorSamples

__all__ = ["BootstrapSettings", "Refit", "bootstrap", "resampled"]

Refit = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
"""(index of objects (A,) int64, data (A, ny, nx)) -> fitted parameters (A, D), converged (A,) bool.

The same object comes up many times in one call, with different data: fit as for A stamps."""

_SIGN, _SHIFT = range(2)
"""What random numbers are for."""


@dataclass(frozen=True)
class BootstrapSettings:
    """Settings of `bootstrap`.

    Attributes
    ----------
    replicates : int
        Refits per object. The error of a standard deviation is 1 / sqrt(2 replicates).
    scheme : {"wild", "block", "parametric"}
    block : int
        Side of the blocks, pixels.
    at_once : int
        Images that are handed to `refit` together.
    seed : int
    """

    replicates: int = 200
    scheme: str = "wild"
    block: int = 8
    at_once: int = 512
    seed: int = 0

    def __post_init__(self):
        if self.scheme not in ("wild", "block", "parametric"):
            raise SettingsError(
                f"bootstrap scheme {self.scheme!r}", "use 'wild', 'block' or 'parametric'"
            )
        if self.replicates < 2 or self.block < 1 or self.at_once < 1:
            raise SettingsError(
                f"{self.replicates} replicates, blocks of {self.block}, {self.at_once} at once",
                "use at least 2 replicates, blocks of a pixel, 1 at once",
            )


def bootstrap(
    refit: Refit,
    data: torch.Tensor,
    model: torch.Tensor,
    good: torch.Tensor,
    parameters: int,
    settings: BootstrapSettings | None = None,
    *,
    sigma: torch.Tensor | None = None,
    keys: torch.Tensor | None = None,
) -> PosteriorSamples:
    """Refit B objects to resampled data.

    Parameters
    ----------
    refit : callable
        See `Refit`. Start it at the fit: what is wanted is how that one moves.
    data, model : Tensor, (B, ny, nx)
        Model with everything that was fitted, the sky included.
    good : Tensor, bool, (B, ny, nx)
        Pixels that are fitted; the others keep their data.
    parameters : int
        D, of the vectors that `refit` returns.
    settings : BootstrapSettings, optional
    sigma : Tensor, (B, ny, nx), optional
        Noise map; needed by the parametric scheme only.
    keys : Tensor, int64, (B,), optional
        Identity of each object for the random numbers.

    Returns
    -------
    PosteriorSamples
        One chain of `replicates` draws per object; ``accept`` is the share of refits that
        converged, the draws of the others are NaN. ``ok`` is False with fewer than two.
    """
    settings = settings or BootstrapSettings()
    b, r = len(data), settings.replicates
    if settings.scheme == "parametric" and sigma is None:
        raise SettingsError("a parametric bootstrap without a noise map", "give sigma")
    keys = torch.arange(b, device=data.device) if keys is None else keys
    if settings.scheme == "parametric" and sigma is not None:
        residual = torch.where(good, sigma.to(data.dtype), 0.0)
    else:  # as large as the noise
        count = good.sum((1, 2))
        left = (1 - parameters / count.clamp_min(parameters + 1)).to(data.dtype)
        residual = torch.where(good, data - model, 0.0) / left.sqrt()[:, None, None]
    streams = RandomStreams(settings.seed, keys)
    out = PosteriorSamples.empty("bootstrap", b, 1, r, parameters, data)
    usable = torch.isfinite(residual).all(2).all(1) & torch.isfinite(model).all(2).all(1)
    rows = usable.nonzero()[:, 0]
    # Object by object in whole replicates, as many of either as fit into a call.
    share = max(1, settings.at_once // r)
    for first in range(0, len(rows), share):
        some = rows[first : first + share]
        per_call = max(1, settings.at_once // len(some))
        for start in range(0, r, per_call):
            which = range(start, min(start + per_call, r))
            images = torch.stack(
                [
                    torch.where(
                        good[some],
                        model[some] + resampled(residual[some], streams.select(some), settings, k),
                        data[some],
                    )
                    for k in which
                ]
            )
            theta, converged = refit(some.repeat(len(which)), images.flatten(0, 1))
            theta = theta.to(torch.float64).view(len(which), len(some), parameters)
            fine = converged.view(len(which), len(some)) & torch.isfinite(theta).all(2)
            theta = torch.where(fine[..., None], theta, torch.nan).transpose(0, 1)
            out.draws[some, 0, start : start + len(which)] = theta
    done = torch.isfinite(out.draws[:, 0]).all(2).sum(1)
    out.accept[:] = done / r
    out.ok[:] = done >= 2
    sizes = torch.where(out.ok, done.to(torch.float64), torch.nan)[:, None]
    out.ess_bulk[:], out.ess_tail[:] = sizes, sizes
    return out


def resampled(
    residual: torch.Tensor, streams: RandomStreams, settings: BootstrapSettings, replicate: int
) -> torch.Tensor:
    """Noise of one replicate.

    Parameters
    ----------
    residual : Tensor, (A, ny, nx)
        For the parametric scheme the noise map.
    streams : RandomStreams
        Of A objects.
    settings : BootstrapSettings
    replicate : int

    Returns
    -------
    Tensor, (A, ny, nx)
    """
    a, ny, nx = residual.shape
    if settings.scheme == "parametric":
        return residual * streams.normal(_SIGN, replicate, ny, nx).to(residual.dtype)
    if settings.scheme == "wild":
        uniform = streams.uniform(_SIGN, replicate, ny, nx)
        return torch.where(uniform < 0.5, residual, -residual)
    block = settings.block
    shift = (streams.uniform(_SHIFT, replicate, 2) * block).long()
    row = torch.arange(ny, device=residual.device) + shift[:, :1]
    column = torch.arange(nx, device=residual.device) + shift[:, 1:]
    uniform = streams.uniform(_SIGN, replicate, ny // block + 2, nx // block + 2)
    owner = torch.arange(a, device=residual.device)[:, None, None]
    sign = uniform[owner, (row // block)[:, :, None], (column // block)[:, None, :]]
    return torch.where(sign < 0.5, residual, -residual)
