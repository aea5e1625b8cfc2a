"""Draws of one object's parameters, in the names and units of the catalogue."""

from collections.abc import Mapping

import numpy as np

from autofit_ml.profiles import N_MAX, N_MIN

__all__ = ["gaussian_draws", "named_draws"]

_POSITIVE = ("flux", "re", "n")
_TRIES = 20


def gaussian_draws(
    centre: Mapping[str, float], covariance: np.ndarray, n: int, random: np.random.Generator
) -> dict[str, np.ndarray]:
    """Draws of the Gaussian around a fit, in coordinates in which its errors are nearly Gaussian.

    Those are ln of flux, re and n, and for q and pa :math:`-\\ln q\\,(\\cos 2\\theta,
    \\sin 2\\theta)`; values outside of what is possible are drawn again.

    Parameters
    ----------
    centre : mapping
        Parameter -> value; the names of the catalogue.
    covariance : ndarray, (P, P)
        In the order of `centre`; rows of 0 for what is not fitted.
    n : int
    random : Generator

    Returns
    -------
    dict of ndarray, (n,)
        What is not fitted keeps its value; parameters without a value are left out.
    """
    names, at = list(centre), np.array(list(centre.values()))
    known = np.isfinite(at)
    free = known & (np.diagonal(covariance) > 0)
    slope = np.eye(len(names))
    pairs = [
        (names.index(name), names.index(name.replace("q", "pa", 1)))
        for name in names
        if name.partition("_")[0] == "q" and free[names.index(name)]
    ]
    for i, name in enumerate(names):
        if free[i] and name.partition("_")[0] in _POSITIVE and at[i] > 0:
            slope[i, i] = 1 / at[i]
    for i, j in pairs:
        turn = np.deg2rad(2 * (at[j] + 90))
        eta = max(-np.log(at[i]), 1e-3)
        slope[np.ix_([i, j], [i, j])] = [
            [-np.cos(turn) / at[i], -2 * eta * np.sin(turn) * np.pi / 180],
            [-np.sin(turn) / at[i], 2 * eta * np.cos(turn) * np.pi / 180],
        ]
    part = (slope @ covariance @ slope.T)[np.ix_(free, free)]
    scale = np.sqrt(np.diagonal(part))
    values, vectors = np.linalg.eigh(part / scale[:, None] / scale)
    root = scale[:, None] * vectors * np.sqrt(np.maximum(values, 0))
    out = np.tile(at, (n, 1))
    todo = np.arange(n)
    for _ in range(_TRIES):
        step = np.zeros((len(todo), len(names)))
        step[:, free] = random.standard_normal((len(todo), int(free.sum()))) @ root.T
        out[todo] = _moved(at, step, names, slope, pairs)
        todo = todo[_impossible(out[todo], names)]
        if not len(todo):
            break
    for i, name in enumerate(names):
        if name.partition("_")[0] == "n" and free[i]:
            out[:, i] = out[:, i].clip(N_MIN, N_MAX)
    return {name: out[:, i] for i, name in enumerate(names) if known[i]}


def _moved(
    at: np.ndarray,
    step: np.ndarray,
    names: list[str],
    slope: np.ndarray,
    pairs: list[tuple[int, int]],
) -> np.ndarray:
    """Catalogue values a step in the Gaussian's coordinates away."""
    out = at + step
    for i in range(len(names)):
        if slope[i, i] != 1 and not any(i in pair for pair in pairs):
            out[:, i] = at[i] * np.exp(step[:, i])
    for i, j in pairs:
        turn, eta = np.deg2rad(2 * (at[j] + 90)), -np.log(at[i])
        first, second = eta * np.cos(turn) + step[:, i], eta * np.sin(turn) + step[:, j]
        out[:, i] = np.exp(-np.hypot(first, second))
        pa = np.rad2deg(np.arctan2(second, first)) / 2 - 90
        out[:, j] = at[j] + (pa - at[j] + 90) % 180 - 90
    return out


def _impossible(values: np.ndarray, names: list[str]) -> np.ndarray:
    """Draws whose Sérsic index is outside of what is fitted."""
    bad = np.zeros(len(values), dtype=bool)
    for i, name in enumerate(names):
        if name.partition("_")[0] == "n":
            bad |= (values[:, i] < N_MIN) | (values[:, i] > N_MAX)
    return bad


def named_draws(draws: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Samples of a run by the names of the catalogue: ``exponential.re`` -> ``re_2``.

    Neighbours are left out; a parameter with a value in each band keeps the first's.
    """
    out: dict[str, np.ndarray] = {}
    components: list[str] = []
    for name, values in draws.items():
        component, dot, parameter = name.rpartition(".")
        if component.startswith("neighbour_"):
            continue
        parameter = parameter.partition("[")[0]
        if dot and component not in components:
            components.append(component)
        k = components.index(component) if dot else 0
        out.setdefault(f"{parameter}_{k + 1}" if k else parameter, np.asarray(values))
    return out
