"""True if errors are right, in words."""

import math
from dataclasses import dataclass

import numpy as np

from autofit_ml.injection.recovery import MEASURED, Recovery

__all__ = ["Judged", "judge", "verdict"]

_LEAST = 30
"""Recovered galaxies that are enough to judge errors by: a factor is then known to 18 %."""

_ONE_SIGMA = 0.6827


@dataclass(frozen=True)
class Judged:
    """Errors of one parameter over all recovered galaxies.

    Attributes
    ----------
    number : int
        Galaxies.
    coverage : float
        Share within one error of what was put in.
    factor, factor_err : float
        By what errors have to be multiplied for one error to hold 68.3 %, and its own error.
    bias, bias_err : float
        Median of what came out less what was put in (of the logarithm of flux, re and n).
    """

    number: int
    coverage: float
    factor: float
    factor_err: float
    bias: float
    bias_err: float

    @property
    def right(self) -> bool:
        """True if the factor is 1 within 2.5 times its error: of 20 right runs, one is not."""
        return abs(self.factor - 1) <= 2.5 * self.factor_err

    @property
    def biased(self) -> bool:
        """True if the bias is over three times its error."""
        return abs(self.bias) > 3 * self.bias_err


def judge(recovery: Recovery, name: str) -> Judged:
    """Judge the errors of one of flux, re, n, q.

    A quantile of n absolute pulls is known to sqrt(p (1 - p) / n) over their density there, 0.484 /
    factor for Gaussian ones; a median to 1.2533 times the scatter over the root of n.
    """
    pull = np.asarray(recovery.objects[f"pull_{name}"], dtype=float)
    known = np.isfinite(pull)
    pull, off = np.abs(pull[known]), np.asarray(recovery.objects[f"off_{name}"], float)[known]
    n = int(known.sum())
    if n == 0:
        return Judged(0, *[math.nan] * 5)
    factor = float(np.quantile(pull, _ONE_SIGMA))
    low, middle, high = np.quantile(off, [0.15865, 0.5, 0.84135])
    return Judged(
        n,
        float(np.mean(pull < 1)),
        factor,
        factor * math.sqrt(_ONE_SIGMA * (1 - _ONE_SIGMA) / n) / 0.484,
        float(middle),
        1.2533 * float(high - low) / 2 / math.sqrt(n),
    )


def verdict(recovery: Recovery, command: str, *, applied: bool = False) -> list[str]:
    """Say what follows for the run's errors, a sentence a line.

    Parameters
    ----------
    recovery : Recovery
    command : str
        That adds the factors to the catalogue.
    applied : bool
        It has been done.
    """
    judged = {name: judge(recovery, name) for name in MEASURED}
    number = max(one.number for one in judged.values())
    if number < _LEAST:
        return [
            f"{number} galaxies were recovered: too few to judge errors by ({_LEAST} are needed; "
            "give a larger --number)"
        ]
    lines = []
    right = [name for name, one in judged.items() if one.right]
    if right:
        known = 100 * max(judged[name].factor_err for name in right)
        lines.append(
            f"Errors of {_listed(right)} are right, to the {known:.0f} % that {number} galaxies "
            "can tell."
        )
    for name, one in judged.items():
        if not one.right:
            wrong = "small" if one.factor > 1 else "large"
            lines.append(
                f"Errors of {name} are too {wrong}: {100 * one.coverage:.0f} % of the galaxies are "
                f"within one error (68 % would be right). Multiply them by {one.factor:.2f} +- "
                f"{one.factor_err:.2f}."
            )
    for name, one in judged.items():
        if one.biased:
            size = f"{one.bias:+.3f}" if name == "q" else f"{100 * math.expm1(one.bias):+.1f} %"
            lines.append(f"{name} comes out wrong by {size} on average: no factor mends that.")
    if len(right) < len(judged):
        lines.append(
            "Factors by magnitude are in the catalogue: re_err * re_err_factor, and so on."
            if applied
            else f"To add factors by magnitude to the catalogue: {command}"
        )
    return lines


def _listed(names: list[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
