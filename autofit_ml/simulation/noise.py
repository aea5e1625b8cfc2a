"""Noise: photons, read-out, and the correlation that resampling and stacking leave behind.

The noise of a pixel is ``sqrt((light + sky) gain + read_noise**2) / gain``. Resampled and stacked
images have noise that is correlated between neighbouring pixels. It is made by filtering the
standardised deviates (deviation / sigma) and multiplying by sigma afterwards, so the variance of
bright sources and the correlation both hold.
"""

import functools
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy import fft
from scipy.optimize import brentq

from autofit_ml.errors import InputError, SettingsError

__all__ = [
    "add_noise",
    "autocorrelation",
    "correlate",
    "flux_for_snr",
    "noise_amplitude",
    "noise_map",
    "observe",
    "total_snr",
]

_SMALLEST = 1e-4
"""Correlations below this are left out."""

_ASYMMETRY = 0.05
"""Largest difference between opposite lags that is taken for measurement noise."""

_NEGATIVE_POWER = 0.02
"""Largest negative power (relative to the largest power) that is taken for measurement noise."""

_GAUSSIAN_ABOVE = 1e9
"""Means (electrons) above which the Poisson distribution is drawn as a Gaussian."""


def noise_map(light: np.ndarray, sky_rms: float, gain: float) -> np.ndarray:
    """1-sigma noise per pixel: ``sqrt(sky_rms**2 + light / gain)``.

    `light` is the noise-free light of all sources without sky (image units), `sky_rms` the noise
    of sky and read-out, `gain` electrons per image unit (``inf``: background-limited).
    """
    return np.sqrt(sky_rms**2 + np.maximum(light, 0) / gain)


def total_snr(model: np.ndarray, sigma: np.ndarray) -> float:
    """Total signal-to-noise ratio ``sqrt(sum(model**2 / sigma**2))`` over the stamp.

    That is the S/N of the flux when everything else is known (matched filter).
    """
    return float(np.sqrt(np.sum((np.asarray(model, dtype=float) / sigma) ** 2)))


def flux_for_snr(unit_model: np.ndarray, snr: float, sky_rms: float, gain: float) -> float:
    """Flux that gives a source of image ``flux * unit_model`` the total S/N `snr`.

    `unit_model` is the image for unit flux; noise as in `noise_map`.
    """
    if not snr > 0:
        raise SettingsError(f"S/N {snr}", "must be positive")

    def excess(log_flux: float) -> float:
        model = np.exp(log_flux) * unit_model
        return np.log(total_snr(model, noise_map(model, sky_rms, gain)) / snr)

    background_limited = np.log(snr * sky_rms / np.sqrt(np.sum(unit_model**2)))
    # S/N grows at least as sqrt(flux), so the root lies within these bounds.
    upper = background_limited + 1.0
    while excess(upper) < 0:
        upper += 2.0
    return float(np.exp(brentq(excess, background_limited - 1.0, upper, xtol=1e-6)))


def add_noise(
    image: np.ndarray,
    sigma: np.ndarray,
    rng: np.random.Generator,
    correlated_noise: float | None = None,
) -> np.ndarray:
    """`image` with Gaussian noise of standard deviation `sigma`.

    Parameters
    ----------
    image, sigma : ndarray, shape (ny, nx)
    rng : numpy.random.Generator
    correlated_noise : float, optional
        Correlation of adjacent pixels in [0, 0.9]; at offset (dx, dy) it is
        ``correlated_noise ** (dx**2 + dy**2)``, as Gaussian smoothing leaves it. The variance
        stays sigma**2. None: white.
    """
    if not correlated_noise:
        return image + sigma * rng.standard_normal(image.shape)
    if not 0 < correlated_noise <= 0.9:
        raise SettingsError(f"noise correlation {correlated_noise}", "use 0 to 0.9")
    ny, nx = (side + 32 for side in image.shape)
    dy = np.minimum(np.arange(ny), ny - np.arange(ny))[:, None]
    dx = np.minimum(np.arange(nx), nx - np.arange(nx))[None, :]
    correlation = correlated_noise ** (dy**2.0 + dx**2.0)
    power = np.maximum(np.fft.rfft2(correlation).real, 0)
    white = np.fft.rfft2(rng.standard_normal((ny, nx)))
    noise = np.fft.irfft2(white * np.sqrt(power), s=(ny, nx))
    return image + sigma * noise[: image.shape[0], : image.shape[1]]


def autocorrelation(
    setting: float | Sequence[Sequence[float]] | np.ndarray | str | Path, shape: tuple[int, int]
) -> np.ndarray | None:
    """The autocorrelation of the noise that a `Noise.correlation` setting means.

    Parameters
    ----------
    setting : float, 2-d sequence or path
        rho in [0, 0.9]: ``rho ** (dx**2 + dy**2)`` out to where an axis falls below 1e-4. An array
        with odd sides and centre 1. A FITS file (first image HDU) of any scale: its peak is the
        origin, and it is cut to the largest rectangle centred there and divided by the peak.
    shape : tuple of int
        (ny, nx) of the images: lags longer than these are cut off.

    Returns
    -------
    ndarray, float64, shape (odd, odd), or None
        Read-only; point-symmetric, 1 at the centre; rings below 1e-4 are cut off. None: white.

    Raises
    ------
    SettingsError
        rho out of range, not an array as described, an unreadable file, or no autocorrelation:
        opposite lags differ by more than 0.05 (smaller differences are averaged out), or the power
        spectrum is below -2 % of its maximum somewhere.

    Notes
    -----
    An autocorrelation has a power spectrum >= 0 (Wiener-Khinchin). Slightly negative power, as
    measurements have it, passes here and is set to 0 in `correlate`; with d the mean of the
    removed power (relative to the mean power), no correlation of the noise changes by more than
    ``2 d / (1 + d)``.
    """
    if isinstance(setting, str | Path):
        path = Path(setting)
        try:
            stat = path.stat()
        except OSError as error:
            raise SettingsError("no such file of noise correlation", "check it", path) from error
        array = _from_file(path, stat.st_mtime_ns, stat.st_size)
    elif isinstance(setting, float | int | np.number):
        array = _gaussian(float(setting))
    else:
        array = _from_values(setting)
    rows, columns = (
        min(side // 2, limit - 1) for side, limit in zip(array.shape, shape, strict=True)
    )
    array = _centre(array, rows, columns)
    array.setflags(write=False)
    return array if array.size > 1 else None


def correlate(white: np.ndarray, correlation: np.ndarray) -> np.ndarray:
    """Noise of unit variance with a given autocorrelation, from white noise.

    The field is filtered with the square root of the power spectrum of `correlation` (negative
    power counts as 0, see `autocorrelation`) as if it were periodic, and a border as wide as the
    correlation reaches is then cut off: no two pixels of the result are correlated round the edge.

    Parameters
    ----------
    white : ndarray, shape (ny + 2 a, nx + 2 b)
        Independent values of mean 0 and variance 1, with a border that is used up.
    correlation : ndarray, shape (2 a + 1, 2 b + 1)
        Centre 1.

    Returns
    -------
    ndarray, float64, shape (ny, nx)

    Raises
    ------
    SettingsError
        `white` is no larger than its border.
    """
    a, b = (side // 2 for side in correlation.shape)
    ny, nx = white.shape[0] - 2 * a, white.shape[1] - 2 * b
    if ny < 1 or nx < 1:
        raise SettingsError(
            f"a field of {white.shape} pixels for a correlation of {correlation.shape}",
            "add a border of half the correlation array on all sides",
        )
    amplitude = noise_amplitude(white.shape, correlation)
    field = fft.irfft2(fft.rfft2(white) * amplitude, s=white.shape)
    return field[a : a + ny, b : b + nx]


def observe(
    light: np.ndarray,
    sky: float | np.ndarray,
    *,
    gain: float,
    read_noise: float,
    rng: np.random.Generator,
    correlation: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Turn light into what a detector records.

    Electrons are Poisson with mean ``(light + sky) * gain`` (negative means count as 0; above
    1e9, where the relative width is 3e-5, a Gaussian of the same mean and variance is drawn);
    Gaussian read noise comes on top. ``data = light + sky + sigma * deviate`` with deviates of
    variance 1, which are filtered by `correlate` where the noise is correlated.

    Parameters
    ----------
    light : ndarray, shape (ny, nx)
        Noise-free light, image units.
    sky : float or ndarray of shape (ny, nx)
        All sky light that fell on the detector, image units, also what is subtracted later.
    gain : float
        Electrons per image unit.
    read_noise : float
        Electrons per pixel.
    rng : numpy.random.Generator
    correlation : ndarray, shape (odd, odd), optional
        See `autocorrelation`. None: white.

    Returns
    -------
    data : ndarray, float64, shape (ny, nx)
        Sky included.
    sigma : ndarray, float64, shape (ny, nx)
        ``sqrt((max(light, 0) + sky) * gain + read_noise**2) / gain``.

    Raises
    ------
    SettingsError
        A gain or read noise out of range, or a pixel without any noise.
    """
    if not (0 < gain < math.inf and 0 <= read_noise < math.inf):
        raise SettingsError(
            f"gain {gain}, read noise {read_noise}", "gain > 0 and read noise >= 0, both finite"
        )
    light = np.asarray(light, dtype=float)
    variance = np.maximum(np.maximum(light, 0) + sky, 0) * gain + read_noise**2
    if not (np.all(variance > 0) and np.all(np.isfinite(variance))):
        raise SettingsError(
            "the noise of some pixels is zero or not a number",
            "give a positive sky or a positive read noise, and finite light",
        )
    sigma = np.sqrt(variance) / gain
    level = light + sky
    mean = np.maximum(level, 0) * gain
    ny, nx = light.shape
    if correlation is None:
        deviates = _deviates(mean, variance, read_noise, rng)
    else:
        borders = [side // 2 for side in correlation.shape]
        pad = [
            (border, fft.next_fast_len(side + 2 * border, real=True) - side - border)
            for side, border in zip(light.shape, borders, strict=True)
        ]
        mean, variance = (np.pad(item, pad, mode="edge") for item in (mean, variance))
        deviates = correlate(_deviates(mean, variance, read_noise, rng), correlation)[:ny, :nx]
    return level + sigma * deviates, sigma


def _deviates(
    mean: np.ndarray, variance: np.ndarray, read_noise: float, rng: np.random.Generator
) -> np.ndarray:
    """(electrons - mean) / sqrt(variance) of independent pixels; everything in electrons."""
    large = mean > _GAUSSIAN_ABOVE
    deviation = rng.poisson(np.where(large, 0, mean)) - mean
    if large.any():
        deviation[large] = np.sqrt(mean[large]) * rng.standard_normal(np.count_nonzero(large))
    if read_noise:
        deviation += read_noise * rng.standard_normal(mean.shape)
    return deviation / np.sqrt(variance)


def _gaussian(rho: float) -> np.ndarray:
    if not 0 <= rho <= 0.9:
        raise SettingsError(f"noise correlation {rho}", "must lie between 0 and 0.9")
    if rho <= _SMALLEST:
        return np.ones((1, 1))
    radius = math.floor(math.sqrt(math.log(_SMALLEST) / math.log(rho)))
    lag = np.arange(-radius, radius + 1.0)
    return rho ** (lag[:, None] ** 2 + lag[None, :] ** 2)


def _from_values(
    values: Sequence[Sequence[float]] | np.ndarray, path: Path | None = None
) -> np.ndarray:
    try:
        array = np.array(values, dtype=float)
    except (TypeError, ValueError) as error:
        problem = "the noise correlation is no array of numbers"
        raise SettingsError(problem, "give rows of equal length") from error
    if array.ndim != 2 or any(side % 2 == 0 for side in array.shape):
        raise SettingsError(
            f"noise correlation of shape {array.shape}", "give a rectangle with odd sides"
        )
    centre = array[array.shape[0] // 2, array.shape[1] // 2]
    if centre != 1 or not np.abs(array).max() <= 1:
        raise SettingsError(
            f"noise correlation with centre {centre:g}, largest value {np.abs(array).max():.3g}",
            "the centre (lag 0) is 1 and no value larger",
            path,
        )
    return _checked(array, path)


@functools.lru_cache(maxsize=8)
def _from_file(path: Path, _mtime: int, _size: int) -> np.ndarray:
    """The function in a file; the file's time and size are part of the cache's key."""
    from autofit_ml.images.fitsfile import image_array, open_fits

    try:
        file = open_fits(path)
        info = next((item for item in file.infos if item.kind == "image"), None)
        if info is None:
            raise SettingsError("no image in the file", "give a 2-d autocorrelation", path)
        array = np.asarray(image_array(file, info, "noise correlation")[0], dtype=float)
    except InputError as error:
        raise SettingsError(error.problem, error.remedy, path) from error
    if not np.all(np.isfinite(array)) or not array.max() > 0:
        raise SettingsError(
            "the noise correlation is not finite or has no positive peak",
            "give an autocorrelation with its peak at lag 0",
            path,
        )
    y, x = (int(i) for i in np.unravel_index(array.argmax(), array.shape))
    rows, columns = min(y, array.shape[0] - 1 - y), min(x, array.shape[1] - 1 - x)
    box = array[y - rows : y + rows + 1, x - columns : x + columns + 1] / array[y, x]
    return _from_values(box, path)


def _checked(array: np.ndarray, path: Path | None = None) -> np.ndarray:
    """Point-symmetric version of a function that can be an autocorrelation, small rings cut off."""
    asymmetry = np.abs(array - array[::-1, ::-1]).max()
    if asymmetry > _ASYMMETRY:
        raise SettingsError(
            f"no autocorrelation of noise: opposite lags differ by {asymmetry:.3g}",
            "it must be symmetric under reflection at its centre",
            path,
        )
    array = (array + array[::-1, ::-1]) / 2
    # Zero-padded to over twice the size, so that the spectrum is sampled between its maxima too.
    power = _power(array, tuple(fft.next_fast_len(2 * side + 8) for side in array.shape))
    lowest = power.min() / power.max()
    if lowest < -_NEGATIVE_POWER:
        raise SettingsError(
            f"no autocorrelation of noise: its power spectrum falls to {lowest:.1%} of its maximum",
            "check its origin (the centre), its background (0 at large lags) and its size",
            path,
        )
    large = np.abs(array) >= _SMALLEST
    rows, columns = (
        int(np.abs(np.flatnonzero(large.any(axis=1 - axis)) - array.shape[axis] // 2).max())
        for axis in (0, 1)
    )
    return _centre(array, rows, columns)


def _centre(array: np.ndarray, rows: int, columns: int) -> np.ndarray:
    y, x = array.shape[0] // 2, array.shape[1] // 2
    return array[y - rows : y + rows + 1, x - columns : x + columns + 1].copy()


def _power(correlation: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Power spectrum on a grid that is at least as large, mean 1."""
    grid = np.zeros(shape)
    grid[: correlation.shape[0], : correlation.shape[1]] = correlation
    a, b = (side // 2 for side in correlation.shape)
    return fft.fft2(np.roll(grid, (-a, -b), axis=(0, 1))).real


def noise_amplitude(shape: tuple[int, int], correlation: np.ndarray) -> np.ndarray:
    """Root of the power spectrum (unit variance) of noise on the half plane of `fft.rfft2`.

    Negative power counts as 0, see `autocorrelation`.
    """
    values = np.ascontiguousarray(correlation, dtype=float)
    return _kept_amplitude(shape, values.shape, values.tobytes())


@functools.lru_cache(maxsize=4)
def _kept_amplitude(shape: tuple[int, int], sides: tuple[int, int], values: bytes) -> np.ndarray:
    power = np.maximum(_power(np.frombuffer(values).reshape(sides), shape), 0)
    return np.sqrt(power / power.mean())[:, : shape[1] // 2 + 1]
