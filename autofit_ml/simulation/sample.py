"""Samples of single Sérsic galaxies at known S/N, without configs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from autofit_ml.errors import SettingsError
from autofit_ml.images.stamp import PSF
from autofit_ml.simulation.draw import render_source
from autofit_ml.simulation.noise import flux_for_snr
from autofit_ml.simulation.objects import SimulatedObject
from autofit_ml.simulation.observe import observe_scene
from autofit_ml.simulation.psf import moffat_psf
from autofit_ml.simulation.scenes import draw_neighbours, draw_target

__all__ = ["simulate_sersic"]


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
    ranges = {"snr": snr, "n": n, "re": re, "q": q, "psf_fwhm": psf_fwhm}
    for name, (low, high) in ranges.items():
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
