"""The command line as a process: the ``autofit-ml`` script, and ``python -m autofit_ml``."""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import os
import sys

__all__ = ["run"]

_M_ARENA_MAX = -8
"""Of the GNU allocator's ``mallopt``."""


def run() -> None:
    """Run the command line, and end the process without taking its libraries apart.

    Everything that is registered for the end of the process is done; but to free what PyTorch has
    loaded takes a quarter of a second and 130 MB, after which the system has it back anyway.
    """
    status = 1

    def end() -> None:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(status)

    atexit.register(end)  # first, and thus called last
    # The threads of every batch of fits would each begin a heap of 64 MB, and leave it behind.
    with contextlib.suppress(OSError, AttributeError, TypeError):  # another allocator
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 2)
    from autofit_ml.cli import main
    from autofit_ml.runs.workers import collect_rarely

    collect_rarely()
    try:
        main()
        status = 0
    except SystemExit as left:
        status = left.code if isinstance(left.code, int) else int(left.code is not None)
        raise
    except KeyboardInterrupt:
        status = 130
        raise


if __name__ == "__main__":
    run()
