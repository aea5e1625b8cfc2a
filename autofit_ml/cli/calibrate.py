"""``autofit-ml calibrate``."""

from autofit_ml.cli.app import command
from autofit_ml.cli.calls import CalibrateCommand
from autofit_ml.cli.progress import progress_for
from autofit_ml.cli.terminal import print_json, printable
from autofit_ml.settings import CalibrateSettings


@command(CalibrateCommand)
def calibrate(call: CalibrateCommand) -> None:
    """Test errors and biases of a run by injecting galaxies into its images.

    The galaxies are like those of the catalogue, and are fitted with the settings of the run.

    Exit status: 0 done; 2 wrong usage, or a run that cannot be calibrated.
    """
    from autofit_ml.runs.calibrate import calibrate_run, figures

    with progress_for("fitting", quiet=call.quiet) as progress:
        summary = calibrate_run(
            call.results, call.paths or None, call.part(CalibrateSettings), out=call.out,
            manifest=call.manifest, restart=call.restart, progress=progress,
        )  # fmt: skip
    found = figures(summary.recovery)
    if call.as_json:
        print_json(found | {"verdict": summary.verdict, "out": str(summary.out)})
    elif not call.quiet:
        print(f"{100 * found['recovered']:.0f} % of {found['galaxies']} galaxies recovered")
        for name in ("flux", "re", "n", "q"):
            bias, coverage = found[f"bias_{name}"], 100 * found[f"coverage_{name}"]
            print(f"{name:5s} bias {bias:+.3f}, {coverage:.0f} % within one error")
        for text in summary.verdict:
            print(printable(text))
        print(printable(f"report: {summary.out / 'calibration.html'}"))
