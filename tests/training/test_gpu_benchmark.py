"""The script for a machine with a GPU runs, here on the CPU, without the simulator's packages."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("lightning")
pytest.importorskip("azula")

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
RUN = """
import runpy, sys
for name in ("galsim", "hydra", "omegaconf", "pydantic", "pycocotools"):
    sys.modules[name] = None
sys.path.insert(0, sys.argv[1])
sys.argv[0] = "gpu.py"
del sys.argv[1]
runpy.run_path(sys.path[0] + "/gpu.py", run_name="__main__")
"""
SECTIONS = {"agreement", "fits", "networks", "training", "deconvolution", "pipeline"}


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", RUN, BENCHMARKS, *arguments]
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=500)


def test_every_table_is_written(tmp_path):
    """On a CPU its own results agree to the last bit."""
    done = run("--device", "cpu", "--quick", "--out", tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    tables = {path.stem: path.read_text() for path in tmp_path.glob("*.md")}
    assert set(tables) == SECTIONS
    for name, text in tables.items():
        rows = [line.split("|") for line in text.splitlines() if line.startswith("| ")]
        assert len(rows) > 2, text
        if name == "agreement":
            assert {row[5].strip() for row in rows[1:]} == {"0"}, text


def test_what_cannot_be_run_is_said(tmp_path):
    assert "no section dance" in run("dance", "--out", tmp_path).stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu(tmp_path):
    done = run("training", "--device", "cuda", "--out", tmp_path)
    assert done.returncode == 2 and "no CUDA device" in done.stderr
