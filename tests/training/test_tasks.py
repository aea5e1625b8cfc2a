"""What holds for every network that can be trained, and what all of them share."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

pytest.importorskip("lightning")
pytest.importorskip("galsim")
pytest.importorskip("azula")

from autofit_ml.errors import DamagedWeightsError, SettingsError
from autofit_ml.weights import load, trained_state, write_bundle
from training.checkpoints import network_state
from training.export import portable
from training.optimiser import OptimiserSettings
from training.settings import Training, compose, read_training, typed
from training.tasks import find_task, task_names

REPOSITORY = Path(__file__).resolve().parents[2]
EXPERIMENTS = sorted(path.stem for path in (REPOSITORY / "conf" / "experiment").glob("*.yaml"))
MODELS = sorted(path.stem for path in (REPOSITORY / "conf" / "model").glob("*.yaml"))
ADAPT = ("name=initialise/mine-r", "images=night")


def composed(experiment: str, *more: str) -> Training:
    own = ADAPT if experiment == "adapt" else ()
    return compose([f"experiment={experiment}", *own, *more])


def experiment_of(task: str) -> str:
    """One that trains it."""
    return next(name for name in EXPERIMENTS if composed(name).task == task)


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_experiments_describe_a_training(experiment):
    """Each names a task, has settings that its module takes, and the same from its own text."""
    training = composed(experiment)
    assert training.task in task_names()
    assert training.name.startswith(f"{training.task}/")
    assert training.sets.train and training.sets.val
    assert find_task(training.task).module(training, 10).total_steps == 10
    again = typed(Training, yaml.safe_load(training.yaml()))
    assert again.yaml() == training.yaml()


@pytest.mark.parametrize("name", task_names())
def test_a_bundle_is_built_again(name, tmp_path):
    """From what the smallest module says of itself, with the tensors of its checkpoint."""
    training = composed(experiment_of(name), "size=debug")
    module = find_task(name).module(training, 10)
    torch.save({"state_dict": module.state_dict()}, tmp_path / "last.ckpt")
    state = network_state(tmp_path / "last.ckpt")
    card = {"metrics": {}, "training": training.yaml(), "card": ""}
    write_bundle(tmp_path / "bundle", state=state, config=module.describe(), **card)
    kept = trained_state(tmp_path / "bundle")
    assert set(kept) == set(state)
    assert all(torch.equal(kept[key], value) for key, value in state.items())
    assert not load(tmp_path / "bundle").training
    assert read_training(tmp_path / "bundle" / "training.yaml") == training


def test_every_model_is_a_task():
    assert tuple(MODELS) == task_names()
    with pytest.raises(SettingsError, match="unknown task 'dance'"):
        find_task("dance")


def test_settings_that_make_no_sense():
    values = {"lr": 1e-3, "weight_decay": 0.0, "warmup_steps": 1, "clip": 1.0}
    assert typed(OptimiserSettings, values).schedule == "cosine"
    with pytest.raises(SettingsError, match="OptimiserSettings has no rate"):
        typed(OptimiserSettings, {**values, "rate": 1.0})
    with pytest.raises(SettingsError, match="incomplete OptimiserSettings.*clip"):
        typed(OptimiserSettings, {key: value for key, value in values.items() if key != "clip"})
    with pytest.raises(SettingsError, match="optimiser name 'sgd'.*adamw, muon"):
        typed(OptimiserSettings, {**values, "name": "sgd"})


class Own:
    """A class of this module, as a checkpoint of somebody else might hold one."""


@pytest.mark.parametrize("content", ["class", "text", "no state", "nothing"])
def test_checkpoints_hold_no_classes(tmp_path, content):
    """What would have to be imported to be read is refused: no module's name is ever needed."""
    path = tmp_path / "last.ckpt"
    if content == "text":
        path.write_text("not a checkpoint")
    elif content != "nothing":
        torch.save({"state_dict": {}, "own": Own()} if content == "class" else {"a": 1}, path)
    with pytest.raises(DamagedWeightsError, match=r"last\.ckpt.*no checkpoint of training/train"):
        network_state(path)


def test_commands_are_files_and_modules(tmp_path):
    """Run either way, from anywhere and from the checkout, with a message instead of a traceback."""
    ways = [
        ([str(REPOSITORY / "training" / "export.py")], tmp_path),
        (["-m", "training.export"], REPOSITORY),
    ]
    for words, folder in ways:
        done = subprocess.run(
            [sys.executable, *words, "nowhere"], cwd=folder, capture_output=True, text=True
        )
        assert done.returncode == 1
        assert (
            done.stderr
            == "export: no nowhere/training.yaml (give the folder of a run or of a bundle)\n"
        )


def test_bundles_name_no_folder_of_this_machine(tmp_path):
    """What lies in the folder of the training is named from there, else by its last part."""
    root = Path("/data/me/project")
    config = {
        "start": "/data/me/project/runs/a/last.ckpt",
        "other": "segment/ground-any",
        "sets": {"folder": "sets", "train": [{"images": "/data/night one", "count": 3}]},
        "overrides": ["data.real.folder=/nas/cosmos/cutouts", "data.shape=[64,64]"],
        "text": "python a.py ~/runs/b --out C:\\out\\x 1 / 2, and/or https://example.org/a/b",
        "number": 0.5,
    }
    assert portable(config, root) == {
        "start": "runs/a/last.ckpt",
        "other": "segment/ground-any",
        "sets": {"folder": "sets", "train": [{"images": "night one", "count": 3}]},
        "overrides": ["data.real.folder=cutouts", "data.shape=[64,64]"],
        "text": "python a.py b --out x 1 / 2, and/or https://example.org/a/b",
        "number": 0.5,
    }


BUNDLES = [
    path
    for path in sorted((REPOSITORY / "checkpoints").glob("*/*/training.yaml"))
    if path.parts[-3] != "errors"  # coefficients, by training/errors.py
]


@pytest.mark.parametrize("path", BUNDLES, ids=lambda path: path.parent.name)
def test_trainings_of_bundles_can_be_read(path):
    """Their sets and their task, also of bundles that an older version made."""
    training = read_training(path)
    assert path.parent.name.startswith(f"{training.name.partition('/')[2]}@")
    assert path.parent.parent.name == training.task
    assert training.sets.train
