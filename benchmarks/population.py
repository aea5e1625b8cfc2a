"""Populations from many fits: python benchmarks/population.py [SECTIONS] [--docs]

- ``simulated``: populations of 2 000 galaxies, limited in magnitude and S/N, whose errors depend on
  the galaxy and whose fits had a prior: bias and coverage of every number.
- ``controls``: the same without the selection, with the prior left in, with errors ignored.
- ``outliers``: 5 % of the errors are four times too small.
- ``shrinkage``: the objects with the population as their prior.
- ``large``: time and memory.
- ``candels``: the size-mass relation of star-forming galaxies in COSMOS (3D-HST, CANDELS).
"""

from __future__ import annotations

import resource
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from astropy.cosmology import FlatLambdaCDM
from astropy.table import Table
from documents import DATA, Section, run_sections

from autofit_ml.population import PopulationPosterior, PopulationSettings, fit_population

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
    settings = PopulationSettings(sampler="laplace")
    every = np.array([pulls(fitted(simulate(2000, seed), settings)) for seed in range(populations)])
    for name, one in zip(TRUTH, every.T, strict=True):
        inside = 100 * np.mean(np.abs(one) < 1)
        yield f"`{name}`", f"{one.mean():+.2f}", f"{one.std():.2f}", f"{inside:.0f} %"


def controls(populations: int) -> Iterable[Sequence[str]]:
    """What goes wrong without each part, mean pull of the numbers that suffer most."""
    settings = PopulationSettings(sampler="laplace")
    nothing = np.full((2000, 3), 1e-3)
    changes: dict[str, dict[str, Any]] = {
        "all of it": {},
        "no selection": {"selection": None},
        "priors of the fits left in": {"interim": "flat"},
        "errors ignored": {"cov": nothing, "interim": "flat", "noise": "fixed", "outliers": False,
                           "selection": {"mag": LIMITS["mag"]}, "measured": {}},
        "errors as fitted": {"noise": "fixed"},
    }  # fmt: skip
    for label, changed in changes.items():
        off = np.mean(
            [pulls(fitted(simulate(2000, s), settings, **changed)) for s in range(populations)], 0
        )
        yield label, *(f"{value:+.1f}" for value in off)


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
    torch.set_num_threads(2)
    began = time.process_time()
    found = fit_population(
        x + sigma * rng.standard_normal((n, d)),
        sigma,
        interim="flat",
        model={"type": "galaxy", "parameters": body},
        noise="fixed",
        settings=PopulationSettings(draws=60, warmup=40, shells=2, frames=1),
    )
    minutes = (time.process_time() - began) / 60
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    truth = {"p0.mean": -1.0, "p0.sd": 0.5}
    for k, name in enumerate(names[1:], 1):
        truth |= {f"{name}.mean": level[k], f"{name}.slope": 0.3, f"{name}.scatter": 0.5}
    worst = np.abs(pulls(found, truth)).max()
    rhat = found.diagnostics["rhat"]
    yield f"{n}", f"{n * d}", f"{minutes:.1f}", f"{memory:.2f}", f"{rhat:.3f}", f"{worst:.1f}"


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


SECTIONS = {
    "simulated": Section(simulated, ("number", "bias", "sd", "within 1 σ"), 30, "population.md"),
    "controls": Section(controls, ("", *(f"`{k}`" for k in TRUTH)), 3, "population.md"),
    "outliers": Section(outliers, ("", "scatter of ln n (0.5)", "share"), 3, "population.md"),
    "shrinkage": Section(
        shrinkage,
        ("σ(ln re)", "objects", "rms before", "rms after", "within 1 σ"),
        3,
        "population.md",
    ),
    "large": Section(
        large,
        ("objects", "latent parameters", "core minutes", "GB", "R-hat", "largest pull"),
        100_000,
        "population.md",
    ),
    "candels": Section(candels, ("number", "found", "published"), 1, "population.md"),
}

if __name__ == "__main__":
    run_sections(__doc__ or "", SECTIONS)
