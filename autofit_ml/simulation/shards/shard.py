"""One shard of a set: its objects made and written."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
from pyarrow import ipc

from autofit_ml.catalogue.atomic import atomic_file
from autofit_ml.errors import AutofitError
from autofit_ml.simulation.objects import SimulatedObject
from autofit_ml.simulation.shards.columns import encode, objects_per_batch, shard_schema
from autofit_ml.simulation.shards.manifest import ShardEntry, shard_file

if TYPE_CHECKING:
    from autofit_ml.simulation.recipe import Recipe

__all__ = ["Make", "ShardTask", "make_shard"]

Make = Callable[["Recipe", int, int], SimulatedObject]
"""``make(recipe, index, seed)``: one object."""

_COMPRESSION_LEVEL = 3


@dataclass(frozen=True)
class ShardTask:
    """One shard to be made: objects `first` ... `first` + `rows` - 1."""

    recipe: "Recipe"
    make: Make
    folder: Path
    number: int
    first: int
    rows: int


def make_shard(task: ShardTask, tick: Callable[[], None]) -> ShardEntry:
    """Make and write one shard; `tick` is called after each object.

    Raises
    ------
    AutofitError
        An object cannot be made; the message has its number.
    OutputError
        The shard cannot be written.
    """
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
    return ShardEntry.of(task.folder, file, task.rows, task.first)


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
