"""Objects of a set by number."""

import contextlib
import functools
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
from pyarrow import ipc

from autofit_ml.errors import InputError, errors_as
from autofit_ml.simulation.objects import SimulatedObject
from autofit_ml.simulation.shards.columns import decode
from autofit_ml.simulation.shards.manifest import CONTINUE, read_manifest

__all__ = ["ShardReader", "read_columns", "read_objects"]

_OPEN_SHARDS = 32

T = TypeVar("T")


class ShardReader:
    """Objects of a set by number; shards are memory-mapped when they are first needed.

    May be pickled, and used after a fork: each process opens its own files.

    Parameters
    ----------
    folder : path
    columns : sequence of str, optional
        Decompress only these columns (all by default).
    cache : int
        Decompressed record batches that are kept (the least recently used is dropped).

    Raises
    ------
    InputError
        See `read_manifest`.
    """

    def __init__(
        self, folder: str | Path, columns: Sequence[str] | None = None, cache: int = 8
    ) -> None:
        self.manifest = read_manifest(folder)
        self.columns = None if columns is None else tuple(columns)
        self.cache = max(1, cache)
        self._forget()

    def _forget(self) -> None:
        self._process = os.getpid()
        self._file = functools.lru_cache(_OPEN_SHARDS)(self._open)
        self._batch = functools.lru_cache(self.cache)(self._load)

    def __getstate__(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("manifest", "columns", "cache")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    def __len__(self) -> int:
        return self.manifest.count

    def read(self, index: int, decode: Callable[[pa.RecordBatch, int], T]) -> T:
        """``decode(batch, row)`` of the row of object `index`.

        Raises
        ------
        IndexError
            Not in 0 ... len - 1.
        InputError
            The shard is missing or damaged: also where `decode` fails.
        """
        if not 0 <= index < self.manifest.count:
            raise IndexError(f"object {index} of a set of {self.manifest.count}")
        shard, within = divmod(index, self.manifest.shard_size)
        number, row = divmod(within, self.manifest.batch_rows)
        batch = self.batch(shard, number)
        with _damage_named(self._path(shard)):
            return decode(batch, row)

    def batch(self, shard: int, number: int) -> pa.RecordBatch:
        """Record batch `number` of shard `shard`.

        Raises
        ------
        InputError
            The shard is missing or damaged.
        """
        if self._process != os.getpid():
            self._forget()
        return self._batch(shard, number)

    def _path(self, shard: int) -> Path:
        return self.manifest.folder / self.manifest.shards[shard].file

    def _load(self, shard: int, number: int) -> pa.RecordBatch:
        path, rows = self._path(shard), self.manifest.batch_rows
        with _damage_named(path):
            batch = self._file(shard).get_batch(number)
            batch.validate(full=True)
        if len(batch) != min(rows, self.manifest.shards[shard].rows - number * rows):
            raise InputError(
                "this shard holds other objects than the manifest says", CONTINUE, path
            )
        return batch

    def _open(self, shard: int) -> ipc.RecordBatchFileReader:
        path, expected = self._path(shard), self.manifest.shards[shard].bytes
        mapped = pa.memory_map(str(path))
        if mapped.size() != expected:
            raise InputError(
                f"this shard has {mapped.size()} bytes instead of {expected}", CONTINUE, path
            )
        return _open_columns(mapped, self.manifest.schema, self.columns)


def _open_columns(
    mapped: pa.NativeFile, schema: pa.Schema, columns: Sequence[str] | None
) -> ipc.RecordBatchFileReader:
    """A shard of which only some columns will be decompressed."""
    if not ipc.open_file(mapped).schema.equals(schema):
        raise ValueError("its columns are not those of the set")
    chosen = None if columns is None else [schema.names.index(name) for name in columns]
    return ipc.open_file(
        mapped, options=ipc.IpcReadOptions(included_fields=chosen, use_threads=False)
    )


def _damage_named(path: Path) -> contextlib.AbstractContextManager[None]:
    kinds = (pa.ArrowException, OSError, ValueError, LookupError, TypeError)
    return errors_as(InputError, "this shard cannot be read", CONTINUE, path, of=kinds)


def read_columns(path: Path, schema: pa.Schema, names: Sequence[str]) -> list[pa.RecordBatch]:
    """Some columns of one shard, whose columns are `schema`.

    Raises
    ------
    InputError
        It is missing or damaged.
    """
    with _damage_named(path), pa.memory_map(str(path)) as mapped:
        reader = _open_columns(mapped, schema, names)
        return [reader.get_batch(number) for number in range(reader.num_record_batches)]


def read_objects(folder: str | Path, indices: Sequence[int] | None = None) -> list[SimulatedObject]:
    """Objects of a set.

    Parameters
    ----------
    folder : path
    indices : sequence of int, optional
        Numbers of the objects, in any order; all by default (mind the memory).

    Returns
    -------
    list of SimulatedObject
        As they were made, but for what is not stored: `model`, `neighbour_light` and `sky_map`
        are NaN without ``data.labels.noise_free``, `light` is None without
        ``data.labels.light``, and the images of real galaxies (`Component.profile`) are gone.

    Raises
    ------
    InputError
        No complete set there, or a shard is damaged.
    IndexError
        A number outside the set.
    """
    reader = ShardReader(folder)
    numbers = range(len(reader)) if indices is None else [int(index) for index in indices]
    return [reader.read(index, decode) for index in numbers]
