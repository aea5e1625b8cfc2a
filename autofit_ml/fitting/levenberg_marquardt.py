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
    active = everyone[torch.isfinite(state.chi2)]

    def tolerated(some: torch.Tensor, chi2: torch.Tensor) -> torch.Tensor:
        """Expected decrease of chi2 below which some problems have converged."""
        reduced = 1.0 if pixels is None else (chi2 / pixels[some]).clamp_min(1.0)
        return (settings.relative * chi2).clamp_min(settings.tolerance * reduced)

    def look(some: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Damped and full steps of some problems; whether they need no more."""
        here, at = state.select(some), theta[some]
        blocked = against_bounds(at, here.gradient, lower[some], upper[some])
        steps = solve_damped(here, damping[some], blocked, own)
        result.expected[some] = steps.expected
        result.at_bound[some] = blocked & (lower[some] < upper[some])
        limit = tolerated(some, here.chi2)
        stalled = damping[some] > settings.max_damping
        limit = torch.where(stalled, settings.stalled * limit, limit)
        settled = steps.own < limit
        result.converged[some] = settled
        rest = limit if own is None else limit.clamp_min(settings.nuisance)
        return steps.damped, steps.full, settled & (steps.expected < rest)

    for _ in range(settings.max_iterations):
        if len(active) == 0:
            break
        step, full, done = look(active)
        stuck = ~done & (damping[active] > settings.max_damping)
        keep = ~(done | stuck)
        active, step, full = active[keep], step[keep], full[keep]
        if measure is not None and len(active):
            short = (full.abs() <= _SHORT * max_step).all(1)
            near = (short & (result.expected[active] < finish[active])).nonzero()[:, 0]
            if len(near):
                some = active[near]
                last = _finished(measure, tolerated, result, theta, some, full[near], lower, upper)
                finish[some] = (
                    result.expected[some] / 4
                )  # where it fails it is not tried again soon
                keep = torch.ones(len(active), dtype=torch.bool, device=active.device)
                keep[near[last]] = False
                active, step = active[keep], step[keep]
        if len(active) == 0:
            break
        low = torch.maximum(lower[active], theta[active] - max_step)
        high = torch.minimum(upper[active], theta[active] + max_step)
        step = _within(state, theta, active, step, damping, low, high, lower, upper)
        trial = theta[active] + _shortened(step, max_step)
        trial = torch.maximum(torch.minimum(trial, upper[active]), lower[active])
        there = evaluate(active, trial)
        result.n_iter[active] += 1
        better = there.chi2 < state.chi2[active]  # False for NaN
        accepted = active[better]
        theta[accepted] = trial[better]
        state.put(accepted, there.select(better.nonzero()[:, 0]))
        damping[active] = torch.where(
            better, (damping[active] / 8).clamp_min(1e-9), (damping[active] * 6).clamp_min(1e-3)
        )
    else:
        if len(active):
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
    taken = some[good]
    theta[taken] = trial[good]
    state.chi2[taken] = chi2[good]
    state.gradient[taken] = 0.0
    result.expected[taken] = remaining[good]
    result.converged[taken] = True
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
    cross = (at < low) | (at > high)
    some = cross.any(1).nonzero()[:, 0]
    if len(some) == 0:
        return step
    rows, held = active[some], cross[some]
    here = state.select(rows)
    ends = torch.maximum(torch.minimum(at[some], high[some]), low[some]) - theta[rows]
    fixed = torch.where(held, ends, torch.zeros_like(ends))
    here.gradient = here.gradient - (here.matrix @ fixed[..., None])[..., 0]
    blocked = against_bounds(theta[rows], state.gradient[rows], lower[rows], upper[rows])
    again = solve_damped(here, damping[rows], blocked | held).damped
    out = step.clone()
    out[some] = torch.where(held, fixed, again)
    return out


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
    own: torch.Tensor | None = None,
) -> Steps:
    """Steps of B problems, and what they are expected to gain.

    Rows and columns of blocked parameters are taken out. Where A is not positive definite to
    rounding, the expected decrease is infinite. ``own`` (D,) marks the wanted parameters.
    """
    free = (~blocked).to(state.matrix.dtype)
    scale = state.matrix.diagonal(dim1=1, dim2=2).clamp_min(1e-300).sqrt()
    inverse = free / scale
    g = state.gradient * inverse
    unit = state.matrix * inverse[:, :, None] * inverse[:, None, :]
    eye = torch.eye(unit.shape[-1], dtype=unit.dtype, device=unit.device)
    unit = unit * (1 - eye) + eye
    n_own = unit.shape[-1]
    if own is not None:  # last: the end of the factor then is that of their inverse covariance
        order = torch.cat([(~own).nonzero()[:, 0], own.nonzero()[:, 0]])
        n_own = int(own.sum())
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
    if own is not None:
        back = order.argsort()
        step, full = step[:, back], full[:, back]
    return Steps(step, full, expected, gain)
