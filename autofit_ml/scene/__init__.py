"""What is fitted: components, their parameters, and the smooth space that the refiner works in.

In: catalogue parameters (`x y flux re n q pa sky`, see docs/conventions). Out: fit-space vectors,
bounds, and the derivatives that carry covariances back. Used by `autofit_ml.initialise` and
`autofit_ml.refine`; knows nothing about images.
"""

from autofit_ml.scene.model import Scene, sersic
from autofit_ml.scene.parameters import (
    CATALOGUE_PARAMETERS,
    FIT_PARAMETERS,
    Bounds,
    catalogue_jacobian,
    to_catalogue,
    to_fit_space,
)

__all__ = [
    "CATALOGUE_PARAMETERS",
    "FIT_PARAMETERS",
    "Bounds",
    "Scene",
    "catalogue_jacobian",
    "sersic",
    "to_catalogue",
    "to_fit_space",
]
