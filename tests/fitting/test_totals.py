"""Size and shape of all components together, against points drawn from them."""

import dataclasses

import numpy as np
import pytest
from scene_samples import bulge_and_disc, scene_object, starts_of
from scipy import special

from autofit_ml.fitting import refine, with_totals
from autofit_ml.scenes import parse_model

GALAXY = bulge_and_disc(0.4, flux=60000.0)


@pytest.fixture(scope="module")
def fits():
    """A fit of each model, to be given other values."""
    some = [scene_object(GALAXY, seed=3)]
    models = ("sersic+exp", "sersic+sersic", "sersic+point", "sersic", "sersic+edge_on_disc")
    return {model: refine(some, parse_model(model), starts_of(GALAXY))[0] for model in models}


def valued(fit, cov=None, **values):
    """A fit with other values: ``sersic_re=3`` is of the component ``sersic``."""
    out = fit.values.copy()
    for name, value in values.items():
        component, _, parameter = name.rpartition("_")
        out[fit.names.index(f"{component}.{parameter}")] = value
    return dataclasses.replace(fit, values=out, cov=np.zeros_like(fit.cov) if cov is None else cov)


def points(fit, count=200_000):
    """Positions and weights that stand for the light of the fit's Sérsic components."""
    share = (np.arange(count) + 0.5) / count
    angle = 2 * np.pi * np.arange(count) * 0.6180339887498949
    places, weights = [], []
    for component in fit.target:
        at = {name: fit[f"{component.name}.{name}"] for name in ("x", "y", "re", "q", "pa", "flux")}
        n = fit[f"{component.name}.n"] if "n" in component.profile.parameters else 1.0
        radius = (
            at["re"] * (special.gammaincinv(2 * n, share) / special.gammaincinv(2 * n, 0.5)) ** n
        )
        along, across = radius * np.cos(angle), at["q"] * radius * np.sin(angle)
        sin, cos = np.sin(np.radians(at["pa"])), np.cos(np.radians(at["pa"]))
        places.append([at["x"] - along * sin - across * cos, at["y"] + along * cos - across * sin])
        weights.append(np.full(count, at["flux"] / count))
    return np.concatenate(places, 1), np.concatenate(weights) / fit.flux_total[0]


MIXTURES = (
    {"sersic_n": 3.0, "sersic_q": 0.9, "exponential_q": 0.3, "exponential_pa": 120.0},
    {"sersic_re": 12.0, "sersic_q": 0.25, "sersic_pa": 10.0, "exponential_pa": 75.0},
)


@pytest.mark.parametrize("values", MIXTURES)
def test_the_ellipse_holds_half_of_the_light_and_has_its_moments(fits, values):
    fit = valued(fits["sersic+exp"], **values)
    (made,) = with_totals([fit])
    place, weight = points(made)
    place = place - (place * weight).sum(1, keepdims=True)
    # The ellipse of re_total and q_total, its angle being that of the moments inside.
    re, q = made.re_total[0], made.q_total[0]
    angle = 0.0
    for _ in range(40):
        axis = np.array([np.cos(angle), np.sin(angle)])
        along, across = axis @ place, np.array([-axis[1], axis[0]]) @ place
        inside = np.hypot(along, across / q) < re
        moments = (place[:, inside] * weight[inside]) @ place[:, inside].T
        angle = 0.5 * np.arctan2(2 * moments[0, 1], moments[0, 0] - moments[1, 1])
    assert weight[inside].sum() == pytest.approx(0.5, abs=2e-3)
    low, high = np.linalg.eigvalsh(moments)
    assert np.sqrt(low / high) == pytest.approx(q, abs=5e-3)


def test_two_halves_of_one_profile_are_that_profile(fits):
    same = {"re": 5.0, "n": 2.5, "q": 0.35, "pa": 62.0, "flux": 1e4}
    names = [component.name for component in fits["sersic+sersic"].target]
    fit = valued(
        fits["sersic+sersic"],
        **{f"{name}_{parameter}": value for name in names for parameter, value in same.items()},
    )
    (made,) = with_totals([fit])
    np.testing.assert_allclose([made.re_total[0], made.q_total[0]], [5.0, 0.35], rtol=1e-4)
    assert made.flux_total[0] == 2e4 and made.fraction == 0.5


def test_one_component_keeps_its_own_size_and_errors(fits):
    (made,) = with_totals([fits["sersic"]])
    for name in ("re", "q"):
        assert getattr(made, f"{name}_total")[0] == made[f"sersic.{name}"]
        assert getattr(made, f"{name}_total_err")[0] == made.error(f"sersic.{name}")


def test_errors_are_the_scatter_that_the_covariance_means(fits):
    fit = fits["sersic+exp"]
    (made,) = with_totals([fit])
    draws = np.random.default_rng(2).multivariate_normal(fit.values, 1e-2 * fit.cov, 200)
    drawn = with_totals([dataclasses.replace(fit, values=values) for values in draws])
    for name in ("re_total", "q_total", "flux_total"):
        scatter = 10 * np.std([getattr(one, name)[0] for one in drawn])
        assert getattr(made, f"{name}_err")[0] == pytest.approx(scatter, rel=0.2)
    scatter = 10 * np.std([one.fraction for one in drawn])
    assert made.fraction_err == pytest.approx(scatter, rel=0.2)
    # ... whichever covariance that is.
    (wider,) = with_totals([dataclasses.replace(fit, cov=4 * fit.cov)])
    assert wider.re_total_err[0] == pytest.approx(2 * made.re_total_err[0])


def test_a_point_source_counts_as_light_inside(fits):
    names = {"sersic_re": 6.0, "sersic_n": 1.0, "sersic_q": 0.8, "sersic_flux": 7e3}
    (made,) = with_totals([valued(fits["sersic+point"], **names, point_flux=3e3)])
    # Of the galaxy's own light 2 / 7 lie inside.
    b = special.gammaincinv(2.0, 0.5)
    radius = 6.0 * special.gammaincinv(2.0, 2 / 7) / b
    assert made.re_total[0] == pytest.approx(radius, rel=1e-3)
    assert made.q_total[0] == pytest.approx(0.8, rel=1e-3)
    (made,) = with_totals([valued(fits["sersic+point"], **names, point_flux=1e4)])
    assert np.isnan(made.re_total[0]) and np.isnan(made.q_total_err[0])
    assert made.flux_total[0] == 1.7e4


def test_what_has_no_ellipses_has_no_size_in_common(fits):
    (made,) = with_totals([fits["sersic+edge_on_disc"]])
    assert not len(made.re_total) and np.isfinite(made.flux_total[0])
