"""Tables of transforms against analytic transforms, GalSim and their own derivatives."""

import numpy as np
import pytest
import torch
from scipy import special

from autofit_ml.profiles import (
    sersic_b,
    sersic_brightness,
    sersic_flux_within,
    sersic_intensity_at_re,
    sersic_table,
)


def transform(n: float, kappa: np.ndarray) -> np.ndarray:
    """S(kappa; n) from the table, as the renderer evaluates it."""
    table = sersic_table()
    rows = table.rows(torch.tensor([[np.log(n)]], dtype=torch.float64), torch.float64)[0].numpy()
    position = (np.log(kappa) - table.log_kappa_min) / table.log_kappa_step
    index = np.floor(position).astype(int)
    t = position - index
    c = rows[index]
    return c[:, 0] + t * (c[:, 1] + t * (c[:, 2] + t * c[:, 3]))


KAPPA = np.geomspace(1e-4, 1e3, 500)


def test_gaussian_and_exponential_are_analytic():
    # n = 1/2: exp(-k^2 / 4b); n = 1: (1 + (k/b)^2)^-3/2. Interpolation error is about 3e-7.
    b_half, b_one = sersic_b(0.5), sersic_b(1.0)
    assert np.abs(transform(0.5, KAPPA) - np.exp(-(KAPPA**2) / (4 * b_half))).max() < 1e-6
    exponential = (1 + (KAPPA / b_one) ** 2) ** -1.5
    assert np.abs(transform(1.0, KAPPA) - exponential).max() < 1e-6


@pytest.mark.parametrize("n", [0.6, 2.0, 4.0, 6.0])
def test_agrees_with_galsim(n):
    galsim = pytest.importorskip("galsim")
    profile = galsim.Sersic(n, half_light_radius=1.0)
    kappa = np.geomspace(1e-2, 30, 40)
    expected = np.array([profile.kValue(k, 0).real for k in kappa])
    # GalSim's default kvalue_accuracy is 1e-5; where S falls below that it errs by up to 2e-5.
    assert np.abs(transform(n, kappa) - expected).max() < 2.5e-5


@pytest.mark.parametrize("n", [0.3, 0.5, 1.0, 3.3, 8.0])
def test_finite_and_one_at_zero(n):
    values = transform(n, KAPPA)
    assert np.isfinite(values).all()
    assert values[0] == pytest.approx(1.0, abs=2e-4)  # n = 8 has very extended light
    assert np.abs(values).max() <= 1.0 + 1e-6


def test_smooth_in_the_index():
    # Neighbouring indices differ by the tabulated derivative; the second difference is tiny.
    table = sersic_table()
    step = 1e-4
    for n in (0.31, 0.5, 1.7, 4.0, 7.9):
        log_n = torch.tensor([np.log(n) - step, np.log(n), np.log(n) + step], dtype=torch.float64)
        rows = table.rows(log_n[:, None], torch.float64)
        slope = (rows[2, :, :4] - rows[0, :, :4]) / (2 * step)
        assert torch.allclose(slope, rows[1, :, 4:], atol=2e-6)


def test_rows_are_the_same_to_the_bit_in_any_batch():
    log_n = torch.linspace(np.log(0.3), np.log(8.0), 37, dtype=torch.float64)
    together = sersic_table().rows(log_n[:, None], torch.float32)
    alone = torch.cat([sersic_table().rows(x.view(1, 1), torch.float32) for x in log_n])
    assert torch.equal(together, alone)


def test_rows_are_differentiable():
    log_n = torch.tensor([[0.7]], dtype=torch.float64, requires_grad=True)
    rows = sersic_table().rows(log_n, torch.float64)
    (gradient,) = torch.autograd.grad(rows[0, :, 0].sum(), log_n)
    assert gradient.item() == pytest.approx(rows[0, :, 4].sum().item(), rel=1e-9)


@pytest.mark.parametrize("n", [0.3, 1.0, 4.0, 8.0])
def test_half_of_the_light_lies_within_re(n):
    assert sersic_flux_within(1.0, n) == pytest.approx(0.5, rel=1e-12)
    r = np.geomspace(1e-8, 1.0, 4000)
    inside = np.trapezoid(2 * np.pi * r**2 * sersic_brightness(r, n), np.log(r))
    assert inside == pytest.approx(0.5, abs=2e-4)  # trapezoids on 4000 points


def test_intensity_at_re_matches_the_known_de_vaucouleurs_value():
    # F = 7.2147 pi re^2 I_e for n = 4 (Graham & Driver 2005, eq. 4, b = 7.6692).
    assert 1 / (np.pi * sersic_intensity_at_re(1.0, 1.0, 4.0)) == pytest.approx(7.2147, rel=1e-4)
    assert sersic_b(4.0) == pytest.approx(7.66925, rel=1e-6)
    assert special.gammainc(8.0, sersic_b(4.0)) == pytest.approx(0.5)
