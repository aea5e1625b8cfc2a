"""Label maps that take galaxies apart, or say nothing of the image."""

import numpy as np
import pytest

from autofit_ml.images.stamp import Stamp
from autofit_ml.segmentation import Segmentation, dispatch
from autofit_ml.segmentation.repair import repaired, why_refused
from autofit_ml.simulation.psf import moffat_psf

SHAPE = (96, 96)
V, H = np.mgrid[: SHAPE[0], : SHAPE[1]]
NOISE, GOOD = np.ones(SHAPE), np.zeros(SHAPE, bool)


def disc(x, y, radius):
    return np.hypot(H - x, V - y) <= radius


def light(x, y, height, scale):
    return height * np.exp(-np.hypot(H - x, V - y) / scale)


def number(labels):
    return len(np.unique(labels[labels > 0]))


def test_holes_are_filled():
    labels = disc(48, 48, 20).astype(np.int32)
    holed = np.where(disc(52, 44, 4), 0, labels)
    assert np.array_equal(repaired(holed, light(48, 48, 50, 8), NOISE, GOOD), labels)


def test_nucleus_and_ring_are_one_object():
    """The nucleus does not lie quite in the middle, and the ring has a maximum of its own."""
    image = light(51, 48, 80, 3) + 20 * np.exp(-(((np.hypot(H - 48, V - 48) - 15) / 3) ** 2))
    labels = disc(48, 48, 22).astype(np.int32)
    labels[disc(51, 48, 6)] = 2
    out = repaired(labels, image, NOISE, GOOD)
    assert number(out) == 1
    assert np.array_equal(out > 0, labels > 0)


def test_an_envelope_without_a_peak_of_its_own_is_joined():
    labels = disc(48, 48, 22).astype(np.int32)
    labels[disc(50, 50, 7)] = 2
    assert number(repaired(labels, light(50, 50, 60, 8), NOISE, GOOD)) == 1


@pytest.mark.parametrize("x", [60.0, 66.0])
def test_a_star_on_a_galaxy_stays(x):
    image = light(48, 48, 60, 8) + light(x, 48, 200, 1.5)
    labels = disc(48, 48, 24).astype(np.int32)
    labels[disc(x, 48, 4)] = 2
    assert np.array_equal(repaired(labels, image, NOISE, GOOD), labels)


def cut_up():
    """A ring in four pieces, the largest of which has the centre; none is in excess."""
    angle = np.degrees(np.arctan2(V - 48, H - 48)) % 360
    labels = np.where(disc(48, 48, 20), 1 + (angle // 90), 0).astype(np.int32)
    labels[disc(50, 50, 5)] = 1
    image = 20 * np.exp(-(((np.hypot(H - 48, V - 48) - 13) / 4) ** 2))
    return labels, image * (1 + 3 * (angle // 90 % 2))


def test_pieces_round_the_targets_position_are_joined():
    labels, image = cut_up()
    assert number(repaired(labels, image, NOISE, GOOD)) > 1
    assert number(repaired(labels, image, NOISE, GOOD, (48.0, 48.0))) == 1


def test_neighbours_round_a_target_are_not_its_pieces():
    """Four galaxies that touch the target, the small ones opposite to the large ones."""
    image, labels = light(48, 48, 60, 6), disc(48, 48, 14).astype(np.int32)
    for k, (x, y, size) in enumerate([(66, 48, 5), (27, 48, 9), (48, 66, 5), (48, 27, 9)], start=2):
        image = image + light(x, y, 40, size / 2.5)
        labels[disc(x, y, size)] = k
    assert np.array_equal(repaired(labels, image, NOISE, GOOD, (48.0, 48.0)), labels)


# --- refused


def stamp_of(image, seed=1):
    data = image + np.random.default_rng(seed).standard_normal(SHAPE)
    return Stamp(
        id="s", data=data.astype(np.float32), sigma=np.ones(SHAPE, np.float32), mask=GOOD,
        psf=moffat_psf(3.0, beta=3.0, size=25), pixel_scale=0.2,
    )  # fmt: skip


def found(labels, target=1):
    labels = labels.astype(np.int32)
    return Segmentation(labels, target, (labels > 0) & (labels != target), 0.0, 1.0)


GALAXY = light(47.5, 47.5, 60, 5)


@pytest.mark.parametrize(
    ("labels", "target", "why"),
    [
        (disc(47, 47, 18), 1, ""),
        (disc(47, 47, 45), 1, "covers most"),
        (disc(47, 47, 12) + 2 * ((V > 70) & (V < 90)), 1, "mostly sky"),
        (0 * H, 0, "no label"),
        (disc(47, 47, 18) & ~disc(47, 47, 3), 1, "brightest pixel"),
    ],
)
def test_maps_that_say_nothing_of_the_image_are_refused(labels, target, why):
    got = why_refused(stamp_of(GALAXY), found(labels, target))
    assert why in got
    assert bool(why) == bool(got)


def test_nothing_where_there_is_nothing_is_right():
    assert why_refused(stamp_of(np.zeros(SHAPE)), found(0 * H, 0)) == ""


def test_sep_takes_over_and_says_so(monkeypatch):
    """A network that takes the whole image for one galaxy."""
    stamp = stamp_of(GALAXY)
    everything = found(np.ones(SHAPE))
    monkeypatch.setattr(dispatch, "_by_network", lambda stamps, *_: [everything for _ in stamps])
    ((told, result),) = dispatch.segment_all([stamp], "maskrcnn")
    assert result.method == "sep"
    assert result.labels[47, 47] == result.target > 0
    assert np.mean(result.labels == result.target) < 0.5
    assert "sep was used" in told.messages[-1]
