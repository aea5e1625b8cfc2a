"""``autofit-ml segment``."""

from autofit_ml.cli.app import command
from autofit_ml.cli.calls import SegmentCommand
from autofit_ml.cli.progress import run_and_tell
from autofit_ml.settings import SegmentSettings, Selected


@command(SegmentCommand)
def segment(call: SegmentCommand) -> int:
    """Segment images into galaxies and stars: labels, a table of instances, pictures.

    Exit status: 0 all images were segmented; 3 some failed; 2 wrong usage; 1 all failed; 130
    interrupted (the same command continues the run).
    """
    paths = call.some_paths("segment")
    from autofit_ml.runs.segment import segment_run

    return run_and_tell(
        "segmenting",
        call,
        lambda progress: segment_run(
            paths, call.out, call.part(SegmentSettings),
            manifest=call.manifest, restart=call.restart,
            only=call.part(Selected), progress=progress,
        ),
        lambda summary: f"{summary.n_instances} instances in {summary.n_ok} images: {summary.out}",
        lambda summary: {"images": summary.n_ok, "instances": summary.n_instances},
    )  # fmt: skip
