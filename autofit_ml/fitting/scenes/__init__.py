"""Scenes: sums of components, with neighbours, over one or several images of an object.

In: `SceneObject` (stamps of one object and how their pixels relate), a `Scene`, and one Sérsic
start for each object. Out: a `SceneFit` for each. `autofit_ml.fitting.refine` serves the plain
single Sérsic profile in a single image by a path of its own, which is several times faster.
"""

from autofit_ml.fitting.scenes.fit import fit_scenes
from autofit_ml.fitting.scenes.likelihoods import LIKELIHOODS, Likelihood
from autofit_ml.fitting.scenes.objects import SceneObject, join_images, object_of
from autofit_ml.fitting.scenes.results import SceneFit, SceneSettings

__all__ = [
    "LIKELIHOODS",
    "Likelihood",
    "SceneFit",
    "SceneObject",
    "SceneSettings",
    "fit_scenes",
    "join_images",
    "object_of",
]
