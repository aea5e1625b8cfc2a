"""Corner plots: every pair of parameters of one object, with 68 % and 95 % contours."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from autofit_ml.errors import SettingsError
from autofit_ml.extras import needs

__all__ = ["corner_figure"]

_QUANTILES = (0.1587, 0.5, 0.8413)


def corner_figure(
    draws: np.ndarray,
    names: Sequence[str],
    truths: Sequence[float] | np.ndarray | None = None,
) -> Figure:
    """Histograms on the diagonal, contours of the pairs below it, drawn by `corner`.

    Parameters
    ----------
    draws : ndarray, (N, D)
        Rows that are not finite are left out; a parameter that never moves has no panel.
    names : sequence of str
        Labels, D of them, with units if there are any.
    truths : sequence of float, optional
        Values to mark, NaN for none.

    Returns
    -------
    matplotlib.figure.Figure
        Made without pyplot: nothing to close. ``figure.savefig(path)``.

    Raises
    ------
    SettingsError
        Wrong number of names or truths, fewer than 20 draws, nothing that varies, or `corner` is
        not installed.
    """
    with needs("posterior", "a corner plot"):
        from corner import corner
    draws = np.asarray(draws, dtype=np.float64)
    marks = np.full(draws.shape[-1], np.nan) if truths is None else np.asarray(truths, float)
    if draws.ndim != 2 or not len(names) == len(marks) == draws.shape[1]:
        raise SettingsError(
            f"draws of shape {draws.shape}, {len(names)} names, {len(marks)} truths",
            "give draws of shape (N, D), D names and D truths",
        )
    draws = draws[np.isfinite(draws).all(1)]
    if len(draws) < 20:
        raise SettingsError(f"{len(draws)} draws are too few for a corner plot", "draw more")
    varies = np.ptp(draws, axis=0) > 0
    if not varies.any():
        raise SettingsError("no parameter varies", "every parameter is held fixed")
    # Very large or small numbers by a power of ten, which the label then carries.
    size = np.quantile(np.abs(draws[:, varies]), 0.95, axis=0)
    power = np.where((size >= 1e-2) & (size < 1e5) | (size == 0), 0, np.floor(np.log10(size)))
    draws, marks = draws[:, varies] / 10.0**power, marks[varies] / 10.0**power
    labels = [
        name if tens == 0 else rf"{name} / $10^{{{tens:.0f}}}$"
        for name, tens in zip(np.asarray(names)[varies], power, strict=True)
    ]
    bins = int(np.clip(round(1.6 * len(draws) ** (1 / 3)), 12, 40))
    side = max(2.8, 0.9 + 1.35 * len(labels))
    figure = Figure(figsize=(side, side), dpi=110, facecolor="white")
    corner(
        draws,
        bins=2 * bins,
        hist_bin_factor=0.5,
        range=[_range(values, mark) for values, mark in zip(draws.T, marks, strict=True)],
        labels=labels,
        titles=[_title(name, values) for name, values in zip(labels, draws.T, strict=True)],
        title_fmt=None,
        show_titles=True,
        title_kwargs={"fontsize": 8},
        label_kwargs={"fontsize": 8.5},
        quantiles=_QUANTILES,
        truths=[mark if np.isfinite(mark) else None for mark in marks],
        truth_color="#c8553d",
        levels=(0.68, 0.95),
        smooth=1.0,
        color="#2b6a99",
        plot_density=False,
        fill_contours=True,
        max_n_ticks=3,
        fig=figure,
        quiet=True,
    )
    figure.subplots_adjust(top=1 - 0.5 / side)
    for axes in figure.axes:
        axes.tick_params(labelsize=6.5)
    return figure


def _range(values: np.ndarray, mark: float) -> tuple[float, float]:
    """All but the outermost 0.3 % of the draws, widened, and the mark if there is one."""
    low, high = np.nanquantile(values, [0.0015, 0.9985])
    if high <= low:
        low, high = values.min(), values.max()
    margin = 0.08 * (high - low)
    return float(np.fmin(low, mark) - margin), float(np.fmax(high, mark) + margin)


def _title(name: str, values: np.ndarray) -> str:
    """Name, median and the way to the 16 % and 84 % quantiles, two lines."""
    low, middle, high = np.quantile(values, _QUANTILES)
    smallest = min(high - middle, middle - low)
    if not (smallest > 0 and math.isfinite(smallest)):
        return f"{name}\n{middle:.4g}"
    digits = int(np.clip(1 - math.floor(math.log10(smallest)), 0, 8))
    way = f"^{{+{high - middle:.{digits}f}}}_{{-{middle - low:.{digits}f}}}"
    return f"{name}\n${middle:.{digits}f}{way}$"
