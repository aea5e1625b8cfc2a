"""``autofit-ml survey PLAN | plan | status | retry | export``."""

import dataclasses
import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from autofit_ml.cli.app import app, command
from autofit_ml.cli.calls import SurveyCommand, SurveyPlanCommand
from autofit_ml.cli.progress import PlainProgress, QuietProgress, counting
from autofit_ml.cli.terminal import print_json, printable, resume_command, say
from autofit_ml.errors import InputError, OutputError, SettingsError, errors_as
from autofit_ml.options import declared
from autofit_ml.runs.summary import duration
from autofit_ml.settings import SurveySettings

if TYPE_CHECKING:
    from autofit_ml.survey.estimate import Estimate
    from autofit_ml.survey.run import SurveySummary
    from autofit_ml.survey.status import SurveyStatus

COMMAND_FILE = ".work/survey/command.json"
"""Where, below a survey's folder, its options are kept for ``survey retry``."""

_WORDS = ("psf", "model", "populations")
_PATHS = ("paths", "tiles", "reference", "galfit", "pipeline", *_WORDS)
"""Options that are paths; those of `_WORDS` may be a word instead."""

_MANY = 1000
"""Tiles whose number costs time."""


class RunByDefault(TyperGroup):
    """Group whose command ``run`` is meant where no other one is named."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put ``run`` in front of what begins with no command."""
        if args and args[0] not in self.commands and args[0] not in ctx.help_option_names:
            args = ["run", *args]
        return super().parse_args(ctx, args)


survey_app = typer.Typer(
    cls=RunByDefault,
    help="Survey areas of many images, tile by tile and on many machines: autofit-ml survey PLAN "
    "--out DIR. For the options see survey run --help.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(survey_app, name="survey")


@command(SurveyCommand, survey_app, "run")
def run(call: SurveyCommand) -> int:
    """Measure every object of an area exactly once, tile by tile.

    Exit status: 0 all tiles and objects were measured; 3 some failed; 2 wrong usage; 1 all failed;
    130 interrupted (the same command continues the survey, even while others work on it).
    """
    if call.dry_run:
        return _planned(call, None)
    return _run(call, retry=False)


def _run(call: SurveyCommand, *, retry: bool) -> int:
    from autofit_ml.survey.export import write_view
    from autofit_ml.survey.pages import write_pages
    from autofit_ml.survey.run import survey_run
    from autofit_ml.survey.tiles import TileOutcome

    if not call.paths:
        raise SettingsError("nothing to survey", "give a plan, images or folders of them")
    call = _from_anywhere(call)
    progress = QuietProgress() if call.quiet else PlainProgress(sys.stderr)
    with counting("tiles", quiet=call.quiet, unit="tiles") as show:

        def begun(done: int, total: int) -> None:
            keep_command(call)
            show(done, total)

        def told(outcome: TileOutcome, done: int, total: int) -> None:
            show(done, total)
            if outcome.problem:
                progress.note(f"failed   {outcome.name}: {outcome.problem}")

        summary = survey_run(
            call.paths, call.out, call.measuring, call.part(SurveySettings),
            tiles=call.tiles, limit=call.limit, restart=call.restart, retry=retry,
            progress=progress, told=told, begun=begun,
        )  # fmt: skip
    page = None
    if call.share is None:  # of many at once the last one, or `survey status`, writes it
        if summary.done:
            write_view(call.out)
        page = write_pages(call.out)
    _tell(call, summary, page)
    return summary.exit_status


def _tell(call: SurveyCommand, summary: "SurveySummary", page: Path | None) -> None:
    if call.as_json:
        names = ("tiles", "done", "new", "objects", "usable", "flagged", "failed", "interrupted")
        counts = {name: getattr(summary, name) for name in names}
        more = {"failures": summary.failures, "warnings": summary.concerns}
        end = {"seconds": round(summary.seconds, 3), "exit_status": summary.exit_status}
        print_json({"out": str(summary.out)} | counts | more | end)
    if call.quiet:
        return
    say(f"{summary.done} of {summary.tiles} tiles ({summary.new} new, {summary.seconds:.1f} s)")
    if summary.new:
        say(
            f"{summary.objects} objects in the new ones: {summary.usable} usable, "
            f"{summary.flagged} flagged, {summary.failed} failed"
        )
    for name, why in list(summary.failures.items())[:10]:
        say(("failed", "red"), f"   {name}: {why}")
    if len(summary.failures) > 10:
        say(f"         {len(summary.failures) - 10} more: autofit-ml survey status {summary.out}")
    for text in summary.concerns:
        say(("warning", "yellow"), f"  {text}")
    if summary.interrupted:
        say(f"to go on: {resume_command()}")
    elif page is not None:
        say(f"catalogue: {summary.out / 'tiles'} (autofit-ml query {summary.out} SQL)")
        say(f"report:    {page}")


@command(SurveyPlanCommand, survey_app, "plan")
def plan(call: SurveyPlanCommand) -> int:
    """Plan a survey: write editable tables of images and tiles, and estimate time and memory."""
    return _planned(call, call.out)


def _planned(call: SurveyCommand | SurveyPlanCommand, out: Path | None) -> int:
    """Say what a survey would take; with `out` write its tables."""
    from autofit_ml.survey.estimate import estimate
    from autofit_ml.survey.plan import write_plan
    from autofit_ml.survey.run import planned

    if not call.paths:
        raise SettingsError("nothing to survey", "give images or folders of them")
    settings = call.measuring
    found = planned(call.paths, settings, call.part(SurveySettings), call.tiles)
    if out is not None:
        write_plan(found, out)
    told = estimate(found, call.run, settings, tried=getattr(call, "try_it", True))
    if call.as_json:
        more = {"problems": dict(found.problems), "minutes_per_tile": told.minutes_per_tile}
        print_json({"out": None if out is None else str(out)} | dataclasses.asdict(told) | more)
    elif not call.quiet:
        for text in _estimate_lines(told, found.tiling.text):
            print(printable(text))
        for name, why in found.problems.items():
            print(printable(f"left out {name}: {why}"))
        if out is not None:
            print(printable(f"plan: {out} (autofit-ml survey run {out} --out DIR)"))
    return 0


def _estimate_lines(told: "Estimate", tiling: str) -> list[str]:
    """An estimate for people."""
    lines = [
        f"{told.images} images in {told.cells} cells, {told.area:.4g} square degrees, "
        f"{told.pixels / 1e6:.4g} million pixels",
        f"{told.tiles} tiles ({tiling})",
    ]
    if not math.isfinite(told.hours):
        return [*lines, f"not tried: {told.tried}" if told.tried else "not tried"]
    lines += [
        f"about {told.objects:.3g} objects (tried: {told.tried})",
        f"time: about {duration(3600 * told.hours)} of a processor, "
        f"{duration(60 * told.minutes_per_tile)} a tile "
        f"({told.per_object:.3g} s an object, {told.per_megapixel:.3g} s a million pixels, "
        f"{told.per_image:.3g} s an image)",
        f"memory: {told.memory:.2g} GB a process; catalogue: {_size(told.bytes)}",
    ]
    if told.minutes_per_tile > 60:
        lines.append("tiles of over an hour: a finer --tiling loses less when a machine dies")
    if told.minutes_per_tile < 0.05 and told.tiles > _MANY:
        lines.append("tiles of under 3 s: a coarser --tiling reads images less often")
    return lines


def _size(number: float) -> str:
    steps = int(min(max(math.log10(max(number, 1.0)) // 3, 1), 4))
    return f"{number / 1000**steps:.3g} {('kB', 'MB', 'GB', 'TB')[steps - 1]}"


# --- what there is ----------------------------------------------------------------------------

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the survey.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print as JSON.")]


@survey_app.command("status")
def status(
    out: Folder,
    page: Annotated[bool, typer.Option("--report/--no-report", help="Write index.html.")] = True,
    as_json: AsJson = False,
) -> None:
    """Report the progress and failures of a survey, during or after it."""
    from autofit_ml.survey.pages import write_pages
    from autofit_ml.survey.status import survey_status

    found = survey_status(out)
    if page:
        try:
            write_pages(out)
        except OutputError as error:  # what is known is said on a full disk, too
            say(f"no report: {error}")
    if as_json:
        more = {"left": found.left, "hours_left": found.hours_left}
        print_json(dataclasses.asdict(found) | more | {"out": str(out)})
        return
    for text in _status_lines(found):
        print(printable(text))


def _status_lines(found: "SurveyStatus") -> list[str]:
    lines = [
        f"{found.done} of {found.tiles} tiles ({found.tiling}) of {found.images} images done, "
        f"{len(found.tile_failures)} failed, {found.left} to do",
        f"{found.objects} objects: {found.usable} usable, {found.flagged} flagged, "
        f"{found.failed} failed ({found.detected - found.objects} duplicates left out)",
        f"{duration(3600 * found.processor_hours)} of a processor, at most "
        f"{found.memory / 1024:.2g} GB in a process",
    ]
    if found.left and math.isfinite(found.per_hour):
        left = duration(3600 * found.hours_left)
        lines.append(f"{found.per_hour:.3g} tiles an hour of late: {left} left at that rate")
    for what, told in (("tile", found.tile_failures), ("image", found.image_failures)):
        alike: dict[str, list[str]] = {}
        for name, why in told.items():
            alike.setdefault(why, []).append(name)
        for why, names in alike.items():
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            lines.append(f"failed   {what} {names[0]}{more}: {why}")
    if found.tile_failures or found.image_failures:
        lines.append(f"to try them again: autofit-ml survey retry {found.out}")
    return lines


@survey_app.command("retry")
def retry(
    out: Folder,
    scheduler: Annotated[
        str | None, typer.Option(help="Scheduler; default: that of the original command.")
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Worker processes.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")] = False,
    as_json: AsJson = False,
) -> None:
    """Repeat failed tiles and images, and continue the survey with its options."""
    with errors_as(
        InputError,
        "its options cannot be read",
        "run its command again with --retry",
        out,
        of=(OSError, ValueError, TypeError),
    ):
        kept = json.loads((out / COMMAND_FILE).read_text("utf-8"))
        call = SurveyCommand(**kept)
    more = {"scheduler": scheduler, "workers": workers}
    given = {name: value for name, value in more.items() if value is not None}
    call = call.replace(out=out, quiet=quiet, as_json=as_json, **given)
    code = _run(call, retry=True)
    if code:
        raise typer.Exit(code)


def _from_anywhere(call: SurveyCommand) -> SurveyCommand:
    """The same call with absolute paths: workers, and `retry`, may be in other folders."""
    more: dict[str, Any] = {}
    for name in _PATHS:
        value = getattr(call, name)
        if isinstance(value, (str, Path)):
            word = name in _WORDS and not (Path(value).suffix and Path(value).exists())
            more[name] = str(value if word else Path(value).absolute())
        elif isinstance(value, (list, tuple)):
            more[name] = [str(Path(one).absolute()) for one in value]
    return call.replace(**more)


def keep_command(call: SurveyCommand) -> None:
    """Keep the options for `retry`."""
    from autofit_ml.catalogue import atomic_write_json

    call = _from_anywhere(call)
    left_out = ("out", "restart", "limit", "share", "quiet", "as_json", "dry_run")
    kept: dict[str, Any] = {}
    for name, (_, about) in declared(call).items():
        value = getattr(call, name)
        if name in left_out or about.python_only or value is None:
            continue
        kept[name] = list(value) if isinstance(value, tuple) else value
    atomic_write_json(call.out / COMMAND_FILE, kept)


@survey_app.command("export")
def export(
    out: Folder,
    form: Annotated[
        str,
        typer.Argument(
            metavar="parquet|hats", help="Format: one Parquet file, or a HATS catalogue (for LSDB)."
        ),
    ],
    to: Annotated[
        Path | None,
        typer.Option(
            "--to", help="Output file, or folder of the HATS catalogue (default: in DIR)."
        ),
    ] = None,
    margin: Annotated[float, typer.Option(help="Margin of HATS pixels (arcsec).")] = 10.0,
    rows: Annotated[int, typer.Option(help="Largest number of rows in a HATS pixel.")] = 1_000_000,
) -> None:
    """Export the catalogue as one Parquet file, or in HATS format with a margin."""
    from autofit_ml.survey.export import export_hats, export_parquet

    if form == "parquet":
        path, number = export_parquet(out, to)
        print(printable(f"{number} rows: {path}"))
    elif form == "hats":
        place = to or out / "hats" / out.resolve().name
        number, parts = export_hats(
            out, place.parent, margin=margin, most_rows=rows, name=place.name
        )
        print(printable(f"{number} rows in {parts} pixels: {place}, {place}_margin"))
    else:
        raise SettingsError(f"there is no form {form!r}", "use parquet or hats")
