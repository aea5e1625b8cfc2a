"""The fit space: round trips and derivatives."""

import numpy as np
import pytest
import torch

from autofit_ml.errors import SettingsError
from autofit_ml.scenes import catalogue_jacobian, sersic, to_catalogue, to_fit_space


def random_values(n=200, seed=1):
    rng = np.random.default_rng(seed)
    low = [0, 0, 1e-9, 0.3, 0.3, 0.06, 0, -5]
    high = [64, 64, 1e6, 30, 8, 0.99, 179.9, 900]
    return torch.as_tensor(rng.uniform(low, high, (n, 8)))


def test_round_trip():
    values = random_values()
    assert torch.allclose(to_catalogue(to_fit_space(values)), values, rtol=1e-10, atol=1e-9)


def test_angle_stays_in_range_and_wraps():
    values = random_values(4)
    values[:, 6] = torch.tensor([0.0, 90.0, 179.999999, 1e-9])
    back = to_catalogue(to_fit_space(values))[:, 6]
    assert ((back >= 0) & (back < 180)).all()
    difference = (back - values[:, 6] + 90) % 180 - 90
    assert difference.abs().max() < 1e-6


def test_round_galaxies_are_not_singular():
    values = random_values(3)
    values[:, 5] = 1.0
    theta = to_fit_space(values)
    assert torch.isfinite(theta).all()
    assert torch.isfinite(catalogue_jacobian(theta)).all()
    assert torch.allclose(to_catalogue(theta)[:, 3], values[:, 3])


def test_jacobian_against_finite_differences():
    theta = to_fit_space(random_values(50))
    jacobian = catalogue_jacobian(theta)
    for j in range(8):
        step = torch.zeros(8, dtype=torch.float64)
        step[j] = 1e-6
        difference = to_catalogue(theta + step) - to_catalogue(theta - step)
        difference[:, 6] = (difference[:, 6] + 90) % 180 - 90
        numeric = difference / 2e-6
        scale = numeric.abs().amax(0).clamp_min(1e-6)
        assert ((jacobian[:, :, j] - numeric).abs() / scale).max() < 1e-6


def test_scene_says_what_is_wrong():
    with pytest.raises(SettingsError, match="free"):
        sersic(sky="maybe")
    assert sersic(sky="fixed").fixed_sky == 0.0
    assert sersic(sky=2.5).fixed_sky == 2.5
    assert sersic().fixed_sky is None
    assert sersic(n=(0.5, 6.0)).bounds.n == (0.5, 6.0)
