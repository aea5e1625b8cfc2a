"""autofit-ml: structural parameters of galaxies from folders of images, with honest errors.

The stages, each usable alone: `read`, `segment`, `initialise`, `refine`; all of them at once:
`fit`. Models of several components: `parse_model`, `read_model`, `scene`, fitted by `fit_scenes`.
`deconvolve` draws what galaxies look like without the seeing.
See docs/ and `autofit-ml --help`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autofit_ml.api import fit
    from autofit_ml.catalogue import read_catalogue
    from autofit_ml.deconvolve import deconvolve
    from autofit_ml.images import read
    from autofit_ml.initialise import initialise
    from autofit_ml.posterior.scenes import sample_scenes
    from autofit_ml.refine import refine
    from autofit_ml.refine.scenes import fit_scenes, join_images, object_of
    from autofit_ml.scene import (
        parse_model,
        read_galfit,
        read_model,
        scene,
        sersic,
        write_galfit,
        write_model,
    )
    from autofit_ml.segment import segment
    from autofit_ml.weights import list_weights, load, weight_info

__version__ = "0.1.0"

_HOME = {
    "deconvolve": "autofit_ml.deconvolve",
    "fit": "autofit_ml.api",
    "fit_scenes": "autofit_ml.refine.scenes",
    "initialise": "autofit_ml.initialise",
    "join_images": "autofit_ml.refine.scenes",
    "list_weights": "autofit_ml.weights",
    "load": "autofit_ml.weights",
    "object_of": "autofit_ml.refine.scenes",
    "parse_model": "autofit_ml.scene",
    "read": "autofit_ml.images",
    "read_catalogue": "autofit_ml.catalogue",
    "read_galfit": "autofit_ml.scene",
    "read_model": "autofit_ml.scene",
    "refine": "autofit_ml.refine",
    "sample_scenes": "autofit_ml.posterior.scenes",
    "scene": "autofit_ml.scene",
    "segment": "autofit_ml.segment",
    "sersic": "autofit_ml.scene",
    "weight_info": "autofit_ml.weights",
    "write_galfit": "autofit_ml.scene",
    "write_model": "autofit_ml.scene",
}

__all__ = [
    "deconvolve",
    "fit",
    "fit_scenes",
    "initialise",
    "join_images",
    "list_weights",
    "load",
    "object_of",
    "parse_model",
    "read",
    "read_catalogue",
    "read_galfit",
    "read_model",
    "refine",
    "sample_scenes",
    "scene",
    "segment",
    "sersic",
    "weight_info",
    "write_galfit",
    "write_model",
]


def __getattr__(name: str) -> Any:
    # Imported on first use: `import autofit_ml` stays fast, and worker processes that only read
    # images never load torch.
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
