"""A scene: the sum of components that is fitted to a stamp."""

from __future__ import annotations

from dataclasses import dataclass, field

from autofit_ml.errors import SettingsError
from autofit_ml.scene.parameters import Bounds

__all__ = ["Scene", "sersic"]


@dataclass(frozen=True)
class Scene:
    """A model of a stamp.

    Attributes
    ----------
    components : tuple of str
        Profile names. One Sérsic is what the refiner fits today.
    sky : "free", "fixed" or float
        A flat sky under the components: fitted; held at 0 (the image is sky-subtracted); or held
        at a value in image units per pixel.
    bounds : Bounds
    """

    components: tuple[str, ...] = ("sersic",)
    sky: str | float = "free"
    bounds: Bounds = field(default_factory=Bounds)

    def __post_init__(self):
        if isinstance(self.sky, str) and self.sky not in ("free", "fixed"):
            raise SettingsError(
                f"sky is {self.sky!r}", "use 'free', 'fixed' (held at 0) or a number"
            )
        if self.components != ("sersic",):
            raise SettingsError(
                f"model {'+'.join(self.components)!r} is not available", "use 'sersic'"
            )

    @property
    def name(self) -> str:
        """The model string, as in the catalogue's ``model`` column."""
        return "+".join(self.components)

    @property
    def fixed_sky(self) -> float | None:
        """The value that the sky is held at; None when it is fitted."""
        if isinstance(self.sky, str):
            return None if self.sky == "free" else 0.0
        return float(self.sky)


def sersic(sky: str | float = "free", **bounds) -> Scene:
    """One Sérsic component and a flat sky.

    Parameters
    ----------
    sky : "free", "fixed" or float
        See `Scene`.
    **bounds
        Fields of `autofit_ml.scene.Bounds`, e.g. ``n=(0.5, 6)``.
    """
    return Scene(("sersic",), sky, Bounds(**bounds))
