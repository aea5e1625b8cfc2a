"""Messages can be read, whatever they are about."""

from __future__ import annotations

import importlib.util
import pickle

import numpy as np
import pytest
from astropy.io import fits

from autofit_ml.errors import InputError, SettingsError, brief
from autofit_ml.options import Settings
from autofit_ml.settings import FitSettings


@pytest.mark.parametrize("value", ["x" * 10**7, "a b " * 10**6, "9" * 10**6])
def test_values_are_cut(value):
    error = InputError(f"NAXIS is {value!r}", "correct the header", "galaxy.fits")
    assert len(str(error)) < 400
    assert str(error).startswith("galaxy.fits: NAXIS is '")
    assert f"{len(value) + 2} characters" in str(error) or "characters" in str(error)
    assert str(error).endswith("(correct the header)")
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_long_messages_are_cut_and_others_are_not():
    text = "; ".join(f"plane {k} of 'file {k}.fits' is not used" for k in range(40))
    assert brief(text[:1900]) == text[:1900]
    assert len(brief(text * 1000)) < 2100


def test_settings_say_values_in_brief():
    with pytest.raises(ValueError) as caught:
        FitSettings(segmenter="z" * 10**6)
    assert isinstance(FitSettings(), Settings)
    assert len(str(caught.value)) < 600


def test_a_missing_extra_is_named_before_anything_is_computed(tmp_path, monkeypatch):
    from autofit_ml import fit

    fits.writeto(tmp_path / "a.fits", np.zeros((40, 40), "f4"))
    found = importlib.util.find_spec
    hidden = ("arviz", "statmorph")
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name: None if name in hidden else found(name)
    )
    for options in ({"posterior": "hmc"}, {"measure": "morphology"}):
        with pytest.raises(SettingsError, match=r"needs (arviz|statmorph), .*\(pip install"):
            fit(tmp_path / "a.fits", out=tmp_path / "out", **options)
