"""Samplers against each other and against the truth: python benchmarks/posteriors.py [--docs]

- ``efficiency``: effective draws for 100 gradients, of the worst parameter and the worse of bulk
  and tail, warm-up included: an 8-dimensional Gaussian, a banana, simulated galaxies by S/N.
- ``faint``: simulated galaxies of S/N 12 to 20: medians and widths of Laplace, bootstrap, HMC and
  nested sampling.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from documents import Section, run_sections
from scenes import INDICES, fitted, labelled, psf_of, scaled, segmented

from autofit_ml.fitting import SceneFit, object_of
from autofit_ml.posterior import HMCSettings, NestedSettings, PosteriorSamples, sample_hmc
from autofit_ml.posterior.scenes import ScenePosterior, sample_fits
from autofit_ml.simulation import observe_scene
from autofit_ml.simulation.sources import Source

Density = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


# ------------------------------------------------------------------ efficiency


def by_autograd(log_density: Callable[[torch.Tensor], torch.Tensor]) -> Density:
    """ln p and gradient of a differentiable function of theta."""

    def density(index: torch.Tensor, theta: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        theta = theta.detach().requires_grad_(True)
        value = log_density(theta)
        (gradient,) = torch.autograd.grad(value.sum(), theta)
        return value.detach(), gradient

    return density


def known_targets() -> dict[str, tuple[Density, torch.Tensor]]:
    """Densities in 8 dimensions, and a covariance to begin with."""
    eye = torch.eye(8, dtype=torch.float64)
    covariance = 0.95 * torch.ones_like(eye) + 0.05 * eye
    precision = torch.linalg.inv(covariance)

    def banana(theta: torch.Tensor) -> torch.Tensor:
        bent = (theta[:, 1] - 0.3 * (theta[:, 0] ** 2 - 1)) / 0.3
        return -0.5 * (theta[:, 0] ** 2 + bent**2 + theta[:, 2:].square().sum(1))

    return {
        "Gaussian, correlation 0.95": (
            by_autograd(lambda theta: -0.5 * ((theta @ precision) * theta).sum(1)),
            covariance,
        ),
        "banana (bend 0.3, width 0.3)": (by_autograd(banana), eye),
    }


def effective(samples: PosteriorSamples) -> np.ndarray:
    """Effective draws of the worst parameter for 100 gradients."""
    worst = torch.minimum(samples.ess_bulk, samples.ess_tail).nan_to_num(1e9).amin(1)
    return (100 * worst / samples.n_gradients).cpu().numpy()


def efficiency_row(name: str, samples: Sequence[PosteriorSamples]) -> list[str]:
    """One row."""
    rates = np.concatenate([effective(one) for one in samples])
    rhat = np.concatenate([one.rhat.nan_to_num(1.0).amax(1).cpu().numpy() for one in samples])
    return [
        name,
        str(len(rates)),
        f"{np.percentile(rates, 5):.1f} / {np.median(rates):.1f}",
        f"{100 * np.mean(rhat < 1.01):.0f} %",
        f"{rhat.max():.3f}",
    ]


def efficiency(number: int) -> list[list[str]]:
    """Effective draws for 100 gradients."""
    rows = []
    infinite = torch.full((number, 8), torch.inf, dtype=torch.float64)
    for name, (density, covariance) in known_targets().items():
        start = torch.zeros((number, 8), dtype=torch.float64)
        whole = covariance.expand(number, -1, -1)
        rows.append(efficiency_row(name, [sample_hmc(density, start, whole, -infinite, infinite)]))
    for low, high in ((100, 500), (40, 100), (20, 40)):
        fits, _ = single_galaxies(number, low, high, 60 + low)
        made = [one for one in sample_fits(fits, "hmc") if one is not None]
        rows.append(efficiency_row(f"galaxies, S/N {low}-{high}", [one.samples for one in made]))
        print(rows[-1], flush=True)
    return rows


def single_galaxies(
    number: int, low: float, high: float, seed: int
) -> tuple[list[SceneFit], list[Source]]:
    """Fits of Sérsic galaxies on 64 x 64 pixels with a free sky, and what was drawn."""
    rng = np.random.default_rng(seed)
    objects, sources = [], []
    for k in range(number):
        psf, shape = psf_of(rng), (64, 64)
        n, re = float(rng.choice(INDICES)), float(np.exp(rng.uniform(np.log(2.5), np.log(6))))
        x, y = 31.5 + rng.uniform(-0.5, 0.5, 2)
        source = Source(float(x), float(y), 1.0, re, n, rng.uniform(0.3, 1), rng.uniform(0, 180))
        snr = float(np.exp(rng.uniform(np.log(low), np.log(high))))
        target = scaled(source, snr, psf, shape)
        objects.append(observe_scene(f"p{k}", target, (), psf, shape, rng=rng, sky=5.0))
        sources.append(target)
    stamps = labelled(objects)
    found = segmented(stamps, "given")
    scenes = [object_of(s, g) for s, g in zip(stamps, found, strict=True)]
    return fitted(scenes, "sersic", keep=True)[0], sources


# ------------------------------------------------------------------ the methods side by side


def faint(number: int) -> list[list[str]]:
    """Median and half width of ln flux, ln re, n by four methods."""
    fits, sources = single_galaxies(number, 12, 20, 77)
    rows = []
    nested = NestedSettings(live=400, effective=1500, discard_exploration=False)
    made = {name: sample_fits(fits, name) for name in ("laplace", "bootstrap")}
    made["hmc"] = sample_fits(fits, "hmc", HMCSettings(draws=500, rounds=2))
    made["nested"] = sample_fits(fits, "nested", nested)
    for k, (fit, source) in enumerate(zip(fits, sources, strict=True)):
        snr = f"{fit.snr:.0f}"
        truth = [f"{np.log(source.flux):.2f}", f"{np.log(source.re):.2f}", f"{source.n:.2f}"]
        rows.append([f"S/N {snr}: truth", *truth, "", ""])
        for name, posteriors in made.items():
            one = posteriors[k]
            rows.append([name, *(["-"] * 5 if one is None else described(name, one))])
    return rows


def described(method: str, one: ScenePosterior) -> list[str]:
    """Medians, half widths, R-hat, cost."""
    out = []
    for key in ("flux", "re", "n"):
        middle, low, high = one.interval(f"sersic.{key}")
        if key != "n":
            middle, low, high = np.log([middle, low, high])
        out.append(f"{middle:.2f} ± {(high - low) / 2:.2f}")
    rhat = float(one.samples.rhat.nan_to_num(1.0).max())
    out.append(f"{rhat:.3f}" if method == "hmc" else "")
    return [*out, str(int(one.samples.n_gradients)) if method in ("hmc", "nested") else ""]


_EFFICIENCY = ["objects", "effective draws for 100 gradients, 5 % / median", "R-hat < 1.01",
               "largest R-hat"]  # fmt: skip

SECTIONS = {
    "efficiency": Section(efficiency, ["target", *_EFFICIENCY], 32, "posteriors.md"),
    "faint": Section(
        faint,
        ["galaxy, method", "ln flux", "ln re", "n", "R-hat", "evaluations"],
        3,
        "posteriors.md",
    ),
}


if __name__ == "__main__":
    run_sections(__doc__, SECTIONS)
