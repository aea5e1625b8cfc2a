"""Fit stamps with sep and SciPy, as one would by hand: detect, then least squares.

    python fit_scipy.py stamps.npz answers.json FIRST LAST

Files: see exchange.py. sep gives the background, the source and its moments; the model is a Sérsic
profile on pixels divided in three, averaged, convolved with the PSF by FFT, plus a flat sky.
"""

from __future__ import annotations

import numpy as np
import scipy
import sep
from exchange import Answer, Planes, intensity_per_flux, run
from scipy.optimize import least_squares
from scipy.signal import fftconvolve
from scipy.special import gammaincinv

SETTINGS = {
    "model": "Sérsic on 3 × 3 points a pixel + flat sky, PSF by fftconvolve",
    "solver": "scipy.optimize.least_squares (trf, numerical derivatives, x_scale=jac)",
    "start": "sep's background, extract and flux_radius, n = 2; the given one if it finds none",
    "bounds": "n 0.3-8, q 0.05-1, re 0.05 pixels to 4 stamps",
    "errors": "inverse of JᵀJ at the best fit",
}
SUB = 3


def first_guess(data, sigma, mask, start) -> np.ndarray:
    """x, y, flux, re, n, q, pa in radians, sky."""
    background = sep.Background(np.ascontiguousarray(data), mask=mask, bw=32, bh=32)
    image = np.ascontiguousarray(data - background.back())
    found = sep.extract(image, 1.5, err=sigma, mask=mask)
    guess = np.array(start, dtype=float)
    guess[6] = np.deg2rad(guess[6])
    if not len(found):
        return guess
    one = found[np.argmin(np.hypot(found["x"] - guess[0], found["y"] - guess[1]))]
    radius, _ = sep.flux_radius(
        image, [one["x"]], [one["y"]], [6 * one["a"]], 0.5, mask=mask, normflux=[one["flux"]]
    )
    shape = max(one["b"] / one["a"], 0.1)
    re = max(float(radius[0]) / np.sqrt(shape), 0.5)
    turn = one["theta"] - np.pi / 2
    sky = background.globalback
    return np.array([one["x"], one["y"], one["flux"], re, 2.0, shape, turn, sky])


def draw(parameters, shape, psf) -> np.ndarray:
    """The model's image."""
    x, y, flux, re, n, q, pa, sky = parameters
    margin = max(psf.shape) // 2
    ny, nx = shape[0] + 2 * margin, shape[1] + 2 * margin
    offset = (np.arange(SUB) + 0.5) / SUB - 0.5
    rows = (np.arange(ny)[:, None] + offset).ravel() - margin - y
    columns = (np.arange(nx)[:, None] + offset).ravel() - margin - x
    dy, dx = np.meshgrid(rows, columns, indexing="ij")
    along, across = -dx * np.sin(pa) + dy * np.cos(pa), dx * np.cos(pa) + dy * np.sin(pa)
    radius = np.sqrt(along**2 + (across / q) ** 2) / re
    fine = np.exp(-gammaincinv(2 * n, 0.5) * (radius ** (1 / n) - 1))
    image = fine.reshape(ny, SUB, nx, SUB).mean(axis=(1, 3))
    image *= flux * intensity_per_flux(re, n, q)
    image = fftconvolve(image, psf, mode="same")
    return image[margin : margin + shape[0], margin : margin + shape[1]] + sky


def fit(planes: Planes, threads: int) -> Answer:
    """The fit of one stamp (one thread)."""
    data, sigma, mask, psf, start = planes
    use = ~mask
    side = max(data.shape)
    low = np.array([-1, -1, 0, 0.05, 0.3, 0.05, -np.inf, -np.inf])
    high = np.array([side, side, np.inf, 4 * side, 8, 1, np.inf, np.inf])
    guess = np.clip(first_guess(data, sigma, mask, start), low + 1e-3, high - 1e-3)
    result = least_squares(
        lambda p: ((draw(p, data.shape, psf) - data) / sigma)[use],
        guess,
        bounds=(low, high),
        x_scale="jac",
    )
    error = np.sqrt(np.diag(np.linalg.pinv(result.jac.T @ result.jac)))
    values = result.x.copy()
    values[6], error[6] = np.rad2deg(values[6]) % 180, np.rad2deg(error[6])
    return Answer(list(map(float, values)), list(map(float, error)), result.status > 0)


if __name__ == "__main__":
    run(scipy.__version__, fit)
