"""Sources of a run: what is to be read, and batches of it, made here or by workers that run ahead.

The workers import only what they need (torch if a network segments), use one thread each, and end
when this process ends, however it ends. One that dies (out of memory, a crash in a library) costs
at most the object that killed it.
"""

import contextlib
import dataclasses
import math
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Generic

from autofit_ml.errors import SettingsError
from autofit_ml.images import Discovery, Source, discover
from autofit_ml.images.roles import is_fits_name
from autofit_ml.runs.jobs import Ahead, Job, Part, RunSettings, Task
from autofit_ml.runs.kinds import is_result
from autofit_ml.runs.workers import Pool, new_pool, processors, usable_pool
from autofit_ml.settings import Paths
from autofit_ml.weights.choice import usable_device

__all__ = ["batches", "inputs_of", "useful_workers"]

_SHARES, _FEW = 4, 16
"""A worker gets so many tasks at least, of so many sources at least, if there are enough."""

_BYTES_PER_TASK = 64e6
"""Files of a task, together."""

_BYTES_IN_PARTS = 8e6
"""A source with larger files, a frame most likely, is read in this process, which hands its objects
out a batch at a time."""

_BYTES_AHEAD = 256e6
"""Files of all tasks that are under way."""

_WORTH_WORKERS = 64
_WORTH_TORCH = 128
"""Fewer sources than this are done in this process: starting workers, which load PyTorch where they
fit or a network segments, takes longer. One that is read in parts counts as a hundred of these."""

_PATIENCE = 0.2
"""Seconds until a wait for workers looks whether the run is to stop."""

_MOST_WORKERS = 4
"""The fitting, in this process, does not keep up with more."""

_MOST_NETWORKS = 8
"""Workers when the network segments; each holds PyTorch and the weights, about 0.5 GB."""


_MOST_FITTING = 16
"""Workers that fit; each holds PyTorch and 256 objects, up to 1 GB."""


def inputs_of(
    paths: Paths,
    manifest: str | Path | None,
    *,
    survey: str | None = None,
    mode: str = "auto",
    bands: Sequence[str] = (),
    epochs: bool = False,
) -> Discovery:
    """Find what a run reads; results of runs that lie among the images are no images.

    Parameters are those of `autofit_ml.images.discover`.

    Raises
    ------
    SettingsError
        Nothing to read: no images, or nothing but results of a run.
    """
    found = discover(paths, manifest=manifest, survey=survey, mode=mode, bands=bands, epochs=epochs)
    unlike = [s.problem for s in found.sources if s.problem and not is_fits_name(Path(s.file))]
    if unlike and len(unlike) == len(found.sources) and manifest is None:
        raise SettingsError(unlike[0].problem, unlike[0].remedy, unlike[0].file)
    results = [source for source in found.sources if is_result(source.file)]
    if not results:
        return found
    kept = tuple(source for source in found.sources if not is_result(source.file))
    if not kept:
        raise SettingsError(
            "these files are results of a run, not images", "name the images", results[0].file
        )
    ignored = [(Path(source.file), "written by a run of this program") for source in results]
    return dataclasses.replace(found, sources=kept, ignored=(*found.ignored, *ignored))


@contextlib.contextmanager
def batches(
    sources: Sequence[Source], settings: RunSettings, job: Job[Part], ahead: Ahead
) -> Iterator[Iterator[tuple[Task, Part]]]:
    """Sources in order, in batches of about ``settings.batch_size`` objects.

    A batch holds whole sources, save for large frames: these are read in this process and come in
    parts, the source's name with the last of them. Workers begin when the context is entered and
    end when it is left.

    Yields
    ------
    iterator of (list of Source, part)
    """
    workers = useful_workers(sources, settings, job)
    shares = math.ceil(len(sources) / max(1, _SHARES * workers))
    per_task = min(job.per_task, max(_FEW, shares))
    work = _works(_tasks(sources, settings.batch_size, per_task), settings, job, ahead)
    read = _ReadAhead(work, settings, workers, job, ahead)
    try:
        read.begin()
        if job.complete:
            yield read.parts()
        else:
            yield _batched(read.parts(), settings.batch_size, job, ahead.stop)
    finally:
        read.close()


def useful_workers(sources: Sequence[Source], settings: RunSettings, job: Job[Any]) -> int:
    """Worker processes: those that were asked for, else those that make the run faster."""
    if settings.workers >= 0:
        return settings.workers
    networks = getattr(settings, "segmenter", "") in ("auto", "maskrcnn") and not job.reads_only
    device = getattr(settings, "device", "cpu")
    if networks and not job.complete and usable_device(device) != "cpu":
        return 0  # the GPU is this process's
    number = len(sources)
    if job.rest is not None and number < _WORTH_TORCH:
        number += _WORTH_TORCH * any(_bytes(source) > _BYTES_IN_PARTS for source in sources)
    if number < (_WORTH_TORCH if job.complete or networks else _WORTH_WORKERS):
        return 0
    if job.complete:
        return min(_MOST_FITTING, processors())
    if networks:  # they take five times as long as the fit of what they find
        return min(_MOST_NETWORKS, processors())
    # The fitting, in this process, uses every processor: half of them keep it fed.
    return min(_MOST_WORKERS, max(1, processors() // 2))


@dataclass(frozen=True)
class _Work:
    """Something to be done, by a worker or here.

    ended: the sources that end with it; do(argument, settings): its part; size: bytes of files;
    sources: none where the argument is a part of a frame; ready: the argument is the part.
    """

    ended: Task
    do: Callable[[Any, Any], Any]
    argument: Any
    size: float
    sources: Task = field(default_factory=list)
    ready: bool = False


def _works(
    tasks: Iterable[tuple[Task, float]], settings: Any, job: Job[Any], ahead: Ahead
) -> Iterator[_Work]:
    """Give out tasks for workers, and what this process reads of large ones when it is asked."""
    for task, size in tasks:
        if ahead.stop.is_set():
            return
        if not _in_parts(task, size, job, ahead):
            yield _Work(task, job.do, task, size, sources=task)
            continue
        assert job.in_parts is not None
        ahead.begun(task)
        for ended, part in job.in_parts(task, settings, ahead.done):
            yield _Work(ended, job.rest or _same, part, 0.0, ready=job.rest is None)


def _same(part: Any, settings: Any) -> Any:
    return part


def _in_parts(task: Task, size: float, job: Job[Any], ahead: Ahead) -> bool:
    """True if a task is too large for one batch, or only the rest of a frame is wanted."""
    rest = any(source.id in ahead.partial for source in task)
    return job.in_parts is not None and (rest or (len(task) == 1 and size > _BYTES_IN_PARTS))


def _batched(
    parts: Iterator[tuple[Task, Part]], batch_size: int, job: Job[Part], stop: threading.Event
) -> Iterator[tuple[Task, Part]]:
    members: Task = []
    prepared: list[Part] = []
    for task, part in parts:
        if stop.is_set():
            return
        members += task
        prepared.append(part)
        if sum(map(job.size, prepared)) >= batch_size:
            yield members, job.joined(prepared)
            members, prepared = [], []
    if members and not stop.is_set():
        yield members, job.joined(prepared)


def _tasks(sources: Sequence[Source], batch_size: int, per_task: int) -> list[tuple[Task, float]]:
    """(sources, bytes of their files); tasks never reach over a multiple of the batch size."""
    tasks: list[tuple[Task, float]] = []
    for number, source in enumerate(sources):
        size = _bytes(source)
        full = (
            not tasks
            or number % batch_size == 0
            or len(tasks[-1][0]) >= per_task
            or tasks[-1][1] + size > _BYTES_PER_TASK
            or max(size, tasks[-1][1] / len(tasks[-1][0])) > _BYTES_IN_PARTS
        )
        if full:
            tasks.append(([source], size))
        else:
            task, before = tasks[-1]
            tasks[-1] = ([*task, source], before + size)
    return tasks


def _bytes(source: Source) -> float:
    total = 0.0
    for path in {Path(path) for path, _ in source.every_plane.values()}:
        content = source.content_of(path)
        with contextlib.suppress(OSError):
            total += path.stat().st_size if content is None else len(content)
    return total


class _ReadAhead(Generic[Part]):
    """Work done by a pool, in order; a pool that breaks is replaced."""

    def __init__(
        self,
        work: Iterator[_Work],
        settings: RunSettings,
        workers: int,
        job: Job[Part],
        ahead: Ahead,
    ) -> None:
        self._work, self._waiting = work, deque[_Work]()
        self._running: deque[tuple[_Work, Future[Part] | None]] = deque()
        self._settings: Any = settings
        self._workers, self._job, self._ahead = workers, job, ahead
        self._pool = new_pool(workers) if workers else None

    def begin(self) -> None:
        """Give the workers something to do."""
        with contextlib.suppress(BrokenProcessPool):  # noticed by `parts`
            if self._pool is not None and self._job.warm_up is not None:
                for _ in range(self._workers):
                    self._pool.submit(self._job.warm_up)
            self._submit()

    def parts(self) -> Iterator[tuple[Task, Part]]:
        while self._pool is not None:
            try:
                self._submit()
                if not self._running:
                    break
                work, future = self._running[0]
                while future is not None and not future.done() and not self._ahead.stop.is_set():
                    wait([future], timeout=_PATIENCE)
                if self._ahead.stop.is_set():
                    self._give_up_what_waits()
                    if not self._running or self._running[0][0] is not work:
                        continue
                part = work.argument if future is None else future.result()
            except BrokenProcessPool:
                # A signal to all processes kills the workers, and may be told to this one later.
                if self._ahead.stop.wait(0.2):
                    return
                yield self._after_a_death()
                continue
            self._running.popleft()
            yield work.ended, part
        if self._workers and self._next() is not None:
            self._ahead.progress.stage("worker processes do not start here: going on without them")
        while not self._ahead.stop.is_set() and self._next() is not None:
            work = self._waiting.popleft()
            if work.sources:
                self._ahead.begun(work.sources)
            yield work.ended, work.do(work.argument, self._settings)

    def _next(self) -> _Work | None:
        """Take what waits to be done."""
        if not self._waiting:
            self._waiting.extend(islice(self._work, 1))
        return self._waiting[0] if self._waiting else None

    def _give_up_what_waits(self) -> None:
        """Leave the workers what they have begun, if that is to be saved."""
        self._waiting.clear()
        self._work = iter(())
        begun = [
            (work, future)
            for work, future in self._running
            if future is not None and self._job.complete and not future.cancel()
        ]
        self._running = deque(begun)

    def _submit(self) -> None:
        """Keep the workers busy, two batches ahead, in bounded memory."""
        settings = self._settings
        if self._job.reads_only:
            settings = dataclasses.replace(settings, device="cpu")
        while self._pool is not None and not self._ahead.stop.is_set() and self._has_room():
            work = self._next()
            if work is None:
                return
            future = None
            if not work.ready:
                future = self._pool.submit(work.do, work.argument, settings)
            self._running.append((work, future))
            self._waiting.popleft()

    def _has_room(self) -> bool:
        if len(self._running) <= self._workers:
            return True
        number = sum(len(work.sources) or self._settings.batch_size for work, _ in self._running)
        return (
            number < 2 * self._settings.batch_size
            and sum(work.size for work, _ in self._running) < _BYTES_AHEAD
        )

    def _after_a_death(self) -> tuple[Task, Part]:
        """The first work, done apart from the others, of which any may have done it."""
        self._ahead.progress.stage("a worker process died: starting another")
        self._waiting.extendleft(work for work, _ in reversed(self._running))
        self._running.clear()
        self.close()
        work = self._waiting.popleft()
        part = work.argument if work.ready else _apart(work, self._settings, self._job)
        self._pool = usable_pool(self._workers)
        return work.ended, part

    def close(self) -> None:
        """End the workers; whatever they still do is dropped."""
        if self._pool is not None:
            self._pool.close()
            self._pool = None


_KILLED = (
    "the process that {} it died: out of memory, or a crash in a library "
    "(cut a large image into stamps, or use a machine with more memory)"
)


def _apart(work: _Work, settings: Any, job: Job[Part]) -> Part:
    """Objects one at a time in a worker of their own: the one that kills it fails alone."""
    if work.sources:
        each: Iterable[Any] = ([source] for source in work.sources)
    else:
        assert job.one_by_one is not None and job.lost is not None
        each = job.one_by_one(work.argument)
    parts: list[Part] = []
    pool: Pool | None = None
    for one in each:
        pool = pool or usable_pool(1)
        if pool is None:
            parts.append(work.do(one, settings))
            continue
        try:
            parts.append(pool.submit(work.do, one, settings).result())
        except BrokenProcessPool:
            pool.close()
            pool = None
            if work.sources:
                parts.append(job.failed(one[0], _KILLED.format("read")))
            else:
                assert job.lost is not None
                parts.append(job.lost(one, _KILLED.format("fitted")))
    if pool is not None:
        pool.close()
    return job.joined(parts)
