"""Stars and galaxies of a frame with colours: the Bayesian catalogue.

In: frames of one field, one a band (`catalogue_frames`). Out: `SourceCatalogue`: for every source a
probability of being a star, position, fluxes in all bands, colours, and a galaxy's size and shape,
with errors; the model image.

- `field`: the images as tensors; patches around sources.
- `detection`: what is there, over bands together, and starting values.
- `priors`: what is known of stars and galaxies (population files).
- `problem`: the posterior density of many sources at once.
- `scan`: joint optimisation, block by block.
- `gaussians`: Laplace and variational posteriors, evidences.
- `fluxes`: fluxes at given positions and shapes, a linear problem.
- `rows`, `files`: the catalogue.
"""

from autofit_ml.sources.field import Field, make_field
from autofit_ml.sources.infer import NothingDetected, SourceCatalogue, catalogue_frames

__all__ = ["Field", "NothingDetected", "SourceCatalogue", "catalogue_frames", "make_field"]
