"""Classical starting parameters: adaptive moments, then a light profile in elliptical annuli.

Per stamp: (1) excluded pixels are filled from their mirror image through the centre; (2) adaptive
moments give centre, shape and orientation, corrected for the PSF's; (3) the mean light in
elliptical annuli is compared with Sérsic profiles convolved with the PSF (sums of Gaussians) on a
grid of n and re, flux and sky being linear; the start is the mean over the grid weighted by
likelihood and a broad prior, so that a faint object starts from what galaxies usually are.
"""

from collections.abc import Sequence

import numpy as np

from autofit_ml.images.stamp import Stamp
from autofit_ml.initialisation.cutouts import sky_of
from autofit_ml.initialisation.gaussians import (
    SERSIC_VARIANCES,
    PSFGaussians,
    psf_gaussians,
    sersic_gaussians,
)
from autofit_ml.initialisation.starts import PARAMETERS, Starts
from autofit_ml.measure import AdaptiveMoments, adaptive_moments
from autofit_ml.segmentation.result import Segmentation
from autofit_ml.segmentation.shapes import mirrored, pixel_at

__all__ = ["start_from_moments"]

_INDICES = np.round(0.5 * 16.0 ** np.linspace(0, 1, 65), 4)
"""Sérsic indices 0.5 to 8 in steps of 4 %, each expanded in Gaussians at most once."""
_COARSE = slice(0, 65, 8)
_MODEL_ERROR = 0.02
"""Relative error of the annular model: Gaussian sums, structure that no Sérsic profile has."""


def start_from_moments(stamps: Sequence[Stamp], segmentations: Sequence[Segmentation]) -> Starts:
    """Starting parameters from moments and annular profiles.

    Parameters
    ----------
    stamps : sequence of Stamp
    segmentations : sequence of Segmentation
        With target 0 the start is measured at the expected position, in an aperture of the PSF's
        size.

    Returns
    -------
    Starts
        Finite; flux > 0, 0.5 <= n <= 8, 0.1 <= q <= 1, 0 <= pa < 180, re at least a tenth of the
        PSF's half-light radius and at most the stamp's longer side.
    """
    psfs: dict[int, PSFGaussians] = {}
    values = np.empty((len(stamps), len(PARAMETERS)))
    for index, (stamp, segmentation) in enumerate(zip(stamps, segmentations, strict=True)):
        key = id(stamp.psf.data)
        if key not in psfs:
            psfs[key] = psf_gaussians(stamp.psf)
        values[index] = _start(stamp, segmentation, psfs[key])
    return Starts(
        values=values, cov=None, flags=np.zeros(len(stamps), dtype=np.int32), method="moments"
    )


def _start(stamp: Stamp, segmentation: Segmentation, psf: PSFGaussians) -> np.ndarray:
    good = ~(stamp.mask | segmentation.contaminants)
    sky, rms = sky_of(stamp, segmentation, good)
    # scale inside: values may be 1e-10
    image = (stamp.data.astype(float) - sky) / rms
    sigma = stamp.sigma / rms

    x, y, variance, reach = _first_look(stamp, segmentation, psf)
    anchor = (x, y)
    for _ in range(8):
        filled, known = _fill_from_mirror(image, good, x, y)
        moments = _measure(filled, known, x, y, variance, reach, psf, stamp.shape)
        moved = np.hypot(moments.x - x, moments.y - y)
        # filling about a wrong centre holds the centre back: repeat until it rests
        if good.all() or moved < 0.03 or not moments.converged:
            break
        if np.hypot(moments.x - anchor[0], moments.y - anchor[1]) > 2 * reach:
            break
        x, y = moments.x, moments.y

    q, pa = _shape(moments, psf, sigma)
    re, n, q, flux, offset = _profile(image, sigma, good, moments, q, psf, stamp, sky, rms)
    return np.array(
        [moments.x, moments.y, flux * rms, re, n, q, np.rad2deg(pa) % 180.0, sky + offset * rms]
    )


def _first_look(
    stamp: Stamp, segmentation: Segmentation, psf: PSFGaussians
) -> tuple[float, float, float, float]:
    """Centre, variance per axis and reach (pixels) from the target's isophote."""
    x, y = stamp.position
    minimum = np.sqrt(psf.xx * psf.yy)
    own = (segmentation.labels == segmentation.target) & (segmentation.target > 0)
    if not own.any():
        return float(x), float(y), 1.5 * minimum, max(2 * np.sqrt(minimum), 3.0)
    rows, columns = np.nonzero(own)
    light = np.maximum(stamp.data[own] - segmentation.sky_level, 0).astype(float)
    light[stamp.mask[own]] = 0
    if np.isfinite(light).all() and light.sum() > 0:
        # light squared: the core decides, not a neighbour's rest on the outskirts
        x, y = (np.average(place, weights=light * light) for place in (columns, rows))
    radius = np.sqrt(rows.size / np.pi)
    return float(x), float(y), max(minimum, (0.4 * radius) ** 2), max(radius, 3.0)


def _fill_from_mirror(
    image: np.ndarray, good: np.ndarray, x: float, y: float
) -> tuple[np.ndarray, np.ndarray]:
    """Bad pixels replaced by the pixel opposite the centre; and which pixels have a value."""
    if good.all():
        return image, good
    opposite = mirrored(good, x, y) & ~good
    filled = np.where(good, image, 0.0)
    return np.where(opposite, mirrored(filled, x, y), filled), good | opposite


def _measure(image, known, x, y, variance, reach, psf, shape) -> AdaptiveMoments:
    """Adaptive moments, falling back to a PSF-sized round object where they run away."""
    minimum = 0.7 * np.sqrt(max(psf.xx * psf.yy - psf.xy**2, 0.01))
    maximum = max((max(shape) / 2.5) ** 2, 4 * minimum)
    weight = None if known.all() else known
    limit = max(0.5 * reach, 1.5 * np.sqrt(minimum), 1.5)
    return adaptive_moments(
        image,
        x,
        y,
        min(max(variance, minimum), maximum),
        weight=weight,
        min_variance=minimum,
        max_variance=maximum,
        max_shift=limit,
    )


def _shape(moments, psf, sigma) -> tuple[float, float]:
    """Axis ratio and position angle (radians from +y) with the PSF's moments removed.

    Ellipticities are drawn towards round by their noise (expected ellipticity of galaxies 0.35
    per component), so that faint objects start moderate.
    """
    xx, xy, yy = moments.xx - psf.xx, moments.xy - psf.xy, moments.yy - psf.yy
    observed = moments.xx + moments.yy
    # what is left of an unresolved object is noise: keep a floor of 4 % of the observed size
    size = max(xx + yy, 0.04 * observed)
    e1, e2 = (xx - yy) / size, 2 * xy / size
    noise = pixel_at(sigma, (moments.x, moments.y))
    area = 4 * np.pi * np.sqrt(max(moments.xx * moments.yy - moments.xy**2, 1e-6))
    snr = max(moments.amplitude, 0.0) / (noise * np.sqrt(area))
    scatter = 2.0 / max(snr, 0.1) * observed / size
    shrink = 1.0 / (1.0 + (scatter / 0.35) ** 2)
    e1, e2 = shrink * e1, shrink * e2
    e = min(np.hypot(e1, e2), 0.98)
    q = np.clip(np.sqrt((1 - e) / (1 + e)), 0.1, 1.0)
    angle_from_x = 0.5 * np.arctan2(e2, e1)
    return float(q), float((angle_from_x - np.pi / 2) % np.pi)


def _profile(image, sigma, good, moments, q, psf, stamp, sky, rms):
    """re, n, q, flux and sky offset from the light in elliptical annuli (noise units)."""
    ny, nx = image.shape
    # annuli follow the observed (smeared) shape, at the same position angle
    trace, det = moments.xx + moments.yy, moments.xx * moments.yy - moments.xy**2
    spread = np.sqrt(max(trace**2 / 4 - det, 0))
    q_seen = float(np.clip(np.sqrt((trace / 2 - spread) / (trace / 2 + spread)), 0.1, 1))
    angle = 0.5 * np.arctan2(2 * moments.xy, moments.xx - moments.yy)
    cosine, sine = np.cos(angle), np.sin(angle)
    dx, dy = np.arange(nx) - moments.x, (np.arange(ny) - moments.y)[:, None]
    major, minor = cosine * dx + sine * dy, cosine * dy - sine * dx
    # circularised square radius
    square = major * major * q_seen + minor * minor * (1 / q_seen)
    square = square[good]
    if square.size < 4:
        return psf.half_light_radius, 1.0, q, 1.0, 0.0
    mean_square, light, variance = _annuli(square, image[good], sigma[good])

    stamp_side = max(ny, nx)
    smallest = 0.1 * psf.half_light_radius
    seen = np.sqrt(np.sqrt(max(det, 0.01)))
    guess = np.sqrt(max(1.39 * seen**2 - psf.half_light_radius**2, 0.3 * psf.half_light_radius**2))
    low = max(smallest, 0.2 * guess / np.sqrt(q))
    high = min(stamp_side, max(8 * guess / np.sqrt(q), 1.5 * psf.half_light_radius))
    radii = np.geomspace(low, max(high, 1.5 * low), 14)
    prior = _sky_prior(stamp, sky, rms)
    args = (mean_square, light, variance)
    indices = _INDICES[_COARSE]
    first = _grid(indices, radii, *args, q, psf, prior)
    n, re, spread_n, spread_re = _summary(first[0], indices, radii)
    q = _sharpen_axis_ratio(q, n, re, moments, psf)
    # a finer grid around the first answer
    step = max(round(0.5 * spread_n / np.log(_INDICES[1] / _INDICES[0])), 2)
    centre = int(np.argmin(abs(np.log(_INDICES / n))))
    chosen = np.unique(np.clip(centre + step * np.arange(-3, 4), 0, _INDICES.size - 1))
    indices = _INDICES[chosen]
    radii = np.unique(
        np.clip(
            re * np.exp(np.linspace(-1, 1, 9) * max(1.5 * spread_re, 0.2)), smallest, stamp_side
        )
    )
    log_posterior, flux, offset = _grid(indices, radii, *args, q, psf, prior)
    n, re, _, _ = _summary(log_posterior, indices, radii)
    probability = np.exp(log_posterior - log_posterior.max()) * (flux > 0)
    if not probability.sum() > 0:
        # nothing there: a nominal faint object, as bright as the noise inside the PSF
        return re, n, q, float(np.sqrt(4 * np.pi * np.sqrt(psf.xx * psf.yy))), 0.0
    probability /= probability.sum()
    mean_flux = np.exp((probability * np.log(np.where(flux > 0, flux, 1.0))).sum())
    return re, n, q, float(mean_flux), float((probability * offset).sum())


def _annuli(square: np.ndarray, image: np.ndarray, sigma: np.ndarray) -> tuple[np.ndarray, ...]:
    """Mean square radius, mean light and its variance, shape (annuli,) each.

    Rings are about 0.4 pixels wide at the centre and grow to a fifth of the radius.
    """
    ring = (5.0 * np.log1p(0.5 * np.sqrt(square))).astype(np.intp)
    counts = np.bincount(ring)
    used = counts > 0
    counts = counts[used].astype(float)
    mean_square = np.bincount(ring, square)[used] / counts
    light = np.bincount(ring, image)[used] / counts
    variance = np.bincount(ring, sigma * sigma)[used] / counts**2
    return mean_square, light, variance


def _sky_prior(stamp: Stamp, sky: float, rms: float) -> tuple[float, float]:
    """(mean, standard deviation) of the sky's offset from `sky`, in units of `rms`.

    The level measured inside a stamp contains the galaxy's outskirts, so that it binds loosely.
    """
    if stamp.sky_prior is None:
        return 0.0, 0.7
    level, error = stamp.sky_prior
    return (level - sky) / rms, max(error / rms, 1e-3)


def _profiles(
    indices: np.ndarray, radii: np.ndarray, mean_square: np.ndarray, q: float, psf: PSFGaussians
) -> np.ndarray:
    """PSF-convolved unit-flux profiles, shape (n, re, annuli).

    A Gaussian of semi-axis variances (A, B) is evaluated as the round one of variance sqrt(A B):
    right at the centre and in total flux. Gaussians are read off a table in ln variance.
    """
    major, minor = _convolved_variances(radii[:, None, None], q, psf)
    log_variance = 0.5 * np.log(major * minor)
    low, high = log_variance.min(), log_variance.max() + 1e-6
    steps = max(int((high - low) / 0.1) + 2, 2)
    position = (log_variance - low) * ((steps - 1) / (high - low))
    node = np.minimum(position.astype(np.intp), steps - 2)
    upper = psf.weights * (position - node)
    lower = psf.weights - upper
    owner = np.arange(radii.size * SERSIC_VARIANCES.size).reshape(radii.size, -1, 1)
    flat = (owner * steps + node).ravel()
    size = owner.size * steps
    mixture = np.bincount(flat, lower.ravel(), size) + np.bincount(flat + 1, upper.ravel(), size)
    variance = np.exp(np.linspace(low, high, steps))[:, None]
    table = np.exp(-mean_square / (2 * variance)) / (2 * np.pi * variance)
    gaussians = (mixture.reshape(-1, steps) @ table).reshape(radii.size, SERSIC_VARIANCES.size, -1)
    weights = np.stack([sersic_gaussians(float(n)) for n in indices])
    return np.matmul(weights, gaussians).swapaxes(0, 1)


def _convolved_variances(re, q, psf: PSFGaussians):
    """Semi-axis variances of each Sérsic Gaussian convolved with each PSF Gaussian."""
    intrinsic = re**2 * SERSIC_VARIANCES[:, None]
    return intrinsic + psf.variances, intrinsic * (q * q) + psf.variances


def _grid(indices, radii, mean_square, light, variance, q, psf, prior):
    """Log posterior maximised over flux and sky offset, and those two, shape (n, re) each."""
    profiles = _profiles(indices, radii, mean_square, q, psf)
    flux, offset, weight = _solve(profiles, light, variance, prior)
    residual = light - flux[..., None] * profiles - offset[..., None]
    chi2 = (residual**2 * weight).sum(axis=-1) + ((offset - prior[0]) / prior[1]) ** 2
    log_posterior = -0.5 * chi2
    # without positive flux there is no such model
    log_posterior = np.where(flux > 0, log_posterior, -0.5 * (light**2 * weight).sum() - 20.0)
    index_prior = -0.5 * ((np.log(indices) - np.log(1.5)) / 0.7) ** 2
    return log_posterior + index_prior[:, None], flux, offset


def _solve(profiles, light, variance, prior):
    """Weighted least squares for (flux, sky offset) under each profile."""
    weight = 1.0 / (variance + (_MODEL_ERROR * light) ** 2)
    pp = (profiles * profiles) @ weight
    p1 = profiles @ weight
    pd = profiles @ (weight * light)
    one = weight.sum() + 1 / prior[1] ** 2
    d1 = (weight * light).sum() + prior[0] / prior[1] ** 2
    det = pp * one - p1 * p1
    det = np.where(det > 0, det, np.inf)
    flux = (pd * one - p1 * d1) / det
    offset = (pp * d1 - p1 * pd) / det
    return flux, offset, weight


def _sharpen_axis_ratio(q, n, re, moments, psf: PSFGaussians) -> float:
    """The intrinsic axis ratio whose smeared image has the observed ratio of adaptive moments.

    Subtracting the PSF's moments is exact for Gaussian galaxies only: cuspy ones look rounder.
    Adaptive moments (A, B) of a sum of aligned Gaussians (A_k, B_k) obey
    ``sum g_k A_k A / (A_k + A) = A / 2 sum g_k`` with ``g_k = w_k / sqrt((A_k + A) (B_k + B))``.
    """
    # the target, by the same rule that `_shape` used: Gaussian galaxy, round PSF
    round_psf = 0.5 * (psf.xx + psf.yy)
    size = max(moments.xx + moments.yy - 2 * round_psf, 0.04 * (moments.xx + moments.yy))
    e = (1 - q * q) / (1 + q * q)
    wanted = (size * (1 - e) + 2 * round_psf) / (size * (1 + e) + 2 * round_psf)
    trial = np.clip(q * np.array([1.0, 0.85, 0.7, 0.5]), 0.1, 1.0)[:, None]
    nearest = float(_INDICES[np.argmin(abs(_INDICES - n))])
    weight = (sersic_gaussians(nearest)[:, None] * psf.weights).ravel()
    major, minor = _convolved_variances(re, trial[..., None], psf)
    major = np.broadcast_to(major, minor.shape).reshape(trial.size, -1)
    minor = minor.reshape(trial.size, -1)
    a = np.full_like(trial, 0.5 * size * (1 + e) + round_psf)
    b = np.full_like(trial, 0.5 * size * (1 - e) + round_psf)
    for _ in range(8):
        sum_a, sum_b = major + a, minor + b
        g = weight / np.sqrt(sum_a * sum_b)
        total = g.sum(axis=1, keepdims=True)
        a = 2 * a * (g * major / sum_a).sum(axis=1, keepdims=True) / total
        b = 2 * b * (g * minor / sum_b).sum(axis=1, keepdims=True) / total
    seen = (b / a).ravel()
    return float(np.clip(np.interp(wanted, seen[::-1], trial.ravel()[::-1]), 0.1, 1.0))


def _summary(log_posterior, indices, radii):
    """Posterior means of n and re (in logarithms), and their standard deviations."""
    probability = np.exp(log_posterior - log_posterior.max())
    probability /= probability.sum()
    log_n, log_re = np.log(indices), np.log(radii)
    along_n, along_re = probability.sum(axis=1), probability.sum(axis=0)
    mean_n, mean_re = along_n @ log_n, along_re @ log_re
    spread_n = np.sqrt(max(along_n @ (log_n - mean_n) ** 2, 0.0))
    spread_re = np.sqrt(max(along_re @ (log_re - mean_re) ** 2, 0.0))
    return float(np.exp(mean_n)), float(np.exp(mean_re)), float(spread_n), float(spread_re)
