"""PSF images with sky, a neighbour, cut wings or other pixels: found, repaired, said, flagged."""

from __future__ import annotations

import numpy as np
import pytest
from fits_builders import gaussian

from autofit_ml.catalogue import Flag
from autofit_ml.errors import InputError
from autofit_ml.images import PSF, ReadOptions, discover, moffat_psf, read_source
from autofit_ml.images.psf import centre_psf, resample_psf
from autofit_ml.images.psf_checks import check_psf, find_damage
from autofit_ml.measure import fourier_shift, psf_fwhm


def star(fwhm=3.0, half=20, noise=3.0, seed=0):
    """A star of 1e5 counts, and the true PSF."""
    truth = moffat_psf(fwhm, half_size=half).data.astype(float)
    rng = np.random.default_rng(seed)
    return 1e5 * truth + rng.normal(0, noise, truth.shape), truth


@pytest.mark.parametrize("fwhm", [2.0, 3.0, 5.0])
@pytest.mark.parametrize("half", [20, 30])
@pytest.mark.parametrize("level", [2.0, 5.0, 50.0, -3.0])
def test_plateau_is_subtracted(fwhm, half, level):
    """Down to a tenth of it (the star's noise gives 3 %) or 0.3 % of the light."""
    image, truth = star(fwhm, half)
    checked = check_psf(image + level)
    assert checked.bad
    assert "plateau" in checked.messages[0]
    left = float((checked.data - truth).sum() - 0.0)
    rim = np.hypot(*np.meshgrid(*[np.arange(-half, half + 1)] * 2)) > half
    left = float((checked.data - truth)[rim].mean()) * truth.size
    assert abs(left) < max(0.1 * abs(level) * truth.size / 1e5, 3e-3)


@pytest.mark.parametrize("fwhm", [2.0, 3.0, 4.0, 5.0])
@pytest.mark.parametrize("beta", [2.5, 3.0, 4.5])
@pytest.mark.parametrize("noise", [0.0, 3.0])
def test_clean_stars_are_left_alone(fwhm, beta, noise):
    truth = moffat_psf(fwhm, beta=beta, half_size=30).data.astype(float)
    image = truth * 1e5 + np.random.default_rng(1).normal(0, noise, truth.shape)
    checked = check_psf(image)
    assert checked.messages == ()
    assert not checked.bad
    np.testing.assert_allclose(checked.data, image / image.sum())


@pytest.mark.parametrize("share", [0.03, 0.2])
@pytest.mark.parametrize("place", [(9.0, 5.0), (-13.0, 2.0), (0.0, -7.5)])
def test_second_source_is_replaced(share, place):
    """The light at its place is a tenth of it afterwards, at most."""
    image, truth = star()
    neighbour = fourier_shift(1e5 * share * truth, *place)
    checked = check_psf(image + neighbour)
    assert checked.bad
    assert "second source" in checked.messages[0]
    middle = (np.array(truth.shape) - 1) / 2
    y, x = np.indices(truth.shape)
    near = np.hypot(y - middle[0] - place[1], x - middle[1] - place[0]) < 4
    left = float((checked.data - truth)[near].sum())
    assert abs(left) < max(0.1 * share, 0.003)


@pytest.mark.parametrize(
    ("fwhm", "half", "cut"),
    [(5.0, 10, True), (3.0, 7, True), (5.0, 25, False), (3.0, 15, False), (2.0, 10, False)],
)
def test_cut_wings(fwhm, half, cut):
    """Missing: 4, 2.3, 0.2, 0.1 and 0.1 % of a Moffat of beta 3."""
    truth = moffat_psf(fwhm, half_size=half).data.astype(float)
    messages = check_psf(truth).messages
    assert any("missing" in text for text in messages) == cut


@pytest.mark.parametrize("length", [1, 12, 25, 75, 300])
def test_parts_of_zeros_are_found(length):
    """Bytes that a disk lost, wherever they lie: all that cost over 5 % of the light."""
    truth = moffat_psf(3.0, half_size=12).data.astype(float)
    for first in range(0, truth.size, 7):
        image = truth.copy()
        image.ravel()[first : first + length] = 0
        if image.sum() > 0.95:
            continue
        try:
            psf, _ = centre_psf(image)
        except InputError:
            continue  # refused: no peak, or far off
        assert find_damage(image, psf.data, psf.shift), first


@pytest.mark.parametrize("noise", [0.0, 0.02, 0.1])
@pytest.mark.parametrize("offset", [0.0, 0.7])
def test_noisy_stars_are_not_damaged(noise, offset):
    truth = fourier_shift(moffat_psf(3.0, half_size=20).data.astype(float), offset, 0.0)
    for seed in range(20):
        rng = np.random.default_rng(seed)
        image = truth + rng.normal(0, noise * truth.max(), truth.shape)
        psf, _ = centre_psf(image)
        assert not find_damage(image, psf.data, psf.shift)


@pytest.mark.parametrize("half", [slice(0, 20), slice(21, None)])
def test_half_a_psf_is_flagged_in_a_stamp(half, writer):
    image, _ = star()
    image[half] = 0.0
    stamp = read_source(discover(writer.object(psf=image))[0]).stamp
    assert stamp.flags & Flag.BAD_PSF
    assert any("exactly 0" in text for text in stamp.messages)


def test_flag_and_message_in_a_stamp(writer):
    image, _ = star()
    path = writer.object(psf=image + 10.0)
    stamp = read_source(discover(path)[0]).stamp
    assert stamp.flags & Flag.BAD_PSF
    assert any("plateau of 16" in text or "plateau of 17" in text for text in stamp.messages)
    assert psf_fwhm(stamp.psf) == pytest.approx(psf_fwhm(moffat_psf(3.0)), rel=0.02)
    clean = read_source(discover(writer.object("g2", psf=image))[0]).stamp
    assert not clean.flags & Flag.BAD_PSF


def test_array_as_option(writer):
    image, _ = star()
    source = discover(writer.object(psf=False))[0]
    options = ReadOptions(psf=image + 10.0)
    assert read_source(source, options).stamp.flags & Flag.BAD_PSF


def test_resampling_keeps_width_and_light():
    fine = moffat_psf(6.0, half_size=40)
    for step in (0.8, 1.3, 1.5):
        data = resample_psf(fine.data.astype(float), step)
        assert data.shape[0] % 2 == 1
        assert data.sum() == pytest.approx(1, abs=2e-3)
        assert psf_fwhm(PSF(data)) * step == pytest.approx(psf_fwhm(fine), rel=0.01)


@pytest.mark.parametrize(
    ("cards", "oversampling", "step"),
    [
        ({"PIXSCALE": 0.2}, 1, 1.0),
        ({"PIXSCALE": 0.201}, 1, 1.0),  # rounded
        ({"PIXSCALE": 0.1}, 2, 1.0),
        ({"PIXELSCL": 0.25}, 1, 0.8),
        ({"PIXSCALE": 0.15}, 1, 4 / 3),
        ({"CDELT1": -0.1 / 3600, "CDELT2": 0.1 / 3600}, 2, 1.0),
        ({"CDELT1": -0.25 / 3600, "CDELT2": 0.25 / 3600, "PC1_1": 0.0, "PC1_2": 1.0,
          "PC2_1": 1.0, "PC2_2": 0.0}, 1, 0.8),
        ({"CD1_1": 0.0, "CD1_2": 0.25 / 3600, "CD2_1": 0.25 / 3600, "CD2_2": 0.0}, 1, 0.8),
        ({"CDELT1": 1.0, "CDELT2": 1.0}, 1, 1.0),  # the default says nothing
        ({"OVERSAMP": 3, "PIXSCALE": 0.2}, 3, 1.0),  # of the image it was made for
        ({"OVERSAMP": 4, "PIXSCALE": 0.0534}, 4, 0.2 / 4 / 0.0534),
    ],
)  # fmt: skip
def test_pixel_scales(cards, oversampling, step, writer):
    path = writer.object(cards={"PIXSCALE": 0.2})
    writer.plane("g1_psf.fits", gaussian((41, 41), 8.0), cards)
    stamp = read_source(discover(path)[0]).stamp
    assert stamp.psf.oversampling == oversampling
    expected = 8.0 / step / oversampling
    assert psf_fwhm(stamp.psf) == pytest.approx(expected, rel=0.03)
    assert bool(stamp.flags & Flag.BAD_PSF) == (step != 1.0)
    assert any("resampled" in text for text in stamp.messages) == (step != 1.0)


@pytest.mark.parametrize(
    ("cards", "shape", "options"),
    [
        ({"PIXSCALE": 1.0}, (41, 41), {}),
        ({"PIXSCALE": 0.004}, (41, 41), {}),
        ({"OVERSAMP": 26}, (41, 41), {}),
        ({}, (41, 41), {"psf_oversampling": 30}),
        ({}, (401, 401), {}),
    ],
)
def test_senseless_psfs_are_refused(cards, shape, options, writer):
    path = writer.object(cards={"PIXSCALE": 0.2})
    writer.plane("g1_psf.fits", gaussian(shape, 4.0), cards)
    with pytest.raises(InputError) as caught:
        read_source(discover(path)[0], ReadOptions(**options))
    assert caught.value.remedy
