"""The noise of a pixel, built from gain, read noise and sky where no noise map is given."""

from __future__ import annotations

import math

import numpy as np
from scipy import ndimage

from autofit_ml.errors import InputError
from autofit_ml.images.background import Sky, measure_sky

__all__ = ["expected_source", "model_sigma"]


def expected_source(
    source: np.ndarray, noise: np.ndarray | float, gain: float | np.ndarray = math.inf
) -> np.ndarray:
    """Expected light of the source, from a noisy image of it.

    The variance of a pixel must not follow its own noise: weights from the raw counts favour
    downward fluctuations and bias fluxes low. A pixel is therefore drawn towards the mean of its
    5 x 5 neighbourhood as far as the local scatter is explained by the noise (Lee 1980, IEEE
    PAMI-2, 165); bright cores, where structure beats noise, keep their own value.

    Parameters
    ----------
    source : ndarray, shape (ny, nx)
        Sky-subtracted.
    noise : ndarray or float
        1-sigma per pixel of everything but the source's own photons, same units.
    gain : float or ndarray
        Electrons per unit; infinite: the source has no photon noise.

    Returns
    -------
    ndarray, float64, shape (ny, nx)
        Non-negative.
    """
    mean = ndimage.uniform_filter(source, 5, mode="nearest")
    spread = ndimage.uniform_filter(source**2, 5, mode="nearest") - mean**2
    variance = np.square(noise) + np.maximum(mean, 0.0) / gain
    if np.ndim(noise):
        variance = ndimage.uniform_filter(variance, 5, mode="nearest")
    keep = np.clip((spread - variance) / np.maximum(spread, 1e-300), 0.0, 1.0)
    return np.maximum(mean + keep * (source - mean), 0.0)


def model_sigma(
    data: np.ndarray,
    mask: np.ndarray,
    *,
    gain: float = math.nan,
    rdnoise: float = math.nan,
    sky_subtracted: float = math.nan,
    sky_level: float = math.nan,
    file: str | None = None,
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Noise per pixel from the CCD equation, or from the measured sky scatter.

    ``sigma^2 = (E[I] + SKYSUB) / GAIN + (RDNOISE / GAIN)^2`` where the header says what sky the
    detector saw (SKYSUB, or SKYLEVEL for a pedestal left in the image); else the measured sky
    scatter squared plus ``E[I - sky] / GAIN``. E[] is `expected_source`.

    Parameters
    ----------
    data : ndarray, float64, shape (ny, nx)
        Finite where not masked.
    mask : ndarray of bool
    gain : float
        Electrons per image unit; NaN if unknown.
    rdnoise : float
        Electrons; NaN if unknown.
    sky_subtracted, sky_level : float
        SKYSUB and SKYLEVEL, image units; NaN if unknown.
    file : str, optional
        For error messages.

    Returns
    -------
    sigma : ndarray, float64, shape (ny, nx)
    messages : tuple of str

    Raises
    ------
    InputError
        No scatter and no gain: nothing to build from.
    """
    good = ~mask & np.isfinite(data)
    unit = float(np.median(np.abs(data[good]))) or float(np.abs(data[good]).max()) or 1.0
    work = np.where(good, data / unit, 0.0)
    gain_w = gain * unit  # electrons per scaled unit
    sky = _scaled(measure_sky(data, mask), 1.0 / unit)
    have_gain = math.isfinite(gain)
    knows_sky = math.isfinite(sky_subtracted) or (math.isfinite(sky_level) and sky_level > 0)
    messages = []
    level = sky.level if math.isfinite(sky.level) else 0.0
    if have_gain and knows_sky:
        removed = sky_subtracted / unit if math.isfinite(sky_subtracted) else 0.0
        read = rdnoise / gain_w if math.isfinite(rdnoise) else 0.0
        if not math.isfinite(rdnoise):
            messages.append("no read noise known: taken as 0")
        floor = max((level + removed) / gain_w, 0.0) + read**2
        if floor > 0:
            scatter = max(sky.rms, math.sqrt(floor)) if sky.n_pixels else math.sqrt(floor)
            source = expected_source(np.where(good, work - level, 0.0), scatter, gain_w)
            variance = floor + source / gain_w
            messages.append("sigma built from gain, read noise and sky")
            if sky.n_pixels and not 0.8 < sky.rms / math.sqrt(floor) < 1.25:
                messages.append(
                    f"measured sky scatter is {sky.rms / math.sqrt(floor):.2f} of the built one"
                )
            return np.sqrt(variance) * unit, tuple(messages)
    if not sky.rms > 0:
        raise InputError(
            "no noise map, and the image has no scatter to measure one from",
            "give a sigma plane, or gain and read noise",
            file,
        )
    variance = np.full(data.shape, sky.rms**2)
    if have_gain:
        source = expected_source(np.where(good, work - level, 0.0), sky.rms, gain_w)
        variance = variance + source / gain_w
        messages.append("sigma built from the measured sky scatter and the gain")
    else:
        messages.append(
            "sigma is the measured sky scatter: without a gain the object's own photon noise is "
            "left out"
        )
    if sky.n_pixels == 0:
        messages.append("no sky outside the object: the noise is a guess from the whole image")
    return np.sqrt(variance) * unit, tuple(messages)


def _scaled(sky: Sky, factor: float) -> Sky:
    return Sky(sky.level * factor, sky.level_err * factor, sky.rms * factor, sky.n_pixels)
