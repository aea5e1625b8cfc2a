"""Width and centre of a PSF image, and shifts by parts of a pixel."""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np
from scipy import fft, ndimage

__all__ = [
    "PSFImage",
    "centre_distance",
    "core_centroid",
    "fourier_shift",
    "lanczos_matrix",
    "psf_fwhm",
]


class PSFImage(Protocol):
    """Anything with the pixels of a PSF, such as `autofit_ml.images.PSF`."""

    @property
    def data(self) -> np.ndarray:
        """The image, its source at ``((h - 1) / 2, (w - 1) / 2)``; shape (h, w)."""

    @property
    def oversampling(self) -> int:
        """PSF pixels per image pixel."""


def centre_distance(shape: tuple[int, ...]) -> np.ndarray:
    """Distance of each pixel from the centre of an array of `shape` (h, w), pixels."""
    dy, dx = np.ogrid[: shape[0], : shape[1]]
    return np.hypot(dy - (shape[0] - 1) / 2, dx - (shape[1] - 1) / 2)


def psf_fwhm(psf: PSFImage) -> float:
    """Full width at half maximum of a PSF, image pixels.

    Parameters
    ----------
    psf : PSFImage

    Returns
    -------
    float
        Where the azimuthal mean (in rings of half a PSF pixel) falls to half of the central value,
        doubled; 0 for a PSF of one pixel.
    """
    data = psf.data.astype(np.float64)
    if data.size == 1:
        return 0.0
    radius = centre_distance(data.shape).ravel()
    ring = np.round(2 * radius).astype(int)
    count = np.bincount(ring)
    filled = count > 0
    mean_radius = np.bincount(ring, radius)[filled] / count[filled]
    mean = np.bincount(ring, data.ravel())[filled] / count[filled]
    half = mean[0] / 2
    below = np.nonzero(mean < half)[0]
    if mean[0] <= 0 or len(below) == 0:
        return 2.0 * float(radius.max()) / psf.oversampling
    k = int(below[0])
    share = (mean[k - 1] - half) / (mean[k - 1] - mean[k])
    edge = mean_radius[k - 1] + share * (mean_radius[k] - mean_radius[k - 1])
    return 2.0 * float(edge) / psf.oversampling


def fourier_shift(image: np.ndarray, dx: float, dy: float, *, pad: int = 8) -> np.ndarray:
    """`image` moved by (dx, dy) pixels by the shift theorem, zero-padded against wrap-around.

    Parameters
    ----------
    image : ndarray, shape (h, w)
    dx, dy : float
        Towards larger x and y, pixels.
    pad : int
        Zero pixels added around the image for the transform.

    Returns
    -------
    ndarray, float64, shape (h, w)
    """
    h, w = image.shape
    shape = tuple(fft.next_fast_len(n + 2 * pad, real=True) for n in (h, w))
    spectrum = fft.rfft2(image, shape)
    ky = fft.fftfreq(shape[0])[:, None]
    kx = fft.rfftfreq(shape[1])[None, :]
    phase = np.exp(-2j * np.pi * (kx * dx + ky * dy))
    return fft.irfft2(spectrum * phase, shape)[:h, :w]


def lanczos_matrix(positions: np.ndarray, size: int, order: int) -> np.ndarray:
    """Weights of samples in values between them, by Lanczos interpolation.

    ``w = sinc(d) sinc(d / order)`` for a distance d below `order`, divided by the sum of all the
    weights of a position (as PSFEx and GalSim do); there is nothing beyond the samples.

    Parameters
    ----------
    positions : ndarray, shape (...)
        In samples; the first is at 0.
    size : int
        Number of samples.
    order : int

    Returns
    -------
    ndarray, float64, shape (..., size)
    """
    reach = np.arange(1 - order, order + 1)
    near = np.floor(positions)[..., None] + reach
    total = _lanczos(positions[..., None] - near, order).sum(-1, keepdims=True)
    return _lanczos(positions[..., None] - np.arange(size), order) / total


def _lanczos(distance: np.ndarray, order: int) -> np.ndarray:
    inside = np.abs(distance) < order
    return np.where(inside, np.sinc(distance) * np.sinc(distance / order), 0.0)


def core_centroid(image: np.ndarray) -> tuple[float, float, float]:
    """Centroid of the core of a PSF, blind to its wings.

    Iterated centroid under a Gaussian window of the core's own width (the windowed position of
    Bertin & Arnouts' SExtractor manual, "XWIN"), started at the highest smoothed pixel.

    Parameters
    ----------
    image : ndarray, shape (h, w)
        Background-free.

    Returns
    -------
    x, y : float
        0-based pixels.
    fwhm : float
        ``2 sqrt(N / pi)`` with N the number of pixels above half of the maximum, connected to it.
    """
    h, w = image.shape
    # Noisy wings must not win over the core: look for the peak in a lightly smoothed image.
    smooth = ndimage.gaussian_filter(image, 0.7, mode="constant") if min(h, w) >= 3 else image
    y0, x0 = divmod(int(np.argmax(smooth)), w)
    labels, _ = ndimage.label(image >= 0.5 * image[y0, x0])
    count = int((labels == labels[y0, x0]).sum()) if labels[y0, x0] else 1
    fwhm = 2.0 * math.sqrt(count / math.pi)
    sigma = max(0.7, fwhm / 2.355)
    half = math.ceil(4.0 * sigma) + 1
    ylo, yhi = max(0, y0 - half), min(h, y0 + half + 1)
    xlo, xhi = max(0, x0 - half), min(w, x0 + half + 1)
    core = image[ylo:yhi, xlo:xhi]
    gy = np.arange(ylo, yhi, dtype=float)
    gx = np.arange(xlo, xhi, dtype=float)
    x, y = float(x0), float(y0)
    for _ in range(60):
        wy = np.exp(-0.5 * ((gy - y) / sigma) ** 2)
        wx = np.exp(-0.5 * ((gx - x) / sigma) ** 2)
        weighted = core * wy[:, None] * wx[None, :]
        total = float(weighted.sum())
        if total <= 0:
            break
        step_x = 2.0 * float((weighted.sum(axis=0) * (gx - x)).sum()) / total
        step_y = 2.0 * float((weighted.sum(axis=1) * (gy - y)).sum()) / total
        if abs(step_x) > 2.0 or abs(step_y) > 2.0:
            break
        x, y = x + step_x, y + step_y
        if abs(step_x) < 1e-4 and abs(step_y) < 1e-4:
            break
    if abs(x - x0) > 1.5 or abs(y - y0) > 1.5:  # ran away: the highest pixel is safer
        return float(x0), float(y0), fwhm
    return x, y, fwhm
