"""autofit-ml weights list | info | verify | pull."""

from __future__ import annotations

import json
import shutil

import pytest
from typer.testing import CliRunner
from weights_bundles import add_bundle

from autofit_ml.cli import app, main
from autofit_ml.errors import DamagedWeightsError, MissingWeightsError, UnknownWeightsError
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


def test_pull(root, server, tmp_path):
    """From an address, each file checked; a damaged copy elsewhere does not matter any more."""
    served, address = server
    add_bundle(root, "segment/web-r@1.0.0", url=f"{address}/web")
    shutil.copytree(root / "segment/web-r@1.0.0", served / "web")
    (root / "segment/web-r@1.0.0" / "CARD.md").write_text("x")
    assert isinstance(run("verify", "segment/web-r").exception, DamagedWeightsError)
    done = run("pull", "segment/web-r")
    assert done.exit_code == 0
    folder = tmp_path / "cache" / "segment/web-r@1.0.0"
    assert done.stdout.splitlines()[-1] == str(folder)
    assert f"from {address}/web" in done.stdout
    assert f"ok  segment/web-r@1.0.0  {folder}" in run("verify", "segment/web-r").stdout
    (served / "web" / "CARD.md").write_text("another")
    (folder / "CARD.md").unlink()
    assert isinstance(run("pull", "segment/web-r").exception, MissingWeightsError)


def test_pull_without_an_address(root):
    done = run("pull", "segment/test-r")
    assert done.exit_code == 0
    assert "no address" in done.stdout
    assert str(root / "segment/test-r@1.0.0") in done.stdout
    assert "none: it comes with the package" in run("info", "segment/test-r").stdout
    shutil.rmtree(root / "segment/test-r@1.0.0")
    error = run("pull", "segment/test-r").exception
    assert isinstance(error, MissingWeightsError)
    assert "no address" in error.problem
    assert "copy its folder" in error.remedy
