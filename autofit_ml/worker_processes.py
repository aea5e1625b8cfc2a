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
    """
    before = {name: os.environ.get(name) for name in _ONE_THREAD}
    main = sys.modules["__main__"]
    with _ctrl_c_later():
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


@contextlib.contextmanager
def _ctrl_c_later() -> Iterator[None]:
    """Ctrl-C takes effect at the end: no worker is left half-started.

    Workers inherit that it is blocked, and do not die of it while they are still importing. But
    the system may hand it to another thread of this process (BLAS has some), which does not block
    it, and Python would then interrupt the main thread all the same: hence the handler.
    """
    came: list[int] = []
    handler = signal.getsignal(signal.SIGINT)
    can_block = hasattr(signal, "pthread_sigmask")
    can_defer = handler is not None and threading.current_thread() is threading.main_thread()
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT]) if can_block else set()
    if can_defer:
        signal.signal(signal.SIGINT, lambda number, frame: came.append(number))
    try:
        yield
    finally:
        if can_defer:
            signal.signal(signal.SIGINT, handler)
        if can_block:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        if came:
            signal.raise_signal(signal.SIGINT)


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
