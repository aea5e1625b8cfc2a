"""``autofit-ml diff``."""

from autofit_ml.cli.app import command
from autofit_ml.cli.calls import DiffCommand
from autofit_ml.cli.progress import run_and_tell
from autofit_ml.settings import DiffSettings, Selected


@command(DiffCommand)
def diff(call: DiffCommand) -> int:
    """Subtract a reference from images of the same field, and detect what has changed.

    Exit status: 0 all images were subtracted; 3 some failed; 2 wrong usage; 1 all failed; 130
    interrupted (the same command continues the run).
    """
    paths = call.some_paths("subtract from")
    from autofit_ml.runs.diff import diff_run

    return run_and_tell(
        "subtracting",
        call,
        lambda progress: diff_run(
            call.reference, paths, call.out, call.part(DiffSettings),
            manifest=call.manifest, restart=call.restart,
            only=call.part(Selected), progress=progress,
        ),
        lambda summary: f"{summary.n_instances} changes in {summary.n_ok} images: {summary.out}",
        lambda summary: {"images": summary.n_ok, "changes": summary.n_instances},
        remark="note",
    )  # fmt: skip
