"""Sets are written: which shards, in how many processes, and the tables at the end."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from autofit_ml.catalogue.atomic import atomic_file, atomic_write_json
from autofit_ml.errors import InputError, SettingsError
from autofit_ml.simulation.recipe import Recipe
from autofit_ml.simulation.shards.columns import TRUTH, objects_per_batch, shard_schema
from autofit_ml.simulation.shards.folder import claimed, finished_shards, forget_work
from autofit_ml.simulation.shards.identity import identity_of
from autofit_ml.simulation.shards.manifest import (
    MANIFEST,
    SOURCES,
    Progress,
    ShardEntry,
    problem_of,
    read_manifest,
)
from autofit_ml.simulation.shards.reader import read_columns
from autofit_ml.simulation.shards.workers import Make, ShardTask, make_shards
from autofit_ml.worker_processes import processors

__all__ = ["SetSummary", "default_shard_size", "write_set"]

_SHARD_PIXELS = 1 << 20
"""Pixels of a shard of the default size: 256 stamps of 64 x 64, one frame of 1024 x 1024."""

_SOURCE_ROWS = 1 << 16
"""Rows of a row group of the table of sources, about."""

_UNITS = {"x": "pix", "y": "pix", "mag": "mag", "re": "pix", "pa": "deg"}


@dataclass(frozen=True)
class SetSummary:
    """What `write_set` has done.

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
    recipe = _resolved(recipe, count, seed)
    total = recipe.data.count
    shard_size = default_shard_size(recipe) if shard_size is None else shard_size
    if make is None:
        from autofit_ml.simulation.generate import simulate_one  # reading a set needs no GalSim

        make = simulate_one
    _check_call(shard_size, workers, make)
    identity = identity_of(recipe, shard_size, make)
    parts = [(first, min(shard_size, total - first)) for first in range(0, total, shard_size)]
    with claimed(folder, identity, restart):
        entries = finished_shards(folder, parts)
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

        making = make_shards(todo, _number_of_workers(workers, len(todo)), made)
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
    if count < 1 or seed < 0:
        raise SettingsError(
            f"count {count}, seed {seed}", "at least 1 object, and a seed of at least 0"
        )
    data = recipe.data.model_copy(update={"count": int(count), "seed": int(seed)})
    return recipe.model_copy(update={"data": data})


def default_shard_size(recipe: Recipe) -> int:
    """As many objects as have 2**20 pixels, at least one."""
    ny, nx = recipe.data.shape
    return max(1, _SHARD_PIXELS // (ny * nx))


def _check_call(shard_size: int, workers: int, make: Make) -> None:
    if shard_size < 1:
        raise SettingsError(f"shard size {shard_size}", "at least 1 object")
    if workers < -1:
        raise SettingsError(
            f"workers {workers}", "a number of processes, 0 for none, -1 for one per processor"
        )
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
                forget_work(folder)
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
    forget_work(folder)
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
