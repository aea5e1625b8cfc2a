"""Fixtures of the pipeline's tests."""

from __future__ import annotations

from pathlib import Path

import pytest
from fits_inputs import BAD_KINDS, SHAPE, galaxy, write_object
from forked_runs import ForkedRuns

from autofit_ml.runs import FitSettings, fit_run

N_GOOD = 22


@pytest.fixture(scope="session")
def many_images(tmp_path_factory) -> Path:
    """22 galaxies of two shapes and two objects that cannot be fitted; not to be changed."""
    folder = tmp_path_factory.mktemp("many") / "images"
    folder.mkdir()
    for number in range(N_GOOD):
        shape = SHAPE if number % 3 else (36, 51)
        image = galaxy(shape, seed=number, flux=2000 + 200 * number, scale=2 + 0.1 * number)
        write_object(folder, f"g{number:02d}", image=image, cards={"ZP": 25.0})
    for kind in ("all-nan", "psf-flat"):
        BAD_KINDS[kind].make(folder, kind)
    return folder


@pytest.fixture(scope="session")
def unbroken(many_images, tmp_path_factory) -> Path:
    """Results of `many_images` from a run that nothing disturbed."""
    out = tmp_path_factory.mktemp("unbroken") / "out"
    summary = fit_run(many_images, out, FitSettings(workers=0, batch_size=4, segmenter="sep"))
    assert summary.n_failed == 2
    assert summary.n_new == N_GOOD + 2
    return out


@pytest.fixture(scope="session")
def forked_runs():
    """Runs of the command line that can be killed."""
    runs = ForkedRuns()
    yield runs
    runs.close()
