"""The operator: known answers, adjoint, sampling, bad input."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from priors import SIDE, observed, stamp_of

from autofit_ml.deconvolution.operator import grid_side, noise_power, observe, psf_transfer
from autofit_ml.deconvolution.target import TARGET_FWHM, sigma_of, target_psf
from autofit_ml.errors import InputError, SettingsError
from autofit_ml.images.psf import gaussian_psf, moffat_psf
from autofit_ml.images.stamp import PSF


def blob(side: int, sigma: float, x: float, y: float) -> np.ndarray:
    """A Gaussian of unit flux, sampled at pixel centres."""
    rows, columns = np.indices((side, side))
    r2 = (columns - x) ** 2 + (rows - y) ** 2
    return np.exp(-0.5 * r2 / sigma**2) / (2 * np.pi * sigma**2)


def gaussian_image(fwhm: float, side: int = 41, oversampling: int = 1) -> PSF:
    """A Gaussian PSF that contains its pixel, sampled and not integrated."""
    data = blob(side, sigma_of(fwhm) * oversampling, (side - 1) / 2, (side - 1) / 2)
    return PSF((data / data.sum()).astype(np.float32), oversampling=oversampling)


@pytest.mark.parametrize("oversampling", [1, 2])
def test_gaussians_come_out_as_gaussians(oversampling):
    """A sharp Gaussian galaxy through the operator is the analytic one, centred where it was."""
    n, fwhm, size = 48, 3.5, 2.0  # data pixels
    side = n * oversampling
    stamp = stamp_of(np.zeros((n, n)), psf=gaussian_image(fwhm))
    observation = observe([stamp], oversampling=oversampling, side=side)
    x, y = 22.3, 25.6
    own = oversampling * np.hypot(size, sigma_of(TARGET_FWHM) / oversampling)
    at = [oversampling * v + 0.5 * (oversampling - 1) for v in (x, y)]
    sharp = torch.from_numpy(blob(side, own, *at)).float()
    seen = observation.forward(1000 * sharp[None, None])[0, 0].numpy()
    expected = 1000 * blob(n, np.hypot(size, sigma_of(fwhm)), x, y)
    np.testing.assert_allclose(seen, expected, atol=2e-4 * expected.max())


def test_the_target_itself_changes_nothing():
    np.testing.assert_allclose(psf_transfer(target_psf(), 32, 1), 1.0, atol=1e-4)


@pytest.mark.parametrize("oversampling", [1, 2])
def test_adjoint(oversampling):
    """<A x, r> = <x, A^T r>."""
    generator = torch.Generator().manual_seed(0)
    stamp = stamp_of(np.zeros((24, 24)), psf=moffat_psf(3.0))
    observation = observe([stamp], oversampling=oversampling, side=64)
    x = torch.randn(1, 1, 64, 64, generator=generator)
    r = torch.randn(1, 1, 64 // oversampling, 64 // oversampling, generator=generator)
    left = float((observation.forward(x) * r).sum())
    right = float((x * observation.adjoint(r)).sum())
    assert left == pytest.approx(right, rel=1e-4)


@pytest.mark.parametrize("case", ["noise map", "2x"])
def test_conjugate_gradients_solve(case):
    """The residual of the linear system is small."""
    rng = np.random.default_rng(0)
    changes: dict = {"fwhm": 3.0}
    if case == "noise map":
        changes["sigma"] = rng.uniform(0.3, 3, (SIDE, SIDE)).astype(np.float32)
    else:
        changes["oversampling"] = 2
        changes["psf"] = gaussian_image(1.6, oversampling=2)  # folds
    truth = torch.from_numpy(500 * blob(SIDE, 2.0, 15.2, 16.1)).float()
    observation, _ = observed(truth, 1, **changes)
    x = torch.randn(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    sigma = torch.full((1, 1, 1, 1), 5.0)
    data = observation.data.expand(-1, 3, -1, -1)
    found = observation.solve(x, sigma, data)
    weight = observation.weight
    right = x / 25 + observation.adjoint(weight * data)
    left = found / 25 + observation.adjoint(weight * observation.forward(found))
    assert float((left - right).norm() / right.norm()) < 1e-3


def test_units_do_not_matter():
    """Images in units of 1e-10 give the same problem."""
    data = 50 * blob(32, 3.0, 15.5, 15.5) + 0.1
    one = observe([stamp_of(data, sigma=0.1)])
    other = observe([stamp_of(1e-10 * data, sigma=1e-11)])
    np.testing.assert_allclose(one.data, other.data, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(one.weight, other.weight, rtol=1e-4)


def test_the_grid_is_larger_than_the_stamp():
    """By the PSF's width and by what the target is off the middle; it is brought to the middle."""
    stamp = stamp_of(np.zeros((40, 40)), fwhm=5.0, x=24.0, y=19.0)
    side = grid_side([stamp], 1)
    assert side >= 40 + 10 + 8
    assert side % 8 == 0
    observation = observe([stamp])
    y0, x0 = observation.corner[0]
    assert abs(x0 + 24.0 - (side - 1) / 2) <= 1
    assert abs(y0 + 19.0 - (side - 1) / 2) <= 1
    assert int(observation.known.sum()) == 1600


BAD = {
    "unnormalised": (lambda s: s.replace(psf=PSF(2 * s.psf.data)), "sums to 2"),
    "shifted": (lambda s: s.replace(psf=PSF(np.roll(s.psf.data, 2, 1))), "off its array's centre"),
    "no noise": (lambda s: s.replace(sigma=0 * s.sigma), "noise is zero"),
    "NaN": (lambda s: s.replace(data=s.data * np.nan), "NaN"),
    "all masked": (lambda s: s.replace(mask=~s.mask), "every pixel is masked"),
    "too small": (lambda s: s.replace(psf=gaussian_psf(14.0)), "too small"),
    "too sharp": (lambda s: s.replace(psf=gaussian_psf(1.0)), "below the target's"),
    "NaN in the PSF": (lambda s: s.replace(psf=PSF(s.psf.data * np.nan)), "no finite image"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_stamps_are_refused_with_a_reason(what):
    change, message = BAD[what]
    with pytest.raises(InputError, match=message) as caught:
        observe([change(stamp_of(np.zeros((32, 32))))])
    assert caught.value.remedy


def test_bad_calls_are_refused():
    stamp = stamp_of(np.zeros((32, 32)))
    with pytest.raises(SettingsError, match="different shapes"):
        observe([stamp, stamp_of(np.zeros((24, 24)))])
    with pytest.raises(SettingsError, match="oversampling 3"):
        observe([stamp], oversampling=3)
    with pytest.raises(SettingsError, match="a grid of 20"):
        observe([stamp], side=20)
    with pytest.raises(InputError, match="at most 256"):
        observe([stamp_of(np.zeros((300, 300)))])


@pytest.mark.parametrize("oversampling", [1, 2])
def test_correlated_noise_against_dense_algebra(oversampling):
    """`solve` and `spectrum` with a correlation and a noise map."""
    side = 32
    g = side // oversampling
    correlation = np.outer([0.3, 1.0, 0.3], [0.2, 1.0, 0.2])
    rng = np.random.default_rng(0)
    sigma = rng.uniform(0.8, 1.3, (g, g)).astype(np.float32)
    stamp = stamp_of(rng.normal(size=(g, g)), fwhm=4.0, sigma=sigma, noise_correlation=correlation)
    observation = observe([stamp], oversampling=oversampling, side=side)
    power = noise_power(correlation, g).double()
    assert float(power.mean()) == pytest.approx(1) and float(power.min()) > 0.1
    unit = torch.eye(g * g, dtype=torch.float64).reshape(-1, g, g)
    root = torch.fft.ifft2(torch.fft.fft2(unit) * power).real.reshape(g * g, -1)  # C, symmetric
    scale = observation.weight[0, 0].double().rsqrt().flatten()
    covariance = scale[:, None] * root * scale
    every = torch.eye(side * side).reshape(1, -1, side, side)
    operator = observation.forward(every)[0].double().flatten(1).T  # (g g, side side)
    x = torch.from_numpy(rng.normal(size=(side, side))).float()[None, None]
    level = torch.full((1, 1, 1, 1), 1.7)
    found = observation.solve(x, level, observation.data)[0, 0]
    inverse = torch.linalg.inv(covariance)
    matrix = torch.eye(side * side, dtype=torch.float64) / 1.7**2 + operator.T @ inverse @ operator
    right = (
        x.double().flatten() / 1.7**2 + operator.T @ inverse @ observation.data.double().flatten()
    )
    exact = torch.linalg.solve(matrix, right).reshape(side, side)
    assert float((found - exact).abs().max()) < 2e-3 * float(exact.abs().max())


def test_wrong_correlations_are_refused():
    for wrong in (np.ones((3, 4)), np.full((3, 3), np.nan), np.ones((81, 81))):
        with pytest.raises(InputError, match="noise correlation"):
            observe([stamp_of(np.zeros((32, 32)), noise_correlation=wrong)])
