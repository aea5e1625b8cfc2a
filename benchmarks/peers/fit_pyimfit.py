"""Fit stamps with pyimfit's Levenberg-Marquardt: Sersic + FlatSky, convolved with the PSF.

    python fit_pyimfit.py stamps.npz answers.json FIRST LAST

stamps.npz: data, sigma (B, ny, nx), mask (B, ny, nx; True = bad), psf (B, h, w), start (B, 8: x, y,
flux, re, n, q, pa in degrees, sky; 0-based pixels). Settings are pyimfit's defaults
(pixel subsampling near the centre, ftol 1e-8). Every stamp is fitted with one thread and
with two; seconds are given for both.
"""

from __future__ import annotations

import json
import sys
import time

import numpy as np
import pyimfit
from scipy.special import gamma, gammaincinv


def intensity_per_flux(re: float, n: float, q: float) -> float:
    """Brightness at re of a Sérsic profile of unit flux (Graham & Driver 2005, eqs. 2 and 4)."""
    b = gammaincinv(2 * n, 0.5)
    return 1.0 / (2 * np.pi * q * re**2 * n * np.exp(b) * b ** (-2 * n) * gamma(2 * n))


def fit(data, sigma, mask, psf, start, threads) -> tuple[list[float], float, bool]:
    """Parameters (x, y, flux, re, n, q, pa, sky), seconds, converged."""
    x, y, flux, re, n, q, pa, sky = start
    ny, nx = data.shape
    began = time.perf_counter()
    model = pyimfit.SimpleModelDescription()
    model.x0.setValue(x + 1, [1, nx])  # 1-based
    model.y0.setValue(y + 1, [1, ny])
    sersic = pyimfit.make_imfit_function("Sersic")
    sersic.PA.setValue(pa, [-360, 360])
    sersic.ell.setValue(1 - q, [0, 0.95])
    sersic.n.setValue(n, [0.3, 8])
    intensity = flux * intensity_per_flux(re, n, q)
    sersic.I_e.setValue(intensity, [0, 1e6 * intensity])
    sersic.r_e.setValue(re, [0.05, 4.0 * max(nx, ny)])
    model.addFunction(sersic)
    background = pyimfit.make_imfit_function("FlatSky")
    background.I_sky.setValue(sky, [-1e6, 1e6])
    model.addFunction(background)
    fitter = pyimfit.Imfit(model, psf=psf, maxThreads=threads)
    result = fitter.fit(data, error=sigma, error_type="sigma", mask=mask, solver="LM")
    seconds = time.perf_counter() - began
    names = model.numberedParameterNames
    value = dict(zip([name.rsplit("_", 1)[0] for name in names], result.params, strict=True))
    q = 1 - value["ell"]
    flux = value["I_e"] / intensity_per_flux(value["r_e"], value["n"], q)
    answer = [
        value["X0"] - 1,
        value["Y0"] - 1,
        flux,
        value["r_e"],
        value["n"],
        q,
        value["PA"] % 180,
        value["I_sky"],
    ]
    return [float(v) for v in answer], seconds, bool(result.fitConverged)


def main() -> None:
    source, target, first, last = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    stamps = np.load(source)
    planes = [
        stamps[name].astype(np.float64) if name != "mask" else stamps[name]
        for name in ("data", "sigma", "mask", "psf", "start")
    ]
    for threads in (1, 2):  # loads libraries and starts threads
        fit(*(plane[first] for plane in planes), threads)
    answers: dict[int, list] = {1: [], 2: []}
    for i in range(first, last):
        for threads, those in answers.items():
            those.append(fit(*(plane[i] for plane in planes), threads))
    with open(target, "w") as stream:
        json.dump(
            {
                "version": pyimfit.__version__,
                "values": [a[0] for a in answers[1]],
                "seconds": {threads: [a[1] for a in those] for threads, those in answers.items()},
                "converged": [a[2] for a in answers[1]],
            },
            stream,
        )


if __name__ == "__main__":
    main()
