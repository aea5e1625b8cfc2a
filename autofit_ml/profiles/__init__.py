"""Light profiles: what there is, their parameters, and their transforms.

In: a profile's name (`get_profile`) and its shape parameters. Out: its parameters for the scene
language and the fit, and its two-dimensional Fourier transform with derivatives, for thousands of
galaxies at once. Used by `autofit_ml.scenes` (parameters), `autofit_ml.rendering` (transforms) and
`autofit_ml.fitting`; depends on nothing else here.

registry    which profiles there are; `library/` has one file for each
hankel      tables made once: no shape parameter, or one
live        tables made for each object: several shape parameters (`fftlog` does the transforms)
modifiers   boxiness, Fourier modes, twist; `polar` has the transforms of what is not elliptical

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
    from autofit_ml.profiles.tables import profile_radii

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
    "profile_radii",
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
    "profile_radii": "autofit_ml.profiles.tables",
    "modified": "autofit_ml.profiles.modifiers",
}


def __getattr__(name: str) -> Any:
    # Tables hold tensors; processes that only simulate or read images never load PyTorch.
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
