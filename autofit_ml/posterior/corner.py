"""Corner plots: every pair of parameters of one object, with 68 % and 95 % contours."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, ScalarFormatter
from scipy.ndimage import gaussian_filter

from autofit_ml.errors import SettingsError

__all__ = ["corner_figure", "density_levels"]

_CONTENTS = (0.95, 0.68)
_INK = "#20303c"
_COLOUR = "#2b6a99"
_TRUTH = "#c8553d"
_PANEL = 1.35
"""Inches."""


def corner_figure(
    draws: np.ndarray,
    names: Sequence[str],
    truths: Sequence[float] | np.ndarray | None = None,
) -> Figure:
    """Histograms on the diagonal, contours of the pairs below it.

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
        Wrong number of names or truths, fewer than 20 draws, or nothing that varies.
    """
    draws = np.asarray(draws, dtype=np.float64)
    marks = np.full(draws.shape[-1], np.nan) if truths is None else np.asarray(truths, float)
    if draws.ndim != 2 or not len(names) == len(marks) == draws.shape[1]:
        raise SettingsError(
            f"draws of shape {draws.shape}, {len(names)} names, {len(marks)} truths",
            "give draws of shape (N, D), D names and D truths",
        )
    draws = draws[np.isfinite(draws).all(1)].copy()
    if len(draws) < 20:
        raise SettingsError(f"{len(draws)} draws are too few for a corner plot", "draw more")
    varies = np.ptp(draws, axis=0) > 0
    if not varies.any():
        raise SettingsError("no parameter varies", "every parameter is held fixed")
    draws, marks = draws[:, varies], marks[varies].copy()
    names = [name for name, keep in zip(names, varies, strict=True) if keep]

    d = draws.shape[1]
    for i in range(d):
        draws[:, i], marks[i], names[i] = _rescaled(draws[:, i], marks[i], names[i])
    ranges = [_range(draws[:, i], marks[i]) for i in range(d)]
    side = max(2.8, 0.9 + _PANEL * d)
    figure = Figure(figsize=(side, side), dpi=110, facecolor="white")
    edge = 0.8 / side
    grid = figure.add_gridspec(
        d,
        d,
        left=edge,
        bottom=edge,
        right=1 - 0.25 / side,
        top=1 - 0.5 / side,
        wspace=0.06,
        hspace=0.06,
    )
    for row in range(d):
        for column in range(row + 1):
            axes = figure.add_subplot(grid[row, column])
            if row == column:
                _histogram(axes, draws[:, row], ranges[row], marks[row], names[row])
            else:
                pair = draws[:, [column, row]]
                _pair(axes, pair, (ranges[column], ranges[row]), marks[[column, row]])
            _decorate(axes, names, ranges, row, column, d)
    return figure


def density_levels(counts: np.ndarray) -> np.ndarray:
    """Densities above which 95 % and 68 % of all counts (non-negative, any shape) lie."""
    ordered = np.sort(counts.ravel())[::-1]
    reached = np.cumsum(ordered) / ordered.sum()
    return np.array(
        [ordered[min(int(np.searchsorted(reached, c)), ordered.size - 1)] for c in _CONTENTS]
    )


def _rescaled(values: np.ndarray, mark: float, name: str) -> tuple[np.ndarray, float, str]:
    """Very large or small numbers by a power of ten, which the label then carries."""
    size = float(np.quantile(np.abs(values), 0.95))
    if 1e-2 <= size < 1e5 or size == 0:
        return values, mark, name
    power = math.floor(math.log10(size))
    return values / 10.0**power, mark / 10.0**power, rf"{name} / $10^{{{power}}}$"


def _range(values: np.ndarray, mark: float) -> tuple[float, float]:
    """All but the outermost 0.3 % of the draws, widened, and the mark if it is near."""
    low, high = np.quantile(values, [0.0015, 0.9985])
    if high <= low:
        low, high = values.min(), values.max()
    margin = 0.08 * (high - low)
    low, high = low - margin, high + margin
    if np.isfinite(mark) and low - 10 * margin < mark < high + 10 * margin:
        low, high = min(low, mark - margin / 2), max(high, mark + margin / 2)
    return low, high


def _bins(n: int) -> int:
    return int(np.clip(round(1.6 * n ** (1 / 3)), 12, 40))


def _histogram(axes: Axes, values, span, mark, name: str) -> None:
    low, middle, high = np.quantile(values, [0.1587, 0.5, 0.8413])
    counts, edges = np.histogram(values, bins=_bins(len(values)), range=span)
    axes.stairs(counts, edges, fill=True, color=_COLOUR, alpha=0.25, linewidth=0)
    axes.stairs(counts, edges, color=_COLOUR, linewidth=1.1)
    for at, style in ((low, ":"), (middle, "-"), (high, ":")):
        axes.axvline(at, color=_INK, linewidth=0.9, linestyle=style)
    if np.isfinite(mark):
        axes.axvline(mark, color=_TRUTH, linewidth=1.2)
    axes.set_ylim(0, 1.12 * counts.max())
    axes.set_title(_measured(name, middle, high - middle, middle - low), fontsize=8, color=_INK)


def _measured(name: str, middle: float, plus: float, minus: float) -> str:
    """Name, median and the way to the 16 % and 84 % quantiles, two lines."""
    smallest = min(plus, minus)
    if not (smallest > 0 and math.isfinite(smallest)):
        return f"{name}\n{middle:.4g}"
    digits = int(np.clip(1 - math.floor(math.log10(smallest)), 0, 8))
    value = f"{middle:.{digits}f}^{{+{plus:.{digits}f}}}_{{-{minus:.{digits}f}}}"
    return f"{name}\n${value}$"


def _pair(axes: Axes, pair: np.ndarray, spans, marks) -> None:
    """Smoothed contours holding 68 % and 95 % of the draws; the draws outside as dots."""
    n = 2 * _bins(len(pair))
    counts, x_edges, y_edges = np.histogram2d(pair[:, 0], pair[:, 1], bins=n, range=spans)
    smooth = gaussian_filter(counts, 1.6, mode="constant")
    x, y = (x_edges[1:] + x_edges[:-1]) / 2, (y_edges[1:] + y_edges[:-1]) / 2
    levels = density_levels(smooth)
    column = np.clip(np.searchsorted(x_edges, pair[:, 0]) - 1, 0, n - 1)
    row = np.clip(np.searchsorted(y_edges, pair[:, 1]) - 1, 0, n - 1)
    outside = smooth[column, row] < levels[0]
    axes.plot(
        pair[outside, 0],
        pair[outside, 1],
        linestyle="none",
        marker="o",
        markersize=1.1,
        markeredgewidth=0,
        color=_COLOUR,
        alpha=0.5,
        rasterized=True,
    )
    if levels[0] < levels[1] < smooth.max():
        shade = [(*to_rgb(_COLOUR), alpha) for alpha in (0.25, 0.6)]
        axes.contourf(x, y, smooth.T, levels=[*levels, 1.01 * smooth.max()], colors=shade)
        axes.contour(x, y, smooth.T, levels=levels, colors=[_COLOUR], linewidths=0.9)
    if np.isfinite(marks[0]):
        axes.axvline(marks[0], color=_TRUTH, linewidth=0.9)
    if np.isfinite(marks[1]):
        axes.axhline(marks[1], color=_TRUTH, linewidth=0.9)
    if np.isfinite(marks).all():
        axes.plot(*marks, marker="s", markersize=3.5, color=_TRUTH)


def _decorate(axes: Axes, names: Sequence[str], ranges, row: int, column: int, d: int) -> None:
    axes.set_xlim(ranges[column])
    axes.xaxis.set_major_locator(MaxNLocator(3, prune="both"))
    if row != column:
        axes.set_ylim(ranges[row])
        axes.yaxis.set_major_locator(MaxNLocator(3, prune="both"))
    for axis in (axes.xaxis, axes.yaxis):
        formatter = ScalarFormatter(useOffset=False)
        formatter.set_scientific(False)
        axis.set_major_formatter(formatter)
    axes.tick_params(
        labelsize=6.5, length=2.5, width=0.6, colors=_INK, direction="in", top=row != column
    )
    axes.tick_params(axis="x", labelrotation=40, labelbottom=row == d - 1)
    axes.tick_params(axis="y", labelleft=column == 0 and row > 0, right=row != column)
    if row == column:
        axes.set_yticks([])
    if row == d - 1:
        axes.set_xlabel(names[column], fontsize=8.5, color=_INK)
        axes.xaxis.set_label_coords(0.5, -0.36)
    if column == 0 and row > 0:
        axes.set_ylabel(names[row], fontsize=8.5, color=_INK)
        axes.yaxis.set_label_coords(-0.4, 0.5)
    for spine in axes.spines.values():
        spine.set_linewidth(0.6)
        spine.set_color(_INK)
