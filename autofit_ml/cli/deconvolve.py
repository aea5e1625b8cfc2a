"""``autofit-ml deconvolve``."""

from autofit_ml.cli.app import command
from autofit_ml.cli.calls import DeconvolveCommand
from autofit_ml.cli.progress import run_and_tell
from autofit_ml.settings import DeconvolveSettings, Selected


@command(DeconvolveCommand)
def deconvolve(call: DeconvolveCommand) -> int:
    """Draw samples of galaxies as they would look with a narrower PSF and without noise.

    Exit status: 0 all objects were deconvolved; 3 some failed; 2 wrong usage; 1 all failed; 130
    interrupted (the same command continues the run).
    """
    paths = call.some_paths("deconvolve")
    from autofit_ml.runs.deconvolve import deconvolve_run

    return run_and_tell(
        "deconvolving",
        call,
        lambda progress: deconvolve_run(
            paths, call.out, call.part(DeconvolveSettings),
            manifest=call.manifest, restart=call.restart,
            only=call.part(Selected), progress=progress,
        ),
        lambda summary: f"{summary.n_ok} objects: {summary.out}",
        lambda summary: {"objects": summary.n_ok, "warnings": summary.warnings},
    )  # fmt: skip
