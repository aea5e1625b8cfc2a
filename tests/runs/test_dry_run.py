"""What a run would do, without doing it."""

from __future__ import annotations

import json
import math

import pytest
from fits_inputs import galaxy, write_object
from typer.testing import CliRunner

from autofit_ml.cli import app
from autofit_ml.errors import SettingsError
from autofit_ml.runs import FitSettings, fit_run
from autofit_ml.runs.plan import plan_run

SETTINGS = FitSettings(workers=0, init="moments", segmenter="sep", save=())


@pytest.fixture
def folder(tmp_path):
    """Four galaxies, one without a PSF, a broken file, a text file."""
    path = tmp_path / "images"
    path.mkdir()
    for number in range(4):
        write_object(path, f"g{number}", image=galaxy(seed=number))
    (path / "g3_psf.fits").unlink()
    (path / "broken.fits").write_bytes(b"SIMPLE  =                    T" + b" " * 50)
    (path / "notes.txt").write_text("seen")
    return path


def test_a_plan_says_what_is_there_and_writes_nothing(folder, tmp_path):
    out = tmp_path / "out"
    plan = plan_run(folder, out, SETTINGS)
    assert (plan.sources, plan.done, plan.todo) == (5, 0, 5)
    assert plan.planes["image"] == 5 and plan.planes["psf"] == 3
    assert list(plan.problems) == ["broken"]
    assert any(path.name == "notes.txt" for path, _ in plan.ignored)
    assert "sersic" in plan.model and plan.weights == ()
    assert plan.folder == "new" and not plan.refused and not out.exists()
    # The first of the four pays for imports; one of the others has no PSF.
    assert (plan.tried, plan.failed) == (3, 1)
    assert any("no PSF" in text for text in plan.messages)
    assert 0 < plan.seconds < 60


def test_a_plan_knows_what_the_results_folder_holds(folder, tmp_path):
    out = tmp_path / "out"
    fit_run(folder, out, SETTINGS)
    plan = plan_run(folder, out, SETTINGS)
    assert plan.folder == "continues" and plan.done == plan.sources and plan.tried == 0
    assert math.isnan(plan.seconds)
    other = FitSettings(workers=0, init="moments", segmenter="sep", save=(), model="exp")
    refused = plan_run(folder, out, other)
    assert refused.refused and "model" in refused.folder
    assert refused.tried == 0 and math.isnan(refused.seconds)  # no time for what will not run
    assert plan_run(folder, out, other, restart=True, sample=0).folder == "new"
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "catalog.fits").write_bytes(b"mine")
    assert plan_run(folder, foreign, SETTINGS, sample=0).refused


def test_a_plan_refuses_what_a_run_refuses(tmp_path):
    with pytest.raises(SettingsError, match="nothing|no input"):
        plan_run([], tmp_path / "out", SETTINGS)


def test_large_images_are_not_tried(folder, monkeypatch):
    monkeypatch.setattr("autofit_ml.runs.plan._LARGEST", 16)
    plan = plan_run(folder, None, SETTINGS)
    assert plan.large == 4 and plan.tried == 0


def test_the_command(folder, tmp_path):
    out = tmp_path / "out"
    words = ["fit", str(folder), "--out", str(out), "--dry-run", "--init", "moments"]
    words += ["--segmenter", "sep", "--save", "none"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    for text in (
        "5 images",
        "broken: ",
        "notes.txt",
        "model sersic\n  parameter",
        "(new)",
        "time: about",
    ):
        assert text in result.output
    assert not out.exists()
    found = json.loads(CliRunner().invoke(app, [*words, "--json"]).stdout)
    assert found["sources"] == 5 and found["folder"] == "new"
