"""The motion between walls: exact, reversible, volume-preserving."""

import math

import torch
from posterior_targets import equal_correlation
from scipy import stats

from autofit_ml.posterior.flow import harmonic_flow

D = 4


def walkers(a=400, seed=0):
    generator = torch.Generator().manual_seed(seed)
    root = torch.linalg.cholesky(equal_correlation(D, 0.9)).expand(a, D, D)
    low = torch.tensor([-0.5, -math.inf, -0.4, -math.inf], dtype=torch.float64).expand(a, D)
    high = torch.tensor([0.7, 0.6, math.inf, math.inf], dtype=torch.float64).expand(a, D)
    x = 0.3 * torch.randn(a, D, generator=generator, dtype=torch.float64)
    x = torch.maximum(torch.minimum(x, high - 0.01), low + 0.01)
    z = torch.linalg.solve_triangular(root, x[..., None], upper=False)[..., 0]
    p = torch.randn(a, D, generator=generator, dtype=torch.float64)
    time = 2.5 * torch.rand(a, generator=generator, dtype=torch.float64)
    return z, p, time, root, low, high


def test_energy_walls_and_the_way_back():
    z, p, time, root, low, high = walkers()
    z1, p1, lost = harmonic_flow(z, p, time, root, low, high)
    x = (root @ z1[..., None])[..., 0]
    assert not lost.any()
    assert (x >= low - 1e-12).all()
    assert (x <= high + 1e-12).all()
    assert ((x - (z * time.cos()[:, None] + p * time.sin()[:, None])).abs().amax(1) > 0.1).any()
    energy = (z1**2 + p1**2 - z**2 - p**2).sum(1)
    assert energy.abs().max() < 1e-12
    z2, p2, _ = harmonic_flow(z1, -p1, time, root, low, high)
    torch.testing.assert_close(z2, z, rtol=0, atol=1e-9)
    torch.testing.assert_close(-p2, p, rtol=0, atol=1e-9)


def test_volume():
    z, p, time, root, low, high = (value[:40] for value in walkers())
    columns = []
    for k in range(2 * D):
        ends = []
        for sign in (1, -1):
            shift = torch.zeros(2 * D, dtype=torch.float64)
            shift[k] = sign * 1e-6
            ends.append(
                torch.cat(harmonic_flow(z + shift[:D], p + shift[D:], time, root, low, high)[:2], 1)
            )
        columns.append((ends[0] - ends[1]) / 2e-6)
    volume = torch.linalg.det(torch.stack(columns, dim=2)).abs()
    # A walker that hits a wall within 1e-6 of the end has no derivative there.
    assert ((volume - 1).abs() < 1e-4).double().mean() > 0.9


def test_truncated_normal():
    """Quarter periods with new momenta draw from the truncated Gaussian."""
    a = 20000
    low = torch.tensor([[0.5, -0.3]], dtype=torch.float64).expand(a, 2)
    high = torch.tensor([[math.inf, 0.8]], dtype=torch.float64).expand(a, 2)
    root = torch.eye(2, dtype=torch.float64).expand(a, 2, 2)
    generator = torch.Generator().manual_seed(1)
    z = torch.tensor([[0.6, 0.0]], dtype=torch.float64).expand(a, 2)
    time = torch.full((a,), 1.3, dtype=torch.float64)
    for _ in range(25):
        p = torch.randn(a, 2, generator=generator, dtype=torch.float64)
        z, _, lost = harmonic_flow(z, p, time, root, low, high)
        assert not lost.any()
    for i, (lo, hi) in enumerate(((0.5, math.inf), (-0.3, 0.8))):
        assert stats.kstest(z[:, i].numpy(), stats.truncnorm(lo, hi).cdf).pvalue > 1e-3


def test_a_corner_gives_up():
    """A sliver between two walls: too many hits to follow."""
    root = torch.tensor([[[1.0, 0.0], [1.0, 1e-9]]], dtype=torch.float64)
    walls = (
        torch.full((1, 2), -1e-12, dtype=torch.float64),
        torch.full((1, 2), 1e-12, dtype=torch.float64),
    )
    z, p = torch.zeros(1, 2, dtype=torch.float64), torch.ones(1, 2, dtype=torch.float64)
    assert harmonic_flow(z, p, torch.ones(1, dtype=torch.float64), root, *walls)[2].all()
