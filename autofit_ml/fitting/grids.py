"""Fits in every cell of a grid of parameters: where the minima are, and which is the deepest.

The axes' ranges are cut into slices. In each cell of the grid the fit is kept inside of its slices
and begins at their middles; the cells that are lower than their neighbours are starts of fits
without the slices, and the best of these, and of the ordinary fit, is the result.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from autofit_ml.catalogue.flags import Flag
from autofit_ml.errors import SettingsError
from autofit_ml.fitting.fit import refine
from autofit_ml.fitting.known import Known
from autofit_ml.fitting.objects import SceneObject
from autofit_ml.fitting.results import SceneFit
from autofit_ml.fitting.settings import RefineSettings
from autofit_ml.initialisation.starts import Starts
from autofit_ml.scenes import Scene
from autofit_ml.scenes.parts import Parameter

__all__ = ["FRACTION", "Axis", "GridFit", "check_axes", "known_of", "refine_grid"]

FRACTION = "fraction"
"""Name of the share of the first component (B/T), as an axis."""

_MINIMA = 4
"""At most so many minima of the grid are followed."""

_BETTER = 0.01
"""By which chi2 must be lower than that of the ordinary fit."""

_SAME = 0.5
"""Fits whose values differ by less than this, in standard errors, are one minimum."""


@dataclass(frozen=True)
class Axis:
    """One axis of a grid.

    Attributes
    ----------
    name : str
        "component.parameter", or "fraction".
    edges : tuple of float
        Of the slices, rising; one more than there are slices.
    """

    name: str
    edges: tuple[float, ...]

    @property
    def cells(self) -> list[tuple[float, float]]:
        """Lower and upper edge of each slice."""
        return list(itertools.pairwise(self.edges))


@dataclass(frozen=True)
class GridFit:
    """An object's fit, and what the grid tells of it.

    Attributes
    ----------
    fit : SceneFit
        The deepest minimum; its ``n_iter`` counts all fits.
    chi2 : ndarray, shape of the grid
        NaN where nothing could be fitted.
    second : SceneFit or None
        The next deepest minimum.
    minima : int
        Different ones that were found.
    """

    fit: SceneFit
    chi2: np.ndarray
    second: SceneFit | None
    minima: int


def refine_grid(
    objects: Sequence[SceneObject],
    scene: Scene,
    starts: Starts,
    axes: Sequence[Axis],
    settings: RefineSettings,
    *,
    bands: Sequence[str] = ("",),
    wavelengths: Sequence[float] | None = None,
    components: bool = False,
) -> list[GridFit]:
    """Fit a scene to each object in every cell of a grid, and from the minima of the grid.

    Parameters
    ----------
    objects, scene, starts, settings, bands, wavelengths, components
        As of `autofit_ml.fitting.refine`.
    axes : sequence of Axis

    Raises
    ------
    SettingsError
        An axis that the scene does not have, or that is tied or held.
    """

    def fitted(
        some: Sequence[SceneObject], model: Scene, begun: Starts, how: RefineSettings, keep: bool
    ) -> Sequence[SceneFit]:
        return refine(
            some, model, begun, settings=how, bands=bands, wavelengths=wavelengths, components=keep
        )

    first = fitted(objects, scene, starts, settings, components)
    around = list(objects)
    if settings.neighbours == "fit":
        around = [
            dataclasses.replace(one.with_neighbours(settings.max_neighbours), neighbours=fit.around)
            for one, fit in zip(objects, first, strict=True)
        ]
    later = dataclasses.replace(settings, drop_neighbours=False, companions=0)
    quick = dataclasses.replace(later, point_source=False, model_error=False, keep=False)
    shape = tuple(len(axis.cells) for axis in axes)
    chi2 = np.full((len(objects), *shape), np.nan)
    cells: dict[tuple[int, ...], Sequence[SceneFit]] = {}
    for place in np.ndindex(*shape):
        sliced, share = _sliced(scene, axes, place)
        some = [_at_share(one, scene, fit, share) for one, fit in zip(around, first, strict=True)]
        cells[place] = fitted(some, sliced, starts, quick, False)
        chi2.reshape(len(objects), -1)[:, np.ravel_multi_index(place, shape)] = [
            _chi2(fit, math.nan) for fit in cells[place]
        ]
    places = [_minima(one) for one in chi2]
    found: list[list[SceneFit]] = [[fit] for fit in first]
    for number in range(max(map(len, places), default=0)):
        members = [k for k, own in enumerate(places) if number < len(own)]
        some = [
            dataclasses.replace(
                around[k],
                known=_going_on(around[k].known, known_of(cells[places[k][number]][k])),
            )
            for k in members
        ]
        again = fitted(some, scene, starts.some(members), later, components)
        for k, fit in zip(members, again, strict=True):
            found[k].append(fit)
    out = []
    for k, fits in enumerate(found):
        spent = sum(fit.n_iter for fit in fits) + sum(of[k].n_iter for of in cells.values())
        best, *others = _different(fits)
        whole = dataclasses.replace(best, n_iter=spent)
        out.append(GridFit(whole, chi2[k], others[0] if others else None, 1 + len(others)))
    return out


def known_of(fit: SceneFit) -> Known | None:
    """Values of a fit's target, to go on from; None without a fit."""
    if fit.layout is None or fit.flags & int(Flag.FAILED):
        return None
    images = range(fit.layout.n_images)
    return Known(
        {
            f"{component.name}.{name}": np.array(
                [fit.value_in(f"{component.name}.{name}", i) for i in images]
            )
            for component in fit.target
            for name in component.profile.parameters
        }
    )


def _going_on(own: Known | None, found: Known | None) -> Known | None:
    """Values that a cell's fit found, under the priors that the object has anyway."""
    if own is None or found is None:
        return found or own
    return Known(found.values, own.widths, {**own.values, **own.centres})


def _chi2(fit: SceneFit, without: float) -> float:
    failed = fit.flags & int(Flag.FAILED) or not math.isfinite(fit.chi2)
    return without if failed else fit.chi2


def _sliced(scene: Scene, axes: Sequence[Axis], place: Sequence[int]) -> tuple[Scene, float | None]:
    """The scene inside of a cell, and the middle of the first component's share there."""
    changed: dict[str, Parameter] = {}
    share, constraints = None, list(scene.constraints)
    for axis, at in zip(axes, place, strict=True):
        low, high = axis.cells[at]
        if axis.name == FRACTION:
            share = (low + high) / 2
            constraints += _shares(scene, low, high)
            continue
        old = _free_parameter(scene, axis.name)
        least, most = old.narrowed(low, high)
        if not least < most:
            raise SettingsError(
                f"the grid's slice {low:g} to {high:g} of {axis.name} lies outside its bounds",
                "give the grid a range inside the bounds",
            )
        changed[axis.name] = dataclasses.replace(
            old, value=(least + most) / 2, bounds=(least, most)
        )
    whole = scene.with_parameters(changed)
    return dataclasses.replace(whole, constraints=tuple(constraints)).check(), share


def check_axes(scene: Scene, axes: Sequence[Axis]) -> None:
    """Check the axes of a grid against a scene; see `refine_grid`."""
    for number, axis in enumerate(axes):
        if axis.name in [other.name for other in axes[:number]]:
            raise SettingsError(f"the grid has {axis.name} twice", "name each axis once")
        for place in range(len(axis.cells)):
            _sliced(scene, [axis], [place])


def _free_parameter(scene: Scene, name: str) -> Parameter:
    component, _, short = name.rpartition(".")
    parameter = scene.parameters.get(name)
    if parameter is None or short in ("x", "y") or component == "sky":
        known = ", ".join(n for n in scene.parameters if n.rpartition(".")[2] not in ("x", "y"))
        raise SettingsError(f"there is no grid over {name}", f"use {FRACTION} or any of {known}")
    if not parameter.free:
        raise SettingsError(
            f"a grid over {name}, which the model ties or holds", "leave it free, or out"
        )
    return parameter


def _shares(scene: Scene, low: float, high: float) -> list[str]:
    """Constraints that keep the first component's share of the light in a range."""
    names = [f"{component.name}.flux" for component in scene.components]
    if len(names) < 2:
        raise SettingsError(
            "a grid over the share of the first component of a model that has one",
            "give a model of several components: sersic+exp",
        )
    rest = " + ".join(names[1:])
    out = [f"{names[0]} > {low / (1 - low):.9g} * ({rest})"] if 0 < low < 1 else []
    if 0 < high < 1:
        out.append(f"{names[0]} < {high / (1 - high):.9g} * ({rest})")
    return out


def _at_share(one: SceneObject, scene: Scene, fit: SceneFit, share: float | None) -> SceneObject:
    """The object with fluxes of a share of the first component, and the sum that the fit found."""
    total = fit.flux_total
    if share is None or not np.isfinite(total).all():
        return one
    names = [f"{component.name}.flux" for component in scene.components]
    rest = np.maximum(total, 1e-30) * (1 - share) / (len(names) - 1)
    values = dict.fromkeys(names[1:], rest) | {names[0]: np.maximum(total, 1e-30) * share}
    known = one.known or Known({})
    centres = {**known.values, **known.centres}
    return dataclasses.replace(one, known=Known({**known.values, **values}, known.widths, centres))


def _minima(chi2: np.ndarray) -> list[tuple[int, ...]]:
    """Cells that are lower than those beside them along every axis, the lowest first."""
    level = np.where(np.isfinite(chi2), chi2, np.inf)
    lowest = np.isfinite(level)
    for axis in range(level.ndim):
        padded = np.pad(level, [(int(k == axis),) * 2 for k in range(level.ndim)],
                        constant_values=np.inf)  # fmt: skip
        for start in (0, 2):
            lowest &= level <= padded.take(range(start, start + level.shape[axis]), axis)
    places = [tuple(map(int, place)) for place in np.argwhere(lowest)]
    return sorted(places, key=lambda place: level[place])[:_MINIMA]


def _different(fits: Sequence[SceneFit]) -> list[SceneFit]:
    """Different minima, the deepest first; the ordinary fit comes first among equals."""
    level = [_chi2(fit, math.inf) - _BETTER * (k == 0) for k, fit in enumerate(fits)]
    order = sorted(range(len(fits)), key=lambda k: level[k])
    kept = [fits[order[0]]]
    for fit in (fits[k] for k in order[1:]):
        if math.isfinite(_chi2(fit, math.inf)) and not any(_same(fit, one) for one in kept):
            kept.append(fit)
    return kept


def _same(fit: SceneFit, other: SceneFit) -> bool:
    """True if no value of the target differs by more than a part of its standard error."""
    if fit.names != other.names:
        return False
    errors = np.fmax(fit.errors_stat, other.errors_stat)
    apart = np.abs(fit.values - other.values) / errors
    turned = [name.rpartition(".")[2].startswith("pa") for name in fit.names]
    apart[turned] = 0.0
    own = [not name.startswith("neighbour_") for name in fit.names]
    return bool(np.all((apart < _SAME)[own] | ~np.isfinite(apart)[own]))
