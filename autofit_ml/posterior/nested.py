"""Nested sampling of one object with nautilus: the evidence, and draws of its posterior.

nautilus (Lange 2023, Mon. Not. R. Astron. Soc. 525, 3181) is importance nested sampling with
neural networks for the bounds; it needs no gradient, finds several modes, and asks for many points
at a time, which become one batch of the renderer. Use it to compare models and to check other
samplers, on a few objects: one takes tens of thousands of evaluations.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from autofit_ml.errors import SettingsError
from autofit_ml.extras import needs
from autofit_ml.posterior.samples import PosteriorSamples

__all__ = ["NestedResult", "NestedSettings", "box_transform", "sample_nested"]


@dataclass(frozen=True)
class NestedSettings:
    """Settings of `sample_nested`.

    Attributes
    ----------
    live : int
        Live points.
    effective : int
        Wanted effective sample size.
    batch : int
        Points per call of the likelihood.
    most_evaluations : int
        Where to give up; the result then says that it is not complete.
    discard_exploration : bool
        Leave out the points of the exploration, as an unbiased evidence needs; costs about as many
        evaluations again.
    draws : int
        Equally weighted draws.
    seed : int
    """

    live: int = 1000
    effective: int = 5000
    batch: int = 512
    most_evaluations: int = 500_000
    discard_exploration: bool = True
    draws: int = 4000
    seed: int = 0

    def __post_init__(self):
        if min(self.live, self.effective, self.batch, self.most_evaluations, self.draws) < 1:
            raise SettingsError("a setting of the nested sampler is not positive", "give numbers")


@dataclass(frozen=True)
class NestedResult:
    """Result of nested sampling.

    Attributes
    ----------
    names : tuple of str
    log_evidence, log_evidence_err : float
        ln of the likelihood's mean over the prior; natural logarithm.
    points : ndarray, float64, (N, D)
    log_weight : ndarray, float64, (N,)
        Normalised: the weights add up to 1.
    log_likelihood : ndarray, float64, (N,)
    draws : ndarray, float64, (M, D)
        Equally weighted. Drawn from `points` with replacement when these are worth fewer.
    effective : float
        Effective sample size of `points`.
    n_evaluations : int
    complete : bool
        False when the limit of evaluations came first.
    """

    names: tuple[str, ...]
    log_evidence: float
    log_evidence_err: float
    points: np.ndarray
    log_weight: np.ndarray
    log_likelihood: np.ndarray
    draws: np.ndarray
    effective: float
    n_evaluations: int
    complete: bool

    def samples(self, whole: Callable[[np.ndarray], Any] = torch.from_numpy) -> PosteriorSamples:
        """The equally weighted draws, as one chain of one object.

        `whole` makes a tensor (M, D) of all parameters of the draws of those that are free.
        """
        draws = whole(self.draws)[None, None]
        out = PosteriorSamples.empty("nested", 1, 1, draws.shape[2], draws.shape[3], draws)
        out.draws[:] = draws
        out.ess_bulk[:], out.ess_tail[:] = self.effective, self.effective
        out.n_gradients[:] = self.n_evaluations
        out.ok[:] = self.complete
        return out


def box_transform(
    lower: torch.Tensor | np.ndarray, upper: torch.Tensor | np.ndarray
) -> Callable[[np.ndarray], np.ndarray]:
    """Prior transform of a flat density in a box; both ends (D,) finite."""
    low, high = np.asarray(lower, dtype=np.float64), np.asarray(upper, dtype=np.float64)
    if not (np.isfinite(low).all() and np.isfinite(high).all() and (low < high).all()):
        raise SettingsError(
            "a flat prior needs a finite box", "give bounds to every free parameter"
        )
    return lambda unit: low + unit * (high - low)


def sample_nested(
    log_likelihood: Callable[[torch.Tensor], torch.Tensor],
    prior_transform: Callable[[np.ndarray], np.ndarray],
    names: Sequence[str],
    settings: NestedSettings | None = None,
    *,
    device: torch.device | str = "cpu",
) -> NestedResult:
    """Nested sampling of one object.

    Parameters
    ----------
    log_likelihood : callable
        Parameters (N, D), float64 on `device`, to ln L (N,). Not finite counts as L = 0. Without
        the prior: that is `prior_transform`'s.
    prior_transform : callable
        Points of the unit cube (N, D) to parameters (N, D).
    names : sequence of str
        Of the D free parameters, D >= 2; leave those out that are held fixed.
    settings : NestedSettings, optional
    device : torch.device or str

    Returns
    -------
    NestedResult

    Raises
    ------
    SettingsError
        nautilus-sampler is not installed, or fewer than two parameters.
    """
    settings = settings or NestedSettings()
    d = len(names)
    if d < 2:
        raise SettingsError(f"nested sampling of {d} parameter", "it needs two at least")

    def likelihood(points: np.ndarray) -> np.ndarray:
        theta = torch.as_tensor(points, dtype=torch.float64, device=device).view(-1, d)
        value = log_likelihood(theta).detach().to("cpu", torch.float64).numpy()
        return np.where(np.isfinite(value), value, -1e100)

    sampler = _nautilus().Sampler(
        prior_transform,
        likelihood,
        n_dim=d,
        n_live=settings.live,
        n_batch=settings.batch,
        vectorized=True,
        pass_dict=False,
        seed=settings.seed,
    )
    with warnings.catch_warnings():
        # Its networks stop after a fixed number of steps and say so.
        warnings.simplefilter("ignore")
        complete = sampler.run(
            n_eff=settings.effective,
            n_like_max=settings.most_evaluations,
            discard_exploration=settings.discard_exploration,
        )
    points, log_weight, value = sampler.posterior()
    log_weight = log_weight - np.logaddexp.reduce(log_weight)
    rng = np.random.default_rng([settings.seed, 1])
    return NestedResult(
        tuple(names),
        float(sampler.log_z),
        _evidence_error(sampler),
        points,
        log_weight,
        value,
        points[_systematic(np.exp(log_weight), settings.draws, rng)],
        float(sampler.n_eff),
        int(sampler.n_like),
        bool(complete),
    )


def _evidence_error(sampler: Any) -> float:
    r"""Error of ln Z from the scatter of the importance weights, :math:`1 / \sqrt{N_\mathrm{eff}}`,
    and from the volumes of the shells, which are counted fractions of one another."""
    shares = np.exp(sampler.shell_log_l + sampler.shell_log_v - sampler.log_z)
    drawn = np.maximum(np.asarray(sampler.shell_n_sample, dtype=float), 1.0)
    kept = np.clip(np.asarray(sampler.shell_n, dtype=float), 1.0, drawn)
    volume = np.sum(np.where(shares > 0, shares, 0.0) ** 2 * (1 - kept / drawn) / kept)
    return float(np.sqrt(1 / sampler.n_eff + volume))


def _systematic(weights: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Indices drawn with these weights, as evenly as they allow, in random order."""
    at = (np.arange(count) + rng.random()) / count
    index = np.searchsorted(np.cumsum(weights) / weights.sum(), at)
    return rng.permutation(np.minimum(index, len(weights) - 1))


def _nautilus() -> Any:
    with needs("posterior", "nested sampling"):
        return importlib.import_module("nautilus")
