"""Training scripts as a user runs them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

TRAINING = Path(__file__).resolve().parents[2] / "training"


def script(name: str, *arguments: str, cwd: Path) -> str:
    """A training script as a user runs it; its standard output."""
    done = subprocess.run(
        [sys.executable, str(TRAINING / name), *arguments],
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout
