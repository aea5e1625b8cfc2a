"""Real frames through the whole pipeline; skipped where the images are absent."""

from __future__ import annotations

import numpy as np
import pytest
from table_checks import assert_same_rows

from autofit_ml.runs import FitSettings, fit_run

FRAMES = {
    "DECam": ("sfft_decam/ep20160818a_i_image.fits.gz", 15),
    "VIKING": ("profound_viking/viking_Z_image.fits.gz", 25),
}


@pytest.mark.parametrize("name", FRAMES)
def test_frame(name, real_data, tmp_path):
    """Objects with rows and unique ids, the same from run to run, with the PSF from stars."""
    file, least = FRAMES[name]
    if not (real_data / file).exists():
        pytest.skip(f"{file} is not there")
    settings = FitSettings(workers=0, mode="frame", save=("report",))
    first = fit_run(real_data / file, tmp_path / "first", settings)
    again = fit_run(real_data / file, None, settings)
    assert first.n_objects >= least
    assert first.n_failed == 0
    assert_same_rows(first.table, again.table)
    ids = first.table.column("id").to_pylist()
    assert len(set(ids)) == len(ids)
    stem = file.split("/")[1].split("_image")[0]
    assert all(name.startswith(f"{stem}@") for name in ids)
    flags = first.table.column("flags").to_numpy()
    assert np.all(flags & 512)  # PSF_ESTIMATED
    assert all("PSF built from" in text for text in first.table.column("message").to_pylist())
    assert (tmp_path / "first" / "report.html").exists()
    assert fit_run(real_data / file, tmp_path / "first", settings).n_new == 0


def test_real_stamps(real_data, tmp_path):
    """The folder of the issue's example: every object has a usable fit, and resumes."""
    folder = real_data / "profit_kids_sdss"
    if not folder.is_dir():
        pytest.skip("profit_kids_sdss is not there")
    settings = FitSettings(workers=0, save=())
    summary = fit_run(folder, tmp_path / "out", settings)
    assert summary.n_failed == 0
    assert summary.n_ok >= 0.8 * summary.n_objects
    assert fit_run(folder, tmp_path / "out", settings).n_new == 0
