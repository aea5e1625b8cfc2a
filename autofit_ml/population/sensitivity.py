r"""When a second component is seen: the probability that a richer model is accepted.

In: injected galaxies of known parameters and whether the richer model won. Out: a table of cells
with binomial intervals, and a logistic surface over the parameters,

.. math:: \mathrm{logit}\,P = a_0(x) + a_1(x) \ln f + a_2(x) \ln(1 - f), \qquad
          a_i(x) = a_{i0} + \sum_k a_{ik} \ln x_k,

f the share of the first component (B/T), x the other parameters of the grid: a galaxy that is
nearly all bulge is one component again, sooner where bulge and disc are alike. The surface is the
selection function of a population of galaxies that are seen to have two components.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from astropy.table import Table
from scipy import special, stats

from autofit_ml.errors import InputError, SettingsError

__all__ = [
    "FRACTION",
    "LogisticSelection",
    "Sensitivity",
    "binomial_interval",
    "fit_selection",
    "least_fraction",
    "read_selection",
    "sensitivity_of",
]

FRACTION = "B/T"
"""Name of the share of the first component."""

_WIDE = 5.0
"""Standard deviation of the coefficients' prior, in units of the standardised terms: keeps them
finite where a parameter decides all."""

_LEVEL = 0.95
_STEPS = 60


@dataclass(frozen=True)
class LogisticSelection:
    """Probability of acceptance as a function of the parameters.

    Attributes
    ----------
    names : tuple of str
        Parameters, "B/T" first.
    coefficients : ndarray, (3 len(names),)
        Of `terms`.
    covariance : ndarray
        Of the coefficients.
    ranges : mapping of str to (float, float)
        Values that were injected; beyond them the surface is extrapolated.
    """

    names: tuple[str, ...]
    coefficients: np.ndarray
    covariance: np.ndarray
    ranges: Mapping[str, tuple[float, float]]

    def __call__(self, x: Mapping[str, Any]) -> np.ndarray:
        """Probability at some parameters.

        Parameters
        ----------
        x : mapping of str to ndarray or float
            Each of `names`, or its logarithm as ``ln_<name>``; B/T may be called ``fraction``.
            Shapes broadcast.

        Returns
        -------
        ndarray
            0 where the share is not above 0.

        Raises
        ------
        SettingsError
            A parameter is missing.
        """
        values = [self._value(x, name) for name in self.names]
        share = values[0]
        inside = (share > 0) & (share < 1)
        safe = np.where(inside, share, 0.5)
        with np.errstate(all="ignore"):
            terms = _terms(np.stack(np.broadcast_arrays(safe, *values[1:]), -1))
        return np.where(inside, special.expit(terms @ self.coefficients), 0.0)

    def _value(self, x: Mapping[str, Any], name: str) -> np.ndarray:
        for key in (name, *(("fraction", "bt") if name == FRACTION else ())):
            if key in x:
                return np.asarray(x[key], dtype=float)
            if f"ln_{key}" in x:
                return np.exp(np.asarray(x[f"ln_{key}"], dtype=float))
        raise SettingsError(
            f"the selection needs {name}", f"give {', '.join(self.names)}, or a name as ln_<name>"
        )

    @property
    def terms(self) -> tuple[str, ...]:
        """Terms that the coefficients belong to, as text."""
        shares = ("1", "ln f", "ln(1 - f)")
        others = ["", *(f" ln {name}" for name in self.names[1:])]
        return tuple(f"{share}{other}" for other in others for share in shares)

    def save(self, path: str | Path) -> None:
        """Write ``selection.json``; `read_selection` reads it."""
        from autofit_ml.catalogue import atomic_write_json

        atomic_write_json(
            Path(path),
            {
                "kind": "logistic",
                "names": list(self.names),
                "terms": list(self.terms),
                "coefficients": self.coefficients.tolist(),
                "covariance": self.covariance.tolist(),
                "ranges": {name: list(limits) for name, limits in self.ranges.items()},
            },
        )


def read_selection(path: str | Path) -> LogisticSelection:
    """Read the selection function that ``autofit-ml sensitivity`` wrote.

    Parameters
    ----------
    path : path
        ``selection.json``, or the folder of it.

    Raises
    ------
    InputError
        There is none, or it cannot be read.
    """
    file = Path(path)
    file = file / "selection.json" if file.is_dir() else file
    try:
        about = json.loads(file.read_text("utf-8"))
        if about["kind"] != "logistic":
            raise ValueError(f"kind {about['kind']!r}")
        return LogisticSelection(
            tuple(about["names"]),
            np.array(about["coefficients"], dtype=float),
            np.array(about["covariance"], dtype=float),
            {name: (float(low), float(high)) for name, (low, high) in about["ranges"].items()},
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"cannot be read as a selection: {error}", "give a folder of autofit-ml sensitivity",
            file,
        ) from error  # fmt: skip


def _terms(x: np.ndarray) -> np.ndarray:
    """1, ln f, ln(1 - f), and these times the logarithm of each other value, (..., 3 P).

    Of values (..., P), f first.
    """
    share = x[..., 0]
    shares = np.stack([np.ones_like(share), np.log(share), np.log1p(-share)], -1)
    others = [np.ones_like(share), *(np.log(x[..., k]) for k in range(1, x.shape[-1]))]
    return np.concatenate([shares * other[..., None] for other in others], -1)


def fit_selection(names: Sequence[str], x: np.ndarray, accepted: np.ndarray) -> LogisticSelection:
    """Fit the logistic surface.

    The maximum of the likelihood times a wide Gaussian of the standardised coefficients, by
    Newton's method.

    Parameters
    ----------
    names : sequence of str
        "B/T" first.
    x : ndarray, (N, P)
        Parameters of injected galaxies; shares between 0 and 1, all others positive.
    accepted : ndarray, bool, (N,)
    """
    x, y = np.asarray(x, dtype=float), np.asarray(accepted, dtype=float)
    terms = _terms(x)
    middle, scale = terms.mean(0), terms.std(0)
    known = scale > 1e-9
    known[0] = False
    unit = np.where(known, (terms - middle) / np.where(known, scale, 1.0), 0.0)
    unit[:, 0] = 1.0
    prior = np.full(unit.shape[1], _WIDE**-2)
    prior[0] = 1e-4
    beta = np.zeros(unit.shape[1])
    for _ in range(_STEPS):
        p = special.expit(unit @ beta)
        slope = unit.T @ (y - p) - prior * beta
        hessian = (unit * (p * (1 - p))[:, None]).T @ unit + np.diag(prior)
        step = np.linalg.solve(hessian, slope)
        beta += step * min(1.0, 3.0 / max(np.abs(step).max(), 1e-12))
        if np.abs(step).max() < 1e-9:
            break
    covariance = np.linalg.inv(hessian)
    # Back to the plain terms: beta_j / scale_j, and the constant that the shifts make.
    turn = np.diag(np.where(known, 1 / np.where(known, scale, 1.0), 0.0))
    turn[0, 0] = 1.0
    turn[0, 1:] = np.where(known, -middle / np.where(known, scale, 1.0), 0.0)[1:]
    ranges = {
        name: (float(column.min()), float(column.max()))
        for name, column in zip(names, x.T, strict=True)
    }
    return LogisticSelection(tuple(names), turn @ beta, turn @ covariance @ turn.T, ranges)


def least_fraction(
    selection: LogisticSelection, at: Mapping[str, float], probability: float
) -> tuple[float, float, float]:
    """Smallest share that is seen with some probability, and its 68.3 % interval.

    Parameters
    ----------
    selection : LogisticSelection
    at : mapping of str to float
        The other parameters.
    probability : float

    Returns
    -------
    value, low, high : float
        NaN where no share up to one half is seen that often; the interval by draws of the
        coefficients.
    """
    shares = np.geomspace(1e-3, 0.5, 400)
    others = np.array([[at[name] for name in selection.names[1:]]] * len(shares))
    terms = _terms(np.column_stack([shares, others.reshape(len(shares), -1)]))
    draws = np.random.default_rng(0).multivariate_normal(
        selection.coefficients, selection.covariance, 400, method="svd"
    )
    found = []
    for coefficients in (selection.coefficients, *draws):
        above = terms @ coefficients >= special.logit(probability)
        found.append(shares[above.argmax()] if above.any() else math.nan)
    value, spread = found[0], np.array(found[1:])
    if not np.isfinite(value):
        return math.nan, math.nan, math.nan
    low, high = np.quantile(np.nan_to_num(spread, nan=1.0), [0.15865, 0.84135])
    return float(value), float(low), float(high) if high <= 0.5 else math.nan


def binomial_interval(count: int, number: int, level: float = _LEVEL) -> tuple[float, float]:
    """Clopper and Pearson's interval of a share (1934, Biometrika 26, 404)."""
    tail = (1 - level) / 2
    low = 0.0 if count == 0 else float(stats.beta.ppf(tail, count, number - count + 1))
    high = 1.0 if count == number else float(stats.beta.ppf(1 - tail, count + 1, number - count))
    return low, high


@dataclass(frozen=True)
class Sensitivity:
    """Sensitivity to a richer model, from injected galaxies.

    Attributes
    ----------
    objects : Table
        One row for each galaxy: its cell, parameters, ``accepted``, ``failed``, ``delta_bic``
        (richer less simpler), ``fraction`` and its error.
    cells : Table
        One row for each cell: parameters, ``galaxies``, ``accepted`` and ``failed`` (numbers),
        ``p`` with ``p_low`` and ``p_high`` (95 %), ``bias`` and ``scatter`` of the share where the
        richer model was accepted.
    selection : LogisticSelection or None
        None where everything was accepted, or nothing.
    limits : Table
        Smallest share that is seen with 50 and 90 % probability, for each combination of the other
        parameters.
    """

    objects: Table
    cells: Table
    selection: LogisticSelection | None
    limits: Table

    @property
    def false_positives(self) -> tuple[int, int]:
        """Galaxies without a second component that were given one, and all of these."""
        none = np.asarray(self.objects[FRACTION]) == 0
        return int(np.sum(self.objects["accepted"][none])), int(none.sum())


def sensitivity_of(
    axes: Mapping[str, Sequence[float]],
    truth: Sequence[Mapping[str, float]],
    rows: Sequence[Mapping[str, Any]],
    *,
    margin: float = 0.0,
    stages: tuple[str, str] = ("simpler", "richer"),
) -> Sensitivity:
    """Compare what was injected with what two models say.

    Parameters
    ----------
    axes : mapping of str to sequence of float
        The grid; "B/T" first, without 0.
    truth : sequence of mapping
        For each galaxy ``id``, ``cell`` and the values of all axes.
    rows : sequence of mapping
        Rows of the catalogue, in the same order; empty where there is none.
    margin : float
        By which the BIC of the richer model must be lower.
    stages : (str, str)
        Names of the two models in the columns ``bic_<stage>``.
    """
    names = list(axes)

    def column(key: str) -> np.ndarray:
        return np.array([float(row[key]) if row.get(key) is not None else np.nan for row in rows])

    delta = column(f"bic_{stages[1]}") - column(f"bic_{stages[0]}")
    failed = ~np.isfinite(delta)
    table = Table({"id": [str(one["id"]) for one in truth]})
    table["cell"] = [int(one["cell"]) for one in truth]
    for name in names:
        table[name] = [float(one[name]) for one in truth]
    table["accepted"] = ~failed & (np.nan_to_num(delta, nan=np.inf) < -margin)
    table["failed"] = failed
    table["delta_bic"] = delta
    for name in ("fraction", "fraction_err"):
        table[name] = column(name)
    seen = np.asarray(table[FRACTION]) > 0
    some = table[seen]
    selection = None
    if 0 < np.sum(some["accepted"]) < len(some):
        values = np.column_stack([np.asarray(some[name], dtype=float) for name in names])
        selection = fit_selection(names, values, np.asarray(some["accepted"]))
    return Sensitivity(table, _cells(table, names), selection, _limits(axes, selection))


def _cells(table: Table, names: Sequence[str]) -> Table:
    rows = []
    for cell in np.unique(table["cell"]):
        some = table[np.asarray(table["cell"]) == cell]
        accepted = int(np.sum(some["accepted"]))
        low, high = binomial_interval(accepted, len(some))
        off = np.asarray(some["fraction"] - some[FRACTION])[np.asarray(some["accepted"])]
        off = off[np.isfinite(off)]
        spread = np.quantile(off, [0.15865, 0.5, 0.84135]) if len(off) else [np.nan] * 3
        rows.append(
            {"cell": int(cell)}
            | {name: float(some[name][0]) for name in names}
            | {"galaxies": len(some), "accepted": accepted, "failed": int(np.sum(some["failed"])),
               "p": accepted / len(some), "p_low": low, "p_high": high,
               "bias": float(spread[1]), "scatter": float(spread[2] - spread[0]) / 2}
        )  # fmt: skip
    return Table(rows)


def _limits(axes: Mapping[str, Sequence[float]], selection: LogisticSelection | None) -> Table:
    others = [name for name in axes if name != FRACTION]
    rows = []
    for values in itertools.product(*(axes[name] for name in others)):
        at = dict(zip(others, map(float, values), strict=True))
        row: dict[str, float] = {**at}
        for share in (50, 90):
            found = (math.nan,) * 3
            if selection is not None:
                found = least_fraction(selection, at, share / 100)
            keys = (f"least_{share}", f"low_{share}", f"high_{share}")
            row |= dict(zip(keys, found, strict=True))
        rows.append(row)
    return Table(rows)
