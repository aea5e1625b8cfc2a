"""How many examples a property test draws: few and always the same, or many (``make fuzz``)."""

from __future__ import annotations

import os
from typing import Any

from hypothesis import settings

__all__ = ["examples"]

FUZZ = int(os.environ.get("FUZZ_EXAMPLES", "0"))


def examples(number: int, **more: Any) -> settings:
    """Settings of a property test that draws so many examples in the suite.

    They are the same in every run: a failure is nobody's bad luck. ``make fuzz`` draws others, as
    many as FUZZ_EXAMPLES says; what it finds is mended and kept with ``@example``.
    """
    if FUZZ:
        return settings(max_examples=FUZZ, deadline=None, **more)
    return settings(max_examples=number, deadline=None, derandomize=True, **more)
