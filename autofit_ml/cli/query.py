"""``autofit-ml query``."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from autofit_ml.cli.app import app
from autofit_ml.cli.terminal import console, line, print_json, printable

_SHOWN = 1000
"""Rows that are printed for people."""


@app.command()
def query(
    results: Annotated[
        list[Path], typer.Argument(metavar="RESULTS", help="Results folders or globs.")
    ],
    sql: Annotated[
        str, typer.Argument(metavar="SQL", help="SQL over the views catalog, runs and posterior.")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print the rows as JSON.")] = False,
    samp: Annotated[
        bool,
        typer.Option("--samp", help="Send the rows to TOPCAT, Aladin or other programs by SAMP."),
    ] = False,
) -> None:
    """Query catalogues with SQL: autofit-ml query results "SELECT id, mag FROM catalog WHERE use".

    Several runs together: autofit-ml query 'runs/*' "SELECT run, id, re FROM catalog WHERE use".
    """
    from autofit_ml.catalogue import query as run_query

    table = run_query(results, sql)
    if samp:
        from autofit_ml.catalogue.samp import send_table

        names = send_table(table, results[0].resolve().name)
        print(printable(f"{len(table)} rows sent to {', '.join(names)}"))
        return
    if as_json:
        print_json(table.to_pylist(), default=str)
        return
    from rich.table import Table

    pretty = Table()
    for name in table.column_names:
        pretty.add_column(line(name))
    columns = [column.to_pylist() for column in table.slice(0, _SHOWN).columns]
    for values in zip(*columns, strict=True):
        pretty.add_row(*map(_cell, values))
    console(error=False, soft_wrap=False, width=None if sys.stdout.isatty() else 200).print(pretty)
    if len(table) > _SHOWN:
        print(f"... and {len(table) - _SHOWN} more rows")


def _cell(value: Any) -> Text:
    return line(f"{value:.6g}" if isinstance(value, float) else str(value))
