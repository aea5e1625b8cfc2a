"""Point-spread functions: analytic ones, and checking and centring of given images.

Every function returns a `PSF` that sums to 1 with its source at ``((h - 1) / 2, (w - 1) / 2)``.
"""

import dataclasses
import math
from pathlib import Path

import numpy as np
from scipy import ndimage, special

from autofit_ml.errors import InputError
from autofit_ml.images.stamp import CENTROID_TOLERANCE, PSF, Frame
from autofit_ml.measure import core_centroid, fourier_shift, psf_fwhm, stack_stars

__all__ = [
    "centre_psf",
    "crop_psf",
    "gaussian_psf",
    "moffat_psf",
    "no_psf",
    "psf_from_stars",
    "resample_psf",
]

SUM_TOLERANCE = 0.01
"""A PSF whose sum differs from 1 by more than this is normalised with a message."""

_PSF_REMEDY = "give another PSF image, --psf FILE or --psf-fwhm ARCSEC"


def no_psf() -> PSF:
    """The PSF of a fit without PSF: one pixel, without the detector pixel in it."""
    return PSF(np.ones((1, 1), np.float32), has_pixel=False, source="none")


def gaussian_psf(fwhm: float, *, half_size: int | None = None) -> PSF:
    """Circular Gaussian integrated over the pixels.

    Parameters
    ----------
    fwhm : float
        Full width at half maximum before the pixel, pixels.
    half_size : int, optional
        The array has ``2 * half_size + 1`` pixels a side (default 2.5 FWHM, at least 3).

    Returns
    -------
    PSF
        Contains the pixel.
    """
    sigma = fwhm / (2.0 * math.sqrt(2.0 * math.log(2.0)))
    half = max(3, math.ceil(2.5 * fwhm)) if half_size is None else half_size
    edges = np.arange(-half, half + 2) - 0.5
    profile = np.diff(special.erf(edges / (math.sqrt(2.0) * sigma)))
    image = np.outer(profile, profile)
    return PSF((image / image.sum()).astype(np.float32), source="analytic")


def moffat_psf(fwhm: float, *, beta: float = 3.0, half_size: int | None = None) -> PSF:
    """Circular Moffat profile integrated over the pixels.

    ``I(r) ~ (1 + (r / alpha)^2)^-beta`` with ``alpha = fwhm / (2 sqrt(2^(1/beta) - 1))``
    (Moffat 1969, A&A 3, 455).

    Parameters
    ----------
    fwhm : float
        Full width at half maximum before the pixel, pixels.
    beta : float
        Wing slope, above 1.
    half_size : int, optional
        The array has ``2 * half_size + 1`` pixels a side (default 5 FWHM, which leaves out 0.1 %
        of the light for beta = 3; the sum is normalised to 1).

    Returns
    -------
    PSF
        Contains the pixel.

    Notes
    -----
    Each pixel is integrated by Gauss-Legendre quadrature with enough nodes for a spacing under
    FWHM / 8.
    """
    alpha = fwhm / (2.0 * math.sqrt(2.0 ** (1.0 / beta) - 1.0))
    half = max(3, math.ceil(5.0 * fwhm)) if half_size is None else half_size
    order = int(min(64, max(5, math.ceil(8.0 / fwhm) + 4)))
    nodes, weights = np.polynomial.legendre.leggauss(order)
    quadrant = np.arange(half + 1)[:, None] + 0.5 * nodes[None, :]
    squares = (quadrant / alpha) ** 2  # (half + 1, order)
    total = 1.0 + squares[:, None, :, None] + squares[None, :, None, :]
    corner = np.einsum("yxij,i,j->yx", total**-beta, weights, weights, optimize=True)
    rows = np.concatenate([corner[:0:-1], corner])
    image = np.concatenate([rows[:, :0:-1], rows], axis=1)
    return PSF((image / image.sum()).astype(np.float32), source="analytic")


def psf_from_stars(
    frame: Frame, modes: int = 0, resamples: int = 48
) -> tuple[PSF, tuple[str, ...]]:
    """Build the PSF of a frame from its own stars (`autofit_ml.measure.stack_stars`).

    Parameters
    ----------
    frame : Frame
        At least three good stars; the PSF is assumed not to vary over the frame.
    modes, resamples : int
        As for `stack_stars`: with `modes`, the PSF's uncertainty is measured too.

    Returns
    -------
    psf : PSF
        Contains the pixel; ``source`` is "stars".
    messages : tuple of str

    Raises
    ------
    InputError
        Fewer than three good stars (five with `modes`).
    """
    try:
        stack = stack_stars(frame.data, frame.sigma, frame.mask, modes=modes, resamples=resamples)
    except InputError as error:
        raise InputError(error.problem, error.remedy, frame.file) from error
    psf, _ = centre_psf(stack.image, source="stars", file=frame.file)
    width = psf_fwhm(psf)
    messages = [f"PSF built from {stack.number} stars, FWHM {width:.2f} px"]
    if width < 2.0:
        messages.append("the PSF is undersampled: give an oversampled one for good results")
    return PSF(psf.data, True, 1, (0.0, 0.0), "stars", stack.modes), tuple(messages)


def _window(length: int, centre: float) -> tuple[int, int, float]:
    """(first, last + 1, left-over shift) of the widest part of an axis centred on `centre`.

    The part is symmetric about the multiple of half a pixel next to `centre`; its parity may
    differ from the axis's. First and last may lie outside the axis (zeros are added there).
    """
    middle = round(2.0 * centre) / 2.0
    reach = min(middle, length - 1 - middle)
    lost = (length - 1) / 2.0 - reach
    if lost > 1.5:  # far off: pad the short side rather than cut the wing
        reach = max(middle, length - 1 - middle)
    return round(middle - reach), round(middle + reach) + 1, middle - centre


def centre_psf(
    image: np.ndarray,
    *,
    has_pixel: bool = True,
    oversampling: int = 1,
    source: str = "",
    file: str | Path | None = None,
) -> tuple[PSF, tuple[str, ...]]:
    """Check, normalise and centre a PSF image.

    Parameters
    ----------
    image : ndarray, shape (h, w)
        Any positive sum; small negative wings are kept.
    has_pixel, oversampling, source
        As in `PSF`.
    file : path, optional
        For error messages.

    Returns
    -------
    psf : PSF
        ``psf.shift`` is (dx, dy) from the given to the final position relative to the array's
        centre, (0, 0) when the centroid was within 0.05 pixels. The array may have become a pixel
        smaller or larger: whole and half pixels are moved by cutting or padding, only the rest
        (at most 0.25 pixels) by a Fourier shift.
    messages : tuple of str

    Raises
    ------
    InputError
        Not 2-D, non-finite, all zero, non-positive sum, no peak, or the peak far from the centre.
    """
    data = np.asarray(image, dtype=np.float64)
    if data.ndim != 2 or data.size == 0:
        raise InputError(f"the PSF has shape {data.shape}, not 2-D", _PSF_REMEDY, file)
    if not np.all(np.isfinite(data)):
        raise InputError("the PSF has NaN or infinite pixels", _PSF_REMEDY, file)
    if not np.any(data):
        raise InputError("the PSF is zero everywhere", _PSF_REMEDY, file)
    scale = float(np.abs(data).max())
    data = data / scale  # sums of 1e300 or 1e-300 stay finite
    total = float(data.sum())
    if total <= 0:
        raise InputError(f"the PSF has a negative sum ({total * scale:.3g})", _PSF_REMEDY, file)
    messages = []
    if abs(total * scale - 1.0) > SUM_TOLERANCE:
        messages.append(f"PSF normalised (its sum was {total * scale:.4g})")
    data = data / total
    h, w = data.shape
    if min(h, w) >= 7 and data.max() < 2.0 / data.size:
        raise InputError("the PSF is flat: it has no peak", _PSF_REMEDY, file)
    if data.size == 1:
        return PSF(data.astype(np.float32), has_pixel, oversampling, (0.0, 0.0), source), ()
    x, y, _ = core_centroid(data)
    dx, dy = (w - 1) / 2.0 - x, (h - 1) / 2.0 - y
    shift = (0.0, 0.0)
    if max(abs(dx), abs(dy)) > CENTROID_TOLERANCE:
        if abs(dx) > max(2.5, 0.2 * w) or abs(dy) > max(2.5, 0.2 * h):
            raise InputError(
                f"the PSF peaks at ({x:.1f}, {y:.1f}), far from the centre of its {h} x {w} array",
                "centre it (numpy.fft.fftshift if it is stored with the peak in a corner)",
                file,
            )
        shift = (dx, dy)
        data = _recentre(data, x, y)
        messages.append(f"PSF recentred by ({dx:+.3f}, {dy:+.3f}) px")
        data = data / data.sum()
    return PSF(data.astype(np.float32), has_pixel, oversampling, shift, source), tuple(messages)


def _recentre(data: np.ndarray, x: float, y: float) -> np.ndarray:
    """`data` with its centroid (x, y) moved to the centre of the returned array."""
    h, w = data.shape
    y_first, y_end, y_rest = _window(h, y)
    x_first, x_end, x_rest = _window(w, x)
    if max(abs(x_rest), abs(y_rest)) > 0.005:
        data = fourier_shift(data, x_rest, y_rest)
    pad = max(0, -y_first, -x_first, y_end - h, x_end - w)
    data = np.pad(data, pad)
    return data[y_first + pad : y_end + pad, x_first + pad : x_end + pad]


def resample_psf(image: np.ndarray, step: float) -> np.ndarray:
    """A PSF image on pixels `step` times as large, centred, by cubic splines.

    Parameters
    ----------
    image : ndarray, shape (h, w)
        Its source at ``((h - 1) / 2, (w - 1) / 2)``.
    step : float
        Size of a new pixel in old ones.

    Returns
    -------
    ndarray, float64, odd shape
        The light per new pixel, its source in the middle.
    """
    axes = []
    for length in image.shape:
        half = int((length - 1) / 2 / step)
        axes.append((length - 1) / 2 + step * np.arange(-half, half + 1))
    places = np.meshgrid(*axes, indexing="ij")
    return step**2 * ndimage.map_coordinates(image, places, order=3, mode="nearest")


def crop_psf(psf: PSF, shape: tuple[int, int]) -> tuple[PSF, tuple[str, ...]]:
    """Cut a PSF to twice the stamp where it is larger: its outer wings cannot reach any pixel.

    Parameters
    ----------
    psf : PSF
    shape : tuple of int
        (ny, nx) of the stamp.

    Returns
    -------
    psf : PSF
        Renormalised to 1.
    messages : tuple of str
        How much light was cut, if over 0.1 %.
    """
    limits = [2 * n * psf.oversampling + 1 for n in shape]
    cuts = [max(0, (n - limit) // 2) for n, limit in zip(psf.data.shape, limits, strict=True)]
    if not any(cuts):
        return psf, ()
    h, w = psf.data.shape
    data = psf.data[cuts[0] : h - cuts[0], cuts[1] : w - cuts[1]].astype(np.float64)
    kept = float(data.sum())
    messages: tuple[str, ...] = ()
    if abs(1.0 - kept) > 1e-3:
        messages = (f"PSF wings beyond twice the stamp cut ({100 * (1 - kept):.2f} % of light)",)
    modes = psf.modes
    if modes is not None:
        modes = modes[:, cuts[0] : h - cuts[0], cuts[1] : w - cuts[1]]
    return dataclasses.replace(psf, data=(data / kept).astype(np.float32), modes=modes), messages
