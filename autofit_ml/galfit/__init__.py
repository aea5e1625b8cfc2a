"""GALFIT's input files, and GALFITM's: read into a scene, and written.

In: a feedme file (and the file of constraints that it names). Out: a `GalfitFile`: the scene in our
units and conventions, and what the file says of images, zero point and region; and back. Formats
and definitions: GALFIT's documentation and Peng et al. 2010 (AJ 139, 2097); GALFITM's: Häussler et
al. 2013 (MNRAS 430, 330). docs/models.md has the table of what becomes what.
"""

from autofit_ml.galfit.file import GalfitBand, GalfitFile
from autofit_ml.galfit.reading import read_galfit
from autofit_ml.galfit.writing import galfit_constraints, write_galfit

__all__ = ["GalfitBand", "GalfitFile", "galfit_constraints", "read_galfit", "write_galfit"]
