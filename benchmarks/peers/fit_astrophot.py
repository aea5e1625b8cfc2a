"""Fit stamps with AstroPhot's Levenberg-Marquardt: Sérsic + flat sky, convolved with the PSF.

    python fit_astrophot.py stamps.npz answers.json FIRST LAST

stamps.npz: as for fit_pyimfit.py. One object at a time by `ap.fit.LM` with its defaults (float64,
sampling "auto"), as its documentation shows. Every stamp is fitted with one
thread and with two; seconds are given for both.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from importlib.metadata import version

import astrophot as ap
import numpy as np
import torch
from scipy.special import gamma, gammaincinv


def intensity_per_flux(re: float, n: float, q: float) -> float:
    """Brightness at re of a Sérsic profile of unit flux (Graham & Driver 2005, eqs. 2 and 4)."""
    b = gammaincinv(2 * n, 0.5)
    return 1.0 / (2 * np.pi * q * re**2 * n * np.exp(b) * b ** (-2 * n) * gamma(2 * n))


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


def fit(data, sigma, mask, psf, start) -> tuple[list[float], float, bool]:
    """Parameters (x, y, flux, re, n, q, pa, sky), seconds, converged."""
    began = time.perf_counter()
    model, galaxy, background = build(data, sigma, mask, psf, start)
    result = ap.fit.LM(model, verbose=0).fit()
    seconds = time.perf_counter() - began
    (x, y), q, pa, n, re, intensity = (
        getattr(galaxy, name).npvalue for name in ("center", "q", "PA", "n", "Re", "Ie")
    )
    flux = intensity / intensity_per_flux(re, n, q)
    pa = np.rad2deg(pa) % 180
    answer = [x, y, flux, re, n, q, pa, background.I0.npvalue]
    good = "success" in result.message and "immobility" not in result.message
    return [float(v) for v in answer], seconds, good


def main() -> None:
    source, target, first, last = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    logging.getLogger().setLevel(logging.ERROR)
    stamps = np.load(source)
    planes = [
        stamps[name].astype(np.float64) if name != "mask" else stamps[name]
        for name in ("data", "sigma", "mask", "psf", "start")
    ]
    fit(*(plane[first] for plane in planes))  # loads and compiles what is compiled on first use
    answers: dict[int, list] = {1: [], 2: []}
    for i in range(first, last):
        for threads, those in answers.items():
            torch.set_num_threads(threads)
            those.append(fit(*(plane[i] for plane in planes)))
    with open(target, "w") as stream:
        json.dump(
            {
                "version": version("astrophot"),
                "values": [a[0] for a in answers[1]],
                "seconds": {threads: [a[1] for a in those] for threads, those in answers.items()},
                "converged": [a[2] for a in answers[1]],
            },
            stream,
        )


if __name__ == "__main__":
    main()
