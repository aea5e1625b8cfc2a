"""The coordinates of one component: what the fit varies, and the catalogue values they stand for.

They are the renderer's own (x, y, ln flux, ln rc, shapes, eta1, eta2) wherever a component's size
and shape are plainly free. Where re, q or pa are fixed, tied or bounded one by one they are ln re
and (ln q, pa in radians) instead.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from autofit_ml.scenes.model import Component, Parameter, Scene

__all__ = ["Span", "spans_of"]

_MAX_STEP = {"x": 2.0, "y": 2.0, "flux": 1.5, "re": 1.0}
"""Largest change of a coordinate in one step; all others: 0.7."""

_TINY = 1e-24


@dataclass(frozen=True)
class Span:
    """Span of a component's parameters in the vector of an image.

    Attributes
    ----------
    component : Component
    first : int
        Index of its first parameter among the fit parameters of all components.
    size, shape : str
        Coordinates: "ln_rc" or "ln_re"; "eta" or "polar" (ln q and pa in radians).
    """

    component: Component
    first: int
    size: str
    shape: str

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of its catalogue parameters, in order."""
        return self.component.profile.parameters

    @property
    def slice(self) -> slice:
        """Slice of the component's parameters."""
        return slice(self.first, self.first + len(self.parameters))

    def index(self, parameter: str) -> int:
        """Place of a catalogue parameter."""
        return self.first + self.parameters.index(parameter)

    def full(self, parameter: str) -> str:
        """Name of a catalogue parameter in the scene."""
        return f"{self.component.name}.{parameter}"

    @property
    def extended(self) -> bool:
        """True if it has a size and an ellipticity."""
        return "q" in self.parameters

    @cached_property
    def logs(self) -> frozenset[str]:
        """Parameters that are varied as logarithms (q where it is varied by itself)."""
        shapes = {shape.name for shape in self.component.profile.shapes if shape.log}
        return frozenset({"flux", "re", "q"} | shapes)

    def coordinate_name(self, parameter: str) -> str:
        """Name of the coordinate of a catalogue parameter."""
        if parameter == "re":
            return self.size
        if parameter in ("q", "pa") and self.shape == "eta":
            return {"q": "eta1", "pa": "eta2"}[parameter]
        return f"ln_{parameter}" if parameter in self.logs else parameter

    def coordinate(self, parameter: str, value: torch.Tensor) -> torch.Tensor:
        """The coordinate of a catalogue value, of a parameter that is varied by itself."""
        if parameter in self.logs:
            return value.clamp_min(1e-30).log()
        return torch.deg2rad(value) if parameter == "pa" else value

    def coordinates(self, values: Mapping[str, np.ndarray]) -> list[torch.Tensor]:
        """Coordinates, (B,) each, of catalogue values "component.parameter" -> (B,)."""
        at = {}
        for parameter in self.parameters:
            value = torch.as_tensor(np.asarray(values[self.full(parameter)], dtype=np.float64))
            if parameter == "q":
                value = value.clamp(1e-3, 1.0)
            at[parameter] = value.log() if parameter in self.logs else value
        if self.extended:
            ln_q, angle = at["q"], torch.deg2rad(at["pa"])
            if self.size == "ln_rc":
                at["re"] = at["re"] + ln_q / 2
            at["q"], at["pa"] = (ln_q, angle) if self.shape == "polar" else _eta(ln_q, angle)
        return list(at.values())

    def catalogue(self, coordinates: torch.Tensor) -> dict[str, torch.Tensor]:
        """Catalogue values "component.parameter" -> (...,) of all coordinates (..., F)."""
        at = {parameter: coordinates[..., self.index(parameter)] for parameter in self.parameters}
        if self.extended:
            ln_q, angle = at["q"], at["pa"]
            if self.shape == "eta":
                ln_q = -_length(at["q"], at["pa"])
                angle = torch.atan2(at["pa"], at["q"]) / 2 - math.pi / 2
            at |= {"q": ln_q, "pa": torch.rad2deg(angle) % 180.0}
            at["re"] = at["re"] - (ln_q / 2 if self.size == "ln_rc" else 0.0)
        return {
            self.full(parameter): value.exp() if parameter in self.logs else value
            for parameter, value in at.items()
        }

    def to_fit_parameters(self, columns: list[torch.Tensor]) -> None:
        """Replace its coordinates among all columns by the renderer's."""
        if not self.extended:
            return
        i, j, k = (self.index(name) for name in ("re", "q", "pa"))
        ln_q = columns[j]
        if self.shape == "polar":
            columns[j], columns[k] = _eta(columns[j], columns[k])
        elif self.size == "ln_re":
            ln_q = -_length(columns[j], columns[k])
        if self.size == "ln_re":
            columns[i] = columns[i] + ln_q / 2

    def limits(self, scene: Scene, parameter: str) -> tuple[float, float, float]:
        """Lower and upper bound of a coordinate and its largest step."""
        low, high = scene.range(self.full(parameter))
        step, bounds = _MAX_STEP.get(parameter, 0.7), scene.bounds
        if parameter in ("q", "pa") and self.shape == "eta":
            eta = -math.log(bounds.q_min)
            return -eta, eta, step
        if parameter in self.logs:
            low = max(low, {"re": bounds.re_min, "q": bounds.q_min}.get(parameter, 0.0))
            return (math.log(low) if low > 0 else -math.inf), math.log(high), step
        if parameter == "pa":
            free = not self.component.parameters["pa"].bounded
            return (
                (-math.inf, math.inf, step)
                if free
                else (math.radians(low), math.radians(high), step)
            )
        if parameter not in ("x", "y") and math.isfinite(high - low):
            step = max(step, 0.2 * (high - low))
        return low, high, step


def _eta(ln_q: torch.Tensor, angle: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """eta1, eta2 of an axis ratio and a position angle in radians."""
    twice = 2 * angle + math.pi
    return -ln_q * twice.cos(), -ln_q * twice.sin()


def _length(eta1: torch.Tensor, eta2: torch.Tensor) -> torch.Tensor:
    return (eta1.square() + eta2.square() + _TINY).sqrt()


def spans_of(scene: Scene) -> tuple[Span, ...]:
    """The components of a scene in the coordinates that suit what is asked of them."""
    spans: list[Span] = []
    first = 0
    for component in scene.components:
        spans.append(Span(component, first, *_systems(component)))
        first += len(component.profile.parameters)
    return tuple(spans)


def _systems(component: Component) -> tuple[str, str]:
    """Coordinates of size and shape."""
    p = component.parameters
    if "q" not in p:
        return "ln_rc", "eta"
    together = _plain(p["q"]) and _plain(p["pa"]) and p["q"].bands == p["pa"].bands
    both_fixed = p["q"].fixed and p["pa"].fixed
    if not together and not both_fixed:
        return "ln_re", "polar"
    plain_size = _plain(p["re"]) or (both_fixed and p["re"].fixed)
    return ("ln_rc" if plain_size else "ln_re"), "eta"


def _plain(parameter: Parameter) -> bool:
    """Free, within the usual bounds."""
    limited = parameter.prior is not None and parameter.prior.gaussian is None
    return parameter.free and not (parameter.bounded or limited)
