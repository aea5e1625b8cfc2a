"""Populations from many fits: python benchmarks/population.py [SECTIONS] [--docs]

- ``simulated``: populations of 2 000 galaxies, limited in magnitude and S/N, whose errors depend on
  the galaxy and whose fits had a prior: bias and coverage of every number.
- ``chance``: what of that bias the populations themselves have, by their exact likelihood.
- ``controls``: the same without the selection, with the prior left in, with errors ignored.
- ``outliers``: 5 % of the errors are four times too small.
- ``shrinkage``: the objects with the population as their prior.
- ``large``: time and memory.
- ``propagation``: images asked again under their population, beside HMC of all their parameters.
- ``ranks``: simulation-based calibration (Talts et al. 2018, arXiv:1804.06788): ranks of numbers
  drawn from their priors among the draws inferred.
- ``numpyro``: the same numbers from numpyro.
- ``candels``: the size-mass relation of star-forming galaxies in COSMOS (3D-HST, CANDELS).
"""

from __future__ import annotations

import copy
import math
import resource
import subprocess
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from astropy.cosmology import FlatLambdaCDM
from astropy.table import Table
from documents import DATA, Section, run_sections
from peers.install import install
from scipy import stats

from autofit_ml.fitting import RefineSettings, SceneFit, refine
from autofit_ml.fitting.priors import GaussianPrior
from autofit_ml.fitting.problem import SceneProblem
from autofit_ml.initialisation import Starts
from autofit_ml.population import (
    PopulationPosterior,
    PopulationSettings,
    fit_population,
    refit_population,
)
from autofit_ml.posterior import HMCSettings, diagnose
from autofit_ml.posterior.chains import start_chains
from autofit_ml.posterior.reference import laplace_reference
from autofit_ml.segmentation import Segmentation
from autofit_ml.simulation import simulate_sersic, to_stamps

LIMITS = {"mag": (None, 24.0), "snr": (5.0, None)}
TRUTH = {
    "mag.mean": 23.0,
    "mag.sd": 1.2,
    "ln_re.mean": -0.8,
    "ln_re.slope": -0.27,
    "ln_re.scatter": 0.4,
    "ln_n.mean": 0.4,
    "ln_n.sd": 0.5,
}
MODEL = {
    "name": "galaxies",
    "type": "galaxy",
    "parameters": {
        "mag": {"unit": "mag", "band": "r", "normal": ["free", "free"]},
        "ln_re": {
            "unit": "arcsec",
            "on": "mag",
            "at": 23,
            "mean": "free",
            "slope": "free",
            "scatter": "free",
        },
        "ln_n": {"normal": ["free", "free"]},
    },
}
NAMES = ("mag", "ln_re", "ln_n")
PRIOR = np.array([0.6, -0.6, 0.6]), np.array([0.0, 0.6, 0.75])
"""Mean and standard deviation of the prior of the fits; 0: flat."""

FRESH = 280_000
"""First seed of the simulated populations: drawn once the code was as it is."""

CORRELATION = np.array([[1, -0.5, -0.3], [-0.5, 1, 0.6], [-0.3, 0.6, 1]])


@dataclass(frozen=True)
class Sample:
    """A catalogue: posteriors of N objects, their prior, S/N, and the truth."""

    mu: np.ndarray
    cov: np.ndarray
    interim: tuple[np.ndarray, np.ndarray]
    snr: np.ndarray
    truth: np.ndarray
    likelihood: tuple[np.ndarray, np.ndarray]


def snr_of(x: np.ndarray) -> np.ndarray:
    """S/N of galaxies (N, 3)."""
    return 14 * 10 ** (-0.4 * (x[:, 0] - 23)) * np.exp(-0.5 * (x[:, 1] + 0.8))


def covariance_of(x: np.ndarray) -> np.ndarray:
    """Covariance of the likelihood at parameters (N, 3)."""
    sigma = np.array([1.1, 1.9, 2.8]) / snr_of(x)[:, None]
    return sigma[:, :, None] * sigma[:, None] * CORRELATION


def simulate(n: int, seed: int, *, wrong: float = 0.0, limits: bool = True) -> Sample:
    """Galaxies that pass the limits, with their fits.

    Parameters
    ----------
    n, seed : int
    wrong : float
        Share of objects whose errors are four times too small.
    limits : bool
    """
    rng = np.random.default_rng(seed)
    t, m = TRUTH, 6 * n
    mag = t["mag.mean"] + t["mag.sd"] * rng.standard_normal(m)
    ln_re = t["ln_re.mean"] + t["ln_re.slope"] * (mag - 23)
    ln_re = ln_re + t["ln_re.scatter"] * rng.standard_normal(m)
    x = np.stack([mag, ln_re, t["ln_n.mean"] + t["ln_n.sd"] * rng.standard_normal(m)], 1)
    wide = np.where(rng.random(m) < wrong, 4.0, 1.0)
    root = np.linalg.cholesky(covariance_of(x)) * wide[:, None, None]
    seen = x + np.einsum("nij,nj->ni", root, rng.standard_normal((m, 3)))
    snr = snr_of(seen)
    kept = np.flatnonzero((seen[:, 0] < LIMITS["mag"][1]) & (snr > LIMITS["snr"][0]))
    kept = kept[:n] if limits else np.arange(n)
    cov = covariance_of(seen[kept])
    own = np.linalg.inv(cov)
    middle, sd = PRIOR
    precision = np.diag(np.where(sd > 0, 1 / np.where(sd > 0, sd, 1) ** 2, 0.0))
    posterior = np.linalg.inv(own + precision)
    pull = np.einsum("nij,nj->ni", own, seen[kept]) + precision @ middle
    mu = np.einsum("nij,nj->ni", posterior, pull)
    interim = (np.tile(middle, (len(kept), 1)), np.tile(precision, (len(kept), 1, 1)))
    return Sample(mu, posterior, interim, snr[kept], x[kept], (seen[kept], cov))


def fitted(
    sample: Sample, settings: PopulationSettings | None = None, **changed
) -> PopulationPosterior:
    """The population of a sample, as it should be inferred but for what is `changed`."""
    options = {
        "interim": sample.interim,
        "model": MODEL,
        "selection": LIMITS,
        "measured": {"snr": sample.snr},
        "names": NAMES,
        "settings": settings,
    } | changed
    torch.set_num_threads(1)  # small arrays
    cov = options.pop("cov", sample.cov)
    return fit_population(sample.mu, cov, **options)


def pulls(found: PopulationPosterior, truth: Mapping[str, float] = TRUTH) -> np.ndarray:
    """(median - truth) / error of each number of the truth."""
    rows = {row["name"]: row for row in found.table()}
    return np.array([(rows[k]["median"] - v) / rows[k]["error"] for k, v in truth.items()])


def simulated(populations: int) -> Iterable[Sequence[str]]:
    """Bias and coverage, a row for each number."""
    settings = PopulationSettings(draws=100, warmup=50)
    every = np.array(
        [pulls(fitted(simulate(2000, FRESH + k), settings)) for k in range(populations)]
    )
    for name, one in zip(TRUTH, every.T, strict=True):
        inside = 100 * np.mean(np.abs(one) < 1)
        bias = f"{one.mean():+.2f} ± {one.std() / math.sqrt(populations):.2f}"
        yield f"`{name}`", bias, f"{one.std():.2f}", f"{inside:.0f} %"


def scores(x: np.ndarray) -> np.ndarray:
    """Derivatives of ln of the population's density at (..., 3) by the numbers of `TRUTH`."""
    t = TRUTH
    sd, scatter, spread = t["mag.sd"], t["ln_re.scatter"], t["ln_n.sd"]
    d = x[..., 0] - 23
    z, n = (x[..., 0] - t["mag.mean"]) / sd, (x[..., 2] - t["ln_n.mean"]) / spread
    y = (x[..., 1] - t["ln_re.mean"] - t["ln_re.slope"] * d) / scatter
    columns = (z / sd, (z * z - 1) / sd, y / scatter, y * d / scatter, (y * y - 1) / scatter,
               n / spread, (n * n - 1) / spread)  # fmt: skip
    return np.stack(columns, -1)


def population_at(normal: np.ndarray) -> np.ndarray:
    """True parameters (..., 3) of standard normal numbers."""
    t = TRUTH
    mag = t["mag.mean"] + t["mag.sd"] * normal[..., 0]
    ln_re = t["ln_re.mean"] + t["ln_re.slope"] * (mag - 23) + t["ln_re.scatter"] * normal[..., 1]
    return np.stack([mag, ln_re, t["ln_n.mean"] + t["ln_n.sd"] * normal[..., 2]], -1)


def expected_score() -> np.ndarray:
    """Mean score of the galaxies that pass the limits, to 0.005 errors of 2 000 of them."""
    sobol = stats.qmc.Sobol(6, seed=0).random(1 << 20)
    normal = stats.norm.ppf(np.clip(sobol, 1e-12, 1 - 1e-12))
    x = population_at(normal)
    seen = x + np.einsum("nij,nj->ni", np.linalg.cholesky(covariance_of(x)), normal[:, 3:])
    kept = (seen[:, 0] < LIMITS["mag"][1]) & (snr_of(seen) > LIMITS["snr"][0])
    return scores(x[kept]).mean(0)


def exact_score(sample: Sample, points: int = 256) -> np.ndarray:
    """Score of each measurement at the truth, (N, 7), by importance sampling; no fit.

    Its mean over all samples is `expected_score`, whatever the code makes of them.
    """
    axes = population_at(np.concatenate([np.eye(3), np.zeros((1, 3))]))
    middle, axes = axes[3], (axes[:3] - axes[3]).T
    inverse = np.linalg.inv(axes @ axes.T)
    seen, cov = sample.likelihood
    own = np.linalg.inv(cov)
    narrow = np.linalg.inv(own + inverse)
    pull = np.einsum("nij,nj->ni", own, seen) + inverse @ middle
    turn = np.random.default_rng(0).random((len(seen), 1, 3))  # other points for each object
    sobol = (stats.qmc.Sobol(3, seed=0).random(points) + turn) % 1
    z = stats.norm.ppf(np.clip(sobol, 1e-9, 1 - 1e-9))
    x = np.einsum("nij,nj->ni", narrow, pull)[:, None]
    x = x + 1.3 * np.einsum("nij,nkj->nki", np.linalg.cholesky(narrow), z)
    unit = (seen[:, None] - x) * snr_of(x.reshape(-1, 3)).reshape(x.shape[:2])[..., None]
    cov = np.array([1.1, 1.9, 2.8]) * CORRELATION * np.array([[1.1], [1.9], [2.8]])
    ln = -0.5 * np.einsum("nki,ij,nkj->nk", unit, np.linalg.inv(cov), unit)
    ln += 3 * np.log(snr_of(x.reshape(-1, 3)).reshape(x.shape[:2]))
    off = x - middle
    ln += -0.5 * np.einsum("nki,ij,nkj->nk", off, inverse, off) + 0.5 * (z**2).sum(-1)
    weight = np.exp(ln - ln.max(1, keepdims=True))
    weight /= weight.sum(1, keepdims=True)
    return np.einsum("nk,nkj->nj", weight, scores(x))


def chance(populations: int) -> Iterable[Sequence[str]]:
    """How far the populations drawn lie from the truth by their exact likelihood, and we from them.

    The first is zero but for chance; the second is what the code adds, almost free of it.
    """
    expected, settings = expected_score(), PopulationSettings(sampler="laplace")
    total, information, ours = [], [], []
    for k in range(populations):
        sample = simulate(2000, FRESH + k)
        each = exact_score(sample) - expected
        total.append(each.sum(0))
        information.append(each.T @ each)
        ours.append(pulls(fitted(sample, settings)))
    cov = np.linalg.inv(np.mean(information, 0))
    exact = np.array(total) @ cov / np.sqrt(np.diag(cov))
    for name, one, more in zip(TRUTH, exact.T, (np.array(ours) - exact).T, strict=True):
        cells = (f"{v.mean():+.2f} ± {v.std() / math.sqrt(populations):.2f}" for v in (one, more))
        yield f"`{name}`", *cells


def controls(populations: int) -> Iterable[Sequence[str]]:
    """What goes wrong without each part: mean pulls, and their shifts from those with all of it.

    Where errors are ignored the maxima of the likelihoods are believed: posteriors are drawn to
    their priors, which hides a part of the scatter that the errors add.
    """
    settings = PopulationSettings(sampler="laplace")
    changes: dict[str, dict[str, Any]] = {
        "all of it": {},
        "no selection": {"selection": None},
        "priors of the fits left in": {"interim": "flat"},
        "errors ignored": {"cov": np.full((2000, 3), 1e-3), "interim": "flat", "noise": "fixed",
                           "outliers": False, "selection": {"mag": LIMITS["mag"]}, "measured": {}},
        "errors as fitted": {"noise": "fixed"},
    }  # fmt: skip
    right = None
    for label, changed in changes.items():
        samples = [simulate(2000, FRESH + 1000 + s) for s in range(populations)]
        if label == "errors ignored":
            samples = [replace(one, mu=one.likelihood[0]) for one in samples]
        off = np.mean([pulls(fitted(one, settings, **changed)) for one in samples], 0)
        right = off if right is None else right
        yield (
            label,
            *(f"{value:+.1f} ({value - at:+.1f})" for value, at in zip(off, right, strict=True)),
        )


def outliers(populations: int) -> Iterable[Sequence[str]]:
    """Scatter of ln n where 5 % of the errors are four times too small."""
    settings = PopulationSettings(sampler="laplace")
    for label, flag in (("with the outlier component", True), ("without", False)):
        found = [
            fitted(simulate(2000, seed, wrong=0.05), settings, outliers=flag)
            for seed in range(populations)
        ]
        scatter = np.mean([np.median(one["ln_n.sd"]) for one in found])
        share = np.mean([np.median(one["outliers"]) for one in found]) if flag else 0.0
        yield label, f"{scatter:.3f}", f"{share:.3f}" if flag else "-"


def shrinkage(populations: int) -> Iterable[Sequence[str]]:
    """Sizes before and after, by their error; no limits."""
    settings = PopulationSettings(sampler="laplace")
    rows = []
    for seed in range(populations):
        sample = simulate(2000, seed, limits=False)
        after = fitted(sample, settings, selection=None).shrink()
        sigma = np.sqrt(sample.likelihood[1][:, 1, 1])
        flat = sample.likelihood[0][:, 1] - sample.truth[:, 1]
        off = after.mean[:, 1] - sample.truth[:, 1]
        rows.append(np.stack([sigma, flat, off, off / after.errors[:, 1]]))
    sigma, flat, off, pull = np.concatenate(rows, 1)
    for low, high in ((0, 0.1), (0.1, 0.2), (0.2, 0.4), (0.4, 9)):
        some = (sigma >= low) & (sigma < high)
        if some.sum() > 20:
            before, rms = np.std(flat[some]), np.std(off[some])
            inside = 100 * np.mean(np.abs(pull[some]) < 1)
            label = f"{low:g}-{high:g}" if high < 9 else f"over {low:g}"
            yield label, f"{some.sum()}", f"{before:.3f}", f"{rms:.3f}", f"{inside:.0f} %"


def large(objects: int) -> Iterable[Sequence[str]]:
    """Time and memory of a large sample: five parameters an object."""
    rng = np.random.default_rng(0)
    n, d = objects, 5
    level, scatter = np.linspace(-1, 1, d), np.full(d, 0.5)
    x = level + scatter * rng.standard_normal((n, d))
    x[:, 1:] += 0.3 * (x[:, :1] - level[0])
    sigma = 0.2 * np.exp(0.3 * rng.standard_normal((n, d)))
    names = [f"p{k}" for k in range(d)]
    body: dict[str, Any] = {"p0": {"normal": ["free", "free"]}}
    for name in names[1:]:
        body[name] = {"on": "p0", "at": -1, "mean": "free", "slope": "free", "scatter": "free"}
    torch.set_num_threads(1)
    x = x + sigma * rng.standard_normal((n, d))
    truth = {"p0.mean": -1.0, "p0.sd": 0.5}
    for k, name in enumerate(names[1:], 1):
        truth |= {f"{name}.mean": level[k], f"{name}.slope": 0.3, f"{name}.scatter": 0.5}
    for sampler in ("laplace", "hmc"):
        began = time.process_time()
        found = fit_population(
            x,
            sigma,
            interim="flat",
            model={"type": "galaxy", "parameters": body},
            noise="fixed",
            settings=PopulationSettings(
                sampler=sampler, chains=2, draws=60, warmup=30, shells=2, frames=1
            ),
        )
        minutes = (time.process_time() - began) / 60
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        worst, figures = np.abs(pulls(found, truth)).max(), found.diagnostics
        row = (sampler, f"{n}", f"{n * d}", f"{minutes:.1f}", f"{memory:.2f}",
               f"{figures['rhat']:.3f}", f"{figures['ess']:.0f}", f"{worst:.1f}")  # fmt: skip
        print(*row, flush=True)
        yield row


def candels(_: int) -> Iterable[Sequence[str]]:
    """Sizes of star-forming galaxies at z 0.5-1 (van der Wel et al. 2014)."""
    table = Table.read(DATA / "population_3dhst" / "cosmos_3dhst_v4.1_dev.parquet")
    column = {n: np.ma.filled(np.ma.asarray(table[n], float), np.nan) for n in table.colnames}
    z, mass = column["z"], column["lmass"]
    known = (column["f125w_flag"] <= 1) & (z > 0.5) & (z < 1) & (mass > 9) & (mass < 11.5)
    size = column["f125w_re"]
    known &= (size > 0) & (column["f125w_re_err"] > 0) & (column["lssfr"] > -10)
    kpc = size * FlatLambdaCDM(71, 0.27).kpc_proper_per_arcmin(np.where(known, z, 1)).value / 60
    error = np.hypot(
        np.maximum(column["f125w_re_err"] / size, 0.01) / np.log(10), 0.15 * 0.22
    )  # of the size, and of the mass by the slope

    def line(mean: Any, slope: Any, scatter: Any) -> dict[str, Any]:
        return {"log_re": {"on": "lmass", "at": np.log10(5e10), "mean": mean, "slope": slope,
                           "scatter": scatter}}  # fmt: skip

    model = {
        "type": "galaxy",
        "components": {
            "late": {"weight": 0.9, "parameters": line("free", "free", "free")},
            "early": {"weight": 0.1, "parameters": line(0.42, 0.71, 0.11)},
        },
    }
    torch.set_num_threads(1)
    found = fit_population(
        np.log10(kpc[known])[:, None],
        error[known][:, None],
        interim="flat",
        model=model,
        covariates={"lmass": mass[known]},
        noise="fixed",
        settings=PopulationSettings(draws=200, warmup=100),
    )
    published = {"late.log_re.mean": 0.78, "late.log_re.slope": 0.22, "late.log_re.scatter": 0.16}
    for row in found.table():
        if row["name"] in published:
            ours = f"{row['median']:.3f} ± {row['error']:.3f}"
            yield f"`{row['name']}`", ours, f"{published[row['name']]:.2f}"


PRIORS = {
    "mag.mean": (23.0, 0.4),
    "mag.sd": (math.log(0.8), 0.25),
    "ln_re.mean": (-0.8, 0.3),
    "ln_re.slope": (-0.3, 0.2),
    "ln_re.scatter": (math.log(0.35), 0.25),
}
"""Mean and standard deviation of the truth, of its logarithm for scatters."""


def known_line(priors: Mapping[str, tuple[float, float]]) -> dict[str, Any]:
    """A population of magnitudes and sizes with such priors."""
    own = {
        name: {"log-normal": [math.exp(at), sd]}
        if name.endswith(("sd", "scatter"))
        else {"normal": [at, sd]}
        for name, (at, sd) in priors.items()
    }
    size = {name: own[f"ln_re.{name}"] for name in ("mean", "slope", "scatter")}
    return {
        "type": "galaxy",
        "parameters": {
            "mag": {"unit": "mag", "band": "r", "normal": [own["mag.mean"], own["mag.sd"]]},
            "ln_re": {"unit": "arcsec", "on": "mag", "at": 23, **size},
        },
    }


def drawn_line(h: Sequence[float], n: int, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """Measurements (n, 2) brighter than 24 and their covariances, of numbers in their order."""
    m = 100 * n
    mag = h[0] + h[1] * rng.standard_normal(m)
    x = np.stack([mag, h[2] + h[3] * (mag - 23) + h[4] * rng.standard_normal(m)], 1)
    cov = np.outer([0.3, 0.4], [0.3, 0.4]) * np.array([[1, -0.5], [-0.5, 1]])
    seen = x + rng.standard_normal((m, 2)) @ np.linalg.cholesky(cov).T
    seen = seen[seen[:, 0] < 24][:n]
    return seen, np.broadcast_to(cov, (len(seen), 2, 2))


def ranks(populations: int) -> Iterable[Sequence[str]]:
    """Ranks of true numbers among those inferred, in tenths, and the chance of such ones."""
    torch.set_num_threads(1)
    every = []
    for seed in range(populations):
        rng = np.random.default_rng([28, seed])
        h = [
            math.exp(v) if name.endswith(("sd", "scatter")) else v
            for name, v in ((k, rng.normal(*prior)) for k, prior in PRIORS.items())
        ]
        mu, cov = drawn_line(h, 60, rng)
        found = fit_population(
            mu, cov, interim="flat", model=known_line(PRIORS), selection={"mag": (None, 24)},
            noise="fixed", outliers=False,
            settings=PopulationSettings(draws=100, warmup=50, shells=4, frames=2),
        )  # fmt: skip
        every.append([np.mean(found[name] < v) for name, v in zip(PRIORS, h, strict=True)])
    for name, rank in zip(PRIORS, np.array(every).T, strict=True):
        counts = np.histogram(rank, 10, (0, 1))[0]
        even, smooth = stats.chisquare(counts).pvalue, stats.kstest(rank, "uniform").pvalue
        yield f"`{name}`", " ".join(map(str, counts)), f"{even:.2f}", f"{smooth:.2f}"


def numpyro(objects: int) -> Iterable[Sequence[str]]:
    """The same numbers from numpyro, whose objects' true values are parameters."""
    priors = {"mag.mean": (23.0, 2.0), "mag.sd": (0.0, 1.0), "ln_re.mean": (-1.0, 2.0),
              "ln_re.slope": (0.0, 1.0), "ln_re.scatter": (-1.0, 1.0)}  # fmt: skip
    mu, cov = drawn_line([23.0, 0.8, -0.8, -0.3, 0.35], objects, np.random.default_rng(2812))
    found = fit_population(mu, cov, interim="flat", model=known_line(priors), noise="fixed",
                           outliers=False, settings=PopulationSettings(draws=500))  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "measured.npz", Path(folder) / "draws.npz"
        np.savez(source, mu=mu, cov=cov)
        script = Path(__file__).parent / "peers" / "fit_numpyro.py"
        subprocess.run([str(install("numpyro")), str(script), str(source), str(target)], check=True)
        theirs = dict(np.load(target))
    for name, draws in theirs.items():
        ours = found[name]
        yield (
            f"`{name}`", f"{ours.mean():.3f} ± {ours.std():.3f}",
            f"{draws.mean():.3f} ± {draws.std():.3f}",
            f"{(ours.mean() - draws.mean()) / draws.std():+.2f}",
        )  # fmt: skip


SIZES = {
    "type": "galaxy",
    "parameters": {
        "ln_n": {"normal": [{"normal": [0.5, 1]}, {"log-normal": [0.2, 0.7]}]},
        "ln_rc": {"normal": [{"normal": [1, 1]}, {"log-normal": [0.2, 0.7]}]},
    },
}


def faint_images(n: int, same: bool) -> list[SceneFit]:
    """Fits of images of S/N 15 to 50, with their problems; `same`: of one Sérsic index."""
    index = (1.5, 1.5) if same else (0.8, 2.5)
    objects = simulate_sersic(n, seed=2811, size=40, snr=(15.0, 50.0), psf_fwhm=(2.5, 2.5), n=index,
                              re=(2.5, 4.0), sky=10.0)  # fmt: skip
    truth = [[getattr(o.target, k) for k in ("x", "y", "flux", "re", "n", "q", "pa")] + [o.sky]
             for o in objects]  # fmt: skip
    found = [Segmentation(o.labels * (o.labels == 1), 1, o.labels > 1, o.sky, 1.0) for o in objects]
    starts = Starts(np.array(truth), None, np.zeros(n, np.int32))
    settings = RefineSettings(keep=True, model_error=False, neighbours="mask")
    return list(refine(to_stamps(objects), None, starts, found, settings))


def jointly(fits: Sequence[SceneFit], same: bool, draws: int) -> tuple[np.ndarray, float]:
    """Draws of the hyperparameters by HMC of all parameters of all images, and R-hat.

    The vector: every object's own numbers, then one index (`same`) or its mean and ln scatter, then
    mean and ln scatter of ln rc.
    """
    n, names = len(fits), [name.partition(".")[2] or name for name in fits[0].layout.names]
    d, k, size = len(names), names.index("ln_n"), names.index("ln_rc")
    groups: dict[tuple[int, ...], list[int]] = {}
    for i, fit in enumerate(fits):
        groups.setdefault(tuple(id(image.plan) for image in fit.problem.images), []).append(i)
    problems = []
    for rows in groups.values():
        problem = SceneProblem.join([fits[i].problem for i in rows])
        precision = problem.prior.precision.clone()
        precision[:, [k, size]] = 0.0
        precision[:, :, [k, size]] = 0.0
        prior = GaussianPrior(problem.prior.mean, precision)
        problems.append((torch.tensor(rows), replace(problem, prior=prior)))
    index = torch.arange(n * d).view(n, d)
    if same:
        index[:, k] = n * d
    more = 3 if same else 4
    whole = n * d + more

    def population(v: torch.Tensor) -> torch.Tensor:
        u = v[:, n * d :]
        total = -0.5 * ((u[:, 0] - 0.5) ** 2 + (u[:, -2] - 1) ** 2)
        for place, at in ((k, None if same else 0), (size, more - 2)):
            if at is not None:
                tau = u[:, at + 1]
                off = (v[:, index[:, place]] - u[:, at, None]) * (-tau).exp()[:, None]
                total = total - 0.5 * off.square().sum(1) - n * tau
                total = total - 0.5 * ((tau - np.log(0.2)) / 0.7) ** 2
        return total

    def density(_: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        a, theta = len(v), v[:, index]
        with torch.enable_grad():
            at = v.detach().requires_grad_(True)
            value = population(at)
            (slope,) = torch.autograd.grad(value.sum(), at)
        value = value.detach()
        for rows, problem in problems:
            one = torch.arange(len(rows)).repeat(a)
            ln_p, gradient = problem.log_density(one, theta[:, rows].reshape(-1, d))
            value = value + ln_p.view(a, -1).sum(1)
            gradient = gradient.view(a, -1)
            slope = slope.index_add(1, index[rows].flatten(), gradient)
        return value, slope

    start = torch.zeros(whole, dtype=torch.float64)
    low, high = torch.full((2, whole), np.inf, dtype=torch.float64)
    low = -low
    matrix = torch.zeros((whole, whole), dtype=torch.float64)
    theta = torch.as_tensor(np.stack([fit.theta for fit in fits]))
    start[-2:] = torch.tensor([theta[:, size].median(), np.log(0.3)])
    if not same:
        start[n * d : n * d + 2] = torch.tensor([theta[:, k].median(), np.log(0.3)])
    for rows, problem in problems:
        state = problem.evaluate(torch.arange(len(rows)), theta[rows])
        for i, one in zip(rows.tolist(), state.matrix, strict=True):
            matrix[index[i][:, None], index[i]] += one
            start[index[i]] = theta[i]
            low[index[i]], high[index[i]] = (torch.as_tensor(v) for v in fits[i].limits)
    if same:
        start[n * d] = theta[:, k].median()
    unused = torch.ones(whole, dtype=torch.bool)
    unused[index.flatten()] = False
    unused[n * d :] = False
    low[unused] = high[unused] = 0.0
    for place in (() if same else (k,)) + (size,):  # towards the population's mean
        start[index[:, place]] = 0.5 * (start[index[:, place]] + theta[:, place].median())
    curved = torch.autograd.functional.hessian(lambda v: population(v[None])[0], start)
    matrix = matrix - curved + torch.diag(unused.double())
    values, vectors = torch.linalg.eigh(matrix)
    cov = (vectors / values.abs().clamp_min(1.0)) @ vectors.T
    box = (start[None], cov[None], low[None], high[None])
    reference, good = laplace_reference(*box)
    settings = HMCSettings(max_steps=16)
    chains = start_chains(density, start[None], low[None], high[None], reference, good, settings,
                          torch.zeros(1, dtype=torch.int64))  # fmt: skip
    chains.warm_up(max(100, draws // 3), ())
    out = []
    for _ in range(draws):
        chains.step()
        out.append(chains.theta[:, n * d :].clone())
    drawn = torch.stack(out, 1)  # (chains, draws, hyper)
    rhat = float(diagnose(drawn[None])[0].max())
    return drawn.flatten(0, 1).numpy(), rhat


def propagation(objects: int) -> Iterable[Sequence[str]]:
    """Numbers of a population by expectation propagation and by HMC of everything."""
    torch.set_num_threads(1)
    for same in (False, True):
        fits = faint_images(objects, same)
        body = copy.deepcopy(SIZES)
        if same:
            body["parameters"]["ln_n"]["normal"][1] = 0
        began = time.process_time()
        found = refit_population(fits, model=body, settings=PopulationSettings(draws=250))
        spent = time.process_time() - began
        began = time.process_time()
        drawn, rhat = jointly(fits, same, 300)
        long = time.process_time() - began
        for j, name in enumerate(found.population.names):
            ours = found.population[name]
            if name.endswith(".sd"):
                ours = np.log(ours)
            error = drawn[:, j].std()
            off = (ours.mean() - drawn[:, j].mean()) / error
            yield (
                f"`{name}`" + (" (shared)" if same and j == 0 else ""),
                f"{drawn[:, j].mean():.3f} ± {error:.3f}", f"{rhat:.3f}", f"{off:+.2f}",
                f"{ours.std() / error:.2f}", f"{found.rounds}", f"{spent:.0f} / {long:.0f}",
            )  # fmt: skip


SECTIONS = {
    "simulated": Section(simulated, ("number", "bias", "sd", "within 1 σ"), 60, "population.md"),
    "chance": Section(
        chance, ("number", "exact likelihood", "ours beyond it"), 60, "population.md"
    ),
    "controls": Section(controls, ("", *(f"`{k}`" for k in TRUTH)), 12, "population.md"),
    "outliers": Section(outliers, ("", "scatter of ln n (0.5)", "share"), 3, "population.md"),
    "shrinkage": Section(
        shrinkage,
        ("σ(ln re)", "objects", "rms before", "rms after", "within 1 σ"),
        3,
        "population.md",
    ),
    "large": Section(
        large,
        (
            "sampler",
            "objects",
            "latent parameters",
            "core minutes",
            "GB",
            "R-hat",
            "ESS",
            "largest pull",
        ),
        100_000,
        "population.md",
    ),
    "propagation": Section(
        propagation,
        ("number", "HMC", "R-hat", "difference, sd", "errors", "rounds", "s, both"),
        50,
        "population.md",
    ),
    "ranks": Section(
        ranks, ("number", "ranks in tenths", "p (χ²)", "p (KS)"), 200, "population.md"
    ),
    "numpyro": Section(
        numpyro, ("number", "ours", "numpyro", "difference, sd"), 80, "population.md"
    ),
    "candels": Section(candels, ("number", "found", "published"), 1, "population.md"),
}

if __name__ == "__main__":
    run_sections(__doc__ or "", SECTIONS)
