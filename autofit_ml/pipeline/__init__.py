"""The flow: images -> segment -> initialise -> refine -> catalogue -> report, in batches.

In: paths and `FitSettings`. Out: a results folder (or, without one, a table in memory).

- `flow`: `fit`, the loop over batches.
- `prepare`: one object from file to starting values; runs in worker processes.
- `rows`: fitted parameters to catalogue rows.
- `resume`: what a results folder already holds, and whether it belongs to this run.
- `settings`: everything the user can choose.

Calls the stages; is called by the command line and by `autofit_ml.fit`.
"""

from autofit_ml.pipeline.flow import Progress, RunSummary, fit_run
from autofit_ml.pipeline.settings import FitSettings

__all__ = ["FitSettings", "Progress", "RunSummary", "fit_run"]
