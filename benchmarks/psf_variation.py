"""PSFs that vary over a frame: python benchmarks/psf_variation.py [SECTION ...] [-n N] [--docs]

Frames of 2048 x 2048 pixels drawn with GalSim: stars and galaxies, Moffat PSFs whose width varies
by 17 % and whose ellipticity by 0.05 over the frame, sky and photon noise.

- ``residuals``: ellipticity and size of the PSF that the frame's stars give, against the truth on 9
  x 9 places: one PSF for the frame, and one that varies;
- ``constant``: how often a variation is seen in frames that have none;
- ``galaxies``: what a PSF does to fitted re, q and magnitude, beside fits with the true PSF.

Ellipticity is (a - b) / (a + b) of the matched Gaussian, in two components; size is its width.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

import galsim
import numpy as np
from documents import Section, run_sections

from autofit_ml.errors import InputError
from autofit_ml.fitting import Fits, RefineSettings, refine
from autofit_ml.images import Frame, cut_stamps, with_star_psf
from autofit_ml.images.stamp import VaryingPSF
from autofit_ml.initialisation import initialise
from autofit_ml.measure import adaptive_moments
from autofit_ml.segmentation.dispatch import segment_all

SIDE = 2048
SKY = 10.0
GAIN = 2.0
FWHM = 3.4
FAINTEST, BRIGHTEST = 3e3, 3e5
"""Fluxes: stars of S/N 30 to 750."""


def true_psf(x: float, y: float, amount: float) -> galsim.GSObject:
    """The PSF at a place of the frame, without the pixel."""
    u, v = 2 * x / SIDE - 1, 2 * y / SIDE - 1
    width = FWHM * (1 + amount * (0.05 * u - 0.03 * v + 0.03 * (u * u + v * v)))
    g1 = 0.005 + amount * (0.015 * u + 0.01 * u * v)
    g2 = -0.008 + amount * (0.013 * v - 0.008 * u * u)
    return galsim.Moffat(beta=3.0, fwhm=width).shear(g1=g1, g2=g2)


def drawn(profile: galsim.GSObject, side: int, dx: float = 0.0, dy: float = 0.0) -> np.ndarray:
    """An image of an odd number of pixels a side, with the pixel."""
    image = galsim.Image(side, side, scale=1.0, dtype=float)
    return profile.drawImage(image, offset=(dx, dy)).array


@dataclass(frozen=True)
class Truth:
    """The PSF model that the simulation has."""

    amount: float

    def __call__(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        places = zip(x, y, strict=True)
        return np.stack([drawn(true_psf(a, b, self.amount), 51) for a, b in places])


@dataclass(frozen=True)
class Field:
    """A simulated frame and its galaxies: x, y, flux, re, n, q, pa."""

    frame: Frame
    galaxies: list[dict[str, float]]


def simulated(seed: int, stars: int, galaxies: int, amount: float, apart: bool = False) -> Field:
    """A frame; its galaxies on a grid, with room around them, if `apart`."""
    rng = np.random.default_rng(seed)
    light = np.zeros((SIDE, SIDE))
    found = []
    nodes = np.arange(70, SIDE - 60, 128)
    grid = rng.permutation(np.stack(np.meshgrid(nodes, nodes), -1).reshape(-1, 2))
    for k in range(galaxies + stars):
        x, y = rng.uniform(5, SIDE - 6, 2)
        if apart:
            x, y = grid[k] + rng.uniform(-5, 5, 2)
        flux = np.exp(rng.uniform(np.log(FAINTEST), np.log(BRIGHTEST)))
        profile = true_psf(x, y, amount)
        if k < galaxies:
            low, high = (1.5, 5.0) if apart else (1.0, 5.0)
            one = {
                "x": x, "y": y, "flux": flux, "n": rng.choice([1.0, 2.0, 4.0]),
                "re": np.exp(rng.uniform(np.log(low), np.log(high))),
                "q": rng.uniform(0.4, 1.0), "pa": rng.uniform(0, 180), "radius": 14.0,
            }  # fmt: skip
            found.append(one)
            # GalSim's radius is circularised, its angle from +x.
            shape = galsim.Shear(q=one["q"], beta=(one["pa"] + 90) * galsim.degrees)
            radius = one["re"] * np.sqrt(one["q"])
            galaxy = galsim.Sersic(n=one["n"], half_light_radius=radius).shear(shape)
            profile = galsim.Convolve(galaxy, profile)
        half = 45
        column, row = round(x), round(y)
        image = flux * drawn(profile, 2 * half + 1, x - column, y - row)
        y0, y1 = max(0, row - half), min(SIDE, row + half + 1)
        x0, x1 = max(0, column - half), min(SIDE, column + half + 1)
        part = image[y0 - row + half : y1 - row + half, x0 - column + half : x1 - column + half]
        light[y0:y1, x0:x1] += part
    sigma = np.sqrt(SKY**2 + np.maximum(light, 0) / GAIN)
    data = light + rng.normal(size=light.shape) * sigma
    none = np.zeros(light.shape, bool)
    frame = Frame(f"f{seed}", data.astype(np.float32), sigma.astype(np.float32), none)
    return Field(frame, found)


def shape_of(image: np.ndarray) -> np.ndarray:
    """ln size and two components of ellipticity of a PSF image."""
    middle = (image.shape[0] - 1) / 2
    found = adaptive_moments(
        image.astype(float), middle, middle, 3.0, tolerance=1e-6, max_iterations=200
    )
    total = found.xx + found.yy
    e = np.array([found.xx - found.yy, 2 * found.xy]) / total
    e /= 1 + np.sqrt(1 - np.sum(e**2))
    return np.array([0.5 * np.log(total), *e])


def off_truth(frame: Frame, amount: float) -> np.ndarray:
    """ln size and ellipticity less the true ones, shape (81, 3)."""
    steps = np.linspace(0.03, 0.97, 9) * SIDE
    x, y = (values.ravel() for values in np.meshgrid(steps, steps))
    images = frame.psfs_at(x, y)
    true = [drawn(true_psf(a, b, amount), images.shape[1]) for a, b in zip(x, y, strict=True)]
    pairs = zip(images, true, strict=True)
    return np.array([shape_of(image) - shape_of(truth) for image, truth in pairs])


def residuals(number: int) -> Iterator[list[str]]:
    """Rows: stars, PSF, degrees, ellipticity and size."""
    for stars in (60, 150, 400, 1000):
        fields = [simulated(seed, stars, stars // 2, 1.0).frame for seed in range(number)]
        for name, model in (("one", "stack"), ("varying", None)):
            built = [with_star_psf(frame, model) for frame in fields]
            off = np.array([off_truth(frame, 1.0) for frame in built])
            rms = np.sqrt(np.mean(off**2, axis=(0, 1)))
            largest = np.abs(off).max(1).mean(0)
            degrees = [
                "0" if one.varying_psf is None else str(one.varying_psf.model.degree)
                for one in built
            ]
            yield [
                str(stars),
                name,
                ", ".join(sorted(set(degrees))),
                f"{np.sqrt(np.mean(rms[1:] ** 2)):.5f}",
                f"{largest[1:].max():.5f}",
                f"{100 * rms[0]:.2f}",
                f"{100 * largest[0]:.2f}",
            ]


def constant(number: int) -> Iterator[list[str]]:
    """Rows: stars, frames, those with a variation."""
    for stars in (15, 30, 60, 150):
        seen = 0
        for seed in range(number):
            frame = simulated(1000 + seed, stars, stars // 2, 0.0).frame
            try:
                seen += with_star_psf(frame).varying_psf is not None
            except InputError:
                continue
        yield [str(stars), str(number), str(seen)]


def fitted(frame: Frame, galaxies: list[dict[str, float]]) -> Fits:
    """Fits of the galaxies with the frame's PSF."""
    stamps = [dataclasses.replace(one, sky_prior=None) for one in cut_stamps(frame, galaxies)]
    found = [segmentation for _, segmentation in segment_all(stamps, "sep")]
    if any(isinstance(one, Exception) for one in found):
        raise RuntimeError(found)
    starts = initialise(stamps, found, "moments")
    return refine(stamps, starts=starts, segmentations=found, settings=RefineSettings())


def galaxies(number: int) -> Iterator[list[str]]:
    """Rows: PSF, median and scatter of re, q, mag less the truth, and beside the true PSF."""
    names = ("re", "q", "mag")
    known: dict[str, list[np.ndarray]] = {}
    for seed in range(number):
        field = simulated(50 + seed, 140, 60, 1.0, apart=True)
        true = VaryingPSF(Truth(1.0))
        frames = {
            "true": field.frame.replace(varying_psf=true, psf=true.psf(SIDE / 2, SIDE / 2)),
            "varying": with_star_psf(field.frame),
            "one": with_star_psf(field.frame, "stack"),
        }
        for name, frame in frames.items():
            fits = fitted(frame, field.galaxies)
            rows = []
            for fit, galaxy in zip(fits, field.galaxies, strict=True):
                value = {p: fit.value_in(f"sersic.{p}", 0) for p in ("re", "q", "flux")}
                rows.append(
                    [
                        value["re"] / galaxy["re"] - 1,
                        value["q"] - galaxy["q"],
                        -2.5 * np.log10(value["flux"] / galaxy["flux"]),
                    ]
                )
            known.setdefault(name, []).append(np.array(rows))
    every = {name: np.concatenate(parts) for name, parts in known.items()}
    for name in ("true", "varying", "one"):
        row = [name]
        for k in range(len(names)):
            off, beside = every[name][:, k], every[name][:, k] - every["true"][:, k]
            row.append(f"{np.nanmedian(off):+.4f} ({_spread(off):.4f})")
            row.append("" if name == "true" else f"{_rms(beside):.4f}")
        yield row


def _spread(values: np.ndarray) -> float:
    low, high = np.nanpercentile(values, [15.87, 84.13])
    return float(high - low) / 2


def _rms(values: np.ndarray) -> float:
    """Root mean square, without the largest 2 %."""
    size = np.abs(values[np.isfinite(values)])
    return float(np.sqrt(np.mean(size[size <= np.quantile(size, 0.98)] ** 2)))


SECTIONS = {
    "residuals": Section(
        residuals,
        ("stars", "PSF", "degree", "e rms", "e largest", "size rms %", "size largest %"),
        4,
        "psf.md",
    ),
    "constant": Section(constant, ("stars", "frames", "seen to vary"), 20, "psf.md"),
    "galaxies": Section(
        galaxies,
        ("PSF", "re / true - 1", "rms", "q - true", "rms", "mag - true", "rms"),
        4,
        "psf.md",
    ),
}

if __name__ == "__main__":
    run_sections(__doc__, SECTIONS)
