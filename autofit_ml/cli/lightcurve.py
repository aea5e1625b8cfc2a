"""``autofit-ml lightcurve``."""

from autofit_ml.cli.app import command
from autofit_ml.cli.calls import LightcurveCommand
from autofit_ml.cli.progress import run_and_tell
from autofit_ml.errors import SettingsError
from autofit_ml.settings import LightCurveSettings, Selected


@command(LightcurveCommand)
def lightcurve(call: LightcurveCommand) -> int:
    """Measure the flux of sources at given positions in every epoch.

    Exit status: 0 all images were measured; 3 some failed; 2 wrong usage; 1 all failed; 130
    interrupted (the same command continues the run).
    """
    paths = call.some_paths("measure")
    if call.at is None:
        raise SettingsError("no position", "give --at RA,DEC, --at pixel:X,Y or --at TABLE")
    from autofit_ml.runs.lightcurve import lightcurve_run

    return run_and_tell(
        "measuring",
        call,
        lambda progress: lightcurve_run(
            paths, call.at, call.out, call.part(LightCurveSettings), reference=call.reference,
            manifest=call.manifest, restart=call.restart, only=call.part(Selected),
            progress=progress,
        ),
        lambda summary: f"light curves: {summary.n_instances}, images: {summary.n_ok}; "
        f"{summary.out}",
        lambda summary: {"images": summary.n_ok, "light_curves": summary.n_instances},
        remark="note",
    )  # fmt: skip
