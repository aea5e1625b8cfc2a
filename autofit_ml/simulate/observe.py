"""Light on pixels, and noise.

**Known-PSF rule.** A source is convolved with exactly the PSF *image* that is handed over, read
as the band-limited (sinc-interpolated) function through its pixel values, which is what a Fourier
renderer means by multiplying with the image's discrete transform. So a fit of the right model can
be exact. `tests/simulate` checks `render_source` against a direct inverse transform on a 2048 or
4096-pixel grid of GalSim's Hankel transform times the PSF's discrete transform: they agree to
1e-5 of the peak (a Lanczos-15 interpolant would be off by 1e-4). Nothing wraps round: GalSim
pads until at most 5e-4 of the flux lies outside the transform's field, and that rest is spread
over the whole field.
"""

from __future__ import annotations

import functools

import numpy as np
from scipy.optimize import brentq

from autofit_ml.errors import SettingsError
from autofit_ml.images.stamp import PSF
from autofit_ml.simulate.psf import require_galsim
from autofit_ml.simulate.scenes import Source

__all__ = ["add_noise", "flux_for_snr", "noise_map", "render_source", "total_snr"]


@functools.cache
def _accuracy(minimum_fft_size: int):
    galsim = require_galsim()
    return galsim.GSParams(
        folding_threshold=5e-4,
        kvalue_accuracy=1e-6,
        maxk_threshold=1e-6,
        minimum_fft_size=minimum_fft_size,
        maximum_fft_size=16384,
    )


def render_source(source: Source, psf: PSF, shape: tuple[int, int]) -> np.ndarray:
    """The noise-free image of one source without sky.

    Parameters
    ----------
    source : Source
    psf : PSF
        Any oversampling, with or without the pixel.
    shape : tuple of int
        (ny, nx) of the image.

    Returns
    -------
    ndarray, float64, shape (ny, nx)
        Image units; the sum is below ``source.flux`` by the light outside the stamp.
    """
    galsim = require_galsim()
    ny, nx = shape
    if source.is_star and psf.has_pixel:
        return source.flux * _sinc_shifted(psf, source.x, source.y, shape)
    psf_extent = max(psf.data.shape) / psf.oversampling
    # Sinc side lobes of narrow sources fall off slowly: leave them room on all sides.
    field = galsim.Image.good_fft_size(int(5 * (max(shape) + psf_extent)))
    accuracy = _accuracy(field)
    image = galsim.Image(np.array(psf.data, dtype=float), scale=1.0 / psf.oversampling)
    # GalSim derives an enormous field from the sinc function's reach; state ours instead.
    psf_profile = galsim.InterpolatedImage(
        image,
        x_interpolant=galsim.SincInterpolant(),
        normalization="flux",
        flux=float(image.array.sum()),
        pad_factor=8.0,
        gsparams=accuracy,
        _force_stepk=2 * np.pi / field,
        _force_maxk=np.pi * psf.oversampling,
    )
    if source.is_star:
        profile = psf_profile * source.flux
    else:
        radius = source.re * np.sqrt(source.q)
        if source.n == 0.5:  # the same profile; GalSim's Sersic table errs by 7e-5 of the peak here
            galaxy = galsim.Gaussian(half_light_radius=radius, flux=source.flux, gsparams=accuracy)
        else:
            galaxy = galsim.Sersic(
                n=source.n, half_light_radius=radius, flux=source.flux, gsparams=accuracy
            )
        # GalSim's beta is counter-clockwise from +x, ours from +y.
        galaxy = galaxy.shear(q=source.q, beta=(source.pa + 90.0) * galsim.degrees)
        profile = galsim.Convolve(galaxy, psf_profile, gsparams=accuracy)
    return profile.drawImage(
        nx=nx,
        ny=ny,
        scale=1.0,
        method="no_pixel" if psf.has_pixel else "auto",
        offset=(source.x - (nx - 1) / 2, source.y - (ny - 1) / 2),
        dtype=float,
    ).array


def _sinc_shifted(psf: PSF, x: float, y: float, shape: tuple[int, int]) -> np.ndarray:
    """The band-limited function through the PSF's pixels, centred at (x, y), at pixel centres.

    GalSim would draw this one in real space, where the sinc function's reach overflows its tables.
    """
    height, width = psf.data.shape
    rows = (np.arange(shape[0]) - y)[:, None] * psf.oversampling - np.arange(height)
    columns = (np.arange(shape[1]) - x)[:, None] * psf.oversampling - np.arange(width)
    return (
        np.sinc(rows + (height - 1) / 2)
        @ np.asarray(psf.data, dtype=float)
        @ np.sinc(columns + (width - 1) / 2).T
    ) * psf.oversampling**2


def noise_map(light: np.ndarray, sky_rms: float, gain: float) -> np.ndarray:
    """1-sigma noise per pixel: ``sqrt(sky_rms**2 + light / gain)``.

    `light` is the noise-free light of all sources without sky (image units), `sky_rms` the noise
    of sky and read-out, `gain` electrons per image unit (``inf``: background-limited).
    """
    return np.sqrt(sky_rms**2 + np.maximum(light, 0) / gain)


def total_snr(model: np.ndarray, sigma: np.ndarray, mask: np.ndarray | None = None) -> float:
    """Total signal-to-noise ratio ``sqrt(sum(model**2 / sigma**2))`` over the stamp.

    That is the S/N of the flux when everything else is known (matched filter).
    """
    ratio = np.asarray(model, dtype=float) / sigma
    if mask is not None:
        ratio = ratio[~mask]
    return float(np.sqrt(np.sum(ratio**2)))


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
