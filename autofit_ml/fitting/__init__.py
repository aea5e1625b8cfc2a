"""Fitting: objects, a scene and starting values in; parameters with errors and flags out.

Coarse to fine:

- `objects`, `neighbours`: what is fitted: an object's images, and the contaminants fitted along.
- `starts`, `search`: several starts for each object, and the coarse search that picks among them.
- `batch`, `pixels`: objects that share a layout, as tensors.
- `problem`: chi2, gradient and Gauss-Newton matrix; `likelihoods`, `extras`: its terms.
- `levenberg_marquardt`: the batched minimiser.
- `companions`: sources that the segmentation missed, found in the residual and fitted along.
- `describe`, `image_statistics`, `values`, `uncertainties`, `geometry`: from where a fit ended to
  its result.
- `known`: values and priors of an object from an earlier fit; `grids`: fits in cells of a grid.
- `totals`: flux, size and shape of all components together.
- `fit`: `refine`, all of it; `choice`: which model an object needs; `point_source`: whether a
  point source would do; `psf_model`: the PSF from the stars of a frame.
- `parallel`: threads over objects; `settings`, `results`.

Reads `autofit_ml.images` (stamps), `autofit_ml.segmentation` (contaminants) and
`autofit_ml.initialisation` (starts); models are those of `autofit_ml.scenes`, drawn by
`autofit_ml.rendering`.
"""

from autofit_ml.fitting.fit import refine
from autofit_ml.fitting.levenberg_marquardt import LMSettings
from autofit_ml.fitting.likelihoods import LIKELIHOODS, Likelihood
from autofit_ml.fitting.objects import SceneObject, join_images, object_of
from autofit_ml.fitting.results import Fits, SceneFit
from autofit_ml.fitting.settings import RefineSettings
from autofit_ml.fitting.totals import with_totals

__all__ = [
    "LIKELIHOODS",
    "Fits",
    "LMSettings",
    "Likelihood",
    "RefineSettings",
    "SceneFit",
    "SceneObject",
    "join_images",
    "object_of",
    "refine",
    "with_totals",
]
