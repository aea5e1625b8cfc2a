"""A light profile and its parameters."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from autofit_ml.errors import SettingsError

if TYPE_CHECKING:
    import torch

    from autofit_ml.profiles.hankel import Table
    from autofit_ml.profiles.modifiers import Modifier

__all__ = ["KINDS", "Profile", "ShapeParameter"]

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
    light: "Callable[..., torch.Tensor] | None" = None
    symmetric: bool = False
    truncated: bool = False
    make_table: "Callable[[], Table] | None" = field(default=None, repr=False)
    natural_radii: Callable[..., Mapping[str, Any]] | None = field(default=None, repr=False)
    modifiers: "tuple[Modifier, ...]" = ()

    def __post_init__(self):
        if self.kind not in KINDS:
            raise SettingsError(
                f"profile {self.name!r} is of kind {self.kind!r}", f"use one of {', '.join(KINDS)}"
            )
        if self.has_ellipse and self.light is None:
            raise SettingsError(f"profile {self.name!r} has no light", "give `light`")

    @property
    def has_ellipse(self) -> bool:
        """True if it has a size and an ellipticity."""
        return self.kind in ("elliptical", "pixel")

    @cached_property
    def parameters(self) -> tuple[str, ...]:
        """Names of all parameters in the catalogue, in order."""
        return self._names(("flux", "re"), ("q", "pa"), "name")

    @cached_property
    def fit_parameters(self) -> tuple[str, ...]:
        """Names of the same in the fit space."""
        return self._names(("ln_flux", "ln_rc"), ("eta1", "eta2"), "fit_name")

    @cached_property
    def own_shapes(self) -> tuple[ShapeParameter, ...]:
        """The shape parameters without those of the modifiers; the latter come at the very end."""
        added = sum(len(modifier.shapes) for modifier in self.modifiers)
        return self.shapes[: len(self.shapes) - added]

    def _names(self, size: tuple[str, str], ellipse: tuple[str, str], name: str) -> tuple[str, ...]:
        shapes = tuple(getattr(shape, name) for shape in self.shapes)
        if self.kind == "background":
            return shapes
        if self.kind == "point":
            return ("x", "y", size[0])
        own = len(self.own_shapes)
        return ("x", "y", *size, *shapes[:own], *ellipse, *shapes[own:])
