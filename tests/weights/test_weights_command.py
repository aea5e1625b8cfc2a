"""autofit-ml weights list | info | verify | pull."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner
from weights_bundles import add_bundle

from autofit_ml.cli import app, main
from autofit_ml.errors import DamagedWeightsError, UnknownWeightsError
from autofit_ml.weights import manifest


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A folder with two bundles."""
    folder = tmp_path / "weights"
    monkeypatch.setenv("AUTOFIT_ML_WEIGHTS", str(folder))
    monkeypatch.setenv("AUTOFIT_ML_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(manifest, "installed_folder", lambda: tmp_path / "not installed")
    add_bundle(folder, "segment/test-r@1.0.0", title="a test", psf_fwhm=(2.0, 5.0))
    add_bundle(folder, "segment/test-g@1.0.0")
    return folder


def run(*arguments):
    return CliRunner().invoke(app, ["weights", *arguments])


def test_list(root):
    done = run("list", "--task", "segment", "--survey", "test")
    assert done.exit_code == 0
    assert "segment/test-g@1.0.0" in done.stdout
    assert "a test" in done.stdout
    rows = json.loads(run("list", "--survey", "test", "--band", "r", "--json").stdout)
    assert [row["name"] for row in rows] == ["segment/test-r@1.0.0"]
    assert "no weights match" in run("list", "--task", "deconvolve").stdout


def test_info(root):
    done = run("info", "segment/test-r")
    assert "PSF FWHM 2 to 5 pixels" in done.stdout
    assert "# segment/test-r@1.0.0" in done.stdout
    assert isinstance(run("info", "segment/none").exception, UnknownWeightsError)


def test_verify(root):
    done = run("verify", "segment/test-r", "segment/test-g@1.0.0")
    assert done.exit_code == 0
    assert done.stdout.count("ok") == 2
    (root / "segment/test-r@1.0.0" / "CARD.md").write_text("x")
    assert isinstance(run("verify").exception, DamagedWeightsError)


def test_exit_status(root, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["autofit-ml", "weights", "info", "segment/none"])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2
    assert "known:" in capsys.readouterr().err
