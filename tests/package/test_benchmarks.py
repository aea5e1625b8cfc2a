"""Every benchmark can be run by one command."""

import sys
from pathlib import Path

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def test_all_are_listed(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import run_all

    assert run_all.differences() == (set(), set())
    sys.modules.pop("run_all")
