"""Fit stamps with pysersic: Sérsic + flat sky, Laplace approximation of the posterior.

    python fit_pysersic.py stamps.npz answers.json FIRST LAST

Files: see exchange.py. Every fit is compiled anew, as in its own tutorials: that is part of what a
fit costs there, and counted.
"""

from __future__ import annotations

import contextlib
import os
from importlib.metadata import version

import numpy as np
from exchange import Answer, Planes, run
from jax.random import PRNGKey
from pysersic import FitSingle
from pysersic.loss import gaussian_loss
from pysersic.priors import SourceProperties

SETTINGS = {
    "model": 'sersic with sky_type="flat", HybridRenderer (15 Gaussians; the default)',
    "priors": "SourceProperties.generate_prior, its guesses set to the given start",
    "prior of the flux": "width of half the flux (the default, 2 √flux, supposes electrons)",
    "solver": 'FitSingle, gaussian_loss, estimate_posterior(method="laplace")',
    "values": "medians of 1 000 draws",
    "errors": "half the distance of the draws' 16 and 84 % points",
}


def fit(planes: Planes, threads: int) -> Answer:
    """The fit of one stamp; the threads are all that JAX finds."""
    data, sigma, mask, psf, (x, y, flux, re, n, q, pa, sky) = planes
    properties = SourceProperties(data, mask=mask)
    properties.set_flux_guess(flux, 0.5 * flux)
    properties.set_r_eff_guess(re)
    properties.set_position_guess((x, y))
    properties.set_sky_guess(sky)
    properties.set_theta_guess(np.deg2rad(pa))
    prior = properties.generate_prior("sersic", sky_type="flat")
    fitter = FitSingle(data, sigma, psf, prior, mask=mask, loss_func=gaussian_loss)
    with open(os.devnull, "w") as quiet, contextlib.redirect_stderr(quiet):
        result = fitter.estimate_posterior(PRNGKey(1), method="laplace")
    draws = {
        name: np.asarray(result.idata.posterior[name]).reshape(-1)
        for name in ("xc", "yc", "flux", "r_eff", "n", "ellip", "theta", "sky_back")
    }
    # Angles around their mean direction, so that 0 and 180 degrees are the same.
    middle = 0.5 * np.angle(np.exp(2j * draws["theta"]).mean())
    draws["theta"] = middle + (draws["theta"] - middle + np.pi / 2) % np.pi - np.pi / 2
    low, half, high = np.percentile(np.array(list(draws.values())), [15.87, 50, 84.13], axis=1)
    error = 0.5 * (high - low)
    half[5] = 1 - half[5]
    half[6], error[6] = np.rad2deg(half[6]) % 180, np.rad2deg(error[6])
    good = bool(np.isfinite(half).all() and np.isfinite(error).all())
    return Answer(list(map(float, half)), list(map(float, error)), good)


if __name__ == "__main__":
    run(version("pysersic"), fit, threads=(len(os.sched_getaffinity(0)),))
