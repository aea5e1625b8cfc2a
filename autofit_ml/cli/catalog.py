"""``autofit-ml catalog``."""

from autofit_ml.cli.app import command
from autofit_ml.cli.calls import CatalogCommand
from autofit_ml.cli.progress import run_and_tell
from autofit_ml.settings import CatalogSettings, Selected


@command(CatalogCommand)
def catalog(call: CatalogCommand) -> int:
    """Catalogue of the stars and galaxies of frames, with fluxes and colours in all bands.

    Every source has a probability of being a star; overlapping ones are fitted together.

    Exit status: 0 all frames; 3 some could not be done; 2 wrong usage; 1 none could be;
    130 interrupted (the same command continues).
    """
    paths = call.some_paths("catalogue")
    from autofit_ml.runs.catalog import catalog_run

    return run_and_tell(
        "cataloguing",
        call,
        lambda progress: catalog_run(
            paths, call.out, call.part(CatalogSettings), manifest=call.manifest,
            restart=call.restart, only=call.part(Selected), progress=progress,
        ),
        lambda summary: f"{summary.n_instances} sources in {summary.n_ok} frames: {summary.out}",
        lambda summary: {"frames": summary.n_ok, "sources": summary.n_instances},
    )  # fmt: skip
