"""However a command ends, it says why in a line: no traceback, the right exit status."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fits_inputs import write_object

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "images").mkdir()
    write_object(tmp_path / "images", "g0", cards={"ZP": 25.0})
    (tmp_path / "file").write_text("mine")
    return tmp_path


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize("words", [["weights", "list"], ["doctor", "images", "--json"]])
def test_standard_output_is_full(folder, words):
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "autofit_ml", *words], cwd=folder, env=ENVIRONMENT,
            stdout=full, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "standard output: No space left" in done.stderr


def test_standard_output_is_closed(folder):
    """``autofit-ml ... | head`` is no error to speak of."""
    script = f"{sys.executable} -m autofit_ml weights list | true"
    done = subprocess.run(["sh", "-c", script], env=ENVIRONMENT, capture_output=True, text=True)
    assert done.stderr == ""


@pytest.mark.parametrize(
    "words",
    [
        ["fit", "{i}", "--out", "{f}/file/out"],
        ["fit", "{i}", "--out", "{f}/file"],
        ["segment", "{i}", "--out", "{f}/file/out", "--segmenter", "sep"],
        ["deconvolve", "{i}", "--out", "{f}/file/out", "--segmenter", "sep"],
        ["simulate", "data=single", "--count", "1", "--out", "{f}/file/out"],
        ["demo", "--out", "{f}/file/out", "-n", "1"],
        ["calibrate", "{f}/finished", "--out", "{f}/file/out"],
        ["report", "{f}/finished"],
    ],
)  # fmt: skip
def test_output_that_cannot_be_written(words, folder, command):
    """A file is where a folder should be (or a folder where a file should be)."""
    if words[0] in ("calibrate", "report"):
        command("fit", folder / "images", "--out", folder / "finished", "--workers", 0)
        (folder / "finished" / "report.html").unlink()
        (folder / "finished" / "report.html").mkdir()
    if words[0] in ("simulate", "demo"):
        pytest.importorskip("galsim")
    status, out, err = command(*(word.format(f=folder, i=folder / "images") for word in words))
    assert status in (1, 2), err
    assert "Traceback" not in err
    last = err.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert str(folder) in last
    assert (folder / "file").read_text() == "mine"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_to_commands_without_a_loop(number, tmp_path):
    """They end like by Ctrl-C, and say how to go on."""
    pytest.importorskip("galsim")
    words = ["simulate", "data=single", "--count", "100000", "--out", str(tmp_path / "set")]
    run = subprocess.Popen(
        [sys.executable, "-m", "autofit_ml", *words], env=ENVIRONMENT, stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    until = time.monotonic() + 60
    while not (tmp_path / "set" / ".work").exists() and time.monotonic() < until:
        time.sleep(0.02)
    run.send_signal(number)
    _, err = run.communicate(timeout=60)
    assert run.returncode == 130, err
    assert "Traceback" not in err
    assert "leaked" not in err
    assert "to go on: python -m autofit_ml simulate data=single" in err
