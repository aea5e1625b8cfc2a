"""Parts of a galaxy join it, other objects do not, by what their light says."""

from __future__ import annotations

import numpy as np
import pytest

from autofit_ml.segmentation.fragments import host_of, is_fragment, join_fragments

SHAPE = (90, 100)
NOISE = np.full(SHAPE, 0.2, np.float32)
GOOD = np.zeros(SHAPE, bool)


def blob(x, y, peak, sigma, q=1.0):
    rows, columns = np.indices(SHAPE)
    return peak * np.exp(-((columns - x) ** 2 + ((rows - y) / q) ** 2) / (2 * sigma**2))


@pytest.fixture
def galaxy():
    image = blob(50, 45, 10, 12, 0.6)
    return image, (image > 0.5).astype(np.int32)


def joined(labels, image):
    return join_fragments(labels, image, NOISE, GOOD)


def test_a_nucleus_is_no_object_of_its_own(galaxy):
    """However bright: two instances with one centre are one galaxy."""
    image, labels = galaxy
    image = image + blob(50, 45, 100, 1.2)
    labels[blob(50, 45, 1, 1.2) > 0.2] = 2
    assert set(np.unique(joined(labels, image))) == {0, 1}


def test_bar_ends_and_halves_join(galaxy):
    """Symmetric parts, alone or as a pair that mirror each other."""
    image, labels = galaxy
    ends = blob(32, 45, 4, 2.5) + blob(68, 45, 4, 2.5)
    for k, x in ((2, 32), (3, 68)):
        labels[blob(x, 45, 1, 2.5) > 0.3] = k
    assert set(np.unique(joined(labels, image + ends))) == {0, 1}
    half = galaxy[1].copy()
    half[:, 56:][half[:, 56:] > 0] = 2
    assert len(np.unique(joined(half, image))) == 2


@pytest.mark.parametrize("x", [62, 70, 75])
def test_a_neighbour_with_light_of_its_own_stays(galaxy, x):
    image, labels = galaxy
    image = image + blob(x, 50, 8, 2)
    own = blob(x, 50, 8, 2) > 1.0
    labels[own] = 2
    result = joined(labels, image)
    np.testing.assert_array_equal(result, labels)
    # The same label without the light is a part of the galaxy.
    assert set(np.unique(joined(labels, galaxy[0]))) == {0, 1}


def test_two_symmetric_neighbours_of_different_brightness_stay(galaxy):
    image, labels = galaxy
    image = image + blob(30, 45, 12, 2) + blob(70, 45, 3, 2)
    labels[blob(30, 45, 12, 2) > 1] = 2
    result = joined(labels, image)
    assert (result == 2).sum() == (labels == 2).sum()


def test_equal_galaxies_side_by_side_stay():
    image = blob(40, 45, 10, 5) + blob(56, 45, 9, 5)
    labels = np.where(image > 0.6, np.where(np.arange(SHAPE[1]) < 48, 1, 2), 0).astype(np.int32)
    np.testing.assert_array_equal(joined(labels, image), labels)


def test_what_does_not_touch_is_left_alone_and_order_does_not_matter(galaxy):
    image, labels = galaxy
    labels[2:6, 2:6] = 2  # no light at all, but an island
    np.testing.assert_array_equal(joined(labels, image), labels)
    part = galaxy[1].copy()
    part[44:47, 60:64] = 3
    one = joined(part, image)
    mirrored_back = joined(part[::-1, ::-1].copy(), image[::-1, ::-1].copy())[::-1, ::-1]
    np.testing.assert_array_equal(one, mirrored_back)


def test_masked_light_does_not_count(galaxy):
    image, labels = galaxy
    spike = image.copy()
    spike[48:52, 66:70] = 500.0
    small = np.zeros(SHAPE, bool)
    small[47:53, 65:71] = True
    bad = spike > 100
    large = (labels == 1) & ~small
    free = (large | (labels == 0)) & ~bad
    assert is_fragment(spike, NOISE, host_of(spike, large), small & ~bad, free)
