"""Timing on a machine that others use too: repeat what somebody disturbed."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

__all__ = ["Disturbances", "undisturbed"]

T = TypeVar("T")
_LIMIT = 0.04
"""Share of the processor time that others may take."""


class Disturbances:
    """Counts measurements, and those kept although others were busy."""

    def __init__(self) -> None:
        self.measured = 0
        self.disturbed = 0

    def __str__(self) -> str:
        if not self.disturbed:
            return "no other process was busy"
        return f"other processes were busy during {self.disturbed} of {self.measured} measurements"


def undisturbed(action: Callable[[], T], tally: Disturbances, tries: int = 12) -> T:
    """The result of `action`, run again (after a pause) while other processes are busy.

    Parameters
    ----------
    action : callable
        What is timed; it and its child processes are not "others".
    tally : Disturbances
        Updated.
    tries : int
        After so many the last result is kept, and counted as disturbed.
    """
    share = 1.0
    for attempt in range(max(1, tries)):
        before, own = _busy(), _own()
        result = action()
        busy, mine = _busy() - before, _own() - own
        share = max(0.0, busy - mine) / max(busy, 1e-9)
        if share < _LIMIT:
            break
        if attempt + 1 < tries:
            time.sleep(5)
    tally.measured += 1
    tally.disturbed += share >= _LIMIT
    return result


def _busy() -> float:
    """Seconds that the processors which this process may use were busy (Linux)."""
    mine = {f"cpu{number}" for number in os.sched_getaffinity(0)}
    ticks = 0
    for line in Path("/proc/stat").read_text().splitlines():
        name, *words = line.split()
        if name in mine:
            user, nice, system, _, _, irq, soft, steal = (int(word) for word in words[:8])
            ticks += user + nice + system + irq + soft + steal
    return ticks / os.sysconf("SC_CLK_TCK")


def _own() -> float:
    """Processor seconds of this process and its children that have ended."""
    total = 0.0
    for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
        usage = resource.getrusage(who)
        total += usage.ru_utime + usage.ru_stime
    return total
