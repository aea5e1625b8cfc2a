"""Real galaxies, deconvolved and observed anew."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from astropy.io import fits

from autofit_ml.errors import InputError, SettingsError
from autofit_ml.simulation import Source, moffat_psf, render_source, simulate
from autofit_ml.simulation.real import draw_real_galaxy
from autofit_ml.simulation.recipe import Galaxies

pytest.importorskip("galsim")
pytest.importorskip("hydra")

SCALE = 0.03


def write_galaxy(folder, name, source, fwhm=3.0, noise=1e-4, size=101):
    """A sharp "real" image of a known galaxy, with its PSF."""
    psf = moffat_psf(fwhm, beta=4.0, size=41)
    image = render_source(source, psf, (size, size))
    image += np.random.default_rng(1).normal(0, noise, image.shape)
    header = fits.Header([("PIXSCALE", SCALE)])
    fits.PrimaryHDU(image.astype(np.float32), header).writeto(folder / f"{name}_image.fits")
    fits.PrimaryHDU(psf.data).writeto(folder / f"{name}_psf.fits")


def test_reobserved_galaxy_is_the_galaxy_seen_through_the_new_psf(tmp_path):
    """A Sérsic galaxy cut out at 0.03 arcsec, drawn at 0.2: 1 % of the peak (noise, cut wings)."""
    write_galaxy(tmp_path, "a", Source(51.3, 49.2, 30.0, 14.0, 1.0, 0.5, 30.0), size=161)
    galaxies = Galaxies(morphology={"real": 1}, real_folder=tmp_path)
    rng = np.random.default_rng(3)
    psf = moffat_psf(4.0, size=31)
    seen = draw_real_galaxy(rng, galaxies, 0.2, x=25.2, y=24.6, flux=10.0)
    image = render_source(seen, psf, (51, 51))
    # Shape and angle measured on the sharp image.
    assert seen.re == pytest.approx(14.0 * SCALE / 0.2, rel=0.1)
    assert seen.q == pytest.approx(0.5, abs=0.06)
    fitted = Source(25.2, 24.6, 10.0, 14.0 * SCALE / 0.2, 1.0, 0.5, seen.pa)
    expected = render_source(fitted, psf, (51, 51))
    assert abs(image - expected).max() < 0.02 * expected.max()
    assert image.sum() == pytest.approx(expected.sum(), rel=0.02)


def test_recipe_with_real_galaxies(real_data, tmp_path):
    """COSMOS cut-outs seen by a ground-based survey."""
    source = real_data / "cosmos_hst_btk"
    for path in source.glob("cosmos00*_F814W_*.fits.gz"):
        if "sigma" not in path.name:
            shutil.copy(path, tmp_path)
    items = simulate(
        ["data=real", f"data.galaxies.real_folder={tmp_path}", "survey=sdss-r"], count=4, seed=2
    )
    for item in items:
        assert item.truth["kind"][0] == "real"
        assert item.model.sum(dtype=float) == pytest.approx(item.target.flux, rel=0.25)
        y, x = np.unravel_index(item.model.argmax(), item.model.shape)
        assert np.hypot(x - item.target.x, y - item.target.y) < 2.5
        assert 30 * 0.9 < item.snr < 500 * 1.1


def test_a_psf_wider_than_the_new_one_is_refused(tmp_path):
    write_galaxy(tmp_path, "wide", Source(50, 50, 30.0, 14.0, 1.0, 0.5, 30.0), fwhm=20.0)
    with pytest.raises(SettingsError, match="not narrower"):
        simulate(
            [
                "data=real",
                f"data.galaxies.real_folder={tmp_path}",
                "survey.psf.fwhm=[0.3,0.31]",
            ],
            count=1,
        )


def test_bad_folders(tmp_path):
    with pytest.raises(SettingsError, match="no real galaxies"):
        simulate(["data=real", f"data.galaxies.real_folder={tmp_path}"], count=1)
    empty = tmp_path / "empty"
    empty.mkdir()
    fits.PrimaryHDU(np.zeros((30, 30), np.float32)).writeto(empty / "b_image.fits")
    with pytest.raises(InputError, match="b_psf.fits"):
        simulate(["data=real", f"data.galaxies.real_folder={empty}"], count=1)
    fits.PrimaryHDU(moffat_psf(3.0).data).writeto(empty / "b_psf.fits")
    with pytest.raises(InputError, match="PIXSCALE"):
        simulate(["data=real", f"data.galaxies.real_folder={empty}"], count=1)
