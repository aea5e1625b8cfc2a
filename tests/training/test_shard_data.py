"""A Lightning `Trainer` is fed with sets on disk."""

from __future__ import annotations

import shutil

import pytest
import torch

from autofit_ml.errors import InputError, SettingsError
from autofit_ml.runs.simulate import write_set
from autofit_ml.simulation import compose_recipe

pytest.importorskip("lightning", reason="training needs Lightning")
pytest.importorskip("galsim", reason="sets are made with GalSim")

import lightning

from training.shards import ShardDataModule

# Lightning 2.6 uses a class that PyTorch 2.14 has deprecated; nothing here can change that.
pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec.* is deprecated:FutureWarning")


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """24 training and 6 validation stamps."""
    folder = tmp_path_factory.mktemp("sets")
    overrides = ["survey=sdss-r", "data.shape=[24,24]", "survey.psf.size=11"]
    recipe = compose_recipe([*overrides, "data.galaxies.re=[1,3]"])
    for name, count, seed in (("train", 24, 1), ("val", 6, 2)):
        write_set(recipe, folder / name, count=count, seed=seed, shard_size=9, workers=0)
    return folder


class Brightness(lightning.LightningModule):
    """Predicts the magnitude from the sum of the pixels; remembers what it was given."""

    def __init__(self):
        super().__init__()
        self.line = torch.nn.Linear(1, 1)
        self.trained, self.validated, self.epochs = [], [], []

    def _loss(self, batch):
        flux = (batch["data"] - batch["sky"][:, None, None]).sum((1, 2))
        mag = batch["truth"][:, 3:4]
        return torch.nn.functional.mse_loss(self.line(flux.clamp(min=1).log()[:, None]), mag)

    def training_step(self, batch, batch_idx):
        self.trained.append(batch["index"].tolist())
        self.epochs.append(self.current_epoch)
        return self._loss(batch)

    def validation_step(self, batch, batch_idx):
        self.validated += batch["index"].tolist()
        return self._loss(batch)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1e-3)


def trainer(**options):
    return lightning.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        **options,
    )


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # on a machine with one core
def test_fit_with_workers(sets):
    """Two epochs, two reading processes; each epoch sees every object once, in its own order."""
    network = Brightness()
    before = network.line.weight.detach().clone()
    data = ShardDataModule(sets / "train", sets / "val", batch_size=8, workers=2, seed=4)
    trainer(max_epochs=2, limit_val_batches=0, log_every_n_steps=1).fit(network, data)
    assert network.epochs == [0, 0, 0, 1, 1, 1]
    steps = network.trained[:3], network.trained[3:]
    orders = [[index for batch in epoch for index in batch] for epoch in steps]
    assert [sorted(order) for order in orders] == [list(range(24))] * 2
    assert orders[0] != orders[1]
    assert not torch.equal(network.line.weight, before)


def test_two_steps_and_validation_in_this_process(sets, monkeypatch):
    # Lightning warns of loaders without workers where there is more than one processor.
    connector = "lightning.pytorch.trainer.connectors.data_connector.suggested_max_num_workers"
    monkeypatch.setattr(connector, lambda devices: 1)
    network = Brightness()
    data = ShardDataModule(sets / "train", sets / "val", batch_size=4)
    trainer(max_steps=2, val_check_interval=2, log_every_n_steps=1).fit(network, data)
    assert len(network.trained) == 2
    assert network.validated == list(range(6))  # in order, the smaller last batch included


def halved(item):
    return {**item, "data": item["data"] / 2}


def test_transforms(sets):
    """Augmentation is for the training set only."""
    data = ShardDataModule(sets / "train", sets / "val", batch_size=6, transform=halved)
    data.setup("fit")
    assert torch.equal(data.sets["train"][3]["data"] * 2, _plain(sets)["train"][3]["data"])
    batch = next(iter(data.val_dataloader()))
    assert torch.equal(batch["data"][2], _plain(sets)["val"][2]["data"])


def _plain(sets):
    data = ShardDataModule(sets / "train", sets / "val")
    data.setup("fit")
    return data.sets


def test_stages(sets):
    data = ShardDataModule(sets / "train", sets / "val", sets / "val", batch_size=5)
    data.setup("test")
    assert set(data.sets) == {"test"}
    assert [len(batch["id"]) for batch in data.test_dataloader()] == [5, 1]
    data.setup("fit")
    assert set(data.sets) == {"train", "val", "test"}


def test_damaged_set_is_found_before_training(sets, tmp_path):
    folder = shutil.copytree(sets / "train", tmp_path / "train")
    path = folder / "shards" / "shard-00001.arrow"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match="shard-00001.arrow has another sha256"):
        ShardDataModule(folder, sets / "val").prepare_data()
    ShardDataModule(folder, sets / "val", verify=False).prepare_data()


def test_calls_that_make_no_sense(sets):
    with pytest.raises(SettingsError, match="batch_size 0"):
        ShardDataModule(sets / "train", sets / "val", batch_size=0)
    data = ShardDataModule(sets / "train", sets / "val", batch_size=25)
    data.setup("fit")
    with pytest.raises(SettingsError, match="batches of 25 from a set of 24"):
        data.train_dataloader()
    with pytest.raises(SettingsError, match="no test set"):
        data.test_dataloader()
