"""Image subtraction: a kernel that makes one image like another, what is left, and its errors.

In: two images of one piece of sky (`subtract`, `subtract_frames`). Out: `Subtraction`: difference,
variance, kernel, fluxes at given places, point sources that have changed.

- `align`: one grid for both images.
- `kernel`: the least-squares solution for kernel and background.
- `subtract`: which pixels, which direction, variances.
- `photometry`: fluxes with errors; whitened differences and scores.
- `detection`: what has changed, and whether it looks real.
"""

from autofit_ml.difference.align import aligned
from autofit_ml.difference.detection import detect_changes
from autofit_ml.difference.photometry import Whitened, fluxes, whitened
from autofit_ml.difference.result import Subtraction, subtract, subtract_frames
from autofit_ml.difference.subtract import Difference, subtract_images

__all__ = [
    "Difference",
    "Subtraction",
    "Whitened",
    "aligned",
    "detect_changes",
    "fluxes",
    "subtract",
    "subtract_frames",
    "subtract_images",
    "whitened",
]
