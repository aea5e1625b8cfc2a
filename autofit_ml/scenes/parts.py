"""Components and their parameters, each checked by itself.

In: a profile, and what is known of its parameters. Out: the same, complete: starts inside their
bounds, priors overlapping them. Everything is in catalogue units (docs/conventions.md).
"""

from __future__ import annotations

import difflib
import keyword
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING

from autofit_ml.errors import SettingsError
from autofit_ml.profiles.registry import Profile, get_profile
from autofit_ml.scenes.expressions import FUNCTIONS
from autofit_ml.scenes.priors import SMALLEST_MASS, describe_prior
from autofit_ml.scenes.quantities import limits

if TYPE_CHECKING:
    from autofit_ml.scenes.priors import Prior

__all__ = ["Component", "Parameter", "finite_number", "named"]

_DEGREE_MAX = 8


@dataclass(frozen=True)
class Parameter:
    """A parameter: value, range, prior and links, in catalogue units.

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
            value = finite_number(self.value, "the value")
            object.__setattr__(self, "value", value)
        low, high = self.bounds
        low = None if low is None or low == -math.inf else finite_number(low, "the lower bound")
        high = None if high is None or high == math.inf else finite_number(high, "the upper bound")
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
        """True if the fit may change it."""
        return not self.fixed and not self.tie

    @property
    def plain(self) -> bool:
        """True if nothing at all is said of it."""
        return self == Parameter()

    @property
    def bounded(self) -> bool:
        """True if it has a bound of its own."""
        return self.bounds != (None, None)

    def narrowed(self, low: float, high: float) -> tuple[float, float]:
        """A range cut to its own bounds."""
        own_low, own_high = self.bounds
        return (
            low if own_low is None else max(low, own_low),
            high if own_high is None else min(high, own_high),
        )


def finite_number(value, what: str) -> float:
    """A number that a user gave, checked."""
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
