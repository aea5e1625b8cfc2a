"""Radial light profiles and their Hankel tables.

In: a profile's name and shape parameter (Sérsic index). Out: its brightness in real space and its
two-dimensional Fourier transform, tabulated so that a renderer can evaluate it, with derivatives,
for thousands of galaxies at once. Used by `autofit_ml.render` (tables) and
`autofit_ml.refine` (bounds of the shape parameter); depends on nothing else here.

A profile is circular here, of unit flux and unit half-light radius: ellipticity, size, position
and flux are the renderer's business.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from autofit_ml.profiles.registry import (
    Profile,
    ShapeParameter,
    get_profile,
    profile_names,
    register,
)
from autofit_ml.profiles.sersic import (
    N_MAX,
    N_MIN,
    sersic_b,
    sersic_brightness,
    sersic_flux_within,
    sersic_intensity_at_re,
    sersic_table,
)

if TYPE_CHECKING:
    from autofit_ml.profiles.hankel import HankelTable, Table, tabulate
    from autofit_ml.profiles.modifiers import modified
    from autofit_ml.profiles.products import row_products

__all__ = [
    "N_MAX",
    "N_MIN",
    "HankelTable",
    "Profile",
    "ShapeParameter",
    "Table",
    "get_profile",
    "modified",
    "profile_names",
    "register",
    "row_products",
    "sersic_b",
    "sersic_brightness",
    "sersic_flux_within",
    "sersic_intensity_at_re",
    "sersic_table",
    "tabulate",
]

_HOME = {
    **dict.fromkeys(("HankelTable", "Table", "tabulate"), "autofit_ml.profiles.hankel"),
    "row_products": "autofit_ml.profiles.products",
    "modified": "autofit_ml.profiles.modifiers",
}


def __getattr__(name: str) -> Any:
    # Tables hold tensors; processes that only simulate or read images never load PyTorch.
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
