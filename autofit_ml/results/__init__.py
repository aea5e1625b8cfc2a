"""Results for Python and notebooks: fits as objects, finished runs, model images, profiles.

In: rows of a catalogue and the images that belong to them, from a fit in memory or from a results
folder. Out: `Fit` (one object) and `Results` (a run), which print, plot and draw samples.

`fit` and `run` are the objects; `drawing` plots and writes HTML; `profile` measures in elliptical
annuli; `model` draws any row or model; `tables` formats columns. Used by `autofit_ml.api`.
"""

import lazy_loader

# On first use (``__init__.pyi`` lists the names): torch and matplotlib stay out until needed.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
