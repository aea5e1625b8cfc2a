"""SQL on a finished catalogue."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pyarrow as pa

from autofit_ml.catalogue.flags import FATAL, Flag
from autofit_ml.catalogue.reader import read_catalogue_arrow
from autofit_ml.errors import SettingsError

__all__ = ["query"]


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
        A results folder or a catalogue file (see `read_catalogue`).
    sql : str
        One SELECT on the view ``catalog``, whose columns are those of the catalogue. NaN is a
        value in SQL (it sorts last and equals itself): leave it out with ``isfinite(re)`` or
        ``status = 'ok'``. On the ``flags`` column: ``has_flag(flags, 'EDGE')``,
        ``has_fatal_flag(flags)``, ``flag_names(flags)`` and ``flag_bit('EDGE')``.

    Returns
    -------
    table : pyarrow.Table

    Raises
    ------
    InputError
        There is no catalogue.
    SettingsError
        The SQL is wrong, or does not return rows.

    Examples
    --------
    >>> query("results", "SELECT id, re FROM catalog WHERE use AND n > 4")  # doctest: +SKIP
    """
    catalogue = read_catalogue_arrow(results)
    # Nothing may reach the network: DuckDB would fetch missing extensions on its own.
    with duckdb.connect(
        ":memory:",
        config={"autoinstall_known_extensions": False, "autoload_known_extensions": False},
    ) as connection:
        connection.register("catalog", catalogue)
        for macro in _macros():
            connection.execute(macro)
        try:
            relation = connection.sql(sql)
            if relation is not None:
                return relation.to_arrow_table()
        except duckdb.Error as error:
            raise SettingsError(f"the query failed: {error}", _remedy(catalogue)) from error
    raise SettingsError("the query returns no rows of its own", _remedy(catalogue))


def _remedy(catalogue: pa.Table) -> str:
    return (
        "try: SELECT id, mag, re, n FROM catalog WHERE use AND NOT has_flag(flags, 'EDGE'); "
        f"columns: {', '.join(catalogue.column_names)}"
    )
