"""Make benchmarks/.env with the peers that the benchmarks compare with.

    python benchmarks/peers/install.py

A second run changes nothing. About 6 GB and a few minutes: AstroPhot brings its own PyTorch.
"""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent
ENVIRONMENT = HERE.parent / ".env"
PYTHON = ENVIRONMENT / "bin" / "python"
REQUIREMENTS = HERE / "requirements.txt"
_DONE = ENVIRONMENT / "installed.txt"


def install() -> Path:
    """Install the peers if they are not there; the environment's interpreter."""
    wanted = REQUIREMENTS.read_text()
    if PYTHON.exists() and _DONE.exists() and _DONE.read_text() == wanted:
        return PYTHON
    venv.create(ENVIRONMENT, with_pip=True, clear=False)
    pip = [str(PYTHON), "-m", "pip", "install", "--quiet"]
    lines = [line for line in wanted.splitlines() if line and not line.startswith("#")]
    compiled = [line for line in lines if line.startswith("pyimfit")]
    rest = [line for line in lines if line not in compiled]
    subprocess.run([*pip, *rest], check=True)
    # Its build needs the numpy and cython just installed.
    subprocess.run([*pip, "--no-build-isolation", *compiled], check=True)
    _DONE.write_text(wanted)
    return PYTHON


if __name__ == "__main__":
    print(install())
    sys.exit(0)
