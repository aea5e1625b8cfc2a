"""`Fit`: numbers, tables, draws, images, pictures."""

from __future__ import annotations

import pickle

import astropy.units as u
import numpy as np
import pytest
from galaxy_in_memory import QUICK, TRUTH
from matplotlib import pyplot

import autofit_ml as afm
from autofit_ml.errors import InputError, SettingsError
from autofit_ml.profiles import sersic_brightness
from autofit_ml.results.samples import gaussian_draws, named_draws


def test_columns_are_attributes(fit):
    for name in ("x", "y", "flux", "re", "n", "q", "pa"):
        assert getattr(fit, name) == pytest.approx(TRUTH[name], abs=4 * fit[f"{name}_err"]), name
    assert fit.re_arcsec == pytest.approx(0.2 * fit.re)
    assert fit.use
    assert "re_err" in dir(fit)
    with pytest.raises(AttributeError, match=r"no column 'r_e' \(close to it: re"):
        _ = fit.r_e


def test_table_has_units_and_formats(fit):
    table = fit.table()
    assert len(table) == 1
    assert table["re"].unit == u.pix
    shown = table["re"].info.format
    assert len(f"{fit.re:{shown}}".partition(".")[2]) == 3  # an error of 0.06
    assert "re" in set(fit.summary()["name"])


def test_images_add_up(fit, galaxy):
    total = sum(fit.components.values()) + fit.sky
    np.testing.assert_allclose(fit.model(), total, atol=1e-4)
    np.testing.assert_allclose(fit.residual(), fit.data - fit.model(), atol=1e-6)
    assert np.array_equal(fit.mask & galaxy.mask, galaxy.mask)
    pull = (fit.residual() / fit.sigma)[~fit.mask]
    assert np.mean(pull**2) == pytest.approx(1, abs=0.06)


def test_model_image_is_the_image_of_the_fit(fit):
    drawn = afm.model_image(fit, fit.data.shape, psf=fit.psf)
    peak = drawn.max()
    np.testing.assert_allclose(drawn, fit.components["sersic"], atol=2e-4 * peak)
    row = fit.table()[0]
    np.testing.assert_array_equal(afm.model_image(row, fit.data.shape, psf=fit.psf), drawn)
    with_sky = afm.model_image(row, fit.data.shape, psf=fit.psf, sky=True)
    np.testing.assert_allclose(with_sky - drawn, fit.sky, atol=1e-9)
    part = afm.model_image(row, (20, 30), psf=fit.psf, origin=(25, 30))
    # Less of the galaxy's wings wraps around in a larger image: 1e-3 of the peak.
    np.testing.assert_allclose(part, drawn[30:50, 25:55], atol=1e-3 * peak)
    twice = afm.model_image(fit.table()[[0, 0]], fit.data.shape, psf=fit.psf)
    np.testing.assert_allclose(twice, 2 * drawn)


def test_model_image_draws_models():
    shape = (61, 61)
    row = TRUTH | {"x": 30, "y": 30}
    scene = afm.sersic(**{k: afm.fixed(v) for k, v in row.items() if k != "model"})
    np.testing.assert_allclose(
        afm.model_image(scene, shape), afm.model_image(row, shape), rtol=1e-9
    )
    both = {"model": "psf+sersic", "x": 30, "y": 30, "flux": 5.0}
    both |= {f"{name}_2": row[name] for name in ("x", "y", "flux", "re", "n", "q", "pa")}
    added = afm.model_image(both, shape) - afm.model_image(row, shape)
    assert added.sum() == pytest.approx(5, rel=0.02)  # its waves leave the image
    assert np.unravel_index(added.argmax(), shape) == (30, 30)
    with pytest.raises(SettingsError, match="no value for sersic.x"):
        afm.model_image(afm.sersic(), shape)
    with pytest.raises(SettingsError, match="n_2 has no value"):
        afm.model_image({k: v for k, v in both.items() if k != "n_2"}, shape)
    with pytest.raises(SettingsError, match="give \\(ny, nx\\)"):
        afm.model_image(row, (61, 61, 3))


def test_radial_profile_of_a_known_galaxy():
    """Without PSF and noise: the Sérsic profile at the radii, where the pixels do not matter."""
    truth = TRUTH | {"x": 60, "y": 60, "re": 15.0, "n": 1.0}
    data = afm.model_image(truth, (121, 121))
    found = afm.fit(data, sigma=0.01, psf="none", zeropoint=25.0, pixel_scale=0.5, **QUICK)
    table = afm.radial_profile(found)
    radius = table["radius"].value
    far = (radius > 4) & (radius < 50)
    scale = truth["flux"] / (truth["re"] ** 2 * truth["q"])
    expected = scale * sersic_brightness(radius / truth["re"], truth["n"])
    np.testing.assert_allclose(table["data"][far], expected[far], rtol=0.02)
    np.testing.assert_allclose(table["model"][far], table["data"][far], rtol=0.005)
    mu = 25 - 2.5 * np.log10(table["data"][far] / 0.25)
    np.testing.assert_allclose(table["mu"][far].value, mu)
    assert table["radius_arcsec"][3] == 0.5 * radius[3] * u.arcsec
    # The noise of a mean over so many pixels.
    np.testing.assert_allclose(table["data_err"], 0.01 / np.sqrt(table["area"].value), rtol=1e-3)


def test_draws_have_the_errors_of_the_fit(fit):
    draws = fit.sample(20000, seed=3)
    for name in ("x", "y", "flux", "re", "n", "q", "pa", "sky"):
        values = np.asarray(getattr(draws[name], "value", draws[name]))
        assert np.std(values) == pytest.approx(fit[f"{name}_err"], rel=0.05), name
        assert np.median(values) == pytest.approx(fit[name], abs=0.1 * fit[f"{name}_err"]), name
    names = [fit.covariance_names.index(name) for name in ("re", "n")]
    expected = fit.covariance[names[0], names[1]] / (fit.re_err * fit.n_err)
    found = np.corrcoef(draws["re"].value, draws["n"])[0, 1]
    assert found == pytest.approx(expected, abs=0.03)
    assert np.array_equal(fit.sample(5, seed=1)["re"], fit.sample(5, seed=1)["re"])


def test_draws_stay_possible():
    """Errors as large as the values; a round galaxy; a parameter that is held."""
    centre = {"x": 5.0, "flux": 10.0, "re": 2.0, "n": 7.5, "q": 0.9, "pa": 170.0, "sky": 0.0}
    covariance = np.diag([0.1, 9.0, 2.0, 4.0, 0.01, 900.0, 0.0])
    draws = gaussian_draws(centre, covariance, 3000, np.random.default_rng(0))
    assert np.all(draws["flux"] > 0)
    assert np.all((draws["n"] >= 0.3) & (draws["n"] <= 8))
    assert np.all((draws["q"] > 0) & (draws["q"] <= 1))
    assert np.all(np.abs(draws["pa"] - 170) <= 90)
    assert np.all(draws["sky"] == 0)


def test_samples_of_a_run_get_the_names_of_the_catalogue():
    draws = {"bulge.re": [1.0], "disk.re": [2.0], "disk.x": [3.0], "neighbour_1.x": [4.0],
             "sky": [5.0]}  # fmt: skip
    found = {name: float(values[0]) for name, values in named_draws(draws).items()}
    assert found == {"re": 1, "re_2": 2, "x_2": 3, "sky": 5}


def test_several_components(galaxy):
    found = afm.fit(galaxy.data, **galaxy.planes, model="sersic+exp", **QUICK)
    assert list(found.components)[:2] == ["sersic", "exp"]
    drawn = afm.model_image(found, found.data.shape, psf=found.psf)
    target = found.components["sersic"] + found.components["exp"]
    np.testing.assert_allclose(drawn, target, atol=3e-4 * drawn.max())
    names = list(found.summary()["name"])
    assert {"re", "re_2", "fraction"} <= set(names)
    assert "re_2" in found.sample(10).colnames
    assert len(found.plot()["data"].lines) == 2
    pyplot.close("all")


def test_plot_shows_the_images(fit):
    axes = fit.plot()
    assert set(axes) == {"data", "model", "residual", "profile", "difference"}
    np.testing.assert_array_equal(axes["data"].images[0].get_array(), fit.data)
    np.testing.assert_array_equal(axes["model"].images[0].get_array(), fit.model())
    shown = axes["residual"].images[0].get_array()
    np.testing.assert_allclose(shown[~fit.mask], (fit.residual() / fit.sigma)[~fit.mask])
    assert np.isnan(np.ma.filled(shown, np.nan)[fit.mask]).all()
    assert "arcsec" in axes["difference"].get_xlabel()
    pyplot.close("all")


def test_printing(fit):
    text = repr(fit)
    assert f"{fit.re:.2f}" in text
    assert "usable" in text
    html = fit._repr_html_()
    assert "<img" in html
    assert f"{fit.re:.2f}" in html
    assert not pyplot.get_fignums()


def test_a_fit_can_be_pickled(fit):
    again = pickle.loads(pickle.dumps(fit))
    assert again.re == fit.re
    np.testing.assert_array_equal(again.model(), fit.model())


def test_results_from_a_folder(galaxy, fit, tmp_path):
    out = tmp_path / "out"
    afm.fit([galaxy.data], **galaxy.planes, zeropoint=25.0, pixel_scale=0.2, out=out,
            ids=["m51"], **QUICK)  # fmt: skip
    run = afm.open_results(out)
    assert run.ids == ["m51"]
    saved = run["m51"]
    for name in ("re", "flux", "mag"):
        assert saved[name] == fit[name]
    np.testing.assert_array_equal(saved.model(), fit.model())
    np.testing.assert_array_equal(saved.mask, fit.mask)
    assert run.preview("m51").width > 500
    assert run.report.is_file()
    assert run.about["counts"]["objects"] == 1
    assert len(run[:1]) == 1
    assert run.table()["re"].unit == u.pix
    assert "m51" in repr(run)
    assert "m51" in run._repr_html_()
    with pytest.raises(KeyError, match="no object 'm52'"):
        run["m52"]
    # Lazily: what is not asked for may be gone.
    (out / "objects" / "m51.fits").unlink()
    late = afm.open_results(out)[0]
    assert late.re == fit.re
    assert late.sample(10).colnames
    with pytest.raises(InputError, match="were not kept"):
        late.model()
    assert late._repr_html_()


def test_samples_are_kept_with_the_fit(galaxy, tmp_path):
    found = afm.fit(galaxy.data, **galaxy.planes, posterior="bootstrap", **QUICK)
    draws = found.sample(2000)
    assert np.std(draws["re"].value) == pytest.approx(found.re_err, rel=0.4)
    assert len(np.unique(draws["re"].value)) <= len(found.images.draws["sersic.re"])
