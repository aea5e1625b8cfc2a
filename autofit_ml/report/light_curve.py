"""Pictures of light curves, and of the scenes that they come from."""

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from astropy.table import Table

__all__ = ["draw_light_curve", "light_curve_png"]

_COLOURS = {"difference": "#1f77b4", "scene": "#d95f02"}
_SHOWN = 3.0
_EPOCHS = 6
"""Epochs whose images are shown, at most."""


def draw_light_curve(axes: Any, table: Table, zeropoint: float = math.nan) -> None:
    """Draw fluxes with errors, and limits where they are not significant, into matplotlib axes.

    Parameters
    ----------
    axes : matplotlib.axes.Axes
    table : Table
        Columns of `autofit_ml.difference.LightCurve.table`.
    zeropoint : float
        Of the fluxes: a second axis of magnitudes.
    """
    methods = list(dict.fromkeys(table["method"]))
    known = np.isfinite(np.asarray(table["mjd"], float)).all()
    for number, method in enumerate(methods):
        rows = table[np.asarray(table["method"]) == method]
        flux, error = (np.asarray(rows[name], float) for name in ("flux", "flux_err"))
        when = np.asarray(rows["mjd"], float) if known else np.arange(len(rows), dtype=float)
        span = np.ptp(when) if len(when) > 1 else 1.0
        when = when + 0.004 * span * (number - (len(methods) - 1) / 2)
        colour = _COLOURS.get(method, "k")
        clear = flux >= _SHOWN * error
        some = {"color": colour, "capsize": 2, "elinewidth": 1}
        axes.errorbar(when[clear], flux[clear], error[clear], fmt="o", ms=4, label=method, **some)
        axes.errorbar(
            when[~clear], flux[~clear], error[~clear], fmt="o", ms=4, mfc="none", alpha=0.6,
            label=None if clear.any() else method, **some,
        )  # fmt: skip
        limits = np.asarray(rows["flux_limit"], float)
        axes.plot(when[~clear], limits[~clear], "v", ms=4, color=colour, alpha=0.6)
    axes.axhline(0, color="0.6", lw=0.8, zorder=0)
    axes.set_xlabel("MJD" if known else "epoch")
    axes.set_ylabel("flux (reference units)")
    if methods:
        axes.legend(frameon=False, fontsize=8)
    top = axes.get_ylim()[1]
    if math.isfinite(zeropoint) and top > 0:
        ticks = [top * share for share in (1.0, 0.5, 0.2)]
        second = axes.secondary_yaxis("right")
        second.set_yticks(ticks, [f"{zeropoint - 2.5 * math.log10(t):.2f}" for t in ticks])
        second.set_ylabel("magnitude")


def light_curve_png(
    name: str,
    table: Table,
    images: Mapping[str, Sequence[np.ndarray]] | None = None,
    zeropoint: float = math.nan,
) -> bytes:
    """Draw a light curve with some epochs of its scene.

    Parameters
    ----------
    name : str
    table : Table
    images : mapping, optional
        Epoch -> (data, host, source, sigma): rows of data, data without host, residual.
    zeropoint : float

    Returns
    -------
    bytes
        PNG.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = dict(images or {})
    if len(shown) > _EPOCHS:
        picked = np.linspace(0, len(shown) - 1, _EPOCHS).round().astype(int)
        shown = {list(shown)[k]: list(shown.values())[k] for k in picked}
    figure = Figure(figsize=(8, 7.5 if shown else 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    parts: Any = figure.subfigures(1 + bool(shown), 1, squeeze=False)[:, 0]
    axes = parts[0].subplots()
    draw_light_curve(axes, table, zeropoint)
    axes.set_title(name, fontsize=10)
    if shown:
        panels = parts[1].subplots(3, len(shown), squeeze=False)
        labels = ("data", "less host", "residual / sigma")
        for column, (epoch, (data, host, source, sigma)) in enumerate(shown.items()):
            noise = float(np.median(sigma))
            for row, (plane, unit) in enumerate(
                ((data, noise), (data - host, noise), (data - host - source, sigma))
            ):
                axes = panels[row, column]
                high = 5.0 if row else max(10.0, float(np.percentile(data / noise, 99.5)))
                low = -5.0 if row else -3.0
                axes.imshow(plane / unit, origin="lower", cmap="gray", vmin=low, vmax=high)
                axes.set_xticks([])
                axes.set_yticks([])
                if not row:
                    axes.set_title(epoch[:18], fontsize=7)
                if not column:
                    axes.set_ylabel(labels[row], fontsize=8)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()
