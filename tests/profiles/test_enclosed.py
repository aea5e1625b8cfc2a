"""Light and moments inside a radius, against closed forms."""

import numpy as np
import pytest
import torch
from scipy import special

from autofit_ml.profiles import get_profile, sersic_b, sersic_flux_within
from autofit_ml.profiles.enclosed import enclosed
from autofit_ml.profiles.tables import half_light_radius

RADII = np.array([0.01, 0.1, 0.3, 1.0, 2.0, 5.0, 20.0])
INDICES = torch.tensor([0.3, 0.5, 1.0, 2.0, 4.0, 8.0], dtype=torch.float64)


def moments(index):
    log_radius = torch.as_tensor(np.log(RADII)).expand(len(index), -1)
    return enclosed(get_profile("sersic"), index[:, None]).moments(log_radius)


def test_light_and_second_moments_of_sersic_profiles():
    found = moments(INDICES).numpy()
    for n, of_one in zip(INDICES.numpy(), found, strict=True):
        b = sersic_b(n)
        np.testing.assert_allclose(of_one[0], sersic_flux_within(RADII, n), atol=2e-5)
        whole = np.exp(special.gammaln(4 * n) - special.gammaln(2 * n)) * b ** (-2 * n)
        second = whole * special.gammainc(4 * n, b * RADII ** (1 / n))
        np.testing.assert_allclose(of_one[2, 1:], second[1:], rtol=3e-4)


def test_derivatives_by_the_shape():
    index = INDICES.clone().requires_grad_(True)
    (slope,) = torch.autograd.grad(moments(index).sum(), index)
    step = 1e-5 * INDICES
    change = (moments(INDICES + step) - moments(INDICES - step)).sum((1, 2)) / (2 * step)
    torch.testing.assert_close(slope, change, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("name", ["exponential", "gaussian", "moffat", "king", "nuker", "ferrer"])
def test_the_half_light_radius_is_that_of_the_renderer(name):
    profile = get_profile(name)
    shapes = torch.tensor([[shape.default for shape in profile.shapes]], dtype=torch.float64)
    radius = half_light_radius(profile, [[shape.default] for shape in profile.shapes])
    assert enclosed(profile, shapes).half.exp().item() == pytest.approx(radius.item(), rel=1e-4)


def test_what_has_no_circular_form_is_refused():
    with pytest.raises(ValueError, match="no circular form"):
        enclosed(get_profile("edge_on_disc"), torch.zeros((1, 0), dtype=torch.float64))
