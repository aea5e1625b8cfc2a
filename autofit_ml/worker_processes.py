"""What all worker processes have in common: how they begin, and that none outlives its run."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from multiprocessing.connection import Connection
from types import ModuleType

__all__ = ["end_with_main_process", "processors", "surroundings_of_workers"]

_ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def processors() -> int:
    """Processors that this process may use, at least 1."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextlib.contextmanager
def surroundings_of_workers() -> Iterator[None]:
    """What a process that is started inside finds: one thread, no main module, no Ctrl-C.

    multiprocessing would run the caller's script again in every worker; they need nothing of it,
    and a script without ``if __name__ == "__main__"`` would start another run there.

    Ctrl-C is for the main process: workers must not die of it while they are still importing. They
    inherit that it is blocked; here it is delivered a moment later.
    """
    before = {name: os.environ.get(name) for name in _ONE_THREAD}
    main = sys.modules["__main__"]
    can_block = hasattr(signal, "pthread_sigmask")
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT]) if can_block else set()
    sys.modules["__main__"] = ModuleType("__main__")
    os.environ.update(dict.fromkeys(_ONE_THREAD, "1"))
    try:
        yield
    finally:
        sys.modules["__main__"] = main
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        if can_block:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def end_with_main_process(lifeline: Connection) -> None:
    """In a worker: leave Ctrl-C to the main process, and end when that ends, however it ends.

    Parameters
    ----------
    lifeline : Connection
        The reading end of a pipe whose other end only the main process holds, and closes when the
        worker is to end.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # where it cannot be blocked

    def watch() -> None:
        with contextlib.suppress(EOFError, OSError):
            lifeline.recv_bytes()  # nothing is ever sent: it returns when the pipe breaks
        os._exit(0)

    threading.Thread(target=watch, daemon=True).start()
