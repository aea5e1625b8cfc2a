"""Ctrl-C, SIGTERM and SIGHUP (clusters and closed terminals send them) mean the same.

Within a loop over sources (`interruptible`) the first one lets the running batch end, the second
interrupts at once; elsewhere (`interrupted_by_signals`) the first interrupts. Further ones change
nothing: what is being tidied up is tidied up.
"""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

from autofit_ml.runs.summary import Progress
from autofit_ml.runs.workers import SIGNALS

__all__ = ["interrupted_by_signals", "interruptible"]


def _interrupt(number: int, frame: object) -> None:
    for each in SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    raise KeyboardInterrupt


@contextlib.contextmanager
def _handled(handler: Callable[[int, Any], None]) -> Iterator[None]:
    """`handler` for the signals, but for those that somebody else ignores (nohup) or handles."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ours = (signal.SIG_DFL, signal.default_int_handler, _interrupt)
    before = {}
    for number in SIGNALS:
        if number == signal.SIGINT or signal.getsignal(number) in ours:
            before[number] = signal.signal(number, handler)
    try:
        yield
    finally:
        for number, previous in before.items():
            if previous is not _interrupt or signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, previous)


def interrupted_by_signals() -> contextlib.AbstractContextManager[None]:
    """`KeyboardInterrupt` at the first of the signals, nothing at further ones."""
    return _handled(_interrupt)


@contextlib.contextmanager
def interruptible(progress: Progress) -> Iterator[threading.Event]:
    """An event that the first signal sets; the second one raises `KeyboardInterrupt`."""
    stop = threading.Event()

    def handler(number: int, frame: object) -> None:
        if stop.is_set():
            _interrupt(number, frame)
        stop.set()
        progress.stopping()

    with _handled(handler):
        yield stop
