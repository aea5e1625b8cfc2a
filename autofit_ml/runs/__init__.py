"""The flow: images -> segment -> initialise -> refine -> catalogue -> report, in batches.

In: paths and `FitSettings`. Out: a results folder (or, without one, a table in memory).

A fit:

- `flow`: `fit_run`, the loop over batches; `plan`: what it would do, without doing it.
- `batches`: batches of prepared objects, from worker processes that read ahead.
- `prepare`: one object from file to starting values; runs in those workers.
- `model`, `modelled`, `galfit_inputs`: what is fitted, as the user's model or GALFIT file says.
- `fitting`: one batch through the refiner; `scenes`: of it, what is no plain Sérsic profile.
- `object_fit`: one object's fit in the catalogue's terms; `rows`: catalogue rows.
- `outputs`: pictures, shards, catalogue, run.json.
- `resume`: what a results folder already holds, and whether it belongs to this run.
- `settings`, `summary`: everything the user can choose, and is told.

Runs of other kinds: `segment_run`, `deconvolve_run`, and `calibrate_run` (injection and recovery).

Calls the stages; is called by the command line and by `autofit_ml.fit`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autofit_ml.runs.flow import fit_run
    from autofit_ml.runs.settings import FitSettings
    from autofit_ml.runs.summary import Progress, RunSummary

__all__ = ["FitSettings", "Progress", "RunSummary", "fit_run"]

_HOME = {
    "FitSettings": "autofit_ml.runs.settings",
    "Progress": "autofit_ml.runs.summary",
    "RunSummary": "autofit_ml.runs.summary",
    "fit_run": "autofit_ml.runs.flow",
}


def __getattr__(name: str) -> Any:
    # Imported on first use: worker processes import `prepare` from here and nothing else.
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
