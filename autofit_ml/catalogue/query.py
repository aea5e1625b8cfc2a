"""SQL on finished runs: their catalogues, what made them, their posterior summaries."""

import contextlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
from pyarrow.dataset import Dataset, dataset

from autofit_ml.catalogue.collection import (
    Runs,
    found_runs,
    joined_catalogues,
    posterior_table,
    runs_table,
)
from autofit_ml.catalogue.flags import FATAL, Flag
from autofit_ml.errors import SettingsError, errors_as

__all__ = ["query", "rows_where"]


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


def query(results: Runs, sql: str) -> pa.Table:
    """Answer a question about finished runs with SQL (DuckDB's dialect).

    Parameters
    ----------
    results : path, glob, or sequence of them
        Results folders or catalogue files (see `read_catalogue`), or one survey.
    sql : str
        One SELECT on these views; what is not known (NaN) is NULL.

        - ``catalog``: the rows of all catalogues, and ``run``, the folder of each. On its column
          ``flags``: ``has_flag(flags, 'EDGE')``, ``has_fatal_flag(flags)``, ``flag_names(flags)``
          and ``flag_bit('EDGE')``.
        - ``runs``: one row a run; ``settings['prior']``, ``versions``, ``inputs`` are maps.
        - ``posterior``: one row for each object and parameter of runs that drew samples.

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
    >>> query("runs/*", "SELECT run, count(*) FROM catalog GROUP BY run")  # doctest: +SKIP
    """
    tiles = _tiles_of(results)
    runs = [] if tiles is not None else found_runs(results)
    catalogue = joined_catalogues(runs) if tiles is None else tiles
    views = {"catalog": catalogue, "runs": runs_table(runs), "posterior": posterior_table(runs)}
    with _refused("query", _remedy(catalogue)):
        table = _answer(sql, views)
        return _described(table.rename_columns(_different(table.column_names)), catalogue)


def rows_where(catalogue: pa.Table, condition: str) -> np.ndarray:
    """Places of the rows for which an SQL condition holds, in order, (n,).

    Raises
    ------
    SettingsError
        The condition is wrong.
    """
    numbered = catalogue.append_column("row_number_", pa.array(np.arange(len(catalogue))))
    sql = f"SELECT row_number_ FROM catalog WHERE ({condition}\n) ORDER BY row_number_"
    with _refused("condition", f"columns: {', '.join(catalogue.column_names)}"):
        found = _answer(sql, {"catalog": numbered})
        return np.array(found["row_number_"].to_pylist(), dtype=np.int64)


def _refused(what: str, remedy: str) -> contextlib.AbstractContextManager[None]:
    """Errors of DuckDB as one of ours."""
    kinds = (duckdb.Error, pa.ArrowException, RuntimeError, TypeError, UnicodeError)
    return errors_as(SettingsError, f"the {what} failed", remedy, of=kinds)


def _answer(sql: str, views: Mapping[str, Any]) -> pa.Table:
    """The answer to one SELECT (or EXPLAIN) on some views."""
    with _connection() as connection:
        kinds = [statement.type for statement in connection.extract_statements(sql)]
        if kinds not in ([duckdb.StatementType.SELECT], [duckdb.StatementType.EXPLAIN]):
            raise TypeError("it is not one SELECT")
        for name, view in views.items():
            connection.register(name, view)
        return connection.sql(sql).to_arrow_table()


def _tiles_of(results: Runs) -> Dataset | None:
    """The tiles of a survey, of which a query reads what it needs; None for other results."""
    paths = [Path(p) for p in ([results] if isinstance(results, (str, Path)) else results)]
    surveys = [path for path in paths if (path / "survey.json").is_file()]
    if not surveys:
        return None
    if len(paths) > 1:
        raise SettingsError(f"{surveys[0]} is a survey among other results", "ask it alone")
    return dataset(sorted(surveys[0].glob("tiles/*/*.parquet")))


@contextlib.contextmanager
def _connection() -> Iterator[duckdb.DuckDBPyConnection]:
    """A database of its own that reaches nothing outside."""
    with duckdb.connect(":memory:", config=_ALONE) as connection:
        for macro in _macros():
            connection.execute(macro)
        connection.execute("SET lock_configuration = true")
        yield connection


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
