"""Result of a segmenter, and measurements that all of them share."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from autofit_ml.errors import InputError
from autofit_ml.images.stamp import Stamp
from autofit_ml.measure import clipped_sky, mode_of_sky
from autofit_ml.segmentation.shapes import (
    Ellipse,
    ellipse_of_footprint,
    grow_neighbours,
    mirrored,
    pixel_at,
)

__all__ = ["Segmentation", "finished", "mode_of_stamp", "segment_given", "typical"]

_LEAST_SCATTER = 0.1
"""Scatter of the sky, units of the noise map's median, that an image is taken to have at least."""


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


def mode_of_stamp(stamp: Stamp) -> tuple[float, float]:
    """Level and scatter of the sky among all pixels of a stamp, image units."""
    good = ~stamp.mask
    if not good.any():
        return 0.0, float(np.median(stamp.sigma))
    noise = float(np.median(stamp.sigma[good]))
    level, rms = mode_of_sky(stamp.data[good] / noise, 1.0)
    # In an image without noise a network would see its rounding errors.
    return level * noise, max(rms, _LEAST_SCATTER) * noise


def typical(values: np.ndarray) -> float:
    """Median of up to about 1000 of the values: a scale to divide by."""
    return float(np.median(values.ravel()[:: max(values.size // 1000, 1)]))


def finished(
    stamp: Stamp,
    labels: np.ndarray,
    target: int,
    sky: tuple[float, float] | None,
    ellipses: Mapping[int, Ellipse],
    grow: tuple[float, float] | None = None,
    **about: Any,
) -> Segmentation:
    """The segmentation of given labels: neighbours grown, sky and blending measured.

    Parameters
    ----------
    stamp : Stamp
    labels : ndarray, int32, shape (ny, nx)
    target : int
        Its label; 0: none.
    sky : (level, scatter), image units
        Taken where there is no sky outside the objects; None: the mode of all pixels.
    ellipses : mapping
        Label -> `Ellipse`: of the target, and where neighbours grow of these too.
    grow : (relative, minimum), optional
        As in `grow_neighbours`; None: neighbours stay as they are.
    **about
        Further attributes of `Segmentation`.
    """
    contaminants = (labels != 0) & (labels != target)
    if grow is not None:
        contaminants = grow_neighbours(labels, target, ellipses, relative=grow[0], minimum=grow[1])
    unit = sky[1] if sky else typical(stamp.sigma)
    level, rms = _sky_outside(
        stamp.data / unit, ~stamp.mask, labels, contaminants, ellipses.get(target)
    )
    if np.isfinite(level):
        # An image without noise has no scatter to measure: the noise map's stays.
        level, rms = level * unit, rms * unit or unit
    else:
        level, rms = sky or mode_of_stamp(stamp)
    blend = _blend_fraction((stamp.data - level) / rms, labels, target, ellipses)
    return Segmentation(labels, target, contaminants, level, rms, blend, **about)


def segment_given(stamp: Stamp) -> Segmentation:
    """The segmentation that came with the stamp.

    Parameters
    ----------
    stamp : Stamp
        With ``labels``. Without ``target_label`` the target is the label at the expected position.

    Returns
    -------
    Segmentation
        Neighbours' masks are not grown: what was given is believed.

    Raises
    ------
    InputError
        No labels, labels of another shape, or a target label that does not occur.
    """
    if stamp.labels is None:
        raise InputError(
            "no segmentation was given",
            "add a _seg plane, or let one be made with --segmenter sep",
            stamp.file or None,
        )
    labels = np.asarray(stamp.labels, dtype=np.int32)
    if labels.shape != stamp.shape:
        raise InputError(
            f"segmentation of shape {labels.shape} for an image of shape {stamp.shape}",
            "give both on the same pixels",
            stamp.file or None,
        )
    if stamp.target_label is None:
        target = pixel_at(labels, stamp.position)
    else:
        target = int(stamp.target_label)
        if target and not np.any(labels == target):
            raise InputError(
                f"target label {target} does not occur in the segmentation",
                "correct the TARGET card of the _seg plane",
                stamp.file or None,
            )
    ellipses = {target: ellipse_of_footprint(labels == target)} if target else {}
    return finished(stamp, labels, target, None, ellipses, method="given")


def _sky_outside(
    data: np.ndarray,
    good: np.ndarray,
    labels: np.ndarray,
    contaminants: np.ndarray,
    target: Ellipse | None,
) -> tuple[float, float]:
    """Level and scatter outside all objects and far from the target; NaN if there is no sky."""
    free = good & (labels == 0) & ~contaminants
    needed = max(40, int(0.03 * data.size))
    if target is not None:
        distance = target.distance_map(data.shape)
        for factor in (2.2, 1.7, 1.35):
            far = free & (distance > factor)
            if np.count_nonzero(far) >= needed:
                break
        free = far
    if np.count_nonzero(free) < 40:
        return float("nan"), float("nan")
    return clipped_sky(data[free])


def _blend_fraction(
    image: np.ndarray, labels: np.ndarray, target: int, ellipses: Mapping[int, Ellipse]
) -> float:
    """Excess light of neighbours inside the target's isophote over the target's light."""
    own = labels == target
    others = (labels != 0) & ~own
    if not target or not others.any():
        return 0.0
    ellipse = ellipses[target]
    inside = others & (ellipse.distance_map(image.shape) < 1)
    if not inside.any():
        return 0.0
    expected = mirrored(np.where(own, image, 0.0).astype(float), ellipse.x, ellipse.y)
    excess = float(np.sum(image[inside] - expected[inside]))
    light = float(np.sum(image[own]) + np.sum(expected[inside]))
    return max(excess, 0.0) / light if light > 0 else 0.0
