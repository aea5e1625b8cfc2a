"""The loop that every run over sources shares: claim, resume, batches, progress, Ctrl-C, finish."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import chain
from pathlib import Path
from typing import Any, Generic, TypeVar

from autofit_ml.catalogue.filenames import of_one_file
from autofit_ml.errors import SettingsError
from autofit_ml.images import Discovery, Source
from autofit_ml.runs.folder import RunFolder, open_folder
from autofit_ml.runs.identity import some, source_fingerprints
from autofit_ml.runs.interruption import interruptible
from autofit_ml.runs.jobs import Ahead, Job, RunSettings
from autofit_ml.runs.kinds import Kind
from autofit_ml.runs.sources import batches
from autofit_ml.runs.summary import Progress, RunSummary
from autofit_ml.settings import Selected

__all__ = ["Work", "go_through"]

_DEATHS = 3
_DIED = (
    f"the program died {_DEATHS} times while it did this object alone: out of memory, or a crash "
    "in a library (cut a large image into stamps; --restart tries it again)"
)

Part = TypeVar("Part")
Handle = Callable[[Sequence[Source], Part], Iterator[tuple[int, Mapping[str, Any]]]]


@dataclass(frozen=True)
class Work(Generic[Part]):
    """Work of a kind of run: its job, and what is done before and after.

    Attributes
    ----------
    kind : Kind
        What it writes.
    job : Job
        What is done with sources, in workers where these are worth their while.
    begin : callable
        ``begin(folder)``, called when the workers have begun: returns what is done with each batch
        in this process, as a function of its sources and the job's result that yields (number of
        sources, rows) as they are finished, and saves them in the folder.
    finish : callable, optional
        ``finish(folder)``, when every source is done.
    leave_out : tuple of str
        Planes of the inputs that do not matter.
    saves_each : bool
        What the handle yields is saved already: the loop may end before the batch does.
    """

    kind: Kind
    job: Job[Part]
    begin: Callable[[RunFolder | None], Handle[Part]]
    finish: Callable[[RunFolder | None], object] | None = None
    leave_out: tuple[str, ...] = ()
    saves_each: bool = False


def go_through(
    found: Discovery,
    work: Work[Part],
    settings: RunSettings,
    identity: Mapping[str, Any],
    out: str | Path | None,
    summary: RunSummary,
    progress: Progress,
    *,
    restart: bool = False,
    only: Selected | None = None,
) -> None:
    """Do the work on every source that is not done yet.

    Parameters
    ----------
    found : Discovery
    work : Work
    settings : RunSettings
    identity : dict
        What decides the results.
    out : path, optional
        The run's folder; a run that stopped there is continued. None: nothing is written.
    summary : RunSummary
        Its ``ignored`` and ``interrupted`` are set.
    progress : Progress
    restart : bool
        Begin anew in a folder that holds results.
    only : Selected, optional
        Which of the sources.

    Raises
    ------
    ResumeError, SettingsError, OutputError
        See `autofit_ml.runs.folder.claimed`; ids whose files the disk cannot tell apart.
    KeyboardInterrupt
        Interrupted twice: the running batch is lost, what was finished before is kept.
    """
    only = only or Selected()
    summary.ignored = [f"{path}: {why}" for path, why in found.ignored]
    chosen = [s for s in found.sources if fnmatchcase(s.id, only.ids or "*")]
    if not chosen:
        raise SettingsError(
            f"no object has an id like {only.ids!r}",
            f"ids are {some([source.id for source in found.sources])}",
        )
    again = {source.id for source in chosen} if only.retry == "failed" else ()
    with contextlib.ExitStack() as held:
        folder = None
        if out is not None:
            fingerprints = source_fingerprints(found.sources, work.leave_out)
            claim = open_folder(out, work.kind, identity, fingerprints, again, restart=restart)
            folder = held.enter_context(claim)
            _refuse_shared_files(folder, found.sources)
        todo = [s for s in chosen if folder is None or s.id not in folder.done]
        done = len(chosen) - len(todo)
        todo = todo[: only.limit]
        progress.begin(done + len(todo), done, found.ignored)
        stop = held.enter_context(interruptible(progress))
        if todo:
            partial = {} if folder is None else folder.partial
            deaths = {} if folder is None else folder.deaths
            fresh = [source for source in todo if source.id not in deaths]
            last = [source for source in todo if source.id in deaths]
            last.sort(key=lambda source: deaths[source.id])

            def begun(sources: Sequence[Source]) -> None:
                if folder is not None:
                    folder.under_way(source.id for source in sources)

            parts_done = frozenset(name for ids in partial.values() for name in ids)
            ahead = Ahead(stop, progress, parts_done, frozenset(partial), begun)
            with batches(fresh, settings, work.job, ahead) as parts:
                # Imports of torch wait until here: wrong calls are answered, and nothing left to
                # do is noticed, without them; worker processes read on meanwhile.
                handle = work.begin(folder)
                for sources, part in chain(parts, _alone(last, settings, work.job, ahead, deaths)):
                    begun(sources)
                    for number, rows in handle(sources, part):
                        summary.n_new += len(rows["id"])
                        progress.batch(number, rows)
                        if stop.is_set() and work.saves_each and not work.job.complete:
                            break
                    if stop.is_set() and not work.job.complete:
                        break
        summary.interrupted = stop.is_set()
        if work.finish is not None and not summary.interrupted:
            work.finish(folder)


def _refuse_shared_files(folder: RunFolder, sources: Sequence[Source]) -> None:
    """Refuse ids that differ only in case where the disk does not tell them apart."""
    if not (folder.path / folder.kind.work.upper()).exists():
        return
    pair = of_one_file(source.id for source in sources)
    if pair is not None:
        raise SettingsError(
            f"the ids {pair[0]} and {pair[1]} would have the same files on this disk, which does "
            "not tell upper case from lower",
            "rename one, or write to another disk",
            folder.path,
        )


def _alone(
    sources: Sequence[Source],
    settings: Any,
    job: Job[Part],
    ahead: Ahead,
    deaths: Mapping[str, int],
) -> Iterator[tuple[list[Source], Part]]:
    """Sources that were under way when the process died, one by one; some are given up."""
    one_by_one = dataclasses.replace(settings, batch_size=1, workers=0)
    for source in sources:
        if ahead.stop.is_set():
            return
        if deaths[source.id] >= _DEATHS:
            yield [source], job.failed(source, _DIED)
            continue
        with batches([source], one_by_one, job, ahead) as parts:
            yield from parts
