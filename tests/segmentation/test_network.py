"""The Mask R-CNN: channels, batching, building, and what its detections become."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from bright_pixels import BrightPixels
from weights_bundles import TINY, tiny_network

from autofit_ml.images.stamp import PSF, Stamp
from autofit_ml.segmentation.maskrcnn import MaskRCNNSettings, find_instances, segment_maskrcnn
from autofit_ml.segmentation.network import Preprocessing, build, describe, prepare
from autofit_ml.simulation.psf import moffat_psf


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
    network = tiny_network()
    network.model.roi_heads.score_thresh = 0.0
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
    network = tiny_network().train()
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
    network = tiny_network()
    again = build(describe(network))
    again.load_state_dict(network.state_dict())
    assert again.settings == TINY
    assert again.preprocessing == network.preprocessing


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
    np.testing.assert_array_equal(found.labels > 0, data > 10)
    assert len(found.scores) == 3


@pytest.mark.parametrize("fwhm", [3.0, 12.0])
def test_resampled_masks_come_back_on_the_image(fwhm):
    """At a quarter of the sampling: boundaries good to two pixels."""
    data = np.kron(blobs(), np.ones((4, 4), np.float32))
    (found,) = find_instances(
        [data], [(0.0, 0.3)], [np.zeros(data.shape, bool)], [fwhm], BrightPixels()
    )
    true = data > 10
    overlap = (true & (found.labels > 0)).sum() / (true | (found.labels > 0)).sum()
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
    assert len(found.scores) == 3
    assert set(found.classes) == {1}
    strict = MaskRCNNSettings(score=0.99)
    (none,) = find_instances(
        [data], [(0.0, 0.3)], [np.zeros(data.shape, bool)], [3.0], Twice(), strict
    )
    assert len(none.scores) == 0
    assert not none.labels.any()


def test_an_image_does_not_depend_on_the_others_of_its_batch():
    """Whatever sizes go together: what is filled up changes what the network sees."""
    rng = np.random.default_rng(2)
    network = tiny_network()
    network.model.roi_heads.score_thresh = 0.0
    images = [rng.normal(0, 1, shape) for shape in ((40, 44), (128, 128), (44, 37), (96, 50))]
    settings = MaskRCNNSettings(score=0.0, mask=0.3, min_pixels=1)

    def found(some):
        number = len(some)
        masks = [np.zeros(image.shape, bool) for image in some]
        return find_instances(some, [(0.0, 1.0)] * number, masks, [3.0] * number, network, settings)

    for image, together in zip(images, found(images), strict=True):
        (alone,) = found([image])
        np.testing.assert_array_equal(alone.labels, together.labels)
        np.testing.assert_allclose(alone.scores, together.scores, atol=1e-5)


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
