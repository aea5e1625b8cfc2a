"""Image subtraction: a kernel that makes one image like another, what is left, and its errors.

In: two images of one piece of sky (`subtract`, `subtract_frames`). Out: `Subtraction`: difference,
variance, kernel, fluxes at given places, point sources that have changed. Of many epochs
(`light_curve`): `LightCurve`.

- `align`: one grid for both images.
- `kernel`: basis, pixels and normal equations of kernel and background; `solution`: weights, robust
  passes, covariance; `conjugate`: the same without the matrix.
- `subtract`: which pixels, which direction, variances; `result`: what comes out.
- `photometry`: fluxes with errors; whitened differences and scores.
- `detection`: what has changed, and whether it looks real.
- `epochs`: dates, positions, and the scale of an image against the reference.
- `scene`: host and source fitted to all epochs (`scene_problem`).
- `light_curve`: one epoch measured, and the light curve of all; `epoch_file` keeps an epoch;
  `call` is the entry from Python.
"""

from autofit_ml.difference.align import aligned
from autofit_ml.difference.call import light_curve
from autofit_ml.difference.detection import detect_changes
from autofit_ml.difference.light_curve import LightCurve, light_curve_of, measure_epoch
from autofit_ml.difference.photometry import Whitened, fluxes, whitened
from autofit_ml.difference.result import Subtraction, subtract, subtract_frames
from autofit_ml.difference.scene import SceneCurve, fit_scene
from autofit_ml.difference.subtract import Difference, subtract_images

__all__ = [
    "Difference",
    "LightCurve",
    "SceneCurve",
    "Subtraction",
    "Whitened",
    "aligned",
    "detect_changes",
    "fit_scene",
    "fluxes",
    "light_curve",
    "light_curve_of",
    "measure_epoch",
    "subtract",
    "subtract_frames",
    "subtract_images",
    "whitened",
]
