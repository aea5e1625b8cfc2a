r"""Levenberg-Marquardt for many independent problems at once.

Each problem minimises :math:`\chi^2(\theta)` with the Gauss-Newton matrix :math:`A = J^T W J` and
the vector :math:`g = J^T W r`. The damped step solves

.. math:: (A + \lambda\, \mathrm{diag} A)\, \delta = g

with one :math:`\lambda` per problem (Marquardt 1963, SIAM J. Appl. Math. 11, 431). A problem has
converged when its *expected* further decrease of chi2, :math:`g^T A^{-1} g`, is small: this is the
distance to the minimum in units of its own uncertainty, and it is only small where the gradient
is. Running out of steps is reported as such. Of parameters that only matter through others (those
of neighbours: a smudge of a few sigma has no definite shape) less is asked: the step of the wanted
ones, :math:`\delta_o^T (C_{oo})^{-1} \delta_o` with :math:`C = A^{-1}`, must be small.

The last step needs no derivatives: near the minimum the full step is taken, and where chi2 then is
nearly what the quadratic model says, the problem has converged there.

A step that would cross a bound ends on it: that parameter is set to the bound and the others are
solved for again, since a step that is merely cut short leads nowhere in a narrow valley.

Problems that are done leave the batch. The arithmetic of one problem does not depend on which
others are in the batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch

__all__ = [
    "Evaluate",
    "Evaluation",
    "LMResult",
    "LMSettings",
    "Measure",
    "against_bounds",
    "minimise",
    "solve_damped",
]


@dataclass(frozen=True)
class LMSettings:
    """Settings of `minimise`.

    Attributes
    ----------
    tolerance, relative : float
        Expected decrease of chi2 below which a problem has converged; the larger of `tolerance`
        (times the reduced chi2 where that is over 1: errors are no better than the fit) and
        `relative` times chi2, which single precision does not resolve further.
    finish : float
        Expected decrease of chi2 below which the full step is tried as the last one, if `minimise`
        can measure chi2 alone.
    max_iterations : int
        Evaluations per problem.
    damping : float
        First lambda.
    max_damping : float
        Lambda at which a problem is given up as stuck.
    nuisance : float
        Expected decrease of chi2 by parameters that are not wanted for themselves, if larger than
        the others'.
    stalled : float
        Factor by which the tolerance is larger where no step, however short, decreases chi2:
        rounding hides what remains.
    """

    tolerance: float = 0.01
    max_iterations: int = 60
    damping: float = 1e-2
    max_damping: float = 1e7
    relative: float = 0.0
    finish: float = 1.0
    nuisance: float = 0.25
    stalled: float = 25.0


@dataclass
class Evaluation:
    """Chi2, gradient and matrix of B problems at one point.

    chi2 (B,), gradient vector g (B, D) and matrix A (B, D, D), float64; light (B, L): whatever
    else the evaluation found and the caller wants at the minimum.
    """

    chi2: torch.Tensor
    gradient: torch.Tensor
    matrix: torch.Tensor
    light: torch.Tensor

    @classmethod
    def empty(cls, n: int, d: int, n_light: int, device: torch.device) -> Evaluation:
        """n problems of which nothing is known."""
        zeros = torch.zeros
        kind = {"dtype": torch.float64, "device": device}
        return cls(
            torch.full((n,), torch.inf, **kind),  # type: ignore[call-overload]
            zeros((n, d), **kind),  # type: ignore[call-overload]
            zeros((n, d, d), **kind),  # type: ignore[call-overload]
            zeros((n, n_light), **kind),  # type: ignore[call-overload]
        )

    @classmethod
    def join(cls, parts: list[tuple[torch.Tensor, ...]]) -> Evaluation:
        """Put the fields of several chunks together."""
        return cls(*(torch.cat([part[i] for part in parts]) for i in range(4)))

    def select(self, index: torch.Tensor) -> Evaluation:
        """The problems at `index`."""
        return Evaluation(
            self.chi2[index], self.gradient[index], self.matrix[index], self.light[index]
        )

    def where(self, chosen: torch.Tensor, other: Evaluation) -> Evaluation:
        """This evaluation of the chosen problems (B,), the other one of the rest."""
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        return Evaluation(
            *(torch.where(chosen.view(-1, *[1] * (a.ndim - 1)), a, b) for a, b in pairs)
        )

    def put(self, index: torch.Tensor, other: Evaluation) -> None:
        """Overwrite the problems at `index`."""
        self.chi2[index] = other.chi2
        self.gradient[index] = other.gradient
        self.matrix[index] = other.matrix
        self.light[index] = other.light


@dataclass
class LMResult:
    """End point of each problem, and how it was reached.

    theta (B, D); state: the evaluation there; expected: expected further decrease of chi2 (B,);
    n_iter (B,) evaluations; converged (B,) bool; at_bound (B, D) bool: the parameter sits on a
    bound and the gradient pushes outwards.
    """

    theta: torch.Tensor
    state: Evaluation
    expected: torch.Tensor
    n_iter: torch.Tensor
    converged: torch.Tensor
    at_bound: torch.Tensor

    @classmethod
    def empty(cls, theta: torch.Tensor, n_light: int) -> LMResult:
        """Nothing done yet, at `theta`."""
        n, d = theta.shape
        device = theta.device
        return cls(
            theta.clone(),
            Evaluation.empty(n, d, n_light, device),
            torch.full((n,), torch.inf, dtype=theta.dtype, device=device),
            torch.zeros(n, dtype=torch.int32, device=device),
            torch.zeros(n, dtype=torch.bool, device=device),
            torch.zeros((n, d), dtype=torch.bool, device=device),
        )

    def select(self, index: torch.Tensor) -> LMResult:
        """The problems at `index`."""
        return LMResult(
            self.theta[index],
            self.state.select(index),
            self.expected[index],
            self.n_iter[index],
            self.converged[index],
            self.at_bound[index],
        )

    def put(self, index: torch.Tensor, other: LMResult) -> None:
        """Overwrite the problems at `index`, adding up the evaluations."""
        self.theta[index] = other.theta
        self.state.put(index, other.state)
        self.expected[index] = other.expected
        self.n_iter[index] += other.n_iter
        self.converged[index] = other.converged
        self.at_bound[index] = other.at_bound


_SHORT = 0.1
"""Largest last step without derivatives, in units of the largest step: where a step is longer the
quadratic model may be right by chance."""

Evaluate = Callable[[torch.Tensor, torch.Tensor], Evaluation]
"""(indices of problems (A,), theta (A, D)) -> Evaluation of length A."""

Measure = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""(indices of problems (A,), theta (A, D)) -> chi2 (A,)."""


def minimise(
    evaluate: Evaluate,
    theta: torch.Tensor,
    lower: torch.Tensor,
    upper: torch.Tensor,
    max_step: torch.Tensor,
    settings: LMSettings | None = None,
    measure: Measure | None = None,
    own: torch.Tensor | None = None,
    pixels: torch.Tensor | None = None,
) -> LMResult:
    """Minimise chi2 of B problems.

    Parameters
    ----------
    evaluate : callable
        See `Evaluate`.
    theta : Tensor, float64, shape (B, D)
        Starts, inside the bounds.
    lower, upper : Tensor, float64, shape (B, D)
        Bounds; equal values hold a parameter fixed.
    max_step : Tensor, float64, shape (D,)
        Largest change of each parameter in one step.
    settings : LMSettings, optional
    measure : callable, optional
        See `Measure`; chi2 exactly as `evaluate` finds it, at less cost. With it the last step is
        not differentiated: gradient and matrix of the result are those of the step before.
    own : Tensor, bool, shape (D,), optional
        Parameters that are wanted; the others (neighbours') need not be settled as well.
    pixels : Tensor, shape (B,), optional
        Numbers that chi2 is a sum over, for the reduced chi2.

    Returns
    -------
    LMResult
    """
    settings = settings or LMSettings()
    b = len(theta)
    everyone = torch.arange(b, device=theta.device)
    theta = torch.maximum(torch.minimum(theta, upper), lower)
    state = evaluate(everyone, theta)
    result = LMResult(
        theta,
        state,
        torch.full((b,), float("inf"), dtype=theta.dtype, device=theta.device),
        torch.ones(b, dtype=torch.int32, device=theta.device),
        torch.zeros(b, dtype=torch.bool, device=theta.device),
        torch.zeros_like(theta, dtype=torch.bool),
    )
    damping = torch.full((b,), settings.damping, dtype=theta.dtype, device=theta.device)
    finish = torch.full_like(damping, settings.finish)
    left = ~torch.isfinite(state.chi2)
    active = everyone
    wanted = None if own is None else (own.to(torch.int8).argsort(stable=True), int(own.sum()))

    def tolerated(some: torch.Tensor, chi2: torch.Tensor) -> torch.Tensor:
        """Expected decrease of chi2 below which some problems have converged."""
        reduced = 1.0 if pixels is None else (chi2 / pixels[some]).clamp_min(1.0)
        return (settings.relative * chi2).clamp_min(settings.tolerance * reduced)

    def look(some: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Damped and full steps of some problems; whether they need no more."""
        here, at, gone = state.select(some), theta[some], left[some]
        blocked = against_bounds(at, here.gradient, lower[some], upper[some])
        steps = solve_damped(here, damping[some], blocked, wanted)
        limit = tolerated(some, here.chi2)
        stalled = damping[some] > settings.max_damping
        limit = torch.where(stalled, settings.stalled * limit, limit)
        settled = steps.own < limit
        held = blocked & (lower[some] < upper[some])
        result.expected[some] = torch.where(gone, result.expected[some], steps.expected)
        result.at_bound[some] = torch.where(gone[:, None], result.at_bound[some], held)
        result.converged[some] = torch.where(gone, result.converged[some], settled)
        rest = limit if own is None else limit.clamp_min(settings.nuisance)
        return steps.damped, steps.full, gone | (settled & (steps.expected < rest))

    for _ in range(settings.max_iterations):
        step, full, done = look(active)
        done |= damping[active] > settings.max_damping
        near = torch.zeros_like(done)
        if measure is not None:
            short = (full.abs() <= _SHORT * max_step).all(1)
            near = ~done & short & (result.expected[active] < finish[active])
        # The only place of an iteration where the host waits for the device.
        kind = torch.where(done, 2, (~near).to(torch.int64))
        counts = torch.stack([(kind == 0).sum(), (kind == 1).sum()]).cpu().tolist()
        order = kind.argsort(stable=True)[: sum(counts)]
        active, step, full = active[order], step[order], full[order]
        if len(active) == 0:
            break
        if measure is not None and counts[0]:
            some = active[: counts[0]]
            left[some] = _finished(
                measure, tolerated, result, theta, some, full[: counts[0]], lower, upper
            )
            finish[some] = result.expected[some] / 4  # where it fails it is not tried again soon
        if counts[1]:
            some, step = active[counts[0] :], step[counts[0] :]
            low = torch.maximum(lower[some], theta[some] - max_step)
            high = torch.minimum(upper[some], theta[some] + max_step)
            step = _within(state, theta, some, step, damping, low, high, lower, upper)
            trial = theta[some] + _shortened(step, max_step)
            trial = torch.maximum(torch.minimum(trial, upper[some]), lower[some])
            there = evaluate(some, trial)
            result.n_iter[some] += 1
            better = there.chi2 < state.chi2[some]  # False for NaN
            theta[some] = torch.where(better[:, None], trial, theta[some])
            state.put(some, there.where(better, state.select(some)))
            damping[some] = torch.where(
                better, (damping[some] / 8).clamp_min(1e-9), (damping[some] * 6).clamp_min(1e-3)
            )
    else:
        look(active)
    result.theta, result.state = theta, state
    return result


def _finished(
    measure: Measure,
    tolerated: Measure,
    result: LMResult,
    theta: torch.Tensor,
    some: torch.Tensor,
    full: torch.Tensor,
    lower: torch.Tensor,
    upper: torch.Tensor,
) -> torch.Tensor:
    """Take the full step where chi2 falls by what the quadratic model says; True where it did.

    If the curvature along the step is wrong by a share e, chi2 misses its prediction by e times the
    expected decrease, and what remains to be gained is e^2 times it.
    """
    trial = theta[some] + full
    inside = ((trial >= lower[some]) & (trial <= upper[some])).all(1)
    state, expected = result.state, result.expected[some]
    chi2 = measure(some, trial)
    result.n_iter[some] += 1
    remaining = (state.chi2[some] - chi2 - expected).square() / expected
    good = inside & (remaining < tolerated(some, chi2) / 4)
    theta[some] = torch.where(good[:, None], trial, theta[some])
    state.chi2[some] = torch.where(good, chi2, state.chi2[some])
    state.gradient[some] = torch.where(good[:, None], 0.0, state.gradient[some])
    result.expected[some] = torch.where(good, remaining, expected)
    result.converged[some] |= good
    return good


def _shortened(step: torch.Tensor, max_step: torch.Tensor) -> torch.Tensor:
    """Steps no longer than allowed in any parameter, their direction kept."""
    return step / (step.abs() / max_step).amax(1).clamp_min(1.0)[:, None]


def _within(
    state: Evaluation,
    theta: torch.Tensor,
    active: torch.Tensor,
    step: torch.Tensor,
    damping: torch.Tensor,
    low: torch.Tensor,
    high: torch.Tensor,
    lower: torch.Tensor,
    upper: torch.Tensor,
) -> torch.Tensor:
    """Steps that end on the limits they would cross, the other parameters solved for again.

    `low`, `high` (A, D): bounds, and where the largest step leads. A direction of which the data
    say nothing, a star's ellipticity, must not shorten the steps of all others.
    """
    at = theta[active] + step
    held = (at < low) | (at > high)
    here = state.select(active)
    ends = torch.maximum(torch.minimum(at, high), low) - theta[active]
    fixed = torch.where(held, ends, torch.zeros_like(ends))
    blocked = against_bounds(theta[active], here.gradient, lower[active], upper[active])
    here.gradient = here.gradient - (here.matrix @ fixed[..., None])[..., 0]
    again = solve_damped(here, damping[active], blocked | held).damped
    return torch.where(held.any(1)[:, None], torch.where(held, fixed, again), step)


def against_bounds(
    theta: torch.Tensor, gradient: torch.Tensor, lower: torch.Tensor, upper: torch.Tensor
) -> torch.Tensor:
    """Parameters on a bound whose chi2 would fall outside it (or that are held fixed)."""
    edge = 1e-9 * (1 + theta.abs())
    return ((theta <= lower + edge) & (gradient < 0)) | ((theta >= upper - edge) & (gradient > 0))


class Steps(NamedTuple):
    """Steps of B problems.

    damped, full (B, D): with and without damping; expected (B,): decrease of chi2 that the
    quadratic model promises for the full step; own (B,): the part of it that the wanted parameters,
    the others free, would gain.
    """

    damped: torch.Tensor
    full: torch.Tensor
    expected: torch.Tensor
    own: torch.Tensor


def solve_damped(
    state: Evaluation,
    damping: torch.Tensor,
    blocked: torch.Tensor,
    wanted: tuple[torch.Tensor, int] | None = None,
) -> Steps:
    """Steps of B problems, and what they are expected to gain.

    Rows and columns of blocked parameters are taken out. Where A is not positive definite to
    rounding, the expected decrease is infinite. ``wanted``: the parameters (D,) in an order with
    the wanted ones last, and their number.
    """
    free = (~blocked).to(state.matrix.dtype)
    scale = state.matrix.diagonal(dim1=1, dim2=2).clamp_min(1e-300).sqrt()
    inverse = free / scale
    g = state.gradient * inverse
    unit = state.matrix * inverse[:, :, None] * inverse[:, None, :]
    eye = torch.eye(unit.shape[-1], dtype=unit.dtype, device=unit.device)
    unit = unit * (1 - eye) + eye
    n_own = unit.shape[-1]
    if wanted is not None:  # the end of the factor is that of their inverse covariance
        order, n_own = wanted
        unit, g, inverse = unit[:, order][:, :, order], g[:, order], inverse[:, order]
    both = torch.stack([unit + damping[:, None, None] * eye, unit + 1e-12 * eye])
    factor, info = torch.linalg.cholesky_ex(both)
    solution = torch.cholesky_solve(g[None, :, :, None].expand(2, -1, -1, -1), factor)[..., 0]
    expected = (solution[1] * g).sum(1)
    along = factor[1, :, -n_own:, -n_own:].transpose(1, 2) @ solution[1, :, -n_own:, None]
    gain = along[..., 0].square().sum(1)
    bad = (info[1] != 0) | ~torch.isfinite(expected)
    expected, gain = (
        torch.where(bad, torch.full_like(one, torch.inf), one) for one in (expected, gain)
    )
    step = torch.where(
        ((info[0] != 0) | ~torch.isfinite(solution[0]).all(1))[:, None], g, solution[0]
    )
    step, full = step * inverse, torch.nan_to_num(solution[1]) * inverse
    if wanted is not None:
        back = order.argsort()
        step, full = step[:, back], full[:, back]
    return Steps(step, full, expected, gain)
