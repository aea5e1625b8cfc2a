"""Segmentation of simulated scenes with known labels, of real galaxies, and of odd input."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from autofit_ml.errors import InputError, SettingsError
from autofit_ml.images.stamp import PSF, Frame, Stamp
from autofit_ml.measure import clipped_sky, mode_of_sky
from autofit_ml.segmentation import detect_sources, segment, segment_given, segment_sep
from autofit_ml.segmentation.shapes import Ellipse, grow_neighbours, mirrored

DATA = Path(
    os.environ.get("AUTOFIT_ML_TEST_DATA", Path(__file__).parents[2] / ".." / "shared" / "data")
)


def round_psf(sigma=1.3, size=15):
    dy, dx = np.mgrid[:size, :size] - (size - 1) / 2
    image = np.exp(-0.5 * (dx**2 + dy**2) / sigma**2)
    return PSF((image / image.sum()).astype(np.float32))


def blob(shape, x, y, peak, sigma):
    dy, dx = np.mgrid[: shape[0], : shape[1]]
    return peak * np.exp(-0.5 * ((dx - x) ** 2 + (dy - y) ** 2) / sigma**2)


def stamp_of(image, *, sky=0.0, noise=1.0, seed=1, **kwargs):
    rng = np.random.default_rng(seed)
    data = image + sky + noise * rng.standard_normal(image.shape)
    return Stamp(
        "s",
        data.astype(np.float32),
        np.full(image.shape, noise, np.float32),
        kwargs.pop("mask", np.zeros(image.shape, dtype=bool)),
        round_psf(),
        **kwargs,
    )


# ---- sky ----------------------------------------------------------------------------------


@pytest.mark.parametrize("filled", [0.0, 0.3, 0.6])
def test_sky_mode_under_objects(filled):
    """0.25 sigma: the mode of 1600 pixels; objects may cover over half."""
    rng = np.random.default_rng(7)
    values = rng.normal(100, 2, 4000)
    count = int(filled * 4000)
    values[:count] += rng.exponential(30, count)
    level, scatter = mode_of_sky(values, 2.0)
    assert level == pytest.approx(100, abs=0.5)
    assert scatter == pytest.approx(2, rel=0.2)
    level, scatter = clipped_sky(values[count:])
    assert level == pytest.approx(100, abs=0.15)
    assert scatter == pytest.approx(2, rel=0.05)


def test_sky_of_few_pixels():
    assert mode_of_sky(np.array([3.0]), 1.0) == (3.0, 1.0)
    assert mode_of_sky(np.array([]), 1.0) == (0.0, 1.0)
    assert clipped_sky(np.array([2.0, 2.0])) == (2.0, 0.0)


# ---- shapes -------------------------------------------------------------------------------


def test_ellipse_distance_and_mirror():
    ellipse = Ellipse(10, 12, semi_major=6, q=0.5, theta=np.pi / 2)
    distance = ellipse.distance_map((30, 25))
    assert distance[18, 10] == pytest.approx(1)
    assert distance[12, 13] == pytest.approx(1)
    image = np.arange(30.0).reshape(5, 6)
    turned = mirrored(image, 2.0, 1.0)
    assert turned[1, 2] == image[1, 2]
    assert turned[0, 0] == image[2, 4]
    assert turned[4, 5] == 0
    half = mirrored(image, 2.5, 2.0)
    assert half[2, 0] == image[2, 5]


def test_growing_spares_the_targets_core():
    labels = np.zeros((40, 40), np.int32)
    labels[10:30, 10:25] = 1
    labels[10:30, 25:32] = 2
    ellipses = {1: Ellipse(17, 20, 10, 0.9, 0), 2: Ellipse(28, 20, 7, 0.9, 0)}
    grown = grow_neighbours(labels, 1, ellipses, relative=0.0, minimum=6.0)
    assert grown[labels == 2].all()
    assert not grown[15:25, 12:20].any()
    assert grown[20, 36]
    assert not grown[20, 39]
    unprotected = grow_neighbours(labels, 0, ellipses, relative=0.0, minimum=6.0)
    assert unprotected[labels == 1].all()


# ---- scenes -------------------------------------------------------------------------------


def test_isolated_galaxy_with_pedestal():
    """The level within four of its own errors; nothing masked."""
    image = blob((64, 64), 32, 31, 30, 4)
    result = segment_sep(stamp_of(image, sky=250.0))
    assert result.target
    assert result.labels[31, 32] == result.target
    assert not result.contaminants.any()
    assert result.sky_level == pytest.approx(250, abs=0.1)
    assert result.sky_rms == pytest.approx(1, rel=0.08)
    assert result.blend_fraction == 0
    assert result.method == "sep"


def test_units_do_not_matter():
    stamp = stamp_of(blob((64, 64), 32, 31, 30, 4) + blob((64, 64), 50, 12, 20, 2), sky=3.0)
    small = stamp.replace(
        data=stamp.data * np.float32(1e-10), sigma=stamp.sigma * np.float32(1e-10)
    )
    one, two = segment_sep(stamp), segment_sep(small)
    assert (one.labels != two.labels).mean() < 0.002
    assert two.sky_level == pytest.approx(1e-10 * one.sky_level, rel=1e-3)


@pytest.mark.parametrize("distance", [9, 12, 20])
@pytest.mark.parametrize("peak", [10, 60, 400])
def test_neighbour_is_masked_and_target_kept(distance, peak):
    shape = (64, 64)
    target = blob(shape, 31, 31, 60, 3)
    neighbour = blob(shape, 31 + distance, 33, peak, 2)
    result = segment_sep(stamp_of(target + neighbour, sky=2.0))
    assert result.labels[31, 31] == result.target != 0
    core = np.hypot(*(np.mgrid[:64, :64] - 31)) < 3
    assert not result.contaminants[core].any()
    assert result.contaminants[33, 31 + distance]
    # light that leaks: under 5 % of the target's
    assert neighbour[~result.contaminants].sum() < 0.05 * target.sum()
    if distance == 20:
        assert result.blend_fraction < 0.02


def test_target_by_position():
    shape = (64, 64)
    image = blob(shape, 20, 20, 50, 3) + blob(shape, 45, 40, 80, 3)
    for x, y in ((20, 20), (45, 40)):
        result = segment_sep(stamp_of(image, x=x, y=y))
        assert result.labels[y, x] == result.target != 0
    nothing = segment_sep(stamp_of(image, x=20.0, y=50.0))
    assert nothing.target == 0
    assert nothing.contaminants[20, 20]
    near = segment_sep(stamp_of(image, x=45.0, y=46.0))
    assert near.target == near.labels[40, 45]


def test_classes_of_bright_sources():
    shape = (64, 64)
    star = 4000 * np.pad(round_psf().data, 20)[:50, :50]
    image = np.zeros(shape)
    image[:50, :50] += star
    image += blob(shape, 50, 50, 100, 4)
    result = segment_sep(stamp_of(image, x=27, y=27))
    assert result.classes[result.target] == "star"
    assert result.classes[int(result.labels[50, 50])] == "galaxy"


def test_empty_and_fully_masked():
    empty = segment_sep(stamp_of(np.zeros((32, 32)), sky=5.0))
    assert empty.target == 0
    assert empty.sky_level == pytest.approx(5, abs=0.2)
    masked = segment_sep(stamp_of(np.zeros((32, 32)), mask=np.ones((32, 32), dtype=bool)))
    assert masked.target == 0
    assert np.isfinite(masked.sky_level)


def test_noise_is_not_detected():
    """White and correlated noise: at most a false instance in three stamps."""
    pytest.importorskip("galsim")
    from autofit_ml.simulation import add_noise

    for correlation in (None, 0.3, 0.6):
        found = 0
        for seed in range(10):
            rng = np.random.default_rng(seed)
            data = add_noise(np.zeros((64, 64)), np.ones((64, 64)), rng, correlation)
            stamp = stamp_of(np.zeros((64, 64))).replace(data=data.astype(np.float32))
            found += len(np.unique(segment_sep(stamp).labels)) - 1
        assert found <= 3


def test_simulated_blends():
    """Random neighbours (mean 2): found, core kept, little light left (measured: see bars)."""
    pytest.importorskip("galsim")
    from autofit_ml.simulation import simulate_sersic, to_stamps

    objects = simulate_sersic(80, seed=13, sky=(0, 5), neighbours=2.0, snr=(50, 1000))
    core_masked, leak, found = [], [], 0
    for item, stamp in zip(objects, to_stamps(objects), strict=True):
        result = segment_sep(stamp)
        found += result.target > 0
        core = (item.target.elliptical_radius(stamp.shape) < item.target.re) & (item.labels == 1)
        core_masked.append(result.contaminants[core].mean() if core.any() else 0.0)
        leak.append(item.neighbour_light[~result.contaminants].sum() / item.target.flux)
    assert found == len(objects)
    assert (np.array(core_masked) > 0.1).mean() < 0.05
    assert np.median(leak) < 0.03
    assert np.percentile(leak, 90) < 0.2


def test_spiral_stays_whole():
    """Two symmetric arms with 60 % contrast in a disc of S/N 1000 are no neighbours."""
    dy, dx = np.mgrid[:96, :96] - 47.5
    radius, angle = np.hypot(dx, dy), np.arctan2(dy, dx)
    disc = 200 * np.exp(-radius / 9)
    arms = 1 + 0.6 * np.cos(2 * (angle - 2.2 * np.log(radius + 2)))
    result = segment_sep(stamp_of(disc * arms, sky=10.0))
    own = result.labels == result.target
    assert own[radius < 25].mean() > 0.97
    assert result.contaminants[radius < 30].mean() < 0.02


# ---- given --------------------------------------------------------------------------------


def test_given_labels():
    labels = np.zeros((32, 32), np.int32)
    labels[10:22, 10:22] = 3
    labels[2:6, 2:6] = 7
    stamp = stamp_of(blob((32, 32), 15, 15, 30, 3), sky=4.0, labels=labels, target_label=3)
    result = segment_given(stamp)
    assert result.target == 3
    assert result.method == "given"
    np.testing.assert_array_equal(result.contaminants, labels == 7)
    assert result.sky_level == pytest.approx(4, abs=0.3)
    assert segment_given(stamp.replace(target_label=None)).target == 3
    with pytest.raises(InputError, match="does not occur"):
        segment_given(stamp.replace(target_label=5))
    with pytest.raises(InputError, match="shape"):
        segment_given(stamp.replace(labels=labels[:-1]))
    with pytest.raises(InputError, match="no segmentation"):
        segment_given(stamp.replace(labels=None))
    with pytest.raises(SettingsError):
        segment(stamp, "magic")


# ---- frames -------------------------------------------------------------------------------


def test_frame_detection():
    """25 sources on a grid with a sloping background: all found once, flux within 10 %."""
    shape = (300, 320)
    dx = np.broadcast_to(np.arange(shape[1]), shape)
    image = 100 + 0.02 * dx
    where = [(40 + 55 * i, 40 + 55 * j) for i in range(5) for j in range(5)]
    for x, y in where:
        image = image + blob(shape, x, y, 20, 2.5)
    stamp = stamp_of(image)
    for arguments in (
        (stamp.data,),
        (stamp.data, stamp.sigma, stamp.mask),
        (Frame("f", stamp.data, stamp.sigma, stamp.mask),),
    ):
        result = detect_sources(*arguments)
        bright = result.sources[result.sources["snr"] > 20]
        assert len(bright) == 25
        assert len(result.sources) <= 27
        for x, y in where:
            nearest = np.hypot(bright["x"] - x, bright["y"] - y)
            assert nearest.min() < 0.5
            source = bright[nearest.argmin()]
            assert result.labels[y, x] == source["label"]
            assert source["flux"] == pytest.approx(2 * np.pi * 20 * 2.5**2, rel=0.1)
        assert abs(result.background - (100 + 0.02 * dx)).max() < 1.5
    tiny = detect_sources(stamp.data * 1e-10)
    assert (tiny.sources["snr"] > 20).sum() == 25


def test_frame_errors():
    with pytest.raises(InputError, match="masked"):
        detect_sources(np.ones((40, 40)), mask=np.ones((40, 40), dtype=bool))
    with pytest.raises(InputError, match="shape"):
        detect_sources(np.ones((40, 40)), np.ones((30, 40)))


# ---- real images --------------------------------------------------------------------------


def read(name):
    base = DATA / name
    if not Path(f"{base}_image.fits.gz").exists():
        pytest.skip(f"real image {name} absent: set AUTOFIT_ML_TEST_DATA")

    def plane(suffix):
        path = Path(f"{base}_{suffix}.fits.gz")
        return fits.getdata(path) if path.exists() else None

    data, sigma, mask, psf = (plane(suffix) for suffix in ("image", "sigma", "mask", "psf"))
    bad = ~np.isfinite(data) | ~(sigma < 1e9)
    if mask is not None:
        bad |= mask > 0
    return Stamp(
        name,
        np.where(bad, 0, data).astype(np.float32),
        np.where(bad, 1, sigma).astype(np.float32),
        bad,
        round_psf() if psf is None else PSF((psf / psf.sum()).astype(np.float32)),
    )


@pytest.mark.parametrize(
    ("name", "neighbours", "area"),
    [
        # looked at: area of the target (fraction of the stamp) and neighbours that touch it
        ("pymorph_sdss/00000001_r", 0, (0.005, 0.05)),
        ("pymorph_sdss/00000003_r", 0, (0.004, 0.03)),
        ("pymorph_sdss/00000009_r", 0, (0.01, 0.05)),
        ("profit_kids_sdss/G265911_kids-r", 0, (0.2, 0.4)),
        ("profit_kids_sdss/G265911_sdss-r", 0, (0.08, 0.25)),
        ("profit_kids_sdss/G266035_kids-r", 0, (0.08, 0.2)),
        ("profit_kids_sdss/G279148_sdss-r", 0, (0.05, 0.2)),
        ("imfit_sdss/ic3478-64_r", 0, (0.5, 1.0)),
        ("imfit_sdss/ic3478_r", 0, (0.2, 0.5)),
        ("imfit_sdss/ngc3073_r", 0, (0.3, 0.8)),
        ("imfit_sdss/vcc1512_r", 0, (0.15, 0.6)),
        ("imfit_sdss/n5419_F555W", 0, (0.8, 1.0)),
        ("galfitm_tests/galfit-example_F606W", 0, (0.01, 0.1)),
        ("pysersic/hsc-gal1", 0, (0.05, 0.2)),
        ("pysersic/hsc-gal2", 0, (0.15, 0.45)),
        ("legacypipe_decam/testcase9_z", 2, (0.2, 0.5)),
        ("legacypipe_decam/testcase3_r1", 0, (0.2, 0.7)),
        ("cosmos_hst_btk/cosmos010_F814W", 1, (0.08, 0.3)),
        ("cosmos_hst_btk/cosmos004_F814W", 0, (0.1, 0.35)),
    ],
)
def test_real_galaxies_stay_whole(name, neighbours, area):
    from scipy import ndimage

    stamp = read(name)
    result = segment_sep(stamp)
    own = result.labels == result.target
    assert result.target
    assert area[0] < own.mean() < area[1]
    rim = ndimage.binary_dilation(own, iterations=2) & ~own & (result.labels > 0)
    assert len(np.unique(result.labels[rim])) == neighbours
    # neighbours' masks never reach the centre
    row, column = (round(value) for value in stamp.position[::-1])
    assert not result.contaminants[row - 2 : row + 3, column - 2 : column + 3].any()
    assert np.isfinite(result.sky_level)
    assert result.sky_rms > 0


def test_real_frame():
    path = DATA / "misc_fields" / "na36_R_image.fits.gz"
    if not path.exists():
        pytest.skip("real frame absent: set AUTOFIT_ML_TEST_DATA")
    result = detect_sources(fits.getdata(path), fwhm=4)
    assert 45 < len(result.sources) < 90
    # pedestal stated in shared/data/README.md
    assert np.median(result.background) == pytest.approx(6852, abs=15)
