"""Starting parameters for the refiner, without anybody typing a guess.

In: stamps (`autofit_ml.images`) and their segmentations (`autofit_ml.segmentation`). Out: `Starts`,
one row of finite parameters per stamp, read by `autofit_ml.fitting`.

- `dispatch`: the chosen initialiser, over many stamps.
- `resnet`: the network's start, and what becomes of objects that it does not know.
- `cutouts`: what the network looks at; `network`: the network; `physics`: the renderer's verdict.
- `starts`: what is handed on.
- `moments`: the classical start: adaptive moments, then a light profile in elliptical annuli;
  `gaussians`: profiles and PSFs as sums of Gaussians.
"""

from autofit_ml.initialisation.dispatch import INITIALISERS, initialise
from autofit_ml.initialisation.moments import start_from_moments
from autofit_ml.initialisation.starts import PARAMETERS, Starts

__all__ = ["INITIALISERS", "PARAMETERS", "Starts", "initialise", "start_from_moments"]
