"""``autofit-ml show``."""

import sys
import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from autofit_ml.cli.app import app
from autofit_ml.cli.terminal import printable
from autofit_ml.errors import SettingsError


@app.command()
def show(
    results: Annotated[Path, typer.Argument(metavar="RESULTS", help="Results folder.")],
    name: Annotated[str, typer.Argument(metavar="ID", help="Id of the object.")],
    look: Annotated[
        bool,
        typer.Option("--open/--no-open", help="Open the preview image, if there is a display."),
    ] = True,
) -> None:
    """Print the results of one object, and open its preview."""
    from autofit_ml.catalogue import file_stem
    from autofit_ml.results import open_results

    run = open_results(results)
    if name not in run.ids:
        near = [one for one in run.ids if name.lower() in one.lower()][:5]
        raise SettingsError(
            f"there is no object {name!r} in {results}",
            f"did you mean {', '.join(near)}" if near else f"ids are like {run.ids[0]}",
        )
    for text in str(run[name]).splitlines():
        print(printable(text))
    preview = results / "previews" / f"{file_stem(name)}.png"
    if preview.is_file():
        print(printable(f"preview: {preview}"))
        if look and sys.stdout.isatty():
            webbrowser.open(preview.resolve().as_uri())
