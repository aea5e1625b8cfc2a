"""``autofit-ml catalog``."""

from autofit_ml.cli.app import command
from autofit_ml.cli.calls import CatalogCommand
from autofit_ml.cli.progress import run_and_tell
from autofit_ml.settings import CatalogSettings, Selected


@command(CatalogCommand)
def catalog(call: CatalogCommand) -> int:
    """Make a catalogue of the stars and galaxies in frames, with fluxes and colours.

    All bands are fitted together, as are overlapping sources. Every source has a probability of
    being a star.

    Exit status: 0 all frames were catalogued; 3 some failed; 2 wrong usage; 1 all failed; 130
    interrupted (the same command continues the run).
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
