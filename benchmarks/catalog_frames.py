"""Five-band frames of stars and galaxies as SDSS would see them, drawn from populations.

Sky, gain and seeing are the medians of the 17 Stripe 82 frames of data/celeste_stripe82; flux is
in nanomaggies. Galaxies of a population with a de Vaucouleurs share are mixtures of an exponential
and a de Vaucouleurs profile of one shape, others are Sérsic profiles.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from astropy.table import Table
from astropy.wcs import WCS

from autofit_ml.images.stamp import PSF, Frame
from autofit_ml.scenes.populations import Population, read_population
from autofit_ml.simulation.draw import FAST, draw_box, extent
from autofit_ml.simulation.files import write_planes
from autofit_ml.simulation.noise import observe
from autofit_ml.simulation.psf import moffat_psf
from autofit_ml.simulation.sources import Component, Source

__all__ = [
    "BANDS",
    "COLOURS",
    "OTHER",
    "PIXEL_SCALE",
    "STAR_SHARE",
    "ZEROPOINT",
    "Field",
    "draw_truth",
    "simulate_field",
    "sky_of",
    "source_of",
    "write_field",
]  # fmt: skip

PIXEL_SCALE, ZEROPOINT = 0.396, 22.5
STAR_SHARE = 0.28
DENSITY = 1000 / (2048 * 1489)
"""Sources per pixel."""

COLOURS = ("u-g", "g-r", "r-i", "i-z")


@dataclass(frozen=True)
class Band:
    """Sky (mag / arcsec2), electrons per nanomaggy, read noise (electrons), seeing (arcsec).

    The seeing is that of a Moffat profile before the pixel, 0.75 of the effective width.
    """

    sky: float
    gain: float
    read_noise: float
    fwhm: float


BANDS = {
    "u": Band(21.99, 160, 5.7, 1.13),
    "g": Band(21.80, 1085, 5.6, 1.09),
    "r": Band(20.73, 936, 5.5, 1.00),
    "i": Band(20.14, 768, 13.4, 0.95),
    "z": Band(19.03, 128, 17.0, 0.98),
}
_SHEARS = ((0.02, 0.01), (-0.015, 0.02), (0.01, -0.02), (0.0, 0.025), (0.02, -0.01))
_FOLDER = Path(__file__).parent / "populations"
OTHER = (_FOLDER / "other_stars.yaml", _FOLDER / "other_galaxies.yaml")
"""A population that the prior does not describe; its share of stars is a half."""


@dataclass(frozen=True)
class Field:
    """One simulated piece of sky.

    Attributes
    ----------
    truth : Table
        x, y, is_star, flux_<band>, re (pixels), q, pa, dev, n.
    frames : dict of str to Frame
    light : dict of str to ndarray
        Without noise and sky, by band.
    """

    truth: Table
    frames: dict[str, Frame]
    light: dict[str, np.ndarray]


def draw_truth(
    stars: Population,
    galaxies: Population,
    shape: tuple[int, int],
    seed: int,
    star_share: float = STAR_SHARE,
) -> Table:
    """Sources of a field (ny, nx); their number is that of 1 000 in 2048 x 1489 pixels."""
    rng = np.random.default_rng([seed, 0xCE1E])
    number = round(DENSITY * shape[0] * shape[1])
    is_star = rng.uniform(size=number) < star_share
    out = Table()
    out["x"] = rng.uniform(-0.5, shape[1] - 0.5, number)
    out["y"] = rng.uniform(-0.5, shape[0] - 0.5, number)
    out["is_star"] = is_star
    drawn = [p.draw(number, seed=2 * seed + k) for k, p in enumerate((galaxies, stars))]

    def chosen(name: str, absent: float = math.nan) -> np.ndarray:
        both = [one.get(name, np.full(number, absent)) for one in drawn]
        return np.where(is_star, both[1], both[0])

    magnitudes = {"r": chosen("mag")}
    magnitudes["g"] = magnitudes["r"] + chosen("g-r")
    magnitudes["u"] = magnitudes["g"] + chosen("u-g")
    magnitudes["i"] = magnitudes["r"] - chosen("r-i")
    magnitudes["z"] = magnitudes["i"] - chosen("i-z")
    for band in BANDS:
        out[f"flux_{band}"] = 10 ** (0.4 * (ZEROPOINT - magnitudes[band]))
    out["re"] = chosen("re") / PIXEL_SCALE
    out["q"] = chosen("q")
    out["pa"] = np.where(is_star, math.nan, rng.uniform(0, 180, number))
    out["dev"] = chosen("dev")
    out["n"] = chosen("n")
    return out


def source_of(row, band: str) -> Source:
    """A row of the truth as the simulator draws it."""
    x, y, flux = float(row["x"]), float(row["y"]), float(row[f"flux_{band}"])
    if row["is_star"]:
        return Source(x, y, flux, 0.0, math.nan)
    re, q, pa, share = (float(row[name]) for name in ("re", "q", "pa", "dev"))
    if not math.isfinite(share):
        return Source(x, y, flux, re, float(row["n"]), q, pa)
    parts = tuple(
        Component("sersic", flux * part, re, n, q, pa)
        for part, n in ((1 - share, 1.0), (share, 4.0))
        if part > 0
    )
    return Source(x, y, flux, re, 1.0, q, pa, parts)


def sky_of(band: str) -> tuple[float, float]:
    """Sky level and its noise in a pixel, nanomaggies."""
    one = BANDS[band]
    level = 10 ** (0.4 * (ZEROPOINT - one.sky)) * PIXEL_SCALE**2
    return level, math.sqrt(level * one.gain + one.read_noise**2) / one.gain


def psfs() -> dict[str, PSF]:
    """Moffat PSFs of the bands, 41 pixels wide."""
    return {
        band: moffat_psf(one.fwhm / PIXEL_SCALE, beta=3.0, ellipticity=shear, size=41)
        for (band, one), shear in zip(BANDS.items(), _SHEARS, strict=True)
    }


def field_wcs() -> WCS:
    """North up, east left."""
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval, wcs.wcs.crpix = [150.0, 2.0], [1.0, 1.0]
    wcs.wcs.cdelt = [-PIXEL_SCALE / 3600, PIXEL_SCALE / 3600]
    return wcs


def simulate_field(truth: Table, shape: tuple[int, int], seed: int) -> Field:
    """Frames of the sources in `truth` by the package's simulator."""
    frames, total = {}, {}
    for k, (band, psf) in enumerate(psfs().items()):
        level, rms = sky_of(band)
        light = np.zeros(shape)
        for row in truth:
            source = source_of(row, band)
            radius = max(extent(source, psf, 0.02 * rms), 4.0)
            y0, x0 = max(0, math.floor(source.y - radius)), max(0, math.floor(source.x - radius))
            y1 = min(shape[0], math.ceil(source.y + radius) + 1)
            x1 = min(shape[1], math.ceil(source.x + radius) + 1)
            if y1 > y0 and x1 > x0:
                light[y0:y1, x0:x1] += draw_box(source, psf, (y0, x0), (y1 - y0, x1 - x0), FAST)
        rng = np.random.default_rng([seed, k])
        gain = BANDS[band].gain
        image, sigma = observe(light, level, gain=gain, read_noise=BANDS[band].read_noise, rng=rng)
        frames[band] = Frame(
            id=f"field_{band}",
            data=(image - level).astype(np.float32),
            sigma=sigma.astype(np.float32),
            mask=np.zeros(shape, bool),
            psf=psf,
            wcs=field_wcs(),
            pixel_scale=PIXEL_SCALE,
            zeropoint=ZEROPOINT,
            filter=band,
            gain=gain,
        )
        total[band] = light
    return Field(truth, frames, total)


def write_field(field: Field, folder: Path) -> list[Path]:
    """Write ``field_<band>_{image,sigma,psf}.fits`` and ``truth.ecsv``; the images' paths."""
    folder.mkdir(parents=True, exist_ok=True)
    for band, frame in field.frames.items():
        write_planes(frame, folder, f"field_{band}")  # type: ignore[arg-type]
    field.truth.write(folder / "truth.ecsv", overwrite=True)
    return [folder / f"field_{band}_image.fits" for band in field.frames]


def other_truth(shape: tuple[int, int], seed: int) -> Table:
    """Sources of the population that the prior does not describe."""
    stars, galaxies = (read_population(path) for path in OTHER)
    return draw_truth(stars, galaxies, shape, seed, star_share=0.5)
