"""The minimiser on problems whose answer is known."""

import pytest
import torch

from autofit_ml.fitting.levenberg_marquardt import Evaluation, LMSettings, minimise, solve_damped

F64 = torch.float64


def linear_problems(n=5, d=3, points=40, seed=0):
    generator = torch.Generator().manual_seed(seed)
    design = torch.randn(n, points, d, generator=generator, dtype=F64)
    truth = torch.randn(n, d, generator=generator, dtype=F64)
    noise = torch.randn(n, points, generator=generator, dtype=F64)
    data = (design @ truth[..., None])[..., 0] + noise

    def evaluate(index, theta):
        jacobian = design[index]
        residual = data[index] - (jacobian @ theta[..., None])[..., 0]
        return Evaluation(
            residual.square().sum(1),
            (residual[:, None] @ jacobian)[:, 0],
            jacobian.transpose(1, 2) @ jacobian,
            torch.zeros(len(index), 0, dtype=F64),
        )

    return evaluate, torch.linalg.lstsq(design, data[..., None]).solution[..., 0]


def run(evaluate, start, bound=1e9, settings=None, lower=None, upper=None):
    lower = torch.full_like(start, -bound) if lower is None else lower
    upper = torch.full_like(start, bound) if upper is None else upper
    return minimise(
        evaluate, start, lower, upper, torch.full(start.shape[1:], 1e9, dtype=F64), settings
    )


def test_linear_least_squares_is_solved():
    evaluate, solution = linear_problems()
    out = run(evaluate, torch.zeros(5, 3, dtype=F64), settings=LMSettings(1e-12))
    assert out.converged.all()
    assert torch.allclose(out.theta, solution, atol=1e-6)


def test_rosenbrock():
    # Residuals (10 (y - x^2), 1 - x): the valley needs many steps; the minimum is at (1, 1).
    def evaluate(index, theta):
        x, y = theta.unbind(1)
        residual = torch.stack([-10 * (y - x**2), -(1 - x)], 1)
        zero = torch.zeros_like(x)
        jacobian = torch.stack(
            [torch.stack([-20 * x, zero + 10], 1), torch.stack([zero - 1, zero], 1)], 1
        )
        return Evaluation(
            residual.square().sum(1),
            (residual[:, None] @ jacobian)[:, 0],
            jacobian.transpose(1, 2) @ jacobian,
            torch.zeros(len(index), 0, dtype=F64),
        )

    start = torch.tensor([[-1.2, 1.0], [2.0, -3.0], [0.0, 5.0]], dtype=F64)
    out = run(evaluate, start, settings=LMSettings(1e-10, 300))
    assert out.converged.all()
    assert torch.allclose(out.theta, torch.ones(3, 2, dtype=F64), atol=1e-4)


def test_bounds_hold_and_are_reported():
    evaluate, solution = linear_problems(1)
    upper = torch.full((1, 3), 1e9, dtype=F64)
    upper[0, 0] = solution[0, 0] - 1.0
    out = run(evaluate, torch.zeros(1, 3, dtype=F64).clamp(max=upper), upper=upper)
    assert out.converged.all()
    assert out.theta[0, 0] == upper[0, 0]
    assert out.at_bound[0].tolist() == [True, False, False]


def test_a_fixed_parameter_stays_and_is_no_bound():
    evaluate, _ = linear_problems(2)
    lower = torch.full((2, 3), -1e9, dtype=F64)
    upper = -lower
    lower[:, 1] = upper[:, 1] = 0.25
    out = run(evaluate, torch.zeros(2, 3, dtype=F64), lower=lower, upper=upper)
    assert (out.theta[:, 1] == 0.25).all()
    assert out.converged.all()
    assert not out.at_bound.any()


def test_one_bad_problem_does_not_spoil_the_others():
    evaluate, solution = linear_problems(4)

    def poisoned(index, theta):
        out = evaluate(index, theta)
        bad = index == 2
        out.chi2[bad] = torch.nan
        out.matrix[bad] = torch.nan
        return out

    out = run(poisoned, torch.zeros(4, 3, dtype=F64), settings=LMSettings(1e-12))
    good = torch.tensor([0, 1, 3])
    assert torch.allclose(out.theta[good], solution[good], atol=1e-6)
    assert not out.converged[2]


def test_running_out_of_steps_is_not_convergence():
    evaluate, _ = linear_problems(1)
    out = run(evaluate, torch.full((1, 3), 50.0, dtype=F64), settings=LMSettings(1e-12, 1, 1e3))
    assert not out.converged[0]


def test_rounding_of_chi2_does_not_hide_that_the_minimum_is_reached():
    exact, solution = linear_problems()

    def rounded(index, theta):
        found = exact(index, theta)
        found.chi2 = (found.chi2 / 0.05).ceil() * 0.05
        return found

    out = run(rounded, solution + 0.01)
    assert out.converged.all()
    assert (out.expected < 0.25).all() and (out.expected > 0.01).any()
    assert not run(rounded, solution + 0.01, settings=LMSettings(stalled=1.0)).converged.all()


def test_no_step_found_is_not_convergence():
    # The gradient lies: no step ever lowers chi2.
    def evaluate(index, theta):
        n = len(index)
        return Evaluation(
            1.0 + theta.square().sum(1),
            torch.full((n, 1), 5.0, dtype=F64),
            torch.ones(n, 1, 1, dtype=F64),
            torch.zeros(n, 0, dtype=F64),
        )

    out = run(evaluate, torch.zeros(1, 1, dtype=F64))
    assert not out.converged[0]
    assert out.theta[0, 0] == 0.0


@pytest.mark.parametrize("size", [1, 2, 7])
def test_results_do_not_depend_on_the_batch(size):
    evaluate, _ = linear_problems(7)
    together = run(evaluate, torch.zeros(7, 3, dtype=F64)).theta[:size]
    part = run(lambda i, t: evaluate(i, t), torch.zeros(size, 3, dtype=F64)).theta
    assert torch.allclose(together, part, rtol=1e-12, atol=1e-12)


def test_what_is_not_wanted_for_itself_need_not_settle_as_well():
    # chi2 = x^2 + 0.1 y^2 + 1.6 x y / sqrt(10), of which only x is wanted: its step counts in units of
    # its own error, sqrt(1 / (1 - 0.8^2)) with y free.
    slope = 0.1**0.5
    matrix = torch.tensor([[1.0, 0.8 * slope], [0.8 * slope, slope**2]], dtype=F64)
    state = Evaluation(
        torch.zeros(2, dtype=F64),
        torch.tensor([[0.0, 0.3], [0.5, 0.0]], dtype=F64),
        matrix.expand(2, 2, 2),
        torch.zeros(2, 0, dtype=F64),
    )
    own = torch.tensor([True, False])
    blocked = torch.zeros(2, 2, dtype=torch.bool)
    steps = solve_damped(
        state,
        torch.zeros(2, dtype=F64),
        blocked,
        (own.to(torch.int8).argsort(stable=True), int(own.sum())),
    )
    covariance = torch.linalg.inv(matrix)
    expected = (state.gradient @ covariance)[:, 0].square() / covariance[0, 0]
    assert torch.allclose(steps.own, expected)
    assert torch.allclose(steps.full, state.gradient @ covariance)
    assert steps.own[0] < steps.expected[0]


def test_a_direction_without_information_does_not_hold_up_the_others():
    """A star's ellipticity: where it would go says nothing of how far the position may."""

    def evaluate(index, theta):
        jacobian = torch.tensor([[[1.0, 0.0], [0.0, 1e-3]]], dtype=F64)
        aim = torch.tensor([5.0, 30.0], dtype=F64)
        residual = aim - (jacobian @ theta[..., None])[..., 0]
        return Evaluation(
            residual.square().sum(1),
            (residual[:, None] @ jacobian)[:, 0],
            (jacobian.transpose(1, 2) @ jacobian).expand(len(index), 2, 2),
            torch.zeros(len(index), 0, dtype=F64),
        )

    start, far = torch.zeros(1, 2, dtype=F64), torch.full((1, 2), 1e9, dtype=F64)
    largest = torch.tensor([10.0, 0.7], dtype=F64)
    out = minimise(evaluate, start, -far, far, largest, LMSettings(max_iterations=4))
    assert out.theta[0, 0] == pytest.approx(5.0, abs=1e-3)
    assert 0 < out.theta[0, 1] <= 4 * 0.7
