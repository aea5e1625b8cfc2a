"""`autofit-ml doctor`: the installation, and what is wrong with images."""

from __future__ import annotations

import json
import sys
from importlib import metadata
from pathlib import Path

import pytest
from typer.testing import CliRunner

from autofit_ml.cli import app
from autofit_ml.runs import doctor

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "pipeline"))

from fits_inputs import galaxy, write_object


def states(checkups):
    return {one.what: one.state for one in checkups}


def test_installation():
    found = doctor.check_installation()
    assert states(found)["autofit-ml"] == states(found)["torch"] == "ok"
    names = [one.what for one in found]
    assert "cpu" in names and any(name.startswith("segment/") for name in names)
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == 0 and "autofit-ml" in result.output


def test_missing_parts_are_named(monkeypatch):
    whole = metadata.version

    def without_galsim(name):
        if name == "galsim":
            raise metadata.PackageNotFoundError(name)
        return whole(name)

    monkeypatch.setattr(metadata, "version", without_galsim)
    (line,) = [one for one in doctor.check_installation() if one.what == "[simulate]"]
    assert line.state == "note" and line.text.endswith('pip install "galsim>=2.5"')


def test_damaged_weights_are_bad(monkeypatch):
    from autofit_ml import weights
    from autofit_ml.errors import WeightsError

    def damaged(name, *, offline=False):
        raise WeightsError(f"{name} is damaged", "fetch it again")

    monkeypatch.setattr(weights, "find_bundle", damaged)
    found = [one for one in doctor.check_installation() if "/" in one.what]
    assert found and all(one.state == "bad" for one in found)


@pytest.fixture
def folder(tmp_path):
    write_object(tmp_path, "good", image=galaxy(seed=1))
    write_object(tmp_path, "bare", image=galaxy(seed=2))
    (tmp_path / "bare_psf.fits").unlink()
    (tmp_path / "broken.fits").write_bytes(b"not FITS at all")
    (tmp_path / "notes.txt").write_text("seen")
    return tmp_path


def test_images(folder):
    found = states(doctor.check_images(folder))
    assert found["good"] in ("ok", "note") and found["bare"] == found["broken"] == "bad"
    assert found[str(folder / "notes.txt")] == "note"
    (bare,) = [one for one in doctor.check_images(folder) if one.what == "bare"]
    assert "--psf-fwhm" in bare.text


def test_exit_statuses(folder, tmp_path_factory):
    run = CliRunner().invoke
    assert run(app, ["doctor", str(folder)]).exit_code == 3
    assert run(app, ["doctor", str(folder / "good_image.fits")]).exit_code == 0
    alone = tmp_path_factory.mktemp("alone")
    (alone / "broken.fits").write_bytes(b"not FITS at all")
    assert run(app, ["doctor", str(alone)]).exit_code == 1
    listed = json.loads(run(app, ["doctor", str(folder), "--json"]).stdout)
    assert {one["state"] for one in listed} >= {"bad", "note"}


def test_shell_completion_can_be_installed():
    assert "--install-completion" in CliRunner().invoke(app, ["--help"]).output
