"""Shards are made: each by one process, which is this one or a worker."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import ipc

from autofit_ml.catalogue.atomic import atomic_file
from autofit_ml.errors import AutofitError, SettingsError
from autofit_ml.simulation.objects import SimulatedObject
from autofit_ml.simulation.recipe import Recipe
from autofit_ml.simulation.shards.columns import encode, objects_per_batch, shard_schema
from autofit_ml.simulation.shards.folder import write_journal
from autofit_ml.simulation.shards.manifest import ShardEntry, shard_file
from autofit_ml.worker_processes import end_with_main_process, surroundings_of_workers

__all__ = ["Make", "ShardTask", "make_shards"]

Make = Callable[[Recipe, int, int], SimulatedObject]
"""``make(recipe, index, seed)``: one object."""

_COMPRESSION_LEVEL = 3


@dataclass(frozen=True)
class ShardTask:
    """One shard to be made: objects `first` ... `first` + `rows` - 1."""

    recipe: Recipe
    make: Make
    folder: Path
    number: int
    first: int
    rows: int


def make_shards(
    tasks: Sequence[ShardTask], workers: int, made: Callable[[int], None]
) -> Generator[tuple[int, ShardEntry], None, None]:
    """Make, write and record shards.

    Parameters
    ----------
    tasks : sequence of ShardTask
    workers : int
        Processes; 0: in this one. They end when the generator is closed.
    made : callable
        Called now and then with the number of objects that are made.

    Yields
    ------
    (int, ShardEntry)
        Number and entry of each shard, as they are finished.

    Raises
    ------
    AutofitError
        An object cannot be made (the message has its number), or a worker died.
    SettingsError
        Worker processes do not start on this machine.
    OutputError
        A shard cannot be written.
    """
    if workers:
        yield from _make_in_workers(tasks, workers, made)
        return
    number = 0

    def tick() -> None:
        nonlocal number
        number += 1
        made(number)

    for task in tasks:
        yield task.number, _make_shard(task, tick)


def _make_shard(task: ShardTask, tick: Callable[[], None]) -> ShardEntry:
    """`tick` is called after each object."""
    schema, step = shard_schema(task.recipe), objects_per_batch(task.recipe)
    file, end = shard_file(task.number), task.first + task.rows
    codec = pa.Codec("zstd", compression_level=_COMPRESSION_LEVEL)
    options = ipc.IpcWriteOptions(compression=codec, use_threads=False)
    with (
        atomic_file(task.folder / file) as stream,
        ipc.new_file(stream, schema, options=options) as writer,
    ):
        for first in range(task.first, end, step):
            objects = []
            for index in range(first, min(first + step, end)):
                with _object_named(index):
                    objects.append(task.make(task.recipe, index, task.recipe.data.seed))
                tick()
            with _object_named(first):
                batch = encode(objects, first, schema)
            writer.write_batch(batch)
    entry = ShardEntry.of(task.folder, file, task.rows, task.first)
    write_journal(task.folder, task.number, entry)
    return entry


@contextlib.contextmanager
def _object_named(index: int) -> Iterator[None]:
    try:
        yield
    except AutofitError as error:
        raise type(error)(f"object {index}: {error.problem}", error.remedy, error.file) from error
    except Exception as error:
        raise AutofitError(
            f"object {index} cannot be made: {type(error).__name__}: {error}",
            "this is a bug: please report it with the recipe and the seed",
        ) from error


# --- worker processes -------------------------------------------------------------------------


def _make_in_workers(
    tasks: Sequence[ShardTask], workers: int, made: Callable[[int], None]
) -> Generator[tuple[int, ShardEntry], None, None]:
    context = get_context("spawn")
    try:
        counter = context.Value("q", 0)
        reader, lifeline = context.Pipe(duplex=False)
        executor = ProcessPoolExecutor(
            workers, mp_context=context, initializer=_begin_worker, initargs=(reader, counter)
        )
    except (OSError, ImportError, NotImplementedError) as error:
        raise SettingsError(
            f"worker processes do not start here: {error}", "use --workers 0"
        ) from error
    try:
        with surroundings_of_workers():
            futures = {executor.submit(_make_in_worker, task): task.number for task in tasks}
        running = set(futures)
        while running:
            done, running = wait(running, timeout=0.25, return_when=FIRST_COMPLETED)
            for future in done:
                yield futures[future], future.result()
            made(counter.value)
    except BrokenProcessPool as error:
        raise AutofitError(
            "a worker process died: out of memory, or a crash in a library",
            "use fewer --workers; finished shards are kept: the same command continues",
        ) from error
    finally:
        lifeline.close()
        executor.shutdown(wait=True, cancel_futures=True)
        reader.close()


_counter: Any = None
"""In a worker process: how many objects all workers have made."""


def _begin_worker(lifeline: Connection, counter: Any) -> None:
    global _counter
    _counter = counter
    end_with_main_process(lifeline)


def _make_in_worker(task: ShardTask) -> ShardEntry:
    def tick() -> None:
        with _counter.get_lock():
            _counter.value += 1

    return _make_shard(task, tick)
