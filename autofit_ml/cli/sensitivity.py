"""``autofit-ml sensitivity``."""

import numpy as np

from autofit_ml.cli.app import command
from autofit_ml.cli.calls import SensitivityCommand
from autofit_ml.cli.progress import progress_for
from autofit_ml.cli.terminal import print_json, printable
from autofit_ml.settings import SensitivitySettings


@command(SensitivityCommand)
def sensitivity(call: SensitivityCommand) -> None:
    """Map which second components can be detected, by injecting galaxies with two components.

    Every injected galaxy is fitted with both models.

    Exit status: 0 done; 2 wrong usage, or images without usable galaxies or empty sky; 130
    interrupted (the same command continues the run).
    """
    from autofit_ml.population.sensitivity_page import verdict_of
    from autofit_ml.runs.sensitivity import PAGE, sensitivity_run

    paths = call.some_paths("read")
    with progress_for("fitting", quiet=call.quiet) as progress:
        summary = sensitivity_run(
            paths, call.out, call.part(SensitivitySettings), manifest=call.manifest,
            restart=call.restart, progress=progress,
        )  # fmt: skip
    found = summary.found
    false, blank = found.false_positives
    if call.as_json:
        limits = {name: np.asarray(found.limits[name]).tolist() for name in found.limits.colnames}
        print_json(
            {
                "out": str(summary.out),
                "galaxies": len(found.objects),
                "places": summary.places,
                "skipped": summary.skipped,
                "failed": int(np.sum(found.objects["failed"])),
                "false_positives": false,
                "without_a_second_component": blank,
                "limits": limits,
            }
        )
    elif not call.quiet:
        for text in verdict_of(found):
            print(printable(text))
        print(printable(f"report: {summary.out / PAGE}"))
