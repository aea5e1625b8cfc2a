"""Objects that the model has components for: they are no contaminants."""

from __future__ import annotations

import dataclasses

import numpy as np
from scipy import ndimage

from autofit_ml.fitting import SceneObject
from autofit_ml.scenes import Parameter, Scene

__all__ = ["without_modelled"]


def without_modelled(one: SceneObject, scene: Scene) -> SceneObject:
    """The object, its contaminants without those at the positions of the model's components.

    A model may have components for neighbours (a GALFIT file usually does): their pixels are
    neither masked nor do they get a second component. They count as the target's.

    Parameters
    ----------
    one : SceneObject
    scene : Scene
        Positions in pixels of the file.
    """
    segmentation, origin = one.segmentation, one.reference.origin
    labels = np.asarray(segmentation.labels)
    contaminants = np.asarray(segmentation.contaminants, dtype=bool)
    ny, nx = labels.shape
    taken: set[int] = set()
    owner = labels
    for component in scene.components[1:]:
        x, y = (_start(component.parameters[axis]) for axis in ("x", "y"))
        if x is None or y is None:
            continue
        column, row = round(x) - origin[0], round(y) - origin[1]
        if not (0 <= column < nx and 0 <= row < ny and contaminants[row, column]):
            continue
        if owner is labels:
            foreign = (labels != 0) & (labels != segmentation.target)
            nearest = ndimage.distance_transform_edt(
                ~foreign, return_distances=False, return_indices=True
            )
            owner = labels[tuple(nearest)]
        taken.add(int(owner[row, column]))
    if not taken:
        return one
    mine = np.isin(labels, sorted(taken))
    changed = dataclasses.replace(
        segmentation,
        labels=np.where(mine, segmentation.target, labels),
        contaminants=contaminants & ~np.isin(owner, sorted(taken)),
    )
    return dataclasses.replace(one, segmentation=changed)


def _start(parameter: Parameter) -> float | None:
    return None if parameter.tie else parameter.value
