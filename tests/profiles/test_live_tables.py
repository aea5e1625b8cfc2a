"""Tables of every registered profile against quadrature, and their derivatives."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import special
from scipy.integrate import quad
from scipy.optimize import brentq

from autofit_ml.profiles import get_profile, profile_names
from autofit_ml.profiles.polar import polar_table
from autofit_ml.profiles.tables import half_light_radius, live_table, profile_table

NAMES = [name for name in profile_names() if get_profile(name).kind == "elliptical"]
SEVERAL = [name for name in NAMES if len(get_profile(name).shapes) > 1]


def fit_values(profile, n, seed=0):
    """Shapes drawn between the bounds, fit space, (n, S)."""
    rng = np.random.default_rng(seed)
    columns = [rng.uniform(*shape.fit_bounds, n) for shape in profile.shapes]
    return torch.as_tensor(np.stack(columns, 1) if columns else np.zeros((n, 0)))


def evaluate(table, row, kappa):
    """S(kappa) as the renderer evaluates it."""
    position = (np.log(kappa) - table.log_kappa_min) / table.log_kappa_step
    index = np.clip(np.floor(position), 0, table.n_kappa - 1).astype(int)
    t, c = position - index, row.numpy()[index]
    return c[:, 0] + t * (c[:, 1] + t * (c[:, 2] + t * c[:, 3]))


def brightness(profile, shapes):
    """Light as a function of a float."""

    def light(r):
        values = [torch.tensor(v, dtype=torch.float64) for v in shapes]
        return float(profile.light(torch.tensor(r, dtype=torch.float64), *values))

    return light


@pytest.fixture(autouse=True)
def one_thread():
    """As the refiner runs: with more, PyTorch's products differ in the last bit."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("name", NAMES)
def test_half_light_and_transform_against_quadrature(name):
    profile = get_profile(name)
    shapes = tuple(shape.default for shape in profile.shapes)
    light = brightness(profile, shapes)
    end = 0.0 if profile.truncated else 30.0

    def mass(x, k=0.0):
        return np.exp(2 * x) * light(np.exp(x)) * special.j0(k * np.exp(x))

    def integral(low, high, k=0.0):
        edges = np.linspace(low, high, 12)
        pieces = [quad(mass, a, b, (k,), limit=200)[0] for a, b in pairwise(edges)]
        return sum(pieces)

    total = integral(-25.0, end)
    half = brentq(lambda x: integral(-25.0, x) / total - 0.5, -6.0, min(end, 9.0), xtol=1e-8)
    assert half_light_radius(profile, shapes) == pytest.approx(np.exp(half), rel=2e-6)

    table = profile_table(profile)
    given = torch.tensor(
        [[np.log(v) if s.log else v for v, s in zip(shapes, profile.shapes, strict=True)]],
        dtype=torch.float64,
    )
    kappa = np.array([1e-2, 0.3, 1.0, 2.0])
    ours = evaluate(table, table.rows(given, torch.float64)[0], kappa)
    # Wings beyond r = 20 make oscillations that quad cannot follow: they are left out of both.
    for k, value in zip(kappa, ours, strict=True):
        expected = integral(-25.0, min(end, half + 7.0), k / np.exp(half)) / total
        lost = 1 - integral(-25.0, min(end, half + 7.0)) / total
        assert value == pytest.approx(expected, abs=3e-6 + 0.5 * lost)


@pytest.mark.parametrize("name", SEVERAL)
def test_rows_hold_their_own_derivatives(name):
    profile = get_profile(name)
    table, shapes = live_table(profile), fit_values(profile, 20)
    rows = table.rows(shapes, torch.float64)
    assert torch.isfinite(rows).all()
    assert rows[:, :, 0].abs().max() < 1 + 1e-5
    step = 1e-5
    for i in range(shapes.shape[1]):
        shift = torch.zeros_like(shapes)
        shift[:, i] = step
        above, below = (
            table.rows(s, torch.float64)[..., :4] for s in (shapes + shift, shapes - shift)
        )
        numeric = (above - below) / (2 * step)
        assert (rows[..., 4 + 4 * i : 8 + 4 * i] - numeric).abs().max() < 2e-7


@pytest.mark.parametrize("name", SEVERAL)
def test_rows_are_differentiable_and_the_same_in_any_batch(name):
    profile = get_profile(name)
    table, shapes = live_table(profile), fit_values(profile, 7)
    shapes.requires_grad_()
    rows = table.rows(shapes, torch.float64)
    (gradient,) = torch.autograd.grad(rows[:, :, 0].sum(), shapes)
    expected = torch.stack(
        [rows[:, :, 4 + 4 * i].sum(1) for i in range(shapes.shape[1])], dim=1
    ).detach()
    assert torch.allclose(gradient, expected, rtol=1e-9, atol=1e-9)
    alone = torch.cat([table.rows(s[None].detach(), torch.float64) for s in shapes])
    assert torch.equal(table.rows(shapes.detach(), torch.float64), alone)


@pytest.mark.parametrize("name", SEVERAL)
def test_values_alone_are_the_values(name):
    profile = get_profile(name)
    table, shapes = live_table(profile), fit_values(profile, 3)
    values = table.rows(shapes, torch.float64, derivatives=False)
    assert values.shape[-1] == 4
    assert torch.allclose(values, table.rows(shapes, torch.float64)[..., :4], rtol=0, atol=1e-14)


def test_a_series_in_the_shape_agrees_with_the_transforms_themselves():
    profile = get_profile("moffat")
    shapes = fit_values(profile, 30)
    series, live = profile_table(profile), live_table(profile)
    ours = series.rows(shapes, torch.float64)
    expected = live.rows(shapes, torch.float64)
    assert (ours - expected)[..., :4].abs().max() < 2e-8
    assert (ours - expected).abs().max() < 1e-6


@pytest.mark.parametrize(
    ("name", "n"), [("gaussian", 0.5), ("exponential", 1.0), ("devaucouleurs", 4.0)]
)
def test_members_of_the_sersic_family(name, n):
    table, sersic = profile_table(get_profile(name)), profile_table(get_profile("sersic"))
    kappa = np.geomspace(3e-4, 1e3, 300)
    empty = torch.zeros((1, 0), dtype=torch.float64)
    ours = evaluate(table, table.rows(empty, torch.float64)[0], kappa)
    log_n = torch.tensor([[np.log(n)]], dtype=torch.float64)
    expected = evaluate(sersic, sersic.rows(log_n, torch.float64)[0], kappa)
    assert np.abs(ours - expected).max() < 3e-6


@pytest.mark.parametrize(
    "name",
    [
        "sersic[boxiness]",
        "exponential[f1,f3]",
        "ferrer[boxiness,f4]",
        "moffat[twist]",
        "mge[boxiness,twist]",
    ],
)
def test_polar_tables_are_the_same_in_any_batch(name):
    profile = get_profile(name)
    table, shapes = polar_table(profile), fit_values(profile, 5)
    together = table.nodes(shapes, torch.float64)
    alone = torch.cat([table.nodes(s[None], torch.float64) for s in shapes])
    assert torch.equal(together, alone)
    values = table.nodes(shapes, torch.float64, derivatives=False)
    assert torch.allclose(values[..., 0, :], together[..., 0, :], rtol=0, atol=1e-14)
