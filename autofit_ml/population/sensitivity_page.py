"""``sensitivity.html``: maps, curves and tables of which second components can be seen."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import matplotlib.figure
import matplotlib.ticker
import numpy as np
from matplotlib.axes import Axes

from autofit_ml.population.sensitivity import FRACTION, Sensitivity
from autofit_ml.report.study import study_page

__all__ = ["sensitivity_figure", "sensitivity_page", "verdict_of"]

_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
_MOST = 6
"""Panels of each kind at most."""


def verdict_of(found: Sensitivity) -> list[str]:
    """Say what the map shows, a sentence a line."""
    false, blank = found.false_positives
    lines = [f"{false} of {blank} galaxies without a second component were given one."]
    least = np.asarray(found.limits["least_90"], dtype=float)
    if np.isfinite(least).any():
        lines.append(
            f"The least B/T that is seen in 90 % of galaxies is {np.nanmin(least):.3f} to "
            f"{np.nanmax(least):.3f}, by the other parameters"
            + ("; of some, none up to 0.5." if np.isnan(least).any() else ".")
        )
    elif len(least):
        lines.append("No B/T up to 0.5 is seen in 90 % of galaxies.")
    failed = int(np.sum(found.objects["failed"]))
    if failed:
        lines.append(f"{failed} of {len(found.objects)} galaxies could not be fitted.")
    return lines


def sensitivity_page(
    found: Sensitivity,
    axes: Mapping[str, Sequence[float]],
    models: tuple[str, str],
    places: int,
) -> str:
    """The page as HTML, self-contained.

    Parameters
    ----------
    found : Sensitivity
    axes : mapping of str to sequence of float
        The grid.
    models : (str, str)
        The simpler and the richer one.
    places : int
        Stamps that galaxies were put into.
    """
    simpler, richer = models
    return study_page(
        f"Sensitivity to {richer}",
        f"When is {richer} seen, and not {simpler}?",
        f"{len(found.objects)} galaxies were put into {places} empty stamps of the images, and "
        "both models were fitted to each. A model of two components is accepted if its BIC is "
        "lower.",
        sensitivity_figure(found, axes),
        [
            ("Least B/T that is seen", *_text_of(found.limits)),
            ("Cells", *_text_of(found.cells)),
        ],
        alt="Acceptance by B/T, and over the grid",
        caption="Points: accepted galaxies, with 95 % binomial intervals; lines: the logistic "
        "surface; maps: the surface, with contours at 50 and 90 %, over the cells that were "
        "injected.",
        verdict=verdict_of(found),
    )


def _text_of(table) -> tuple[list[str], list[list[str]]]:
    header = list(table.colnames)
    rows = [
        [f"{row[name]:.3g}" if np.isfinite(row[name]) else "-" for name in header] for row in table
    ]
    return header, rows


def sensitivity_figure(
    found: Sensitivity, axes: Mapping[str, Sequence[float]]
) -> matplotlib.figure.Figure:
    """Acceptance by B/T (upper row), and the surface over B/T and a second axis (lower row)."""
    others = [name for name in axes if name != FRACTION]
    along = others[0] if others else None
    further = others[1:]
    panels = list(itertools.product(*(axes[name] for name in further)))[:_MOST]
    figure = matplotlib.figure.Figure(figsize=(4.2 * len(panels), 7.2), layout="constrained")
    grid = figure.subplots(2, len(panels), squeeze=False)
    for k, values in enumerate(panels):
        at = dict(zip(further, values, strict=True))
        title = ", ".join(f"{name} {value:.3g}" for name, value in at.items())
        _curves(grid[0, k], found, axes, along, at)
        _map(grid[1, k], found, axes, along, at)
        grid[0, k].set_title(title, fontsize=10)
    return figure


def _curves(
    axis: Axes,
    found: Sensitivity,
    axes: Mapping[str, Sequence[float]],
    along: str | None,
    at: Mapping[str, float],
) -> None:
    shares = np.geomspace(axes[FRACTION][0] / 1.5, min(axes[FRACTION][-1] * 1.2, 0.95), 100)
    for k, value in enumerate(axes[along] if along else [0.0]):
        here = {**at, **({along: value} if along else {})}
        cells = found.cells[np.asarray(found.cells[FRACTION]) > 0]
        for name, wanted in here.items():
            cells = cells[np.isclose(np.asarray(cells[name]), wanted)]
        colour = _COLOURS[k % len(_COLOURS)]
        bars = [cells["p"] - cells["p_low"], cells["p_high"] - cells["p"]]
        label = f"{along} {value:.3g}" if along else None
        axis.errorbar(cells[FRACTION], cells["p"], yerr=np.clip(bars, 0, None), fmt="o", ms=4,
                      lw=1, capsize=2, color=colour, label=label)  # fmt: skip
        if found.selection is not None:
            axis.plot(shares, found.selection({FRACTION: shares, **here}), lw=1, color=colour)
    axis.set(xscale="log", ylim=(-0.03, 1.03), xlabel=FRACTION, ylabel="accepted")
    _plain_ticks(axis)
    if along:
        axis.legend(fontsize=8, frameon=False)


def _map(
    axis: Axes,
    found: Sensitivity,
    axes: Mapping[str, Sequence[float]],
    along: str | None,
    at: Mapping[str, float],
) -> None:
    if along is None or len(axes[along]) < 2 or found.selection is None:
        axis.axis("off")
        return
    shares = np.geomspace(axes[FRACTION][0] / 1.5, min(axes[FRACTION][-1] * 1.2, 0.95), 60)
    values = np.geomspace(min(axes[along]), max(axes[along]), 60)
    x, y = np.meshgrid(shares, values)
    p = found.selection({FRACTION: x, along: y, **at})
    axis.pcolormesh(x, y, p, cmap="Blues", vmin=0, vmax=1, shading="gouraud")
    lines = axis.contour(x, y, p, levels=[0.5, 0.9], colors=["#555", "#000"], linewidths=1)
    axis.clabel(lines, fmt=lambda level: f"{100 * level:.0f} %", fontsize=8)
    axis.set(xscale="log", yscale="log", xlabel=FRACTION, ylabel=along)
    _plain_ticks(axis)


def _plain_ticks(axis: Axes) -> None:
    for one, scale in ((axis.xaxis, axis.get_xscale()), (axis.yaxis, axis.get_yscale())):
        if scale == "log":
            one.set_major_locator(matplotlib.ticker.LogLocator(subs=(1, 2, 5)))
            one.set_major_formatter(matplotlib.ticker.FormatStrFormatter("%g"))
            one.set_minor_formatter(matplotlib.ticker.NullFormatter())
