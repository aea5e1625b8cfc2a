from .fit import FitSettings as FitSettings
from .fit import fit_run as fit_run
from .fit import fit_sources as fit_sources
from .summary import Progress as Progress
from .summary import RunSummary as RunSummary
