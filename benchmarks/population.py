"""Populations from many fits: python benchmarks/population.py [SECTIONS] [--docs]

- ``simulated``: populations of 2 000 galaxies, limited in magnitude and S/N, whose errors depend on
  the galaxy and whose fits had a prior: bias and coverage of every number.
- ``controls``: the same without the selection, with the prior left in, with errors ignored.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

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
    cov = options.pop("cov", sample.cov)
    return fit_population(sample.mu, cov, **options)
