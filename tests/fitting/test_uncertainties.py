"""Covariances against Monte Carlo and analytic cases."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from autofit_ml.fitting.uncertainties import (
    axis_ratio_error,
    correlated_products,
    laplace,
    position_angle_error,
)
from autofit_ml.measure.correlation import measure_correlation

F64 = torch.float64


def test_laplace_inverts_and_freezes():
    generator = torch.Generator().manual_seed(1)
    root = torch.randn(3, 20, 4, generator=generator, dtype=F64)
    matrix = root.transpose(1, 2) @ root
    frozen = torch.zeros(3, 4, dtype=torch.bool)
    covariance, good = laplace(matrix, frozen)
    assert good.all()
    assert torch.allclose(covariance @ matrix, torch.eye(4, dtype=F64).expand(3, 4, 4), atol=1e-9)
    frozen[:, 2] = True
    covariance, _ = laplace(matrix, frozen)
    assert (covariance[:, 2] == 0).all()
    keep = torch.tensor([0, 1, 3])
    small = torch.linalg.inv(matrix[:, keep][:, :, keep])
    assert torch.allclose(covariance[:, keep][:, :, keep], small, atol=1e-9)


def test_a_singular_matrix_is_reported():
    matrix = torch.ones(1, 2, 2, dtype=F64)
    _, good = laplace(matrix, torch.zeros(1, 2, dtype=torch.bool))
    assert not good[0]


def test_correlation_of_smoothed_noise_is_measured():
    rng = np.random.default_rng(2)
    white = rng.normal(size=(4, 128, 128))
    kernel = np.array([[0.05, 0.2, 0.05], [0.2, 1.0, 0.2], [0.05, 0.2, 0.05]])
    smooth = np.stack([ndimage.convolve(w, kernel, mode="wrap") for w in white])
    exact = ndimage.convolve(kernel, kernel, mode="constant")  # not padded: centre is right
    full = np.array(
        [
            [
                sum(
                    kernel[i, j] * kernel[i + dy, j + dx]
                    for i in range(3)
                    for j in range(3)
                    if 0 <= i + dy < 3 and 0 <= j + dx < 3
                )
                for dx in range(-3, 4)
            ]
            for dy in range(-3, 4)
        ]
    )
    del exact
    full /= full[3, 3]
    images = torch.as_tensor(smooth / smooth.std())
    correlation, adjacent, error = measure_correlation(
        images, torch.ones_like(images, dtype=torch.bool), 3
    )
    # 16 000 pixels: statistical error about 0.01 a lag; clipping at 4 sigma costs less.
    assert np.abs(correlation.numpy() - full).max() < 0.05
    assert adjacent.numpy() == pytest.approx(full[3, 4], abs=0.03)
    correlation, adjacent, error = measure_correlation(
        torch.as_tensor(white), torch.ones_like(images, dtype=torch.bool), 3
    )
    assert (adjacent.abs() < 4 * error).all()


def test_sandwich_against_monte_carlo():
    # A linear fit to correlated noise: the sandwich must give the scatter that is observed.
    rng = np.random.default_rng(3)
    y, x = np.mgrid[:40, :40] - 19.5
    shapes = np.stack([np.exp(-0.5 * (x**2 + y**2) / s**2) for s in (2.0, 5.0)] + [np.ones_like(x)])
    design = shapes.reshape(3, -1)
    kernel = np.array([[0.1, 0.3, 0.1], [0.3, 1.0, 0.3], [0.1, 0.3, 0.1]])
    norm = np.sqrt((kernel**2).sum())
    noise = np.stack(
        [
            ndimage.convolve(rng.normal(size=(40, 40)), kernel, mode="wrap") / norm
            for _ in range(1500)
        ]
    )
    solutions = noise.reshape(1500, -1) @ np.linalg.pinv(design)
    observed = solutions.std(0)
    covariance = torch.linalg.inv(torch.as_tensor(design @ design.T))[None]
    weighted = torch.as_tensor(shapes)[None]
    images = torch.as_tensor(noise[:64])
    correlation, _, _ = measure_correlation(images, torch.ones_like(images, dtype=torch.bool), 3)
    middle = correlated_products(weighted, correlation.mean(0, keepdim=True))
    widened = covariance @ middle @ covariance
    predicted = widened[0].diagonal().sqrt().numpy()
    plain = covariance[0].diagonal().sqrt().numpy()
    # Scatter of a standard deviation from 1500 draws: 2 %; edges of the wrapped noise: a little.
    assert predicted == pytest.approx(observed, rel=0.08)
    assert (plain < 0.75 * observed).all()


def ellipticity(eta, sigma):
    theta = torch.zeros(1, 8, dtype=F64)
    theta[0, 5] = eta
    covariance = torch.eye(8, dtype=F64)[None] * sigma**2
    return theta, covariance


def test_position_angle_error_limits():
    clear = position_angle_error(*ellipticity(1.0, 0.01)).item()
    assert clear == pytest.approx(np.rad2deg(0.01 / 2), rel=1e-3)
    none = position_angle_error(*ellipticity(0.0, 0.3)).item()  # no direction: uniform
    assert none == pytest.approx(0.6827 * 90, rel=1e-3)


def test_position_angle_error_covers():
    # Truth with a prior flat in q: 68 % of the true directions lie within the error.
    rng = np.random.default_rng(4)
    n, sigma = 4000, 0.4
    length, angle = -np.log(rng.uniform(0.05, 1, n)), rng.uniform(0, 2 * np.pi, n)
    seen = np.stack([length * np.cos(angle), length * np.sin(angle)]) + rng.normal(0, sigma, (2, n))
    theta = torch.zeros(n, 8, dtype=F64)
    theta[:, 5:7] = torch.as_tensor(seen.T)
    error = position_angle_error(theta, torch.eye(8, dtype=F64).expand(n, 8, 8) * sigma**2).numpy()
    off = np.rad2deg(np.angle(np.exp(1j * (np.arctan2(seen[1], seen[0]) - angle)))) / 2
    # 4000 draws: 0.7 %.
    assert np.mean(np.abs(off) < error) == pytest.approx(0.683, abs=0.02)


def test_axis_ratio_error_is_linear_when_small():
    theta, covariance = ellipticity(0.7, 0.01)
    assert axis_ratio_error(theta, covariance).item() == pytest.approx(
        np.exp(-0.7) * 0.01, rel=1e-3
    )
