"""Progress on the command line: a live bar, plain lines, or nothing."""

import contextlib
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TextIO

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import (
    Progress as RichBar,
)

from autofit_ml.catalogue import flag_names, flagged, usable
from autofit_ml.cli.calls import Told
from autofit_ml.cli.terminal import console, line, print_json, printable, resume_command, say
from autofit_ml.runs.summary import Progress, RunSummary, duration

if TYPE_CHECKING:
    from autofit_ml.runs.plan import RunPlan

__all__ = [
    "PlainProgress",
    "QuietProgress",
    "RichProgress",
    "counting",
    "plan_lines",
    "progress_for",
    "run_and_tell",
]

_SECONDS_BETWEEN_LINES = 10.0

_ALIKE = 3
"""Failures for one reason that are named; the others are counted at the end."""

_STOPPING = "stopping after this batch (Ctrl-C again: at once)"


def plan_lines(plan: "RunPlan", out: str | Path) -> list[str]:
    """A dry run for people."""
    planes = ", ".join(
        name if count == plan.sources else f"{name} for {count}"
        for name, count in plan.planes.items()
        if name != "image"
    )
    lines = [f"{plan.sources} images, with {planes or 'nothing beside them'}"]
    if plan.bands:
        lines[0] = f"{plan.sources} objects in bands {', '.join(plan.bands)}, with {planes or '-'}"
    if plan.large:
        lines.append(f"  {plan.large} of them frames, whose objects are found when they are fitted")
    lines += [f"  {name}: {why}" for name, why in plan.problems.items()]
    if plan.ignored:
        lines.append(f"{len(plan.ignored)} files left out:")
        lines += [f"  {path}: {why}" for path, why in plan.ignored]
    lines += [*plan.model.splitlines(), "weights: " + (", ".join(plan.weights) or "none")]
    if plan.folder == "new":
        lines.append(f"results: {out} (new)")
    elif plan.folder == "continues":
        lines.append(f"results: {out} (continues: {plan.done} of {plan.sources} done)")
    else:
        lines.append(f"results: {plan.folder}")
    if plan.tried:
        lines.append(f"{plan.tried} objects were tried, {plan.failed} failed")
        lines += [f"  {count} x {text}" for text, count in plan.messages.items()]
        where = f" (without the {plan.large} frames)" if plan.large else ""
        lines.append(f"time: about {duration(plan.seconds)}{where}, one process")
    elif plan.todo:
        lines.append("time: not known before frames are segmented")
    return lines


def _pace(speed: float, unit: str = "objects") -> str:
    """Objects per second, or seconds for each where these are many; nothing where none is done."""
    if speed >= 0.2:
        return f"{speed:.1f} {unit}/s"
    return f"{1 / speed:.0f} s each" if speed > 0 else ""


def progress_for(what: str, *, quiet: bool = False, verbose: bool = False) -> "QuietProgress":
    """The progress of a run on this terminal, or in this log."""
    if quiet:
        return QuietProgress()
    terminal = console()
    if terminal.is_terminal:
        return RichProgress(terminal, verbose, what)
    return PlainProgress(sys.stderr, verbose)


def run_and_tell(
    what: str,
    told: Told,
    run: Callable[[Progress], RunSummary],
    said: Callable[[RunSummary], str],
    counts: Callable[[RunSummary], dict[str, Any]],
    remark: str = "warning",
) -> int:
    """Do a run without a catalogue and print what became of it; its exit status.

    Parameters
    ----------
    what : str
        "segmenting", ...
    told : Told
    run : callable
    said : callable
        The line that is printed at the end.
    counts : callable
        Further entries of the JSON.
    remark : str
        "warning" or "note": how what is said of an image is labelled.
    """
    with progress_for(what, quiet=told.quiet) as progress:
        summary = run(progress)
    if told.quiet:  # else they were named when they came
        for name, why in summary.failures.items():
            say(("failed", "red"), f" {name}: {why}")
    else:
        for name, texts in summary.warnings.items():
            for text in texts:
                say((remark, "yellow"), f" {name}: {text}")
    if told.as_json:
        end = {"failures": summary.failures, "exit_status": summary.exit_status}
        print_json({"out": str(summary.out)} | counts(summary) | end)
    elif summary.interrupted:
        progress.end(summary, resume_command())
    elif not told.quiet:
        print(printable(said(summary)))
    return summary.exit_status


class QuietProgress(Progress):
    """Nothing at all."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        pass

    def end(self, summary: RunSummary, again: str) -> None:
        """The closing lines."""


class _Counting(QuietProgress):
    """Counts of usable, flagged and failed objects, and the messages of the last two."""

    def __init__(self, verbose: bool) -> None:
        self.verbose = verbose
        self.done = self.usable = self.flagged = self.failed = 0
        self.total = self.finished = self.new = 0
        self.share = 0.0
        self.began = time.monotonic()
        self.reasons: Counter[str] = Counter()

    def _say(self, text: str, style: str = "") -> None:
        """Print a line."""
        raise NotImplementedError

    def _show(self) -> None:
        """Say how far the run is."""
        raise NotImplementedError

    def begin(self, n_sources: int, n_done: int, ignored: Sequence[tuple[Path, str]]) -> None:
        self.total, self.finished = n_sources, n_done
        done = f", {n_done} done by an earlier run" if n_done else ""
        skipped = f", {len(ignored)} other files ignored" if ignored else ""
        self._say(f"{n_sources} input{'s' * (n_sources != 1)}{done}{skipped}", "dim")
        for path, why in ignored if self.verbose else ():
            self._say(f"ignored  {path}: {why}", "dim")

    def batch(self, n_sources: int, rows: Mapping[str, Any]) -> None:
        self.finished += n_sources
        self.new += n_sources
        for text in self.count(rows):
            self._say(text, "yellow")
        self._show()

    def part(self, objects: float) -> None:
        self.share = objects
        self._show()

    def note(self, text: str) -> None:
        self._say(text)

    def end(self, summary: RunSummary, again: str) -> None:
        """The closing lines."""
        for text in self.closing_lines(summary, again):
            self._say(text)

    def count(self, rows: Mapping[str, Any]) -> list[str]:
        """Add a batch; lines that name what went wrong (only failures unless verbose)."""
        self.share = 0.0
        lines = []
        for i, name in enumerate(rows["id"]):
            failed = rows["status"][i] == "failed"
            marked = bool(flagged(rows["flags"][i]))
            self.done += 1
            self.failed += failed
            self.usable += bool(usable(rows["flags"][i]))
            self.flagged += marked
            if failed:
                message = str(rows["message"][i])
                reason = message.partition(": ")[2] or message  # without the file
                self.reasons[reason] += 1
                if self.verbose or self.reasons[reason] <= _ALIKE:
                    lines.append(f"failed   {name}: {message}")
            elif marked and self.verbose:
                lines.append(f"flagged  {name}: {', '.join(flag_names(int(rows['flags'][i])))}")
        return lines

    def rate(self) -> float:
        """Objects per second since the run began."""
        return (self.done + self.share) / max(time.monotonic() - self.began, 1e-9)

    def closing_lines(self, summary: RunSummary, again: str) -> list[str]:
        """Closing lines of a run."""
        alike = [
            f"failed   {count - _ALIKE} more like that: {reason}"
            for reason, count in self.reasons.items()
            if count > _ALIKE and not self.verbose
        ]
        if summary.interrupted:
            return [
                *alike,
                f"interrupted after {summary.n_new} objects; everything finished is saved in "
                f"{summary.out}",
                f"to go on: {again}",
            ]
        lines = [
            *alike,
            f"{summary.n_objects} object{'s' * (summary.n_objects != 1)}: {summary.n_ok} usable, "
            f"{summary.n_flagged} flagged, {summary.n_failed} failed "
            f"({summary.n_new} new, {summary.seconds:.1f} s)",
            *(f"warning:   {text}" for text in summary.concerns),
        ]
        if summary.out is not None:
            lines.append(f"catalogue: {summary.out / 'catalog.parquet'}")
        if summary.report is not None:
            lines.append(f"report:    {summary.report}")
        return lines


class PlainProgress(_Counting):
    """One line a batch, for logs."""

    def __init__(self, stream: TextIO, verbose: bool = False) -> None:
        super().__init__(verbose)
        self.stream, self.said = stream, self.began

    def _say(self, text: str, style: str = "") -> None:
        with contextlib.suppress(OSError):  # a log on a full disk does not end a run
            print(printable(text), file=self.stream, flush=True)

    def _show(self) -> None:
        self.said = time.monotonic()
        new = self.new + self.share
        togo = self.total - self.finished - self.share
        left = f"{(self.said - self.began) * togo / new:.0f} s left  " if new else ""
        self._say(
            f"{self.finished}/{self.total}  {_pace(self.rate())}  {left}"
            f"usable {self.usable}  flagged {self.flagged}  failed {self.failed}"
        )

    def part(self, objects: float) -> None:
        self.share = objects
        if time.monotonic() - self.said >= _SECONDS_BETWEEN_LINES:
            self._show()

    def stage(self, text: str) -> None:
        self._say(text)

    def stopping(self) -> None:
        # Not print: the signal may have come in the middle of one.
        with contextlib.suppress(OSError, ValueError):
            os.write(self.stream.fileno(), f"{_STOPPING}\n".encode())


class RichProgress(_Counting):
    """A live bar with rate, time left and counts."""

    def __init__(self, console: Console, verbose: bool = False, what: str = "fitting") -> None:
        super().__init__(verbose)
        self.what, self.bar = what, _bar(console)
        self.task: Any = None

    def __enter__(self) -> Self:
        self.bar.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.bar.stop()

    def _say(self, text: str, style: str = "") -> None:
        self.bar.console.print(line((text, style)))

    def _show(self) -> None:
        self.bar.update(
            self.task,
            completed=self.finished + self.share,
            rate=_pace(self.rate()),
            counts=f"[green]usable {self.usable}[/] [yellow]flagged {self.flagged}[/] "
            f"[red]failed {self.failed}[/]",
        )

    def begin(self, n_sources: int, n_done: int, ignored: Sequence[tuple[Path, str]]) -> None:
        super().begin(n_sources, n_done, ignored)
        self.task = self.bar.add_task(
            self.what, total=n_sources, completed=n_done, rate="", counts=""
        )

    def stage(self, text: str) -> None:
        if self.task is not None:
            self.bar.update(self.task, description=printable(text))

    def stopping(self) -> None:
        self.stage(_STOPPING)


def _bar(console: Console) -> RichBar:
    return RichBar(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[counts]}"),
        console=console,
    )


@contextlib.contextmanager
def counting(
    description: str,
    terminal: Console | None = None,
    *,
    quiet: bool = False,
    unit: str = "objects",
) -> Iterator[Callable[[int, int], None]]:
    """Show how much of a task is done: a live bar on a terminal, else a line now and then.

    Yields
    ------
    callable
        To be called with (objects that are done, all of them). What its first call says was done
        before: it does not count for the rate.
    """
    if quiet:
        yield lambda done, total: None
        return
    terminal = terminal or console()
    bar = _bar(terminal) if terminal.is_terminal else None
    with bar or contextlib.nullcontext():
        yield _Count(description, terminal, unit, bar)


class _Count:
    """Count of what is done of a task: in a bar, or in lines now and then and at the end."""

    def __init__(self, description: str, terminal: Console, unit: str, bar: RichBar | None) -> None:
        self.description, self.terminal, self.unit, self.bar = description, terminal, unit, bar
        self.task = (
            None if bar is None else bar.add_task(description, total=None, rate="", counts="")
        )
        self.first: int | None = None
        self.began = self.said = 0.0

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        begins = self.first is None
        if self.first is None:
            self.first, self.began = done, now
        speed = (done - self.first) / max(now - self.began, 1e-9)
        pace = _pace(speed, self.unit)
        if self.bar is not None and self.task is not None:
            self.bar.update(self.task, completed=done, total=total, rate=pace)
            return
        if begins:
            before = f", {done} done by an earlier run" if done else ""
            text = f"{self.description}: {total} {self.unit}{before}"
        elif done == total or now - self.said >= _SECONDS_BETWEEN_LINES:
            text = f"{done}/{total}  {pace}  {(total - done) / max(speed, 1e-9):.0f} s left"
        else:
            return
        self.said = now
        self.terminal.print(line(text))
