"""Tiling of frames, with a detector whose answer is known: connected bright pixels."""

from __future__ import annotations

import numpy as np
import pytest
from bright_pixels import BrightPixels

from autofit_ml.errors import SettingsError
from autofit_ml.images.stamp import Frame
from autofit_ml.segmentation.tiles import TileSettings, detect_instances, tiles_of


def frame_of(sources, shape=(420, 500), noise=0.2, seed=1):
    """Gaussian blobs (x, y, peak, sigma) on weak noise."""
    y, x = np.indices(shape)
    data = np.random.default_rng(seed).normal(0, noise, shape)
    for cx, cy, peak, sigma in sources:
        data += peak * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * sigma**2))
    return Frame(
        "f",
        data.astype(np.float32),
        np.full(shape, noise, np.float32),
        np.zeros(shape, bool),
    )


def many(number=60, shape=(420, 500), seed=2):
    rng = np.random.default_rng(seed)
    places: list[tuple[float, float]] = []
    while len(places) < number:
        place = (rng.uniform(8, shape[1] - 8), rng.uniform(8, shape[0] - 8))
        if all(np.hypot(place[0] - a, place[1] - b) > 24 for a, b in places):
            places.append(place)
    return [(x, y, rng.uniform(5, 40), rng.uniform(1.5, 3.0)) for x, y in places]


@pytest.mark.parametrize(("shape", "core"), [((100, 130), 48), ((64, 64), 64), ((300, 37), 50)])
def test_cores_cover_a_frame_once(shape, core):
    cover = np.zeros(shape, int)
    for tile in tiles_of(shape, core, 16):
        cover[tile.core] += 1
        for own, seen in zip(tile.core, tile.outer, strict=True):
            assert seen.start <= own.start < own.stop <= seen.stop
    assert (cover == 1).all()


def test_every_object_is_found_once():
    """Also those on seams and corners of tiles."""
    seams = [(128.0, 128.3, 30.0, 2.5), (255.6, 128.0, 30.0, 2.5), (384, 256, 30, 2.5)]
    others = [
        item
        for item in many()
        if all(np.hypot(item[0] - x, item[1] - y) > 24 for x, y, _, _ in seams)
    ]
    sources = [*others, *seams]
    frame = frame_of(sources)
    found = detect_instances(
        frame, BrightPixels(), fwhm=4.0, settings=TileSettings(core=128, halo=32, binnings=())
    )
    assert len(found.sources) == len(sources)
    for x, y, _, _ in sources:
        # Light-weighted centroids of noisy blobs.
        distance = np.hypot(found.sources["x"] - x, found.sources["y"] - y)
        assert distance.min() < 0.5
    assert set(np.unique(found.labels)) == set(range(len(sources) + 1))
    assert set(found.classes.values()) == {"galaxy"}


@pytest.mark.parametrize("core", [64, 100, 128, 1000])
def test_numbers_and_positions_do_not_depend_on_the_tiles(core):
    """To the bit: the same labels, rows and numbers."""
    frame = frame_of(many())
    settings = [TileSettings(core=side, halo=40, binnings=()) for side in (200, core)]
    one, two = (
        detect_instances(frame, BrightPixels(), fwhm=4.0, settings=item) for item in settings
    )
    np.testing.assert_array_equal(one.labels, two.labels)
    np.testing.assert_array_equal(one.sources, two.sources)
    assert one.classes == two.classes


def test_numbers_follow_the_rows():
    found = detect_instances(
        frame_of([(300, 50, 20, 2), (100, 50, 20, 2), (200, 300, 20, 2)]),
        BrightPixels(),
        fwhm=4.0,
        settings=TileSettings(core=128, halo=32, binnings=()),
    )
    np.testing.assert_allclose(found.sources["x"], [100, 300, 200], atol=0.5)
    np.testing.assert_array_equal(found.sources["label"], [1, 2, 3])


def test_large_galaxy_comes_whole_from_the_binned_pass():
    """A galaxy wider than core + halo, and a satellite on its seam that stays its own."""
    frame = frame_of([(260, 210, 60, 40.0), (60, 60, 20, 2.0)], shape=(420, 520))
    tiles = TileSettings(core=96, halo=24)
    found = detect_instances(frame, BrightPixels(), fwhm=4.0, box=420, settings=tiles)
    large = found.sources[np.argmax(found.sources["radius"])]
    assert np.hypot(large["x"] - 260, large["y"] - 210) < 5
    # Above 3 sigma out to sigma sqrt(2 ln(60 / 0.6)) = 121 pixels; the background takes some.
    assert large["radius"] > 80
    near = np.hypot(found.sources["x"] - 60, found.sources["y"] - 60) < 1
    assert near.sum() == 1


def test_memory_is_that_of_tiles():
    """The network never sees more than a tile and its halo."""
    network = BrightPixels()
    detect_instances(
        frame_of(many()), network, fwhm=4.0, settings=TileSettings(core=64, halo=16, binnings=())
    )
    assert network.largest <= (64 + 2 * 16) ** 2


def test_masked_pixels_and_empty_frames():
    frame = frame_of([])
    found = detect_instances(frame, BrightPixels(), fwhm=4.0, settings=TileSettings(binnings=()))
    assert len(found.sources) < 5  # 3-sigma noise peaks of 4 pixels and more
    masked = np.zeros(frame.data.shape, bool)
    masked[:, 200:] = True
    sources = [(100, 100, 30, 2), (300, 100, 30, 2)]
    frame = frame_of(sources).replace(mask=masked)
    found = detect_instances(frame, BrightPixels(), fwhm=4.0, settings=TileSettings(binnings=()))
    assert len(found.sources) == 1


@pytest.mark.parametrize("bad", [{"core": 8}, {"halo": 2}, {"seam": 200}])
def test_bad_tiles(bad):
    with pytest.raises(SettingsError):
        TileSettings(**bad)
