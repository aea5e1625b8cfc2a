"""Debug size, end to end: train, continue, export, load, segment."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("lightning")
pytest.importorskip("galsim")

from training_scripts import TRAINING, script

from autofit_ml.errors import SettingsError
from autofit_ml.segmentation.maskrcnn import segment_maskrcnn
from autofit_ml.simulation import compose_recipe, simulate_one, to_stamps
from autofit_ml.weights import load, trained_state, weight_info, write_bundle
from training.checkpoints import network_state
from training.endless import EndlessSettings
from training.export import export
from training.settings import compose


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished debug training."""
    folder = tmp_path_factory.mktemp("training")
    script("train.py", "experiment=segment_ground", "size=debug", cwd=folder)
    return folder


RUN = Path("runs/debug/segment/ground-any")


def test_run_has_config_logs_and_checkpoints(run):
    assert "segment/ground-any" in (run / RUN / "training.yaml").read_text()
    rows = (run / RUN / "csv" / "metrics.csv").read_text().splitlines()
    assert "val/loss" in rows[0]
    assert list((run / RUN / "tb").glob("events*"))
    assert (run / RUN / "checkpoints" / "best.ckpt").exists()


def test_more_epochs_continue_the_run(run):
    """The step count goes on; the simulated sets are not made again."""
    before = json.loads((run / RUN / "history.json").read_text())
    out = script("train.py", "size=debug", "trainer.epochs=3", cwd=run)
    after = json.loads((run / RUN / "history.json").read_text())
    assert after["steps"] == before["steps"] * 3 // 2
    assert after["seconds"] > before["seconds"]
    assert "simulating" not in out


def test_exported_bundle_segments(run, tmp_path, monkeypatch):
    """Every step of the way to labels; what an hour of training is needed for is not asked."""
    out = tmp_path / "weights"
    script("export.py", str(RUN), "--out", str(out), "--version", "0.0.1", "--last", cwd=run)
    monkeypatch.setenv("AUTOFIT_ML_WEIGHTS", str(out))
    info = weight_info("segment/ground-any@0.0.1")
    assert (info.survey, info.band) == ("ground", "any")
    assert info.pixel_scale == (0.396, 0.396)
    network = load("segment/ground-any@0.0.1")
    recipe = compose_recipe(["data=blends", "data.shape=[64,64]", "data.galaxies.n=[0.5,2]"])
    stamps = to_stamps([simulate_one(recipe, k) for k in range(3)])
    for stamp, found in zip(stamps, segment_maskrcnn(stamps, network), strict=True):
        assert found.labels.shape == stamp.shape
        assert found.method == "maskrcnn"
        assert set(found.classes) == set(np.unique(found.labels)) - {0}
        assert np.isfinite([found.sky_level, found.sky_rms]).all()
    history = json.loads((run / RUN / "history.json").read_text())
    card = (out / "segment/ground-any@0.0.1" / "CARD.md").read_text()
    assert f"- {history['image_passes']} image passes in {history['steps']} steps" in card


CONF = TRAINING.parent / "conf" / "experiment"
OTHERS = sorted(path.stem for path in CONF.glob("segment_*.yaml") if path.stem != "segment_ground")


@pytest.mark.parametrize("experiment", OTHERS)
def test_every_experiment_goes_all_the_way(run, experiment, tmp_path, monkeypatch):
    """Begun with the weights of the first one: trained, exported, loaded, and not the same."""
    start = run / RUN / "checkpoints" / "best.ckpt"
    words = (f"experiment={experiment}", "size=debug", "trainer.epochs=1", f"start={start}")
    last = script("train.py", *words, cwd=run).splitlines()[-1]
    folder = Path(last).parents[1]
    out = tmp_path / "weights"
    script("export.py", str(folder), "--out", str(out), "--version", "0.0.1", "--last", cwd=run)
    (bundle,) = out.glob("segment/*@0.0.1")
    card, settings = ((bundle / name).read_text() for name in ("CARD.md", "training.yaml"))
    assert "Began with the weights of `runs/debug/segment/ground-any/checkpoints/best.ckpt`" in card
    assert str(run) not in card + settings
    weights = load(bundle).state_dict()
    begun = network_state(start)
    name = "model.roi_heads.box_predictor.cls_score.weight"
    distance = (weights[name] - begun[name]).abs().max()
    assert 0 < distance < 0.1


def test_mean_with_another_bundle(run, tmp_path):
    """``--average`` stores the mean of two networks, and its card says of which."""
    words = (str(RUN), "--last", "--out", str(tmp_path), "--version")
    script("export.py", *words, "0.0.1", cwd=run)
    folder = tmp_path / "segment/ground-any@0.0.1"
    own = trained_state(folder)
    config = json.loads((folder / "config.json").read_text())
    texts = {"metrics": {}, "training": "", "card": ""}
    older = tmp_path / "tripled"
    write_bundle(older, state={k: 3 * v for k, v in own.items()}, config=config, **texts)
    script("export.py", *words, "0.0.2", "--average", str(older), cwd=run)
    mean = trained_state(tmp_path / "segment/ground-any@0.0.2")
    for name, values in own.items():
        if values.is_floating_point():
            torch.testing.assert_close(mean[name], 2 * values)
        else:
            assert torch.equal(mean[name], values)
    card = (tmp_path / "segment/ground-any@0.0.2/CARD.md").read_text()
    assert "mean of the run's (validated below) and of `tripled`" in card
    fewer = dict(list(own.items())[1:])
    write_bundle(older, state=fewer, config=config, **texts)
    with pytest.raises(SettingsError, match="another architecture"):
        export(run / RUN, tmp_path, "0.0.3", average=older)


@pytest.mark.parametrize("experiment", sorted(path.stem for path in CONF.glob("*.yaml")))
def test_sets_of_experiments_are_valid(experiment):
    """Every recipe composes; no seed of a training set is one of the held-out figures."""
    own = ["images=.", "name=initialise/mine-r"] if experiment == "adapt" else []
    sets = compose([f"experiment={experiment}", *own]).sets
    seeds = []
    for entry in [*sets.train, *sets.val, *sets.test]:
        if "images" in entry:
            continue
        seeds.append(entry["seed"])
        if "sharp" in entry:
            continue
        if "endless" in entry:
            given = entry["endless"]
            EndlessSettings(**{k: tuple(v) if isinstance(v, list) else v for k, v in given.items()})
            continue
        for survey in entry["surveys"]:
            compose_recipe([f"data={entry['data']}", f"survey={survey}", *entry.get("set", [])])
    assert len(set(seeds)) == len(seeds)
    assert not {9001, 9002, 9003, 9004, 9100, 9101, 9102, 9201} & set(seeds)
