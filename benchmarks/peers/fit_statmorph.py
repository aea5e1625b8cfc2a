"""Fit stamps with statmorph: the Sérsic fit that comes with its non-parametric measurements.

    python fit_statmorph.py stamps.npz answers.json FIRST LAST

Files: see exchange.py. As in its tutorial: an image without its sky (that of the start is
subtracted), a segmentation map by photutils, the PSF and the noise map; it makes its own guesses.
It gives no errors. The time is that of all it measures, since the fit needs most of it.
"""

from __future__ import annotations

import math
import warnings

import numpy as np
import statmorph
from astropy.convolution import convolve
from exchange import NOTHING, Answer, Planes, intensity_per_flux, run
from photutils.segmentation import detect_sources

SETTINGS = {
    "model": "Sersic2D convolved with the PSF (no oversampling)",
    "sky": "that of the start, subtracted and fixed",
    "segmentation": "photutils detect_sources on the smoothed image, 1.5 σ of a pixel, 5 pixels",
    "solver": "source_morphology, its defaults (LevMarLSQFitter)",
    "start": "its own guesses, as it recommends",
    "errors": "none",
}


def segment(data: np.ndarray, sigma: np.ndarray, mask: np.ndarray, psf, x, y) -> np.ndarray:
    """The galaxy's pixels, as 1."""
    smooth = convolve(np.where(mask, 0.0, data), psf)
    found = detect_sources(smooth, 1.5 * sigma, 5, mask=mask)
    labels = np.zeros(data.shape, int) if found is None else found.data
    label = labels[round(y), round(x)]
    if label == 0:  # nothing there: the nearest one
        rows, columns = np.nonzero(labels)
        if not len(rows):
            raise ValueError("nothing detected")
        nearest = np.argmin(np.hypot(rows - y, columns - x))
        label = labels[rows[nearest], columns[nearest]]
    return (labels == label).astype(int)


def fit(planes: Planes, threads: int) -> Answer:
    """The fit of one stamp (one thread)."""
    data, sigma, mask, psf, (x, y, *_, sky) = planes
    image = data - sky
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = statmorph.source_morphology(
            image, segment(image, sigma, mask, psf, x, y), mask=mask, weightmap=sigma, psf=psf
        )[0]
    re, n, q = found.sersic_rhalf, found.sersic_n, 1 - found.sersic_ellip
    if found.flag == 4 or re <= 0:
        return Answer(NOTHING, NOTHING, False, f"flag {found.flag}")
    flux = found.sersic_amplitude / intensity_per_flux(re, n, q)
    pa = (math.degrees(found.sersic_theta) - 90) % 180
    values = [found.sersic_xc, found.sersic_yc, flux, re, n, q, pa, sky]
    good = found.flag_sersic < 2 and found.flag < 2
    said = f"flag {found.flag}, flag_sersic {found.flag_sersic}"
    return Answer([float(v) for v in values], NOTHING, bool(good), said)


if __name__ == "__main__":
    run(statmorph.__version__, fit)
