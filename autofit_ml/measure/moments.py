"""Adaptive moments: the elliptical Gaussian that fits an image best.

Bernstein & Jarvis 2002 (AJ 123, 583), Hirata & Seljak 2003 (MNRAS 343, 459), appendix C: iterate
centroid and second moments under a Gaussian weight until weight and weighted image have the same
shape.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["AdaptiveMoments", "adaptive_moments"]


@dataclass(frozen=True)
class AdaptiveMoments:
    """Result of `adaptive_moments`.

    Attributes
    ----------
    x, y : float
        Centre, pixels.
    xx, xy, yy : float
        Covariance of the best-fitting Gaussian, pixels squared.
    amplitude : float
        Flux of the best-fitting Gaussian, image units.
    converged : bool
        False: the iteration left its limits, and the values are those of the start.
    """

    x: float
    y: float
    xx: float
    xy: float
    yy: float
    amplitude: float
    converged: bool


def adaptive_moments(
    image: np.ndarray,
    x: float,
    y: float,
    variance: float,
    *,
    weight: np.ndarray | None = None,
    min_variance: float = 0.3,
    max_variance: float = np.inf,
    max_shift: float = np.inf,
    tolerance: float = 3e-3,
    max_iterations: int = 40,
) -> AdaptiveMoments:
    """Adaptive moments of a sky-subtracted image.

    Parameters
    ----------
    image : ndarray, shape (ny, nx)
        Any units, sky removed, bad pixels filled.
    x, y : float
        Start, 0-based pixels.
    variance : float
        Start: pixels squared, per axis.
    weight : ndarray, shape (ny, nx), optional
        0 where a pixel has no value; 1 elsewhere.
    min_variance, max_variance : float
        Limits of the smaller and the larger principal variance, pixels squared.
    max_shift : float
        Limit of the centre's distance from the start, pixels.
    tolerance : float
        Relative change of the moments at which to stop.
    max_iterations : int

    Returns
    -------
    AdaptiveMoments
    """
    reach = 4.5 * np.sqrt(variance) + 4.0
    start = state = (float(x), float(y), float(variance), 0.0, float(variance))
    basis, values, origin = _window(image, weight, x, y, reach)
    flux = 0.0
    for _ in range(max_iterations):
        x0, y0, xx, xy, yy = state
        if 3.2 * np.sqrt(max(xx, yy)) > reach or np.hypot(x0 - origin[0], y0 - origin[1]) > 3.0:
            reach = 4.5 * np.sqrt(max(xx, yy)) + 4.0
            basis, values, origin = _window(image, weight, x0, y0, reach)
        det = xx * yy - xy * xy
        dx, dy = x0 - origin[0], y0 - origin[1]
        # -1/2 d^T C^-1 d as a combination of the basis 1, x, y, xx, xy, yy
        a, b, c = yy / det, -xy / det, xx / det
        exponent = -0.5 * np.array(
            [
                a * dx * dx + 2 * b * dx * dy + c * dy * dy,
                -2 * (a * dx + b * dy),
                -2 * (b * dx + c * dy),
                a,
                2 * b,
                c,
            ]
        )
        weighted = np.exp(exponent @ basis) * values
        total, mx, my, mxx, mxy, myy = basis @ weighted
        if not total > 0:
            break
        mx, my = mx / total, my / total
        mxx, mxy, myy = mxx / total - mx * mx, mxy / total - mx * my, myy / total - my * my
        if not (mxx > 0 and myy > 0 and mxx * myy - mxy * mxy > 0):
            break
        # The product of two equal Gaussians has half their covariance. The centroid moves twice
        # as far under the weight's pull.
        new_x = origin[0] + dx + 2 * (mx - dx)
        new_y = origin[1] + dy + 2 * (my - dy)
        new = _limited(2 * mxx, 2 * mxy, 2 * myy, min_variance, max_variance)
        change = max(
            abs(new[0] - xx) + abs(new[2] - yy) + 2 * abs(new[1] - xy),
            np.hypot(new_x - x0, new_y - y0) * np.sqrt(xx + yy),
        ) / (xx + yy)
        state = (new_x, new_y, *new)
        flux = 2.0 * total
        if np.hypot(new_x - x, new_y - y) > max_shift:
            break
        if change < tolerance:
            return AdaptiveMoments(*state, amplitude=flux, converged=True)
    else:
        return AdaptiveMoments(*state, amplitude=flux, converged=True)
    return AdaptiveMoments(*start, amplitude=max(flux, 0.0), converged=False)


def _window(image, weight, x, y, reach):
    """Basis 1, x, y, xx, xy, yy about a pixel near (x, y), and the values, flattened."""
    ny, nx = image.shape
    x0, y0 = min(max(round(x), 0), nx - 1), min(max(round(y), 0), ny - 1)
    reach = int(np.ceil(reach))
    rows = slice(max(y0 - reach, 0), min(y0 + reach + 1, ny))
    columns = slice(max(x0 - reach, 0), min(x0 + reach + 1, nx))
    dy = np.arange(rows.start, rows.stop, dtype=float)[:, None] - y0
    dx = np.arange(columns.start, columns.stop, dtype=float)[None, :] - x0
    basis = np.empty((6, dy.size, dx.size))
    for k, plane in enumerate((1.0, dx, dy, dx * dx, dx * dy, dy * dy)):
        basis[k] = plane
    values = image[rows, columns]
    if weight is not None:
        values = values * weight[rows, columns]
    return basis.reshape(6, -1), np.asarray(values, dtype=float).ravel(), (x0, y0)


def _limited(xx, xy, yy, low, high):
    """The covariance with its principal variances clipped to [low, high]."""
    mean, half = (xx + yy) / 2, np.hypot((xx - yy) / 2, xy)
    if mean - half >= low and mean + half <= high:
        return xx, xy, yy
    small, large = np.clip([mean - half, mean + half], low, high)
    new_mean, new_half = (small + large) / 2, (large - small) / 2
    scale = new_half / half if half > 0 else 0.0
    return new_mean + scale * (xx - yy) / 2, scale * xy, new_mean - scale * (xx - yy) / 2
