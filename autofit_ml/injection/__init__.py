"""Injection and recovery: how a run's settings do on galaxies of known parameters in its own data.

In: a finished results folder. Out: injected galaxies like those of its catalogue, what the same
settings find of them, and from both bias, scatter, coverage and completeness.

- `stamps`: stamps of the user's own noise without objects, and galaxies like the catalogue's.
- `recovery`: figures by magnitude and size; factors for the errors.
- `page`: the HTML page with the figures.
- `pairs`: galaxies of two components over a grid.

`autofit_ml.runs.calibrate_run` puts them together. Needs GalSim, which draws the galaxies, so
that the refiner's own renderer is under test too.
"""

from autofit_ml.injection.recovery import Recovery, measure

__all__ = ["Recovery", "measure"]
