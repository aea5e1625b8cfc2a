"""One scene, given source by source: light, sky, noise, labels and flags."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from autofit_ml.images.stamp import PSF
from autofit_ml.simulation.draw import EXACT, DrawAccuracy, render_source
from autofit_ml.simulation.labels import described
from autofit_ml.simulation.noise import add_noise, autocorrelation, noise_map
from autofit_ml.simulation.objects import Artefact, SimulatedObject, SourceLight
from autofit_ml.simulation.sources import Source

__all__ = ["observe_scene"]


def observe_scene(
    id: str,
    target: Source,
    neighbours: Sequence[Source],
    psf: PSF,
    shape: tuple[int, int],
    *,
    rng: np.random.Generator,
    sky: float = 0.0,
    sky_rms: float = 1.0,
    gain: float = 10.0,
    noise: bool = True,
    correlated_noise: float | None = None,
    mask: np.ndarray | None = None,
    saturation: float = np.inf,
    isophote: float = 1.0,
    pixel_scale: float = 0.2,
    zeropoint: float = 27.0,
    ra: float = 150.0,
    dec: float = 2.0,
    target_light: np.ndarray | None = None,
    accuracy: DrawAccuracy = EXACT,
) -> SimulatedObject:
    """Draw one scene.

    Parameters
    ----------
    id : str
    target : Source
    neighbours : sequence of Source
    psf : PSF
    shape : tuple of int
        (ny, nx).
    rng : numpy.random.Generator
    sky : float
        Level per pixel left in the image, image units.
    sky_rms, gain : float
        See `noise_map`.
    noise : bool
        False: noise-free data (the noise map is the same).
    correlated_noise : float, optional
        See `add_noise`.
    mask : ndarray, bool, optional
        Pixels to mask; their data become 0.
    saturation : float
        Pixels whose value exceeds this level are clipped to it and masked.
    isophote : float
        Of the instance masks, in units of `sky_rms`.
    pixel_scale, zeropoint, ra, dec : float
        arcsec per pixel, AB magnitude of one unit, centre in degrees.
    target_light : ndarray, shape (ny, nx), optional
        ``render_source(target, psf, shape)``, when it is known already.
    accuracy : DrawAccuracy
        Of the drawn light.

    Returns
    -------
    SimulatedObject
    """
    if target_light is None:
        target_light = render_source(target, psf, shape, accuracy)
    images = [target_light, *(render_source(item, psf, shape, accuracy) for item in neighbours)]
    light = np.sum(images, axis=0)
    sigma = noise_map(light, sky_rms, gain)
    data = light + sky
    if noise:
        data = add_noise(data, sigma, rng, correlated_noise)
    masked = np.zeros(shape, dtype=bool) if mask is None else np.array(mask, dtype=bool)
    data[masked] = 0.0
    saturated = (light + sky > saturation) | (data > saturation)
    data = np.where(saturated, saturation, data)
    masked |= saturated
    lights = [SourceLight(0, 0, image.astype(np.float32)) for image in images]
    correlated = bool(correlated_noise) and noise
    return described(
        (target, *neighbours),
        lights,
        light,
        isophote=isophote,
        id=id,
        data=data.astype(np.float32),
        sigma=sigma,
        mask=masked,
        psf=psf,
        model=lights[0].data,
        neighbour_light=(light - target_light).astype(np.float32),
        sky=float(sky),
        sky_rms=float(sky_rms),
        pixel_scale=pixel_scale,
        zeropoint=zeropoint,
        gain=gain,
        ra=ra,
        dec=dec,
        artefacts=(saturated * np.uint8(Artefact.SATURATED)).astype(np.uint8),
        correlation=autocorrelation(float(correlated_noise or 0), shape) if correlated else None,
    )
