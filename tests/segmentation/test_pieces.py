"""Large galaxies from binned images, and what becomes of the pieces inside them."""

from __future__ import annotations

import numpy as np
import pytest

from autofit_ml.segmentation.pieces import Piece, bin_image, draw, enlarge, pieces_of, with_large

SHAPE = (160, 160)
NOISE = np.full(SHAPE, 0.1, np.float32)


def blob(x, y, peak, sigma, shape=SHAPE):
    rows, columns = np.indices(shape)
    return peak * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * sigma**2))


def piece(mask, score=0.9, star=False):
    (out,) = pieces_of(mask.astype(np.int32), [score], [star])
    return out


def coarse_of(mask, b=2):
    ny, nx = mask.shape
    return piece(mask.reshape(ny // b, b, nx // b, b).mean((1, 3)) > 0.5)


@pytest.fixture
def galaxy():
    image = blob(80, 80, 20, 18)
    return image, image > 1


def test_shreds_join_a_large_galaxy(galaxy):
    """Halves, a core and a noise-like knot of the galaxy go; the galaxy comes whole."""
    image, mask = galaxy
    left, core, knot = mask.copy(), blob(80, 80, 20, 18) > 15, np.zeros(SHAPE, bool)
    left[:, 80:] = False
    knot[100:104, 100:104] = True
    fine = [piece(left), piece(core), piece(knot), piece(blob(20, 20, 5, 2) > 1)]
    got = with_large(fine, [coarse_of(mask)], 2, image, NOISE)
    assert len(got) == 2
    assert got[0].source == -2
    assert abs(got[0].area - mask.sum()) < 0.05 * mask.sum()
    assert got[1] is fine[3]


def test_a_satellite_stays_and_is_drawn_on_top(galaxy):
    """Light in excess of the galaxy's own is another object, however faint beside it."""
    image, mask = galaxy
    with_satellite = image + blob(100, 90, 12, 2)
    satellite = piece(blob(100, 90, 12, 2) > 3, star=True)
    got = with_large([satellite], [coarse_of(mask)], 2, with_satellite, NOISE)
    assert [p.source for p in got] == [-2, 0]
    labels = draw(got, SHAPE)
    assert got[labels[90, 100] - 1] is satellite
    assert labels[80, 80] != labels[90, 100]
    # The same mask without the light is a shred.
    assert len(with_large([satellite], [coarse_of(mask)], 2, image, NOISE)) == 1


def test_small_objects_and_stars_are_left_to_the_finer_image():
    image = blob(80, 80, 20, 3)
    mask = image > 1
    fine = [piece(mask)]
    assert with_large(fine, [coarse_of(mask)], 2, image, NOISE) == fine
    big = blob(80, 80, 20, 18) > 1
    star = Piece(0, 0, coarse_of(big).mask, 0.9, True)
    assert with_large(fine, [star], 2, image, NOISE) == fine


def test_the_finer_binned_image_wins(galaxy):
    """What was found binned 2 x 2 is not replaced by the same from 4 x 4."""
    image, mask = galaxy
    two = with_large([], [coarse_of(mask)], 2, image, NOISE)
    four = with_large(two, [coarse_of(mask, 4)], 4, image, NOISE)
    assert [p.source for p in four] == [-2]


def test_binned_noise_is_measured_where_it_is_correlated():
    rng = np.random.default_rng(3)
    white = rng.normal(0, 1, (200, 200)).astype(np.float32)
    ones, bad = np.ones_like(white), np.zeros(white.shape, bool)
    mean, noise, masked = bin_image(white, ones, bad, 2)
    assert mean.shape == (100, 100)
    assert not masked.any()
    assert mean.std() == pytest.approx(0.5, rel=0.03)
    assert noise.mean() == pytest.approx(0.5, rel=0.05)
    blurred = (white + np.roll(white, 1, 0) + np.roll(white, 1, 1)) / np.sqrt(3)
    mean, noise, _ = bin_image(blurred.astype(np.float32), ones, bad, 2)
    assert noise.mean() == pytest.approx(mean.std(), rel=0.05)
    bad[:, :3] = True
    mean, _, masked = bin_image(np.where(bad, 1e9, white).astype(np.float32), ones, bad, 2)
    assert masked[:, 0].all()
    assert not masked[:, 1].any()
    assert np.abs(mean).max() < 10


def test_pieces_and_labels_are_the_same_thing(galaxy):
    labels = galaxy[1].astype(np.int32)
    labels[5:9, 5:12] = 2
    pieces = list(pieces_of(labels, [0.9, 0.8], [False, True]))
    assert pieces[1].window == (slice(5, 9), slice(5, 12))
    assert pieces[1].star
    np.testing.assert_array_equal(draw(pieces, SHAPE), labels)
    assert enlarge(pieces[1], 3, SHAPE).area == 9 * 28
    assert enlarge(pieces[1], 3, SHAPE).window == (slice(15, 27), slice(15, 36))
    assert enlarge(pieces[1], 3, (24, 40)).window == (slice(15, 24), slice(15, 36))
    assert pieces[0].overlap(pieces[0]) == 1
    assert pieces[0].overlap(pieces[1]) == 0
