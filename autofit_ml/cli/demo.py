"""``autofit-ml demo``."""

from pathlib import Path
from typing import Annotated

import typer

from autofit_ml.cli.app import app


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for images and results.")] = Path(
        "demo"
    ),
    n: Annotated[int, typer.Option("-n", "--n", help="Galaxies to simulate.")] = 24,
) -> None:
    """Simulate a small set of galaxies, fit it, and print the path of the report."""
    from autofit_ml.simulation import demo_set

    images = out / "images"
    if not (images / "truth.ecsv").exists():  # written last: the set is complete
        demo_set(images, n=n)
    app(["fit", str(images), "--out", str(out / "results")], standalone_mode=True)
