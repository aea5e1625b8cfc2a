"""What a network is given: the stored objects as tensors, in batches and in random order."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from autofit_ml.errors import InputError, SettingsError
from autofit_ml.runs.simulate import write_set
from autofit_ml.simulation import compose_recipe
from autofit_ml.simulation.dataset import (
    NUMBERS,
    RAGGED,
    SOURCE_COLUMNS,
    SOURCE_KINDS,
    ChunkSampler,
    ShardDataset,
    collate,
)
from autofit_ml.simulation.shards import read_objects

pytest.importorskip("galsim", reason="sets are made with GalSim")

STAMPS = (
    "data=crowded",
    "survey=sdss-r",
    "data.shape=[48,40]",
    "survey.psf.size=11",
    "data.neighbours.number=2",
    "data.galaxies.re=[1,3]",
    "data.galaxies.n=[0.5,1.5]",  # GalSim's tables of high indices take most of a second
    "survey.noise.gradient=[1,2]",
    "survey.artefacts.masked_regions=500",
)
ALL_PLANES = (
    *("data", "sigma", "mask", "labels", "artefacts", "psf"),
    *("sky_map", "model", "neighbour_light", "noise_free", "light"),
)


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    """13 stamps with everything stored, in shards of 5 objects and record batches of 5."""
    folder = tmp_path_factory.mktemp("full")
    stored = ("data.labels.noise_free=true", "data.labels.light=true")
    recipe = compose_recipe([*STAMPS, *stored])
    write_set(recipe, folder, count=13, seed=6, shard_size=5, workers=0)
    return folder


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """40 stamps with the usual planes, in shards of 16 objects and record batches of 9."""
    folder = tmp_path_factory.mktemp("plain")
    write_set(compose_recipe(STAMPS), folder, count=40, seed=6, shard_size=16, workers=0)
    return folder


def test_items_are_the_stored_objects(full):
    dataset = ShardDataset(full, ALL_PLANES)
    objects = read_objects(full)
    assert len(dataset) == len(objects) == 13
    for index in (12, 0, 5, 4):
        item, given = dataset[index], objects[index]
        assert (item["id"], item["index"]) == (given.id, index)
        for name in ("data", "sigma", "model", "neighbour_light", "sky_map", "noise_free"):
            assert item[name].dtype == torch.float32
            assert np.array_equal(item[name].numpy(), getattr(given, name))
        for name, dtype in (
            ("mask", torch.bool),
            ("labels", torch.int32),
            ("artefacts", torch.uint8),
        ):
            assert item[name].dtype == dtype
            assert np.array_equal(item[name].numpy(), getattr(given, name))
        assert np.array_equal(item["psf"].numpy(), given.psf.data)
        for (y0, x0, data), own in zip(item["light"], given.light, strict=True):
            assert (y0, x0) == (own.y0, own.x0)
            assert np.array_equal(data.numpy(), own.data)
        for name in NUMBERS:
            assert item[name].dtype == torch.float32
            assert item[name].item() == np.float32(getattr(given, name))
        assert item["flags"].item() == given.flags
        assert item["sources"].shape == (len(given.truth), len(SOURCE_COLUMNS))
        for k, name in enumerate(SOURCE_COLUMNS):
            expected = given.truth[name].astype(np.float32)
            assert np.array_equal(item["sources"][:, k].numpy(), expected, equal_nan=True)
        assert [SOURCE_KINDS[i] for i in item["classes"]] == list(given.truth["kind"])
        assert torch.equal(item["truth"].nan_to_num(-1), item["sources"][0].nan_to_num(-1))
    assert any(item.mask.any() for item in objects)  # the comparison was worth something


def test_truth_of_a_known_column(full):
    """The documented order: x, y, flux, mag, re, n, q, pa come first."""
    item, given = ShardDataset(full)[3], read_objects(full, [3])[0]
    target = given.target
    expected = [target.x, target.y, target.flux, given.truth["mag"][0], target.re, target.n]
    expected += [target.q, target.pa]
    # One rounding to float32: 6e-8.
    np.testing.assert_allclose(item["truth"][:8].numpy(), expected, rtol=1e-7)


def test_flat_sky_is_its_level(tmp_path):
    recipe = compose_recipe([*STAMPS, "survey.noise.gradient=[0,0]", "data.labels.noise_free=true"])
    write_set(recipe, tmp_path, count=1, workers=0)
    item, given = ShardDataset(tmp_path, ["sky_map", "noise_free"])[0], read_objects(tmp_path)[0]
    assert given.sky_map is None
    assert torch.equal(item["sky_map"], torch.full((48, 40), given.sky))
    assert np.array_equal(item["noise_free"].numpy(), given.noise_free)


def test_frames(tmp_path):
    recipe = compose_recipe(
        ["data=frame", "survey=sdss-r", "data.shape=[120,80]", "survey.psf.size=11"]
    )
    write_set(recipe, tmp_path, count=2, workers=0)
    given = read_objects(tmp_path, [1])[0]
    item = ShardDataset(tmp_path, ["labels", "psf_grid"])[1]
    assert "truth" not in item  # no target
    assert np.array_equal(item["psf_grid"].numpy(), given.psf_grid.data)
    assert len(item["sources"]) == len(item["classes"]) == len(given.sources)


def test_items_may_be_changed(plain):
    """Tensors are copies: a transform in place leaves no trace."""
    dataset = ShardDataset(plain)
    before = dataset[2]["data"].clone()
    dataset[2]["data"].zero_()
    dataset[2]["sources"].zero_()
    assert torch.equal(dataset[2]["data"], before)


def shortened(item):
    return {"id": item["id"], "mean": item["data"].mean(), "double": 2 * item["index"]}


def test_transform(plain):
    dataset = ShardDataset(plain, ["data"], shortened)
    assert set(dataset[-1]) == {"id", "mean", "double"}
    batch = collate([dataset[i] for i in (7, -1)])
    assert batch["id"] == ["crowded-000007", "crowded-000039"]
    assert batch["double"].tolist() == [14, 78]
    assert batch["mean"].shape == (2,)


def test_index_outside_the_set(plain):
    dataset = ShardDataset(plain)
    for index in (40, -41):
        with pytest.raises(IndexError):
            dataset[index]
    assert len(list(dataset)) == 40  # iteration ends


@pytest.mark.parametrize(
    ("planes", "message"),
    [
        (["data", "picture"], "no plane is called 'picture'.*noise_free"),
        (["noise_free"], "does not store noise_free.*data.labels.noise_free=true"),
        (["sky_map"], "does not store sky_map.*data.labels.noise_free=true"),
        (["light"], "does not store light.*data.labels.light=true"),
        (["psf_grid"], "stamps have no psf_grid"),
    ],
)
def test_planes_that_cannot_be_had(plain, planes, message):
    with pytest.raises(SettingsError, match=message):
        ShardDataset(plain, planes)


def test_damaged_shard(plain, tmp_path):
    import shutil

    folder = shutil.copytree(plain, tmp_path / "set")
    dataset = ShardDataset(folder)
    path = folder / "shards" / "shard-00001.arrow"
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    assert dataset[0]["index"] == 0
    with pytest.raises(InputError, match=r"shard-00001.arrow: this shard has \d+ bytes"):
        dataset[20]
    path.write_bytes(bytes(len(content)))
    with pytest.raises(InputError, match="shard-00001.arrow: this shard cannot be read"):
        dataset[20]


def test_only_what_is_needed_is_decompressed(plain):
    """Record batches in use are kept; others are dropped."""
    dataset = ShardDataset(plain, ["data"], cache=2)
    reader = dataset._reader
    assert "sigma" not in reader.batch(0, 0).schema.names
    first = reader.batch(0, 0)
    assert reader.batch(0, 0) is first
    reader.batch(0, 1)
    third = reader.batch(1, 0)
    assert reader.batch(0, 0) is not first
    assert reader.batch(1, 0) is third


# --- batches ----------------------------------------------------------------------------------


def test_batch(plain):
    dataset = ShardDataset(plain)
    items = [dataset[i] for i in (3, 8, 30)]
    batch = collate(items)
    assert set(batch) == set(items[0])
    assert batch["data"].shape == (3, 48, 40)
    assert batch["psf"].shape == (3, 11, 11)
    assert batch["truth"].shape == (3, len(SOURCE_COLUMNS))
    assert batch["sky"].shape == batch["flags"].shape == (3,)
    assert batch["index"].tolist() == [3, 8, 30]
    for name in set(RAGGED) & set(batch):
        assert isinstance(batch[name], list)
        for given, stored in zip(items, batch[name], strict=True):
            assert given[name] is stored
    assert len({len(rows) for rows in batch["sources"]}) > 1  # they really are ragged


METHODS = ["spawn"]
if sys.platform.startswith("linux") and sys.version_info < (3, 12):
    METHODS.append("fork")  # later versions warn of it in any process with threads


@pytest.mark.parametrize("method", METHODS)
def test_worker_processes_give_the_same(plain, method):
    dataset = ShardDataset(plain)
    dataset[0]  # open files must not be shared with a fork
    loader = DataLoader(
        dataset,
        batch_size=8,
        sampler=ChunkSampler(dataset, seed=3),
        num_workers=2,
        collate_fn=collate,
        multiprocessing_context=method,
    )
    order = list(ChunkSampler(dataset, seed=3))
    seen = []
    for batch in loader:
        for k, index in enumerate(batch["index"].tolist()):
            seen.append(index)
            item = dataset[index]
            assert torch.equal(batch["data"][k], item["data"])
            assert torch.equal(batch["classes"][k], item["classes"])
    assert seen == order


# --- order ------------------------------------------------------------------------------------


def test_sampler_visits_all_once(plain):
    dataset = ShardDataset(plain)
    sampler = ChunkSampler(dataset, seed=1)
    orders = {}
    for epoch in (0, 1, 2):
        sampler.set_epoch(epoch)
        orders[epoch] = list(sampler)
        assert sorted(orders[epoch]) == list(range(40))
        assert list(sampler) == orders[epoch]  # the same epoch again
    assert len(sampler) == 40
    assert orders[0] != orders[1] != orders[2] != orders[0]
    assert list(ChunkSampler(dataset, seed=2)) != orders[0]
    assert orders[0] == list(ChunkSampler(ShardDataset(plain), seed=1))


def test_sampler_stays_in_a_record_batch(plain):
    """Each is decompressed once in an epoch, and its objects are shuffled."""
    dataset = ShardDataset(plain, cache=1)
    manifest = dataset.manifest
    # data, sigma, labels: 4 bytes; mask, artefacts: 1.
    assert manifest.batch_rows == 2**18 // (14 * 48 * 40)
    order = list(ChunkSampler(dataset))
    places = [(i // 16, i % 16 // manifest.batch_rows) for i in order]
    runs = [place for k, place in enumerate(places) if k == 0 or places[k - 1] != place]
    assert len(runs) == len(set(runs)) == 5  # 9 + 7, 9 + 7, 8
    assert runs != sorted(runs)
    first = [index for index, place in zip(order, places, strict=True) if place == runs[0]]
    assert first != sorted(first)
