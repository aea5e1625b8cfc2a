"""Every set of real images is found and read as its README says."""

from __future__ import annotations

import numpy as np
import pytest

from autofit_ml.catalogue import Flag
from autofit_ml.errors import InputError
from autofit_ml.images import ReadOptions, Stamp, discover, read, read_source

SETS = {
    # folder: (objects, pixel scales, zero point or None where there is none)
    "profit_kids_sdss": (10, {0.2, 0.339}, 0.0),
    "pymorph_sdss": (5, {0.396}, None),
    "galfitm_tests": (2, {0.05, 0.396}, None),
    "pysersic": (6, {0.168, 0.262}, None),
    "splus_8band": (8, {0.55}, None),
    "legacypipe_decam": (12, {0.2623}, None),
    "scarlet_hsc_hst": (11, {0.168, 0.03}, None),
}


@pytest.mark.parametrize("name", SETS)
def test_complete_sets(name, real_data):
    count, scales, zeropoint = SETS[name]
    stamps = read(real_data / name)
    assert len(stamps) == count
    for stamp in stamps:
        assert min(abs(stamp.pixel_scale / s - 1) for s in scales) < 0.01
        # 31 pixels cut 2 to 5 % of the light of these PSFs, by the slope of their wings.
        cut = stamp.id.startswith("pair1_hsc")
        assert stamp.flags == (Flag.BAD_PSF if cut else 0)
        assert stamp.psf.data.sum() == pytest.approx(1, abs=1e-4)
        assert np.isfinite(stamp.data).all()
        assert (stamp.sigma > 0).all()
        assert stamp.mask.mean() < 0.3
        assert stamp.sigma[~stamp.mask].max() < 1e9
        if zeropoint is not None:
            assert stamp.zeropoint == zeropoint


@pytest.mark.parametrize(
    ("name", "wanted", "without_psf"),
    [
        ("imfit_sdss", 5, 2),
        ("sfft_decam", 12, 12),
        ("misc_fields", 3, 1),
        ("profound_viking", 1, 1),
    ],
)
def test_sets_without_psf(name, wanted, without_psf, real_data):
    found = discover(real_data / name)
    assert len(found) == wanted
    problems = []
    for source in found:
        try:
            read_source(source, ReadOptions(mode="stamp"))
        except InputError as error:
            problems.append(str(error))
        stamp = read_source(source, ReadOptions(mode="stamp", psf="none")).stamp
        assert stamp.shape[0] > 20
    assert all("no PSF" in problem for problem in problems)
    assert len(problems) == without_psf


def test_other_files_are_ignored(real_data):
    ignored = {path.name for path, _ in discover(real_data / "misc_fields").ignored}
    assert ignored == {
        "na36_R_back.fits.gz", "na36_R_sextractor.csv", "sdss1000-1-100_photoObj.fits",
    }  # fmt: skip
    ignored = {path.name for path, _ in discover(real_data / "sfft_decam").ignored}
    assert ignored == {"kernels.fits.gz", "reference_difference.fits.gz"}


def test_targets_of_the_segmentations(real_data):
    stamps = {s.id: s for s in read(real_data / "profit_kids_sdss")}
    assert stamps["G266662_kids-r"].target_label == 6
    for stamp in stamps.values():
        middle = stamp.labels[tuple(n // 2 for n in stamp.shape)]
        assert middle == stamp.target_label


def test_many_images_in_one_file(real_data):
    found = discover(real_data / "cosmos_hst_btk" / "galaxies_even.fits.gz")
    assert len(found) == 50
    assert found[1].id == "galaxies_even_G002"
    alone = read(real_data / "cosmos_hst_btk" / "cosmos002_F814W_image.fits.gz")[0]
    stamp = read_source(found[1], ReadOptions(psf="none")).stamp
    np.testing.assert_array_equal(stamp.data, alone.data)


def test_pairs_of_image_and_inverse_variance(real_data):
    found = discover(real_data / "celeste_stripe82" / "stamp-r-5.0073-0.0739.fits")
    assert len(found) == 17
    assert found[0].planes.keys() == {"image", "noise"}
    stamp = read_source(found[0], ReadOptions(psf="none")).stamp
    assert any("taken as ivar" in m for m in stamp.messages)
    assert stamp.zeropoint == 22.5 or np.isnan(stamp.zeropoint)


def test_hst_psfs_are_recentred(real_data):
    """README: HSC PSF off by (+0.15, -0.28) px, HST by (+0.7, +1.1): opposite shifts."""
    stamps = {s.id: s for s in read(real_data / "scarlet_hsc_hst")}
    assert stamps["pair1_hsc-r"].psf.shift == pytest.approx((-0.15, 0.28), abs=0.1)
    assert stamps["pair1_hst-F814W"].psf.shift == pytest.approx((-0.7, -1.1), abs=0.2)
    assert any("recentred" in m for m in stamps["pair1_hst-F814W"].messages)


def test_wings_do_not_move_the_sdss_psfs(real_data):
    """README: light-weighted centroids off by +0.11 px through the wings; the cores are not."""
    for stamp in read(real_data / "pymorph_sdss"):
        assert stamp.psf.shift == (0.0, 0.0)


def test_saturated_stars_are_masked(real_data):
    source = discover(real_data / "sfft_decam" / "ep20160818a_i_image.fits.gz")[0]
    item = read_source(source, ReadOptions(psf="none")).item
    assert isinstance(item, Stamp)
    assert item.saturated is not None
    assert not item.flags & Flag.SIGMA_ESTIMATED
