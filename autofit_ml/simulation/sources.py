"""Galaxies and stars: their parameters, in the package's conventions. No pixels here."""

import dataclasses
import functools
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy import special

from autofit_ml.errors import SettingsError
from autofit_ml.extras import needs
from autofit_ml.profiles.sersic import sersic_b

__all__ = [
    "Component",
    "Source",
    "composite",
    "half_light_radius",
    "inclined_axis_ratio",
    "require_galsim",
    "sersic_indices",
]

_INDEX_GRID = np.round(np.geomspace(0.3, 6.2, 100), 4)
"""Sérsic indices that random scenes use: GalSim tabulates each index once and keeps 100."""

_N_POINTS = 2048
"""Points that stand for a component's light in `half_light_radius`."""


def require_galsim():
    """The galsim module, or an error that says how to get it."""
    with needs("simulate", "a simulated image"):
        import galsim

        return galsim


@dataclass(frozen=True)
class Component:
    """One part of a galaxy.

    Attributes
    ----------
    kind : str
        ``sersic``; ``disc`` (exponential of finite thickness, inclined); ``spiral`` (thin
        exponential disc with log-spiral arms); ``ring`` (thin, Gaussian across); ``knots``
        (Gaussian clumps); ``point``; ``image`` (a real galaxy's image, deconvolved).
    flux : float
        Total flux, image units.
    re : float
        Half-light radius along the semi-major axis, pixels (disc: face-on, 1.678 scale lengths;
        ring: its radius).
    n : float
        Sérsic index; 1 for disc and spiral, NaN for knots and ring.
    q : float
        Apparent axis ratio (disc: ``sqrt(cos(i)**2 + thickness**2 sin(i)**2)``).
    pa : float
        Degrees counter-clockwise from +y.
    thickness : float
        disc: scale height over scale length.
    amplitude, pitch, phase : float
        spiral: modulation ``1 + amplitude cos(2 phi - 2 ln(r) / tan(pitch) + phase)`` in the plane
        of the disc; pitch and phase in degrees.
    offsets : ndarray, shape (k, 3), or None
        knots: (dx, dy, share of the flux) of each.
    knot_sigma : float
        knots, ring: Gaussian sigma, pixels.
    profile : galsim.GSObject
        image: centred on the source, in pixels.
    reach : float
        image: radius of the cut-out, pixels.
    """

    kind: str
    flux: float
    re: float
    n: float = 1.0
    q: float = 1.0
    pa: float = 0.0
    thickness: float = 0.0
    amplitude: float = 0.0
    pitch: float = 20.0
    phase: float = 0.0
    offsets: np.ndarray | None = field(default=None, compare=False)
    knot_sigma: float = 0.0
    profile: Any = field(default=None, compare=False, repr=False)
    reach: float = 0.0


@dataclass(frozen=True)
class Source:
    """One galaxy or one star.

    Attributes
    ----------
    x, y : float
        Centre, 0-based pixels (the centre of the first pixel is 0, 0).
    flux : float
        Total flux to infinity, image units.
    re : float
        Half-light radius along the semi-major axis, pixels; 0 for a star.
    n : float
        Sérsic index, 0.3 to 6.2 (GalSim's range); NaN for a star and for several components.
    q : float
        Axis ratio b/a in (0, 1].
    pa : float
        Degrees counter-clockwise from +y (up 0, left 90), in [0, 180).
    components : tuple of Component
        What the galaxy is made of; empty: one Sérsic profile with the values above. Otherwise
        `re` belongs to all light together, along the ellipse of `q` and `pa`.
    morphology : str
        sersic, star, bulge_disc, structured, irregular or real.
    """

    x: float
    y: float
    flux: float
    re: float
    n: float
    q: float = 1.0
    pa: float = 0.0
    components: tuple[Component, ...] = ()
    morphology: str = ""

    @property
    def is_star(self) -> bool:
        """True for a point source."""
        return self.re == 0

    @property
    def kind(self) -> str:
        """`morphology`, with the two simple kinds filled in."""
        return self.morphology or ("star" if self.is_star else "sersic")

    @property
    def parts(self) -> tuple[Component, ...]:
        """The components, a single Sérsic profile's one included; empty for a star."""
        if self.components or self.is_star:
            return self.components
        return (Component("sersic", self.flux, self.re, self.n, self.q, self.pa),)

    def replace(self, **changes) -> "Source":
        """A copy with some attributes changed."""
        return dataclasses.replace(self, **changes)

    def with_flux(self, flux: float) -> "Source":
        """A copy of another brightness, all components alike."""
        factor = flux / self.flux
        return self.replace(
            flux=flux,
            components=tuple(
                dataclasses.replace(
                    part,
                    flux=part.flux * factor,
                    profile=None if part.profile is None else part.profile * factor,
                )
                for part in self.components
            ),
        )

    def elliptical_radius(
        self, shape: tuple[int, int], origin: tuple[int, int] = (0, 0)
    ) -> np.ndarray:
        """Semi-major radius (pixels) of the ellipse through each pixel centre, shape (ny, nx).

        `origin` is the (y, x) of the first pixel.
        """
        dy, dx = np.ogrid[: shape[0], : shape[1]]
        dx, dy = dx + (origin[1] - self.x), dy + (origin[0] - self.y)
        major, minor = along_axes(dx, dy, self.pa)
        return np.hypot(major, minor / self.q)


def along_axes(dx, dy, pa: float):
    """Offsets along the major and the minor axis; `pa` in degrees counter-clockwise from +y."""
    theta = np.deg2rad(pa)
    return -dx * np.sin(theta) + dy * np.cos(theta), dx * np.cos(theta) + dy * np.sin(theta)


def from_axes(along, across, pa: float):
    """Offsets (dx, dy) of places along the major and the minor axis: `along_axes` turned round."""
    theta = np.deg2rad(pa)
    dx = -along * np.sin(theta) + across * np.cos(theta)
    return dx, along * np.cos(theta) + across * np.sin(theta)


def sersic_indices(low: float, high: float) -> np.ndarray:
    """Sérsic indices between `low` and `high` that random scenes draw from (at most 100).

    A fixed logarithmic grid from 0.3 to 6.2 (steps of 3 %); `low` alone when no grid value lies
    between the two.
    """
    if not 0.3 <= low <= high <= 6.2:
        raise SettingsError(f"Sérsic index range {low}..{high}", "GalSim draws 0.3 to 6.2")
    inside = np.logical_and(np.greater_equal(_INDEX_GRID, low), np.less_equal(_INDEX_GRID, high))
    grid = _INDEX_GRID[inside]
    return grid if grid.size else np.array([low])


def inclined_axis_ratio(inclination: float, thickness: float) -> float:
    """Apparent axis ratio of an oblate disc, ``sqrt(cos(i)**2 + thickness**2 sin(i)**2)``.

    Hubble (1926); `inclination` in degrees (0 face-on).
    """
    cosine = np.cos(np.deg2rad(inclination))
    return float(np.sqrt(cosine**2 + thickness**2 * (1 - cosine**2)))


def composite(
    x: float,
    y: float,
    components: tuple[Component, ...],
    morphology: str,
) -> Source:
    """A galaxy of several components, with the half-light radius of all its light.

    `q` and `pa` are those of the first; see `half_light_radius`.
    """
    lead = components[0]
    return Source(
        x=x,
        y=y,
        flux=float(sum(part.flux for part in components)),
        re=half_light_radius(components, lead.q, lead.pa),
        n=float("nan"),
        q=lead.q,
        pa=lead.pa,
        components=components,
        morphology=morphology,
    )


@functools.lru_cache(maxsize=256)
def _quantile_radii(n: float) -> np.ndarray:
    """Radii (in re) that hold equal steps of a Sérsic profile's light."""
    share = (np.arange(_N_POINTS) + 0.5) / _N_POINTS
    return (special.gammaincinv(2 * n, share) / float(sersic_b(n))) ** n


def half_light_radius(components: tuple[Component, ...], q: float, pa: float) -> float:
    """Semi-major radius of the ellipse (`q`, `pa`) that holds half of the light, pixels.

    Points are spread evenly in each component's light (inverse cumulative profile in radius,
    golden angle in azimuth), and the weighted median of their elliptical radii is taken: good to
    0.3 %. Discs count as infinitely thin ellipses of their apparent axis ratio.
    """
    radii, weights = [], []
    angle = 2 * np.pi * np.arange(_N_POINTS) * 0.6180339887498949
    for part in components:
        if part.kind == "knots" and part.offsets is not None:
            dx, dy = part.offsets[:, 0], part.offsets[:, 1]
            weight = part.offsets[:, 2] * part.flux
        else:
            radius = part.re * (1.0 if part.kind == "ring" else _quantile_radii(part.n))
            along, across = radius * np.cos(angle), part.q * radius * np.sin(angle)
            dx, dy = from_axes(along, across, part.pa)
            weight = np.full(_N_POINTS, part.flux / _N_POINTS)
        major, minor = along_axes(dx, dy, pa)
        radii.append(np.hypot(major, minor / q))
        weights.append(weight)
    radius, weight = np.concatenate(radii), np.concatenate(weights)
    order = np.argsort(radius, kind="stable")
    cumulative = np.cumsum(weight[order])
    return float(np.interp(0.5 * cumulative[-1], cumulative, radius[order]))
