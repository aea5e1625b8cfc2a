"""`measure="morphology"`: statmorph's numbers as columns, of the data and of the model."""

from __future__ import annotations

import importlib.util
import sys

import numpy as np
import pytest
from galaxy_in_memory import QUICK, TRUTH, gaussian

import autofit_ml as afm
from autofit_ml.errors import SettingsError

NEEDED = pytest.mark.skipif(
    importlib.util.find_spec("statmorph") is None, reason="statmorph is an extra"
)
PSF = gaussian(25, 1.5)
ROW = TRUTH | {"x": 60.0, "y": 60.0, "re": 10.0, "n": 1.0, "q": 1.0, "flux": 20000.0}
SHAPE = (121, 121)


def fitted(row: dict, **options) -> afm.Fit:
    data = row if isinstance(row, np.ndarray) else afm.model_image(row, SHAPE, psf=PSF)
    data = data + np.random.default_rng(3).normal(0, 0.3, SHAPE)
    return afm.fit(data, sigma=0.3, psf=PSF, measure="morphology", **QUICK, **options)


@NEEDED
def test_measures_of_an_exponential_disc():
    """Analytic: half-light at re, Petrosian radius (eta 0.2) at 2.16 re, C of 2.7."""
    fit = fitted(ROW)
    assert fit.morphology_flag == 0
    assert fit.half_ellip == pytest.approx(ROW["re"], rel=0.05)
    assert fit.petro_circ == pytest.approx(2.16 * ROW["re"], rel=0.05)
    assert fit.concentration == pytest.approx(2.7, abs=0.15)
    assert abs(fit.asymmetry) < 0.03
    assert fit.table()["petro_circ"].unit == "pix"


@NEEDED
def test_the_model_is_measured_as_the_data_are():
    """They agree where the model is right; the data are more asymmetric where it is not."""
    smooth = fitted(ROW)
    for name in ("petro_ellip", "half_ellip", "concentration", "gini", "m20"):
        assert smooth[name] == pytest.approx(smooth[f"{name}_model"], rel=0.04), name
    arm = ROW | {"x": 67.0, "y": 65.0, "flux": 8000.0, "re": 8.0}
    lopsided = fitted(sum(afm.model_image(row, SHAPE, psf=PSF) for row in (ROW, arm)))
    assert lopsided.asymmetry > lopsided.asymmetry_model + 0.05


@NEEDED
def test_an_object_without_a_fit_has_no_measures():
    found = afm.fit([np.full(SHAPE, np.nan)], sigma=0.3, psf=PSF, measure="morphology", **QUICK)[0]
    assert np.isnan(found.gini)


def test_what_is_missing_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "statmorph", None)
    with pytest.raises(SettingsError, match=r"needs statmorph.*pip install"):
        afm.fit(np.eye(99), measure="morphology")
    with pytest.raises(SettingsError, match="measure: there is no 'shape'"):
        afm.fit(np.eye(99), measure="shape")
