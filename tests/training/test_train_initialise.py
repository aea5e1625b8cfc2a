"""Debug size, end to end: train, continue, export, load, initialise, adapt."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

pytest.importorskip("lightning")
pytest.importorskip("galsim")

from training_scripts import script

from autofit_ml.initialisation import initialise
from autofit_ml.segmentation import segment
from autofit_ml.simulation import compose_recipe, export_fits, simulate_one, to_stamps
from autofit_ml.weights import choice, weight_info

RUN = Path("runs/debug/initialise/multi-any")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished debug training."""
    folder = tmp_path_factory.mktemp("training")
    script("train.py", "experiment=initialise_multi", "size=debug", cwd=folder)
    return folder


@pytest.fixture
def bundle(run, tmp_path, monkeypatch):
    """Its weights, where they are found."""
    out = tmp_path / "weights"
    script("export.py", str(RUN), "--out", str(out), "--version", "0.0.1", "--last", cwd=run)
    monkeypatch.setenv("AUTOFIT_ML_WEIGHTS", str(out))
    choice.forget()
    yield "initialise/multi-any@0.0.1"
    choice.forget()


def test_run_has_config_logs_and_checkpoints(run):
    assert "initialise/multi-any" in (run / RUN / "training.yaml").read_text()
    header = (run / RUN / "csv" / "metrics.csv").read_text().splitlines()[0]
    assert {"val/loss", "train/nll", "train/physics", "val/log_chi2"} <= set(header.split(","))
    assert list((run / RUN / "tb").glob("events*"))


def test_more_epochs_continue_the_run(run):
    before = json.loads((run / RUN / "history.json").read_text())
    out = script(
        "train.py", "experiment=initialise_multi", "size=debug", "trainer.epochs=4", cwd=run
    )
    after = json.loads((run / RUN / "history.json").read_text())
    assert after["steps"] == before["steps"] * 4 // 3
    assert "simulating" not in out
    assert "rendering" not in out


def test_exported_bundle_initialises(bundle):
    """Every step of the way to starts; what an hour of training is needed for is not asked."""
    info = weight_info(bundle)
    assert (info.task, info.band) == ("initialise", "any")
    assert info.pixel_scale == (0.396, 0.396)
    recipe = compose_recipe(["data=single", "data.galaxies.n=[0.5,2]"])
    stamps = to_stamps([simulate_one(recipe, k) for k in range(5)])
    found = segment(stamps, "sep")
    starts = initialise(stamps, found, "resnet", weights=bundle)
    assert starts.weights == [bundle] * 5
    assert np.isfinite(starts.values).all()
    assert starts.cov is not None
    assert (np.linalg.eigvalsh(starts.cov) >= 0).all()
    # The answer does not depend on what else is asked.
    alone = [
        initialise([s], [f], "resnet", weights=bundle) for s, f in zip(stamps, found, strict=True)
    ]
    np.testing.assert_array_equal(starts.values, np.concatenate([one.values for one in alone]))


@pytest.mark.parametrize("labels", ["none", "fit"])
def test_adapting_to_images(run, bundle, tmp_path, labels):
    """Real images, with and without labels of a fit; the result is a bundle like any other."""
    recipe = compose_recipe(["data=single", "data.galaxies.n=[0.5,2]", "data.target.snr=[50,300]"])
    images = export_fits([simulate_one(recipe, k) for k in range(12)], tmp_path / "night")
    out = script(
        "train.py",
        "experiment=adapt",
        "name=initialise/night-r",
        "trainer.accelerator=cpu",
        "sets.folder=sets/debug",
        f"start={tmp_path / 'weights' / bundle}",
        f"images={images}",
        *(("labels=fit", "model/loss=full") if labels == "fit" else ()),
        f"run={tmp_path / 'run'}",
        "trainer.epochs=1",
        "trainer.batch_size=4",
        cwd=run,
    )
    assert Path(out.splitlines()[-1]).name == "last.ckpt"
    config = yaml.safe_load((tmp_path / "run" / "training.yaml").read_text())
    assert (config["model"]["loss"]["elbo"] > 0) == (labels == "none")
    script("export.py", str(tmp_path / "run"), "--out", str(tmp_path / "own"), cwd=run)
    manifest = json.loads((tmp_path / "own" / "manifest.json").read_text())
    entry = manifest["bundles"][0]
    assert entry["name"] == "initialise/night-r@0.1.0"
    assert entry["pixel_scale"] == [pytest.approx(0.396), pytest.approx(0.396)]


@pytest.mark.parametrize("loss", ["mse", "nll", "physics", "selfsupervised"])
def test_losses_can_be_chosen(run, loss):
    """Each trains; what it does not ask for is not computed."""
    folder = f"run=runs/{loss}"
    script(
        "train.py", "experiment=initialise_multi", "size=debug", f"model/loss={loss}", folder,
        "trainer.epochs=1", cwd=run,
    )  # fmt: skip
    header = (run / "runs" / loss / "csv" / "metrics.csv").read_text().splitlines()[0].split(",")
    names = {name for name in ("mse", "nll", "physics", "elbo") if f"train/{name}" in header}
    assert names == {"elbo" if loss == "selfsupervised" else loss}
