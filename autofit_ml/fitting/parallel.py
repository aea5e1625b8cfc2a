"""Threads over objects instead of threads inside each operation.

PyTorch's own threads meet at the end of every operation and wait for each other spinning: with
another busy process on the machine (a reader, another fit) they slow down by factors of ten. Here
each Python thread takes whole groups of objects and runs single-threaded operations, which release
the interpreter's lock; results do not depend on the number of threads.
"""

from __future__ import annotations

import contextlib
import ctypes
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

__all__ = ["Runner", "object_threads"]

_SWITCH_INTERVAL = 5e-4
"""Seconds that a thread may hold the interpreter while others wait: an operation takes about this
long, and the default of 5 ms would idle them between operations (measured: 3.5 to 2.9 ms a
galaxy on two cores)."""

_MALLOPT = {-1: 256 << 20, -2: 64 << 20, -3: 256 << 20}
"""``M_TRIM_THRESHOLD``, ``M_TOP_PAD`` (without it threads give back what they freed) and
``M_MMAP_THRESHOLD`` of the GNU allocator, bytes."""


@dataclass(frozen=True)
class Runner:
    """Runs a function over items.

    Attributes
    ----------
    threads : int
    pool : ThreadPoolExecutor or None
        None: everything runs in the calling thread.
    """

    threads: int = 1
    pool: ThreadPoolExecutor | None = None

    def __call__(self, function: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
        """Results in the order of the items."""
        if self.pool is None:
            return [function(item) for item in items]
        return list(self.pool.map(function, items))


@cache
def _keep_freed_memory() -> None:
    """Have the GNU allocator keep what is freed, rather than fault it in anew for each operation.

    Of the fit of large images that takes half of the time, of small ones a quarter.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):  # another allocator
        for option, size in _MALLOPT.items():
            ctypes.CDLL(None).mallopt(option, size)


@contextmanager
def object_threads(device: torch.device) -> Iterator[Runner]:
    """A `Runner` with as many threads as PyTorch was allowed, each single-threaded inside.

    On a GPU everything stays in the calling thread. PyTorch's number of threads and the
    interpreter's switch interval are restored at the end.
    """
    threads, interval = torch.get_num_threads(), sys.getswitchinterval()
    if device.type != "cpu":
        yield Runner()
        return
    torch.set_num_threads(1)
    _keep_freed_memory()
    try:
        if threads == 1:
            yield Runner()
            return
        sys.setswitchinterval(_SWITCH_INTERVAL)
        with ThreadPoolExecutor(threads, thread_name_prefix="refine") as pool:
            yield Runner(threads, pool)
    finally:
        torch.set_num_threads(threads)
        sys.setswitchinterval(interval)
