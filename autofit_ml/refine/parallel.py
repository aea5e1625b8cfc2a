"""Threads over objects instead of threads inside each operation.

PyTorch's own threads meet at the end of every operation and wait for each other spinning: with
another busy process on the machine (a reader, another fit) they slow down by factors of ten. Here
each Python thread takes whole chunks of objects and runs single-threaded operations, which release
the interpreter's lock; results do not depend on the number of threads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import torch

__all__ = ["Runner", "object_threads", "serial"]

Runner = Callable[[Callable[[Any], Any], Sequence[Any]], list[Any]]
"""(function, items) -> results in order."""


def serial(function: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
    """Run in this thread."""
    return [function(item) for item in items]


@contextmanager
def object_threads(device: torch.device) -> Iterator[Runner]:
    """A `Runner` with as many threads as PyTorch was allowed, each single-threaded inside.

    On a GPU everything stays in this thread. PyTorch's own setting is restored at the end.
    """
    threads = torch.get_num_threads()
    if device.type != "cpu":
        yield serial
        return
    torch.set_num_threads(1)
    try:
        if threads == 1:
            yield serial
            return
        with ThreadPoolExecutor(threads, thread_name_prefix="refine") as pool:
            yield (
                lambda function, items: (
                    list(pool.map(function, items)) if len(items) > 1 else serial(function, items)
                )
            )
    finally:
        torch.set_num_threads(threads)
