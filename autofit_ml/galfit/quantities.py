"""Parameters as GALFIT's constraints name and count them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from autofit_ml.galfit.functions import Function, Photometry
from autofit_ml.scenes.model import Scene

__all__ = ["Objects", "Quantity", "words_of"]

_SKY_WORDS = {"sky": "sky", "1": "sky", "2": "sky_dx", "3": "sky_dy"}


def words_of(function: Function | None) -> dict[str, str]:
    """Our parameter for each of GALFIT's words; of several for one the first is written.

    "" for what has no counterpart; None is the sky.
    """
    if function is None:
        return _SKY_WORDS
    words = {"x": "x", "y": "y", "q": "q", "pa": "pa", "c": "boxiness", "c0": "boxiness"}
    words["mag"] = "flux" if function.surface is None else ""
    sizes = ("rs", "re", "fwhm") if function.name == "expdisk" else ("re", "rs", "fwhm")
    words |= dict.fromkeys(sizes, function.parameter(4))
    if function.name == "moffat":
        words["n"] = "beta"
    return words | {shape: shape for shape in function.shapes.values()}


@dataclass(frozen=True)
class Quantity:
    """A parameter, and how GALFIT counts it."""

    component: str
    name: str
    radius: float = 1.0  # ours over GALFIT's
    photometry: Photometry | None = None  # of magnitudes

    @property
    def full(self) -> str:
        return f"{self.component}.{self.name}"

    @property
    def open_end(self) -> float:
        """A limit beyond this is none; it stands for an open side in files, which need two."""
        return 1e6 if self.photometry is None else 99.0

    def ours(self, number: float) -> float:
        """The value of GALFIT's number."""
        if self.photometry is not None:
            return self.photometry.flux(number)
        return number * self.radius - (self.name in ("x", "y"))

    def galfits(self, value: float) -> float:
        """GALFIT's number for a value."""
        if self.photometry is not None:
            return self.photometry.magnitude(value) if value > 0 else math.inf
        return value / self.radius + (self.name in ("x", "y"))


class Objects:
    """A scene's components as GALFIT's objects."""

    def __init__(
        self,
        scene: Scene,
        names: Sequence[str],
        functions: Mapping[str, Function],
        photometry: Photometry,
    ):
        self.scene, self.names, self.functions = scene, names, functions
        self.photometry = photometry
        self.starts = {name: float(value) for name, value in scene.start_values().items()}

    def quantity(self, full: str) -> Quantity:
        component, _, name = full.rpartition(".")
        if name == "flux":
            return Quantity(component, name, photometry=self.photometry)
        if name != "re":
            return Quantity(component, name)
        shapes = self.scene.component(component).profile.shapes
        of = {shape.name: self.starts.get(f"{component}.{shape.name}", 1.0) for shape in shapes}
        return Quantity(component, name, self.functions[component].size_factor(of))
