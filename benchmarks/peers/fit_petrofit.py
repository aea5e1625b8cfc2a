"""Fit stamps with PetroFit: astropy's Sersic2D, oversampled and convolved with the PSF.

    python fit_petrofit.py stamps.npz answers.json FIRST LAST

Files: see exchange.py. As in its notebooks: the sky is subtracted beforehand (here: that of the
start), the whole image is oversampled four times, the angle of the PSF is fixed.
"""

from __future__ import annotations

import warnings

import numpy as np
import petrofit as pf
from astropy.modeling import models
from astropy.utils.exceptions import AstropyUserWarning
from exchange import NOTHING, Answer, Planes, flux_and_error, intensity_per_flux, run

SETTINGS = {
    "model": "PSFConvolvedModel2D of astropy's Sersic2D, oversample=4, psf_pa fixed",
    "sky": "that of the start, subtracted and fixed",
    "solver": "fit_model (TRFLSQFitter), maxiter=10000, epsilon=1.49e-8, acc=1e-9",
    "bounds": "get_default_sersic_bounds; centre within 10 pixels of the start",
    "start": "the given one",
    "errors": "calc_uncertainties=True",
}
NAMES = ("x_0", "y_0", "amplitude", "r_eff", "n", "ellip", "theta")


def fit(planes: Planes, threads: int) -> Answer:
    """The fit of one stamp (one thread)."""
    data, sigma, mask, psf, (x, y, flux, re, n, q, pa, sky) = planes
    galaxy = models.Sersic2D(
        amplitude=flux * intensity_per_flux(re, n, q),
        r_eff=re,
        n=n,
        x_0=x,
        y_0=y,
        ellip=1 - q,
        theta=np.deg2rad((pa + 180) % 180 - 90),  # from +x, -90 to 90 degrees: far from its bounds
        bounds=pf.get_default_sersic_bounds({"x_0": (x - 10, x + 10), "y_0": (y - 10, y + 10)}),
    )
    model = pf.PSFConvolvedModel2D(galaxy, psf=psf, oversample=4)
    model.fixed["psf_pa"] = True
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        best, _ = pf.fit_model(
            np.where(mask, np.nan, data - sky),
            model,
            weights=1 / sigma,
            calc_uncertainties=True,
            maxiter=10000,
            epsilon=1.4901161193847656e-08,
            acc=1e-09,
        )
    said = [str(w.message) for w in caught if issubclass(w.category, AstropyUserWarning)]
    good = not any("unsuccessful" in text for text in said)
    value = [float(getattr(best, name).value) for name in NAMES]
    x, y, intensity, re, n, ellipticity, theta = value
    errors, covariance = list(NOTHING), None
    if best.cov_matrix is not None:
        matrix, free = best.cov_matrix.cov_matrix, list(best.cov_matrix.param_names)
        place = [free.index(name) for name in NAMES]
        error = np.sqrt(np.diag(matrix)[place])
        four = [free.index(name) for name in ("amplitude", "r_eff", "n", "ellip")]
        turn = np.diag([1.0, 1.0, 1.0, -1.0])  # q = 1 - ellip
        covariance = turn @ matrix[np.ix_(four, four)] @ turn
        errors[:2], errors[3:6], errors[6] = error[:2], error[3:6], np.rad2deg(error[6])
    flux, errors[2] = flux_and_error(intensity, re, n, 1 - ellipticity, covariance)
    values = [x, y, flux, re, n, 1 - ellipticity, (np.rad2deg(theta) - 90) % 180, sky]
    return Answer(values, [float(e) for e in errors], good, "; ".join(said)[:300])


if __name__ == "__main__":
    run(pf.__version__, fit)
