"""Priors: against scipy, their own integrals, and finite differences."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from autofit_ml.errors import SettingsError
from autofit_ml.scenes.priors import (
    LogNormal,
    LogUniform,
    Normal,
    Restricted,
    TruncatedNormal,
    Uniform,
    describe_prior,
    nearest_turn,
    restricted,
)

PRIORS = [
    (Uniform(2.0, 5.0), stats.uniform(2, 3)),
    (LogUniform(0.1, 100.0), stats.loguniform(0.1, 100)),
    (Normal(-1.0, 2.0), stats.norm(-1, 2)),
    (LogNormal(3.0, 0.4), stats.lognorm(0.4, scale=3)),
    (TruncatedNormal(1.0, 2.0, 0.0, 4.0), stats.truncnorm(-0.5, 1.5, 1, 2)),
    (
        TruncatedNormal(0.0, 1.0, 4.0, 6.0),
        stats.truncnorm(4.0, 6.0),
    ),  # all of it in the far wing
]


@pytest.mark.parametrize(("prior", "truth"), PRIORS)
def test_density_cumulative_and_inverse_agree_with_scipy(prior, truth):
    u = torch.linspace(0.01, 0.99, 41, dtype=torch.float64)
    value = prior.transform(u)
    assert np.allclose(value, truth.ppf(u.numpy()), rtol=1e-8)
    assert np.allclose(prior.log_density(value), truth.logpdf(value.numpy()), rtol=1e-9, atol=1e-8)
    assert np.allclose(prior.cumulative(value), u, atol=1e-9)
    assert math.isclose(prior.centre, truth.median(), rel_tol=1e-8)


@pytest.mark.parametrize("prior", [prior for prior, _ in PRIORS])
def test_density_integrates_to_one(prior):
    low, high = prior.support
    value = prior.transform(torch.tensor([1e-7, 1 - 1e-7], dtype=torch.float64))
    grid = torch.linspace(
        max(low, float(value[0])), min(high, float(value[1])), 400_001, dtype=torch.float64
    )
    total = torch.trapezoid(prior.log_density(grid).exp(), grid)
    assert math.isclose(float(total), 1.0, abs_tol=2e-6)


@pytest.mark.parametrize("prior", [prior for prior, _ in PRIORS])
def test_gradient_is_the_slope_and_finite_outside(prior):
    value = prior.transform(torch.tensor([0.2, 0.5, 0.8], dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(prior.log_density, (value,))
    outside = torch.tensor([-50.0, 1e4], dtype=torch.float64, requires_grad=True)
    density = prior.log_density(outside)
    (slope,) = torch.autograd.grad(density.sum(), outside)
    assert torch.isfinite(slope).all()
    if prior.support != (-math.inf, math.inf):
        assert density[0] == -math.inf


def test_gaussian_form_for_least_squares():
    assert Normal(2, 1).gaussian == (2.0, 1.0)
    assert not Normal(2, 1).log
    assert LogNormal(3, 0.4).gaussian == (math.log(3), 0.4)
    assert LogNormal(3, 0.4).log
    assert Uniform(0, 1).gaussian is None


def test_restricted_to_bounds():
    assert restricted(Normal(0, 1), -math.inf, math.inf) == Normal(0, 1)
    assert restricted(Uniform(0, 4), 1, 9) == Uniform(1, 4)
    assert restricted(LogUniform(1, 10), 0.5, 5) == LogUniform(1, 5)
    assert restricted(TruncatedNormal(0, 1, -3, 3), 0, 9) == TruncatedNormal(0, 1, 0, 3)
    half = restricted(Normal(0, 1), 0, math.inf)
    assert isinstance(half, Restricted)
    value = torch.tensor([0.5], dtype=torch.float64)
    assert math.isclose(float(half.log_density(value)), stats.halfnorm.logpdf(0.5), rel_tol=1e-12)
    assert float(half.transform(torch.tensor(0.5, dtype=torch.float64))) == pytest.approx(
        stats.halfnorm.median()
    )
    assert half.log_density(-value) == -math.inf
    with pytest.raises(SettingsError, match="outside the bounds"):
        restricted(Normal(0, 1), 10, 20)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Uniform(2, 1), "smaller limit first"),
        (lambda: Normal(0, 0), "positive number"),
        (lambda: Normal("a", 1), "finite number"),
        (lambda: LogNormal(-1, 1), "positive median"),
        (lambda: LogUniform(0, 1), "positive lower limit"),
        (lambda: TruncatedNormal(0, 1, 20, 30), "move the mean"),
        (lambda: Uniform(0, math.inf), "finite number"),
    ],
)
def test_impossible_priors_say_what_to_do(make, message):
    with pytest.raises(SettingsError, match=message):
        make()


def test_angles_are_compared_the_short_way():
    prior = Normal(2.0, 5.0)
    moved = nearest_turn(prior, torch.tensor([179.0, 2.0, 91.0], dtype=torch.float64))
    assert torch.allclose(moved, torch.tensor([-1.0, 2.0, 91.0], dtype=torch.float64))


def test_description():
    assert describe_prior(LogNormal(3, 0.25)) == "log-normal(3, 0.25)"
    assert describe_prior(restricted(Normal(1, 1), 0, 5)) == "normal(1, 1) in [0, 5]"
