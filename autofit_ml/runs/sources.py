"""Sources of a run: what is to be read, and batches of it, made here or by workers that run ahead.

The workers import only what they need (torch if a network segments), use one thread each, and end
when this process ends, however it ends. One that dies (out of memory, a crash in a library) costs
at most the object that killed it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import threading
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from autofit_ml.errors import SettingsError
from autofit_ml.images import Discovery, Source, discover
from autofit_ml.runs.kinds import is_result
from autofit_ml.runs.summary import Progress
from autofit_ml.runs.workers import Pool, new_pool, processors, usable_pool

__all__ = ["Ahead", "Job", "Paths", "RunSettings", "batches", "inputs_of"]

Paths = str | Path | Iterable[str | Path] | None
Task = list[Source]
Part = TypeVar("Part")

_SHARES, _FEW = 4, 16
"""A worker gets so many tasks at least, of so many sources at least, if there are enough."""

_BYTES_PER_TASK = 64e6
"""Files of a task, together: frames go one or two at a time. A frame with larger files is read in
this process, and its stamps are cut a batch at a time."""

_BYTES_AHEAD = 256e6
"""Files of all tasks that are under way."""

_WORTH_WORKERS = 64
_WORTH_TORCH = 128
"""Fewer sources than this are done in this process: starting workers, which load PyTorch where they
fit or a network segments, takes longer."""

_PATIENCE = 0.2
"""Seconds until a wait for workers looks whether the run is to stop."""

_MOST_WORKERS = 4
"""The fitting, in this process, does not keep up with more."""

_MOST_NETWORKS = 8
"""Workers when the network segments; each holds PyTorch and the weights, about 0.5 GB."""


_MOST_FITTING = 16
"""Workers that fit; each holds PyTorch and 256 objects, up to 1 GB."""


class RunSettings(Protocol):
    """What the settings of every run over images have."""

    @property
    def batch_size(self) -> int: ...
    @property
    def workers(self) -> int: ...
    @property
    def segmenter(self) -> str: ...


@dataclass(frozen=True)
class Job(Generic[Part]):
    """What is done with sources before their run goes on in the main process.

    Attributes
    ----------
    do : callable
        ``do(sources, settings)``: a module-level function; never raises for a bad object.
    joined : callable
        Several parts as one, in order.
    size : callable
        Objects of a part.
    failed : callable
        ``failed(source, message)``: the part of a source that killed its worker.
    in_parts : callable, optional
        ``in_parts(sources, settings, done)``: the same in parts of at most a batch, for very large
        sources, as pairs of the sources that end with a part and the part; objects whose ids are
        in `done` are left out.
    per_task : int
        The most sources that a worker does at a time.
    complete : bool
        Nothing but saving is left to do with a part: each is given out by itself, and what workers
        are doing when the run is to stop is finished.
    """

    do: Callable[[Task, Any], Part]
    joined: Callable[[Sequence[Part]], Part]
    size: Callable[[Part], int]
    failed: Callable[[Source, str], Part]
    in_parts: Callable[[Task, Any, Collection[str]], Iterator[tuple[Task, Part]]] | None = None
    per_task: int = 16
    complete: bool = False


def inputs_of(
    paths: Paths,
    manifest: str | Path | None,
    *,
    survey: str | None = None,
    mode: str = "auto",
    bands: Sequence[str] = (),
) -> Discovery:
    """What a run reads; results of runs that lie among the images are no images.

    Raises
    ------
    SettingsError
        Nothing to read, or nothing but results of a run.
    """
    found = discover(paths, manifest=manifest, survey=survey, mode=mode, bands=bands)
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


@dataclass(frozen=True)
class Ahead:
    """What reading ahead must know of its run.

    Attributes
    ----------
    stop : threading.Event
        Ends the iteration before the next batch.
    progress : Progress
    done : collection of str
        Ids of objects of unfinished frames that need no more work.
    partial : collection of str
        Ids of these frames, which are done in parts in this process.
    begun : callable
        Told of sources before they are read in this process.
    """

    stop: threading.Event = field(default_factory=threading.Event)
    progress: Progress = field(default_factory=Progress)
    done: Collection[str] = ()
    partial: Collection[str] = ()
    begun: Callable[[Task], object] = lambda sources: None


@contextlib.contextmanager
def batches(
    sources: Sequence[Source], settings: RunSettings, job: Job[Part], ahead: Ahead
) -> Iterator[Iterator[tuple[Task, Part]]]:
    """Sources in order, in batches of about ``settings.batch_size`` objects.

    A batch holds whole sources, save for very large frames: these are read in this process and
    come in parts, the source's name with the last of them. Workers begin when the context is
    entered and end when it is left.

    Yields
    ------
    iterator of (list of Source, part)
    """
    workers = useful_workers(len(sources), settings, job.complete)
    shares = math.ceil(len(sources) / max(1, _SHARES * workers))
    per_task = min(job.per_task, max(_FEW, shares))
    tasks = _tasks(sources, settings.batch_size, per_task)
    if not workers:
        here = (
            part
            for task, size in tasks
            if not ahead.stop.is_set()
            for part in _here(task, size, settings, job, ahead)
        )
        yield here if job.complete else _batched(here, settings.batch_size, job, ahead.stop)
        return
    read = _ReadAhead(tasks, settings, workers, job, ahead)
    try:
        if job.complete:
            yield read.parts()
        else:
            yield _batched(read.parts(), settings.batch_size, job, ahead.stop)
    finally:
        read.close()


def useful_workers(n_sources: int, settings: RunSettings, fitting: bool) -> int:
    """Worker processes: those that were asked for, else those that make the run faster."""
    if settings.workers >= 0:
        return settings.workers
    networks = settings.segmenter in ("auto", "maskrcnn")
    if n_sources < (_WORTH_TORCH if fitting or networks else _WORTH_WORKERS):
        return 0
    if fitting:
        return min(_MOST_FITTING, processors())
    if networks:  # they take five times as long as the fit of what they find
        return min(_MOST_NETWORKS, processors())
    # The fitting, in this process, uses every processor: half of them keep it fed.
    return min(_MOST_WORKERS, max(1, processors() // 2))


def _here(
    task: Task, size: float, settings: Any, job: Job[Part], ahead: Ahead
) -> Iterator[tuple[Task, Part]]:
    """A task done in this process."""
    ahead.begun(task)
    if _in_parts(task, size, job, ahead):
        assert job.in_parts is not None
        yield from job.in_parts(task, settings, ahead.done)
    else:
        yield task, job.do(task, settings)


def _in_parts(task: Task, size: float, job: Job[Any], ahead: Ahead) -> bool:
    """Whether a task is too large for one batch, or only the rest of a frame is wanted."""
    rest = any(source.id in ahead.partial for source in task)
    return job.in_parts is not None and (rest or size > _BYTES_PER_TASK)


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
    """Tasks done by a pool, in order; a pool that breaks is replaced."""

    def __init__(
        self,
        tasks: Sequence[tuple[Task, float]],
        settings: RunSettings,
        workers: int,
        job: Job[Part],
        ahead: Ahead,
    ) -> None:
        self._waiting = deque(tasks)
        self._running: deque[tuple[Task, float, Future[Part] | None]] = deque()
        self._settings, self._workers = settings, workers
        self._job, self._ahead = job, ahead
        self._pool = new_pool(workers)
        with contextlib.suppress(BrokenProcessPool):  # noticed by `parts`
            self._submit()

    def parts(self) -> Iterator[tuple[Task, Part]]:
        while (self._waiting or self._running) and self._pool is not None:
            try:
                self._submit()
                task, size, future = self._running[0]
                if future is None:
                    self._running.popleft()
                    yield from _here(task, size, self._settings, self._job, self._ahead)
                    continue
                while not future.done() and not self._ahead.stop.is_set():
                    wait([future], timeout=_PATIENCE)
                if self._ahead.stop.is_set():
                    self._give_up_what_waits()
                    if not self._running or self._running[0][2] is not future:
                        continue
                part = future.result()
            except BrokenProcessPool:
                # A signal to all processes kills the workers, and may be told to this one later.
                if self._ahead.stop.wait(0.2):
                    return
                yield self._after_a_death()
                continue
            self._running.popleft()
            yield task, part
        if self._waiting:
            self._ahead.progress.stage("worker processes do not start here: going on without them")
        while self._waiting and not self._ahead.stop.is_set():
            task, size = self._waiting.popleft()
            yield from _here(task, size, self._settings, self._job, self._ahead)

    def _give_up_what_waits(self) -> None:
        """Leave the workers what they have begun, if that is to be saved."""
        self._waiting.clear()
        begun = [
            one
            for one in self._running
            if one[2] is not None and self._job.complete and not one[2].cancel()
        ]
        self._running = deque(begun)

    def _submit(self) -> None:
        """Keep the workers busy, two batches ahead, in bounded memory."""
        while self._waiting and self._pool is not None and self._has_room():
            task, size = self._waiting[0]
            future = None
            if not _in_parts(task, size, self._job, self._ahead):
                future = self._pool.submit(self._job.do, task, self._settings)
            self._running.append((task, size, future))
            self._waiting.popleft()

    def _has_room(self) -> bool:
        if len(self._running) <= self._workers:
            return True
        return (
            sum(len(task) for task, _, _ in self._running) < 2 * self._settings.batch_size
            and sum(size for _, size, _ in self._running) < _BYTES_AHEAD
        )

    def _after_a_death(self) -> tuple[Task, Part]:
        """The first task, done apart from the others, of which any may have done it."""
        self._ahead.progress.stage("a worker process died: starting another")
        self._waiting.extendleft((task, size) for task, size, _ in reversed(self._running))
        self._running.clear()
        self.close()
        task, _ = self._waiting.popleft()
        part = _apart(task, self._settings, self._job)
        self._pool = usable_pool(self._workers)
        return task, part

    def close(self) -> None:
        """End the workers; whatever they still do is dropped."""
        if self._pool is not None:
            self._pool.close()
            self._pool = None


def _apart(task: Task, settings: Any, job: Job[Part]) -> Part:
    """Sources one at a time in a worker of their own: the one that kills it fails alone."""
    parts: list[Part] = []
    pool: Pool | None = None
    for source in task:
        pool = pool or usable_pool(1)
        if pool is None:
            parts.append(job.do([source], settings))
            continue
        try:
            parts.append(pool.submit(job.do, [source], settings).result())
        except BrokenProcessPool:
            pool.close()
            pool = None
            parts.append(
                job.failed(
                    source,
                    "the process that read it died: out of memory, or a crash in a library "
                    "(cut a large image into stamps, or use a machine with more memory)",
                )
            )
    if pool is not None:
        pool.close()
    return job.joined(parts)
