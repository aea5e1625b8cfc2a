"""Scenes given source by source, and samples of single Sérsic galaxies, without configs."""

from collections.abc import Sequence

import numpy as np

from autofit_ml.errors import SettingsError
from autofit_ml.images.stamp import PSF
from autofit_ml.simulation.draw import EXACT, DrawAccuracy, render_source
from autofit_ml.simulation.galaxies import log_uniform
from autofit_ml.simulation.labels import described
from autofit_ml.simulation.noise import add_noise, autocorrelation, flux_for_snr, noise_map
from autofit_ml.simulation.objects import Artefact, SimulatedObject, SourceLight
from autofit_ml.simulation.psf import moffat_psf
from autofit_ml.simulation.sources import Source, along_axes, sersic_indices

__all__ = ["draw_neighbours", "draw_target", "observe_scene", "simulate_sersic"]


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


def simulate_sersic(
    n_objects: int,
    *,
    seed: int,
    size: int | tuple[int, int] = 64,
    pixel_scale: float = 0.2,
    zeropoint: float = 27.0,
    psf: PSF | Sequence[PSF] | None = None,
    psf_fwhm: tuple[float, float] = (2.5, 5.0),
    psf_size: int = 25,
    snr: tuple[float, float] = (10.0, 1000.0),
    n: tuple[float, float] = (0.5, 6.0),
    re: tuple[float, float] = (2.0, 8.0),
    q: tuple[float, float] = (0.1, 1.0),
    max_shift: float = 0.5,
    sky: float | tuple[float, float] = 0.0,
    sky_rms: float = 1.0,
    gain: float = 10.0,
    noise: bool = True,
    neighbours: float = 0.0,
    correlated_noise: float | None = None,
) -> list[SimulatedObject]:
    """Single Sérsic galaxies at known S/N, each in its own stamp.

    Object i depends on `seed` and i alone, not on `n_objects`.

    Parameters
    ----------
    n_objects : int
    seed : int
        Non-negative.
    size : int or (ny, nx)
        Stamp, pixels.
    pixel_scale, zeropoint : float
        arcsec per pixel; AB magnitude of one image unit.
    psf : PSF or sequence of PSF, optional
        Used as given (one drawn at random per object). None: Moffat profiles (beta 2.5 to 4.5, a
        few per cent elliptical), integrated over the pixel, on `psf_size` pixels a side, FWHM
        uniform in `psf_fwhm` pixels; at most 50 different ones in a sample.
    snr : (low, high)
        Total S/N ``sqrt(sum(model**2 / sigma**2))`` of the target alone, log-uniform.
    n, re, q : (low, high)
        Sérsic index (log-uniform on the grid of `sersic_indices`), semi-major half-light radius in
        pixels (log-uniform), axis ratio (uniform). Equal limits fix a value.
    max_shift : float
        The centre is uniform within this many pixels of the stamp's centre, per axis.
    sky : float or (low, high)
        Pedestal left in the image per pixel; uniform if a range.
    sky_rms : float
        Noise of an empty pixel, image units.
    gain : float
        Electrons per image unit: source noise (Gaussian, of the true variance).
    noise : bool
        False: noise-free data.
    neighbours : float
        Mean number of other sources per stamp (see `draw_neighbours`).
    correlated_noise : float, optional
        Correlation of adjacent pixels' noise (see `add_noise`).

    Returns
    -------
    list of SimulatedObject

    Raises
    ------
    SettingsError
        GalSim is missing or a range makes no sense.
    """
    shape = (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
    sky_range = sky if isinstance(sky, tuple) else (float(sky), float(sky))
    for name, (low, high) in {"snr": snr, "n": n, "re": re, "q": q, "psf_fwhm": psf_fwhm}.items():
        if not 0 < low <= high:
            raise SettingsError(f"{name}=({low}, {high})", "need 0 < low <= high")
    if q[1] > 1:
        raise SettingsError(f"q=({q[0]}, {q[1]})", "the axis ratio is at most 1")
    if psf is None:
        psfs = _moffat_pool(min(n_objects, 50), seed, psf_fwhm, psf_size)
    else:
        psfs = [psf] if isinstance(psf, PSF) else list(psf)

    objects = []
    for index in range(n_objects):
        rng = np.random.default_rng([seed, index])
        this_psf = psfs[index % len(psfs)] if psf is None else psfs[rng.integers(len(psfs))]
        target = draw_target(rng, shape, n=n, re=re, q=q, max_shift=max_shift)
        wanted = float(np.exp(rng.uniform(*np.log(snr))))
        unit = render_source(target, this_psf, shape)
        target = target.replace(flux=flux_for_snr(unit, wanted, sky_rms, gain))
        others = draw_neighbours(rng, target, shape, neighbours) if neighbours else ()
        objects.append(
            observe_scene(
                f"sim{index:05d}",
                target,
                others,
                this_psf,
                shape,
                rng=rng,
                sky=float(rng.uniform(*sky_range)),
                sky_rms=sky_rms,
                gain=gain,
                noise=noise,
                correlated_noise=correlated_noise,
                pixel_scale=pixel_scale,
                zeropoint=zeropoint,
                ra=150.0 + 0.01 * (index % 100),
                dec=2.0 + 0.01 * (index // 100),
                target_light=target.flux * unit,
            )
        )
    return objects


def _moffat_pool(count: int, seed: int, fwhm: tuple[float, float], size: int) -> list[PSF]:
    pool = []
    for index in range(count):
        rng = np.random.default_rng([seed, 0x505346, index])
        pool.append(
            moffat_psf(
                rng.uniform(*fwhm),
                beta=rng.uniform(2.5, 4.5),
                ellipticity=tuple(rng.normal(0, 0.02, 2)),
                size=size,
            )
        )
    return pool


def draw_target(
    rng: np.random.Generator,
    shape: tuple[int, int],
    *,
    n: tuple[float, float],
    re: tuple[float, float],
    q: tuple[float, float],
    max_shift: float = 0.5,
) -> Source:
    """A Sérsic galaxy of unit flux near the stamp's centre.

    `n` and `re` are log-uniform (n on the grid of `sersic_indices`), q and pa uniform, the centre
    uniform within `max_shift` pixels of the stamp's centre along each axis.
    """
    dx, dy = rng.uniform(-max_shift, max_shift, 2)
    return Source(
        x=(shape[1] - 1) / 2 + dx,
        y=(shape[0] - 1) / 2 + dy,
        flux=1.0,
        re=log_uniform(rng, *re),
        n=float(rng.choice(sersic_indices(*n))),
        q=float(rng.uniform(*q)),
        pa=float(rng.uniform(0, 180)),
    )


def draw_neighbours(
    rng: np.random.Generator,
    target: Source,
    shape: tuple[int, int],
    rate: float,
    *,
    flux_ratio: tuple[float, float] = (0.03, 1.0),
    n: tuple[float, float] = (0.5, 4.0),
    re: tuple[float, float] = (1.5, 5.0),
    star_fraction: float = 0.3,
    min_distance: float = 4.0,
) -> tuple[Source, ...]:
    """Other sources in the stamp.

    The number is Poisson with mean `rate`; positions are uniform over the stamp but at least
    ``max(min_distance, 1.5 re)`` pixels (along the target's ellipse) from the target; fluxes are
    log-uniform in `flux_ratio` times the target's.
    """
    neighbours: list[Source] = []
    for _ in range(rng.poisson(rate)):
        for _attempt in range(50):
            x, y = rng.uniform(0, shape[1] - 1), rng.uniform(0, shape[0] - 1)
            dx, dy = x - target.x, y - target.y
            major, minor = along_axes(dx, dy, target.pa)
            radius = np.hypot(major, minor / target.q)
            if radius > 1.5 * target.re and np.hypot(dx, dy) > min_distance:
                break
        else:
            continue
        flux = target.flux * log_uniform(rng, *flux_ratio)
        if rng.uniform() < star_fraction:
            neighbours.append(Source(x, y, flux, re=0.0, n=float("nan")))
        else:
            neighbours.append(
                Source(
                    x,
                    y,
                    flux,
                    re=log_uniform(rng, *re),
                    n=float(rng.choice(sersic_indices(*n))),
                    q=float(rng.uniform(0.3, 1)),
                    pa=float(rng.uniform(0, 180)),
                )
            )
    return tuple(neighbours)
