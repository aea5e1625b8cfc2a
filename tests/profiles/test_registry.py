"""The registry: names, parameters, radii, modifiers."""

import numpy as np
import pytest

from autofit_ml.errors import SettingsError
from autofit_ml.profiles import (
    Profile,
    ShapeParameter,
    get_profile,
    modified,
    profile_names,
    register,
    registry,
    sersic_b,
)
from autofit_ml.profiles.tables import profile_radii
from autofit_ml.scenes import CATALOGUE_PARAMETERS, FIT_PARAMETERS

WANTED = (
    "core_sersic",
    "devaucouleurs",
    "edge_on_disc",
    "exp_dev",
    "exponential",
    "ferrer",
    "flat_sky",
    "gaussian",
    "king",
    "mge",
    "moffat",
    "nuker",
    "point",
    "sersic",
    "tilted_sky",
    "truncated_sersic",
)


@pytest.fixture
def own_registry(monkeypatch):
    """A copy that a test may add to."""
    profile_names()
    monkeypatch.setattr(registry, "_REGISTRY", dict(registry._REGISTRY))


def test_every_profile_of_the_issue_is_there():
    assert profile_names() == WANTED


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("exp", "exponential"),
        ("dev", "devaucouleurs"),
        ("psf", "point"),
        ("Star", "point"),
        ("sky", "flat_sky"),
        ("expdisk", "exponential"),
        ("edgedisk", "edge_on_disc"),
        ("core-sersic", "core_sersic"),
        (" Gaussian ", "gaussian"),
    ],
)
def test_aliases(alias, name):
    assert get_profile(alias).name == name


def test_an_unknown_name_lists_the_choices():
    with pytest.raises(SettingsError, match="no profile 'spiral'.*core_sersic.*tilted_sky"):
        get_profile("spiral")


@pytest.mark.parametrize("name", WANTED)
def test_descriptions_and_ranges(name):
    profile = get_profile(name)
    assert profile.description
    assert len(profile.parameters) == len(profile.fit_parameters) == len(set(profile.parameters))
    for shape in profile.shapes:
        low, high = shape.bounds
        assert low <= shape.default <= high
        assert low < high
        assert shape.description
        assert np.isfinite(shape.fit_bounds).all() or profile.kind == "background"


def test_the_order_of_the_parameters():
    assert get_profile("sersic").parameters == CATALOGUE_PARAMETERS[:-1]
    assert get_profile("sersic").fit_parameters == FIT_PARAMETERS[:-1]
    assert get_profile("point").parameters == ("x", "y", "flux")
    assert get_profile("tilted_sky").fit_parameters == ("sky", "sky_dx", "sky_dy")
    nuker = get_profile("nuker")
    assert nuker.parameters == ("x", "y", "flux", "re", "alpha", "beta", "gamma", "q", "pa")
    assert nuker.fit_parameters[4:7] == ("ln_alpha", "ln_beta", "gamma")


def test_modifiers_come_at_the_very_end():
    profile = modified(get_profile("sersic"), boxiness=True, fourier=(3, 1), twist=True)
    assert profile.kind == "pixel"
    assert profile.name == "sersic[boxiness,f1,f3,twist]"
    added = ("boxiness", "f1_a", "f1_b", "f3_a", "f3_b", "twist_eta1", "twist_eta2")
    assert profile.parameters == ("x", "y", "flux", "re", "n", "q", "pa", *added)
    assert profile.fit_parameters[-8:] == ("eta2", *added)
    assert [shape.name for shape in profile.own_shapes] == ["n"]
    assert get_profile(profile.name) == profile


def test_nothing_to_modify_gives_the_profile_itself():
    assert modified(get_profile("sersic")) is get_profile("sersic")


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("point", {"boxiness": True}, "cannot be modified"),
        ("edge_on_disc", {"boxiness": True}, "cannot be modified"),
        ("sersic[boxiness]", {"twist": True}, "cannot be modified"),
        ("sersic", {"fourier": (2,)}, "not available"),
        ("sersic", {"fourier": (0,)}, "not available"),
        ("ferrer", {"twist": True}, "ends sharply"),
    ],
)
def test_what_cannot_be_modified(name, changes, message):
    with pytest.raises(SettingsError, match=message):
        modified(get_profile(name), **changes)


@pytest.mark.parametrize("name", ["sersic[]", "sersic[boxy]", "sersic[boxiness", "sersic[f,twist]"])
def test_misspelt_modifiers_are_refused(name):
    with pytest.raises(SettingsError, match="is not a profile with modifiers"):
        get_profile(name)


def test_a_name_belongs_to_one_profile(own_registry):
    with pytest.raises(SettingsError, match="'exp' belongs to profile 'exponential'"):
        register(Profile("mine", "point", "a point", aliases=("exp",)))
    mine = register(Profile("mine", "point", "a point", aliases=("my",)))
    assert get_profile("my") is mine
    assert register(Profile("mine", "point", "another")) is get_profile("mine")


def test_wrong_profiles_are_refused():
    with pytest.raises(SettingsError, match="of kind 'round'"):
        Profile("mine", "round", "")
    with pytest.raises(SettingsError, match="no light"):
        Profile("mine", "elliptical", "")


def test_fit_bounds():
    assert ShapeParameter("n", 1.0, (0.5, 4.0), True).fit_bounds == (np.log(0.5), np.log(4.0))
    assert ShapeParameter("beta", 1.0, (0.5, 4.0)).fit_bounds == (0.5, 4.0)


def test_radii_in_units_of_the_half_light_radius():
    scale = profile_radii(get_profile("exponential"))["scale_length"]
    assert scale == pytest.approx(1 / sersic_b(1.0), rel=1e-6)
    assert profile_radii(get_profile("gaussian"))["fwhm"] == pytest.approx(2.0, rel=1e-6)
    assert profile_radii(get_profile("sersic"), [2.0]) == {}
    beta = np.array([1.7, 3.0, 9.0])
    radii = profile_radii(get_profile("moffat"), [beta])
    half = np.sqrt(2 ** (1 / (beta - 1)) - 1)
    assert np.allclose(radii["fwhm"], 2 * np.sqrt(2 ** (1 / beta) - 1) / half, rtol=1e-6)
    # A uniform ellipse holds half of its light in half of its area.
    uniform = profile_radii(get_profile("ferrer"), [0.0, 0.0])
    assert uniform["truncation"] == pytest.approx(np.sqrt(2), rel=1e-6)
    king = profile_radii(get_profile("king"), [2.0, np.array([3.0, 30.0])])
    assert np.allclose(king["truncation"] / king["core"], [3.0, 30.0], rtol=1e-12)
    # A far end changes nothing.
    far = profile_radii(get_profile("truncated_sersic"), [1.0, 30.0])
    assert far["truncation"] == pytest.approx(30.0, rel=1e-4)
    sharp = profile_radii(get_profile("core_sersic"), [4.0, 1e-3, 0.0, 5.0])
    assert sharp["outer_half_light"] == pytest.approx(1.0, rel=1e-3)
    height = profile_radii(get_profile("edge_on_disc"))
    assert height["scale_height"] / height["scale_length"] == pytest.approx(6 / np.pi)


def test_modifiers_leave_the_radii():
    plain = get_profile("exponential")
    assert profile_radii(modified(plain, boxiness=True)) == profile_radii(plain)
