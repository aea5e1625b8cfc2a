"""Known answers and conservation laws of detector defects."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from autofit_ml.simulation import artefacts
from autofit_ml.simulation.artefacts import (
    apply_artefacts,
    bad_columns,
    coarsened,
    cosmic_rays,
    ghosts,
    masked_regions,
    saturate,
)
from autofit_ml.simulation.objects import Artefact
from autofit_ml.simulation.survey import Artefacts


def rng(seed: int = 1) -> np.random.Generator:
    return np.random.default_rng(seed)


def column(values) -> np.ndarray:
    return np.asarray(values, dtype=float)[:, None]


def test_coarsened_values():
    """Cut off at most 1.5 sigma below the sky; in equal steps."""
    data = 5 + 2 * rng().standard_normal((40, 40))
    cut = coarsened(data, 5.0, 2.0, Artefacts(clipped=1.0), rng(2))
    assert 2 <= cut.min() < 5 and (cut == cut.min()).sum() > 50
    assert np.array_equal(cut[cut > cut.min()], data[data > cut.min()])
    steps = np.diff(np.unique(coarsened(data, 5.0, 2.0, Artefacts(quantised=1.0), rng(3))))
    assert 0.6 <= steps.min() <= 3
    np.testing.assert_allclose(steps / steps.min(), np.rint(steps / steps.min()), atol=1e-6)
    assert coarsened(data, 5.0, 2.0, Artefacts(), rng()) is data


# Saturation and bleeding -------------------------------------------------------------------------


def test_without_bleeding_full_pixels_are_clipped():
    image = np.arange(12.0).reshape(3, 4)
    data, bits = saturate(image, 7.5, bleed=False)
    np.testing.assert_array_equal(data, np.minimum(image, 7.5))
    np.testing.assert_array_equal(bits, Artefact.SATURATED * (image > 7.5))
    assert image.max() == 11  # the input stays
    for level in (11.0, np.inf):  # exactly full is not too full
        data, bits = saturate(image, level, bleed=True)
        np.testing.assert_array_equal(data, image)
        assert not bits.any()


def test_bleeding_of_one_pixel():
    """350 too much: 175 each way fill one pixel from 0 to 100 and the next to 75."""
    image = np.zeros((11, 3))
    image[5, 1] = 450
    data, bits = saturate(image, 100, bleed=True)
    expected = [0, 0, 0, 75, 100, 100, 100, 75, 0, 0, 0]
    np.testing.assert_allclose(data[:, 1], expected, atol=1e-9)
    kinds = np.array([0, 0, 0, 2, 2, 1, 2, 2, 0, 0, 0])
    np.testing.assert_array_equal(bits[:, 1], kinds)
    assert not data[:, [0, 2]].any()
    assert not bits[:, [0, 2]].any()


def test_streams_that_meet_share_the_pixels_between_them():
    # 100 from below and 100 from above meet in room for 120, and fill it half and half; the
    # remaining 40 + 40 pass through the other run and flow on: 100 + 40 at both outer ends.
    image = column([0, 0, 0, 300, 40, 40, 300, 0, 0, 0])
    data, bits = saturate(image, 100, bleed=True)
    np.testing.assert_allclose(data[:, 0], [0, 40, 100, 100, 100, 100, 100, 100, 40, 0], atol=1e-6)
    np.testing.assert_array_equal(bits[:, 0], [0, 2, 2, 1, 2, 2, 1, 2, 2, 0])
    # Room for 150 between 100 from below and 200 from above: 50 and 100 are used, so 50 go on
    # upwards (200 + 50) and 100 downwards (100 + 100).
    image = column([0, 0, 0, 300, 25, 25, 500, 0, 0, 0])
    data, _ = saturate(image, 100, bleed=True)
    np.testing.assert_allclose(
        data[:, 0], [0, 100, 100, 100, 100, 100, 100, 100, 100, 50], atol=1e-6
    )


def test_charge_leaves_at_the_border():
    image = column([0, 500, 0, 0, 0, 0])
    data, _ = saturate(image, 100, bleed=True)
    np.testing.assert_allclose(data[:, 0], [100, 100, 100, 100, 0, 0], atol=1e-9)  # 100 are lost


def test_bleeding_conserves_charge_and_knows_no_direction():
    """Random columns with up to five runs, wide enough that nothing leaves."""
    generator = rng(3)
    for _ in range(200):
        image = generator.uniform(0, 90, (120, 3))
        for _ in range(generator.integers(1, 6)):
            y, x = generator.integers(40, 80), generator.integers(0, 3)
            image[y : y + generator.integers(1, 4), x] = generator.uniform(100, 500)
        data, bits = saturate(image, 100, bleed=True)
        # the iteration stops at 1e-9 of the charge
        np.testing.assert_allclose(data.sum(axis=0), image.sum(axis=0), rtol=1e-7)
        assert data.max() <= 100
        np.testing.assert_array_equal((bits & Artefact.SATURATED) > 0, image > 100)
        np.testing.assert_array_equal((bits & Artefact.BLEED) > 0, data > image + 1e-7)
        turned, turned_bits = saturate(image[::-1, ::-1], 100, bleed=True)
        np.testing.assert_allclose(turned[::-1, ::-1], data, atol=1e-5)
        assert np.mean(turned_bits[::-1, ::-1] != bits) < 0.01  # ends that are filled by rounding
        for x in range(3):
            if ndimage.label(image[:, x] > 100)[1] != 1:
                continue
            # one run: one trail without gaps, of which only the ends may be partly filled
            rows = np.flatnonzero(bits[:, x])
            assert rows[-1] - rows[0] + 1 == rows.size
            np.testing.assert_allclose(data[rows[1:-1], x], 100, atol=1e-6)


def test_every_column_bleeds_alone():
    generator = rng(4)
    image = generator.uniform(0, 90, (60, 5))
    image[[20, 30, 41, 33], [0, 2, 2, 4]] = (900, 400, 700, 2000)
    data, bits = saturate(image, 100, bleed=True)
    order = generator.permutation(5)
    shuffled, shuffled_bits = saturate(image[:, order], 100, bleed=True)
    np.testing.assert_array_equal(shuffled, data[:, order])
    np.testing.assert_array_equal(shuffled_bits, bits[:, order])


# Cosmic rays -------------------------------------------------------------------------------------


def test_number_charge_and_mask_of_cosmic_rays():
    light, bits, found = cosmic_rays((1000, 1000), 400, rng(5), 2.0, masked_fraction=0.7)
    hit = bits == Artefact.COSMIC_RAY
    assert set(np.unique(bits)) == {0, Artefact.COSMIC_RAY}
    _, number = ndimage.label(hit, np.ones((3, 3)))
    # Poisson: 20; about 4 hits overlap or touch
    assert number == pytest.approx(400, abs=84)
    lengths = rng(0).exponential(artefacts.TRACK_LENGTH, 100_000)
    path = np.hypot(artefacts.THICKNESS, lengths * artefacts.PIXEL).mean()
    charge = artefacts.ELECTRONS_PER_MICRON * path * np.exp(artefacts.STRAGGLING**2 / 2)
    # one hit scatters by 65 %: 3 % for 400 of them, and 1 % uncounted overlaps
    assert light.sum() * 2 / number == pytest.approx(charge, rel=0.13)
    assert 3000 < charge < 10_000
    assert light.min() >= 0
    # pixels of a hit have at least 5 electrons; all others less (below 10 where two tails add)
    assert light[hit].min() * 2 >= 5
    assert light[~hit].max() * 2 < 10
    # 400 hits: 1 sigma is 0.023, a little more by their sizes
    assert found[~hit].sum() == 0
    assert found.sum() / hit.sum() == pytest.approx(0.7, abs=0.11)
    # tracks are 1 to 2 pixels wide: no 3 x 3 pixels, all bright, but where two cross
    bright = light * 2 > 300
    _, thick = ndimage.label(ndimage.binary_erosion(bright, np.ones((3, 3))))
    assert thick <= 4  # the expected number of overlaps


def test_cosmic_rays_at_the_border_and_gain():
    """A tiny image: tracks are cut, never wrapped, and gain is only a scale."""
    one, bits, found = cosmic_rays((5, 40), 5e5, rng(6), 1.0)
    two, _, _ = cosmic_rays((5, 40), 5e5, rng(6), 4.0)
    np.testing.assert_allclose(two * 4, one)
    assert np.isfinite(one).all()
    np.testing.assert_array_equal(found, bits > 0)
    assert not cosmic_rays((5, 40), 0.0, rng(6), 1.0)[0].any()


# Columns, masks ----------------------------------------------------------------------------------


def test_bad_columns():
    counts, partial = [], 0
    generator = rng(7)
    for _ in range(1000):
        response, bits = bad_columns((20, 64), 20, generator)
        bad = bits == Artefact.BAD_COLUMN
        np.testing.assert_array_equal(bad, response != 1)
        assert response.min() >= 0
        assert response.max() <= 2
        touched = bad.any(axis=0)
        counts.append(touched.sum())
        partial += (touched & ~bad.all(axis=0)).sum()
    # mean 20 * 64 / 1000 = 1.28, scatter sqrt(1.28 / 1000) = 0.036; 4 of them
    assert np.mean(counts) == pytest.approx(1.28, abs=0.144)
    assert np.var(counts) == pytest.approx(1.28, rel=0.2)  # Poisson
    assert partial / np.sum(counts) == pytest.approx(0.5, abs=0.06)  # 1280 columns: 0.014
    assert bad_columns((4, 5), 1e5, generator)[1].all(axis=0).sum() <= 5


def test_masked_regions():
    generator = rng(8)
    masks = [masked_regions((100, 140), 50, generator, 2.0) for _ in range(400)]
    assert {int(value) for mask in masks for value in np.unique(mask)} == {0, Artefact.MASKED}
    # no region at all: exp(-50 * 0.014) = 0.497, scatter 0.025; 4 of them
    empty = np.mean([not mask.any() for mask in masks])
    assert empty == pytest.approx(np.exp(-0.7), abs=0.1)
    # circles of up to 16 pixels, blocks of up to 25, trails of up to 12 x 172
    assert max((mask > 0).sum() for mask in masks) < 6 * 12 * 172
    trails = [m for m in masks if (m[:, 0].any() or m[0].any()) and (m[:, -1].any() or m[-1].any())]
    assert len(trails) > 20  # 400 * 0.7 * 0.2 = 56 trails, most of them from side to side


# Ghosts ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("displacement", [0.1, -0.1, 0.0])
def test_ghost_flux_place_and_hole(displacement):
    light, bits = ghosts(
        [(150.0, 210.0, 1e6)], (401, 381), 0.01, 3.0, radius=20, hole=0.4, displacement=displacement
    )
    # edges three pixels wide: sums over pixels are good to 1e-3
    assert light.sum() == pytest.approx(1e4, rel=1e-3)
    y, x = np.indices(light.shape)
    x0, y0 = 150 + displacement * (150 - 190), 210 + displacement * (210 - 200)
    assert (light * x).sum() / light.sum() == pytest.approx(x0, abs=0.02)
    assert (light * y).sum() / light.sum() == pytest.approx(y0, abs=0.02)
    distance = np.hypot(x - x0, y - y0)
    assert not light[(distance < 22) | (distance > 62)].any()
    even = light[(distance > 26) & (distance < 58)]
    np.testing.assert_allclose(even, 1e4 / (np.pi * (60**2 - 24**2)), rtol=1e-6)
    np.testing.assert_array_equal(bits, Artefact.GHOST * (light > 0))


def test_ghosts_add_up_and_may_lie_outside():
    stars = [(20.0, 30.0, 1e6), (45.0, 30.0, 3e5), (4000.0, -500.0, 1e9)]
    both, _ = ghosts(stars, (64, 70), 0.02, 2.5)
    parts = [ghosts([star], (64, 70), 0.02, 2.5)[0] for star in stars]
    np.testing.assert_allclose(both, sum(parts))
    assert not parts[2].any()
    assert 0 < parts[0].sum() < 2e4  # larger than the image
    for nothing in (ghosts([], (64, 70), 0.02, 2.5), ghosts(stars, (64, 70), 0.0, 2.5)):
        assert not nothing[0].any()
        assert not nothing[1].any()


# All together ------------------------------------------------------------------------------------

EVERYTHING = Artefacts(
    saturation=5000.0,
    bleed=True,
    bad_columns=30,
    cosmic_rays=1500,
    cosmic_rays_masked=0.5,
    masked_regions=200,
    ghosts=0.01,
)


def frame() -> np.ndarray:
    y, x = np.indices((150, 160))
    star = 1e5 * np.exp(-((x - 70) ** 2 + (y - 80) ** 2) / 8)
    return 300 + star + rng(9).normal(0, 10, star.shape)


def test_defaults_leave_the_image_alone():
    image, generator = frame(), rng()
    before = generator.bit_generator.state
    data, mask, bits = apply_artefacts(image, Artefacts(), gain=2.0, rng=generator)
    np.testing.assert_array_equal(data, image)
    assert data is not image
    assert mask.dtype == bool
    assert not mask.any()
    assert bits.dtype == np.uint8
    assert not bits.any()
    assert generator.bit_generator.state == before


def test_masks_and_bits_agree():
    image = frame()
    data, mask, bits = apply_artefacts(image, EVERYTHING, gain=2.0, rng=rng(10), psf_fwhm=3.3)
    unusable = Artefact.SATURATED | Artefact.BLEED | Artefact.BAD_COLUMN | Artefact.MASKED
    assert mask[(bits & unusable) > 0].all()
    assert not mask[bits == 0].any()
    only_hit = bits == Artefact.COSMIC_RAY
    assert 0 < mask[only_hit].mean() < 1
    for kind in Artefact:
        assert ((bits & kind) > 0).any() == (kind != Artefact.GHOST), kind
    # where nothing is reported, nothing has changed (5 electrons of a cosmic ray's tail apart)
    assert abs(data - image)[bits & ~np.uint8(Artefact.MASKED) == 0].max() < 10 / 2
    assert data[(bits & Artefact.BAD_COLUMN) == 0].max() <= 5000
    np.testing.assert_array_equal(image, frame())


@pytest.mark.parametrize("fraction", [0.0, 1.0])
def test_found_cosmic_rays_are_masked(fraction):
    settings = Artefacts(cosmic_rays=1500, cosmic_rays_masked=fraction)
    _, mask, bits = apply_artefacts(frame(), settings, gain=2.0, rng=rng(11))
    hit = bits == Artefact.COSMIC_RAY
    assert hit.any()
    np.testing.assert_array_equal(mask, hit & (fraction == 1))


def test_same_seed_same_defects():
    one, two, three = (
        apply_artefacts(frame(), EVERYTHING, gain=2.0, rng=rng(seed), psf_fwhm=3.0)
        for seed in (12, 12, 13)
    )
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(a, b)
    assert (one[2] != three[2]).any()
