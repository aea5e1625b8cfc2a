"""The same from Python: `fit`, and the stages one by one."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from astropy import units as u
from astropy.table import QTable

import autofit_ml as afm
from autofit_ml.errors import SettingsError


def test_fit_returns_a_table(images, tmp_path):
    (images / "broken.fits").write_bytes(b"nothing of use")
    table = afm.fit(images, out=tmp_path / "results", workers=0)
    assert isinstance(table, QTable)
    assert len(table) == 9
    assert table["re"].unit == u.pix
    assert table["re_arcsec"].unit == u.arcsec
    assert table["re"].info.description
    broken = table[table["id"] == "broken"]
    assert broken["status"][0] == "failed"
    assert np.isnan(broken["re"][0])
    again = afm.read_catalogue(tmp_path / "results")
    assert again.colnames == table.colnames
    assert list(again["id"]) == list(table["id"])


def test_nothing_is_written_without_out(simulated_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    table = afm.fit(sorted(simulated_folder.glob("*_image.fits"))[:2], sky=0, workers=0)
    assert len(table) == 2
    assert np.all(table["sky"] == 0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("option", ["seeing", "psffwhm", "Sky"])
def test_unknown_option(option, simulated_folder):
    with pytest.raises(SettingsError, match=option) as caught:
        afm.fit(simulated_folder, **{option: 1})
    for name in ("psf_fwhm", "sky", "batch_size", "survey"):
        assert name in caught.value.remedy


def test_stages(simulated_folder):
    """The example of the README."""
    stamps = afm.read(simulated_folder)
    result = afm.refine(stamps, scene=afm.sersic(), starts=afm.initialise(stamps))
    whole = afm.fit(simulated_folder, workers=0)
    assert [stamp.id for stamp in stamps] == list(whole["id"])
    for k, name in enumerate(("x", "y", "flux", "re", "n", "q", "pa", "sky")):
        column = whole[name]
        values = column.value if hasattr(column, "unit") and column.unit else column
        origin = [stamp.origin[k] if k < 2 else 0 for stamp in stamps]
        assert np.array_equal(result.values[:, k] + origin, values), name


def test_stages_are_functions_however_they_are_imported(simulated_folder):
    import autofit_ml.fitting
    import autofit_ml.initialisation
    import autofit_ml.segmentation  # noqa: F401

    stamps = afm.read(sorted(simulated_folder.glob("*_image.fits"))[0])
    segmentations = afm.segment(stamps)
    starts = afm.initialise(stamps, segmentations)
    assert np.array_equal(starts.values, afm.initialise(stamps).values)
    assert len(afm.refine(stamps, starts=starts, segmentations=segmentations)) == 1


def test_import_is_light():
    code = (
        "import sys, autofit_ml\n"
        "heavy = ('torch', 'scipy', 'astropy', 'matplotlib', 'duckdb')\n"
        "sys.exit(str([name for name in heavy if name in sys.modules] or 0))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr.strip() in ("", "0"), done.stderr
