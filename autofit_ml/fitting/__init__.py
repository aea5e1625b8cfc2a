"""Refining: stamps and starting values in, fitted parameters with errors out.

- `fit`: `refine`, the whole of it for a list of stamps.
- `problem`: chi2, gradient and Gauss-Newton matrix of a batch of stamps.
- `levenberg_marquardt`: the batched minimiser.
- `search`: several starts per object, and the coarse search that picks among them.
- `uncertainties`: covariances and errors; `point_source`: the simpler model to compare with.
- `parallel`: threads over objects; `settings`, `results`: what goes in and what comes out.

Reads `autofit_ml.images` (stamps), `autofit_ml.segmentation` (contaminants),
`autofit_ml.initialisation` (starts); renders with `autofit_ml.rendering`.
"""

from autofit_ml.fitting.fit import refine
from autofit_ml.fitting.levenberg_marquardt import LMSettings
from autofit_ml.fitting.results import FitResults
from autofit_ml.fitting.settings import RefineSettings

__all__ = ["FitResults", "LMSettings", "RefineSettings", "refine"]
