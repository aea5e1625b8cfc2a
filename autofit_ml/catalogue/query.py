"""SQL on a finished catalogue."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
from pyarrow.dataset import Dataset, dataset

from autofit_ml.catalogue.flags import FATAL, Flag
from autofit_ml.catalogue.reader import read_catalogue_arrow
from autofit_ml.errors import SettingsError

__all__ = ["query"]


_ALONE: dict[str, Any] = {
    "enable_external_access": False,  # no files, ATTACH, COPY, INSTALL, LOAD, network
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
    "python_enable_replacements": False,  # variables of this program are no tables
    "temp_directory": "",
}


def _macros() -> list[str]:
    """SQL functions over the ``flags`` column, built from `Flag`."""
    bits = " ".join(f"WHEN '{flag.name}' THEN {int(flag)}" for flag in Flag)
    names = ", ".join(f"CASE WHEN flags & {int(flag)} <> 0 THEN '{flag.name}' END" for flag in Flag)
    return [
        f"CREATE MACRO flag_bit(name) AS CASE upper(name) {bits} "
        + "ELSE error('no flag is called ' || name) END",
        "CREATE MACRO has_flag(flags, name) AS (flags & flag_bit(name)) <> 0",
        f"CREATE MACRO has_fatal_flag(flags) AS (flags & {int(FATAL)}) <> 0",
        f"CREATE MACRO flag_names(flags) AS list_filter([{names}], lambda f: f IS NOT NULL)",
    ]


def query(results: str | Path, sql: str) -> pa.Table:
    """Answer a question about a catalogue with SQL (DuckDB's dialect).

    Parameters
    ----------
    results : path
        A results folder, that of a survey, or a catalogue file (see `read_catalogue`).
    sql : str
        One SELECT on the view ``catalog``, whose columns are those of the catalogue. NaN is a
        value in SQL (it sorts last and equals itself): leave it out with ``isfinite(re)`` or
        ``status = 'ok'``. On the ``flags`` column: ``has_flag(flags, 'EDGE')``,
        ``has_fatal_flag(flags)``, ``flag_names(flags)`` and ``flag_bit('EDGE')``.

    Returns
    -------
    table : pyarrow.Table
        Of columns of the same name (``SELECT a.id, b.id ...``) the second is called ``id_1``.

    Raises
    ------
    InputError
        There is no catalogue.
    SettingsError
        The SQL is wrong, or not one SELECT (files and further extensions are out of reach).

    Examples
    --------
    >>> query("results", "SELECT id, re FROM catalog WHERE use AND n > 4")  # doctest: +SKIP
    """
    catalogue = _rows_of(results)
    with duckdb.connect(":memory:", config=_ALONE) as connection:
        connection.register("catalog", catalogue)
        for macro in _macros():
            connection.execute(macro)
        connection.execute("SET lock_configuration = true")
        try:
            kinds = [statement.type for statement in connection.extract_statements(sql)]
            if kinds in ([duckdb.StatementType.SELECT], [duckdb.StatementType.EXPLAIN]):
                table = connection.sql(sql).to_arrow_table()
                return _described(table.rename_columns(_different(table.column_names)), catalogue)
        except (duckdb.Error, pa.ArrowException, RuntimeError, TypeError, UnicodeError) as error:
            raise SettingsError(f"the query failed: {error}", _remedy(catalogue)) from error
    raise SettingsError("the query is not one SELECT", _remedy(catalogue))


def _rows_of(results: str | Path) -> pa.Table | Dataset:
    """The catalogue of a run; the tiles of a survey, of which a query reads what it needs."""
    tiles = sorted(Path(results).glob("tiles/*/*.parquet"))
    if tiles and (Path(results) / "survey.json").is_file():
        return dataset(tiles)
    return read_catalogue_arrow(results)


def _described(table: pa.Table, catalogue: pa.Table | Dataset) -> pa.Table:
    """Add units and descriptions to columns with name and type of one of the catalogue."""
    known = {field.name: field for field in catalogue.schema}
    fields = [
        field.with_metadata(known[field.name].metadata)
        if field.name in known and known[field.name].type == field.type
        else field
        for field in table.schema
    ]
    return pa.Table.from_arrays(table.columns, schema=pa.schema(fields))


def _different(names: Sequence[str]) -> list[str]:
    """Names made different with ``_1``, ``_2``, ..."""
    out: list[str] = []
    for name in names:
        numbered = (f"{name}_{number}" for number in itertools.count(1))
        free = (new for new in numbered if new not in out and new not in names)
        out.append(next(free) if name in out else name)
    return out


def _remedy(catalogue: pa.Table | Dataset) -> str:
    return (
        "try: SELECT id, mag, re, n FROM catalog WHERE use AND NOT has_flag(flags, 'EDGE'); "
        f"columns: {', '.join(catalogue.schema.names)}"
    )
