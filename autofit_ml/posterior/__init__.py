"""Posteriors on demand: densities of many objects in, draws with diagnostics out.

- `laplace`: draws of the Gaussian around a fit.
- `bootstrap`: refits to resampled residuals.
- `hmc`: Hamiltonian Monte Carlo, all objects and chains at once; `chains` is its state, `reference`
  the Gaussian that it leans on, `flow` the motion in it between hard bounds.
- `nested`: one object with nautilus, for evidences.
- `diagnostics`: R-hat and effective sample sizes; `samples`: what every method hands over;
  `random_streams`: random numbers that belong to an object, not to its batch.
- `inference_data`: ArviZ files; `corner`: plots.
- `summary`: of a run's samples, a row for each parameter; `watch`: pictures while a search goes on.
- `scenes`: connects all this to fitted scenes; `choice`: which model, by evidence.

Knows nothing about images but in `scenes` and `choice` (which read `autofit_ml.fitting`) and
`bootstrap` (which resamples them). docs/posteriors.md says which method to take, and what was
measured.
"""

from autofit_ml.posterior.bootstrap import BootstrapSettings, bootstrap
from autofit_ml.posterior.corner import corner_figure
from autofit_ml.posterior.diagnostics import diagnose, split_rhat
from autofit_ml.posterior.hmc import HMCSettings, LogDensity, sample_hmc
from autofit_ml.posterior.inference_data import to_inference_data, write_inference_data
from autofit_ml.posterior.laplace import LaplaceSettings, sample_laplace
from autofit_ml.posterior.nested import NestedResult, NestedSettings, box_transform, sample_nested
from autofit_ml.posterior.samples import PosteriorSamples

__all__ = [
    "BootstrapSettings",
    "HMCSettings",
    "LaplaceSettings",
    "LogDensity",
    "NestedResult",
    "NestedSettings",
    "PosteriorSamples",
    "bootstrap",
    "box_transform",
    "corner_figure",
    "diagnose",
    "sample_hmc",
    "sample_laplace",
    "sample_nested",
    "split_rhat",
    "to_inference_data",
    "write_inference_data",
]
