"""The command line: one file a command, which parses, calls and prints.

Options are those of `autofit_ml.settings`; `app` makes commands of them; `progress` is what is
shown while a run goes on. Nothing imports this package.
"""

from autofit_ml.cli import (  # noqa: F401
    calibrate,
    catalog,
    deconvolve,
    demo,
    diff,
    doctor,
    fit,
    query,
    report,
    segment,
    show,
    simulate,
    survey,
    weights,
)
from autofit_ml.cli.app import app, main

__all__ = ["app", "main"]
