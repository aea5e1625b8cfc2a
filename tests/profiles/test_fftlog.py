"""Hankel transforms on logarithmic grids: scipy, analytic transforms, sharp edges."""

import numpy as np
import pytest
import torch
from scipy import special
from scipy.fft import fht, fhtoffset
from scipy.interpolate import CubicSpline

from autofit_ml.profiles.fftlog import smooth_grid, truncated_grid


def transform(grid, brightness, order=0, log_scale=0.0):
    """H_m on the grid of kappa."""
    r = np.exp(grid.log_r)
    a = torch.as_tensor(r**2 * brightness(r))[None]
    scale = torch.tensor([log_scale], dtype=torch.float64)
    return grid.transform(grid.spectrum(a), scale, (order,))[0].numpy()


def kappa(grid):
    return np.exp(grid.y0 + grid.step * np.arange(grid.n_kappa + 1))


@pytest.mark.parametrize("order", [0, 1, 2, 5])
def test_agrees_with_scipy(order):
    grid = smooth_grid()

    def brightness(r):
        return r**order * np.exp(-r) * (1 + r) ** -1.5

    ours = transform(grid, brightness, order)
    log_r = np.linspace(-22, 20, 8192, endpoint=False)
    dln = log_r[1] - log_r[0]
    offset = fhtoffset(dln, mu=order, bias=-0.3)
    k = np.exp(offset - log_r[::-1])
    theirs = fht(np.exp(log_r) * brightness(np.exp(log_r)), dln, mu=order, offset=offset, bias=-0.3)
    expected = CubicSpline(np.log(k), theirs / k)(np.log(kappa(grid)))
    # Where kappa nears the end of the grid r^2 I(r) has less than a point for each oscillation.
    assert np.abs(ours - expected)[kappa(grid) < 1e4].max() < 3e-7 * np.abs(expected).max()


@pytest.mark.parametrize("order", [0, 1, 4])
def test_gaussians_of_any_order_are_analytic(order):
    # int r^m exp(-r^2 / 2) J_m(k r) r dr = k^m exp(-k^2 / 2)
    grid = smooth_grid()
    ours = transform(grid, lambda r: r**order * np.exp(-(r**2) / 2), order)
    k = kappa(grid)
    assert np.abs(ours - k**order * np.exp(-(k**2) / 2)).max() < 1e-9


def test_a_scale_shifts_the_result():
    grid = smooth_grid()
    ours = transform(grid, lambda r: np.exp(-r), log_scale=0.37)
    k = kappa(grid) / np.exp(0.37)
    assert np.abs(ours - (1 + k**2) ** -1.5).max() < 1e-8


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0, 3.5])
@pytest.mark.parametrize("order", [0, 2])
def test_sharp_ends_are_integrated_exactly(alpha, order):
    # Sonine: int_0^1 r^m (1 - r^2)^alpha J_m(k r) r dr = 2^alpha Gamma(alpha + 1)
    #         J_{m + alpha + 1}(k) / k^(alpha + 1)
    grid = truncated_grid()
    ours = transform(grid, lambda r: r**order * (1 - r**2) ** alpha, order)
    k = kappa(grid)
    expected = 2**alpha * special.gamma(alpha + 1) * special.jv(order + alpha + 1, k)
    expected = expected / k ** (alpha + 1)
    # Beyond k = 200 the grid's step blurs the edge by 1/200 of the radius.
    assert np.abs(ours - expected)[k < 150].max() < 1e-7


@pytest.mark.parametrize("slope", [2.3, 3.0])
def test_tails_beyond_the_grid_count(slope):
    grid = smooth_grid()
    r = np.exp(grid.log_r)
    a = torch.as_tensor(r**2 * (1 + r**2) ** (-slope / 2))[None]
    assert grid.integral(a).item() == pytest.approx(1 / (slope - 2), rel=1e-5)


def test_the_derivative_of_the_integral_knows_of_the_tails():
    grid = smooth_grid()
    r = np.exp(grid.log_r)

    def a(slope):
        return torch.as_tensor(r**2 * (1 + r**2) ** (-slope / 2))[None]

    step = 1e-5
    da = (a(2.5 + step) - a(2.5 - step)) / (2 * step)
    ours = grid.integral_derivative(a(2.5), da).item()
    assert ours == pytest.approx(-1 / 0.5**2, rel=1e-4)
