"""Sérsic parameters and structure from samples."""

from __future__ import annotations

import io

import numpy as np
import pytest
from astropy.io import fits

pytest.importorskip("galsim", reason="the samples are drawn by the simulator")

from autofit_ml.deconvolution import fit_samples, sharp_fits_bytes
from autofit_ml.deconvolution.summary import Sharp, statistics
from autofit_ml.deconvolution.target import target_psf
from autofit_ml.simulation import observe_scene
from autofit_ml.simulation.sources import Source

SIDE = 48
RADII = (3.6, 3.8, 4.0, 4.2, 4.4)


def drawn(re: float, oversampling: int = 1) -> np.ndarray:
    """A galaxy through the target PSF, without noise; re in data pixels."""
    s = oversampling
    x, y = s * 23.2 + (s - 1) / 2, s * 24.1 + (s - 1) / 2
    source = Source(x, y, 2000.0, re * s, 1.5, 0.6, 30.0)
    item = observe_scene(
        "one", source, (), target_psf(), (SIDE * s, SIDE * s),
        rng=np.random.default_rng(0), sky=0.0, noise=False,
    )  # fmt: skip
    return item.data.astype(np.float32)


def sharp_of(samples: np.ndarray, oversampling: int = 1) -> Sharp:
    rng = np.random.default_rng(3)
    noise = rng.normal(0, 0.5, (SIDE, SIDE)).astype(np.float32)
    mask = np.zeros((SIDE, SIDE), bool)
    mask[:4, :4] = True
    return Sharp(
        id="g", samples=samples, **statistics(samples), residual=noise,
        prior_fraction=np.zeros(samples.shape[1:], np.float32), data=noise, sigma=np.full_like(noise, 0.5), mask=mask,
        target_fwhm=2.0, oversampling=oversampling, wcs=None, detail=0.1, chi2=1.0,
        distance=0.5, sampler="eps", calls=48, seed=0, psf_sha256="0" * 64, weights="given",
        weights_sha256="", unit="nJy",
    )  # fmt: skip


@pytest.mark.parametrize("oversampling", [1, 2])
def test_parameters_are_those_of_the_samples_in_data_pixels(oversampling):
    samples = np.stack([drawn(re, oversampling) for re in RADII])
    found = fit_samples(sharp_of(samples, oversampling), (23.0, 24.0))
    np.testing.assert_allclose(found.values[:, 3], RADII, rtol=0.01)
    np.testing.assert_allclose(found.values[:, :2], [[23.2, 24.1]] * 5, atol=0.02)
    middle, error = found.interval("re")
    assert middle == pytest.approx(4.0, rel=0.01)
    assert error == pytest.approx(0.27, rel=0.1)  # half of the 16 to 84 % of five even steps
    assert found.interval("pa")[0] == pytest.approx(30.0, abs=1)
    assert np.abs(found.structure).max() < 0.01 * samples.max()


def test_structure_is_what_no_profile_has():
    y, x = np.indices((SIDE, SIDE))
    knot = 20 * np.exp(-0.5 * ((x - 33) ** 2 + (y - 30) ** 2) / 0.85**2)
    rng = np.random.default_rng(5)
    samples = np.stack([drawn(4.0) + knot * rng.uniform(0.8, 1.2) for _ in range(8)])
    sharp = sharp_of(samples.astype(np.float32))
    found = fit_samples(sharp, (23.0, 24.0))
    assert np.unravel_index(found.structure.argmax(), found.structure.shape) == (30, 33)
    assert found.significance[30, 33] > 3
    with fits.open(io.BytesIO(sharp_fits_bytes(sharp, found))) as hdus:
        np.testing.assert_array_equal(hdus["STRUCTURE"].data, found.structure)
        assert hdus["STRUCTURE"].header["BUNIT"] == "nJy"
        assert "BUNIT" not in hdus["STRUCTSIG"].header


def test_angles_about_the_upright_direction():
    samples = np.stack([drawn(4.0)] * 3)
    found = fit_samples(sharp_of(samples), (23.0, 24.0))
    values = found.values.copy()
    values[:, 6] = [179.0, 0.0, 1.0]
    middle, error = type(found)(values, found.structure, found.significance).interval("pa")
    assert min(middle, 180 - middle) < 0.2 and error < 1
    values[:] = np.nan
    assert np.isnan(type(found)(values, found.structure, found.significance).interval("re")).all()


def test_pixels_are_placed_in_the_file(tmp_path):
    """LTM and LTV take a position in the file to the HDU's, whatever was cut and sampled finer."""
    import dataclasses
    import io

    from astropy.io import fits

    from autofit_ml.deconvolution import sharp_fits_bytes

    base = sharp_of(np.ones((2, 32, 32), np.float32))
    sharp = dataclasses.replace(base, origin=(8, 20), oversampling=2)
    with fits.open(io.BytesIO(sharp_fits_bytes(sharp, None))) as hdus:
        for name, scale in (("PRIMARY", 2), ("STD", 2), ("RESIDUAL", 1)):
            header = hdus[name].header
            for axis, first in ((1, 8), (2, 20)):
                # The left edge of the stamp's first pixel is that of the HDU's first pixel.
                edge = first + 0.5  # 1-based: pixel first + 1 begins there
                placed = header[f"LTM{axis}_{axis}"] * edge + header[f"LTV{axis}"]
                assert placed == 0.5
                assert header[f"LTM{axis}_{axis}"] == scale
