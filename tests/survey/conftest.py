"""Fixtures of the tests of surveys."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from overlapping_frames import four_frames

pytest.importorskip("astropy_healpix")
pytest.importorskip("distributed")


@pytest.fixture(scope="session")
def area(tmp_path_factory) -> tuple[Path, np.ndarray]:
    """A folder with four overlapping frames across RA 0, and the galaxies in them."""
    folder = tmp_path_factory.mktemp("area") / "images"
    return folder, four_frames(folder, ra=0.0, dec=2.0, side=220, overlap=50, number=70, seed=3)
