"""Units of parameters, and the range in which each has a meaning."""

from __future__ import annotations

import math

from autofit_ml.profiles.profile import Profile

__all__ = ["limits", "unit"]

_LIMITS = {
    "flux": (0.0, math.inf),
    "re": (0.0, math.inf),
    "q": (0.0, 1.0),
}

_UNITS = {
    "x": "px",
    "y": "px",
    "flux": "image",
    "re": "px",
    "q": "",
    "pa": "deg",
    "sky": "image/px",
    "sky_dx": "image/px/px",
    "sky_dy": "image/px/px",
}


def limits(profile: Profile, name: str) -> tuple[float, float]:
    """Range in which a parameter has a meaning (flux > 0, 0 < q <= 1), or is tabulated."""
    for shape in profile.shapes:
        if shape.name == name:
            return (float(shape.bounds[0]), float(shape.bounds[1]))
    return _LIMITS.get(name, (-math.inf, math.inf))


def unit(profile: Profile, name: str) -> str:
    """Unit of a parameter."""
    for shape in profile.shapes:
        if shape.name == name:
            return shape.unit
    return _UNITS.get(name, "")
