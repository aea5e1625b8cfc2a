"""Point-spread functions of the recipes."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.io import fits

from autofit_ml.errors import SettingsError
from autofit_ml.measure import core_centroid, psf_fwhm
from autofit_ml.simulation.psf import draw_psf, draw_psf_grid, moffat_psf
from autofit_ml.simulation.survey import PSFModel

pytest.importorskip("galsim")


def rng(seed=0):
    return np.random.default_rng(seed)


@pytest.mark.parametrize("kind", ["moffat", "kolmogorov"])
def test_width_is_drawn_between_the_stated_percentiles(kind):
    """5 and 95 % of a log-normal: 4 of 40 outside on average, less than 11 at 4 sigma."""
    model = PSFModel(kind=kind, fwhm=(0.9, 1.5), ellipticity=0.0, size=41)
    generator = rng(1)
    # The pixel of 0.2 arcsec widens by under 1 %.
    widths = [0.2 * psf_fwhm(draw_psf(model, 0.2, generator)) for _ in range(40)]
    outside = sum(not 0.89 < width < 1.52 for width in widths)
    assert outside < 11
    assert np.median(widths) == pytest.approx(np.sqrt(0.9 * 1.5), rel=0.1)


def test_a_narrow_range_fixes_the_width():
    model = PSFModel(kind="moffat", fwhm=(1.0, 1.0001), beta=(3.0, 3.0), ellipticity=0.0)
    psf = draw_psf(model, 0.25, rng())
    reference = moffat_psf(4.0, beta=3.0, size=41)
    np.testing.assert_allclose(psf.data, reference.data, atol=1e-5)


@pytest.mark.parametrize("oversampling", [1, 3])
def test_optical_psf(oversampling):
    """Sum 1, centred to 0.02 px, about as wide as lambda / D; a pool of different ones."""
    model = PSFModel(
        kind="optical",
        lam_over_diam=0.08,
        obscuration=0.3,
        jitter=0.01,
        aberrations=0.03,
        size=31,
        oversampling=oversampling,
        pool=3,
    )
    pool = [draw_psf(model, 0.05, rng(seed), seed=5) for seed in range(12)]
    assert len({psf.data.tobytes() for psf in pool}) == 3
    for psf in pool[:3]:
        assert psf.data.shape == (31 * oversampling,) * 2
        assert psf.data.sum() == pytest.approx(1, abs=1e-5)
        x, y, _ = core_centroid(psf.data.astype(float))
        middle = (31 * oversampling - 1) / 2
        assert abs(x - middle) < 0.02 * oversampling
        assert abs(y - middle) < 0.02 * oversampling
        # Airy: 1.03 lambda / D for a full aperture, somewhat less with an obscuration; pixel and
        # jitter add.
        assert 0.07 < psf_fwhm(psf) * 0.05 < 0.12


def test_hexagons_make_six_spikes():
    """Far out, the light is uneven with a period of 60 degrees."""
    model = PSFModel(
        kind="optical", lam_over_diam=0.06, aperture="hexagons", aberrations=0.0, size=101, pool=1
    )
    psf = draw_psf(model, 0.03, rng(), seed=2)
    assert 0.06 < psf_fwhm(psf) * 0.03 < 0.08
    y, x = np.indices(psf.data.shape) - 50
    radius, turn = np.hypot(x, y), np.arctan2(y, x)
    ring = (radius > 20) & (radius < 45)
    waves = [abs(np.sum((psf.data * np.exp(1j * k * turn))[ring])) for k in (4, 6, 8)]
    assert waves[1] > 0.2 * psf.data[ring].sum()
    assert waves[1] > 3 * max(waves[0], waves[2])


def test_folder_of_psfs(tmp_path):
    for k, fwhm in enumerate((2.5, 4.0)):
        image = np.roll(moffat_psf(fwhm, size=31).data, (2, -1), axis=(0, 1)) * 7
        fits.PrimaryHDU(image).writeto(tmp_path / f"star{k}_psf.fits")
    model = PSFModel(kind="folder", folder=tmp_path, size=25)
    drawn = [draw_psf(model, 0.3, rng(seed)) for seed in range(8)]
    widths = {round(psf_fwhm(psf), 1) for psf in drawn}
    assert len(widths) == 2
    for psf in drawn:
        assert psf.data.shape == (25, 25)
        assert psf.data.sum() == pytest.approx(1, abs=1e-5)
        x, y, _ = core_centroid(psf.data.astype(float))
        assert (x, y) == (pytest.approx(12, abs=0.03), pytest.approx(12, abs=0.03))


def test_empty_and_broken_folders(tmp_path):
    model = PSFModel(kind="folder", folder=tmp_path, size=25)
    with pytest.raises(SettingsError, match="no PSF images"):
        draw_psf(model, 0.3, rng())
    fits.PrimaryHDU(np.full((9, 9), np.nan)).writeto(tmp_path / "a_psf.fits")
    with pytest.raises(SettingsError, match="a_psf.fits"):
        draw_psf(PSFModel(kind="folder", folder=tmp_path, size=27), 0.3, rng())


def test_grid_interpolates_between_nodes():
    model = PSFModel(fwhm=(0.8, 0.9), variation=0.3, size=25)
    grid = draw_psf_grid(model, 0.2, (200, 300), rng(2), nodes=3)
    np.testing.assert_allclose(grid.at(0, 0).data, grid.data[0, 0], atol=1e-7)
    np.testing.assert_allclose(grid.at(299, 199).data, grid.data[2, 2], atol=1e-7)
    np.testing.assert_allclose(grid.at(149.5, 99.5).data, grid.data[1, 1], atol=1e-7)
    quarter = grid.at(149.5 / 2, 0)
    np.testing.assert_allclose(quarter.data, (grid.data[0, 0] + grid.data[0, 1]) / 2, atol=1e-6)
    assert quarter.data.sum() == pytest.approx(1, abs=1e-5)
    np.testing.assert_array_equal(grid.at(-50, -50).data, grid.at(0, 0).data)
    widths = [psf_fwhm(grid.at(x, y)) for x in (0, 299) for y in (0, 199)]
    assert np.ptp(widths) > 0.02 * np.mean(widths)


def test_no_variation_means_one_psf():
    model = PSFModel(fwhm=(0.8, 0.9), variation=0.0, size=25)
    grid = draw_psf_grid(model, 0.2, (200, 300), rng(2))
    assert np.ptp(grid.data, axis=(0, 1)).max() < 1e-7
