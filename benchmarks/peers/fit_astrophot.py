"""Fit stamps with AstroPhot's Levenberg-Marquardt: Sérsic + flat sky, convolved with the PSF.

    python fit_astrophot.py stamps.npz answers.json FIRST LAST [THREADS]

Files: see exchange.py. One object at a time by `ap.fit.LM` with its defaults (float64, sampling
"auto"), as its documentation shows.
"""

from __future__ import annotations

import logging
import math
from importlib.metadata import version

import astrophot as ap
import numpy as np
import torch
from exchange import Answer, Planes, flux_and_error, intensity_per_flux, run

SETTINGS = {
    "model": "sersic galaxy model + flat sky model, psf_convolve",
    "solver": "ap.fit.LM with its defaults (float64, sampling auto), one start",
    "start": "the given one",
    "errors": "covariance_matrix of LM; the flux's from Ie, Re, n and q with their covariance",
}


def build(data, sigma, mask, psf, start):
    """The model of one stamp at its starting values: the galaxy, the sky and both together."""
    x, y, flux, re, n, q, pa, sky = start
    target = ap.TargetImage(
        data=data, variance=sigma**2, mask=mask, psf=ap.PSFImage(data=psf), pixelscale=1.0
    )
    galaxy = ap.Model(
        name="galaxy",
        model_type="sersic galaxy model",
        target=target,
        psf_convolve=True,
        center=[x, y],
        q=min(q, 0.98),
        PA=np.deg2rad(pa % 180.0),
        n=n,
        Re=re,
        Ie=flux * intensity_per_flux(re, n, q),
    )
    background = ap.Model(name="sky", model_type="flat sky model", target=target, I0=sky)
    model = ap.Model(
        name="both", model_type="group model", models=[galaxy, background], target=target
    )
    model.initialize()
    return model, galaxy, background


def covariance_of(result, model, galaxy) -> np.ndarray | None:
    """Covariance of (Ie, Re, n, q), or None where it is not finite."""
    covariance = result.covariance_matrix.detach().cpu().numpy()
    if not np.isfinite(covariance).all():
        return None
    places, at = {}, 0
    for parameter in model.dynamic_params:
        places[id(parameter)] = at
        at += int(np.prod(parameter.shape)) if parameter.shape else 1
    index = [places[id(getattr(galaxy, name))] for name in ("Ie", "Re", "n", "q")]
    return covariance[np.ix_(index, index)]


def error_of(parameter) -> np.ndarray:
    """Uncertainty of a parameter, NaN where there is none."""
    found = parameter.uncertainty
    if found is None:
        return np.full(parameter.npvalue.shape, math.nan)
    return np.asarray(found.detach().cpu().numpy())


def fit(planes: Planes, threads: int) -> Answer:
    """The fit of one stamp."""
    torch.set_num_threads(threads)
    model, galaxy, background = build(*planes)
    result = ap.fit.LM(model, verbose=0).fit()
    (x, y), q, pa, n, re, intensity = (
        getattr(galaxy, name).npvalue for name in ("center", "q", "PA", "n", "Re", "Ie")
    )
    (ex, ey), eq, epa, en, ere = (
        error_of(getattr(galaxy, name)) for name in ("center", "q", "PA", "n", "Re")
    )
    covariance = covariance_of(result, model, galaxy)
    flux, eflux = flux_and_error(float(intensity), float(re), float(n), float(q), covariance)
    sky, esky = background.I0.npvalue, error_of(background.I0)
    values = [x, y, flux, re, n, q, np.rad2deg(pa) % 180, sky]
    errors = [ex, ey, eflux, ere, en, eq, np.rad2deg(epa), esky]
    good = "success" in result.message and "immobility" not in result.message
    return Answer([float(v) for v in values], [float(v) for v in errors], good, result.message)


if __name__ == "__main__":
    logging.getLogger().setLevel(logging.ERROR)
    run(version("astrophot"), fit, threads=(1, 2))
