"""A scene: the sum of components that is fitted, with what is known of their parameters.

In: components (profile, parameters), sky, constraints. Out: the same, checked: every parameter
complete, its start inside its bounds, its prior overlapping them, ties resolvable, constraints
satisfiable. Everything here is in catalogue units and conventions (docs/conventions.md).

Scenes are made by `autofit_ml.scenes.build` (plain functions, model strings) and read by
`autofit_ml.scenes.files` and `autofit_ml.galfit`.
"""

from __future__ import annotations

import dataclasses
import difflib
import keyword
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise
from types import MappingProxyType
from typing import TYPE_CHECKING

import torch

from autofit_ml.errors import SettingsError
from autofit_ml.profiles.registry import Profile, get_profile
from autofit_ml.scenes.describe import describe
from autofit_ml.scenes.expressions import (
    FUNCTIONS,
    Expression,
    evaluation_order,
    parse,
    parse_constraint,
)
from autofit_ml.scenes.naming import short_name
from autofit_ml.scenes.parameters import Bounds
from autofit_ml.scenes.priors import SMALLEST_MASS, describe_prior
from autofit_ml.scenes.quantities import limits

if TYPE_CHECKING:
    from autofit_ml.scenes.priors import Prior

__all__ = ["SKY", "Component", "Parameter", "Scene", "limits"]

SKY = "sky"
"""Name of the background component (``sky.sky``, ``sky.sky_dx``)."""

_DEGREE_MAX = 8


@dataclass(frozen=True)
class Parameter:
    """What is known of one parameter, in catalogue units.

    Attributes
    ----------
    value : float or None
        Start, or the value it is held at; None: the initialiser's, or the profile's default.
    fixed : bool
        Held at `value`.
    bounds : (float or None, float or None)
        None: the scene's default (`autofit_ml.scenes.Bounds`).
    prior : Prior or None
    tie : str
        An expression of other parameters that replaces it: ``bulge.x``, ``2 * bulge.re``.
    bands : str or int
        Over several bands: "free" (a value in each), "shared" (one value), "epochs" (a value in
        each image), or the degree of a polynomial in wavelength; "" is free for fluxes and sky,
        shared for everything else.
    """

    value: float | None = None
    fixed: bool = False
    bounds: tuple[float | None, float | None] = (None, None)
    prior: Prior | None = None
    tie: str = ""
    bands: str | int = ""

    def __post_init__(self):
        if self.value is not None:
            value = _number(self.value, "the value")
            object.__setattr__(self, "value", value)
        low, high = self.bounds
        low = None if low is None or low == -math.inf else _number(low, "the lower bound")
        high = None if high is None or high == math.inf else _number(high, "the upper bound")
        if low is not None and high is not None and not low < high:
            raise SettingsError(
                f"the bounds run from {low:g} to {high:g}",
                "give the smaller one first; to hold a value use fixed",
            )
        object.__setattr__(self, "bounds", (low, high))
        if isinstance(self.bands, bool) or not (
            self.bands in ("", "free", "shared", "epochs")
            or (isinstance(self.bands, int) and 0 <= self.bands <= _DEGREE_MAX)
        ):
            raise SettingsError(
                f"bands is {self.bands!r}",
                f"use free, shared, epochs, or the degree (0 to {_DEGREE_MAX}) of a polynomial "
                "in wavelength",
            )
        self._check_exclusive()

    def _check_exclusive(self) -> None:
        own = [
            name
            for name, given in [
                ("a value", self.value is not None),
                ("fixed", self.fixed),
                ("bounds", self.bounded),
                ("a prior", self.prior is not None),
                ("bands", self.bands != ""),
            ]
            if given
        ]
        if self.tie and own:
            raise SettingsError(
                f"it is tied to {self.tie!r} and has {' and '.join(own)} as well",
                "a tied parameter has nothing of its own: remove the one or the other",
            )
        if self.fixed and self.prior is not None:
            raise SettingsError(
                "it is fixed and has a prior as well", "remove the prior, or give start for fixed"
            )

    @property
    def free(self) -> bool:
        """Whether the fit may change it."""
        return not self.fixed and not self.tie

    @property
    def plain(self) -> bool:
        """Whether nothing at all is said of it."""
        return self == Parameter()

    @property
    def bounded(self) -> bool:
        """Whether it has a bound of its own."""
        return self.bounds != (None, None)

    def narrowed(self, low: float, high: float) -> tuple[float, float]:
        """A range cut to its own bounds."""
        own_low, own_high = self.bounds
        return (
            low if own_low is None else max(low, own_low),
            high if own_high is None else min(high, own_high),
        )


def _number(value, what: str) -> float:
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise SettingsError(f"{what} is {value!r}", "give a finite number")
    return number


@dataclass(frozen=True)
class Component:
    """One component.

    Attributes
    ----------
    name : str
        Unique in the scene; a Python identifier.
    profile : Profile
        With its modifiers.
    parameters : mapping of str to Parameter
        One for every name of ``profile.parameters``, in that order; those left out are added.
    """

    name: str
    profile: Profile
    parameters: Mapping[str, Parameter] = field(default_factory=dict, hash=False)

    def __post_init__(self):
        with named(self.name):
            _check_name(self.name)
            names = self.profile.parameters
            for name in self.parameters:
                if name not in names:
                    close = difflib.get_close_matches(str(name), names, 1, 0.5)
                    question = f"did you mean {close[0]}? " if close else ""
                    raise SettingsError(
                        f"{self.profile.name} has no parameter {name!r}",
                        f"{question}it has {', '.join(names)}",
                    )
        complete = {name: self.parameters.get(name, Parameter()) for name in names}
        for name, parameter in complete.items():
            with named(f"{self.name}.{name}"):
                _check_parameter(parameter, *limits(self.profile, name))
        object.__setattr__(self, "parameters", MappingProxyType(complete))

    def __reduce__(self):  # neither a mapping proxy nor a profile's functions can be pickled
        return _component, (self.name, self.profile.name, dict(self.parameters))


def _component(name: str, profile: str, parameters: dict[str, Parameter]) -> Component:
    return Component(name, get_profile(profile), parameters)


@contextmanager
def named(what: str) -> Iterator[None]:
    """Put the name of the component or parameter in front of an error's message."""
    try:
        yield
    except SettingsError as error:
        problem = error.problem if error.problem.startswith(what) else f"{what}: {error.problem}"
        raise SettingsError(problem, error.remedy, error.file) from None


def _check_name(name: str) -> None:
    if not isinstance(name, str) or not name.isidentifier() or keyword.iskeyword(name):
        raise SettingsError(
            f"{name!r} cannot be the name of a component",
            "use letters, digits and underscores, not starting with a digit",
        )
    if name in FUNCTIONS and name not in ("exp",):
        raise SettingsError(f"{name!r} is a function in expressions", "choose another name")


def _check_parameter(parameter: Parameter, low: float, high: float) -> None:
    """Value, bounds and prior against each other and against the range that makes sense."""
    for bound in parameter.bounds:
        if bound is not None and not low <= bound <= high:
            raise SettingsError(
                f"the bound {bound:g} lies outside {low:g} to {high:g}",
                "nothing can be fitted there: choose bounds inside that range",
            )
    narrow_low, narrow_high = parameter.narrowed(low, high)
    value = parameter.value
    if value is not None:
        kind = "fixed value" if parameter.fixed else "start"
        # Limits at 0 (flux, re, q) belong to logarithms: they cannot be reached.
        at_zero = value == low == 0.0
        if at_zero or not low <= value <= high:
            raise SettingsError(
                f"the {kind} {value:g} lies outside {low:g} to {high:g}",
                "choose a value inside" + (" and above 0" if at_zero else ""),
            )
        if not narrow_low <= value <= narrow_high:
            raise SettingsError(
                f"the {kind} {value:g} lies outside the bounds {narrow_low:g} to {narrow_high:g}",
                "change one of them",
            )
    if parameter.prior is not None:
        below, above = parameter.prior.support
        if not parameter.prior.mass(narrow_low, narrow_high) > SMALLEST_MASS:
            raise SettingsError(
                f"the prior {describe_prior(parameter.prior)} lies outside the bounds "
                f"{narrow_low:g} to {narrow_high:g}",
                "let the two overlap",
            )
        if value is not None and not below <= value <= above:
            raise SettingsError(
                f"the start {value:g} lies where the prior {describe_prior(parameter.prior)} "
                "is zero",
                "start inside the prior's range",
            )


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
                held = _number(self.sky, "the value")
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
        """Whether the model says where something is, in pixels."""
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
        """How a parameter (``component.parameter``) depends on the band, defaults filled in."""
        given = self.parameters[name].bands
        if given != "":
            return given
        component, _, parameter = name.rpartition(".")
        return "free" if parameter == "flux" or component == SKY else "shared"

    def range(self, name: str) -> tuple[float, float]:
        """Where the fit may take a parameter (``component.parameter``), as far as it is set.

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
        """Whether a parameter (``component.parameter``) is positive whatever its value."""
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
