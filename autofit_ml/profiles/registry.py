"""Which light profiles there are, and what parameters each has.

A profile is described by one `Profile`; every file of `autofit_ml.profiles.library` makes one and
passes it to `register`. In: a name. Out: the profile's parameters (for the scene language and the
fit) and its tables (for the renderer). docs/profiles.md lists them and shows how to add one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import import_module
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Any

import numpy as np

from autofit_ml.errors import SettingsError

if TYPE_CHECKING:
    import torch

    from autofit_ml.profiles.hankel import Table
    from autofit_ml.profiles.modifiers import Modifier

__all__ = [
    "KINDS",
    "Profile",
    "ShapeParameter",
    "get_profile",
    "profile_names",
    "register",
]

KINDS = ("elliptical", "pixel", "point", "background")
"""How a component is drawn: elliptical isophotes; any other isophotes; a point source; light that
the PSF does not change."""


@dataclass(frozen=True)
class ShapeParameter:
    """A parameter beyond position, flux, size and ellipticity.

    Attributes
    ----------
    name : str
        In the catalogue: "n", "beta", ...
    default : float
        Where a fit starts that knows no better.
    bounds : tuple of float
        Smallest and largest value, catalogue units.
    log : bool
        Fitted as its natural logarithm (``ln_NAME``), or as it is.
    unit, description : str
    """

    name: str
    default: float
    bounds: tuple[float, float]
    log: bool = False
    unit: str = ""
    description: str = ""

    @property
    def fit_name(self) -> str:
        """Name in the fit space."""
        return f"ln_{self.name}" if self.log else self.name

    @property
    def fit_bounds(self) -> tuple[float, float]:
        """Bounds in the fit space."""
        low, high = self.bounds
        return (math.log(low), math.log(high)) if self.log else (low, high)


@dataclass(frozen=True)
class Profile:
    """A light profile: what it is called, what parameters it has, how bright it is.

    Attributes
    ----------
    name : str
    aliases : tuple of str
        Other names that `get_profile` knows it by.
    kind : str
        One of `KINDS`.
    description : str
        One line.
    shapes : tuple of ShapeParameter
    light : callable (r, *shapes) -> Tensor, optional
        Brightness at radius `r` in the profile's natural unit of length, in any unit of brightness;
        PyTorch, element by element, shapes in catalogue units. For the kinds "elliptical" (r is the
        radius) and "pixel" (called with the coordinates along both axes, ``(x, y, *shapes)``).
    symmetric : bool
        For the kind "pixel": the brightness is the same at (x, y), (-x, y) and (x, -y).
    truncated : bool
        Nothing lies beyond natural radius 1 (where `light` need not be zero).
    make_table : callable () -> Table, optional
        Makes its transform; without it `light` is tabulated (`autofit_ml.profiles.tables`).
    natural_radii : callable (*shapes) -> dict, optional
        Radii by their usual names, in natural units, given the shapes in catalogue units.
    modifiers : tuple of Modifier
        What `modified` added.
    """

    name: str
    kind: str
    description: str
    aliases: tuple[str, ...] = ()
    shapes: tuple[ShapeParameter, ...] = ()
    light: Callable[..., torch.Tensor] | None = None
    symmetric: bool = False
    truncated: bool = False
    make_table: Callable[[], Table] | None = field(default=None, repr=False)
    natural_radii: Callable[..., Mapping[str, Any]] | None = field(default=None, repr=False)
    modifiers: tuple[Modifier, ...] = ()

    def __post_init__(self):
        if self.kind not in KINDS:
            raise SettingsError(
                f"profile {self.name!r} is of kind {self.kind!r}", f"use one of {', '.join(KINDS)}"
            )
        if self.has_ellipse and self.light is None:
            raise SettingsError(f"profile {self.name!r} has no light", "give `light`")

    @property
    def has_ellipse(self) -> bool:
        """Whether it has a size and an ellipticity."""
        return self.kind in ("elliptical", "pixel")

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of all parameters in the catalogue, in order."""
        return self._names(("flux", "re"), ("q", "pa"), "name")

    @property
    def fit_parameters(self) -> tuple[str, ...]:
        """Names of the same in the fit space."""
        return self._names(("ln_flux", "ln_rc"), ("eta1", "eta2"), "fit_name")

    @property
    def own_shapes(self) -> tuple[ShapeParameter, ...]:
        """The shape parameters without those of the modifiers; the latter come at the very end."""
        added = sum(len(modifier.shapes) for modifier in self.modifiers)
        return self.shapes[: len(self.shapes) - added]

    @property
    def defaults(self) -> tuple[float, ...]:
        """Defaults of the shape parameters."""
        return tuple(shape.default for shape in self.shapes)

    def radii(self, shapes: Sequence[Any] = ()) -> dict[str, np.ndarray]:
        """Other radii of the profile, in units of its half-light radius.

        Parameters
        ----------
        shapes : sequence of array_like
            The profile's own shape parameters (without modifiers), catalogue units, of one shape.

        Returns
        -------
        dict
            "fwhm", "scale_length", "core", "break", "truncation": those that the profile has.
            Along the minor axis ("scale_height") in units of re q.
        """
        if self.natural_radii is None:
            return {}
        from autofit_ml.profiles.tables import half_light_radius

        half = half_light_radius(self, shapes)
        natural = self.natural_radii(*(np.asarray(shape, dtype=np.float64) for shape in shapes))
        return {name: np.asarray(radius / half) for name, radius in natural.items()}

    def _names(self, size: tuple[str, str], ellipse: tuple[str, str], name: str) -> tuple[str, ...]:
        shapes = tuple(getattr(shape, name) for shape in self.shapes)
        if self.kind == "background":
            return shapes
        if self.kind == "point":
            return ("x", "y", size[0])
        own = len(self.own_shapes)
        return ("x", "y", *size, *shapes[:own], *ellipse, *shapes[own:])


_REGISTRY: dict[str, Profile] = {}


def register(profile: Profile) -> Profile:
    """Make a profile known to `get_profile`, by its name and its aliases.

    Registering the same profile again (a reloaded module) replaces it.

    Raises
    ------
    SettingsError
        A name is taken by another profile.
    """
    for name in (profile.name, *profile.aliases):
        other = _REGISTRY.get(name)
        if other is not None and other.name != profile.name:
            raise SettingsError(
                f"the name {name!r} belongs to profile {other.name!r}", "choose another"
            )
    for name in (profile.name, *profile.aliases):
        _REGISTRY[name] = profile
    return profile


def get_profile(name: str) -> Profile:
    """A profile by its name or an alias; upper and lower case are the same.

    ``sersic[boxiness,f3,twist]`` is a profile with modifiers (`autofit_ml.profiles.modified`).

    Raises
    ------
    SettingsError
        There is none of that name.
    """
    _load_library()
    key = name.strip().lower().replace("-", "_")
    if "[" in key:
        return _modified(key)
    if key not in _REGISTRY:
        raise SettingsError(
            f"there is no profile {name!r}", f"use one of {', '.join(profile_names())}"
        )
    return _REGISTRY[key]


def _modified(name: str) -> Profile:
    """A profile with modifiers, by the name that `modified` gave it."""
    from autofit_ml.profiles.modifiers import modified

    base, _, rest = name.partition("[")
    words = [word.strip() for word in rest.rstrip("]").split(",") if word.strip()]
    modes = [word[1:] for word in words if word.startswith("f") and word[1:].isdigit()]
    unknown = [w for w in words if w not in ("boxiness", "twist", *(f"f{m}" for m in modes))]
    if unknown or not words or not rest.endswith("]"):
        raise SettingsError(
            f"{name!r} is not a profile with modifiers",
            "write for example sersic[boxiness,f3,twist]",
        )
    return modified(
        get_profile(base),
        boxiness="boxiness" in words,
        fourier=[int(m) for m in modes],
        twist="twist" in words,
    )


def profile_names() -> tuple[str, ...]:
    """Names of all registered profiles (without aliases), sorted."""
    _load_library()
    return tuple(sorted({profile.name for profile in _REGISTRY.values()}))


@lru_cache(maxsize=1)
def _load_library() -> None:
    """Import every file of the library, once."""
    library = import_module("autofit_ml.profiles.library")
    for module in iter_modules(library.__path__):
        import_module(f"{library.__name__}.{module.name}")
