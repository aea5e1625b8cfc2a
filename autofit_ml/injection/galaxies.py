"""Galaxies like those of a catalogue, added to empty stamps."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from autofit_ml.images.stamp import Stamp

__all__ = ["PARAMETERS", "Population", "inject", "light_of"]

PARAMETERS = ("x", "y", "flux", "re", "n", "q", "pa")

_SPREAD = 0.15
"""Galaxies differ from the row they are like by this scatter of ln flux, ln re and ln n: a few
rows make a smooth distribution."""


@dataclasses.dataclass(frozen=True)
class Population:
    """Draws galaxies like the rows of a catalogue.

    Attributes
    ----------
    mag, flux, re, n, q : ndarray, shape (B,)
        Of usable rows; mag is NaN without a zero point. Sizes in pixels.
    """

    mag: np.ndarray
    flux: np.ndarray
    re: np.ndarray
    n: np.ndarray
    q: np.ndarray

    def draw(self, rng: np.random.Generator, stamp: Stamp) -> dict[str, float]:
        """Parameters of one galaxy near the middle of a stamp, in its units and pixels."""
        k = int(rng.integers(len(self.flux)))
        bright, large, shape = np.exp(rng.normal(0, _SPREAD, 3))
        flux = self.flux[k]
        if np.isfinite(self.mag[k]) and np.isfinite(stamp.zeropoint):
            flux = 10 ** (-0.4 * (self.mag[k] - stamp.zeropoint))
        ny, nx = stamp.shape
        x, y = rng.uniform(-0.5, 0.5, 2) + ((nx - 1) / 2, (ny - 1) / 2)
        return {
            "x": float(x),
            "y": float(y),
            "flux": float(flux * bright),
            "re": float(max(self.re[k] * large, 0.3)),
            "n": float(_GRID[np.abs(np.log(_GRID / (self.n[k] * shape))).argmin()]),
            "q": float(np.clip(self.q[k] + rng.normal(0, 0.05), 0.1, 1.0)),
            "pa": float(rng.uniform(0, 180)),
        }


_GRID = np.round(np.geomspace(0.4, 6.2, 40), 3)


def light_of(galaxy: Mapping[str, float], stamp: Stamp) -> np.ndarray:
    """A galaxy's noise-free image in a stamp's pixels and PSF, by GalSim."""
    from autofit_ml.simulation.draw import render_source
    from autofit_ml.simulation.sources import Source

    x, y, flux, re, n, q, pa = (galaxy[name] for name in PARAMETERS)
    # GalSim keeps a table for each index: a grid keeps them few.
    n = float(_GRID[np.abs(np.log(_GRID / n)).argmin()])
    return render_source(Source(x, y, flux, re, n, q, pa), stamp.psf, stamp.shape)


def inject(stamp: Stamp, galaxy: Mapping[str, float], rng: np.random.Generator) -> Stamp:
    """The stamp with a galaxy, its photon noise included where the gain is known."""
    light = light_of(galaxy, stamp)
    sigma = stamp.sigma.astype(np.float64)
    if stamp.gain > 0:
        variance = np.clip(light, 0, None) / stamp.gain
        light = light + rng.normal(0, 1, light.shape) * np.sqrt(variance)
        sigma = np.sqrt(sigma**2 + variance)
    return stamp.replace(
        data=(stamp.data + light).astype(np.float32),
        sigma=sigma.astype(np.float32),
        x=None,
        y=None,
    )
