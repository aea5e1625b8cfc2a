"""Draws of the Laplace approximation: the Gaussian, cut off at the bounds."""

import math

import pytest
import torch
from posterior_targets import equal_correlation, gaussian, open_box
from scipy import stats

from autofit_ml.errors import SettingsError
from autofit_ml.posterior import HMCSettings, LaplaceSettings, sample_hmc, sample_laplace


def test_gaussian():
    b, d, n = 3, 8, 20000
    scale = torch.tensor([1e-5, 1.0, 1e6], dtype=torch.float64)[:, None].expand(b, d)
    covariance = equal_correlation(d, 0.95) * scale[:, :, None] * scale[:, None, :]
    mean = 10 * scale
    samples = sample_laplace(mean, covariance, *open_box(b, d), LaplaceSettings(draws=n))
    assert samples.draws.shape == (b, 1, n, d)
    draws = (samples.draws[:, 0] - mean[:, None]) / scale[:, None]
    assert (draws.mean(1).abs() < 4.5 / math.sqrt(n)).all()
    error = 4.5 * math.sqrt(2 / n)
    assert ((draws.mT @ draws / n - equal_correlation(d, 0.95)).abs() < error).all()


@pytest.mark.parametrize(("low", "high"), [(-0.5, 0.3), (1.0, math.inf), (5.0, 6.0)])
def test_bounds(low, high):
    """Down to bounds that one draw in three million meets."""
    n = 4000
    lower, upper = open_box(1, 3)
    lower[0, 1], upper[0, 1] = low, high
    covariance = equal_correlation(3, 0.7)[None]
    centre = torch.zeros(1, 3, dtype=torch.float64).clamp(min=0)
    if low > 0:
        # The centre of a fit lies within its bounds: on the nearer one.
        centre[0, 1] = low
        lower[0, 1], upper[0, 1] = low, high
    samples = sample_laplace(centre, covariance, lower, upper, LaplaceSettings(draws=n))
    x = samples.draws[0, 0]
    expected = stats.truncnorm(low - float(centre[0, 1]), high - float(centre[0, 1]))
    assert stats.kstest((x[:, 1] - centre[0, 1]).numpy(), expected.cdf).pvalue > 1e-3
    # The others follow by the regression on it.
    rest = x[:, 0] - 0.7 * (x[:, 1] - centre[0, 1])
    assert abs(rest.mean()) < 4.5 * math.sqrt(0.51 / n)
    assert abs(rest.var() / 0.51 - 1) < 4.5 * math.sqrt(2 / n)


def test_a_narrow_box_far_out():
    """Ten narrow intervals at once: hardly any draw falls inside, and all must come out there."""
    d = 10
    lower, upper = torch.full((1, d), -0.05), torch.full((1, d), 0.1)
    samples = sample_laplace(
        torch.zeros(1, d, dtype=torch.float64),
        torch.eye(d, dtype=torch.float64)[None],
        lower.double(),
        upper.double(),
        LaplaceSettings(draws=800),
    )
    x = samples.draws[0, 0]
    for k in range(d):
        assert stats.kstest(x[:, k].numpy(), stats.truncnorm(-0.05, 0.1).cdf).pvalue > 1e-3


def test_agrees_with_hmc():
    d = 5
    covariance = equal_correlation(d, 0.8)[None]
    lower, upper = open_box(1, d)
    lower[0, 0], upper[0, 2] = -0.3, 0.8
    mean = torch.zeros(1, d, dtype=torch.float64)
    laplace = sample_laplace(mean, covariance, lower, upper, LaplaceSettings(draws=20000))
    hmc = sample_hmc(
        gaussian(mean, covariance),
        mean,
        covariance,
        lower,
        upper,
        HMCSettings(draws=400, warmup=100),
    )
    a, b = laplace.draws[0].flatten(0, 1), hmc.draws[0].flatten(0, 1)
    error = a.std(0) * (1 / 20000 + 1 / hmc.ess_bulk[0]).sqrt()
    assert ((a.mean(0) - b.mean(0)).abs() < 4.5 * error).all()
    assert ((a.std(0) / b.std(0) - 1).abs() < 4.5 / hmc.ess_tail[0].sqrt()).all()


def test_fixed_and_broken():
    lower, upper = open_box(4, 2)
    lower[0, 0] = upper[0, 0] = 1.0
    theta = torch.ones(4, 2, dtype=torch.float64)
    covariance = torch.eye(2, dtype=torch.float64).expand(4, 2, 2).clone()
    covariance[1, 1] = covariance[1, :, 1] = 0.0  # stopped on its bound
    covariance[2, 0, 0] = torch.nan
    theta[3, 0] = torch.inf
    samples = sample_laplace(theta, covariance, lower, upper, LaplaceSettings(draws=50))
    assert samples.ok.tolist() == [True, True, False, False]
    assert (samples.draws[0, ..., 0] == 1).all()
    assert (samples.draws[1, ..., 1] == 1).all()
    assert samples.draws[0, ..., 1].std() > 0.5
    assert torch.isnan(samples.rhat[0, 0])
    assert torch.isnan(samples.draws[2:]).all()


def test_alone_or_in_a_batch():
    lower, upper = open_box(3, 2)
    theta = torch.zeros(3, 2, dtype=torch.float64)
    covariance = equal_correlation(2, 0.5).expand(3, 2, 2)
    keys = torch.tensor([4, 9, 2])
    together = sample_laplace(theta, covariance, lower, upper, keys=keys)
    alone = sample_laplace(theta[1:2], covariance[1:2], lower[1:2], upper[1:2], keys=keys[1:2])
    assert torch.equal(alone.draws[0], together.draws[1])


def test_wrong_use():
    with pytest.raises(SettingsError):
        LaplaceSettings(draws=0)
