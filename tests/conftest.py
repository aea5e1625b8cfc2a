"""Fixtures for every folder of tests: real images, a small simulated folder, the command line."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of real galaxy images, or skip."""
    given = os.environ.get("AUTOFIT_ML_TEST_DATA")
    folder = Path(given) if given else REPOSITORY.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no real images at {folder}; set AUTOFIT_ML_TEST_DATA")
    return folder


@pytest.fixture(scope="session")
def simulated_folder(tmp_path_factory) -> Path:
    """Eight simulated objects (image, sigma, PSF); not to be changed: see `images`."""
    pytest.importorskip("galsim", reason="the simulated folder needs galsim")
    from autofit_ml.simulation import demo_set

    folder = tmp_path_factory.mktemp("simulated") / "images"
    demo_set(folder, n=8, seed=5)
    return folder


@pytest.fixture
def images(simulated_folder, tmp_path) -> Path:
    """A copy of the simulated folder that a test may change."""
    return Path(shutil.copytree(simulated_folder, tmp_path / "images"))


@pytest.fixture
def command(monkeypatch, capsys):
    """Run ``autofit-ml`` in this process: (exit status, stdout, stderr)."""
    from autofit_ml import cli

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["autofit-ml", *map(str, words)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        captured = capsys.readouterr()
        return stopped.value.code or 0, captured.out, captured.err

    return run
