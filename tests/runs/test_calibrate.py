"""`autofit-ml calibrate`: from a results folder to its page and factors."""

from __future__ import annotations

import json
import signal

import numpy as np
import pytest
from astropy.table import Table
from typer.testing import CliRunner

pytest.importorskip("galsim", reason="GalSim draws the galaxies")

import autofit_ml as afm
from autofit_ml.catalogue import read_catalogue
from autofit_ml.cli import app
from autofit_ml.errors import InputError, SettingsError
from autofit_ml.runs import FitSettings, Progress, fit_run
from autofit_ml.runs.calibrate import calibrate_run, settings_of_run
from autofit_ml.runs.identity import identity_of
from autofit_ml.settings import CalibrateSettings
from autofit_ml.simulation import export_fits, simulate_sersic

SETTINGS = FitSettings(workers=0, segmenter="sep", init="moments", save=())


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Six galaxies, fitted."""
    folder = tmp_path_factory.mktemp("calibrate")
    export_fits(simulate_sersic(6, seed=9, snr=(40.0, 120.0), size=64), folder / "images")
    fit_run(folder / "images", folder / "results", SETTINGS)
    return folder


def test_page_tables_and_factors(run):
    results = run / "results"
    words = ["calibrate", str(results), "-n", "24", "--apply", "--json"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout.strip().splitlines()[-1])
    assert found["galaxies"] == 24 and found["recovered"] > 0.7
    assert abs(found["bias_flux"]) < 0.1 and found["coverage_re"] > 0.3
    folder = results / "calibration"
    table = Table.read(folder / "injections.ecsv")
    assert len(table) == 24 and np.isfinite(table["flux_true"]).all()
    page = (folder / "calibration.html").read_text()
    assert found["factor_re"] > 0 and "too few to judge" in found["verdict"][0]
    assert found["verdict"][0] in page
    assert "24 galaxies" in page and "data:image/png" in page and "http" not in page
    catalogue = read_catalogue(results)
    assert np.isfinite(catalogue["re_err_factor"]).all()
    assert catalogue["re_err_factor"].info.description.startswith("Factor for re_err")
    # A second time the columns are replaced, not doubled.
    calibrate_run(results, settings=CalibrateSettings(number=16, apply=True), restart=True)
    assert sum(name == "re_err_factor" for name in read_catalogue(results).colnames) == 1


def test_the_runs_settings_are_taken_up(tmp_path, run):
    export_fits(simulate_sersic(1, seed=9, snr=(90.0, 120.0), size=48), tmp_path / "in")
    wanted = FitSettings(
        workers=0, segmenter="sep", init="moments", save=(), sky="fixed",
        likelihood="huber:2", error_floor=0.01, zeropoint=24.0, noise="model",
    )  # fmt: skip
    fit_run(tmp_path / "in", tmp_path / "out", wanted)
    found, inputs = settings_of_run(tmp_path / "out")
    assert identity_of(found) == {**identity_of(wanted), "weights": found.weights}
    assert any(name.endswith("_image.fits") for name in inputs)


def test_what_is_in_the_folder_is_left_alone(run, tmp_path):
    """A folder with other files is refused, and nothing in it is removed."""
    mine = tmp_path / "injected" / "mine.fits"
    mine.parent.mkdir()
    mine.write_bytes(b"mine")
    with pytest.raises(SettingsError, match=r"injected/ that no run"):
        calibrate_run(run / "results", settings=CalibrateSettings(number=4), out=tmp_path)
    assert mine.read_bytes() == b"mine"


def test_the_catalogue_with_factors_is_named(run, tmp_path):
    summary = calibrate_run(
        run / "results", settings=CalibrateSettings(number=16, apply=True), out=tmp_path / "c"
    )
    assert summary.catalogue == run / "results" / "catalog.fits" and summary.catalogue.exists()
    assert summary.out == tmp_path / "c"


class Stops(Progress):
    """SIGTERM after some fits; the notes until then."""

    def __init__(self, after=0):
        self.after, self.notes, self.done = after, [], 0

    def note(self, text):
        self.notes.append(text)

    def batch(self, n_sources, rows):
        self.done += len(rows["id"])
        if self.after and self.done >= self.after:
            signal.raise_signal(signal.SIGTERM)


def test_an_interrupted_calibration_goes_on(run, tmp_path):
    """What was injected and fitted is not done again, and the end is the same to the bit."""
    results, settings = run / "results", CalibrateSettings(number=40, seed=3)
    calibrate_run(results, settings=settings, out=tmp_path / "whole")
    first = Stops(after=1)
    with pytest.raises(KeyboardInterrupt):
        calibrate_run(results, settings=settings, out=tmp_path / "out", progress=first)
    assert first.done == 32 and first.notes
    rest = Stops()
    calibrate_run(results, settings=settings, out=tmp_path / "out", progress=rest)
    assert rest.done == 8 and not rest.notes
    for name in ("injections.ecsv", "by_magnitude.ecsv"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "out" / name).read_bytes()


def test_runs_that_cannot_be_calibrated(run, tmp_path):
    with pytest.raises(InputError, match="no finished run"):
        calibrate_run(tmp_path)
    fit_run(run / "images", tmp_path / "two", FitSettings(
        workers=0, segmenter="sep", init="moments", save=(), model="sersic+exp"))  # fmt: skip
    with pytest.raises(SettingsError, match="one Sérsic profile"):
        calibrate_run(tmp_path / "two")
    with pytest.raises(SettingsError, match="number is 0"):
        CalibrateSettings(number=0)
    moved = tmp_path / "moved"
    export_fits(simulate_sersic(1, seed=2, snr=(90.0, 120.0), size=48), moved / "in")
    afm.fit(moved / "in", out=moved / "out", segmenter="sep", init="moments", save="none")
    (moved / "in").rename(moved / "elsewhere")
    with pytest.raises(InputError, match="not where it was"):
        calibrate_run(moved / "out")
    assert (
        calibrate_run(moved / "out", moved / "elsewhere", CalibrateSettings(number=2)).stamps == 1
    )
