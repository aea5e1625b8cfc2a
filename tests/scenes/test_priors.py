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
    TruncatedNormal,
    Uniform,
    describe_prior,
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
def test_density_and_mass_agree_with_scipy(prior, truth):
    value = truth.ppf(np.linspace(0.01, 0.99, 41))
    density = prior.log_density(torch.as_tensor(value))
    assert np.allclose(density, truth.logpdf(value), rtol=1e-9, atol=1e-8)
    assert prior.support == truth.support()
    for low, high in [(value[3], value[30]), (-1e3, value[7]), (value[7], math.inf), (-9e3, -8e3)]:
        wanted = truth.cdf(high) - truth.cdf(low)
        assert prior.mass(low, high) == pytest.approx(wanted, abs=1e-9)


@pytest.mark.parametrize(("prior", "truth"), PRIORS)
def test_gradient_is_the_slope_and_finite_outside(prior, truth):
    value = torch.as_tensor(truth.ppf([0.2, 0.5, 0.8])).requires_grad_()
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


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Uniform(2, 1), "smaller limit first"),
        (lambda: Normal(0, 0), "positive number"),
        (lambda: Normal("a", 1), "finite number"),
        (lambda: LogNormal(-1, 1), "positive median"),
        (lambda: LogUniform(0, 1), "positive low"),
        (lambda: TruncatedNormal(0, 1, 20, 30), "move the mean"),
        (lambda: Uniform(0, math.inf), "finite number"),
    ],
)
def test_impossible_priors_say_what_to_do(make, message):
    with pytest.raises(SettingsError, match=message):
        make()


def test_description():
    assert describe_prior(LogNormal(3, 0.25)) == "log-normal(3, 0.25)"
