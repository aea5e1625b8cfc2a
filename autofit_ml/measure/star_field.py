r"""A PSF that varies over a frame, from the frame's own stars.

Every pixel of the PSF is a polynomial of the position,

.. math:: P(x, y) = \sum_t C_t\, p_t(u, v), \qquad p = 1, u, v, u^2, ..., \quad u, v \in [-1, 1],

fitted to the stars' images, each moved to the pixel centre by a Fourier shift and scaled to the
model at its place, by weighted, clipped least squares; stars that do not look like the model there
(galaxies, blends) are dropped. The changing terms are shrunk ring by ring by the share of their
power that is not noise (Wiener's filter), so that they end where the stars' wings do.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from autofit_ml.measure.psf import centre_distance
from autofit_ml.measure.stars import (
    Candidates,
    Star,
    is_galaxy,
    quiet_wings,
    star_cutouts,
    stellar_locus,
)

__all__ = ["StarField", "fit_star_field"]

STARS_FOR_DEGREE = (3, 12, 24, 48)
"""Stars from which a PSF may vary as a polynomial of degree 0, 1, 2, 3."""

MAX_STARS = 400

GAIN = 10.0
"""Fall of -2 ln likelihood of the stars' sizes and ellipticities, each predicted from the other
stars, that a higher degree needs."""

_ROUNDS = 5
_BEYOND = 0.1
"""How far beyond its stars, in the sides of their region, the polynomials go on; constant there."""

_LEAST_WIDTH, _MOST_WIDTH = 0.03, 0.10
"""Of the stellar locus in the logarithm of the size, around the polynomial of the position."""

_FLOOR_SHAPE = 0.003
"""Scatter of sizes (ln) and ellipticities that stars of any S/N have."""

_FLOOR_LIGHT, _FLOOR_PEAK = 0.005, 0.001
"""Deviations, in the local light and the peak, that no star is blamed for."""


@dataclass(frozen=True)
class StarField:
    """PSF of a frame as a polynomial of the position.

    Attributes
    ----------
    terms : ndarray, float64, shape (t, h, w)
        Images C_t; the source is in the middle pixel.
    degree : int
        At least 1.
    middle, half : tuple of float
        u = (x - middle[0]) / half[0], v = (y - middle[1]) / half[1]; 0-based pixels.
    number : int
        Stars that went into it.
    region : tuple of float
        (x0, x1, y0, y1) of these stars.
    draws : ndarray, float32, shape (r, t, h, w), or None
        `terms` of r samples of the stars, less their mean, over sqrt(r - 1).
    """

    terms: np.ndarray
    degree: int
    middle: tuple[float, float]
    half: tuple[float, float]
    number: int
    region: tuple[float, float, float, float]
    draws: np.ndarray | None = None

    def __call__(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Images at positions (n,), shape (n, h, w), of any sum."""
        return np.tensordot(self._polynomials(x, y), self.terms, axes=1)

    def changes(self, x: float, y: float, number: int = 6) -> np.ndarray:
        """Uncertainty of the PSF at a position: principal components of `draws` there.

        Returns
        -------
        ndarray, shape (number, h, w)
            Changes by one standard deviation of independent parameters, relative to a sum of 1.
        """
        if self.draws is None:
            raise ValueError("this PSF was made without its uncertainty")
        values = self._polynomials(np.array([x]), np.array([y]))
        image = np.tensordot(values, self.terms, axes=1)[0]
        total = image.sum()
        change = np.einsum("t,rthw->rhw", values[0], self.draws).astype(np.float64)
        change = (change - image * change.sum((1, 2), keepdims=True) / total) / total
        _, vectors = np.linalg.eigh(np.einsum("rhw,shw->rs", change, change))
        return np.einsum("rk,rhw->khw", vectors[:, : -number - 1 : -1], change)

    def _polynomials(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        scaled = []
        for k, place in enumerate((x, y)):
            low, high = self.region[2 * k : 2 * k + 2]
            reach = _BEYOND * (high - low)
            near = np.clip(np.asarray(place, np.float64), low - reach, high + reach)
            scaled.append((near - self.middle[k]) / self.half[k])
        return _powers(scaled[0], scaled[1], self.degree)


def _powers(u: np.ndarray, v: np.ndarray, degree: int) -> np.ndarray:
    """Products u^i v^j by rising i + j, shape (n, t)."""
    return np.stack([u ** (k - j) * v**j for k in range(degree + 1) for j in range(k + 1)], axis=-1)


def fit_star_field(candidates: Candidates, *, resamples: int = 0) -> StarField | None:
    """The varying PSF of a frame, if its stars say that it varies.

    Sizes and ellipticities of the stars are predicted from those of the other stars by polynomials
    of degree 0, 1, 2 and 3 of the position; the lowest is taken that no higher one beats by `GAIN`.

    Parameters
    ----------
    candidates : Candidates
    resamples : int
        Also measure how uncertain the PSF is, by this number of samples of the stars drawn with
        replacement (bootstrap).

    Returns
    -------
    StarField or None
        None: the same PSF everywhere describes the stars as well, they are fewer than 12, or they
        are galaxies.
    """
    found = candidates.found
    ny, nx = candidates.flat.shape
    middle, half = ((nx - 1) / 2, (ny - 1) / 2), (max(nx / 2, 1.0), max(ny / 2, 1.0))
    u, v = (found.x - middle[0]) / half[0], (found.y - middle[1]) / half[1]
    chosen = _local_locus(found, u, v)
    chosen = chosen[np.argsort(-found.snr[chosen])][:MAX_STARS]
    degree = _degree(found[chosen], u[chosen], v[chosen])
    if degree == 0:
        return None
    stars, fwhm = star_cutouts(candidates, chosen)
    if len(stars) < STARS_FOR_DEGREE[degree]:
        return None
    places = np.array([star.index for star in stars])
    powers = _powers(u[places], v[places], degree)
    fit = _fit(stars, powers, fwhm)
    if fit.used.sum() < STARS_FOR_DEGREE[degree] or is_galaxy(np.ascontiguousarray(fit.terms[0])):
        return None
    draws = _resampled(fit, powers, resamples) if resamples else None
    x, y = found.x[places][fit.used], found.y[places][fit.used]
    region = float(x.min()), float(x.max()), float(y.min()), float(y.max())
    return StarField(fit.terms, degree, middle, half, int(fit.used.sum()), region, draws)


def _local_locus(found: np.recarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Indices of candidates whose size is that of the stars near them.

    The locus of equal sizes, then polynomials of the position through its members.
    """
    chosen = stellar_locus(found)
    size = np.log(found.r50)
    for degree in (1, 1, 2, 2, 2):
        if chosen.size < STARS_FOR_DEGREE[degree]:
            break
        powers = _powers(u, v, degree)
        weight = np.minimum(found.snr[chosen], 200.0)
        rows = np.sqrt(weight)[:, None]
        solution, *_ = np.linalg.lstsq(powers[chosen] * rows, size[chosen] * rows[:, 0], rcond=None)
        off = np.abs(size - powers @ solution)
        width = np.clip(4.0 * 1.4826 * np.median(off[chosen]), _LEAST_WIDTH, _MOST_WIDTH)
        chosen = np.flatnonzero(off < width)
    return chosen


def _degree(stars: np.recarray, u: np.ndarray, v: np.ndarray) -> int:
    """The lowest degree that predicts the stars' sizes and ellipticities as well as any."""
    values = np.stack([np.log(stars.r50), stars.e1, stars.e2], axis=1)
    error = np.hypot(1.0 / stars.snr, _FLOOR_SHAPE)[:, None]
    best, chosen = math.inf, 0
    for degree, least in enumerate(STARS_FOR_DEGREE):
        if len(stars) < least:
            break
        basis, _ = np.linalg.qr(_powers(u, v, degree) / error)
        scaled = values / error
        leverage = np.clip((basis**2).sum(1), 0.0, 0.99)[:, None]
        missed = (scaled - basis @ (basis.T @ scaled)) / (1.0 - leverage)
        spread = 1.4826 * np.median(np.abs(missed), axis=0)
        missed = np.clip(missed, -4 * spread, 4 * spread)
        score = len(stars) * float(np.log(np.mean(missed**2, axis=0)).sum())
        if score < best - GAIN:
            best, chosen = score, degree
    return chosen


@dataclass(frozen=True)
class _Fit:
    """Terms (t, h, w), stars used (n,), and the last round's images, weights and variances."""

    terms: np.ndarray
    used: np.ndarray
    images: np.ndarray
    weights: np.ndarray
    variances: np.ndarray


def _fit(stars: list[Star], powers: np.ndarray, fwhm: float) -> _Fit:
    """Fit the terms, the stars' fluxes and which stars look alike, in turn."""
    images = np.stack([star.image for star in stars])
    noises = np.stack([star.noise for star in stars])
    goods = np.stack([star.good for star in stars])
    core = centre_distance(images.shape[1:]) <= max(2.0, 1.2 * fwhm)
    flux = (images * core).sum(axis=(1, 2))
    used = flux > 0
    safe = np.where(used, flux, 1.0)[:, None, None]
    middle = np.median((images / safe)[used], axis=0)
    local = np.broadcast_to(middle, images.shape)
    for _ in range(_ROUNDS):
        weight = np.where(goods & core, noises**-2.0, 0.0)
        flux = (weight * images * local).sum((1, 2)) / (weight * local**2).sum((1, 2))
        used = flux > 0
        safe = np.where(used, flux, 1.0)[:, None, None]
        scaled = images / safe
        peak = local.max(axis=(1, 2), keepdims=True)
        spread = np.sqrt(
            (noises / safe) ** 2 + (_FLOOR_LIGHT * local) ** 2 + (_FLOOR_PEAK * peak) ** 2
        )
        pull = np.where(goods, (scaled - local) / spread, 0.0)
        quality = (pull**2 * core).sum((1, 2)) / np.maximum((goods & core).sum((1, 2)), 1)
        used &= quality < max(3.0, 2.0 * float(np.median(quality[used])))
        weight = goods / spread**2 * used[:, None, None] * np.where(np.abs(pull) < 4.0, 1.0, 0.1)
        variance = np.where(goods, noises / safe, 0.0) ** 2
        terms = _solve(scaled, weight, variance, powers)
        local = np.tensordot(powers, terms, axes=1)
    return _Fit(terms, used, scaled, weight, variance)


def _solve(
    images: np.ndarray, weights: np.ndarray, variances: np.ndarray, powers: np.ndarray
) -> np.ndarray:
    """Terms, shape (t, h, w), by least squares in each pixel; see `_shrunk`."""
    n, h, w = images.shape
    t = powers.shape[1]
    weights = weights.reshape(n, -1)
    # Polynomials that are orthogonal over the stars have independent terms.
    back = np.linalg.inv(np.linalg.qr(powers * np.sqrt(weights.mean(1))[:, None], mode="r"))
    back /= back[0, 0]  # the first polynomial stays 1
    powers = powers @ back
    products = (powers[:, :, None] * powers[:, None, :]).reshape(n, -1)
    normal = (weights.T @ products).reshape(-1, t, t)
    ridge = 1e-9 * np.trace(normal, axis1=1, axis2=2)[:, None, None] + 1e-30
    inverse = np.linalg.inv(normal + ridge * np.eye(t))
    right = (weights * images.reshape(n, -1)).T @ powers
    terms = (inverse @ right[..., None])[..., 0].T.reshape(t, h, w)
    # The weights hold more than the noise: what it does to the terms is a sandwich.
    noisy = ((weights**2 * variances.reshape(n, -1)).T @ products).reshape(-1, t, t)
    error = np.diagonal(inverse @ noisy @ inverse, axis1=1, axis2=2).T.reshape(t, h, w)
    return np.tensordot(back, _shrunk(terms, np.sqrt(error)), axes=1)


def _shrunk(terms: np.ndarray, error: np.ndarray) -> np.ndarray:
    """The terms with quiet wings, the changing ones shrunk by their noise in rings of a pixel."""
    ring = np.rint(centre_distance(terms.shape[1:])).astype(int)
    quiet = [quiet_wings(terms[0], error[0])]
    for values, noise in zip(terms[1:], error[1:], strict=True):
        # Neighbouring rings together: a ring holds few pixels near the middle.
        both = [
            np.convolve(np.bincount(ring.ravel(), part.ravel() ** 2), np.ones(3), "same")
            for part in (values, noise)
        ]
        quiet.append(values * np.clip(1.0 - both[1] / np.maximum(both[0], 1e-300), 0, 1)[ring])
    return np.stack(quiet)


def _resampled(fit: _Fit, powers: np.ndarray, number: int) -> np.ndarray:
    """`StarField.draws`: terms of samples of the stars drawn with replacement."""
    rng = np.random.default_rng(len(powers))
    stars = np.flatnonzero(fit.used)
    draws = []
    for _ in range(number):
        times = np.bincount(rng.choice(stars, len(stars)), minlength=len(powers))[:, None, None]
        variances = fit.variances / np.maximum(times, 1)
        draws.append(_solve(fit.images, fit.weights * times, variances, powers))
    scatter = np.stack(draws) - np.mean(draws, axis=0)
    return (scatter / math.sqrt(number - 1)).astype(np.float32)
