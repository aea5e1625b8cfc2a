"""Sets of simulated objects on disk: written by many processes, resumable, the same to the byte.

Layout of a set::

    manifest.json                 written last: a folder that has one is complete
    sources.parquet               one row for every source of every image
    shards/shard-00000.arrow ...  the objects

A shard is an Arrow IPC file whose buffers are compressed with zstd. It can be memory-mapped, and
it is read in record batches of about 256 kB of pixels (a frame is one batch), so that an object
taken at random costs little more than its own decompression. `shard_schema` says what is in it.

While a set is being made, ``.work`` holds ``state.json`` (what is being made), one journal for
each finished shard, and ``lock``. A shard is made wholly by one process, takes its name when it is
complete, and only then gets its journal: whatever stops a run, the same call goes on with it.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import platform
import re
import signal
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import ipc

from autofit_ml import __version__
from autofit_ml.catalogue.atomic import atomic_file, atomic_write_json, remove_temporaries
from autofit_ml.errors import AutofitError, InputError, OutputError, ResumeError, SettingsError
from autofit_ml.images.stamp import PSF
from autofit_ml.simulate.files import export_fits
from autofit_ml.simulate.objects import (
    SOURCE_DTYPE,
    SimulatedObject,
    SourceLight,
    source_table,
    truth_table,
)
from autofit_ml.simulate.psf import PSFGrid
from autofit_ml.simulate.recipe import Recipe
from autofit_ml.simulate.sources import Component, Source

try:
    import fcntl
except ImportError:  # Windows: two runs at once in one folder are not noticed there
    fcntl = None  # type: ignore[assignment]

__all__ = [
    "FORMAT",
    "PLANES",
    "SetManifest",
    "SetSummary",
    "ShardEntry",
    "ShardReader",
    "export_set",
    "read_manifest",
    "read_objects",
    "shard_schema",
    "verify_set",
    "write_set",
]

FORMAT = 1
"""Version of the layout. A change of a column or of the manifest's keys increases it."""

PLANES: dict[str, np.dtype] = {
    "data": np.dtype(np.float32),
    "sigma": np.dtype(np.float32),
    "mask": np.dtype(np.uint8),
    "labels": np.dtype(np.int32),
    "artefacts": np.dtype(np.uint8),
    "sky_map": np.dtype(np.float32),
    "model": np.dtype(np.float32),
    "neighbour_light": np.dtype(np.float32),
}
"""Columns with one value for each pixel of the image, and how they are stored."""

_NOISE_FREE = ("sky_map", "model", "neighbour_light")
_TEXTS = ("id", "kind", "survey", "filter")
_NUMBERS = ("sky", "sky_rms", "snr", "pixel_scale", "zeropoint", "gain", "ra", "dec")

_MANIFEST, _SOURCES, _SHARDS, _WORK = "manifest.json", "sources.parquet", "shards", ".work"
_SHARD_NAME = re.compile(r"shard-\d{5,}\.arrow")
_EXPORTED = ".simulated.json"

_BATCH_BYTES = 1 << 18
"""Pixels of a record batch, uncompressed: what one random access has to decompress."""

_SHARD_PIXELS = 1 << 20
"""Pixels of a shard of the default size: 256 stamps of 64 x 64, one frame of 1024 x 1024."""

_COMPRESSION_LEVEL = 3
_OPEN_SHARDS = 32
_EXPORT_CHUNK = 64
_SOURCE_ROWS = 1 << 16

_ANEW = "use --restart to begin anew, or another --out"
_CONTINUE = "run the same `autofit-ml simulate` command again: damaged shards are made anew"

Progress = Callable[[int, int], None]
Make = Callable[[Recipe, int, int], SimulatedObject]
T = TypeVar("T")


# --- what is stored ---------------------------------------------------------------------------


def _struct(**fields: pa.DataType) -> pa.DataType:
    return pa.struct(list(fields.items()))


_ARROW_OF = {"i": pa.int32(), "f": pa.float64(), "U": pa.string(), "b": pa.bool_()}
_TRUTH = pa.struct(
    [(name, _ARROW_OF[SOURCE_DTYPE[name].kind]) for name in SOURCE_DTYPE.names or ()]
)
_COMPONENT_NUMBERS = (
    *("flux", "re", "n", "q", "pa", "thickness", "amplitude", "pitch", "phase"),
    *("knot_sigma", "reach"),
)
_COMPONENT = _struct(
    source=pa.int32(),
    kind=pa.string(),
    **dict.fromkeys(_COMPONENT_NUMBERS, pa.float64()),
    offsets=pa.list_(pa.float64()),
)
_PSF = _struct(
    ny=pa.int32(),
    nx=pa.int32(),
    oversampling=pa.int32(),
    has_pixel=pa.bool_(),
    source=pa.string(),
    data=pa.list_(pa.float32()),
)
_PSF_GRID = _struct(
    rows=pa.int32(),
    columns=pa.int32(),
    ny=pa.int32(),
    nx=pa.int32(),
    oversampling=pa.int32(),
    has_pixel=pa.bool_(),
    data=pa.list_(pa.float32()),
)
_BOX = _struct(
    y0=pa.int32(), x0=pa.int32(), ny=pa.int32(), nx=pa.int32(), data=pa.list_(pa.float32())
)
_KERNEL = _struct(ny=pa.int32(), nx=pa.int32(), data=pa.list_(pa.float64()))


def shard_schema(recipe: Recipe) -> pa.Schema:
    """Columns of the shards of a recipe; one row is one `SimulatedObject`.

    ==================================  =========================================================
    index, id, kind, survey, filter     number in the set, name, stamp or frame, ...
    ny, nx                              size of the image
    data, sigma                         list<float>, ny * nx values, row by row
    mask, artefacts                     list<uint8>; 1 = do not use; `Artefact` bits or null
    labels                              list<int32>
    sky_map, model, neighbour_light     list<float> (sky_map: or null, where the sky is flat); only
                                        with ``data.labels.noise_free``
    psf                                 struct: ny, nx, oversampling, has_pixel, source, data
    psf_grid                            struct: nodes (rows, columns) of (ny, nx) pixels each, or
                                        null (stamps)
    correlation                         struct: autocorrelation of the noise, or null (white)
    light                               list of boxes, one for each source; only with
                                        ``data.labels.light``
    sky, sky_rms, snr, flags, gain,     numbers, as in `SimulatedObject`
    pixel_scale, zeropoint, ra, dec
    truth                               list of structs, the fields of `SOURCE_DTYPE`
    components                          list of structs: parts of all composite sources, with the
                                        number of their source
    ==================================  =========================================================
    """
    return _schema(recipe.data.labels.noise_free, recipe.data.labels.light)


def _schema(noise_free: bool, light: bool) -> pa.Schema:
    planes = [name for name in PLANES if noise_free or name not in _NOISE_FREE]
    fields = [
        ("index", pa.int64()),
        *((name, pa.string()) for name in _TEXTS),
        ("ny", pa.int32()),
        ("nx", pa.int32()),
        *((name, pa.list_(pa.from_numpy_dtype(PLANES[name]))) for name in planes),
        ("psf", _PSF),
        ("psf_grid", _PSF_GRID),
        ("correlation", _KERNEL),
        *([("light", pa.list_(_BOX))] if light else []),
        *((name, pa.float64()) for name in _NUMBERS),
        ("flags", pa.int32()),
        ("truth", pa.list_(_TRUTH)),
        ("components", pa.list_(_COMPONENT)),
    ]
    return pa.schema(fields, metadata={"autofit-ml simulated set": str(FORMAT)})


def _objects_per_batch(recipe: Recipe) -> int:
    ny, nx = recipe.data.shape
    names = set(shard_schema(recipe).names)
    pixel = sum(dtype.itemsize for name, dtype in PLANES.items() if name in names)
    return max(1, _BATCH_BYTES // (ny * nx * pixel))


def _encode(objects: Sequence[SimulatedObject], first: int, schema: pa.Schema) -> pa.RecordBatch:
    """Objects `first`, `first` + 1, ... as a record batch."""
    columns: dict[str, Any] = {name: [getattr(o, name) for o in objects] for name in _TEXTS}
    columns |= {name: [float(getattr(o, name)) for o in objects] for name in _NUMBERS}
    columns["index"] = range(first, first + len(objects))
    columns["ny"] = [o.data.shape[0] for o in objects]
    columns["nx"] = [o.data.shape[1] for o in objects]
    columns["flags"] = [int(o.flags) for o in objects]
    for name, dtype in PLANES.items():
        columns[name] = [_pixels(o, name, dtype) for o in objects]
    columns["psf"] = [
        _image(o.psf.data)
        | {name: getattr(o.psf, name) for name in ("oversampling", "has_pixel", "source")}
        for o in objects
    ]
    columns["psf_grid"] = [None if o.psf_grid is None else _grid(o.psf_grid) for o in objects]
    columns["correlation"] = [
        None if o.correlation is None else _image(o.correlation, np.float64) for o in objects
    ]
    columns["components"] = [
        [
            {"source": i, **_component(part)}
            for i, source in enumerate(o.sources)
            for part in source.components
        ]
        for o in objects
    ]
    if "light" in schema.names:
        columns["light"] = [
            None
            if o.light is None
            else [{"y0": item.y0, "x0": item.x0, **_image(item.data)} for item in o.light]
            for o in objects
        ]
    arrays = [
        _truth_array(objects)
        if field.name == "truth"
        else pa.array(columns[field.name], field.type)
        for field in schema
    ]
    return pa.record_batch(arrays, schema=schema)


def _pixels(item: SimulatedObject, name: str, dtype: np.dtype) -> np.ndarray | None:
    plane = getattr(item, name)
    if plane is None:
        return None
    if plane.shape != item.data.shape:
        raise ValueError(f"{name} has the shape {plane.shape}, data {item.data.shape}")
    return np.ascontiguousarray(plane, dtype=dtype).ravel()


def _image(array: np.ndarray, dtype: type = np.float32) -> dict[str, Any]:
    flat: np.ndarray = np.ascontiguousarray(array, dtype=dtype).ravel()
    return {"ny": array.shape[0], "nx": array.shape[1], "data": flat}


def _grid(grid: PSFGrid) -> dict[str, Any]:
    rows, columns, ny, nx = grid.data.shape
    return {
        "rows": rows,
        "columns": columns,
        "ny": ny,
        "nx": nx,
        "oversampling": grid.oversampling,
        "has_pixel": grid.has_pixel,
        "data": np.ascontiguousarray(grid.data, dtype=np.float32).ravel(),
    }


def _component(part: Component) -> dict[str, Any]:
    offsets = None if part.offsets is None else np.asarray(part.offsets, np.float64).ravel()
    numbers = {name: float(getattr(part, name)) for name in _COMPONENT_NUMBERS}
    return {"kind": part.kind, **numbers, "offsets": offsets}


def _truth_array(objects: Sequence[SimulatedObject]) -> pa.Array:
    truth = np.concatenate([item.truth for item in objects])
    fields = [pa.array(truth[field.name], field.type) for field in _TRUTH]
    offsets = np.cumsum([0, *(len(item.truth) for item in objects)], dtype=np.int32)
    return pa.ListArray.from_arrays(
        offsets, pa.StructArray.from_arrays(fields, fields=list(_TRUTH))
    )


def plane_of(batch: pa.RecordBatch, row: int, name: str) -> np.ndarray | None:
    """One plane of one object, read-only, shape (ny, nx); None where it is null."""
    value = batch.column(name)[row]
    if not value.is_valid:
        return None
    shape = batch.column("ny")[row].as_py(), batch.column("nx")[row].as_py()
    return value.values.to_numpy(zero_copy_only=True).reshape(shape)


def truth_of(batch: pa.RecordBatch, row: int) -> np.ndarray:
    """`SimulatedObject.truth` of one object."""
    values = batch.column("truth")[row].values
    truth = np.empty(len(values), dtype=SOURCE_DTYPE)
    for name in SOURCE_DTYPE.names or ():
        truth[name] = values.field(name).to_numpy(zero_copy_only=False)
    return truth


def psf_of(batch: pa.RecordBatch, row: int) -> PSF:
    """The PSF of one object."""
    value = batch.column("psf")[row]
    about = {name: value[name].as_py() for name in ("has_pixel", "oversampling", "source")}
    return PSF(_image_of(value), **about)


def psf_grid_of(batch: pa.RecordBatch, row: int) -> PSFGrid | None:
    """The varying PSF of one frame; None for a stamp."""
    value = batch.column("psf_grid")[row]
    if not value.is_valid:
        return None
    nodes = [value[name].as_py() for name in ("rows", "columns", "ny", "nx")]
    return PSFGrid(
        value["data"].values.to_numpy().reshape(nodes).copy(),
        (batch.column("ny")[row].as_py(), batch.column("nx")[row].as_py()),
        value["has_pixel"].as_py(),
        value["oversampling"].as_py(),
    )


def light_of(batch: pa.RecordBatch, row: int) -> tuple[SourceLight, ...] | None:
    """Every source's own light of one object; None where it is not stored."""
    value = batch.column("light")[row] if "light" in batch.schema.names else None
    if value is None or not value.is_valid:
        return None
    return tuple(SourceLight(box["y0"].as_py(), box["x0"].as_py(), _image_of(box)) for box in value)


def _image_of(value: pa.StructScalar) -> np.ndarray:
    shape = value["ny"].as_py(), value["nx"].as_py()
    return value["data"].values.to_numpy().reshape(shape).copy()


def _decode(batch: pa.RecordBatch, row: int) -> SimulatedObject:
    """The object of a row of all columns."""

    def scalar(name: str) -> Any:
        return batch.column(name)[row].as_py()

    shape = scalar("ny"), scalar("nx")
    planes: dict[str, Any] = {}
    for name in PLANES:
        if name in batch.schema.names:
            plane = plane_of(batch, row, name)
            planes[name] = None if plane is None else plane.copy()
        else:
            planes[name] = np.broadcast_to(np.float32(np.nan), shape)
    planes["mask"] = planes["mask"].view(bool)
    truth = truth_of(batch, row)
    kernel = batch.column("correlation")[row]
    return SimulatedObject(
        **{name: scalar(name) for name in (*_TEXTS, *_NUMBERS, "flags")},
        **planes,
        psf=psf_of(batch, row),
        sources=_sources_of(truth, scalar("components")),
        truth=truth,
        light=light_of(batch, row),
        psf_grid=psf_grid_of(batch, row),
        correlation=_image_of(kernel) if kernel.is_valid else None,
    )


def _sources_of(truth: np.ndarray, parts: Sequence[Mapping[str, Any]]) -> tuple[Source, ...]:
    components: dict[int, list[Component]] = {}
    for part in parts:
        values = {name: part[name] for name in ("kind", *_COMPONENT_NUMBERS)}
        offsets = None if part["offsets"] is None else np.reshape(part["offsets"], (-1, 3))
        components.setdefault(part["source"], []).append(Component(**values, offsets=offsets))
    return tuple(
        Source(
            **{name: float(row[name]) for name in ("x", "y", "flux", "re", "n", "q", "pa")},
            components=tuple(components.get(i, ())),
            morphology=str(row["kind"]),
        )
        for i, row in enumerate(truth)
    )


# --- manifest ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class ShardEntry:
    """A file of a set: its name, rows, the number of its first object, bytes, sha256."""

    file: str
    rows: int
    first: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class SetManifest:
    """What a complete set holds.

    Attributes
    ----------
    folder : Path
    count : int
        Objects.
    seed : int
    recipe : dict
        The resolved recipe (`Recipe.as_mapping`; folders in it may not exist on this machine).
    recipe_sha256 : str
        `Recipe.digest`.
    versions : dict
        Of autofit-ml and of the packages that the pixels depend on.
    generator : str
        The function that made the objects.
    inputs : dict
        sha256 of the PSF images, galaxy images or noise files that the recipe names.
    shard_size, batch_rows : int
        Objects of a shard and of a record batch (the last one may hold fewer).
    shards : tuple of ShardEntry
    sources : ShardEntry
        The table of all sources; `rows` are sources.
    """

    folder: Path
    count: int
    seed: int
    recipe: dict[str, Any]
    recipe_sha256: str
    versions: dict[str, str]
    generator: str
    inputs: dict[str, str]
    shard_size: int
    batch_rows: int
    shards: tuple[ShardEntry, ...]
    sources: ShardEntry

    @property
    def kind(self) -> str:
        """``stamp`` or ``frame``."""
        return self.recipe["data"]["kind"]

    @property
    def shape(self) -> tuple[int, int]:
        """(ny, nx) of every image."""
        ny, nx = self.recipe["data"]["shape"]
        return ny, nx

    @property
    def schema(self) -> pa.Schema:
        """Columns of the shards; see `shard_schema`."""
        labels = self.recipe["data"]["labels"]
        return _schema(labels["noise_free"], labels["light"])


def read_manifest(folder: str | Path) -> SetManifest:
    """The manifest of a complete set.

    Raises
    ------
    InputError
        No set there, an unfinished one, a damaged manifest, or a newer format.
    """
    folder = Path(folder)
    path = folder / _MANIFEST
    try:
        content = json.loads(path.read_text("utf-8"))
    except OSError as error:
        if (folder / _WORK / "state.json").is_file():
            raise InputError(
                "this set of simulated objects is not finished",
                "run the same `autofit-ml simulate` command again: it continues",
                folder,
            ) from error
        raise InputError(
            "no set of simulated objects here",
            "give a folder that `autofit-ml simulate --out` has written",
            folder,
        ) from error
    except ValueError as error:
        raise InputError("this manifest cannot be read", _CONTINUE, path) from error
    try:
        return _manifest_from(folder, content)
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError("this is not the manifest of a set", _CONTINUE, path) from error


def _manifest_from(folder: Path, content: Mapping[str, Any]) -> SetManifest:
    if content["format"] > FORMAT:
        raise InputError(
            f"this set has format {content['format']}; this version of autofit-ml reads up to "
            f"{FORMAT}",
            "update autofit-ml",
            folder / _MANIFEST,
        )
    names = ("count", "seed", "recipe", "recipe_sha256", "versions", "generator", "inputs")
    return SetManifest(
        folder=folder,
        **{name: content[name] for name in (*names, "shard_size", "batch_rows")},
        shards=tuple(ShardEntry(**entry) for entry in content["shards"]),
        sources=ShardEntry(**content["sources"]),
    )


def verify_set(folder: str | Path, progress: Progress | None = None) -> SetManifest:
    """Read every file of a set and compare with the manifest's sha256.

    Parameters
    ----------
    folder : path
    progress : callable, optional
        Called with (objects verified, all).

    Returns
    -------
    SetManifest

    Raises
    ------
    InputError
        Names the damaged and missing files.
    """
    manifest = read_manifest(folder)
    wrong, done = [], 0
    for entry in (*manifest.shards, manifest.sources):
        problem = _problem(manifest.folder, entry)
        if problem:
            wrong.append(f"{entry.file} {problem}")
        elif entry is not manifest.sources and progress is not None:
            done += entry.rows
            progress(done, manifest.count)
    if wrong:
        raise InputError("this set is damaged: " + "; ".join(wrong), _CONTINUE, folder)
    return manifest


def _problem(folder: Path, entry: ShardEntry) -> str:
    """What is wrong with a file of a set; empty: nothing."""
    path = folder / entry.file
    try:
        size = path.stat().st_size
        if size != entry.bytes:
            return f"has {size} bytes instead of {entry.bytes}"
        return "" if _sha256(path) == entry.sha256 else "has another sha256"
    except FileNotFoundError:
        return "is missing"
    except OSError as error:
        return f"cannot be read: {error.strerror or error}"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# --- reading ----------------------------------------------------------------------------------


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
        self._files: OrderedDict[int, ipc.RecordBatchFileReader] = OrderedDict()
        self._batches: OrderedDict[tuple[int, int], pa.RecordBatch] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("manifest", "columns", "cache")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    def __len__(self) -> int:
        return self.manifest.count

    def row(self, index: int) -> tuple[pa.RecordBatch, int]:
        """The record batch that holds object `index`, and the object's row in it.

        Raises
        ------
        IndexError
            Not in 0 ... len - 1.
        InputError
            The shard is missing or damaged.
        """
        if not 0 <= index < self.manifest.count:
            raise IndexError(f"object {index} of a set of {self.manifest.count}")
        shard, within = divmod(index, self.manifest.shard_size)
        number, row = divmod(within, self.manifest.batch_rows)
        return self.batch(shard, number), row

    def read(self, index: int, decode: Callable[[pa.RecordBatch, int], T]) -> T:
        """``decode(batch, row)`` of the row of object `index`.

        Raises
        ------
        IndexError
            Not in 0 ... len - 1.
        InputError
            The shard is missing or damaged: also where `decode` fails.
        """
        batch, row = self.row(index)
        path = self.manifest.folder / self.manifest.shards[index // self.manifest.shard_size].file
        with _damage_named(path):
            return decode(batch, row)

    def batch(self, shard: int, number: int) -> pa.RecordBatch:
        """Record batch `number` of shard `shard`."""
        if self._process != os.getpid():
            self._forget()
        key = (shard, number)
        if key in self._batches:
            self._batches.move_to_end(key)
            return self._batches[key]
        entry = self.manifest.shards[shard]
        path = self.manifest.folder / entry.file
        first = number * self.manifest.batch_rows
        with _damage_named(path):
            batch = self._file(shard, path, entry).get_batch(number)
            batch.validate(full=True)
        if len(batch) != min(self.manifest.batch_rows, entry.rows - first):
            raise InputError(
                "this shard holds other objects than the manifest says", _CONTINUE, path
            )
        self._batches[key] = batch
        if len(self._batches) > self.cache:
            self._batches.popitem(last=False)
        return batch

    def _file(self, shard: int, path: Path, entry: ShardEntry) -> ipc.RecordBatchFileReader:
        if shard in self._files:
            self._files.move_to_end(shard)
            return self._files[shard]
        mapped = pa.memory_map(str(path))
        if mapped.size() != entry.bytes:
            raise InputError(
                f"this shard has {mapped.size()} bytes instead of {entry.bytes}", _CONTINUE, path
            )
        self._files[shard] = _open_columns(mapped, self.manifest.schema, self.columns)
        if len(self._files) > _OPEN_SHARDS:
            self._files.popitem(last=False)
        return self._files[shard]


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


@contextlib.contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    try:
        yield
    except AutofitError:
        raise
    except (pa.ArrowException, OSError, ValueError, LookupError, TypeError) as error:
        text = " ".join(str(error).split())
        raise InputError(f"this shard cannot be read: {text}", _CONTINUE, path) from error


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
    return [reader.read(index, _decode) for index in numbers]


def export_set(
    folder: str | Path,
    out: str | Path,
    *,
    labels: bool = True,
    progress: Progress | None = None,
) -> Path:
    """Write all objects of a set as FITS files that ``autofit-ml fit`` reads; see `export_fits`.

    Files of an earlier export of another set in `out` are removed; the tables are written last.

    Parameters
    ----------
    folder : path
        A complete set.
    out : path
        Made if absent; must be empty or hold an export.
    labels : bool, keyword-only
        Write the true labels too.
    progress : callable, keyword-only, optional
        Called with (objects written, all).

    Returns
    -------
    Path
        `out`.

    Raises
    ------
    InputError
        The set is incomplete or damaged.
    SettingsError
        `out` holds other files.
    OutputError
        It cannot be written.
    """
    reader, out = ShardReader(folder), Path(out)
    total = len(reader)
    ids = [
        name
        for entry in reader.manifest.shards
        for batch in _read_columns(
            reader.manifest.folder / entry.file, reader.manifest.schema, ["id"]
        )
        for name in batch.column("id").to_pylist()
    ]
    _claim_export(out, {"recipe_sha256": reader.manifest.recipe_sha256, "ids": ids})
    known: list[SimulatedObject] = []
    if progress is not None:
        progress(0, total)
    for start in range(0, total, _EXPORT_CHUNK):
        chunk = [reader.read(i, _decode) for i in range(start, min(start + _EXPORT_CHUNK, total))]
        export_fits(chunk, out, labels=labels)
        known += [_without_pixels(item) for item in chunk]
        if progress is not None:
            progress(len(known), total)
    with _writing(out):
        source_table(known).write(out / "sources.ecsv", format="ascii.ecsv", overwrite=True)
        if reader.manifest.kind == "stamp":
            truth_table(known).write(out / "truth.ecsv", format="ascii.ecsv", overwrite=True)
    return out


def _without_pixels(item: SimulatedObject) -> SimulatedObject:
    """What the tables need."""
    nothing = np.zeros((0, 0), np.float32)
    planes = dict.fromkeys(("data", "sigma", "mask", "labels", "model", "neighbour_light"), nothing)
    return item.replace(**planes, artefacts=None, sky_map=None, light=None, psf_grid=None)


def _claim_export(out: Path, record: Mapping[str, Any]) -> None:
    mark = out / _EXPORTED
    if mark.exists():
        try:
            earlier = json.loads(mark.read_text("utf-8"))
            names = [str(name) for name in earlier["ids"]]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise SettingsError(
                "the record of an earlier export cannot be read", "remove that folder", mark
            ) from error
        with _writing(out):
            for name in names:
                for plane in ("image", "sigma", "psf", "mask", "seg"):
                    (out / f"{name}_{plane}.fits").unlink(missing_ok=True)
            for table in ("truth.ecsv", "sources.ecsv"):
                (out / table).unlink(missing_ok=True)
    elif out.is_dir() and any(out.iterdir()):
        raise SettingsError(
            "it holds files that are no export of a set", "move them away, or choose another", out
        )
    atomic_write_json(mark, record)


# --- writing ----------------------------------------------------------------------------------


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


@dataclass(frozen=True)
class _Task:
    """One shard to be made."""

    recipe: Recipe
    make: Make
    folder: Path
    number: int
    first: int
    rows: int

    @property
    def file(self) -> str:
        return f"{_SHARDS}/shard-{self.number:05d}.arrow"


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
    shard_size = _default_shard_size(recipe) if shard_size is None else shard_size
    if make is None:
        from autofit_ml.simulate.generate import simulate_one

        make = simulate_one
    _check_call(shard_size, workers, make)
    total = recipe.data.count
    identity = _identity(recipe, shard_size, make)
    tasks = [
        _Task(recipe, make, folder, number, first, min(shard_size, total - first))
        for number, first in enumerate(range(0, total, shard_size))
    ]
    with _claimed(folder, identity, restart):
        entries = _finished(folder, tasks)
        todo = [task for task in tasks if task.number not in entries]
        n_new = sum(task.rows for task in todo)
        if progress is not None:
            progress(total - n_new, total)

        def made(number: int) -> None:
            if progress is not None and number:
                progress(total - n_new + number, total)

        making = _make_all(todo, _number_of_workers(workers, len(todo)), made)
        with contextlib.closing(making):  # ends the workers, whatever happens
            entries.update(making)
        shards = [entries[task.number] for task in tasks]
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


def _default_shard_size(recipe: Recipe) -> int:
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
    if workers >= 0:
        return min(workers, n_tasks)
    if n_tasks <= 1:
        return 0
    if hasattr(os, "sched_getaffinity"):
        return min(len(os.sched_getaffinity(0)), n_tasks)
    return min(os.cpu_count() or 1, n_tasks)


def _identity(recipe: Recipe, shard_size: int, make: Make) -> dict[str, Any]:
    """Everything that the bytes of the shards depend on."""
    return {
        "format": FORMAT,
        "versions": _versions(),
        "generator": f"{make.__module__}.{make.__qualname__}",
        "recipe": recipe.as_mapping(),
        "inputs": _input_hashes(recipe),
        "shard_size": shard_size,
    }


def _versions() -> dict[str, str]:
    found = {"autofit_ml": __version__}
    for name in ("galsim", "numpy", "scipy", "pyarrow"):
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def _input_hashes(recipe: Recipe) -> dict[str, str]:
    """sha256 of the files that a recipe names, of a folder's FITS files together."""
    hashes = {}
    correlation = recipe.survey.noise.correlation
    places = [recipe.survey.psf.folder, recipe.data.galaxies.real_folder]
    places.append(correlation if isinstance(correlation, Path) else None)
    for place in filter(None, places):
        try:
            if place.is_file():
                hashes[str(place)] = _sha256(place)
                continue
            parts = [f"{path.name} {_sha256(path)}" for path in sorted(place.glob("*.fits*"))]
        except OSError as error:
            raise InputError(
                f"cannot be read: {error.strerror or error}", "check its permissions", place
            ) from error
        hashes[str(place)] = hashlib.sha256("\n".join(parts).encode()).hexdigest()
    return hashes


def _make_shard(task: _Task, tick: Callable[[], None]) -> ShardEntry:
    """Make, write and record one shard; `tick` is called after each object."""
    schema, step = shard_schema(task.recipe), _objects_per_batch(task.recipe)
    path, end = task.folder / task.file, task.first + task.rows
    codec = pa.Codec("zstd", compression_level=_COMPRESSION_LEVEL)
    options = ipc.IpcWriteOptions(compression=codec, use_threads=False)
    with atomic_file(path) as file, ipc.new_file(file, schema, options=options) as writer:
        for first in range(task.first, end, step):
            objects = []
            for index in range(first, min(first + step, end)):
                with _object_named(index):
                    objects.append(task.make(task.recipe, index, task.recipe.data.seed))
                tick()
            with _object_named(first):
                batch = _encode(objects, first, schema)
            writer.write_batch(batch)
    entry = ShardEntry(task.file, task.rows, task.first, path.stat().st_size, _sha256(path))
    atomic_write_json(_journal(task.folder, task.number), asdict(entry))
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


def _journal(folder: Path, number: int) -> Path:
    return folder / _WORK / f"shard-{number:05d}.json"


def _finished(folder: Path, tasks: Sequence[_Task]) -> dict[int, ShardEntry]:
    """Shards that need not be made: number -> entry, of the manifest or of a journal."""
    listed: dict[str, ShardEntry] = {}
    with contextlib.suppress(InputError):
        listed = {entry.file: entry for entry in read_manifest(folder).shards}
    entries = {}
    for task in tasks:
        entry = _read_journal(_journal(folder, task.number)) or listed.get(task.file)
        if entry is None or (entry.file, entry.rows, entry.first) != (
            task.file,
            task.rows,
            task.first,
        ):
            continue
        if not _problem(folder, entry):
            entries[task.number] = entry
    return entries


def _read_journal(path: Path) -> ShardEntry | None:
    """None where there is none, or it is damaged: the shard is then made anew."""
    try:
        return ShardEntry(**json.loads(path.read_text("utf-8")))
    except (OSError, ValueError, TypeError):
        return None


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
            if not _problem(folder, sources):
                _forget_work(folder)
                return sources
    sources = _write_sources(folder, shard_schema(recipe), shards)
    content = {
        **identity,
        "recipe_sha256": recipe.digest,
        "seed": recipe.data.seed,
        "count": recipe.data.count,
        "batch_rows": _objects_per_batch(recipe),
        "shards": [asdict(entry) for entry in shards],
        "sources": asdict(sources),
    }
    atomic_write_json(folder / _MANIFEST, content)
    _forget_work(folder)
    return sources


def _forget_work(folder: Path) -> None:
    with _writing(folder):
        for path in (folder / _WORK).glob("shard-*.json"):
            path.unlink()
        (folder / _WORK / "state.json").unlink(missing_ok=True)


_UNITS = {"x": "pix", "y": "pix", "mag": "mag", "re": "pix", "pa": "deg"}


def _write_sources(folder: Path, columns: pa.Schema, shards: Sequence[ShardEntry]) -> ShardEntry:
    """`source_table` of all objects as Parquet; fields carry their unit."""
    schema = pa.schema(
        [
            pa.field("id", pa.string()),
            *(f.with_metadata({"unit": _UNITS.get(f.name, "")}) for f in _TRUTH),
        ]
    )
    path, rows = folder / _SOURCES, 0
    waiting: list[pa.RecordBatch] = []
    with (
        atomic_file(path) as file,
        pq.ParquetWriter(file, schema, compression="zstd") as writer,
    ):
        for entry in shards:
            for batch in _read_columns(folder / entry.file, columns, ["id", "truth"]):
                truth = batch.column("truth")
                ids = batch.column("id").take(pa.array(_list_parents(truth)))
                waiting.append(pa.record_batch([ids, *truth.flatten().flatten()], schema=schema))
            if sum(map(len, waiting)) >= _SOURCE_ROWS or entry is shards[-1]:
                table = pa.Table.from_batches(waiting, schema)
                rows += len(table)
                writer.write_table(table)
                waiting = []
    return ShardEntry(_SOURCES, rows, 0, path.stat().st_size, _sha256(path))


def _list_parents(lists: pa.ListArray) -> np.ndarray:
    """For each value of a list array the row that it belongs to."""
    lengths = lists.value_lengths().to_numpy()
    return np.repeat(np.arange(len(lists)), lengths)


def _read_columns(path: Path, schema: pa.Schema, names: list[str]) -> list[pa.RecordBatch]:
    """Some columns of one shard."""
    with _damage_named(path), pa.memory_map(str(path)) as mapped:
        reader = _open_columns(mapped, schema, names)
        return [reader.get_batch(i) for i in range(reader.num_record_batches)]


# --- worker processes -------------------------------------------------------------------------


def _make_all(
    tasks: Sequence[_Task], workers: int, made: Callable[[int], None]
) -> Generator[tuple[int, ShardEntry], None, None]:
    """(number, entry) of each shard; `made` gets the number of objects that are made, at times."""
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


def _make_in_workers(
    tasks: Sequence[_Task], workers: int, made: Callable[[int], None]
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
        with _surroundings_of_workers():
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
    """End when the main process closes its end of `lifeline`, or dies."""
    global _counter
    _counter = counter
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # where it cannot be blocked

    def watch() -> None:
        with contextlib.suppress(EOFError, OSError):
            lifeline.recv_bytes()  # nothing is ever sent: it returns when the pipe breaks
        os._exit(0)

    threading.Thread(target=watch, daemon=True).start()


def _make_in_worker(task: _Task) -> ShardEntry:
    def tick() -> None:
        with _counter.get_lock():
            _counter.value += 1

    return _make_shard(task, tick)


_ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@contextlib.contextmanager
def _surroundings_of_workers() -> Iterator[None]:
    """What a process that is started inside finds: one thread, no main module, no Ctrl-C.

    multiprocessing would run the caller's script again in every worker; they need nothing of it.
    Ctrl-C is for the main process: workers must not die of it while they are still importing. They
    inherit that it is blocked; here it is delivered a moment later.
    """
    before = {name: os.environ.get(name) for name in _ONE_THREAD}
    main = sys.modules["__main__"]
    can_block = hasattr(signal, "pthread_sigmask")
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT]) if can_block else set()
    sys.modules["__main__"] = ModuleType("__main__")
    os.environ.update(dict.fromkeys(_ONE_THREAD, "1"))
    try:
        yield
    finally:
        sys.modules["__main__"] = main
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        if can_block:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)


# --- the folder -------------------------------------------------------------------------------


@contextlib.contextmanager
def _claimed(folder: Path, identity: dict[str, Any], restart: bool) -> Iterator[None]:
    """Keep others out of a folder, and make sure that what it holds is (a part of) this set."""
    _refuse_foreign(folder)
    with _writing(folder):
        (folder / _WORK).mkdir(parents=True, exist_ok=True)
        (folder / _SHARDS).mkdir(exist_ok=True)
    with _locked(folder):
        state = folder / _WORK / "state.json"
        before = _recorded(folder, tolerant=restart)
        if restart or before.get("clearing"):
            _clear(folder)
            before = {}
        if before:
            _refuse_other_set(folder, before, identity)
        with _writing(folder):
            for part in (folder, folder / _WORK, folder / _SHARDS):
                remove_temporaries(part)
        if not before or not state.exists():
            atomic_write_json(state, identity)
        try:
            yield
        finally:
            with contextlib.suppress(OSError):  # what workers left that were ended
                remove_temporaries(folder / _SHARDS)


def _refuse_foreign(folder: Path) -> None:
    """Names of ours that this program did not write there."""
    if (folder / _WORK / "state.json").exists() or (folder / _WORK / "lock").exists():
        return
    with contextlib.suppress(OSError, ValueError):
        content = json.loads((folder / _MANIFEST).read_text("utf-8"))
        if isinstance(content, dict) and {"format", "generator"} <= set(content):
            return
    found = [name for name in (_MANIFEST, _SOURCES) if (folder / name).exists()]
    if (folder / _SHARDS).is_dir() and any((folder / _SHARDS).iterdir()):
        found.append(f"{_SHARDS}/")
    if found:
        raise ResumeError(
            f"it holds {', '.join(found)} that no run of this program left there",
            "move them away, or give another --out",
            folder,
        )


def _recorded(folder: Path, *, tolerant: bool) -> dict[str, Any]:
    """What the set in a folder depends on (see `_identity`); empty where there is none."""
    for path in (folder / _WORK / "state.json", folder / _MANIFEST):
        try:
            content = json.loads(path.read_text("utf-8"))
            if not isinstance(content, dict):
                raise TypeError("not the expected content")
        except FileNotFoundError:
            continue
        except (OSError, ValueError, TypeError) as error:
            if tolerant:
                continue
            raise ResumeError(
                "the record of the earlier run cannot be read", _ANEW, path
            ) from error
        return content
    return {}


def _refuse_other_set(folder: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    old = _flat({name: before.get(name) for name in now})
    new = _flat(json.loads(json.dumps(now)))
    changed = [
        f"{name}: {_shown(old, name)} -> {_shown(new, name)}"
        for name in sorted(set(old) | set(new))
        if old.get(name) != new.get(name)
    ]
    if changed:
        raise ResumeError(
            "this folder holds another set; " + "; ".join(changed),
            "use --restart to begin anew, another --out, or the old settings",
            folder,
        )


def _shown(values: Mapping[str, Any], name: str) -> str:
    return json.dumps(values[name]) if name in values else "(not set)"


def _flat(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, with dotted names."""
    out = {}
    for name, value in content.items():
        path = f"{prefix}{name}".removeprefix("recipe.")
        if isinstance(value, Mapping) and value:
            out.update(_flat(value, f"{prefix}{name}."))
        else:
            out[path] = value
    return out


def _clear(folder: Path) -> None:
    """Delete a set, and nothing else. A kill in the midst of it is continued by the next run."""
    atomic_write_json(folder / _WORK / "state.json", {"clearing": True})
    with _writing(folder):
        for name in (_MANIFEST, _SOURCES):
            (folder / name).unlink(missing_ok=True)
        for path in (folder / _SHARDS).iterdir():
            if _SHARD_NAME.fullmatch(path.name):
                path.unlink()
    _forget_work(folder)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep a second run out. The system drops the lock of a process that dies."""
    with _writing(folder):
        descriptor = os.open(folder / _WORK / "lock", os.O_RDWR | os.O_CREAT, 0o666)
    try:
        _take_lock(descriptor, folder)
        with contextlib.suppress(OSError):  # a full disk: only the name of the holder is lost
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()} on {platform.node()}".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _take_lock(descriptor: int, folder: Path) -> None:
    if fcntl is None:
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
            return  # a file system without locks
        holder = os.read(descriptor, 200).decode(errors="replace").strip() or "unknown"
        raise ResumeError(
            f"another run is writing there (process {holder})",
            "wait until it ends, or give another --out",
            folder,
        ) from error


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except AutofitError:
        raise
    except OSError as error:
        raise OutputError(
            f"cannot be written: {error.strerror or error}",
            "free some space, allow writing there, or give another --out; what was finished is "
            "kept: the same command continues",
            folder,
        ) from error
