"""A scene as text, for ``print(scene)``: a table of what is fitted and how."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from autofit_ml.scenes.naming import base_name
from autofit_ml.scenes.priors import describe_prior
from autofit_ml.scenes.quantities import limits, unit

if TYPE_CHECKING:
    from autofit_ml.scenes.model import Component, Parameter, Scene

__all__ = ["describe"]

_HEADER = ("parameter", "unit", "start", "state", "bounds", "prior", "bands")


def describe(scene: Scene) -> str:
    """Components, parameters, units, bounds, priors, links and constraints of a scene."""
    parts = [
        (
            _title(component),
            [_row(scene, component, *item) for item in component.parameters.items()],
        )
        for component in (*scene.components, scene.background)
    ]
    columns = zip(_HEADER, *(row for _, rows in parts for row in rows), strict=True)
    widths = [max(map(len, column)) for column in columns]
    lines = [f"model {scene.name}", _line(_HEADER, widths)]
    for title, rows in parts:
        lines += [title, *(_line(row, widths) for row in rows)]
    if scene.constraints:
        lines += ["constraints", *(f"  {text}" for text in scene.constraints)]
    n_free = sum(parameter.free for parameter in scene.parameters.values())
    n_tied = sum(bool(parameter.tie) for parameter in scene.parameters.values())
    lines.append(
        f"{n_free} free, {n_tied} tied, {len(scene.parameters) - n_free - n_tied} fixed parameters"
    )
    return "\n".join(lines)


def _title(component: Component) -> str:
    profile = component.profile
    base = base_name(profile)
    known = component.name == base or profile.kind == "background"
    about = ", ".join(part for part in ("" if known else base, profile.description) if part)
    return f"{component.name} ({about})"


def _row(scene: Scene, component: Component, name: str, parameter: Parameter) -> tuple[str, ...]:
    start = "" if parameter.value is None else f"{parameter.value:g}"
    if parameter.tie:
        return (name, unit(component.profile, name), "", f"= {parameter.tie}", "", "", "")
    state = "fixed" if parameter.fixed else "free"
    bounds = "" if parameter.fixed else _bounds(scene, component, name, parameter)
    prior = "" if parameter.prior is None else describe_prior(parameter.prior)
    bands = scene.bands(f"{component.name}.{name}")
    over = f"degree {bands}" if isinstance(bands, int) else bands
    return (name, unit(component.profile, name), start, state, bounds, prior, over)


def _bounds(scene: Scene, component: Component, name: str, parameter: Parameter) -> str:
    low, high = scene.range(f"{component.name}.{name}")
    least, most = limits(component.profile, name)
    if name in ("re", "flux", "q") and (low, high) == (least, most):
        return "0..1" if name == "q" else "> 0"
    if (low, high) == (-math.inf, math.inf):
        return ""
    return f"{low:g}..{high:g}".replace("-inf", "").replace("inf", "")


def _line(row: tuple[str, ...], widths: list[int]) -> str:
    cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
    return ("  " + "  ".join(cells)).rstrip()
