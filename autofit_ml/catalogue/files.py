"""The catalogue on disk: shards while a run goes on, Parquet and FITS when it ends, and back."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import astropy.units as u
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from astropy.io import fits
from astropy.table import Column as TableColumn
from astropy.table import QTable, Table
from astropy.table.meta import get_yaml_from_table

from autofit_ml.catalogue.arrow import numpy_values
from autofit_ml.catalogue.atomic import atomic_file
from autofit_ml.catalogue.fits_table import catalogue_hdus, table_from_hdu
from autofit_ml.catalogue.rows import arrow_schema, rows_to_table
from autofit_ml.catalogue.schema import Column, columns_for
from autofit_ml.errors import InputError, OutputError

__all__ = [
    "FITS_NAME",
    "PARQUET_NAME",
    "catalogue_path",
    "copy_shard",
    "merge_shards",
    "read_catalogue",
    "read_catalogue_arrow",
    "shard_ids",
    "table_to_qtable",
    "write_catalogue_files",
    "write_shard",
]

PARQUET_NAME = "catalog.parquet"
FITS_NAME = "catalog.fits"

_ASTROPY_HEADER, _ASTROPY_LENGTH = "table_meta_yaml", "table::len::"
"""Schema metadata that astropy writes and reads (astropy.io.misc.parquet)."""

_REFIT = "delete this file and run the same command again: its objects are fitted anew"


def write_shard(
    path: str | Path,
    rows: Mapping[str, Any],
    metadata: Mapping[str, str] | None = None,
    columns: Sequence[Column] | None = None,
) -> None:
    """Write the rows of one batch, complete or not at all.

    Parameters
    ----------
    path : path
        A Parquet file, by convention ``results/.work/shards/<number>.parquet``.
    rows : mapping of str to array-like
        See `rows_to_table`.
    metadata : mapping of str to str, optional
        Versions and settings hash; the same for every shard of a run.
    columns : sequence of Column, optional
        See `rows_to_table`; the same for every shard of a run.

    Raises
    ------
    OutputError
        Disk full, no permission, ...: nothing is left half-written.
    ValueError
        `rows` break the schema (see `rows_to_table`).
    """
    table = rows_to_table(rows, columns, metadata=metadata)
    with atomic_file(path) as file:
        pq.write_table(table, file, compression="zstd")


def _read_shard(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    try:
        with pq.ParquetFile(path) as file:
            return file.read(columns=columns)
    except FileNotFoundError as error:
        raise OutputError("a part of the catalogue is missing", _REFIT, path) from error
    except (pa.ArrowException, OSError) as error:
        raise OutputError(
            f"a part of the catalogue cannot be read: {error}", _REFIT, path
        ) from error


def copy_shard(path: str | Path, copy: str | Path, without: Collection[str]) -> None:
    """Write a shard again without the rows of some objects.

    Raises
    ------
    OutputError
        It cannot be read, or the copy cannot be written.
    """
    table = _read_shard(Path(path))
    gone = pc.is_in(table.column("id"), value_set=pa.array(sorted(without), pa.string()))
    with atomic_file(copy) as file:
        pq.write_table(table.filter(pc.invert(gone)), file, compression="zstd")


def shard_ids(path: str | Path) -> list[str]:
    """Ids of the objects in a shard: what a resumed run need not do again.

    Raises
    ------
    OutputError
        The shard is missing or cannot be read.
    """
    return _read_shard(Path(path), ["id"]).column("id").to_pylist()


def merge_shards(
    shards: Sequence[str | Path],
    out_dir: str | Path,
    order: Sequence[str] | None = None,
) -> pa.Table:
    """Merge shards into ``catalog.parquet`` and ``catalog.fits``.

    Both are written completely before either takes its name; the shards are left in place.
    The table is held in memory (about 1.3 kB a row).

    Parameters
    ----------
    shards : sequence of paths
        May be empty: the catalogue then has no rows.
    out_dir : path
    order : sequence of str, optional
        Ids in the order wanted, each exactly once; default: as in the shards.

    Returns
    -------
    table : pyarrow.Table
        The catalogue.

    Raises
    ------
    OutputError
        A shard cannot be read or belongs to another run, an id occurs twice, ids and `order`
        differ, or the catalogue cannot be written.
    """
    tables: list[pa.Table] = []
    for path in map(Path, shards):
        table = _read_shard(path)
        if tables and not table.schema.equals(tables[0].schema, check_metadata=True):
            raise OutputError(
                f"holds other columns or settings than {shards[0]}",
                "the folder holds parts of different runs: use --restart, or another --out",
                path,
            )
        tables.append(table)
    catalogue = pa.concat_tables(tables or [arrow_schema(columns_for()).empty_table()])
    catalogue = _in_order(catalogue, order, Path(out_dir))
    write_catalogue_files(catalogue, out_dir)
    return catalogue


def write_catalogue_files(catalogue: pa.Table, out_dir: str | Path) -> None:
    """Write ``catalog.parquet`` and ``catalog.fits``, both completely before either has its name.

    Raises
    ------
    OutputError
        They cannot be written.
    """
    out_dir = Path(out_dir)
    with (
        atomic_file(out_dir / FITS_NAME) as fits_file,
        atomic_file(out_dir / PARQUET_NAME) as parquet_file,
    ):
        pq.write_table(_for_astropy(catalogue), parquet_file, compression="zstd")
        catalogue_hdus(catalogue).writeto(fits_file)


def _for_astropy(table: pa.Table) -> pa.Table:
    """Add the metadata in which `astropy.table.Table.read` finds units, descriptions, lengths."""
    empty = Table()
    metadata = dict(table.schema.metadata or {})
    for field in table.schema:
        about = {key.decode(): text.decode() for key, text in (field.metadata or {}).items()}
        kind: Any
        if pa.types.is_string(field.type):
            length = pc.max(pc.utf8_length(table.column(field.name))).as_py() or 1
            metadata[f"{_ASTROPY_LENGTH}{field.name}".encode()] = str(length).encode()
            kind = f"U{length}"
        elif pa.types.is_fixed_size_list(field.type):
            kind = (field.type.value_type.to_pandas_dtype(), (field.type.list_size,))
        else:
            kind = field.type.to_pandas_dtype()
        unit, text = about.get("unit") or None, about.get("description") or None
        empty[field.name] = TableColumn(np.zeros(0, kind), unit=unit, description=text)
    metadata[_ASTROPY_HEADER.encode()] = "\n".join(get_yaml_from_table(empty)).encode()
    return table.replace_schema_metadata(metadata)


def _in_order(table: pa.Table, order: Sequence[str] | None, out_dir: Path) -> pa.Table:
    """Rows of `table` in `order`, after checking that every id is there once."""
    ids = table.column("id").to_pylist()
    _refuse_repeats(ids, "the parts of the catalogue", out_dir)
    if order is None:
        return table
    _refuse_repeats(order, "the list of objects", out_dir)
    where = {name: i for i, name in enumerate(ids)}
    missing = [name for name in order if name not in where]
    extra = sorted(set(ids) - set(order))
    if missing or extra:
        raise OutputError(
            f"objects without a row: {_some(missing)}; rows without an object: {_some(extra)}",
            "run the same command again to fit what is missing, or use --restart",
            out_dir,
        )
    indices = [where[name] for name in order]
    return table if indices == list(range(len(indices))) else table.take(indices)


def _refuse_repeats(ids: Sequence[str], where: str, out_dir: Path) -> None:
    repeated = [name for name, count in Counter(ids).items() if count > 1]
    if repeated:
        raise OutputError(
            f"ids occur more than once in {where}: {_some(repeated)}",
            "give every object its own id, or use --restart if the run was changed",
            out_dir,
        )


def _some(names: Sequence[str], limit: int = 5) -> str:
    """Up to `limit` names, and how many more."""
    if not names:
        return "none"
    text = ", ".join(names[:limit])
    return f"{text} and {len(names) - limit} more" if len(names) > limit else text


# --- reading ----------------------------------------------------------------------------------

_GIVE = "give a results folder, its catalog.parquet or its catalog.fits"


def catalogue_path(path: str | Path) -> Path:
    """The catalogue file meant by `path` (a results folder or the file itself).

    Raises
    ------
    InputError
        There is none.
    """
    path = Path(path)
    if path.is_file():
        return path
    for name in (PARQUET_NAME, FITS_NAME):
        if (path / name).is_file():
            return path / name
    if path.is_dir():
        raise InputError(
            f"holds no {PARQUET_NAME} or {FITS_NAME}",
            "the run may not be finished: run the same command again to complete it",
            path,
        )
    raise InputError("no such file or folder", _GIVE, path)


def read_catalogue_arrow(path: str | Path, *, of_fits: bool = True) -> pa.Table:
    """Read a catalogue as an Arrow table; see `read_catalogue`.

    `of_fits`: one of another kind (the sources of frames) is refused.
    """
    file = catalogue_path(path)
    try:
        if file.suffix.lower() == ".parquet":
            with pq.ParquetFile(file) as parquet:
                table = _own_metadata(parquet.read())
        else:
            with fits.open(file) as hdus:
                table = table_from_hdu(hdus["CATALOG"])
    except InputError as error:
        raise InputError(error.problem, error.remedy, file) from error
    except KeyError as error:
        raise InputError("has no table called CATALOG", _GIVE, file) from error
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"cannot be read as a catalogue: {error}", _GIVE, file) from error
    missing = [name for name in ("id", *("status",) * of_fits) if name not in table.column_names]
    if missing:
        raise InputError(
            f"is not a catalogue of {'fits' if of_fits else 'autofit-ml'}: no column "
            f"{' or '.join(missing)}",
            _GIVE,
            file,
        )
    return table


def _own_metadata(table: pa.Table) -> pa.Table:
    """Without what is there for astropy."""
    kept = {
        key: text
        for key, text in (table.schema.metadata or {}).items()
        if not key.decode().startswith((_ASTROPY_HEADER, _ASTROPY_LENGTH))
    }
    return table.replace_schema_metadata(kept or None)


def read_catalogue(path: str | Path) -> QTable:
    """Read the catalogue of a run.

    Parameters
    ----------
    path : path
        A results folder (its Parquet file is preferred), a ``catalog.parquet`` or a
        ``catalog.fits``.

    Returns
    -------
    table : astropy.table.QTable
        One row per object; columns with a unit are `Quantity`, descriptions are in
        ``column.info.description``, ``cov`` has shape (n, 36), and ``table.meta`` holds the
        run's metadata. Both file forms give the same table.

    Raises
    ------
    InputError
        Nothing there, or not a catalogue.
    """
    return table_to_qtable(read_catalogue_arrow(path))


def table_to_qtable(table: pa.Table) -> QTable:
    """A catalogue in Arrow as a `QTable` (see `read_catalogue`)."""
    result = QTable()
    for field in table.schema:
        about = field.metadata or {}
        values = table.column(field.name)
        if pa.types.is_string(field.type):
            texts = values.to_pylist()
            width = max((len(text) for text in texts), default=0) or 1
            array = TableColumn(texts, dtype=f"U{width}")
        else:
            array = numpy_values(values).copy()
        unit = about.get(b"unit", b"").decode()
        result[field.name] = u.Quantity(array, u.Unit(unit), copy=False) if unit else array
        result[field.name].info.description = about.get(b"description", b"").decode()
    result.meta.update(
        {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
    )
    return result
