"""Samples of simulated objects, and their truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from astropy import units as u
from astropy.table import QTable
from astropy.wcs import WCS

from autofit_ml.catalogue.flags import Flag
from autofit_ml.errors import SettingsError
from autofit_ml.images.stamp import PSF, Stamp
from autofit_ml.simulate.observe import (
    add_noise,
    flux_for_snr,
    noise_map,
    render_source,
    total_snr,
)
from autofit_ml.simulate.psf import moffat_psf
from autofit_ml.simulate.scenes import Source, draw_neighbours, draw_target

__all__ = [
    "SimulatedObject",
    "observe_scene",
    "simulate_sersic",
    "to_stamps",
    "truth_table",
]


@dataclass(frozen=True)
class SimulatedObject:
    """One simulated stamp and everything that is known about it.

    Attributes
    ----------
    id : str
    data : ndarray, float32, shape (ny, nx)
        Light + sky (+ noise), image units.
    sigma : ndarray, float32, shape (ny, nx)
        The true 1-sigma noise.
    mask : ndarray, bool, shape (ny, nx)
        True = do not use.
    psf : PSF
    target : Source
    neighbours : tuple of Source
    model : ndarray, float32, shape (ny, nx)
        Noise-free light of the target alone, PSF-convolved, without sky.
    neighbour_light : ndarray, float32, shape (ny, nx)
        The same for all neighbours together.
    labels : ndarray, int32, shape (ny, nx)
        0 where all sources together are fainter than one sky rms per pixel; otherwise the
        brightest source there: 1 the target, 2, 3, ... the neighbours.
    sky : float
        Level per pixel.
    snr : float
        Total S/N of the target, ``sqrt(sum(model**2 / sigma**2))`` over the unmasked stamp.
    flags : int
        `Flag` bits that hold by construction: BLENDED, EDGE (label 1 touches the border),
        LOW_SNR, CENTRE_MASKED, SATURATED, CORRELATED_NOISE, POINT_SOURCE (the target is a star).
    pixel_scale : float
        arcsec per pixel.
    zeropoint : float
        AB magnitude of one image unit.
    gain : float
        Electrons per image unit.
    ra, dec : float
        Degrees, of the stamp's centre; north is up and east left.
    """

    id: str
    data: np.ndarray
    sigma: np.ndarray
    mask: np.ndarray
    psf: PSF
    target: Source
    neighbours: tuple[Source, ...]
    model: np.ndarray
    neighbour_light: np.ndarray
    labels: np.ndarray
    sky: float
    snr: float
    flags: int
    pixel_scale: float
    zeropoint: float
    gain: float
    ra: float
    dec: float

    @property
    def wcs(self) -> WCS:
        """Tangential projection: north up, east left, `ra`, `dec` at the stamp's centre."""
        ny, nx = self.data.shape
        wcs = WCS(naxis=2)
        wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
        wcs.wcs.crval = [self.ra, self.dec]
        wcs.wcs.crpix = [(nx + 1) / 2, (ny + 1) / 2]
        wcs.wcs.cdelt = [-self.pixel_scale / 3600, self.pixel_scale / 3600]
        return wcs


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
    pixel_scale: float = 0.2,
    zeropoint: float = 27.0,
    ra: float = 150.0,
    dec: float = 2.0,
    target_light: np.ndarray | None = None,
) -> SimulatedObject:
    """Draw one scene: light, sky, noise, labels and flags.

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
    pixel_scale, zeropoint, ra, dec : float
        arcsec per pixel, AB magnitude of one unit, centre in degrees.
    target_light : ndarray, shape (ny, nx), optional
        ``render_source(target, psf, shape)``, when it is known already.

    Returns
    -------
    SimulatedObject
    """
    if target_light is None:
        target_light = render_source(target, psf, shape)
    images = np.stack([target_light, *(render_source(source, psf, shape) for source in neighbours)])
    light = images.sum(axis=0)
    sigma = noise_map(light, sky_rms, gain)
    data = light + sky
    if noise:
        data = add_noise(data, sigma, rng, correlated_noise)
    masked = np.zeros(shape, dtype=bool) if mask is None else np.array(mask, dtype=bool)
    data[masked] = 0.0
    saturated = (light + sky > saturation) | (data > saturation)
    data = np.where(saturated, saturation, data)
    masked |= saturated
    labels = np.where(light > sky_rms, images.argmax(axis=0) + 1, 0).astype(np.int32)

    flags = Flag(0)
    radius = target.elliptical_radius(shape)
    inside = radius <= max(target.re, 1.0)
    inside |= radius == radius.min()  # a thin galaxy may pass between pixel centres
    if images[1:, inside].sum() > 0.05 * images[0, inside].sum():
        flags |= Flag.BLENDED
    border = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
    if np.any(border == 1):
        flags |= Flag.EDGE
    if masked[inside].mean() > 0.5:
        flags |= Flag.CENTRE_MASKED
    if np.any(saturated[radius <= max(2 * target.re, 1.0)]):
        flags |= Flag.SATURATED
    if correlated_noise and noise:
        flags |= Flag.CORRELATED_NOISE
    if target.is_star:
        flags |= Flag.POINT_SOURCE
    snr = total_snr(images[0], sigma, masked)
    if snr < 10:
        flags |= Flag.LOW_SNR
    return SimulatedObject(
        id=id,
        data=data.astype(np.float32),
        sigma=sigma.astype(np.float32),
        mask=masked,
        psf=psf,
        target=target,
        neighbours=tuple(neighbours),
        model=images[0].astype(np.float32),
        neighbour_light=images[1:].sum(axis=0).astype(np.float32),
        labels=labels,
        sky=float(sky),
        snr=snr,
        flags=int(flags),
        pixel_scale=pixel_scale,
        zeropoint=zeropoint,
        gain=gain,
        ra=ra,
        dec=dec,
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


def to_stamps(objects: Sequence[SimulatedObject]) -> list[Stamp]:
    """The stamps that reading these objects from files would give (no given labels)."""
    return [
        Stamp(
            id=item.id,
            data=np.where(item.mask, np.float32(0), item.data),
            sigma=np.where(item.mask, np.float32(1), item.sigma),
            mask=item.mask,
            psf=item.psf,
            saturated=item.mask & (item.labels > 0) if item.flags & Flag.SATURATED else None,
            wcs=item.wcs,
            pixel_scale=item.pixel_scale,
            zeropoint=item.zeropoint,
            filter="r",
            gain=item.gain,
        )
        for item in objects
    ]


def truth_table(objects: Sequence[SimulatedObject]) -> QTable:
    """What is true of each target: columns and units as in the fitted catalogue.

    Columns: id, x, y, flux, mag, re, re_arcsec, n, q, pa, sky, snr, flags, n_neighbours.
    ``snr`` is the total S/N, sqrt(sum(model**2 / sigma**2)) over the stamp. Stars have re = 0 and
    n = NaN.
    """
    table = QTable()
    table["id"] = [item.id for item in objects]
    for name in ("x", "y", "flux"):
        table[name] = [getattr(item.target, name) for item in objects]
    table["mag"] = [item.zeropoint - 2.5 * np.log10(item.target.flux) for item in objects] * u.mag
    table["re"] = [item.target.re for item in objects] * u.pix
    table["re_arcsec"] = [item.target.re * item.pixel_scale for item in objects] * u.arcsec
    table["n"] = [item.target.n for item in objects]
    table["q"] = [item.target.q for item in objects]
    table["pa"] = [item.target.pa for item in objects] * u.deg
    table["sky"] = [item.sky for item in objects]
    table["snr"] = [item.snr for item in objects]
    table["flags"] = np.array([item.flags for item in objects], dtype=np.int32)
    table["n_neighbours"] = [len(item.neighbours) for item in objects]
    for name in ("x", "y"):
        table[name].unit = u.pix
    table.meta["snr"] = "sqrt(sum(model**2 / sigma**2)) over the stamp"
    table.meta["pa"] = "degrees counter-clockwise from +y"
    return table
