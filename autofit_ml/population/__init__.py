"""Populations: how the parameters of stars or galaxies are distributed, as files say.

In: a YAML file (docs/populations.md). Out: a checked `Population`, of which objects can be drawn.
It knows nothing about images and fits.
"""

from autofit_ml.population.file import (
    CELESTE,
    Population,
    Term,
    read_population,
    read_populations,
)

__all__ = ["CELESTE", "Population", "Term", "read_population", "read_populations"]
