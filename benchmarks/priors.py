"""What priors do for faint galaxies: python benchmarks/priors.py [--docs]

- ``faint``, ``blended``: single Sérsic galaxies on 64 x 64 pixels, and with neighbours on 96 x 96,
  by S/N, fitted without a prior, with ``broad`` and with the network's. Outliers are fits off by
  over 0.5 in ln re, unusable ones counted; shifts are from the fits without a prior, the largest of
  x, y, flux, re, n and q, in their standard errors.
- ``crowd``: galaxies of simulated SDSS frames of 1024 x 1024 pixels that were found, by S/N.
- ``referee``: the faintest of them beside HMC under the very population that they were drawn from:
  medians of its posterior are the best that this noise allows.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from default_pipeline import column
from documents import Section, run_sections
from validation import matched_galaxies

import autofit_ml
from autofit_ml.catalogue.flags import FATAL
from autofit_ml.fitting import Fits, RefineSettings, SceneFit, refine
from autofit_ml.fitting.priors import GaussianPrior
from autofit_ml.fitting.problem import SceneProblem
from autofit_ml.fitting.uncertainties import laplace
from autofit_ml.initialisation import initialise
from autofit_ml.posterior import HMCSettings, sample_hmc
from autofit_ml.segmentation import segment
from autofit_ml.simulation import (
    SimulatedObject,
    compose_recipe,
    export_fits,
    simulate_one,
    simulate_sersic,
    to_stamps,
)

PRIORS = ("none", "broad", "network")
NAMES = ("x", "y", "flux", "re", "n", "q")
EDGES = (10.0, 15.0, 30.0, 50.0, 100.0)
INDEX, SIZE, RATIO = (0.6, 5.5), (2.0, 8.0), (0.1, 1.0)
GALAXIES = {"psf_fwhm": (2.5, 4.0), "n": INDEX, "re": SIZE, "q": RATIO, "sky": 10.0}
SETS = {"faint": {"size": 64}, "blended": {"size": 96, "neighbours": 12.0}}
_EDGE, _ROUND = 0.02, 1e-2
"""Width of the population's walls in ln re; ellipticity below which its cusp is flat."""


def truth_of(objects: Sequence[SimulatedObject]) -> np.ndarray:
    """True values, (N, 6)."""
    return np.array([[getattr(one.target, name) for name in NAMES] for one in objects])


def fitted(objects: Sequence[SimulatedObject]) -> dict[str, Fits]:
    """Prior -> fits, all from the same segmentation and starts."""
    stamps = to_stamps(objects)
    found = segment(stamps)
    starts = initialise(stamps, found)
    return {
        prior: refine(stamps, None, starts, found, RefineSettings(prior=prior, keep=True))
        for prior in PRIORS
    }


def usable(fits: Fits) -> np.ndarray:
    """Rows without a fatal flag."""
    return (fits.flags & int(FATAL)) == 0


def size_cells(off: np.ndarray, use: np.ndarray) -> list[str]:
    """Bias, dispersion and outliers of ln re."""
    low, middle, high = np.percentile(off[use], [15.87, 50, 84.13])
    outliers = np.mean(~(np.abs(off) <= 0.5) | ~use)
    return [f"{middle:+.3f}", f"{(high - low) / 2:.3f}", f"{outliers:.3f}"]


def by_snr(number: int, name: str) -> list[list[str]]:
    """Usable fits, re, coverage and shifts by S/N and prior."""
    objects = simulate_sersic(number, seed=41, snr=(EDGES[0], EDGES[-1]), **GALAXIES, **SETS[name])
    truth, snr, fits = truth_of(objects), np.array([one.snr for one in objects]), fitted(objects)
    free, rows = fits["none"], []
    for low, high in itertools.pairwise(EDGES):
        members = (snr >= low) & (snr < high)
        for prior, made in fits.items():
            use = usable(made)
            values, errors = made.values[:, :6], made.errors[:, :6]
            good = members & use
            with np.errstate(all="ignore"):
                off = np.log(values[:, 3] / truth[:, 3])
                pulls = np.abs(values - truth)[good] / errors[good]
                moved = (np.abs(values - free.values[:, :6]) / free.errors[:, :6]).max(1)
                cover = [f"{100 * np.nanmean(pulls[:, k] < 1):.0f}" for k in (2, 3, 4, 5)]
            moved = moved[good & usable(free)]
            cells = size_cells(off[members], use[members])
            shift = f"{np.quantile(moved, 0.95):.2f} / {moved.max():.2f}" if len(moved) else ""
            rows.append(
                [f"S/N {low:g}-{high:g}, {prior}", str(members.sum()),
                 f"{100 * use[members].mean():.1f} %", *cells, " / ".join(cover), shift]
            )  # fmt: skip
    return rows


def crowd(number: int) -> list[list[str]]:
    """Usable fits and re of galaxies in frames, by true S/N and prior, from files to catalogue."""
    recipe = compose_recipe(["data=validation/frame", "data.shape=[1024,1024]"])
    objects = [simulate_one(recipe, k) for k in range(number)]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        images = export_fits(objects, Path(folder) / "images")
        for prior in ("none", "broad"):
            out = Path(folder) / prior
            table = autofit_ml.fit(images, out=out, mode="frame", save="none", prior=prior)
            truth, some = matched_galaxies(objects, table)
            use, off = np.asarray(some["use"], bool), np.log(column(some, "re") / truth["re"])
            for low, high in ((10, 15), (15, 30), (30, np.inf), (10, np.inf)):
                members = (truth["snr"] >= low) & (truth["snr"] < high)
                rows.append(
                    [f"S/N {low}-{high}, {prior}".replace("-inf", " and more"), str(members.sum()),
                     f"{100 * use[members].mean():.1f} %", *size_cells(off[members], use[members])]
                )  # fmt: skip
    return rows


def true_density(problem: SceneProblem):
    """ln posterior and gradient under the population: flat in ln flux, ln re and q, inside limits.

    The limits of n are those of the box; q flat is exp(-eta) / eta in the plane of (eta1, eta2).
    """
    names = [name.rpartition(".")[2] for name in problem.layout.names]
    size, first, second = (names.index(name) for name in ("ln_rc", "eta1", "eta2"))
    flat = GaussianPrior(
        torch.zeros_like(problem.prior.mean), torch.zeros_like(problem.prior.precision)
    )
    problem = dataclasses.replace(problem, prior=flat)

    def density(index: torch.Tensor, theta: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        value, slope = problem.log_density(index, theta)
        with torch.enable_grad():
            free = theta.detach().requires_grad_(True)
            eta = (free[:, first].square() + free[:, second].square() + _ROUND**2).sqrt()
            ln_re = free[:, size] + eta / 2
            inside = [(ln_re - math.log(SIZE[0])) / _EDGE, (math.log(SIZE[1]) - ln_re) / _EDGE,
                      (-math.log(RATIO[0]) - eta) / _EDGE]  # fmt: skip
            wall = sum(torch.nn.functional.logsigmoid(gap) for gap in inside)
            prior = wall - eta - eta.log()
            (change,) = torch.autograd.grad(prior.sum(), free)
        return value + prior.detach(), slope + change

    return density


def referee(number: int) -> list[list[str]]:
    """Sizes of galaxies of S/N 10 to 20, of each prior and of HMC under the truth."""
    objects = simulate_sersic(number, seed=42, snr=(10.0, 20.0), size=64, **GALAXIES)
    size, fits = truth_of(objects)[:, 3], fitted(objects)
    best, rhat = np.full(number, np.nan), np.full(number, np.nan)
    groups: dict[int, list[int]] = {}
    for k, fit in enumerate(fits["broad"]):
        if fit.problem is not None and fit.neighbours == 0:
            groups.setdefault(id(fit.problem.images[0].plan), []).append(k)
    for members in groups.values():
        best[members], rhat[members] = true_medians([fits["broad"][k] for k in members])
    known = np.flatnonzero(np.isfinite(best))
    answers = {
        f"--prior {prior}": (made.values[:, 3], usable(made)) for prior, made in fits.items()
    }
    median, most = np.quantile(rhat[known], [0.5, 0.9])
    answers[f"HMC under the truth (R-hat {median:.2f}, of 90 % below {most:.2f})"] = best, best > 0
    return [
        [name, str(len(known)), f"{100 * use[known].mean():.1f} %",
         *size_cells(np.log(found / size)[known], use[known])]
        for name, (found, use) in answers.items()
    ]  # fmt: skip


def true_medians(fits: Sequence[SceneFit]) -> tuple[np.ndarray, np.ndarray]:
    """Posterior medians of re under the population, NaN where none was drawn, and R-hat."""
    problem = SceneProblem.join([fit.problem for fit in fits if fit.problem is not None])
    names = [name.rpartition(".")[2] for name in problem.layout.names]
    theta = torch.as_tensor(np.stack([fit.theta for fit in fits]))
    limits = np.stack([fit.limits for fit in fits if fit.limits is not None])
    lower, upper = torch.as_tensor(limits).unbind(1)
    at = names.index("ln_n")
    lower[:, at], upper[:, at] = math.log(INDEX[0]), math.log(INDEX[1])
    matrix = problem.evaluate(torch.arange(len(fits)), theta).matrix
    covariance, _ = laplace(matrix, lower == upper)
    settings = HMCSettings(draws=60, warmup=80, rounds=1, max_steps=16)
    made = sample_hmc(true_density(problem), theta, covariance, lower, upper, settings)
    eta = torch.hypot(*(made.draws[..., names.index(name)] for name in ("eta1", "eta2")))
    ln_re = (made.draws[..., names.index("ln_rc")] + eta / 2).flatten(1)
    rhat = made.rhat.nan_to_num(1).amax(1)
    return ln_re.median(1).values.exp().numpy(), rhat.numpy()


SIZES = ["galaxies", "usable", "re bias", "dispersion", "off by 0.5"]
BY_SNR = ["S/N, prior", *SIZES, "flux / re / n / q within 1 σ, %", "shift: 95 % / largest, σ"]
SECTIONS = {
    "faint": Section(lambda n: by_snr(n, "faint"), BY_SNR, 800, "validation.md"),
    "blended": Section(lambda n: by_snr(n, "blended"), BY_SNR, 400, "validation.md"),
    "crowd": Section(crowd, ["S/N, prior", *SIZES], 1, "validation.md"),
    "referee": Section(referee, ["estimate", *SIZES], 60, "validation.md"),
}

if __name__ == "__main__":
    run_sections(__doc__ or "", SECTIONS)
