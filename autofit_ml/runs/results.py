"""Runs that do the same with each source: results, saved, counted and told; their loop."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
from astropy.table import QTable, Table, vstack

from autofit_ml.catalogue import Flag, atomic_write_ecsv, atomic_write_text
from autofit_ml.errors import InputError, ResumeError, errors_as
from autofit_ml.images import Discovery, Source
from autofit_ml.runs.folder import RunFolder
from autofit_ml.runs.identity import source_hashes
from autofit_ml.runs.jobs import Job, RunSettings
from autofit_ml.runs.kinds import Kind
from autofit_ml.runs.loop import Handle, Work, go_through
from autofit_ml.runs.summary import Progress, RunSummary
from autofit_ml.settings import Selected

__all__ = [
    "Result",
    "count",
    "each",
    "one_by_one",
    "rows_of",
    "run_each",
    "save_results",
    "saved_tables",
]

T = TypeVar("T")


@dataclass(frozen=True)
class Result(Generic[T]):
    """Outcome of one source.

    Attributes
    ----------
    id : str
    value : object or None
        None: it failed.
    why : str
        Why it failed.
    hashes : dict
        File -> sha256.
    warnings : tuple of str
        What the result cannot be trusted with.
    """

    id: str
    value: T | None
    why: str
    hashes: Mapping[str, str]
    warnings: tuple[str, ...] = ()

    @classmethod
    def failed(cls, source: Source, why: str) -> Result[Any]:
        """The result of a source that failed."""
        return cls(source.id, None, why, source_hashes(source))


def each(do: Callable[[list[Source], Any], list[Result[T]]]) -> Job[list[Result[T]]]:
    """The job of a run that does the same with each source."""

    def failed(source: Source, message: str) -> list[Result[T]]:
        return [Result.failed(source, f"{source.file}: {message}")]

    return Job(do, lambda parts: list(chain.from_iterable(parts)), len, failed)


def one_by_one(begin: Callable[[Any], Callable[[Source], Result[T]]]) -> Job[list[Result[T]]]:
    """The job of a run in which each source is done by itself.

    Parameters
    ----------
    begin : callable
        ``begin(settings)``, a module-level function or a `functools.partial` of one: returns what
        is done with a source, which may raise `InputError`.
    """
    return each(partial(_one_by_one, begin))


def _one_by_one(
    begin: Callable[[Any], Callable[[Source], Result[T]]], sources: Sequence[Source], settings: Any
) -> list[Result[T]]:
    do, out = begin(settings), []
    for source in sources:
        try:
            out.append(do(source))
        except InputError as error:
            out.append(Result.failed(source, str(error)))
    return out


def run_each(
    found: Discovery,
    kind: Kind,
    job: Job[list[Result[T]]],
    settings: RunSettings,
    identity: Mapping[str, Any],
    out: str | Path | None,
    *,
    save: Callable[[RunFolder | None, Result[T], T], Table | None],
    finish: Callable[[RunFolder | None, QTable | None, RunSummary], object],
    restart: bool = False,
    only: Selected | None = None,
    progress: Progress | None = None,
    leave_out: tuple[str, ...] = (),
) -> RunSummary:
    """Do the same with each source, save what comes of it, and put all rows into one table.

    Parameters
    ----------
    found, settings, identity, out, restart, only, progress
        As of `autofit_ml.runs.loop.go_through`.
    kind, leave_out
        As of `Work`.
    job : Job
        From `each` or `one_by_one`.
    save : callable
        ``save(folder, result, value)`` writes the files of a result and returns its rows, if any.
    finish : callable
        ``finish(folder, rows, summary)``, when every source is done.

    Returns
    -------
    RunSummary
        With ``n_instances`` (rows) and ``failures``.
    """
    began, summary = time.perf_counter(), RunSummary(None if out is None else Path(out))
    in_memory: list[Table] = []

    def begin(folder: RunFolder | None) -> Handle[list[Result[T]]]:
        def handle(
            sources: Sequence[Source], results: list[Result[T]]
        ) -> Iterator[tuple[int, Mapping[str, Any]]]:
            made = [save(folder, one, one.value) for one in results if one.value is not None]
            tables = [table for table in made if table is not None]
            if folder is None:
                in_memory.extend(tables)
                summary.failures |= {one.id: one.why for one in results if one.value is None}
            else:
                save_results(folder, results, vstack(tables) if tables else None)
            yield len(sources), rows_of(results)

        return handle

    def end(folder: RunFolder | None) -> None:
        count(summary, folder)
        tables = in_memory if folder is None else saved_tables(folder)
        summary.n_instances = sum(map(len, tables))
        finish(folder, vstack(tables) if tables else None, summary)

    work = Work(kind, job, begin, end, leave_out)
    told = progress or Progress()
    go_through(found, work, settings, identity, out, summary, told, restart=restart, only=only)
    summary.seconds = time.perf_counter() - began
    return summary


def rows_of(results: Sequence[Result[Any]]) -> dict[str, Any]:
    """Rows by which progress is told of results; see `Progress.batch`."""
    bad = [result.value is None for result in results]
    return {
        "id": [result.id for result in results],
        "status": ["failed" if failed else "ok" for failed in bad],
        "message": [result.why for result in results],
        "flags": np.where(bad, int(Flag.FAILED), 0),
    }


def save_results(folder: RunFolder, results: Sequence[Result[Any]], table: Table | None) -> None:
    """Save the rows of a batch: it counts as done."""

    def write(path: Any) -> None:
        if table is None:
            atomic_write_text(path, "")
        else:
            atomic_write_ecsv(path, table)

    folder.save(
        write,
        {result.id: [result.id] for result in results},
        hashes=dict(chain.from_iterable(result.hashes.items() for result in results)),
        failures={result.id: result.why for result in results if result.value is None},
        warnings={result.id: list(result.warnings) for result in results if result.warnings},
    )


def saved_tables(folder: RunFolder) -> list[QTable]:
    """Rows of every finished batch.

    Raises
    ------
    ResumeError
        They cannot be read.
    """
    tables = []
    for shard in folder.shards:
        with errors_as(
            ResumeError,
            "the rows of a finished part cannot be read",
            f"delete the files {shard.stem}.* there and run the same command again",
            shard,
        ):
            if shard.stat().st_size:
                tables.append(QTable.read(shard, format="ascii.ecsv"))
    return tables


def count(summary: RunSummary, folder: RunFolder | None) -> None:
    """Count what the batches of this call and of earlier ones hold, in a folder."""
    if folder is None:
        return
    for journal in folder.journals:
        summary.failures |= journal.get("failures", {})
        summary.warnings |= journal.get("warnings", {})
    summary.n_objects = len(folder.done)
    summary.n_failed = len(summary.failures)
    summary.n_ok = summary.n_objects - summary.n_failed
