"""What a run tells its caller: while it goes on (`Progress`) and when it ends (`RunSummary`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa

__all__ = ["Progress", "RunSummary"]


class Progress:
    """What a run tells its caller; every method may be overridden, none needs to be."""

    def begin(self, n_sources: int, n_done: int, ignored: Sequence[tuple[Path, str]]) -> None:
        """Before the first batch: sources in all, sources done by an earlier run."""

    def batch(self, n_sources: int, rows: dict[str, np.ndarray]) -> None:
        """After a batch: sources in it, and their rows."""

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
    """How a run ended.

    Attributes
    ----------
    out : Path or None
    table : pyarrow.Table or None
        The catalogue; None when the run was interrupted.
    n_objects, n_ok, n_flagged, n_failed : int
        Rows of this and earlier parts of the run: all; without a fatal flag; with one; failed.
    n_new : int
        Rows made by this call.
    interrupted : bool
    seconds : float
    report : Path or None
    ignored : list of str
        Files in the given folders that are no images, and why.
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

    @property
    def exit_status(self) -> int:
        """0 all objects ok; 3 some failed; 1 nothing could be fitted; 130 interrupted."""
        if self.interrupted:
            return 130
        if self.n_objects == self.n_failed:
            return 1
        return 3 if self.n_failed else 0

    def count(self, table: pa.Table) -> None:
        """Take `table` as the catalogue and count its rows."""
        status = np.asarray(table.column("status").to_pylist())
        use = np.asarray(table.column("use").to_pylist(), dtype=bool)
        self.table = table
        self.n_objects = len(status)
        self.n_failed = int((status == "failed").sum())
        self.n_ok = int(use.sum())
        self.n_flagged = self.n_objects - self.n_failed - self.n_ok
