"""Batches of prepared objects, made here or by worker processes that run ahead.

The workers import only what they need (torch if a network segments), use one thread each, and end
when this process ends, however it ends. One that dies (out of memory, a crash in a library) costs
at most the object that killed it.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

from autofit_ml.images import Source
from autofit_ml.runs.prepare import Prepared, failed, joined, prepare, prepare_in_parts
from autofit_ml.runs.settings import FitSettings
from autofit_ml.runs.summary import Progress
from autofit_ml.worker_processes import (
    end_with_main_process,
    processors,
    surroundings_of_workers,
)

__all__ = ["prepared_batches"]

Task = list[Source]
Job = Callable[[Task, FitSettings], Prepared]

_SOURCES_PER_TASK = 16
"""The most sources that a worker process prepares at a time."""

_BYTES_PER_TASK = 64e6
"""Files of a task, together: frames go one or two at a time. A frame with larger files is read in
this process, and its stamps are cut a batch at a time."""

_BYTES_AHEAD = 256e6
"""Files of all tasks that are under way."""

_WORTH_WORKERS = 64
_WORTH_NETWORKS = 128
"""Fewer sources than this are prepared in this process: starting workers, which load PyTorch where
a network segments, takes longer."""

_MOST_WORKERS = 4
"""The fitting, in this process, does not keep up with more."""

_MOST_NETWORKS = 8
"""Workers when the network segments; each holds PyTorch and the weights, about 0.5 GB."""


@contextlib.contextmanager
def prepared_batches(
    sources: Sequence[Source],
    settings: FitSettings,
    stop: threading.Event,
    progress: Progress | None = None,
    *,
    job: Job = prepare,
    done: Collection[str] = (),
) -> Iterator[Iterator[tuple[Task, Prepared]]]:
    """Sources in order, in batches of about ``settings.batch_size`` objects.

    A batch holds whole sources, save for very large frames: these are read in this process and
    come in parts, the source's name with the last of them. Workers begin when the context is
    entered and end when it is left.

    Parameters
    ----------
    sources : sequence of Source
    settings : FitSettings
    stop : threading.Event
        Ends the iteration before the next batch.
    progress : Progress, optional
    job : callable
        `prepare`, or what stands for it in a test; a module-level function.
    done : collection of str
        Ids of objects of unfinished frames that need no more work.

    Yields
    ------
    iterator of (list of Source, Prepared)
    """
    tasks = _tasks(sources, settings.batch_size)
    workers = settings.workers if settings.workers >= 0 else _useful_workers(len(sources), settings)
    if not workers:
        parts = (part for task, size in tasks for part in _here(task, size, settings, job, done))
        yield _batched(parts, settings.batch_size, stop)
        return
    ahead = _ReadAhead(tasks, settings, workers, progress or Progress(), job, done)
    try:
        yield _batched(ahead.parts(stop), settings.batch_size, stop)
    finally:
        ahead.close()


def _here(
    task: Task, size: float, settings: FitSettings, job: Job, done: Collection[str]
) -> Iterator[tuple[Task, Prepared]]:
    """A task done in this process."""
    if size <= _BYTES_PER_TASK:
        yield task, job(task, settings)
        return
    for part in prepare_in_parts(task, settings, done):
        yield ([] if part.unfinished else task), part


def _batched(
    parts: Iterator[tuple[Task, Prepared]], batch_size: int, stop: threading.Event
) -> Iterator[tuple[Task, Prepared]]:
    members: Task = []
    prepared: list[Prepared] = []
    for task, part in parts:
        if stop.is_set():
            return
        members += task
        prepared.append(part)
        if sum(len(p.order) for p in prepared) >= batch_size:
            yield members, joined(prepared)
            members, prepared = [], []
    if members and not stop.is_set():
        yield members, joined(prepared)


def _useful_workers(n_sources: int, settings: FitSettings) -> int:
    if settings.segmenter in ("auto", "maskrcnn"):
        # The network takes five times as long as the fit of what it finds.
        return min(_MOST_NETWORKS, processors()) if n_sources >= _WORTH_NETWORKS else 0
    if n_sources < _WORTH_WORKERS:
        return 0
    # The fitting itself uses every processor: half of them keep it fed.
    return min(_MOST_WORKERS, max(1, processors() // 2))


def _tasks(sources: Sequence[Source], batch_size: int) -> list[tuple[Task, float]]:
    """(sources, bytes of their files); tasks never reach over a multiple of the batch size."""
    tasks: list[tuple[Task, float]] = []
    for number, source in enumerate(sources):
        size = _bytes(source)
        full = (
            not tasks
            or number % batch_size == 0
            or len(tasks[-1][0]) >= _SOURCES_PER_TASK
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
        with contextlib.suppress(OSError):
            total += path.stat().st_size
    return total


# --- worker processes -------------------------------------------------------------------------


class _Pool:
    """Worker processes that end when this object is left or this process dies."""

    def __init__(self, workers: int):
        context = get_context("spawn")
        reader, self._lifeline = context.Pipe(duplex=False)
        self._reader = reader
        self._executor = ProcessPoolExecutor(
            workers, mp_context=context, initializer=_begin_worker, initargs=(reader,)
        )

    def submit(self, job: Callable, *arguments: object) -> Future:
        """Processes are started by this call, not before."""
        with surroundings_of_workers():
            return self._executor.submit(job, *arguments)

    def close(self) -> None:
        """End the workers at once; whatever they still do is dropped."""
        self._lifeline.close()
        self._executor.shutdown(wait=True, cancel_futures=True)
        self._reader.close()


def _begin_worker(lifeline: Connection) -> None:
    end_with_main_process(lifeline)


class _ReadAhead:
    """Tasks done by a pool, in order; a pool that breaks is replaced."""

    def __init__(
        self,
        tasks: Sequence[tuple[Task, float]],
        settings: FitSettings,
        workers: int,
        progress: Progress,
        job: Job,
        done: Collection[str],
    ):
        self._waiting = deque(tasks)
        self._running: deque[tuple[Task, float, Future[Prepared] | None]] = deque()
        self._settings, self._workers = settings, workers
        self._progress, self._job, self._done = progress, job, done
        self._pool = _new_pool(workers)
        with contextlib.suppress(BrokenProcessPool):  # noticed by `parts`
            self._submit()

    def parts(self, stop: threading.Event) -> Iterator[tuple[Task, Prepared]]:
        while (self._waiting or self._running) and self._pool is not None:
            try:
                self._submit()
                task, size, future = self._running[0]
                if future is None:
                    self._running.popleft()
                    yield from _here(task, size, self._settings, self._job, self._done)
                    continue
                part = future.result()
            except BrokenProcessPool:
                if stop.is_set():
                    return
                yield self._after_a_death()
                continue
            self._running.popleft()
            yield task, part
        if self._waiting:
            self._progress.stage("worker processes do not start here: reading in this process")
        while self._waiting:
            task, size = self._waiting.popleft()
            yield from _here(task, size, self._settings, self._job, self._done)

    def _submit(self) -> None:
        """Keep the workers busy, two batches ahead, in bounded memory."""
        while self._waiting and self._pool is not None and self._has_room():
            task, size = self._waiting[0]
            future = None
            if size <= _BYTES_PER_TASK:
                future = self._pool.submit(self._job, task, self._settings)
            self._running.append((task, size, future))
            self._waiting.popleft()

    def _has_room(self) -> bool:
        if len(self._running) <= self._workers:
            return True
        return (
            sum(len(task) for task, _, _ in self._running) < 2 * self._settings.batch_size
            and sum(size for _, size, _ in self._running) < _BYTES_AHEAD
        )

    def _after_a_death(self) -> tuple[Task, Prepared]:
        """The first task, done apart from the others, of which any may have done it."""
        self._progress.stage("a worker process died: starting another")
        self._waiting.extendleft((task, size) for task, size, _ in reversed(self._running))
        self._running.clear()
        self.close()
        task, _ = self._waiting.popleft()
        part = _apart(task, self._settings, self._job)
        self._pool = _usable_pool(self._workers)
        return task, part

    def close(self) -> None:
        """End the workers; whatever they still do is dropped."""
        if self._pool is not None:
            self._pool.close()
            self._pool = None


def _new_pool(workers: int) -> _Pool | None:
    """None where the system has no means for it (semaphores, processes)."""
    try:
        return _Pool(workers)
    except (OSError, ImportError, NotImplementedError):
        return None


def _usable_pool(workers: int) -> _Pool | None:
    """A pool whose workers start; None where they do not."""
    pool = _new_pool(workers)
    if pool is None:
        return None
    try:
        pool.submit(os.getpid).result()
    except (BrokenProcessPool, OSError):
        pool.close()
        return None
    return pool


def _apart(task: Task, settings: FitSettings, job: Job) -> Prepared:
    """Sources one at a time in a worker of their own: the one that kills it fails alone."""
    parts: list[Prepared] = []
    pool: _Pool | None = None
    for source in task:
        pool = pool or _usable_pool(1)
        if pool is None:
            parts.append(job([source], settings))
            continue
        try:
            parts.append(pool.submit(job, [source], settings).result())
        except BrokenProcessPool:
            pool.close()
            pool = None
            parts.append(
                failed(
                    source,
                    "the process that read it died: out of memory, or a crash in a library "
                    "(fit it alone with --workers 0, and cut large images into stamps)",
                )
            )
    if pool is not None:
        pool.close()
    return joined(parts)
