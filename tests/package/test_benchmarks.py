"""Every benchmark can be run by one command."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def test_all_are_listed(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import run_all

    assert run_all.differences() == (set(), set())
    sys.modules.pop("run_all")


@pytest.mark.parametrize("name", ["segmentation", "simulation_speed", "model_error"])
def test_training_is_found_from_any_folder(tmp_path, name):
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [sys.executable, BENCHMARKS / f"{name}.py", "--help"]
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True)
