"""Fixtures of the image tests: a writer of FITS inputs, the folder of real images."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from fits_builders import Writer

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def writer(tmp_path: Path) -> Writer:
    return Writer(tmp_path)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of real galaxy images, or skip."""
    given = os.environ.get("AUTOFIT_ML_TEST_DATA")
    folder = Path(given) if given else REPOSITORY.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no real images at {folder}; set AUTOFIT_ML_TEST_DATA")
    return folder
