"""Results of each source, for runs that do not end in a catalogue: saved, counted, told."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Generic, TypeVar

import numpy as np
from astropy.table import QTable, Table

from autofit_ml.catalogue import Flag, atomic_write_ecsv, atomic_write_text
from autofit_ml.errors import ResumeError
from autofit_ml.images import Source
from autofit_ml.runs.folder import RunFolder
from autofit_ml.runs.identity import source_hashes
from autofit_ml.runs.jobs import Job
from autofit_ml.runs.summary import RunSummary

__all__ = ["Result", "count", "each", "rows_of", "save_results", "saved_tables"]

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


def each(do: Callable[[list[Source], Any], list[Result[T]]]) -> Job[list[Result[T]]]:
    """The job of a run that does the same with each source."""

    def failed(source: Source, message: str) -> list[Result[T]]:
        return [Result(source.id, None, f"{source.file}: {message}", source_hashes(source))]

    return Job(do, lambda parts: list(chain.from_iterable(parts)), len, failed)


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
        try:
            if shard.stat().st_size:
                tables.append(QTable.read(shard, format="ascii.ecsv"))
        except Exception as error:  # whatever a table of anything makes astropy raise
            raise ResumeError(
                f"the rows of a finished part cannot be read: {error}",
                f"delete the files {shard.stem}.* there and run the same command again",
                shard,
            ) from error
    return tables


def count(summary: RunSummary, folder: RunFolder) -> None:
    """Count what the batches of this call and of earlier ones hold."""
    for journal in folder.journals:
        summary.failures |= journal.get("failures", {})
        summary.warnings |= journal.get("warnings", {})
    summary.n_objects = len(folder.done)
    summary.n_failed = len(summary.failures)
    summary.n_ok = summary.n_objects - summary.n_failed
