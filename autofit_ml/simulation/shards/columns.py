"""Objects as rows: which columns there are, and how an object gets into them and out again."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from autofit_ml.images.stamp import PSF
from autofit_ml.simulation.objects import SOURCE_DTYPE, SimulatedObject, SourceLight
from autofit_ml.simulation.psf import PSFGrid
from autofit_ml.simulation.sources import Component, Source

if TYPE_CHECKING:
    from autofit_ml.simulation.recipe import Recipe

__all__ = [
    "FORMAT",
    "PLANES",
    "TRUTH",
    "decode",
    "encode",
    "light_of",
    "objects_per_batch",
    "plane_of",
    "psf_grid_of",
    "psf_of",
    "schema_of",
    "shape_of",
    "shard_schema",
    "truth_of",
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
_SOURCE_NUMBERS = ("x", "y", "flux", "re", "n", "q", "pa")
_COMPONENT_NUMBERS = (
    *("flux", "re", "n", "q", "pa", "thickness", "amplitude", "pitch", "phase"),
    *("knot_sigma", "reach"),
)

_BATCH_BYTES = 1 << 18
"""Pixels of a record batch, uncompressed: what one random access has to decompress."""


# --- schema -----------------------------------------------------------------------------------


def _struct(**fields: pa.DataType) -> pa.DataType:
    return pa.struct(list(fields.items()))


_ARROW_OF = {"i": pa.int32(), "f": pa.float64(), "U": pa.string(), "b": pa.bool_()}
_SIZE = {"ny": pa.int32(), "nx": pa.int32()}
_SAMPLING = {"oversampling": pa.int32(), "has_pixel": pa.bool_()}
_FLOATS = pa.list_(pa.float32())

TRUTH = _struct(**{name: _ARROW_OF[SOURCE_DTYPE[name].kind] for name in SOURCE_DTYPE.names or ()})
"""`SOURCE_DTYPE` as an Arrow struct."""

_COMPONENT = _struct(
    source=pa.int32(),
    kind=pa.string(),
    **dict.fromkeys(_COMPONENT_NUMBERS, pa.float64()),
    offsets=pa.list_(pa.float64()),
)
_PSF = _struct(**_SIZE, **_SAMPLING, source=pa.string(), data=_FLOATS)
_PSF_GRID = _struct(rows=pa.int32(), columns=pa.int32(), **_SIZE, **_SAMPLING, data=_FLOATS)
_BOX = _struct(y0=pa.int32(), x0=pa.int32(), **_SIZE, data=_FLOATS)
_KERNEL = _struct(**_SIZE, data=pa.list_(pa.float64()))


def shard_schema(recipe: "Recipe") -> pa.Schema:
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
    return schema_of(recipe.data.labels.noise_free, recipe.data.labels.light)


def schema_of(noise_free: bool, light: bool) -> pa.Schema:
    """Columns of the shards of all recipes with these two labels; see `shard_schema`."""
    planes = [name for name in PLANES if noise_free or name not in _NOISE_FREE]
    fields = [
        ("index", pa.int64()),
        *((name, pa.string()) for name in _TEXTS),
        *_SIZE.items(),
        *((name, pa.list_(pa.from_numpy_dtype(PLANES[name]))) for name in planes),
        ("psf", _PSF),
        ("psf_grid", _PSF_GRID),
        ("correlation", _KERNEL),
        *([("light", pa.list_(_BOX))] if light else []),
        *((name, pa.float64()) for name in _NUMBERS),
        ("flags", pa.int32()),
        ("truth", pa.list_(TRUTH)),
        ("components", pa.list_(_COMPONENT)),
    ]
    return pa.schema(fields, metadata={"autofit-ml simulated set": str(FORMAT)})


def objects_per_batch(recipe: "Recipe") -> int:
    """Rows of a record batch: as many as have about 256 kB of pixels, at least one."""
    ny, nx = recipe.data.shape
    names = set(shard_schema(recipe).names)
    pixel = sum(dtype.itemsize for name, dtype in PLANES.items() if name in names)
    return max(1, _BATCH_BYTES // (ny * nx * pixel))


# --- from an object to a row ------------------------------------------------------------------


def encode(objects: Sequence[SimulatedObject], first: int, schema: pa.Schema) -> pa.RecordBatch:
    """Objects `first`, `first` + 1, ... as a record batch.

    Raises
    ------
    ValueError
        A plane has not the shape of `data`.
    """
    rows = [_row(item, index) for index, item in enumerate(objects, first)]
    arrays = [pa.array([row[field.name] for row in rows], field.type) for field in schema]
    return pa.record_batch(arrays, schema=schema)


def _row(item: SimulatedObject, index: int) -> dict[str, Any]:
    ny, nx = item.data.shape
    psf, grid = item.psf, item.psf_grid
    return {
        "index": index,
        "ny": ny,
        "nx": nx,
        "flags": int(item.flags),
        **{name: getattr(item, name) for name in _TEXTS},
        **{name: float(getattr(item, name)) for name in _NUMBERS},
        **{name: _pixels(item, name, dtype) for name, dtype in PLANES.items()},
        "psf": _image(psf.data) | _sampling(psf) | {"source": psf.source},
        "psf_grid": None if grid is None else _grid(grid),
        "correlation": None if item.correlation is None else _image(item.correlation, np.float64),
        "light": None
        if item.light is None
        else [{"y0": box.y0, "x0": box.x0} | _image(box.data) for box in item.light],
        "truth": [
            dict(zip(SOURCE_DTYPE.names or (), row, strict=True)) for row in item.truth.tolist()
        ],
        "components": [
            {"source": number} | _component(part)
            for number, source in enumerate(item.sources)
            for part in source.components
        ],
    }


def _pixels(item: SimulatedObject, name: str, dtype: np.dtype) -> np.ndarray | None:
    plane = getattr(item, name)
    if plane is None:
        return None
    if plane.shape != item.data.shape:
        raise ValueError(f"{name} has the shape {plane.shape}, data {item.data.shape}")
    return _flat(plane, dtype)


def _flat(array: np.ndarray, dtype: Any) -> np.ndarray:
    return np.ascontiguousarray(array, dtype=dtype).ravel()


def _image(array: np.ndarray, dtype: type = np.float32) -> dict[str, Any]:
    return {"ny": array.shape[0], "nx": array.shape[1], "data": _flat(array, dtype)}


def _sampling(psf: PSF | PSFGrid) -> dict[str, Any]:
    return {name: getattr(psf, name) for name in _SAMPLING}


def _grid(grid: PSFGrid) -> dict[str, Any]:
    sizes = dict(zip(("rows", "columns", "ny", "nx"), grid.data.shape, strict=True))
    return {**sizes, **_sampling(grid), "data": _flat(grid.data, np.float32)}


def _component(part: Component) -> dict[str, Any]:
    numbers = {name: float(getattr(part, name)) for name in _COMPONENT_NUMBERS}
    offsets = None if part.offsets is None else _flat(part.offsets, np.float64)
    return {"kind": part.kind, **numbers, "offsets": offsets}


# --- from a row to an object ------------------------------------------------------------------


def decode(batch: pa.RecordBatch, row: int) -> SimulatedObject:
    """The object of a row of all columns; planes that are not stored are NaN."""

    def scalar(name: str) -> Any:
        return batch.column(name)[row].as_py()

    planes: dict[str, Any] = {}
    for name in PLANES:
        if name in batch.schema.names:
            plane = plane_of(batch, row, name)
            planes[name] = None if plane is None else plane.copy()
        else:
            planes[name] = np.broadcast_to(np.float32(np.nan), shape_of(batch, row))
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


def plane_of(batch: pa.RecordBatch, row: int, name: str) -> np.ndarray | None:
    """One plane of one object, read-only, shape (ny, nx); None where it is null."""
    value = batch.column(name)[row]
    if not value.is_valid:
        return None
    return value.values.to_numpy(zero_copy_only=True).reshape(shape_of(batch, row))


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
    about = {name: value[name].as_py() for name in (*_SAMPLING, "source")}
    return PSF(_image_of(value), **about)


def psf_grid_of(batch: pa.RecordBatch, row: int) -> PSFGrid | None:
    """The varying PSF of one frame; None for a stamp."""
    value = batch.column("psf_grid")[row]
    if not value.is_valid:
        return None
    nodes = value["rows"].as_py(), value["columns"].as_py()
    about = {name: value[name].as_py() for name in _SAMPLING}
    return PSFGrid(_image_of(value, nodes), shape_of(batch, row), **about)


def light_of(batch: pa.RecordBatch, row: int) -> tuple[SourceLight, ...] | None:
    """Every source's own light of one object; None where it is not stored."""
    value = batch.column("light")[row] if "light" in batch.schema.names else None
    if value is None or not value.is_valid:
        return None
    return tuple(SourceLight(box["y0"].as_py(), box["x0"].as_py(), _image_of(box)) for box in value)


def shape_of(batch: pa.RecordBatch, row: int) -> tuple[int, int]:
    """(ny, nx) of one object."""
    return batch.column("ny")[row].as_py(), batch.column("nx")[row].as_py()


def _image_of(value: pa.StructScalar, nodes: tuple[int, ...] = ()) -> np.ndarray:
    shape = *nodes, value["ny"].as_py(), value["nx"].as_py()
    return value["data"].values.to_numpy().reshape(shape).copy()


def _sources_of(truth: np.ndarray, parts: Sequence[Mapping[str, Any]]) -> tuple[Source, ...]:
    components: dict[int, list[Component]] = {}
    for part in parts:
        values = {name: part[name] for name in ("kind", *_COMPONENT_NUMBERS)}
        offsets = None if part["offsets"] is None else np.reshape(part["offsets"], (-1, 3))
        components.setdefault(part["source"], []).append(Component(**values, offsets=offsets))
    return tuple(
        Source(
            **{name: float(row[name]) for name in _SOURCE_NUMBERS},
            components=tuple(components.get(number, ())),
            morphology=str(row["kind"]),
        )
        for number, row in enumerate(truth)
    )
