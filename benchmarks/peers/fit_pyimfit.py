"""Fit stamps with pyimfit's Levenberg-Marquardt: Sersic + FlatSky, convolved with the PSF.

    python fit_pyimfit.py stamps.npz answers.json FIRST LAST [THREADS]

Files: see exchange.py. Settings are pyimfit's defaults (pixel subsampling near the centre, ftol
1e-8). Errors are those of its Levenberg-Marquardt; it gives no covariance, so that the flux, which
depends on four of its parameters, has none.
"""

from __future__ import annotations

import math

import pyimfit
from exchange import Answer, Planes, intensity_per_flux, run

SETTINGS = {
    "model": "Sersic + FlatSky, PSF convolution",
    "solver": "LM, ftol 1e-8 (defaults), one start",
    "start": "the given one",
    "bounds": "ell 0-0.95, n 0.3-8, r_e 0.05 pixels to 4 stamps",
    "errors": "paramErrs; none for the flux",
}


def galaxy_at(start, shape) -> pyimfit.FunctionSetDescription:
    """A Sérsic profile at its starting values, with its own centre."""
    x, y, flux, re, n, q, pa = start
    ny, nx = shape
    one = pyimfit.FunctionSetDescription()
    one.x0.setValue(x + 1, [1, nx])  # 1-based
    one.y0.setValue(y + 1, [1, ny])
    sersic = pyimfit.make_imfit_function("Sersic")
    sersic.PA.setValue(pa, [-360, 360])
    sersic.ell.setValue(1 - q, [0, 0.95])
    sersic.n.setValue(n, [0.3, 8])
    intensity = flux * intensity_per_flux(re, n, q)
    sersic.I_e.setValue(intensity, [0, 1e6 * intensity])
    sersic.r_e.setValue(re, [0.05, 4.0 * max(nx, ny)])
    one.addFunction(sersic)
    return one


def fit(planes: Planes, threads: int) -> Answer:
    """The fit of one stamp; starts after the first eight columns are those of more galaxies."""
    data, sigma, mask, psf, start = planes
    sets = [galaxy_at(start[:7], data.shape)]
    sets += [galaxy_at(row, data.shape) for row in start[8:].reshape(-1, 7)]
    background = pyimfit.make_imfit_function("FlatSky")
    background.I_sky.setValue(start[7], [-1e6, 1e6])
    sets[0].addFunction(background)
    model = pyimfit.ModelDescription(sets)
    fitter = pyimfit.Imfit(model, psf=psf, maxThreads=threads)
    result = fitter.fit(data, error=sigma, error_type="sigma", mask=mask, solver="LM")
    # The first galaxy and the sky: X0, Y0, PA, ell, n, I_e, r_e, I_sky.
    x, y, pa, ellipticity, n, intensity, re, sky = result.params[:8]
    flux = intensity / intensity_per_flux(re, n, 1 - ellipticity)
    values = [x - 1, y - 1, flux, re, n, 1 - ellipticity, pa % 180, sky]
    if result.paramErrs is None:
        errors = [math.nan] * 8
    else:
        ex, ey, epa, eq, en, _, ere, esky = result.paramErrs[:8]
        errors = [ex, ey, math.nan, ere, en, eq, epa, esky]
    return Answer([float(v) for v in values], list(map(float, errors)), bool(result.fitConverged))


if __name__ == "__main__":
    run(pyimfit.__version__, fit, threads=(1, 2))
