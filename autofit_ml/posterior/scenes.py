"""Posterior samples of fitted scenes: from `SceneFit`s with their problems to catalogue values.

In: fits of `autofit_ml.refine.scenes.fit_scenes` made with ``SceneSettings(keep=True)``. Out: a
`ScenePosterior` for each, whose draws have the names, units and conventions of the fit's values.
Objects that share a layout and a plan are sampled together.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from autofit_ml.errors import SettingsError
from autofit_ml.posterior.hmc import HMCSettings, sample_hmc
from autofit_ml.posterior.samples import PosteriorSamples
from autofit_ml.refine.parallel import object_threads
from autofit_ml.refine.scenes.describe import draws_to_values
from autofit_ml.refine.scenes.problem import SceneProblem
from autofit_ml.refine.scenes.results import SceneFit
from autofit_ml.refine.uncertainties import laplace

__all__ = ["ScenePosterior", "sample_scenes"]

_LARGEST_TASK = 64


@dataclass(frozen=True)
class ScenePosterior:
    """Draws of one object.

    Attributes
    ----------
    names : tuple of str
        As in `SceneFit.names`, then "fraction" where the target has several components.
    draws : ndarray, float64, (chains, draws, V)
        Catalogue values; angles within 90 degrees of the fit's.
    samples : PosteriorSamples
        Of this object alone, in the refiner's own parameters (``fit.layout.names``).
    """

    names: tuple[str, ...]
    draws: np.ndarray
    samples: PosteriorSamples

    def interval(self, name: str, share: float = 0.6827) -> tuple[float, float, float]:
        """Median of a value, and the ends of its central interval."""
        values = self.draws[..., self.names.index(name)].ravel()
        low, middle, high = np.quantile(values, [(1 - share) / 2, 0.5, (1 + share) / 2])
        return float(middle), float(low), float(high)


def sample_scenes(
    fits: Sequence[SceneFit], settings: HMCSettings | None = None
) -> list[ScenePosterior | None]:
    """Draw from the posteriors of fitted scenes by Hamiltonian Monte Carlo.

    Parameters
    ----------
    fits : sequence of SceneFit
        With their problems (``SceneSettings(keep=True)``).
    settings : HMCSettings, optional

    Returns
    -------
    list of ScenePosterior or None
        In order; None where there is no fit, or nothing could be drawn.

    Raises
    ------
    SettingsError
        A fit without its problem.
    """
    if any(fit.layout is not None and fit.problem is None for fit in fits):
        raise SettingsError("a fit without its problem", "fit with SceneSettings(keep=True)")
    groups: dict[tuple, list[int]] = {}
    for k, fit in enumerate(fits):
        if fit.problem is not None and fit.layout is not None:
            plans = tuple(id(image.plan) for image in fit.problem.images)
            groups.setdefault((fit.layout.names, plans), []).append(k)
    out: list[ScenePosterior | None] = [None] * len(fits)

    def task(members: list[int]) -> list[ScenePosterior | None]:
        return _sampled([fits[k] for k in members], torch.tensor(members), settings)

    device = next((fit.problem.base.device for fit in fits if fit.problem is not None), None)
    with object_threads(device or torch.device("cpu")) as run:
        tasks = []
        for members in groups.values():
            share = -(-len(members) // run.threads)
            size = max(4, min(_LARGEST_TASK, share))
            tasks += [members[i : i + size] for i in range(0, len(members), size)]
        for members, made in zip(tasks, run(task, tasks), strict=True):
            for k, one in zip(members, made, strict=True):
                out[k] = one
    return out


def _sampled(
    fits: Sequence[SceneFit], keys: torch.Tensor, settings: HMCSettings | None
) -> list[ScenePosterior | None]:
    """Posteriors of fits that share a layout."""
    problem = SceneProblem.join([fit.problem for fit in fits if fit.problem is not None])
    device = problem.base.device

    def tensor(arrays: list[np.ndarray]) -> torch.Tensor:
        return torch.as_tensor(np.stack(arrays), device=device)

    theta = tensor([fit.theta for fit in fits])
    limits = tensor([fit.limits for fit in fits if fit.limits is not None])
    lower, upper = limits.unbind(1)
    state = problem.evaluate(torch.arange(len(fits), device=device), theta)
    covariance, _ = laplace(state.matrix, lower == upper)
    samples = sample_hmc(
        problem.log_density, theta, covariance, lower, upper, settings, keys.to(device)
    )
    out: list[ScenePosterior | None] = []
    for k, fit in enumerate(fits):
        one = samples.select(torch.tensor([k], device=device))
        if not bool(one.ok[0]):
            out.append(None)
            continue
        names, values = draws_to_values(fit, one.draws[0].flatten(0, 1))
        chains, count = one.draws.shape[1:3]
        out.append(ScenePosterior(names, values.reshape(chains, count, -1), one))
    return out


def with_posterior(fit: SceneFit, posterior: ScenePosterior) -> SceneFit:
    """The fit with the errors of its posterior: half of the central 68.3 % intervals."""
    low, high = np.quantile(posterior.draws.reshape(-1, len(posterior.names)), [0.15865, 0.84135],
                            axis=0)  # fmt: skip
    half = (high - low) / 2
    flat = posterior.draws.reshape(-1, len(posterior.names))
    v = len(fit.names)
    known = np.isfinite(fit.errors)
    errors = np.where(known, half[:v], fit.errors)
    fraction = posterior.names.index("fraction") if "fraction" in posterior.names else None
    return dataclasses.replace(
        fit,
        errors=errors,
        cov=np.cov(flat[:, :v].T),
        fraction_err=fit.fraction_err if fraction is None else float(half[fraction]),
    )
