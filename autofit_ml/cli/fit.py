"""``autofit-ml fit``."""

import dataclasses
from typing import Any

from autofit_ml.cli.app import USAGE, command
from autofit_ml.cli.calls import FitCommand
from autofit_ml.cli.progress import plan_lines, progress_for
from autofit_ml.cli.terminal import print_json, printable, resume_command
from autofit_ml.settings import FitSettings, Selected


@command(FitCommand)
def fit(call: FitCommand) -> int:
    """Fit every galaxy in files, folders or a manifest.

    Exit status: 0 all objects were fitted; 3 some failed (their rows say why); 2 wrong usage; 1
    nothing could be fitted; 130 interrupted (the same command continues the run).
    """
    from autofit_ml.runs import fit_run

    paths = call.paths or None if call.galfit is not None else call.some_paths("fit")
    settings = call.part(FitSettings)
    if call.dry_run:
        return _dry_run(call, paths, settings)
    progress = progress_for("fitting", quiet=call.quiet, verbose=call.verbose)
    with progress:
        summary = fit_run(
            paths, call.out, settings, manifest=call.manifest, restart=call.restart,
            only=call.part(Selected), progress=progress,
        )  # fmt: skip
    if call.as_json:
        print_json(
            {
                "out": str(summary.out),
                "objects": summary.n_objects,
                "usable": summary.n_ok,
                "flagged": summary.n_flagged,
                "failed": summary.n_failed,
                "new": summary.n_new,
                "interrupted": summary.interrupted,
                "seconds": round(summary.seconds, 3),
                "report": None if summary.report is None else str(summary.report),
                "warnings": summary.concerns,
                "exit_status": summary.exit_status,
            }
        )
    progress.end(summary, resume_command())
    return summary.exit_status


def _dry_run(call: FitCommand, paths: Any, settings: FitSettings) -> int:
    """Print the plan of a run; the exit status of a run that would end so."""
    from autofit_ml.runs.plan import plan_run

    plan = plan_run(
        paths,
        call.out,
        settings,
        manifest=call.manifest,
        restart=call.restart,
    )
    if call.as_json:
        ignored = [f"{path}: {why}" for path, why in plan.ignored]
        print_json(dataclasses.asdict(plan) | {"ignored": ignored})
    else:
        for text in plan_lines(plan, call.out):
            print(printable(text))
    return USAGE if plan.refused else 0
