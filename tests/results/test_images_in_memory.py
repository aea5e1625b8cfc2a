"""Images in memory are read and fitted as the same images in files are."""

from __future__ import annotations

import astropy.units as u
import numpy as np
import pytest
from astropy.io import fits
from astropy.nddata import (
    CCDData,
    Cutout2D,
    InverseVariance,
    NDData,
    StdDevUncertainty,
    UnknownUncertainty,
    VarianceUncertainty,
)
from astropy.wcs import WCS
from galaxy_in_memory import QUICK, TRUTH, gaussian
from photutils.psf import ImagePSF
from photutils.segmentation import SegmentationImage

import autofit_ml as afm
from autofit_ml.errors import InputError, SettingsError


def sky_wcs(scale: float = 0.2) -> WCS:
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = "RA---TAN", "DEC--TAN"
    wcs.wcs.crpix, wcs.wcs.crval = (40.0, 40.0), (150.1, 2.2)
    wcs.wcs.cdelt = -scale / 3600, scale / 3600
    return wcs


def same_stamps(one, other) -> None:
    for name in ("data", "sigma", "mask"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)
    np.testing.assert_array_equal(one.psf.data, other.psf.data)
    assert (one.flags, one.messages, one.psf.oversampling) == (
        other.flags, other.messages, other.psf.oversampling
    )  # fmt: skip


def test_numbers_and_messages_are_those_of_the_file(galaxy, tmp_path):
    """With the defaults: the networks segment and start."""
    hdus = fits.HDUList(
        [
            fits.PrimaryHDU(galaxy.data, sky_wcs().to_header()),
            fits.ImageHDU(galaxy.sigma, name="ERR"),
            fits.ImageHDU(galaxy.psf, name="PSF"),
            fits.ImageHDU(galaxy.mask.astype(np.uint8), name="MASK"),
        ]
    )
    hdus.writeto(tmp_path / "m51.fits")
    (row,) = afm.fit(tmp_path, workers=0, zeropoint=25)
    found = afm.fit(galaxy.data, **galaxy.planes, wcs=sky_wcs(), zeropoint=25, workers=0)
    assert found.ok
    for name in row.colnames:
        if name in ("id", "file", "time_ms", "data_id"):
            continue
        value = np.asarray(getattr(row[name], "value", row[name]))
        np.testing.assert_array_equal(value, found[name], err_msg=name)
    assert found.re == pytest.approx(TRUTH["re"], abs=4 * found.re_err)
    assert np.isfinite(found.ra)


@pytest.mark.parametrize("kind", [StdDevUncertainty, VarianceUncertainty, InverseVariance])
@pytest.mark.parametrize("container", [NDData, CCDData])
def test_nddata_brings_its_planes(galaxy, container, kind):
    (plain,) = afm.read(galaxy.data, **galaxy.planes, wcs=sky_wcs())
    values = {StdDevUncertainty: 1, VarianceUncertainty: 2, InverseVariance: -2}[kind]
    whole = container(
        galaxy.data, uncertainty=kind(galaxy.sigma**values), mask=galaxy.mask, unit="adu",
        wcs=sky_wcs(), psf=galaxy.psf, meta={"MAGZERO": 24.0, "comment of mine": object()},
    )  # fmt: skip
    (stamp,) = afm.read(whole)
    np.testing.assert_allclose(stamp.sigma, plain.sigma, rtol=1e-6)
    np.testing.assert_array_equal(stamp.mask, plain.mask)
    np.testing.assert_array_equal(stamp.psf.data, plain.psf.data)
    assert stamp.zeropoint == 24
    assert stamp.unit == "adu"
    assert stamp.pixel_scale == pytest.approx(0.2)
    # Keywords win over what comes with the image.
    (doubled,) = afm.read(whole, sigma=2 * galaxy.sigma)
    np.testing.assert_allclose(doubled.sigma[~plain.mask], 2 * plain.sigma[~plain.mask], rtol=1e-6)


def test_other_containers_of_the_same_image(galaxy):
    (plain,) = afm.read(galaxy.data, **galaxy.planes)
    planes = galaxy.planes
    same_stamps(afm.read(np.ma.MaskedArray(galaxy.data, galaxy.mask), **(planes | {"mask": None}))[0],
                plain)  # fmt: skip
    hdus = fits.HDUList([fits.PrimaryHDU(galaxy.data), fits.ImageHDU(galaxy.sigma, name="ERR")])
    same_stamps(afm.read(hdus, psf=galaxy.psf, mask=galaxy.mask)[0], plain)
    same_stamps(
        afm.read(galaxy.data * u.nJy, **(planes | {"sigma": galaxy.sigma * u.nJy}))[0], plain
    )
    (microjansky,) = afm.read(
        galaxy.data * u.nJy, **(planes | {"sigma": galaxy.sigma / 1e3 * u.uJy})
    )
    np.testing.assert_allclose(microjansky.sigma, plain.sigma, rtol=1e-6)


def test_a_list_of_floats_is_one_noise_for_each_image(galaxy):
    one, two = afm.read([galaxy.data, galaxy.data], sigma=[0.3, 0.6], psf=galaxy.psf)
    assert np.all(one.sigma[~one.mask] == np.float32(0.3))
    assert np.all(two.sigma[~two.mask] == np.float32(0.6))
    assert [one.id, two.id] == ["image_1", "image_2"]


def test_a_cutout_is_centred_on_its_position(galaxy):
    frame = np.zeros((300, 300)) + np.random.default_rng(1).normal(0, 0.3, (300, 300))
    frame[100:181, 120:211] += galaxy.data
    cutout = Cutout2D(frame, (161.3, 138.7), (81, 61), wcs=sky_wcs())
    (stamp,) = afm.read(cutout, sigma=0.3, psf=galaxy.psf)
    assert stamp.shape == (81, 61)
    assert stamp.position == pytest.approx(cutout.input_position_cutout)
    assert stamp.wcs.wcs.crpix == pytest.approx(cutout.wcs.wcs.crpix)


def test_models_of_photutils_are_understood(galaxy):
    fine = ImagePSF(gaussian(75, 4.5), oversampling=3)
    (stamp,) = afm.read(galaxy.data, sigma=galaxy.sigma, psf=fine)
    assert stamp.psf.oversampling == 3
    labels = np.zeros(galaxy.data.shape, int)
    labels[30:50, 30:50] = 7
    (stamp,) = afm.read(
        galaxy.data, sigma=0.3, psf=galaxy.psf, segmentation=SegmentationImage(labels)
    )
    assert stamp.labels[40, 40] == 7


def test_without_noise_it_is_estimated_and_flagged(galaxy):
    found = afm.fit(galaxy.data, psf=galaxy.psf, mask=galaxy.mask, **QUICK)
    assert "SIGMA_ESTIMATED" in found.flag_names
    assert np.median(found.sigma) == pytest.approx(np.median(galaxy.sigma), rel=0.1)


def test_without_a_psf_the_error_names_the_ways_out(galaxy):
    with pytest.raises(InputError, match=r"psf=ARRAY, psf_fwhm=ARCSEC.*psf='none'"):
        afm.fit(galaxy.data, sigma=0.3, **QUICK)
    found = afm.fit(galaxy.data, sigma=galaxy.sigma, mask=galaxy.mask, psf="none", **QUICK)
    assert "without a PSF" in found.message
    analytic = afm.fit(
        galaxy.data, sigma=0.3, mask=galaxy.mask, psf_fwhm=0.7, pixel_scale=0.2, **QUICK
    )
    assert "PSF_ESTIMATED" in analytic.flag_names


def test_a_list_goes_on_where_an_image_cannot_be_read(galaxy):
    bad = np.full(galaxy.data.shape, np.nan)
    found = afm.fit([galaxy.data, bad], sigma=galaxy.sigma, psf=galaxy.psf, ids=["m51", "bad"],
                    mask=[galaxy.mask, None], **QUICK)  # fmt: skip
    assert isinstance(found, afm.Results)
    assert found["m51"].ok
    assert not found["bad"].ok
    assert "no finite pixel" in found["bad"].message
    with pytest.raises(InputError, match="no finite pixel"):
        found["bad"].model()
    with pytest.raises(InputError, match="no finite pixel"):
        afm.fit(bad, sigma=0.3, psf=galaxy.psf, **QUICK)


def test_frames_in_memory(galaxy):
    random = np.random.default_rng(3)
    frame = random.normal(0, 0.3, (600, 610))
    places = [(150.0, 140.0), (420.0, 450.0)]
    for x, y in places:
        frame += afm.model_image(TRUTH | {"x": x, "y": y}, frame.shape, psf=galaxy.psf)
    with pytest.raises(InputError, match=r"a frame with 2 objects.*put it into a list"):
        afm.fit(frame, sigma=0.3, psf=galaxy.psf, **QUICK)
    found = afm.fit([frame], sigma=0.3, psf=galaxy.psf, **QUICK)
    assert len(found) == 2
    x, y = np.array(places).T
    given = afm.fit([frame] * 2, sigma=0.3, psf=galaxy.psf, x=x, y=y, ids=["a", "b"], **QUICK)
    assert [one.x for one in given] == pytest.approx(x, abs=0.2)
    assert given["b"].origin[0] > 300
    one = afm.fit(frame, sigma=0.3, psf=galaxy.psf, x=420, y=450, **QUICK)
    assert one.re == given["b"].re


def test_bands(galaxy):
    random = np.random.default_rng(8)
    red = 2 * (galaxy.data - 0.2) + random.normal(0, 0.1, galaxy.data.shape)
    found = afm.fit(
        {"g": galaxy.data, "r": red}, sigma={"g": galaxy.sigma, "r": 2.1 * galaxy.sigma},
        psf=galaxy.psf, mask=galaxy.mask, **QUICK,
    )  # fmt: skip
    assert found.bands == ("g", "r")
    assert found.flux_r / found.flux_g == pytest.approx(2, rel=0.03)
    assert found.model("r").shape == red.shape
    assert np.array_equal(found.model("g"), found.model())
    with pytest.raises(InputError, match="its bands are g, r"):
        found.residual("z")


@pytest.mark.parametrize(
    ("data", "options", "told"),
    [
        ([], {}, "the list is empty"),
        (np.zeros(5), {}, "not a two-dimensional array"),
        (np.zeros((9, 9), complex), {}, "complex128"),
        ([np.eye(9), 3], {}, "of type int"),
        (np.eye(9), {"sigma": [1, 2]}, "sigma has 2 items"),
        (np.eye(9), {"x": 3}, "one of x and y only"),
        (np.eye(9), {"wcs": "RA"}, "the WCS is of type str"),
        (np.eye(9), {"sigma": UnknownUncertainty(np.eye(9))}, "an uncertainty of type 'unknown'"),
        ([np.eye(9)] * 2, {"ids": ["a", "a"]}, "the same id"),
    ],
)
def test_what_is_no_image(data, options, told):
    with pytest.raises(SettingsError, match=told):
        afm.read(data, **options)


def test_planes_are_refused_with_files(simulated_folder):
    with pytest.raises(SettingsError, match="mask with images in files"):
        afm.read(simulated_folder, mask=np.zeros((3, 3)))


def test_results_of_images_in_memory_can_be_written(galaxy, tmp_path):
    options = {**galaxy.planes, **QUICK, "out": tmp_path / "out", "save": "objects"}
    first = afm.fit([galaxy.data], **options)
    again = afm.fit([galaxy.data], **options)  # continues: nothing is left to do
    assert first.folder == tmp_path / "out"
    assert again[0].re == first[0].re
    np.testing.assert_array_equal(first[0].data, galaxy.data.astype(np.float32))
    with pytest.raises(SettingsError, match="1 changed: image_1"):
        afm.fit([galaxy.data + 1], **options)
