"""Fixtures of the image tests: a writer of FITS inputs, the folder of real images."""

from __future__ import annotations

from pathlib import Path

import pytest
from fits_builders import Writer


@pytest.fixture
def writer(tmp_path: Path) -> Writer:
    return Writer(tmp_path)
