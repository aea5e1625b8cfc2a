"""A scene: the sum of components that is fitted, with what is known of their parameters.

In: components (profile, parameters), sky, constraints. Out: the same, checked: every parameter
complete (`autofit_ml.scenes.parts`), ties resolvable, constraints satisfiable. Everything here is
in catalogue units and conventions (docs/conventions.md).

Scenes are made by `autofit_ml.scenes.build` (plain functions, model strings) and read by
`autofit_ml.scenes.files` and `autofit_ml.galfit`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise
from types import MappingProxyType

import torch

from autofit_ml.errors import SettingsError
from autofit_ml.profiles.registry import get_profile
from autofit_ml.scenes.describe import describe
from autofit_ml.scenes.expressions import (
    Expression,
    evaluation_order,
    parse,
    parse_constraint,
)
from autofit_ml.scenes.naming import short_name
from autofit_ml.scenes.parameters import Bounds
from autofit_ml.scenes.parts import Component, Parameter, finite_number, named
from autofit_ml.scenes.quantities import limits

__all__ = ["SKY", "Component", "Parameter", "Scene", "named"]

SKY = "sky"
"""Name of the background component (``sky.sky``, ``sky.sky_dx``)."""


@dataclass(frozen=True)
class Scene:
    """A model of a stamp: components and a sky.

    Values, bounds and priors are checked when a scene is made; ties and constraints, which may
    name components that are added later, by `check` (`scene`, `parse_model` and the readers call
    it) and whenever `ties` or `conditions` are used.

    Attributes
    ----------
    components : tuple of Component
    sky : "free", "fixed", "tilted" or float
        A background under the components. "free": flat and fitted; "fixed": held at 0 (the image
        is sky-subtracted); a number: held at that value, image units per pixel; "tilted": a plane
        about the stamp's centre, fitted.
    constraints : tuple of str
        ``disk.re > bulge.re``: kept smoothly.
    bounds : Bounds
        Defaults for parameters without bounds of their own.
    sky_parameters : mapping of str to Parameter
        Where `sky` does not say it all: starts, bounds and priors of ``sky`` (``sky_dx``,
        ``sky_dy``).
    """

    components: tuple[Component, ...]
    sky: str | float = "free"
    constraints: tuple[str, ...] = ()
    bounds: Bounds = field(default_factory=Bounds)
    sky_parameters: Mapping[str, Parameter] = field(default_factory=dict, hash=False)

    def __post_init__(self):
        object.__setattr__(self, "components", tuple(self.components))
        object.__setattr__(self, "constraints", tuple(self.constraints))
        if not self.components:
            raise SettingsError("the model has no component", "add one, for example a sersic")
        seen: set[str] = {SKY}
        for component in self.components:
            if component.name in seen:
                raise SettingsError(
                    f"two components are called {component.name!r}"
                    if component.name != SKY
                    else "a component is called 'sky', which is the background's name",
                    "give each component a name of its own",
                )
            seen.add(component.name)
            if component.profile.kind == "background":
                raise SettingsError(
                    f"{component.name}: a background among the components",
                    "the sky is set by `sky`: free, fixed, tilted, or a number",
                )
        for text in self.constraints:
            if not isinstance(text, str):
                raise SettingsError(
                    f"the constraint {text!r} is not text", "write e.g. 'disk.re > bulge.re'"
                )
        self._check_bounds()
        self._complete_sky()

    def _check_bounds(self) -> None:
        with named("bounds"):
            n_low, n_high = self.bounds.n
            low, high = limits(get_profile("sersic"), "n")
            if not low <= n_low < n_high <= high:
                raise SettingsError(
                    f"n from {n_low:g} to {n_high:g}",
                    f"the Sérsic index is fitted between {low:g} and {high:g}, smaller first",
                )
            for name in ("re_min", "re_max_stamps"):
                if not getattr(self.bounds, name) > 0:
                    raise SettingsError(f"{name} is {getattr(self.bounds, name)}", "give it > 0")
            if not 0 < self.bounds.q_min < 1:
                raise SettingsError(
                    f"q_min is {self.bounds.q_min}", "give a number between 0 and 1"
                )

    def _complete_sky(self) -> None:
        """Bring `sky` and `sky_parameters` to one form."""
        profile = get_profile("tilted_sky" if self.sky == "tilted" else "flat_sky")
        own = dict(self.sky_parameters)
        if isinstance(self.sky, str):
            if self.sky not in ("free", "fixed", "tilted"):
                raise SettingsError(
                    f"sky is {self.sky!r}",
                    "use 'free', 'fixed' (held at 0), 'tilted', or a number",
                )
            held = 0.0 if self.sky == "fixed" else None
        else:
            with named("sky"):
                held = finite_number(self.sky, "the value")
            object.__setattr__(self, "sky", held)
        if held is not None:
            default = Parameter(held, fixed=True)
            if own.get("sky", default) != default:
                raise SettingsError(
                    f"sky is {self.sky!r} and its parameter says otherwise",
                    "give sky: free to describe its parameter",
                )
            own["sky"] = default
        elif self.sky == "free" and own.get("sky", Parameter()).fixed:
            if own["sky"].value is None:
                raise SettingsError("sky: held, but at what value?", "give sky a number")
            object.__setattr__(self, "sky", own["sky"].value)
        background = Component(SKY, profile, own)
        for name, parameter in background.parameters.items():
            if parameter.bands not in ("", "free"):
                raise SettingsError(
                    f"{SKY}.{name}: bands is {parameter.bands!r}",
                    "the sky is fitted in each image: leave bands out",
                )
        object.__setattr__(self, "sky_parameters", background.parameters)

    def __reduce__(self):
        return type(self), (
            self.components,
            self.sky,
            self.constraints,
            self.bounds,
            dict(self.sky_parameters),
        )

    def __str__(self) -> str:
        return describe(self)

    @cached_property
    def background(self) -> Component:
        """The sky as a component (profile of kind "background"), called ``sky``."""
        profile = get_profile("tilted_sky" if self.sky == "tilted" else "flat_sky")
        return Component(SKY, profile, self.sky_parameters)

    @property
    def name(self) -> str:
        """The model string, as in the catalogue's ``model`` column: ``sersic+exp``."""
        return "+".join(short_name(component.profile) for component in self.components)

    @property
    def has_positions(self) -> bool:
        """True if the model says where something is, in pixels."""
        for component in self.components:
            for axis in ("x", "y"):
                p = component.parameters[axis]
                if p.value is not None or p.bounds != (None, None) or p.prior is not None:
                    return True
        return False

    @property
    def single_sersic(self) -> bool:
        """One plain Sérsic with nothing fixed, tied, started or given a prior, on a flat sky."""
        if len(self.components) != 1 or self.constraints or self.sky == "tilted":
            return False
        component = self.components[0]
        if component.profile.name != "sersic":
            return False
        sky = self.sky_parameters["sky"]
        return (sky.plain or sky == Parameter(sky.value, fixed=True)) and all(
            parameter.plain or (name == "n" and parameter == Parameter(bounds=self.bounds.n))
            for name, parameter in component.parameters.items()
        )

    @cached_property
    def parameters(self) -> Mapping[str, Parameter]:
        """All parameters, ``component.parameter``, in order; those of the sky last."""
        return MappingProxyType(
            {
                f"{component.name}.{name}": parameter
                for component in (*self.components, self.background)
                for name, parameter in component.parameters.items()
            }
        )

    def with_parameters(self, changed: Mapping[str, Parameter]) -> Scene:
        """The same scene with other parameters (``component.parameter``, ``sky.sky``)."""
        parts = {
            part.name: {
                name: changed.get(f"{part.name}.{name}", parameter)
                for name, parameter in part.parameters.items()
            }
            for part in (*self.components, self.background)
        }
        sky = parts.pop(SKY)
        kind = self.sky if sky == dict(self.sky_parameters) or self.sky == "tilted" else "free"
        components = [dataclasses.replace(c, parameters=parts[c.name]) for c in self.components]
        return dataclasses.replace(self, components=tuple(components), sky=kind, sky_parameters=sky)

    def component(self, name: str) -> Component:
        """The component of that name; ``sky`` is the background."""
        for component in (*self.components, self.background):
            if component.name == name:
                return component
        names = ", ".join(component.name for component in self.components)
        raise SettingsError(f"there is no component {name!r}", f"there are {names}")

    def bands(self, name: str) -> str | int:
        """Dependence of a parameter (``component.parameter``) on the band, defaults filled in."""
        given = self.parameters[name].bands
        if given != "":
            return given
        component, _, parameter = name.rpartition(".")
        return "free" if parameter == "flux" or component == SKY else "shared"

    def range(self, name: str) -> tuple[float, float]:
        """Range of a parameter (``component.parameter``) in the fit, as far as it is set.

        The own bounds, else the support of the prior, else the scene's defaults for n, else the
        range that makes sense. A fixed value is a range of no width.
        """
        component, _, short = name.rpartition(".")
        parameter, profile = self.parameters[name], self.component(component).profile
        if parameter.fixed and parameter.value is not None:
            return (parameter.value, parameter.value)
        low, high = parameter.narrowed(*limits(profile, short))
        if parameter.prior is not None:
            below, above = parameter.prior.support
        elif short == "n" and profile.name.startswith("sersic") and not parameter.bounded:
            below, above = self.bounds.n
        else:
            return low, high
        return max(low, below), min(high, above)

    @property
    def _comparable(self) -> tuple[str, ...]:
        """Parameters that ties and constraints may use: all but those of the sky."""
        return tuple(name for name in self.parameters if not name.startswith(f"{SKY}."))

    @cached_property
    def ties(self) -> tuple[tuple[str, Expression], ...]:
        """(parameter, expression) of every tied parameter, each after those that it depends on."""
        known = self._comparable
        found: dict[str, Expression] = {}
        for name, parameter in self.parameters.items():
            if not parameter.tie:
                continue
            with named(name):
                if name not in known:
                    raise SettingsError("the sky cannot be tied", "fix it, or leave it free")
                expression = parse(parameter.tie, known)
                if not expression.names:
                    raise SettingsError(
                        f"the tie {parameter.tie!r} names no parameter",
                        "to hold a value use fixed; a link is written component.parameter",
                    )
            found[name] = expression
        return tuple((name, found[name]) for name in evaluation_order(found))

    @cached_property
    def conditions(self) -> tuple[Expression, ...]:
        """The constraints: expressions that are positive where they hold."""
        known = self._comparable
        with named("constraints"):
            return tuple(
                parse_constraint(text, known, self.is_positive) for text in self.constraints
            )

    def is_positive(self, name: str) -> bool:
        """True if a parameter (``component.parameter``) is positive whatever its value."""
        return self.range(name)[0] > 0 or name.rpartition(".")[2] in ("flux", "re", "q")

    def check(self) -> Scene:
        """Check ties and constraints, and write them in one form.

        Returns
        -------
        Scene
            The same, with every parameter in ties and constraints as ``component.parameter``.

        Raises
        ------
        SettingsError
            Circular ties, unknown parameters, ties that lead outside what makes sense,
            constraints that cannot hold.
        """
        ranges = {name: self.range(name) for name in self.parameters}
        for name, expression in self.ties:
            low, high = expression.interval(ranges)
            component, _, short = name.rpartition(".")
            least, most = limits(self.component(component).profile, short)
            if high < least or low > most or (least == 0.0 == high):
                raise SettingsError(
                    f"{name}: the tie {expression.text!r} gives {_span(low, high)}, but {short} "
                    f"lies between {least:g} and {most:g}",
                    "correct the expression, or the bounds of what it depends on",
                )
            ranges[name] = (max(low, least), min(high, most))
        self._check_constraints(ranges)
        written = self.with_parameters(
            {name: Parameter(tie=expression.text) for name, expression in self.ties}
        )
        constraints = tuple(condition.text for condition in self.conditions)
        return dataclasses.replace(written, constraints=constraints)

    def _check_constraints(self, ranges: Mapping[str, tuple[float, float]]) -> None:
        smaller: dict[str, list[str]] = {}
        for condition in self.conditions:
            if condition.interval(ranges)[1] <= 0:
                raise SettingsError(
                    f"the constraint {condition.text!r} cannot hold within the bounds",
                    "correct it, or the bounds of its parameters",
                )
            left, _, right = condition.text.partition(" > ")
            if left in self.parameters and right in self.parameters:
                smaller.setdefault(left, []).append(right)
        try:
            TopologicalSorter(smaller).prepare()
        except CycleError as error:
            circle = error.args[1][::-1]
            shown = ", ".join(f"{a} > {b}" for a, b in pairwise(circle))
            raise SettingsError(
                f"the constraints contradict each other: {circle[0]} is to be larger than itself "
                f"({shown})",
                "remove one of them",
            ) from None

    def start_values(self) -> dict[str, torch.Tensor]:
        """Starts and fixed values that are set, as tensors; ties between them filled in."""
        values = {
            name: torch.tensor(parameter.value, dtype=torch.float64)
            for name, parameter in self.parameters.items()
            if parameter.value is not None
        }
        for name, expression in self.ties:
            if expression.names <= set(values):
                values[name] = expression(values)
        return values


def _span(low: float, high: float) -> str:
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"
