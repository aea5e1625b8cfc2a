"""``autofit-ml report``."""

from pathlib import Path
from typing import Annotated

import typer

from autofit_ml.cli.app import app
from autofit_ml.cli.terminal import printable


@app.command()
def report(
    results: Annotated[Path, typer.Argument(metavar="RESULTS", help="Results folder.")],
) -> None:
    """Rewrite report.html of a results folder."""
    from autofit_ml.report import write_report

    print(printable(write_report(results)))
