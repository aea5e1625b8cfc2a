"""autofit-ml: structural parameters of galaxies from folders of images, with honest errors.

The stages, each usable alone: `read`, `segment`, `initialise`, `refine`; all of them at once:
`fit`. See docs/ and `autofit-ml --help`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autofit_ml.api import fit
    from autofit_ml.catalogue import read_catalogue
    from autofit_ml.images import read
    from autofit_ml.initialise import initialise
    from autofit_ml.refine import refine
    from autofit_ml.scene import sersic
    from autofit_ml.segment import segment
    from autofit_ml.weights import list_weights, load, weight_info

__version__ = "0.1.0"

_HOME = {
    "fit": "autofit_ml.api",
    "initialise": "autofit_ml.initialise",
    "list_weights": "autofit_ml.weights",
    "load": "autofit_ml.weights",
    "read": "autofit_ml.images",
    "read_catalogue": "autofit_ml.catalogue",
    "refine": "autofit_ml.refine",
    "segment": "autofit_ml.segment",
    "sersic": "autofit_ml.scene",
    "weight_info": "autofit_ml.weights",
}

__all__ = [
    "fit",
    "initialise",
    "list_weights",
    "load",
    "read",
    "read_catalogue",
    "refine",
    "segment",
    "sersic",
    "weight_info",
]


def __getattr__(name: str) -> Any:
    # Imported on first use: `import autofit_ml` stays fast, and worker processes that only read
    # images never load torch.
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
