"""One run at a time in a folder."""

from __future__ import annotations

import contextlib
import errno
import os
import platform
import time
from collections.abc import Iterator
from pathlib import Path

from autofit_ml.errors import BusyError

try:
    import fcntl
except ImportError:  # Windows: two runs at once in one folder are not noticed there
    fcntl = None  # type: ignore[assignment]

__all__ = ["locked"]

_PAUSE = 0.1
"""Seconds between two attempts."""


@contextlib.contextmanager
def locked(
    lock: Path, folder: Path, *, shared: bool = False, patience: float = 0.0
) -> Iterator[None]:
    """Keep a second run out of a folder. The system drops the lock of a process that dies.

    Parameters
    ----------
    lock : path
        The lock file, made if absent; it stays, and names the process that had it last.
    folder : path
        What is locked, for the message.
    shared : bool
        Others may share the lock, and nobody may have it alone meanwhile.
    patience : float
        Seconds to wait for it.

    Raises
    ------
    BusyError
        Another process has the lock.
    OSError
        The lock file cannot be opened.
    """
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        until = time.monotonic() + patience
        while True:
            try:
                _take_lock(descriptor, folder, shared)
                break
            except BusyError:
                if time.monotonic() >= until:
                    raise
            time.sleep(_PAUSE)
        with contextlib.suppress(OSError):  # a full disk: only the name of the holder is lost
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()} on {platform.node()}".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _take_lock(descriptor: int, folder: Path, shared: bool) -> None:
    if fcntl is None:
        return
    try:
        kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
            return  # a file system without locks
        holder = os.read(descriptor, 200).decode(errors="replace").strip() or "unknown"
        raise BusyError(
            f"another run is writing there (process {holder})",
            "wait until it ends, or give another --out",
            folder,
        ) from error
