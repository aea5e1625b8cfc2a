"""Populations: how the parameters of many objects are distributed, inferred from their fits.

In: per-object posteriors (Gaussians or samples) with the prior that they contain, a population file
in which numbers are free, and why an object is in the sample. Out: a posterior of these numbers,
shrunk posteriors of the objects, a population file that a fit takes as its prior.

- `model`: the file; `hyper`: its free numbers as a vector; `free`: their default priors.
- `objects`: what the data say of each object; `noise`: how errors follow the true parameters;
  `selection`: which objects are in the sample.
- `density`: densities of populations; `nodes`: integrals as sums over points; `problem`: the
  posterior, its maximum; `rounds`: points and maximum in turn, draws; `infer`: `fit_population`;
  `posterior`: what comes out.
- `propagation`: `refit_population`, which asks the objects' images again.
- `sensitivity`: which second components can be seen, as a selection function; `sensitivity_page`.
"""

from autofit_ml.population.infer import fit_population
from autofit_ml.population.model import PopulationModel, read_population_model
from autofit_ml.population.posterior import PopulationPosterior, Shrunk
from autofit_ml.population.propagation import Propagated, refit_population
from autofit_ml.population.rounds import PopulationSettings
from autofit_ml.population.selection import Injections, detection_surface

__all__ = [
    "Injections",
    "PopulationModel",
    "PopulationPosterior",
    "PopulationSettings",
    "Propagated",
    "Shrunk",
    "detection_surface",
    "fit_population",
    "read_population_model",
    "refit_population",
]
