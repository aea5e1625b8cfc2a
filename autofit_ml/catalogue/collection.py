"""Finished runs taken together: their catalogues, what made them, their posterior summaries."""

import glob
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from autofit_ml.catalogue.files import catalogue_path, read_catalogue_arrow
from autofit_ml.errors import InputError, errors_as

__all__ = [
    "POSTERIOR_NAME",
    "POSTERIOR_SCHEMA",
    "Runs",
    "found_runs",
    "joined_catalogues",
    "posterior_table",
    "runs_table",
]

POSTERIOR_NAME = "posterior.parquet"
"""Of a run that drew samples: one row for each object and parameter."""

Runs: TypeAlias = "str | Path | Sequence[str | Path]"

_TEXTS = pa.map_(pa.string(), pa.string())
_RUNS = pa.schema(
    [
        *((name, pa.string()) for name in ("run", "run_id", "settings_id", "data_id", "finished")),
        *((name, pa.int64()) for name in ("objects", "failed")),
        ("seconds", pa.float64()),
        *((name, _TEXTS) for name in ("settings", "versions", "weights", "inputs", "flags")),
    ]
)


def found_runs(results: Runs) -> list[Path]:
    """Results folders (or catalogue files) that are meant, each once, in order.

    Parameters
    ----------
    results : path, glob, or sequence of them
        What a glob matches and holds no catalogue is left out.

    Raises
    ------
    InputError
        A path that holds no catalogue; a glob that matches none; nothing at all.
    """
    names = [results] if isinstance(results, (str, Path)) else list(results)
    found: dict[Path, None] = {}
    for name in map(Path, names):
        if name.exists() or not glob.has_magic(str(name)):
            catalogue_path(name)
            found[name] = None
            continue
        matched = [Path(one) for one in sorted(glob.glob(str(name), recursive=True))]
        good = [one for one in matched if _holds_catalogue(one)]
        if not good:
            raise InputError("matches no results folder", "give folders that a fit wrote", name)
        found |= dict.fromkeys(good)
    if not found:
        raise InputError("no results are given", "give a results folder, several, or a glob")
    return list(found)


def _holds_catalogue(path: Path) -> bool:
    try:
        return path.is_dir() and catalogue_path(path).is_file()
    except InputError:
        return False


def joined_catalogues(runs: Sequence[Path]) -> pa.Table:
    """The catalogues of some runs as one, with ``run``: the folder of each row.

    What a run has no column for, or NaN, is null. Covariances of different models are lists of
    different lengths.
    """
    tables = []
    for path in runs:
        table = read_catalogue_arrow(path, of_fits=False)
        columns = [_without_nan(column) for column in table.columns]
        fields = [
            field.with_type(column.type)
            for field, column in zip(table.schema, columns, strict=True)
        ]
        about = {"description": "Results folder"}
        fields.append(pa.field("run", pa.string(), metadata=about))
        columns.append(pa.array([str(path)] * len(table), pa.string()))
        tables.append(pa.Table.from_arrays(columns, schema=pa.schema(fields)))
    return pa.concat_tables(tables, promote_options="permissive")


def _without_nan(column: pa.ChunkedArray) -> pa.ChunkedArray:
    if pa.types.is_floating(column.type):
        return pc.if_else(pc.is_nan(column), pa.scalar(None, column.type), column)
    if pa.types.is_fixed_size_list(column.type):
        return column.cast(pa.list_(column.type.value_type))
    return column


def runs_table(runs: Iterable[Path]) -> pa.Table:
    """One row a run, from its run.json: identifiers, counts, settings, versions.

    ``settings``, ``versions``, ``weights``, ``inputs`` (file -> sha256) and ``flags`` (name ->
    objects) are maps of texts.
    """
    rows: list[dict[str, Any]] = []
    for path in runs:
        about = run_record(path)
        names = {f"{name}_id": text for name, text in about.get("identifiers", {}).items()}
        counts, times = about.get("counts", {}), about.get("timings", {})
        row = dict.fromkeys(_RUNS.names) | names | {"run": str(path)}
        row |= {name: counts.get(name) for name in ("objects", "failed")}
        row |= {"finished": times.get("finished"), "seconds": times.get("object_seconds")}
        parts = {name: about.get(name, {}) for name in ("settings", "versions", "weights")}
        parts |= {"inputs": about.get("inputs", {}), "flags": counts.get("flags", {})}
        row |= {name: _texts(values) for name, values in parts.items()}
        rows.append({name: row[name] for name in _RUNS.names})
    return pa.Table.from_pylist(rows, schema=_RUNS)


def _texts(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(name, "" if value is None else str(value)) for name, value in values.items()]


def run_record(path: Path) -> dict[str, Any]:
    """The run.json of a run; empty for a catalogue file without one.

    Raises
    ------
    InputError
        It is damaged.
    """
    file = (path if path.is_dir() else path.parent) / "run.json"
    try:
        about = json.loads(file.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise InputError(f"cannot be read: {error}", "run the same command again", file) from error
    if not isinstance(about, dict):
        raise InputError("is not a JSON object", "run the same command again", file)
    return about


def posterior_table(runs: Iterable[Path]) -> pa.Table:
    """Summaries of the samples of some runs: a row for each object and parameter.

    Columns ``run``, ``id``, ``parameter``, ``mean``, ``sd``, ``low``, ``median``, ``high`` (the
    ends of the central 68.3 %), ``rhat``, ``ess_bulk``, ``ess_tail``, ``draws``. Runs without
    samples have no rows.
    """
    tables = []
    for path in runs:
        file = (path if path.is_dir() else path.parent) / POSTERIOR_NAME
        if file.is_file():
            with (
                errors_as(
                    InputError,
                    "cannot be read",
                    "delete it and run again",
                    file,
                    of=(pa.ArrowException, OSError),
                ),
                pq.ParquetFile(file) as parquet,
            ):
                table = parquet.read()
            tables.append(table.append_column("run", pa.array([str(path)] * len(table))))
    if not tables:
        return POSTERIOR_SCHEMA.append(pa.field("run", pa.string())).empty_table()
    return pa.concat_tables(tables)


POSTERIOR_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("id", "parameter")),
        *((name, pa.float64()) for name in ("mean", "sd", "low", "median", "high")),
        *((name, pa.float64()) for name in ("rhat", "ess_bulk", "ess_tail")),
        ("draws", pa.int64()),
    ]
)
