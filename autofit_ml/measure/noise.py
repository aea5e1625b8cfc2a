"""The noise of a pixel, built from gain, read noise and sky where no noise map is given."""

from __future__ import annotations

import math

import numpy as np
from scipy import ndimage

from autofit_ml.errors import InputError
from autofit_ml.measure.background import background_map
from autofit_ml.measure.sky import measure_sky

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
    varying: bool = False,
) -> tuple[np.ndarray, np.ndarray | None, tuple[str, ...]]:
    """Noise per pixel from the CCD equation, or from the measured sky scatter.

    ``sigma^2 = (E[I - sky] + SKYLEVEL + SKYSUB) / GAIN + (RDNOISE / GAIN)^2`` where the header says
    what sky the detector saw (SKYSUB was subtracted, SKYLEVEL is left in the image; without it
    the level is measured); else the measured sky scatter squared plus ``E[I - sky] / GAIN``. E[]
    is `expected_source`: a fit puts its model there.

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
    varying : bool
        The sky left in the image and its scatter are measured as a map (frames), not as one
        number; SKYLEVEL is then not used.

    Returns
    -------
    sigma : ndarray, float64, shape (ny, nx)
    background : ndarray, float64, shape (ny, nx), or None
        sigma without the photons of the objects; None where these are left out anyway.
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
    removed = sky_subtracted / unit if math.isfinite(sky_subtracted) else 0.0
    knows_sky = math.isfinite(sky_subtracted)
    level: float | np.ndarray
    rms: float | np.ndarray
    if varying and not knows_sky:
        level, rms, _ = background_map(work, ~good)
        n_pixels = work.size
    else:
        sky = measure_sky(work, mask)
        level, rms, n_pixels = sky.level, sky.rms, sky.n_pixels
        level = level if math.isfinite(level) else 0.0
        knows_sky |= math.isfinite(sky_level) and sky_level > 0
    light = np.where(good, work - level, 0.0)
    messages = []
    if math.isfinite(gain) and knows_sky:
        read = rdnoise / gain_w if math.isfinite(rdnoise) else 0.0
        if not math.isfinite(rdnoise):
            messages.append("no read noise known: taken as 0")
        left = sky_level / unit if math.isfinite(sky_level) and sky_level > 0 else float(level)
        floor = max((left + removed) / gain_w, 0.0) + read**2
        if floor > 0:
            built = math.sqrt(floor)
            source = expected_source(light, max(rms, built) if n_pixels else built, gain_w)
            messages.append("sigma built from gain, read noise and sky")
            if n_pixels and not 0.8 < rms / built < 1.25:
                messages.append(f"measured sky scatter is {rms / built:.2f} of the built one")
            whole = np.sqrt(floor + source / gain_w) * unit
            return whole, np.full(data.shape, built * unit), tuple(messages)
    if not np.all(rms > 0):
        raise InputError(
            "no noise map, and the image has no scatter to measure one from",
            "give a sigma plane, or gain and read noise",
        )
    background: np.ndarray | None = None
    variance = np.broadcast_to(np.square(rms, dtype=np.float64), data.shape)
    if math.isfinite(gain):
        background = np.sqrt(variance) * unit
        variance = variance + expected_source(light, rms, gain_w) / gain_w
        messages.append("sigma built from the measured sky scatter and the gain")
    else:
        messages.append(
            "sigma is the measured sky scatter: without a gain the object's own photon noise is "
            "left out"
        )
    if n_pixels == 0:
        messages.append("no sky outside the object: the noise is a guess from the whole image")
    return np.sqrt(variance) * unit, background, tuple(messages)
