"""Galaxies of two components like those of a catalogue, for maps of sensitivity.

A galaxy of the map has the shape of one of the catalogue (re, q; n where it has no first component)
and what the cell says: the share of the first component, its size in those of the second, the S/N
of the whole in the stamp that it is put into.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq

from autofit_ml.errors import SettingsError
from autofit_ml.images.stamp import Stamp
from autofit_ml.scenes import Scene

__all__ = ["Recipe", "draw_pair", "light_of_pair", "recipe_of", "scaled_to_snr"]

_INDICES = {"exponential": 1.0, "devaucouleurs": 4.0, "gaussian": 0.5, "point": math.nan}
"""Profiles that are a Sérsic profile of this index; a point source."""

_USUAL = {"snr": 100.0, "re_ratio": 0.3, "n": 2.5}
"""Values of what is no axis; re and q are the catalogue's."""

_SMALLEST = 0.3
"""Pixels of the smallest component."""


@dataclass(frozen=True)
class Recipe:
    """Profiles of the injected galaxies.

    Attributes
    ----------
    first, second : float or None
        Sérsic index of the components of the richer model; NaN: a point source; None: free.
    single : float or None
        Of the simpler model.
    """

    first: float | None
    second: float | None
    single: float | None


def recipe_of(simpler: Scene, richer: Scene) -> Recipe:
    """Profiles to be injected for two models.

    Raises
    ------
    SettingsError
        The simpler one has more than one component, the richer one other than two, or a profile
        that is neither a Sérsic profile nor a point source.
    """
    for scene, count, what in ((simpler, 1, "simpler"), (richer, 2, "richer")):
        if len(scene.components) != count:
            raise SettingsError(
                f"the {what} model {scene.name} has {len(scene.components)} components",
                f"give one of {count}",
            )
    return Recipe(*(_index(scene, k) for scene, k in ((richer, 0), (richer, 1), (simpler, 0))))


def _index(scene: Scene, k: int) -> float | None:
    component = scene.components[k]
    name = component.profile.name
    if component.profile.modifiers or name not in ("sersic", *_INDICES):
        raise SettingsError(
            f"{scene.name}: galaxies with a component {name} cannot be injected",
            f"use sersic, {', '.join(_INDICES)}, without modifiers",
        )
    n = component.parameters.get("n")
    if name == "sersic" and n is not None and n.fixed and n.value is not None:
        return n.value
    return _INDICES.get(name)


def draw_pair(
    recipe: Recipe,
    cell: Mapping[str, float],
    like: Mapping[str, float],
    rng: np.random.Generator,
) -> dict[str, float]:
    """Parameters of one galaxy, of flux 1.

    Parameters
    ----------
    recipe : Recipe
    cell : mapping of str to float
        "B/T" and other axes.
    like : mapping of str to float
        x, y, re, n, q, pa of a galaxy like the catalogue's.
    rng : Generator

    Returns
    -------
    dict
        x, y, snr, q, pa, and of the components ``share_<k>``, ``re_<k>``, ``n_<k>``, ``q_<k>``;
        n is NaN of a point source.
    """
    at = {**_USUAL, "re": like["re"], "q": like["q"], **cell}
    share = cell["B/T"]
    out = {name: like[name] for name in ("x", "y", "pa")} | {"snr": at["snr"], "q": at["q"]}
    second = recipe.second if share > 0 else recipe.single
    free = float(rng.choice(_GRID)) if share > 0 else like["n"]
    indices = (
        at["n"] if recipe.first is None else recipe.first,
        free if second is None else second,
    )
    sizes = (max(at["re"] * at["re_ratio"], _SMALLEST), max(at["re"], _SMALLEST))
    # A compact component is rarely as flat as the whole.
    shapes = (math.sqrt(at["q"]), at["q"])
    for k, part in enumerate((share, 1 - share), start=1):
        out |= {f"share_{k}": part, f"re_{k}": sizes[k - 1], f"q_{k}": shapes[k - 1]}
        out[f"n_{k}"] = float(indices[k - 1])
    return out


_GRID = np.round(np.geomspace(0.6, 2.0, 8), 3)
"""Indices of a second component that is free."""


def light_of_pair(galaxy: Mapping[str, float], stamp: Stamp) -> np.ndarray:
    """A galaxy's noise-free image for flux 1 in a stamp's pixels and PSF, by GalSim."""
    from autofit_ml.injection.stamps import GRID
    from autofit_ml.simulation import Source, render_source

    x, y = galaxy["x"], galaxy["y"]
    light = np.zeros(stamp.shape)
    for k in (1, 2):
        share, n = galaxy[f"share_{k}"], galaxy[f"n_{k}"]
        if share <= 0:
            continue
        part = Source(x, y, share, 0.0, math.nan)
        if math.isfinite(n):
            near = float(GRID[np.abs(np.log(GRID / n)).argmin()])
            shape = (galaxy[f"re_{k}"], near, galaxy[f"q_{k}"], galaxy["pa"])
            part = Source(x, y, share, *shape)
        light += render_source(part, stamp.psf, stamp.shape)
    return light


def scaled_to_snr(unit: np.ndarray, stamp: Stamp, snr: float) -> np.ndarray:
    """The image of the flux with a total S/N in a stamp's noise, masked pixels left out."""
    good = ~stamp.mask
    u, variance = unit[good], stamp.sigma[good].astype(np.float64) ** 2
    photons = 1 / stamp.gain if stamp.gain > 0 else 0.0

    def excess(log_flux: float) -> float:
        light = math.exp(log_flux) * u
        total = np.sum(light**2 / (variance + photons * np.clip(light, 0, None)))
        return 0.5 * math.log(total) - math.log(snr)

    low = math.log(snr) - 0.5 * math.log(np.sum(u**2 / variance)) - 1.0
    high = low + 3.0
    while excess(high) < 0:
        high += 2.0
    return math.exp(brentq(excess, low, high, xtol=1e-6)) * unit
