"""Posterior samples of fits: from `SceneFit`s with their problems to catalogue values.

In: fits of `autofit_ml.fitting.refine` made with ``RefineSettings(keep=True)``. Out: a
`ScenePosterior` for each, whose draws have the names, units and conventions of the fit's values.
Objects that share a layout and a plan are sampled together.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from autofit_ml.catalogue.flags import Flag
from autofit_ml.errors import SettingsError
from autofit_ml.fitting.flags import undetermined
from autofit_ml.fitting.levenberg_marquardt import minimise
from autofit_ml.fitting.parallel import object_threads
from autofit_ml.fitting.problem import SceneProblem
from autofit_ml.fitting.results import SceneFit
from autofit_ml.fitting.uncertainties import laplace
from autofit_ml.fitting.values import draws_to_values
from autofit_ml.posterior.bootstrap import BootstrapSettings, bootstrap
from autofit_ml.posterior.hmc import HMCSettings, LogDensity, sample_hmc
from autofit_ml.posterior.laplace import LaplaceSettings, sample_laplace
from autofit_ml.posterior.nested import NestedSettings, box_transform, sample_nested
from autofit_ml.posterior.samples import PosteriorSamples
from autofit_ml.posterior.watch import Watch

__all__ = ["METHODS", "ScenePosterior", "nested_box", "sample_fits", "widened", "with_posterior"]

Settings = LaplaceSettings | BootstrapSettings | HMCSettings | NestedSettings

_SETTINGS: dict[str, type[Settings]] = {
    "laplace": LaplaceSettings,
    "bootstrap": BootstrapSettings,
    "hmc": HMCSettings,
    "nested": NestedSettings,
}
METHODS = tuple(_SETTINGS)

_LARGEST_TASK = 64

_REACH = {
    **dict.fromkeys(("x", "y", "eta1", "eta2"), 3.0),
    **dict.fromkeys(("ln_flux", "ln_rc", "ln_re"), 2.0),
    **dict.fromkeys(("sky", "sky_dx", "sky_dy"), 1.0),
    "psf": 6.0,
    "pa": np.pi / 2,
}
"""Half sides of `nested_box`; skies: at least."""


@dataclass(frozen=True)
class ScenePosterior:
    """Draws of one object.

    Attributes
    ----------
    names : tuple of str
        As in `SceneFit.names`, then "fraction" where the target has several components.
    draws : ndarray, float64, (chains, draws, V)
        Catalogue values; angles within 90 degrees of the fit's. They are as wide as the total
        error (`widened`).
    errors_stat, cov_stat : ndarray, float64, (V,), (V, V)
        Half of the central 68.3 % intervals and covariance of the draws as the data alone make
        them.
    samples : PosteriorSamples
        Of this object alone, in the refiner's own parameters (``fit.layout.names``), as the data
        alone make them.
    log_evidence, log_evidence_err : float
        Of nested sampling; NaN for the other methods.
    """

    names: tuple[str, ...]
    draws: np.ndarray
    errors_stat: np.ndarray
    cov_stat: np.ndarray
    samples: PosteriorSamples
    log_evidence: float = float("nan")
    log_evidence_err: float = float("nan")

    def interval(self, name: str, share: float = 0.6827) -> tuple[float, float, float]:
        """Median of a value, and the ends of its central interval."""
        values = self.draws[..., self.names.index(name)].ravel()
        low, middle, high = np.quantile(values, [(1 - share) / 2, 0.5, (1 + share) / 2])
        return float(middle), float(low), float(high)


def sample_fits(
    fits: Sequence[SceneFit],
    method: str = "hmc",
    settings: Settings | None = None,
    *,
    watch: Watch | None = None,
    ids: Sequence[str] = (),
) -> list[ScenePosterior | None]:
    """Draw from the posteriors of fitted scenes.

    Parameters
    ----------
    fits : sequence of SceneFit
        With their problems (``RefineSettings(keep=True)``).
    method : {"laplace", "bootstrap", "hmc", "nested"}
        "bootstrap" resamples residuals (in blocks where the noise is correlated) and fits again;
        "nested" also gives the evidence, its prior being flat in the box of `nested_box` for
        parameters without a prior of their own.
    settings : LaplaceSettings, BootstrapSettings, HMCSettings or NestedSettings, optional
        Of the method.
    watch : Watch, optional
        Pictures of the best model so far, of "hmc" and "nested".
    ids : sequence of str
        Of the objects, for it.

    Returns
    -------
    list of ScenePosterior or None
        In order; None where there is no fit, or nothing could be drawn.

    Raises
    ------
    SettingsError
        An unknown method, settings of another one, a fit without its problem.
    """
    if method not in _SETTINGS:
        raise SettingsError(f"posterior {method!r}", f"use one of: {', '.join(METHODS)}")
    settings = settings or _SETTINGS[method]()
    if not isinstance(settings, _SETTINGS[method]):
        raise SettingsError(
            f"{type(settings).__name__} for {method}", f"give {_SETTINGS[method].__name__}"
        )
    if any(fit.layout is not None and fit.problem is None for fit in fits):
        raise SettingsError("a fit without its problem", "fit with RefineSettings(keep=True)")
    groups: dict[tuple, list[int]] = {}
    for k, fit in enumerate(fits):
        if fit.problem is not None and fit.layout is not None:
            plans = tuple(id(image.plan) for image in fit.problem.images)
            groups.setdefault((fit.layout.names, plans), []).append(k)
    out: list[ScenePosterior | None] = [None] * len(fits)

    def task(members: list[int]) -> list[ScenePosterior | None]:
        some = [fits[k] for k in members]
        if isinstance(settings, NestedSettings):
            return [_nested(fits[k], settings, watch, [*ids][k : k + 1]) for k in members]
        names = [ids[k] for k in members] if watch is not None else []
        return _sampled(some, torch.tensor(members), settings, watch, names)

    device = next((fit.problem.base.device for fit in fits if fit.problem is not None), None)
    with object_threads(device or torch.device("cpu")) as run:
        tasks = []
        for members in groups.values():
            share = -(-len(members) // run.threads)
            least = 1 if isinstance(settings, NestedSettings) else 4
            size = max(least, min(_LARGEST_TASK, share))
            tasks += [members[i : i + size] for i in range(0, len(members), size)]
        for members, made in zip(tasks, run(task, tasks), strict=True):
            for k, one in zip(members, made, strict=True):
                out[k] = one
    return out


def _density(problem: SceneProblem, watch: Watch | None, ids: Sequence[str]) -> LogDensity:
    """The log density of a problem, watched where that is wanted."""
    if watch is None:
        return problem.log_density
    seen = watch.of(problem, ids)

    def density(index: torch.Tensor, theta: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        value, slope = problem.log_density(index, theta)
        seen.see(index, theta, value)
        return value, slope

    return density


def _sampled(
    fits: Sequence[SceneFit],
    keys: torch.Tensor,
    settings: Settings,
    watch: Watch | None,
    ids: Sequence[str],
) -> list[ScenePosterior | None]:
    """Posteriors of fits that share a layout."""
    problem = SceneProblem.join([fit.problem for fit in fits if fit.problem is not None])
    device = problem.base.device
    keys = keys.to(device)

    def tensor(arrays: list[np.ndarray]) -> torch.Tensor:
        return torch.as_tensor(np.stack(arrays), device=device)

    theta = tensor([fit.theta for fit in fits])
    lower, upper = tensor([fit.limits for fit in fits if fit.limits is not None]).unbind(1)
    if isinstance(settings, LaplaceSettings):
        covariance = tensor([fit.theta_cov_stat for fit in fits])
        samples = sample_laplace(theta, covariance, lower, upper, settings, keys)
    elif isinstance(settings, BootstrapSettings):
        samples = _bootstrapped(problem, fits, theta, lower, upper, settings, keys)
    elif isinstance(settings, HMCSettings):
        everyone = torch.arange(len(fits), device=device)
        covariance, _ = laplace(problem.evaluate(everyone, theta).matrix, lower == upper)
        density = _density(problem, watch, ids)
        samples = sample_hmc(density, theta, covariance, lower, upper, settings, keys)
    else:
        raise TypeError(type(settings).__name__)
    out: list[ScenePosterior | None] = []
    for k, fit in enumerate(fits):
        one = samples.select(torch.tensor([k], device=device))
        out.append(_finished(fit, one) if bool(one.ok[0]) else None)
    return out


def _finished(
    fit: SceneFit, one: PosteriorSamples, evidence: tuple[float, float] = (np.nan, np.nan)
) -> ScenePosterior:
    draws = one.draws[0].flatten(0, 1).to(torch.float64)
    names, plain = draws_to_values(fit, draws)
    wide = widened(fit, draws)
    values = plain if wide is draws else draws_to_values(fit, wide)[1]
    chains, count = one.draws.shape[1:3]
    return ScenePosterior(names, values.reshape(chains, count, -1), *_spread(plain), one, *evidence)


def widened(fit: SceneFit, draws: torch.Tensor) -> torch.Tensor:
    r"""Draws of theta (N, D) as wide as the total error, inside the bounds.

    Their distances from their mean are multiplied by the symmetric matrix T that turns the
    covariance S of the noise into the total one, :math:`T S T = S + M`: in every direction by the
    total error over that of the noise.
    """
    noise, total = fit.theta_cov_stat, fit.theta_cov
    if fit.limits is None or np.array_equal(noise, total):
        return draws
    free = np.diagonal(noise) > 0
    scale = np.where(free, np.sqrt(np.where(free, np.diagonal(noise), 1.0)), 1.0)
    unit = scale[:, None] * scale
    held = np.diag((~free).astype(float))  # neither wide nor widened
    root = _root(noise / unit + held)
    inverse = np.linalg.inv(root)
    stretch = inverse @ _root(root @ (total / unit + held) @ root) @ inverse
    turn = torch.as_tensor(scale[:, None] * stretch / scale, device=draws.device)
    middle = draws.mean(0)
    low, high = torch.as_tensor(fit.limits, device=draws.device)
    wide = middle + (draws - middle) @ turn.T
    return torch.maximum(torch.minimum(wide, high), low)


def _root(matrix: np.ndarray) -> np.ndarray:
    """Symmetric square root of a positive definite matrix."""
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    return (vectors * np.sqrt(np.clip(values, 1e-12, None))) @ vectors.T


def _spread(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Half of the central 68.3 % intervals of draws (N, V), and their covariance."""
    values = values[np.isfinite(values).all(1)]
    low, high = np.quantile(values, [0.15865, 0.84135], axis=0)
    return (high - low) / 2, np.cov(values.T)


def _bootstrapped(
    problem: SceneProblem,
    fits: Sequence[SceneFit],
    theta: torch.Tensor,
    lower: torch.Tensor,
    upper: torch.Tensor,
    settings: BootstrapSettings,
    keys: torch.Tensor,
) -> PosteriorSamples:
    """Refits to resampled residuals, all images of an object at once."""
    b, everyone = len(fits), torch.arange(len(fits), device=theta.device)
    whole = []
    for i in range(len(problem.images)):
        parts = torch.stack(problem.component_images(everyone, theta, i)).sum(0)
        whole.append(parts + problem.sky_image(everyone, theta, i))
    shapes = [image.data.shape[1:] for image in problem.images]
    single = len(shapes) == 1
    if not single and settings.scheme == "block":
        raise SettingsError("a block bootstrap of several images", "use scheme='wild'")

    def flat(planes: Sequence[torch.Tensor]) -> torch.Tensor:
        return planes[0] if single else torch.cat([p.reshape(b, 1, -1) for p in planes], 2)

    def refit(index: torch.Tensor, data: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        some = problem.select(index)
        if single:
            planes: Sequence[torch.Tensor] = [data]
        else:
            sizes = [ny * nx for ny, nx in shapes]
            planes = [
                part.reshape(len(index), *shape)
                for part, shape in zip(data.split(sizes, dim=2), shapes, strict=True)
            ]
        images = tuple(
            dataclasses.replace(image, data=plane)
            for image, plane in zip(some.images, planes, strict=True)
        )
        fitted = minimise(
            dataclasses.replace(some, images=images).evaluate,
            theta[index],
            lower[index],
            upper[index],
            problem.layout.max_step.to(theta.device),
        )
        return fitted.theta, fitted.converged

    return bootstrap(
        refit,
        flat([image.data for image in problem.images]),
        flat(whole),
        flat([image.root_weight > 0 for image in problem.images]),
        theta.shape[1],
        settings,
        sigma=flat([1 / image.root_weight for image in problem.images]),
        keys=keys,
    )


def nested_box(fit: SceneFit) -> tuple[np.ndarray, np.ndarray]:
    """The box in which nested sampling looks, in the refiner's parameters, (D,) each.

    Inside the bounds: positions within 3 pixels of the fit, fluxes and sizes within a factor of
    e^2, indices and other shapes anywhere, ellipticities within 3, skies within one pixel's noise
    (or 8 standard deviations, where that is more). It does not depend on how well a model fits, so
    that evidences of several models can be compared.
    """
    if fit.layout is None or fit.limits is None:
        raise ValueError("no fit")
    sigma = np.sqrt(np.clip(np.diagonal(fit.theta_cov_stat), 0, None))
    kinds = [name.rpartition(".")[2].partition("[")[0] for name in fit.layout.names]
    reach = np.array([_REACH.get(re.sub(r"^psf_\d+", "psf", kind), np.inf) for kind in kinds])
    skies = [kind.startswith("sky") for kind in kinds]
    reach[skies] = np.maximum(reach, 8 * sigma)[skies]
    low, high = fit.limits
    return np.maximum(low, fit.theta - reach), np.minimum(high, fit.theta + reach)


def _nested(
    fit: SceneFit, settings: NestedSettings, watch: Watch | None, ids: Sequence[str]
) -> ScenePosterior | None:
    """Nested sampling of one object."""
    problem, layout = fit.problem, fit.layout
    if problem is None or layout is None:
        return None
    low, high = nested_box(fit)
    free = np.flatnonzero(low < high)
    device = problem.base.device
    fixed = torch.as_tensor(fit.theta, device=device)
    columns = torch.as_tensor(free, device=device)

    def whole(some: torch.Tensor | np.ndarray) -> torch.Tensor:
        theta = fixed.expand(len(some), -1).clone()
        theta[:, columns] = torch.as_tensor(some, device=device)
        return theta

    density = _density(problem, watch, ids)

    def log_likelihood(some: torch.Tensor) -> torch.Tensor:
        index = torch.zeros(len(some), dtype=torch.int64, device=device)
        return density(index, whole(some))[0]

    result = sample_nested(
        log_likelihood,
        box_transform(low[free], high[free]),
        [layout.names[j] for j in free],
        settings,
        device=device,
    )
    # A Gaussian is a density of its own: the box is not to count for what has one.
    known = problem.prior.precision[0].diagonal().cpu().numpy()[free] > 0
    log_evidence = result.log_evidence + np.log((high - low)[free][known]).sum()
    return _finished(fit, result.samples(whole), (log_evidence, result.log_evidence_err))


def with_posterior(fit: SceneFit, posterior: ScenePosterior) -> SceneFit:
    """The fit with the errors of its posterior: half of the central 68.3 % intervals.

    What had no error (fixed values) has none; the values stay those of the best fit. UNDETERMINED
    is what these errors say, unless it stands for light outside the stamp.
    """
    half, cov = _spread(posterior.draws.reshape(-1, len(posterior.names)))
    v = len(fit.names)
    spread = half[:v] > 0
    errors = np.where(spread, half[:v], np.nan)
    return dataclasses.replace(
        fit,
        errors=errors,
        flags=_judged(fit, errors),
        cov=cov[:v, :v],
        errors_stat=np.where(spread, posterior.errors_stat[:v], np.nan),
        cov_stat=posterior.cov_stat[:v, :v],
        posterior=posterior,
    )


def _judged(fit: SceneFit, errors: np.ndarray) -> int:
    """The fit's flags with other errors."""
    fluxes: dict[str, float] = {}
    for name, value in zip(fit.names, fit.values, strict=True):
        component, _, parameter = name.partition("[")[0].rpartition(".")
        if parameter == "flux":
            fluxes.setdefault(component, float(np.nan_to_num(value, nan=-np.inf)))
    main = max(fluxes, key=lambda component: fluxes[component])
    mark = int(Flag.UNDETERMINED)
    if undetermined(fit.names, fit.values, errors, main):
        return fit.flags | mark
    by_errors = undetermined(fit.names, fit.values, fit.errors, main)
    return fit.flags & ~mark if by_errors and not fit.flags & Flag.EXTRAPOLATED else fit.flags
