"""The command line as a process of its own: what it loads, and how it ends."""

from __future__ import annotations

import subprocess
import sys

import pytest


def process(code: str, *words: str, **options) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *code.split(" ", 1), *words],
        capture_output=True, text=True, timeout=120, **options,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["--version"], 0, "autofit-ml"),
        (["fit", "no/such/folder"], 2, "no such file or folder"),
        (["query", ".", "select 1"], 2, ""),
        (["no-such-command"], 2, "No such command"),
    ],
)
def test_status_and_words_reach_the_caller(words, status, said, tmp_path):
    done = process("-m autofit_ml", *words, cwd=tmp_path)
    assert done.returncode == status
    assert said in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("last", "status"),
    [("raise SystemExit(3)", 3), ("raise SystemExit", 0), ("raise SystemExit('why')", 1),
     ("1 / 0", 1), ("raise KeyboardInterrupt", 130), ("pass", 0)],
)  # fmt: skip
def test_a_process_ends_with_its_status_after_all_else(last, status):
    """What is registered for the end is done, and what was printed arrives."""
    code = (
        "import atexit, autofit_ml.cli, autofit_ml.__main__ as process\n"
        "def main():\n"
        "    atexit.register(lambda: print('registered'))\n"
        "    print('x' * 100_000)\n"
        f"    {last}\n"
        "autofit_ml.cli.main = main\n"
        "process.run()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == status
    assert done.stdout == "x" * 100_000 + "\nregistered\n"
    assert ("why" in done.stderr) == ("why" in last)
    assert ("ZeroDivisionError" in done.stderr) == ("1 / 0" in last)


def test_asking_for_help_loads_no_library():
    code = (
        "import sys, autofit_ml.cli\n"
        "heavy = {'torch', 'scipy', 'astropy', 'matplotlib', 'duckdb', 'pandas', 'PIL', 'galsim'}\n"
        "sys.exit(str(sorted(heavy & set(sys.modules)) or 0))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr.strip() in ("", "0"), done.stderr


def test_a_fit_loads_only_what_it_needs(simulated_folder, tmp_path):
    """Neither torchvision's Python nor what draws, samples or asks questions."""
    code = (
        "import sys\nfrom autofit_ml.cli import main\n"
        "try:\n    main()\nexcept SystemExit as left:\n    assert not left.code\n"
        "heavy = {'torchvision', 'torch._dynamo', 'matplotlib', 'duckdb', 'photutils', "
        "'pandas', 'scipy.interpolate'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "fit", str(simulated_folder), "--out", str(tmp_path / "out"),
         "--workers", "0", "--save", "none", "-q"],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.stdout.strip() == "[]", done.stderr
