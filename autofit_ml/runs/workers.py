"""Worker processes: how they begin, that none outlives its run, what happens when one dies."""

import contextlib
import gc
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from multiprocessing.connection import Connection
from types import ModuleType
from typing import ParamSpec, TypeVar

__all__ = [
    "SIGNALS",
    "Pool",
    "collect_rarely",
    "new_pool",
    "processors",
    "surroundings_of_workers",
    "usable_pool",
]

P = ParamSpec("P")
R = TypeVar("R")

SIGNALS = [
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
]
"""What ends a run: people, clusters, closed terminals."""

_ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def processors() -> int:
    """Processors that this process may use, at least 1."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def collect_rarely() -> None:
    """Look for garbage after every 100 000 new objects, not 700: for processes of our own.

    Libraries are a million objects that stay. To look through them again and again while they are
    being imported takes a fifth of a short run.
    """
    gc.set_threshold(100_000)


class Pool:
    """Worker processes, one thread in each, that end when this object is left or its process dies.

    Parameters
    ----------
    workers : int
    setup : callable, optional
        Called with `arguments` in every worker when it begins; a module-level function.

    Raises
    ------
    OSError, ImportError, NotImplementedError
        The system has no means for processes (semaphores).
    """

    def __init__(
        self, workers: int, setup: Callable[..., object] | None = None, *arguments: object
    ) -> None:
        context = get_context("spawn")
        self._reader, self._lifeline = context.Pipe(duplex=False)
        self._executor = ProcessPoolExecutor(
            workers,
            mp_context=context,
            initializer=_begin_worker,
            initargs=(self._reader, setup, arguments),
        )

    def submit(self, job: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        """Processes are started by this call, not before."""
        with surroundings_of_workers():
            return self._executor.submit(job, *args, **kwargs)

    def close(self) -> None:
        """End the workers at once; whatever they still do is dropped."""
        self._lifeline.close()
        self._executor.shutdown(wait=True, cancel_futures=True)
        self._reader.close()


def new_pool(workers: int) -> Pool | None:
    """A pool; None where the system has no means for it."""
    try:
        return Pool(workers)
    except (OSError, ImportError, NotImplementedError):
        return None


def usable_pool(workers: int) -> Pool | None:
    """A pool whose workers start; None where they do not."""
    pool = new_pool(workers)
    if pool is None:
        return None
    try:
        pool.submit(os.getpid).result()
    except (BrokenProcessPool, OSError):
        pool.close()
        return None
    return pool


@contextlib.contextmanager
def surroundings_of_workers() -> Iterator[None]:
    """Set up the surroundings of worker processes: one thread, no main module, no Ctrl-C.

    multiprocessing would run the caller's script again in every worker; they need nothing of it,
    and a script without ``if __name__ == "__main__"`` would start another run there.
    """
    before = {name: os.environ.get(name) for name in _ONE_THREAD}
    main = sys.modules["__main__"]
    with _signals_later():
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
def _signals_later() -> Iterator[None]:
    """Ctrl-C, SIGTERM and SIGHUP take effect at the end: no worker is left half-started.

    Workers inherit that Ctrl-C is blocked, and do not die of it while they are still importing. But
    the system may hand it to another thread of this process (BLAS has some), which does not block
    it, and Python would then interrupt the main thread all the same: hence the handlers.
    """
    came: list[int] = []
    can_block = hasattr(signal, "pthread_sigmask")
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT]) if can_block else set()
    before = {}
    if threading.current_thread() is threading.main_thread():
        for number in SIGNALS:
            if signal.getsignal(number) not in (None, signal.SIG_IGN):
                before[number] = signal.signal(number, lambda number, frame: came.append(number))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if can_block:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for number in came:
            signal.raise_signal(number)


def _begin_worker(
    lifeline: Connection, setup: Callable[..., object] | None, arguments: tuple[object, ...]
) -> None:
    """Leave Ctrl-C to the main process, and end when that ends, however it ends.

    `lifeline` is the reading end of a pipe whose other end only the main process holds, and closes
    when the worker is to end.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # where it cannot be blocked
    collect_rarely()
    if setup is not None:
        setup(*arguments)

    def watch() -> None:
        with contextlib.suppress(EOFError, OSError):
            lifeline.recv_bytes()  # nothing is ever sent: it returns when the pipe breaks
        os._exit(0)

    threading.Thread(target=watch, daemon=True).start()
