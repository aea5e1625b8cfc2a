"""The fit space: round trips and derivatives."""

import numpy as np
import pytest
import torch

from autofit_ml.errors import SettingsError
from autofit_ml.scenes import fixed, sersic, to_catalogue, to_fit_space


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
    assert torch.allclose(to_catalogue(theta)[:, 3], values[:, 3])


def test_scene_says_what_is_wrong():
    with pytest.raises(SettingsError, match="free"):
        sersic(sky="maybe")
    assert sersic(sky="fixed").sky_parameters["sky"] == fixed(0.0)
    assert sersic(sky=2.5).sky_parameters["sky"] == fixed(2.5)
    assert sersic().sky_parameters["sky"].plain
    assert sersic(n=(0.5, 6.0)).bounds.n == (0.5, 6.0)
