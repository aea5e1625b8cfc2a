"""Hamiltonian Monte Carlo against densities with known moments."""

import math

import numpy as np
import pytest
import torch
from posterior_targets import (
    INF,
    banana,
    by_autograd,
    equal_correlation,
    gaussian,
    open_box,
)
from scipy import integrate, stats

from autofit_ml.errors import SettingsError
from autofit_ml.posterior import HMCSettings, sample_hmc


def close(value, expected, error, sigmas=4.5):
    """Within Monte Carlo error; 4.5 sigma over hundreds of comparisons."""
    assert (torch.as_tensor(value - expected).abs() < sigmas * error).all(), (value, expected)


def moments_agree(samples, mean, covariance):
    """Means and variances of all objects, with the errors that the sizes claim."""
    draws = samples.draws.flatten(1, 2)
    sd = covariance.diagonal(dim1=1, dim2=2).sqrt()
    close(draws.mean(1), mean, sd / samples.ess_bulk.sqrt())
    # Sizes for the variance are smaller than for the mean where chains are antithetic.
    size = torch.minimum(samples.ess_bulk, samples.ess_tail)
    close(draws.var(1) / sd**2, torch.ones_like(sd), (2 / size).sqrt())


def test_correlated_gaussian():
    b, d = 6, 8
    correlation = equal_correlation(d, 0.95)
    scale = torch.logspace(-6, 6, b, dtype=torch.float64)[:, None]
    scale = scale * torch.logspace(-1, 1, d, dtype=torch.float64)
    covariance = correlation * scale[:, :, None] * scale[:, None, :]
    mean = 100 * scale
    samples = sample_hmc(gaussian(mean, covariance), mean, covariance, *open_box(b, d))
    assert samples.ok.all()
    assert (samples.rhat < 1.01).all()
    assert (samples.accept > 0.99).all()
    assert (samples.divergences == 0).all()
    # One gradient a draw, and the warm-up.
    assert (samples.n_gradients <= 4 * (1000 + 250) * 1.1).all()
    assert (samples.ess_bulk > 2500).all()
    assert (samples.ess_tail > 2000).all()
    moments_agree(samples, mean, covariance)
    # All covariances, in units of the standard deviations.
    draws = (samples.draws.flatten(1, 2) - mean[:, None]) / scale[:, None]
    close(draws.mT @ draws / 4000, correlation, math.sqrt(2 / 2000))


def test_wrong_laplace_approximation():
    """Centre off by three sigma, errors wrong by factors of ten: the warm-up repairs it."""
    b, d = 3, 8
    covariance = equal_correlation(d, 0.5).expand(b, d, d)
    factor = torch.tensor([0.1, 10.0, 1.0], dtype=torch.float64)
    mean = torch.zeros(b, d, dtype=torch.float64)
    start = mean + torch.tensor([0.0, 0.0, 3.0], dtype=torch.float64)[:, None]
    samples = sample_hmc(
        gaussian(mean, covariance),
        start,
        torch.eye(d, dtype=torch.float64) * factor[:, None, None] ** 2,
        *open_box(b, d),
    )
    assert (samples.rhat < 1.01).all()
    assert (samples.accept > 0.95).all()
    moments_agree(samples, mean, covariance)


def test_hard_bounds():
    """A Gaussian cut by a box, with the maximum inside, on a wall and outside; and nothing but
    the box: moments from quadrature."""
    d = 3
    lower = torch.tensor(
        [[-0.5, -INF, -INF], [0.0, -1.0, -INF], [0.7, -0.4, -INF], [0.0, 2.0, -1.0]]
    )
    upper = torch.tensor([[0.3, INF, INF], [INF, 0.5, INF], [INF, 0.2, INF], [1.0, 5.0, 1.0]])
    lower, upper = lower.double(), upper.double()
    covariance = equal_correlation(d, 0.8).expand(4, d, d)
    normal = gaussian(torch.zeros(4, d, dtype=torch.float64), covariance)

    def density(index, theta):
        assert (theta >= lower[index]).all()
        assert (theta <= upper[index]).all()
        value, gradient = normal(index, theta)
        flat = index == 3
        return torch.where(flat, 0.0, value), torch.where(flat[:, None], 0.0, gradient)

    start = torch.maximum(torch.minimum(torch.zeros(4, d, dtype=torch.float64), upper), lower)
    samples = sample_hmc(density, start, covariance, lower, upper)
    assert (samples.rhat < 1.01).all()
    assert (samples.accept[:3] > 0.99).all()  # walls cost nothing
    draws = samples.draws.flatten(1, 2)
    size = torch.minimum(samples.ess_bulk, samples.ess_tail)
    plane = stats.multivariate_normal([0, 0], [[1, 0.8], [0.8, 1]])
    for i in range(3):
        box = [
            max(float(lower[i, 1]), -8), min(float(upper[i, 1]), 8),
            max(float(lower[i, 0]), -8), min(float(upper[i, 0]), 8),
        ]  # fmt: skip
        # x2 given the others has the mean 0.8/1.8 (x0 + x1) and the variance 1 - 2 * 0.8^2 / 1.8.
        y, x = np.meshgrid(np.linspace(*box[:2], 801), np.linspace(*box[2:], 801), indexing="ij")
        weight = plane.pdf(np.stack([x, y], axis=-1))
        given = 0.8 / 1.8 * (x + y)

        def mean(values, weight=weight, x=x, y=y):
            return integrate.simpson(
                integrate.simpson(weight * values, x=x[0]), x=y[:, 0]
            ) / integrate.simpson(integrate.simpson(weight, x=x[0]), x=y[:, 0])

        first = torch.tensor([mean(x), mean(y), mean(given)])
        second = torch.tensor([mean(x**2), mean(y**2), mean(given**2) + 1 - 1.28 / 1.8])
        sd = (second - first**2).sqrt()
        close(draws[i].mean(0), first, sd / size[i].sqrt())
        close(draws[i].var(0) / sd**2, torch.ones(d), (3 / size[i]).sqrt())
    for k in range(d):
        u = (draws[3, :, k] - lower[3, k]) / (upper[3, k] - lower[3, k])
        # Thinned to independence; uniform.
        step = math.ceil(4000 / float(size[3, k]))
        assert stats.kstest(u[::step].numpy(), "uniform").pvalue > 1e-3


def test_banana():
    bend, width, d = 0.35, 0.7, 8
    theta = torch.zeros(4, d, dtype=torch.float64)
    covariance = torch.eye(d, dtype=torch.float64).expand(4, d, d).clone()
    covariance[:, 1, 1] = width**2
    samples = sample_hmc(banana(bend, width), theta, covariance, *open_box(4, d))
    assert (samples.rhat < 1.015).all()
    draws, size = samples.draws.flatten(1, 2), torch.minimum(samples.ess_bulk, samples.ess_tail)
    sd = math.sqrt(width**2 + 2 * bend**2)
    close(draws[..., 1].mean(1), 0.0, sd / size[:, 1].sqrt())
    # Fourth moment of x1: the variance of its square.
    close(draws[..., 1].square().mean(1) / sd**2, 1.0, (4 / size[:, 1]).sqrt())
    close(draws[..., 0].square().mean(1), 1.0, (2 / size[:, 0]).sqrt())
    # E[x1 x0^2] = 2 bend: the bend itself.
    product = draws[..., 1] * draws[..., 0] ** 2
    close(product.mean(1), 2 * bend, product.std(1) / size.amin(1).sqrt())


def test_second_proposals_do_not_bias():
    """Steps far too long, so that most first proposals fail: exp(-x^4), E[x^2] known."""
    density = by_autograd(lambda index, theta: -theta.pow(4).sum(1))
    theta = torch.full((4, 2), 0.3, dtype=torch.float64)
    covariance = torch.eye(2, dtype=torch.float64).expand(4, 2, 2)
    settings = HMCSettings(target_accept=0.15, draws=2000, rounds=1, retry=3)
    samples = sample_hmc(density, theta, covariance, *open_box(4, 2), settings)
    few = sample_hmc(
        density,
        theta,
        covariance,
        *open_box(4, 2),
        HMCSettings(target_accept=0.15, draws=50, rounds=1, retry=0),
    )
    assert samples.accept.min() > few.accept.max()
    expected = math.gamma(0.75) / math.gamma(0.25)
    variance = 0.25 - expected**2  # E[x^4] = 1/4
    size = torch.minimum(samples.ess_bulk, samples.ess_tail)
    x2 = samples.draws.flatten(1, 2).square().mean(1)
    close(x2, expected, (variance / size).sqrt())


def test_fixed_parameters():
    b, d = 2, 5
    mean = torch.zeros(b, d, dtype=torch.float64)
    covariance = equal_correlation(d, 0.6).expand(b, d, d)
    lower, upper = open_box(b, d)
    lower[0, 1] = upper[0, 1] = 0.5
    lower[1], upper[1] = 0.25, 0.25  # everything
    given = covariance.clone()
    given[0, 1] = given[0, :, 1] = 0.0
    samples = sample_hmc(gaussian(mean, covariance), mean, given, lower, upper)
    assert samples.ok.all()
    assert (samples.draws[0, ..., 1] == 0.5).all()
    assert (samples.draws[1] == 0.25).all()
    assert torch.isnan(samples.rhat[0]).tolist() == [False, True, False, False, False]
    assert torch.isnan(samples.rhat[1]).all()
    # The others have the conditional Gaussian: mean 0.6 * 0.5, variance 1 - 0.36.
    draws = samples.draws[0, ..., [0, 2, 3, 4]].flatten(0, 1)
    size = samples.ess_bulk[0, [0, 2, 3, 4]]
    close(draws.mean(0), 0.3, 0.8 / size.sqrt())
    close(draws.var(0) / 0.64, 1.0, (2 / samples.ess_tail[0, [0, 2, 3, 4]]).sqrt())


def quick(**more):
    return HMCSettings(draws=60, warmup=40, rounds=1, **more)


def test_broken_objects_do_not_stop_the_others():
    b, d = 6, 3
    mean = torch.zeros(b, d, dtype=torch.float64)
    covariance = torch.eye(d, dtype=torch.float64).expand(b, d, d).clone()
    normal = gaussian(mean, covariance.clone())

    def density(index, theta):
        value, gradient = normal(index, theta)
        value = torch.where(index == 1, torch.nan, value)
        gradient = torch.where((index == 2)[:, None], torch.inf, gradient)
        # Half of the space is not allowed.
        value = torch.where((index == 3) & (theta[:, 0] > 0.1), -torch.inf, value)
        return value, gradient

    covariance[4, 0, 0] = torch.nan
    mean[5, 1] = torch.nan
    samples = sample_hmc(density, mean, covariance, *open_box(b, d), quick())
    assert samples.ok.tolist() == [True, False, False, True, False, False]
    assert torch.isnan(samples.draws[[1, 2, 4, 5]]).all()
    assert (samples.draws[3, ..., 0] <= 0.1).all()
    assert samples.divergences[3] > 0
    # A negative variance, a singular covariance and one that is not positive are repaired.
    odd = torch.eye(d, dtype=torch.float64).expand(3, d, d).clone()
    odd[0, 0, 0], odd[1], odd[2, 0, 1] = -1.0, 1.0, 5.0
    good = sample_hmc(normal, mean[:3], odd, *open_box(3, d), quick())
    assert good.ok.all()
    assert torch.isfinite(good.draws).all()


def test_alone_or_in_a_batch():
    b, d = 5, 4
    generator = torch.Generator().manual_seed(4)
    mean = torch.randn(b, d, generator=generator, dtype=torch.float64)
    covariance = equal_correlation(d, 0.7).expand(b, d, d)
    lower, upper = open_box(b, d)
    lower[:, 0] = mean[:, 0] - 0.5

    def density(index, theta):
        # Not Gaussian, so that objects take different numbers of steps.
        offset = theta - mean[index]
        return (
            -(offset**2 + offset**4 / 4 * index[:, None]).sum(1),
            -(2 * offset + offset**3 * index[:, None]),
        )

    together = sample_hmc(density, mean, covariance, lower, upper, quick(seed=3))
    again = sample_hmc(density, mean, covariance, lower, upper, quick(seed=3))
    assert torch.equal(together.draws, again.draws)
    other = sample_hmc(density, mean, covariance, lower, upper, quick(seed=4))
    assert not (together.draws == other.draws).any()
    for i in range(b):
        some = slice(i, i + 1)
        alone = sample_hmc(
            lambda index, theta, i=i: density(index + i, theta),
            mean[some], covariance[some], lower[some], upper[some], quick(seed=3),
            keys=torch.tensor([i]),
        )  # fmt: skip
        assert torch.equal(alone.draws[0], together.draws[i])
        assert alone.n_gradients[0] == together.n_gradients[i]


def test_objects_that_disagree_are_drawn_again():
    """Two peaks far apart next to a Gaussian: only the former costs more."""

    def log_density(index, theta):
        far = torch.logaddexp(
            -0.5 * (theta - 4).square().sum(1), -0.5 * (theta + 4).square().sum(1)
        )
        return torch.where(index == 0, far, -0.5 * theta.square().sum(1))

    theta = torch.zeros(2, 2, dtype=torch.float64)
    covariance = torch.eye(2, dtype=torch.float64).expand(2, 2, 2) * 9
    settings = HMCSettings(draws=200, warmup=60, rounds=2)
    samples = sample_hmc(by_autograd(log_density), theta, covariance, *open_box(2, 2), settings)
    assert samples.n_gradients[0] > 2.5 * samples.n_gradients[1]
    assert samples.rhat[1].max() < 1.02
    assert samples.rhat[0].max() > 1.01


def test_wrong_use():
    eye = torch.eye(2, dtype=torch.float64)[None]
    zeros = torch.zeros(1, 2, dtype=torch.float64)
    with pytest.raises(SettingsError, match="covariance"):
        sample_hmc(lambda i, t: (t[:, 0], t), zeros, eye[:, :1], zeros - 1, zeros + 1)
    for wrong in ({"chains": 0}, {"draws": 2}, {"target_accept": 1.0}, {"trajectory": 7.0}):
        with pytest.raises(SettingsError):
            HMCSettings(**wrong)
