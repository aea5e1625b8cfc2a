"""What a segmenter hands on."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

__all__ = ["Segmentation"]


@dataclass(frozen=True)
class Segmentation:
    """Instances found in one stamp.

    Attributes
    ----------
    labels : ndarray, int32, shape (ny, nx)
        0 = sky, otherwise the instance's label.
    target : int
        Label of the target; 0 when the target was not detected (nothing is then attributed to
        it, and moments are measured in a small aperture at the expected position).
    contaminants : ndarray, bool, shape (ny, nx)
        Pixels that belong to other objects, grown: not to be used in the fit.
    sky_level, sky_rms : float
        Robust sky level and its pixel scatter outside all instances, image units.
    blend_fraction : float
        Light of other instances inside the target's isophote over the target's light
        (an estimate; 0 when isolated).
    method : str
        "sep", "given" or "maskrcnn".
    classes : dict
        label -> "galaxy" or "star", where known.
    weights : str
        Name of the weights that made it; empty for none.
    """

    labels: np.ndarray
    target: int
    contaminants: np.ndarray
    sky_level: float
    sky_rms: float
    blend_fraction: float = 0.0
    method: str = "sep"
    classes: dict[int, str] = field(default_factory=dict)
    weights: str = ""

    @property
    def target_class(self) -> str:
        """Class of the target; empty if it is unknown."""
        return self.classes.get(self.target, "")
