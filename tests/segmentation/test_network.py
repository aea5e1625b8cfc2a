"""The Mask R-CNN: channels, batching, building, and what its detections become."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from bright_pixels import BrightPixels
from torch._subclasses.fake_tensor import FakeTensorMode
from weights_bundles import TINY, tiny_network, tiny_trainable

from autofit_ml.images.stamp import PSF, Stamp
from autofit_ml.segmentation import regions
from autofit_ml.segmentation.channels import Preprocessing, prepare
from autofit_ml.segmentation.maskrcnn import MaskRCNNSettings, find_instances, segment_maskrcnn
from autofit_ml.segmentation.network import NetworkSettings, SegmentNetwork, build, describe
from autofit_ml.segmentation.pieces import draw
from autofit_ml.simulation.psf import moffat_psf
from autofit_ml.weights import load, trained_state
from training.tasks.segment.network import TrainableNetwork


def test_channels_do_not_depend_on_units_or_sky():
    """The same scene in maggies or electrons, with or without a pedestal."""
    signal = torch.linspace(-5, 500, 64).reshape(8, 8)
    reference = prepare(signal, 0.0, 1.0, 3.0)
    for scale, level in ((1e-12, 3.0), (1e6, -20.0), (1.0, 100.0)):
        channels = prepare(scale * (signal + level), scale * level, scale, 3.0)
        torch.testing.assert_close(channels, reference, rtol=1e-4, atol=1e-4)
    assert reference.shape == (4, 8, 8)
    assert reference[2].min() >= -1
    assert reference[2].max() <= 2


def test_masked_pixels_are_sky():
    signal = torch.full((6, 6), 50.0)
    mask = torch.zeros(6, 6, dtype=torch.bool)
    mask[2] = True
    channels = prepare(signal, 0.0, 1.0, 6.0, mask)
    assert (channels[:3, 2] == 0).all()
    assert (channels[:, 3] > 0).all()
    assert torch.allclose(channels[3], torch.tensor(np.log(2.0)).float())


@pytest.mark.parametrize("shape", [(32, 32), (57, 33), (128, 96)])
def test_any_size_and_mixed_batches(shape):
    """Boxes stay inside their own image, masks 28 x 28, alone or beside a larger image."""
    network = tiny_network(score=0.0)
    torch.manual_seed(1)
    image, other = torch.randn(4, *shape), torch.randn(4, 128, 128)
    with torch.no_grad():
        alone, together = network([image])[0], network([image, other])[0]
    assert alone["masks"].shape[-2:] == (28, 28)
    assert (alone["boxes"][:, 2] <= shape[1]).all()
    assert (alone["boxes"][:, 3] <= shape[0]).all()
    assert (together["boxes"][:, 2] <= shape[1]).all()
    assert (together["boxes"][:, 3] <= shape[0]).all()
    assert len(alone["boxes"]) > 0


def test_training_gives_losses_also_without_objects():
    network = tiny_trainable().train()
    image = torch.randn(4, 48, 48)
    mask = torch.zeros(1, 48, 48, dtype=torch.uint8)
    mask[0, 10:20, 12:24] = 1
    one = {
        "boxes": torch.tensor([[12.0, 10, 24, 20]]),
        "labels": torch.tensor([1]),
        "masks": mask,
    }
    none = {
        "boxes": torch.zeros(0, 4),
        "labels": torch.zeros(0, dtype=torch.int64),
        "masks": torch.zeros(0, 48, 48, dtype=torch.uint8),
    }
    losses = network([image, image], [one, none])
    total = sum(losses.values())
    assert torch.isfinite(total)
    total.backward()
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in network.parameters())


def test_description_builds_the_same_network():
    network = tiny_trainable()
    again = build(describe(network))
    again.load_state_dict(network.state_dict())
    assert again.settings == TINY
    assert again.preprocessing == network.preprocessing


WEIGHTS = "segment/ground-any"


def crowded(number, shape=(96, 80), seed=0):
    """Channels of images with a dozen round blobs, faint ones among them."""
    rng = np.random.default_rng(seed)
    y, x = np.indices(shape)
    images = []
    for _ in range(number):
        data = rng.normal(0, 1, shape)
        for _ in range(12):
            cx, cy, width = rng.uniform(0, shape[1]), rng.uniform(0, shape[0]), rng.uniform(1.3, 5)
            peak = 10 ** rng.uniform(0.3, 2.5)
            data += peak * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * width**2))
        images.append(prepare(torch.as_tensor(data), 0.0, 1.0, 3.0))
    return images


def trained():
    """The installed network, and torchvision's with the same weights."""
    network = load(WEIGHTS)
    reference = TrainableNetwork(network.settings, network.preprocessing)
    reference.load_state_dict(trained_state(WEIGHTS))
    return network, reference.eval()


@pytest.mark.parametrize("shape", [(64, 64), (128, 128), (57, 100)])
def test_the_same_instances_as_torchvisions_model(shape):
    """Boxes, scores, classes and masks to rounding: what one of two doubles stays may hang on it."""
    network, reference = trained()
    images = crowded(8, shape)
    with torch.no_grad():
        found, expected = network(images), reference(images)
    differ = number = 0
    for one, other in zip(found, expected, strict=True):
        assert len(one["boxes"]) == len(other["boxes"]) > 0
        assert torch.equal(one["labels"], other["labels"])
        number += len(one["boxes"])
        apart = (one["boxes"] - other["boxes"]).abs().amax(1) > 1e-3
        apart |= (one["scores"] - other["scores"]).abs() > 1e-4
        apart |= (one["masks"] - other["masks"]).abs().amax((1, 2, 3)) > 1e-3
        differ += int(apart.sum())
    assert number > 40
    assert differ <= 0.01 * number


def test_normalisation_is_folded_as_torchvision_applies_it():
    """Features of an untrained network whose normalisations are far from the identity."""
    reference = tiny_trainable()
    generator = torch.Generator().manual_seed(5)
    for name, values in reference.state_dict().items():
        if name.endswith(("running_mean", "running_var", "bn1.weight", "bn2.bias")):
            values.copy_(0.5 + torch.rand(values.shape, generator=generator))
    network = SegmentNetwork(TINY, Preprocessing()).eval()
    network.load_state_dict(reference.state_dict())
    images = torch.randn(2, 4, 48, 80, generator=generator)
    with torch.no_grad():
        expected = list(reference.model.backbone(images).values())
        found = network.model["backbone"](images)
    assert len(found) == len(expected) == 5
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_weights_of_another_network_are_refused():
    state = tiny_trainable().state_dict()
    del state["model.backbone.stem.1.running_var"]
    with pytest.raises(RuntimeError, match=r"stem\.1"):
        SegmentNetwork(TINY, Preprocessing()).load_state_dict(state)


@pytest.mark.parametrize("shape", [(64, 64), (113, 128)])
def test_instances_do_not_depend_on_the_batch_to_the_bit(shape):
    network = load(WEIGHTS)
    images = crowded(11, shape, seed=3)
    with torch.no_grad():
        alone = [network([image])[0] for image in images]
        for size in (2, 3, 11):
            for start in range(0, 11, size):
                members = range(start, min(start + size, 11))
                for k, found in zip(members, network([images[k] for k in members]), strict=True):
                    assert set(found) == {"boxes", "labels", "scores", "masks"}
                    for name, values in found.items():
                        assert torch.equal(values, alone[k][name])


@pytest.mark.parametrize("changes", [{"objectness": 1.1}, {"score": 1.0}])
def test_an_image_may_hold_nothing(changes):
    """No proposal, or none that is an object."""
    with torch.no_grad():
        (found,) = tiny_network(**changes)([torch.zeros(4, 48, 40)])
    assert {name: tuple(values.shape) for name, values in found.items()} == {
        "boxes": (0, 4), "labels": (0,), "scores": (0,), "masks": (0, 1, 28, 28),
    }  # fmt: skip


def test_every_part_stays_on_its_device():
    """Shapes and devices as on a GPU, without one; the removal of doubles is torchvision's."""
    settings = NetworkSettings()
    regions.anchors.cache_clear()  # of no use outside
    with FakeTensorMode(), torch.device("cuda"):
        network = SegmentNetwork(settings, Preprocessing())
        maps = network.model["backbone"](torch.zeros(3, 4, 96, 64, device="cuda"))
        guesses = network.model["rpn"]["head"](maps)
        boxes = torch.rand(5, 4, device="cuda")
        anchors = [
            regions.anchors(side, (part.shape[-2], part.shape[-1]), (96, 64), part.device)
            for side, part in zip(settings.anchors, maps, strict=True)
        ]
        decoded = [
            regions.clip(regions.decode(shifts[0], own), (96, 64))
            for (_, shifts), own in zip(guesses, anchors, strict=True)
        ]
        heads = network.model["roi_heads"]
        features = regions.Features.of([part[0] for part in maps[:-1]])
        chances, found = heads.classified(features, boxes)
        masks = heads.masks(features, boxes, torch.ones(5, dtype=torch.long, device="cuda"))
    regions.anchors.cache_clear()
    assert chances.shape == (5, 3) and found.shape == (5, 3, 4) and masks.shape == (5, 1, 28, 28)
    assert [len(part) for part in decoded] == [3 * 48 * 32, 3 * 24 * 16, 3 * 12 * 8, 3 * 6 * 4, 18]
    assert {part.device.type for part in (*decoded, chances, found, masks)} == {"cuda"}


@pytest.mark.parametrize(("fwhm", "zoom"), [(3.0, 1.0), (1.5, 1.0), (12.0, 0.25), (1.0, 3.0)])
def test_seeing_out_of_range_is_resampled(fwhm, zoom):
    assert Preprocessing().zoom(fwhm) == pytest.approx(zoom)


def blobs(shape=(64, 64), scale=1.0):
    """Three bright squares on a weak background."""
    rng = np.random.default_rng(0)
    data = rng.normal(0, 0.3, shape)
    for y, x, side in ((28, 28, 9), (10, 45, 5), (50, 12, 6)):
        data[y : y + side, x : x + side] += 30
    return (data * scale).astype(np.float32)


def test_masks_come_back_where_the_objects_are():
    """Masks of 28 x 28 a box, pasted: the squares to the pixel."""
    data = blobs()
    (found,) = find_instances(
        [data], [(0.0, 0.3)], [np.zeros(data.shape, bool)], [3.0], BrightPixels()
    )
    np.testing.assert_array_equal(draw(found, data.shape) > 0, data > 10)
    assert len(found) == 3


@pytest.mark.parametrize("fwhm", [3.0, 12.0])
def test_resampled_masks_come_back_on_the_image(fwhm):
    """At a quarter of the sampling: boundaries good to two pixels."""
    data = np.kron(blobs(), np.ones((4, 4), np.float32))
    (found,) = find_instances(
        [data], [(0.0, 0.3)], [np.zeros(data.shape, bool)], [fwhm], BrightPixels()
    )
    true = data > 10
    seen = draw(found, data.shape) > 0
    overlap = (true & seen).sum() / (true | seen).sum()
    assert overlap > (0.97 if fwhm == 3.0 else 0.75)


def test_target_is_the_instance_at_the_position():
    data = blobs(scale=1e-9)
    stamp = Stamp(
        "a",
        data,
        np.full(data.shape, 3e-10, np.float32),
        np.zeros(data.shape, bool),
        PSF(moffat_psf(3.0).data),
    )
    (found,) = segment_maskrcnn([stamp], BrightPixels())
    assert found.labels[32, 32] == found.target > 0
    assert found.contaminants[12, 47]
    assert not found.contaminants[32, 32]
    assert found.sky_rms == pytest.approx(3e-10, rel=0.1)
    assert set(found.classes.values()) == {"galaxy"}
    (moved,) = segment_maskrcnn([stamp.replace(x=47.0, y=12.0)], BrightPixels())
    assert moved.labels[12, 47] == moved.target
    (nowhere,) = segment_maskrcnn([stamp.replace(x=5.0, y=5.0)], BrightPixels())
    assert nowhere.target == 0


def test_an_image_without_noise_has_no_scatter_to_measure():
    """The noise map's is kept: nothing is divided by zero."""
    data = np.where(blobs() > 10, np.float32(30), np.float32(0))
    mask = np.zeros(data.shape, bool)
    stamp = Stamp("clean", data, np.ones_like(data), mask, PSF(moffat_psf(3.0).data))
    with np.errstate(all="raise"):
        (found,) = segment_maskrcnn([stamp], BrightPixels())
    assert found.sky_rms > 0 and np.isfinite(found.blend_fraction)


def test_rounding_errors_of_a_clean_image_are_not_objects():
    """Ripples a thousandth of the noise map's noise high, in a simulation without noise."""
    data = np.where(blobs() > 10, np.float32(30), np.float32(0))
    data += 1e-5 * np.random.default_rng(3).normal(size=data.shape).astype(np.float32)
    data[50:60, 40:60] += 1e-3
    mask = np.zeros(data.shape, bool)
    stamp = Stamp("clean", data, np.ones_like(data), mask, PSF(moffat_psf(3.0).data))
    (found,) = segment_maskrcnn([stamp], BrightPixels())
    np.testing.assert_array_equal(found.labels > 0, data > 10)


def test_doubles_of_two_classes_are_one_object():
    class Twice(BrightPixels):
        def forward(self, images):
            out = super().forward(images)
            for item in out:
                item["boxes"] = torch.cat([item["boxes"], item["boxes"]])
                item["scores"] = torch.cat([item["scores"], item["scores"] - 0.05])
                item["labels"] = torch.cat([item["labels"], item["labels"] + 1])
                item["masks"] = torch.cat([item["masks"], item["masks"]])
            return out

    data = blobs()
    (found,) = find_instances([data], [(0.0, 0.3)], [np.zeros(data.shape, bool)], [3.0], Twice())
    assert len(found) == 3
    assert not any(piece.star for piece in found)
    strict = MaskRCNNSettings(score=0.99)
    (none,) = find_instances(
        [data], [(0.0, 0.3)], [np.zeros(data.shape, bool)], [3.0], Twice(), strict
    )
    assert none == []


def test_an_image_does_not_depend_on_the_others_of_its_batch():
    """Whatever sizes go together: what is filled up changes what the network sees."""
    rng = np.random.default_rng(2)
    network = tiny_network(score=0.0)
    images = [rng.normal(0, 1, shape) for shape in ((40, 44), (128, 128), (44, 37), (96, 50))]
    settings = MaskRCNNSettings(score=0.0, mask=0.3, min_pixels=1)

    def found(some):
        number = len(some)
        masks = [np.zeros(image.shape, bool) for image in some]
        return find_instances(some, [(0.0, 1.0)] * number, masks, [3.0] * number, network, settings)

    for image, together in zip(images, found(images), strict=True):
        (alone,) = found([image])
        np.testing.assert_array_equal(draw(alone, image.shape), draw(together, image.shape))
        assert [piece.score for piece in alone] == [piece.score for piece in together]


def test_large_galaxies_of_stamps_come_from_the_binned_image():
    """A galaxy in pieces at full sampling (a cross of sky through it) is whole when binned."""
    rows, columns = np.indices((200, 200))
    radius = np.hypot(rows - 100, columns - 100)
    data = (
        200 * np.exp(-radius / 12) + np.random.default_rng(4).normal(0, 1, radius.shape)
    ).astype(np.float32)

    class Shredding(BrightPixels):
        """Finds the four quadrants of what is wider than 60 pixels."""

        def forward(self, images):
            cut = [image.clone() for image in images]
            for image in cut:
                if min(image.shape[-2:]) > 150:
                    image[:, 99:101], image[..., 99:101] = 0.0, 0.0
            return super().forward(cut)

    stamp = Stamp(
        "s", data, np.ones_like(data), np.zeros(data.shape, bool), PSF(moffat_psf(3.0).data)
    )
    shredded = segment_maskrcnn([stamp], Shredding(), MaskRCNNSettings(binnings=()))[0]
    whole = segment_maskrcnn([stamp], Shredding(), MaskRCNNSettings())[0]
    isophote = radius < 12 * np.log(200 / 3)
    own = whole.labels == whole.target
    assert (own & isophote).sum() > 0.9 * isophote.sum()
    assert max((shredded.labels == k).sum() for k in shredded.classes) < 0.4 * isophote.sum()
