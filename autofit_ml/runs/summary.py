"""Messages of a run: while it goes on (`Progress`) and when it ends (`RunSummary`)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from autofit_ml.catalogue import flagged, run_warnings, usable

__all__ = ["Progress", "RunSummary", "duration", "exit_status"]


def exit_status(n_objects: int, n_failed: int, *, interrupted: bool = False) -> int:
    """Exit status of a command: 0 all objects ok; 3 some failed; 1 all of them; 130 interrupted."""
    if interrupted:
        return 130
    if n_objects == n_failed:
        return 1
    return 3 if n_failed else 0


def duration(seconds: float) -> str:
    """Seconds, minutes or hours, for people."""
    if seconds < 100:
        return f"{seconds:.0f} s" if seconds >= 9.5 else f"{seconds:.1g} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


class Progress:
    """Progress of a run; every method may be overridden, none needs to be."""

    def begin(self, n_sources: int, n_done: int, ignored: Sequence[tuple[Path, str]]) -> None:
        """Before the first batch: sources in all, sources done by an earlier run."""

    def batch(self, n_sources: int, rows: Mapping[str, Any]) -> None:
        """After a batch: sources in it, and their rows (at least id, status, message, flags)."""

    def part(self, objects: float) -> None:
        """While objects take long: how many of the running batch are done, 0.3 of the first."""

    def stage(self, text: str) -> None:
        """Something that takes a moment begins."""

    def note(self, text: str) -> None:
        """Something that the user should know."""

    def stopping(self) -> None:
        """Ctrl-C was pressed: the running batch is finished first.

        Called from a signal handler: nothing here may wait for a lock of another thread.
        """


@dataclass
class RunSummary:
    """Summary of a run that has ended.

    Attributes
    ----------
    out : Path or None
    table : pyarrow.Table or None
        The catalogue of a fit; None when the run was interrupted.
    n_objects, n_ok, n_flagged, n_failed : int
        Objects of this and earlier parts of the run: all; usable (no fatal flag); fitted with a
        flag of quality, fatal or not; failed.
    n_new : int
        Objects done by this call.
    interrupted : bool
    seconds : float
    report : Path or None
    ignored : list of str
        Files in the given folders that are no images, and why.
    failures : dict
        Object -> why it could not be segmented or deconvolved (fits say it in their rows).
    warnings : dict
        Object -> what its samples cannot be trusted with.
    concerns : list of str
        What is wrong with the run as a whole.
    n_instances : int
        Segmented galaxies and stars.
    images : dict
        Object -> `autofit_ml.runs.pictured.FittedImages`, where a fit is to hand them on.
    """

    out: Path | None
    table: pa.Table | None = None
    n_objects: int = 0
    n_ok: int = 0
    n_flagged: int = 0
    n_failed: int = 0
    n_new: int = 0
    interrupted: bool = False
    seconds: float = 0.0
    report: Path | None = None
    ignored: list[str] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)
    warnings: dict[str, list[str]] = field(default_factory=dict)
    concerns: list[str] = field(default_factory=list)
    n_instances: int = 0
    images: dict[str, Any] = field(default_factory=dict)

    @property
    def exit_status(self) -> int:
        """See `exit_status`."""
        return exit_status(self.n_objects, self.n_failed, interrupted=self.interrupted)

    def count(self, table: pa.Table) -> None:
        """Take `table` as the catalogue and count its rows."""
        status = np.asarray(table.column("status").to_pylist())
        flags = np.asarray(table.column("flags").to_pylist(), dtype=np.int64)
        self.table = table
        self.n_objects = len(status)
        self.n_failed = int((status == "failed").sum())
        self.n_ok = int(np.sum(usable(flags)))
        self.n_flagged = int(np.sum(flagged(flags)))
        self.concerns = run_warnings(table)
