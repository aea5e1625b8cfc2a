"""Borders and gaps of one exact value are masked; data that have one value often are not."""

from __future__ import annotations

import numpy as np
import pytest
from fits_builders import galaxy
from scipy import ndimage

from autofit_ml.catalogue import Flag
from autofit_ml.images import ReadOptions, discover, read_source
from autofit_ml.images.gaps import constant_regions

EMPTY = np.zeros((101, 101), bool)


def noise(level=20.0, sigma=3.0, seed=1):
    return np.random.default_rng(seed).normal(level, sigma, EMPTY.shape)


def filled(shape: str, value: float, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """An image with a region of one value, and the region."""
    y, x = np.indices(image.shape)
    region = {
        "strip": x < 5,
        "half": x < 50,
        "most": x < 85,
        "corner": x + y < 45,
        "column": x == 40,
        "frame": (x < 8) | (x > 92) | (y < 8) | (y > 92),
        "hole": np.hypot(x - 50, y - 30) < 4,
        "block": (abs(x - 50) <= 1) & (abs(y - 50) <= 1),
    }[shape]
    return np.where(region, value, image), region


@pytest.mark.parametrize("value", [0.0, -999.0, 20.0])
@pytest.mark.parametrize(
    "shape", ["strip", "half", "most", "corner", "column", "frame", "hole", "block"]
)
def test_filled_regions_are_found_exactly(shape, value):
    image, region = filled(shape, value, noise())
    found, full, messages = constant_regions(image, EMPTY)
    np.testing.assert_array_equal(found, region)
    assert not full.any()
    assert messages == (f"{region.sum()} pixels in a border or gap of exactly {value:g} masked",)


def test_two_fillings_and_float32():
    image, first = filled("strip", 0.0, noise().astype(np.float32))
    image, second = filled("hole", -1.0, image)
    found, _, messages = constant_regions(image.astype(float), EMPTY)
    np.testing.assert_array_equal(found, first | second)
    assert len(messages) == 2


@pytest.mark.parametrize("counts", [1.0, 2.0, 5.0, 100.0])
def test_borders_of_photon_counts(counts):
    """Where chance makes many pixels of the value too, the border is still told from it."""
    image = np.random.default_rng(2).poisson(counts, EMPTY.shape).astype(float)
    assert not constant_regions(image, EMPTY)[0].any()
    image, region = filled("frame", 0.0, image)
    found, _, _ = constant_regions(image, EMPTY)
    assert found[region].all()
    assert (found & ~region).mean() < 3e-3  # zeros that happen to touch it


@pytest.mark.parametrize("counts", [0.02, 0.3])
def test_sparse_counts_are_said_and_not_masked(counts):
    image = np.random.default_rng(3).poisson(counts, EMPTY.shape).astype(float)
    found, full, messages = constant_regions(image, EMPTY)
    assert not (found | full).any()
    assert "exactly 0: counts of few photons" in messages[0]


@pytest.mark.parametrize("blur", [0.0, 1.0])
def test_clipped_data_are_said_and_not_masked(blur):
    """Also resampled ones, whose zeros lie in patches."""
    image = ndimage.gaussian_filter(np.random.default_rng(4).normal(size=(300, 300)), blur)
    found, _, messages = constant_regions(np.maximum(image, 0), np.zeros(image.shape, bool))
    assert not found.any()
    assert messages[0][:2] in ("49", "50")
    assert "% of the pixels are exactly 0" in messages[0]


def test_enlarged_images_are_left_alone():
    image = np.kron(noise()[:50, :50], np.ones((3, 3)))
    found, _, messages = constant_regions(image, np.zeros(image.shape, bool))
    assert not found.any()
    assert "repeating pixels" in messages[0]


def test_plateau_of_a_saturated_star_is_saturated(writer):
    image = galaxy((60, 60))
    image[10:16, 40:45] = 900.0
    stamp = read_source(discover(writer.object(image=image))[0]).stamp
    assert stamp.saturated is not None
    assert stamp.saturated[12, 42]
    assert stamp.saturated.sum() == 30
    assert stamp.mask[12, 42]


@pytest.mark.parametrize("sigma", [False, 1.0])
@pytest.mark.parametrize("value", [0, np.nan])
def test_sky_and_noise_never_see_a_border(sigma, value, writer):
    """Level of a pedestal and the built noise, half of the image missing."""
    image = galaxy((80, 80), sky=20.0)
    image[:, :40] = value
    stamp = read_source(discover(writer.object(image=image, sigma=sigma))[0]).stamp
    assert stamp.mask[:, :40].all()
    assert not stamp.mask[:, 40:].any()
    assert any("3200" in text for text in stamp.messages)
    assert stamp.sigma[70, 70] == pytest.approx(1.0, rel=0.06)


def test_masked_pixels_make_no_region(writer):
    """Pixels that the mask plane or NaN takes already are not told again."""
    image = galaxy((60, 60))
    image[:, :10] = 0
    mask = np.zeros(image.shape, np.uint8)
    mask[:, :10] = 1
    stamp = read_source(discover(writer.object(image=image, mask=mask))[0]).stamp
    assert not any("border" in text for text in stamp.messages)


def test_built_sigma_is_flagged_as_before(writer):
    image = galaxy((60, 60))
    image[:20] = 0
    stamp = read_source(discover(writer.object(image=image, sigma=False))[0], ReadOptions()).stamp
    assert stamp.flags & Flag.SIGMA_ESTIMATED


def test_zeros_between_few_photons_are_no_gap():
    # Sky of 0.02 a pixel around a bright object: 98 % of the sky is 0, and 88 % of the image.
    rng = np.random.default_rng(4)
    y, x = np.indices((81, 81))
    rate = 0.02 + 8 * np.exp(-np.hypot(x - 40, y - 40) / 4)
    for _ in range(20):
        region, full, _ = constant_regions(
            rng.poisson(rate).astype(float), np.zeros((81, 81), bool)
        )
        assert not region.any() and not full.any()
    # With a sky of 2 a border of zeros is one.
    counts = rng.poisson(rate + 2).astype(float)
    counts[:, :20] = 0
    region, _, _ = constant_regions(counts, np.zeros((81, 81), bool))
    assert region[:, :20].all()
    assert region[:, 20:].mean() < 0.01  # zeros that chance put beside it
