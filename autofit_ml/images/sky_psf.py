"""Profiles on the sky that are drawn on pixels: what a Piff model is made of.

A profile is a function of (u, v), arcsec west and north of the object; its parameters are
polynomials of the object's own place. The image's WCS gives that place and the local Jacobian.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from astropy.wcs import WCS
from numpy.polynomial import chebyshev, hermite, laguerre, legendre, polynomial

from autofit_ml.images.sky_coordinates import sky_positions
from autofit_ml.measure import lanczos_matrix

__all__ = [
    "POLYNOMIALS",
    "POSITIONS",
    "PixelGrid",
    "Polynomials",
    "RoundProfile",
    "SkyModel",
    "on_the_sky",
]

POLYNOMIALS: dict[str, Callable[..., np.ndarray]] = {
    "poly": polynomial.polyval2d,
    "chebyshev": chebyshev.chebval2d,
    "legendre": legendre.legval2d,
    "laguerre": laguerre.lagval2d,
    "hermite": hermite.hermval2d,
}
POSITIONS = ("u", "v", "x", "y")

_NODES, _WEIGHTS = (0.5 * values for values in legendre.leggauss(8))
"""Quadrature over a pixel."""

_BATCH = 64


@dataclass(frozen=True)
class SkyModel:
    """A profile that varies over the sky, on the pixels of the wanted images.

    Attributes
    ----------
    parameters : callable
        Positions (u, v, x, y), each of shape (n,), to parameters, shape (n, p).
    profile : callable
        Parameters (n, p), u and v (n, m) in arcsec to surface brightness, shape (n, m).
    wcs : WCS
        Of the image.
    pointing : tuple of float
        Right ascension and declination, degrees.
    offset : tuple of float
        From the image's 0-based pixels to those of the frame, counted from 1.
    half, times : int
        Images of ``2 half + 1`` samples a side, `times` per image pixel.
    """

    parameters: "Polynomials"
    profile: "PixelGrid | RoundProfile"
    wcs: WCS
    pointing: tuple[float, float]
    offset: tuple[float, float]
    half: int
    times: int

    def __call__(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        u, v, jacobian = on_the_sky(self.wcs, x, y, self.pointing)
        return self.drawn(u, v, x + self.offset[0], y + self.offset[1], jacobian)

    def drawn(
        self, u: np.ndarray, v: np.ndarray, x: np.ndarray, y: np.ndarray, jacobian: np.ndarray
    ) -> np.ndarray:
        """Images, shape (n, h, w), by sky position, frame pixel and local Jacobian."""
        parameters = self.parameters(np.stack([u, v, x, y]))
        parts = []
        for k in range(0, len(u), _BATCH):
            some = slice(k, k + _BATCH)
            parts.append(self._images(parameters[some], jacobian[some]))
        return np.concatenate(parts)

    def _images(self, parameters: np.ndarray, jacobian: np.ndarray) -> np.ndarray:
        side = 2 * self.half + 1
        steps = np.arange(-self.half, self.half + 1) / self.times
        nodes, weights = (_NODES, _WEIGHTS) if self.profile.with_pixel else ((0.0,), (1.0,))
        total = np.zeros((len(parameters), side * side))
        for dy, wy in zip(nodes, weights, strict=True):
            for dx, wx in zip(nodes, weights, strict=True):
                place = np.stack(np.meshgrid(steps + dx, steps + dy)).reshape(2, -1)
                u, v = np.moveaxis(jacobian @ place, 1, 0)
                total += wx * wy * self.profile(parameters, u, v)
        return total.reshape(-1, side, side)


@dataclass(frozen=True)
class Polynomials:
    """Parameters as polynomials of the position: coefficients (p, i, j) of keys (a, b)."""

    coefficients: np.ndarray
    keys: tuple[str, str] = ("u", "v")
    kind: str = "poly"

    def __call__(self, position: np.ndarray) -> np.ndarray:
        a, b = (position[POSITIONS.index(key)] for key in self.keys)
        return POLYNOMIALS[self.kind](a, b, np.moveaxis(self.coefficients, 0, -1)).T


@dataclass(frozen=True)
class PixelGrid:
    """Samples on the sky, interpolated by Lanczos's kernel; parameters are row by row in v."""

    size: int
    scale: float
    order: int
    with_pixel: ClassVar[bool] = False

    def full(self, parameters: np.ndarray) -> np.ndarray:
        """Samples, shape (n, v, u). Until Piff 1.0 one or three of them were left out: the
        centre, which makes the sum 1, and the next ones, which put the centroid to 0."""
        n, size = len(parameters), self.size
        if parameters.shape[1] == size * size:
            return parameters.reshape(n, size, size)
        middle = size // 2
        left_out = [(middle, middle), (middle + 1, middle), (middle, middle + 1)]
        left_out = left_out[: size * size - parameters.shape[1]]
        held = np.ones((size, size), bool)
        for place in left_out:
            held[place] = False
        samples = np.zeros((n, size, size))
        samples[:, held] = parameters
        distance = np.arange(size) - middle
        if len(left_out) == 3:
            above = -np.einsum("nvu,v->n", samples, distance)
            beside = -np.einsum("nvu,u->n", samples, distance)
            samples[:, middle + 1, middle], samples[:, middle, middle + 1] = above, beside
        samples[:, middle, middle] = self.scale**-2 - samples.sum((1, 2))
        return samples

    def __call__(self, parameters: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
        samples = self.full(parameters)
        middle = self.size // 2
        along = lanczos_matrix(u / self.scale + middle, self.size, self.order)
        across = lanczos_matrix(v / self.scale + middle, self.size, self.order)
        return np.einsum("npv,npv->np", across, np.einsum("nvu,npu->npv", samples, along))


@dataclass(frozen=True)
class RoundProfile:
    """A round profile that is scaled by s, sheared by (g1, g2) and, if free, shifted.

    `with_pixel`: it has to be integrated over the pixels; a pixel grid contains them.
    """

    has_flux: bool
    has_shift: bool
    with_pixel: bool
    beta: float = math.inf
    core: float = 1.0
    truncation: float = math.inf

    def __call__(self, parameters: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
        columns = list(parameters.T[int(self.has_flux) :, :, None])
        du, dv = (columns.pop(0), columns.pop(0)) if self.has_shift else (0.0, 0.0)
        size, g1, g2 = columns
        g2 = -g2
        u, v = u - du, v - dv
        norm = size * np.sqrt(1 - g1**2 - g2**2)
        squared = (((1 - g1) * u + g2 * v) ** 2 + (g2 * u + (1 + g1) * v) ** 2) / norm**2
        if math.isinf(self.beta):
            return np.exp(-0.5 * squared)
        light = (1 + squared / self.core**2) ** -self.beta
        return np.where(squared < self.truncation**2, light, 0.0)


def on_the_sky(
    wcs: WCS, x: np.ndarray, y: np.ndarray, pointing: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Piff's coordinates of pixels.

    Parameters
    ----------
    wcs : WCS
    x, y : ndarray, shape (n,)
        0-based pixels.
    pointing : tuple of float
        Right ascension and declination of the tangent point, degrees.

    Returns
    -------
    u, v : ndarray, shape (n,)
        Arcsec west and north of the pointing, in its tangent plane.
    jacobian : ndarray, shape (n, 2, 2)
        ``d(u, v) / d(x, y)`` in the tangent plane at the pixel itself.
    """
    ra, dec = sky_positions(wcs, x, y)
    u, v = _projected(ra, dec, *np.broadcast_arrays(*pointing))
    columns = []
    for dx, dy in ((0.5, 0.0), (0.0, 0.5)):
        ahead = _projected(*sky_positions(wcs, x + dx, y + dy), ra, dec)
        behind = _projected(*sky_positions(wcs, x - dx, y - dy), ra, dec)
        columns.append(np.subtract(ahead, behind))
    return u, v, np.moveaxis(np.stack(columns, axis=1), -1, 0)


def _projected(
    ra: np.ndarray, dec: np.ndarray, ra0: np.ndarray, dec0: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Gnomonic projection of degrees to arcsec, u towards the west."""
    a, d, d0 = np.radians(ra - ra0), np.radians(dec), np.radians(dec0)
    depth = np.sin(d0) * np.sin(d) + np.cos(d0) * np.cos(d) * np.cos(a)
    u = -np.cos(d) * np.sin(a) / depth
    v = (np.cos(d0) * np.sin(d) - np.sin(d0) * np.cos(d) * np.cos(a)) / depth
    return np.degrees(u) * 3600, np.degrees(v) * 3600
