"""Rows of the catalogue in memory: filled by the pipeline, turned into an Arrow table here."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from autofit_ml.catalogue.arrow import arrow_array
from autofit_ml.catalogue.flags import Flag, usable
from autofit_ml.catalogue.schema import Column, columns_for

__all__ = [
    "FAILED",
    "OK",
    "arrow_schema",
    "covariance_matrix",
    "empty_rows",
    "pack_covariance",
    "rows_to_table",
]

OK = "ok"
FAILED = "failed"

_ARROW_TYPES = {
    "str": pa.string(),
    "bool": pa.bool_(),
    "int32": pa.int32(),
    "float64": pa.float64(),
}
_BLANKS: dict[str, tuple[Any, Any]] = {
    "str": (object, ""),
    "bool": (bool, False),
    "int32": (np.int32, 0),
    "float64": (np.float64, np.nan),
}


def empty_rows(n: int, columns: Sequence[Column] | None = None) -> dict[str, np.ndarray]:
    """Rows of `n` failed objects, to be overwritten where a fit succeeds.

    Parameters
    ----------
    n : int
    columns : sequence of Column, optional
        Of the catalogue; `columns_for` of a single Sersic profile by default.

    Returns
    -------
    rows : dict of ndarray, shape (n,); ``cov`` has shape (n, 36)
        In the schema's order: floats NaN, integers 0, strings "" (object arrays), except
        ``status`` "failed" and ``flags`` FAILED.
    """
    rows = {}
    for column in columns_for() if columns is None else columns:
        dtype, blank = _BLANKS[column.dtype]
        shape = (n,) if column.size == 1 else (n, column.size)
        rows[column.name] = np.full(shape, blank, dtype=dtype)
    rows["status"][:] = FAILED
    rows["flags"][:] = int(Flag.FAILED)
    return rows


def pack_covariance(matrix: np.ndarray) -> np.ndarray:
    """Lower triangles, row by row, of covariance matrices.

    Parameters
    ----------
    matrix : ndarray, shape (..., p, p)
        Parameters in the order of `covariance_order`.

    Returns
    -------
    packed : ndarray, float64, shape (..., p (p + 1) / 2)
    """
    matrix = np.asarray(matrix, dtype=np.float64)
    rows, columns = np.tril_indices(matrix.shape[-1])
    return matrix[..., rows, columns]


def covariance_matrix(packed: np.ndarray) -> np.ndarray:
    """Symmetric matrices from the ``cov`` column: the inverse of `pack_covariance`.

    Parameters
    ----------
    packed : ndarray, shape (..., p (p + 1) / 2)

    Returns
    -------
    matrix : ndarray, float64, shape (..., p, p)

    Raises
    ------
    ValueError
        The last axis is not the length of a triangle.
    """
    packed = np.asarray(packed, dtype=np.float64)
    size = packed.shape[-1]
    p = int((np.sqrt(8 * size + 1) - 1) / 2 + 0.5)
    if p * (p + 1) // 2 != size:
        raise ValueError(f"{size} numbers are not the lower triangle of a square matrix")
    rows, columns = np.tril_indices(p)
    matrix = np.empty((*packed.shape[:-1], p, p))
    matrix[..., rows, columns] = packed
    matrix[..., columns, rows] = packed
    return matrix


def arrow_schema(columns: Sequence[Column], metadata: Mapping[str, str] | None = None) -> pa.Schema:
    """The Arrow schema of `columns`; fields carry ``unit`` and ``description``."""
    fields = []
    for column in columns:
        dtype = _ARROW_TYPES[column.dtype]
        if column.size > 1:
            dtype = pa.list_(dtype, column.size)
        about = {"unit": column.unit, "description": column.description}
        fields.append(pa.field(column.name, dtype, metadata=about))
    return pa.schema(fields, metadata=dict(metadata) if metadata else None)


def _texts(values: Any) -> list[str]:
    """Strings that UTF-8 can carry: undecodable bytes of file names become escapes."""
    return [str(value).encode("utf-8", "backslashreplace").decode("utf-8") for value in values]


def rows_to_table(
    rows: Mapping[str, Any],
    columns: Sequence[Column] | None = None,
    *,
    metadata: Mapping[str, str] | None = None,
) -> pa.Table:
    """Check rows and turn them into an Arrow table.

    Three rules of the catalogue are enforced here, so that no writer can break them: ``use``
    follows from ``flags`` (what `rows` says of it is ignored); ``flags`` has FAILED exactly where
    ``status`` is "failed"; a failed row holds no fitted number (NaN, 0 for counts), only what
    is known without a fit (`Column.known_without_fit`).

    Parameters
    ----------
    rows : mapping of str to array-like, each of length n
        All of `columns`, no others (start from `empty_rows`).
    columns : sequence of Column, optional
        As for `empty_rows`.
    metadata : mapping of str to str, keyword-only, optional
        About the whole table: versions, settings hash. Must be the same for all shards of a run.

    Returns
    -------
    table : pyarrow.Table
        Field metadata ``unit`` and ``description``, table metadata as given.

    Raises
    ------
    ValueError
        Columns missing, unknown or of unequal length, ids empty or repeated, a status other
        than "ok" and "failed".
    """
    columns = columns_for() if columns is None else columns
    missing = [column.name for column in columns if column.name not in rows]
    unknown = sorted(set(rows) - {column.name for column in columns})
    if missing or unknown:
        raise ValueError(f"columns missing: {missing or 'none'}; unknown: {unknown or 'none'}")

    n = len(rows["id"])
    values: dict[str, Any] = {}
    for column in columns:
        if column.dtype == "str":
            value: Any = _texts(rows[column.name])
        else:
            value = np.array(rows[column.name], dtype=_BLANKS[column.dtype][0])
        shape = (len(value),) if column.dtype == "str" else value.shape
        expected = (n,) if column.size == 1 else (n, column.size)
        if shape != expected and not (n == 0 and len(value) == 0):
            raise ValueError(f"column {column.name} has shape {shape}, not {expected}")
        values[column.name] = value

    if "" in values["id"]:
        raise ValueError("an id is empty")
    if len(set(values["id"])) != n:
        raise ValueError("an id is repeated")
    wrong = sorted(set(values["status"]) - {OK, FAILED})
    if wrong:
        raise ValueError(f"status must be {OK!r} or {FAILED!r}, not {wrong}")

    failed = np.array([status == FAILED for status in values["status"]], dtype=bool)
    flags = values["flags"]
    flags[failed] |= int(Flag.FAILED)
    flags[~failed] &= ~int(Flag.FAILED)
    values["use"] = usable(flags)
    for column in columns:
        if column.dtype == "float64" and not column.known_without_fit:
            values[column.name][failed] = np.nan
        elif column.dtype == "int32" and column.name != "flags":
            values[column.name][failed] = 0

    schema = arrow_schema(columns, metadata)
    arrays = [arrow_array(values[field.name], field.type) for field in schema]
    return pa.Table.from_arrays(arrays, schema=schema)
