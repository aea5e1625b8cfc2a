"""Wiener filter, Richardson-Lucy, total variation: against a truth that they do not see."""

from __future__ import annotations

import io

import numpy as np
import pytest
from astropy.io import fits
from galaxy_in_memory import gaussian

import autofit_ml as afm
from autofit_ml.deconvolution import sharp_fits_bytes, sharp_preview_png
from autofit_ml.errors import SettingsError
from autofit_ml.runs.deconvolve import deconvolve_run
from autofit_ml.settings import CLASSICAL, DeconvolveSettings, SamplingSettings

ROW = {
    "model": "sersic+exp", "x": 32.0, "y": 31.0, "flux": 3000.0, "re": 2.5, "n": 2.0, "q": 0.8,
    "pa": 20.0, "x_2": 32.0, "y_2": 31.0, "flux_2": 6000.0, "re_2": 8.0, "q_2": 0.4, "pa_2": 60.0,
}  # fmt: skip
SHAPE = (64, 64)
PSF = gaussian(25, 1.8)


@pytest.fixture(scope="module")
def stamp():
    data = afm.model_image(ROW, SHAPE, psf=PSF)
    data += np.random.default_rng(2).normal(0, 1, SHAPE)
    mask = np.zeros(SHAPE, bool)
    mask[20:23, 40:43] = True
    data[mask] = 1e4
    return afm.read(data, sigma=1.0, psf=PSF, mask=mask)[0]


@pytest.fixture(scope="module", params=CLASSICAL)
def sharp(request, stamp):
    return afm.deconvolve(stamp, sampler=request.param)


def test_sharper_than_the_data_and_as_bright(sharp, stamp):
    truth = afm.model_image(ROW, SHAPE, psf=gaussian(15, 2 / 2.3548))
    used = ~stamp.mask
    before = np.sum((stamp.data - truth)[used] ** 2)
    assert np.sum((sharp.mean - truth)[used] ** 2) < 0.8 * before
    assert sharp.mean.sum() == pytest.approx(truth.sum(), rel=0.02)


def test_the_residual_is_the_noise(sharp):
    assert sharp.chi2 == pytest.approx(1, abs=0.06)
    assert sharp.warnings == ()


def test_it_is_marked_as_no_posterior(sharp):
    assert not sharp.is_posterior
    assert sharp.samples.shape == (1, *SHAPE)
    assert np.isnan(sharp.std).all()
    with fits.open(io.BytesIO(sharp_fits_bytes(sharp))) as hdus:
        assert hdus[0].header["POSTERIO"] is False
        assert hdus[0].header["SAMPLER"] == sharp.sampler
    assert sharp_preview_png(sharp)[:4] == b"\x89PNG"


def test_masked_pixels_do_not_matter(stamp):
    other = stamp.replace(data=np.where(stamp.mask, -77, stamp.data).astype(np.float32))
    for method in ("wiener", "richardson-lucy"):
        one, two = (afm.deconvolve(s, sampler=method) for s in (stamp, other))
        np.testing.assert_array_equal(one.mean, two.mean)


def test_noisier_data_are_sharpened_less(stamp):
    noise = np.random.default_rng(4).normal(0, 10, SHAPE).astype(np.float32)
    noisy = stamp.replace(data=stamp.data + noise, sigma=stamp.sigma * np.float32(101**0.5))
    for method in ("wiener", "richardson-lucy"):
        clear, blurred = (afm.deconvolve(s, sampler=method) for s in (stamp, noisy))
        assert blurred.mean.max() < 0.95 * clear.mean.max(), method


def test_a_run(tmp_path, stamp):
    planes = [fits.PrimaryHDU(stamp.data), fits.ImageHDU(stamp.sigma, name="ERR")]
    planes += [fits.ImageHDU(PSF, name="PSF"), fits.ImageHDU(stamp.mask.astype("u1"), name="MASK")]
    fits.HDUList(planes).writeto(tmp_path / "m51.fits")
    settings = DeconvolveSettings(sampler="wiener", segmenter="sep", workers=0)
    summary = deconvolve_run(tmp_path / "m51.fits", tmp_path / "out", settings)
    assert summary.n_ok == 1
    assert fits.getheader(tmp_path / "out" / "m51.fits")["SAMPLER"] == "wiener"


def test_what_does_not_go_together():
    with pytest.raises(SettingsError, match="oversampling 2 with the sampler tv"):
        SamplingSettings(sampler="tv", oversampling=2)
    with pytest.raises(SettingsError, match=r"psf_error 0.02 with the sampler wiener"):
        SamplingSettings(sampler="wiener", psf_error=0.02)
    with pytest.raises(SettingsError, match="fit needs samples"):
        DeconvolveSettings(sampler="wiener", fit=True)
