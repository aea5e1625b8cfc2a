"""`write_set`: a set of simulated objects, the same to the byte however it is made."""

import contextlib
import json
import re
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from autofit_ml.catalogue.atomic import atomic_file, atomic_write_json
from autofit_ml.errors import AutofitError, InputError, ResumeError, SettingsError
from autofit_ml.runs.claim import claimed, forget_work
from autofit_ml.runs.identity import ANEW
from autofit_ml.runs.kinds import Kind
from autofit_ml.runs.workers import Pool, processors
from autofit_ml.settings import SimulateSettings
from autofit_ml.simulation.recipe import Recipe
from autofit_ml.simulation.shards.columns import TRUTH, objects_per_batch, shard_schema
from autofit_ml.simulation.shards.manifest import (
    IDENTITY,
    MANIFEST,
    SHARDS,
    SOURCES,
    WORK,
    Progress,
    ShardEntry,
    problem_of,
    read_manifest,
    set_identity,
    shard_file,
)
from autofit_ml.simulation.shards.reader import read_columns
from autofit_ml.simulation.shards.shard import Make, ShardTask, make_shard

__all__ = ["SetSummary", "default_shard_size", "write_set"]

_SHARD_PIXELS = 1 << 20
"""Pixels of a shard of the default size: 256 stamps of 64 x 64, one frame of 1024 x 1024."""

_SOURCE_ROWS = 1 << 16
"""Rows of a row group of the table of sources, about."""

_UNITS = {"x": "pix", "y": "pix", "mag": "mag", "re": "pix", "pa": "deg"}


_SHARD_NAME = re.compile(r"shard-\d{5,}\.arrow")


def _began(folder: Path) -> bool:
    """True if a run has made, or begun to make, a set in a folder."""
    return (folder / WORK / "lock").exists() or {"format", "generator"} <= set(
        _manifest(folder, tolerant=True)
    )


def _manifest(folder: Path, tolerant: bool) -> dict[str, Any]:
    """Manifest of the complete set in a folder; empty where there is none."""
    path = folder / MANIFEST
    try:
        content = json.loads(path.read_text("utf-8"))
        return {name: content[name] for name in IDENTITY if name in content}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError) as error:
        if tolerant:
            return {}
        raise ResumeError("the record of the earlier run cannot be read", ANEW, path) from error


def _shards(folder: Path) -> Iterator[Path]:
    here = folder / SHARDS
    every = list(here.iterdir()) if here.is_dir() else []
    return (path for path in every if _SHARD_NAME.fullmatch(path.name))


SIMULATED = Kind(
    (MANIFEST, SOURCES),
    {SHARDS: ()},
    WORK,
    ".arrow",
    SHARDS,
    began=_began,
    finished=_manifest,
    also_mine=_shards,
)


@dataclass(frozen=True)
class SetSummary:
    """Outcome of `write_set`.

    Attributes
    ----------
    folder : Path
    count : int
        Objects in the set.
    n_new : int
        Made by this call; the others were there.
    n_shards : int
    n_sources : int
        In all images.
    bytes : int
        Size of all shards.
    seconds : float
        Time that this call took.
    """

    folder: Path
    count: int
    n_new: int
    n_shards: int
    n_sources: int
    bytes: int
    seconds: float


def write_set(
    recipe: Recipe,
    folder: str | Path,
    *,
    count: int | None = None,
    seed: int | None = None,
    shard_size: int | None = None,
    workers: int = 1,
    restart: bool = False,
    progress: Progress | None = None,
    make: Make | None = None,
) -> SetSummary:
    """Make a set of simulated objects on disk, or go on with one.

    The shards are the same to the byte whatever the number of workers and however often the work
    was interrupted. Shards that are there and whole (size and sha256) are kept.

    Parameters
    ----------
    recipe : Recipe
    folder : path
        Of the set; other files in it are left alone.
    count, seed : int, keyword-only, optional
        The recipe's when not given.
    shard_size : int, keyword-only, optional
        Objects of a shard, the unit of work. Default: as many as have 2**20 pixels (256 stamps of
        64 x 64), at least one.
    workers : int, keyword-only
        Worker processes, each with one thread; 0: in this process; -1: one for each processor, or
        none if there is one shard only.
    restart : bool, keyword-only
        Delete the set that the folder holds (only files that autofit-ml wrote) and begin anew.
    progress : callable, keyword-only, optional
        Called with (objects that are done, all): first with what was there, then now and then.
    make : callable, keyword-only, optional
        ``make(recipe, index, seed)`` instead of `simulate_one`: a function of a module.

    Returns
    -------
    SetSummary

    Raises
    ------
    SettingsError
        Values that make no sense.
    ResumeError
        The folder holds another set (the message lists what differs), or another run is writing
        there.
    OutputError
        It cannot be written (disk full, no permission).
    AutofitError
        An object cannot be made (the message has its number), or a worker process died. As with
        `KeyboardInterrupt`, finished shards stay and the same call goes on.
    """
    began = time.perf_counter()
    folder = Path(folder)
    SimulateSettings(count=count, seed=seed, shard_size=shard_size, workers=workers)  # checked
    recipe = _resolved(recipe, count, seed)
    total = recipe.data.count
    shard_size = default_shard_size(recipe) if shard_size is None else shard_size
    if make is None:
        from autofit_ml.simulation.generate import simulate_one  # reading a set needs no GalSim

        make = simulate_one
    _check_make(make, workers)
    identity = set_identity(recipe, shard_size, make)
    parts = [(first, min(shard_size, total - first)) for first in range(0, total, shard_size)]
    with claimed(folder, SIMULATED, identity, restart=restart):
        entries = _finished(folder, parts)
        todo = [
            ShardTask(recipe, make, folder, number, first, rows)
            for number, (first, rows) in enumerate(parts)
            if number not in entries
        ]
        n_new = sum(task.rows for task in todo)
        if progress is not None:
            progress(total - n_new, total)

        def made(number: int) -> None:
            if progress is not None and number:
                progress(total - n_new + number, total)

        making = _making(todo, _number_of_workers(workers, len(todo)), made)
        with contextlib.closing(making):  # ends the workers, whatever happens
            entries.update(making)
        shards = [entries[number] for number in range(len(parts))]
        sources = _finish(folder, recipe, identity, shards, changed=bool(todo))
    return SetSummary(
        folder=folder,
        count=total,
        n_new=n_new,
        n_shards=len(shards),
        n_sources=sources.rows,
        bytes=sum(entry.bytes for entry in shards),
        seconds=time.perf_counter() - began,
    )


def _resolved(recipe: Recipe, count: int | None, seed: int | None) -> Recipe:
    """The recipe with the number of objects and the seed that are meant."""
    count = recipe.data.count if count is None else count
    seed = recipe.data.seed if seed is None else seed
    data = recipe.data.model_copy(update={"count": int(count), "seed": int(seed)})
    return recipe.model_copy(update={"data": data})


def default_shard_size(recipe: Recipe) -> int:
    """Number of objects that have 2**20 pixels together, at least one."""
    ny, nx = recipe.data.shape
    return max(1, _SHARD_PIXELS // (ny * nx))


def _check_make(make: Make, workers: int) -> None:
    if make.__module__ == "__main__" and workers:
        raise SettingsError(
            f"worker processes cannot import {make.__qualname__} from a script",
            "put it into a module of its own, or use workers=0",
        )


def _number_of_workers(workers: int, n_tasks: int) -> int:
    if workers < 0:
        workers = processors() if n_tasks > 1 else 0
    return min(workers, n_tasks)


def _finish(
    folder: Path,
    recipe: Recipe,
    identity: Mapping[str, Any],
    shards: Sequence[ShardEntry],
    *,
    changed: bool,
) -> ShardEntry:
    """Table of sources and manifest; then the journals are not needed any more."""
    if not changed:
        with contextlib.suppress(InputError):
            sources = read_manifest(folder).sources
            if not problem_of(folder, sources):
                forget_work(folder, SIMULATED)
                return sources
    sources = _write_sources(folder, shard_schema(recipe), shards)
    content = {
        **identity,
        "recipe_sha256": recipe.digest,
        "seed": recipe.data.seed,
        "count": recipe.data.count,
        "batch_rows": objects_per_batch(recipe),
        "shards": [asdict(entry) for entry in shards],
        "sources": asdict(sources),
    }
    atomic_write_json(folder / MANIFEST, content)
    forget_work(folder, SIMULATED)
    return sources


def _write_sources(folder: Path, columns: pa.Schema, shards: Sequence[ShardEntry]) -> ShardEntry:
    """`source_table` of all objects as Parquet; fields carry their unit."""
    fields = [field.with_metadata({"unit": _UNITS.get(field.name, "")}) for field in TRUTH]
    schema = pa.schema([pa.field("id", pa.string()), *fields])
    rows = 0
    waiting: list[pa.RecordBatch] = []
    with (
        atomic_file(folder / SOURCES) as file,
        pq.ParquetWriter(file, schema, compression="zstd") as writer,
    ):
        for entry in shards:
            for batch in read_columns(folder / entry.file, columns, ["id", "truth"]):
                truth = batch.column("truth")
                sources_of = truth.value_lengths().to_numpy()
                ids = batch.column("id").take(
                    pa.array(np.repeat(np.arange(len(batch)), sources_of))
                )
                waiting.append(pa.record_batch([ids, *truth.flatten().flatten()], schema=schema))
            if sum(map(len, waiting)) >= _SOURCE_ROWS or entry is shards[-1]:
                table = pa.Table.from_batches(waiting, schema)
                rows += len(table)
                writer.write_table(table)
                waiting = []
    return ShardEntry.of(folder, SOURCES, rows)


# --- shards -----------------------------------------------------------------------------------


def _making(
    tasks: Sequence[ShardTask], workers: int, made: Callable[[int], None]
) -> Generator[tuple[int, ShardEntry], None, None]:
    """Make, write and record shards: number and entry of each, as they are finished.

    `made` is called now and then with the number of objects that are made. Workers end when the
    generator is closed.
    """
    if workers:
        yield from _in_workers(tasks, workers, made)
        return
    number = 0

    def tick() -> None:
        nonlocal number
        number += 1
        made(number)

    for task in tasks:
        yield task.number, _recorded(task, tick)


def _recorded(task: ShardTask, tick: Callable[[], None]) -> ShardEntry:
    entry = make_shard(task, tick)
    atomic_write_json(_journal(task.folder, task.number), asdict(entry))
    return entry


def _in_workers(
    tasks: Sequence[ShardTask], workers: int, made: Callable[[int], None]
) -> Iterator[tuple[int, ShardEntry]]:
    try:
        counter = get_context("spawn").Value("q", 0)
        pool = Pool(workers, _count_in, counter)
    except (OSError, ImportError, NotImplementedError) as error:
        raise SettingsError(
            f"worker processes do not start here: {error}", "use --workers 0"
        ) from error
    try:
        futures = {pool.submit(_in_worker, task): task.number for task in tasks}
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
        pool.close()


_counter: Any = None
"""In a worker process: how many objects all workers have made."""


def _count_in(counter: Any) -> None:
    global _counter
    _counter = counter


def _in_worker(task: ShardTask) -> ShardEntry:
    def tick() -> None:
        with _counter.get_lock():
            _counter.value += 1

    return _recorded(task, tick)


def _finished(folder: Path, expected: Sequence[tuple[int, int]]) -> dict[int, ShardEntry]:
    """Shards that are there and whole, and need not be made: number -> entry.

    `expected` has the number of the first object, and how many there are, of each shard of the set.
    """
    listed: dict[str, ShardEntry] = {}
    with contextlib.suppress(InputError):
        listed = {entry.file: entry for entry in read_manifest(folder).shards}
    entries = {}
    for number, (first, rows) in enumerate(expected):
        file = shard_file(number)
        entry = _read_journal(_journal(folder, number)) or listed.get(file)
        if entry is None or (entry.file, entry.first, entry.rows) != (file, first, rows):
            continue
        if not problem_of(folder, entry):
            entries[number] = entry
    return entries


def _journal(folder: Path, number: int) -> Path:
    return folder / WORK / f"shard-{number:05d}.json"


def _read_journal(path: Path) -> ShardEntry | None:
    """None where there is none, or it is damaged: the shard is then made anew."""
    try:
        return ShardEntry(**json.loads(path.read_text("utf-8")))
    except (OSError, ValueError, TypeError):
        return None
