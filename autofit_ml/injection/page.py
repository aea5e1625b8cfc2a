"""``calibration.html``: figures and tables of an injection and recovery."""

from collections.abc import Sequence

import matplotlib.figure
import matplotlib.ticker
import numpy as np
from astropy.table import Table

from autofit_ml.injection.recovery import MEASURED, Recovery
from autofit_ml.report.study import study_page

__all__ = ["calibration_figure", "calibration_page"]

_LABELS = {"flux": "ln flux", "re": "ln re", "n": "ln n", "q": "q"}
_COLOURS = {"flux": "#0072b2", "re": "#d55e00", "n": "#009e73", "q": "#cc79a7"}


def calibration_page(
    recovery: Recovery,
    name: str,
    places: str,
    verdict: Sequence[str] = (),
    notes: Sequence[str] = (),
) -> str:
    """The page as HTML, self-contained.

    Parameters
    ----------
    recovery : Recovery
    name : str
        Of the results folder.
    places : str
        Where galaxies were put: "12 stamps, their objects replaced by sky".
    verdict : sequence of str
        See `autofit_ml.injection.verdict`.
    notes : sequence of str
    """
    what = "magnitude" if recovery.brightness == "mag" else recovery.brightness
    return study_page(
        f"Calibration of {name}",
        f"Injection and recovery: {name}",
        f"{len(recovery.objects)} galaxies like those of the catalogue were added to empty parts "
        f"of the same images ({places}) and fitted with the run's settings. "
        f"{100 * recovery.complete:.0f} % were recovered with a usable row.",
        calibration_figure(recovery),
        [
            (f"By {what}", *_cells(recovery.by_magnitude, what)),
            ("By half-light radius (pixels)", *_cells(recovery.by_size, "re")),
        ],
        alt="Bias, coverage and completeness",
        caption="Bias is the median, bars are the 16 and 84 % points of single galaxies. Coverage "
        "is the share of galaxies within one error of what was put in: 68.3 % if errors are right. "
        "The factor is what errors have to be multiplied with.",
        verdict=verdict,
        notes=notes,
    )


def _cells(table: Table, what: str) -> tuple[list[str], list[list[str]]]:
    header = [what, "galaxies", "recovered"]
    header += [f"{kind} {_LABELS[k]}" for k in MEASURED for kind in ("bias", "coverage", "factor")]
    rows = []
    for row in table:
        cells = [f"{row['low']:.2f} to {row['high']:.2f}", str(row["objects"])]
        cells.append(_share(row["complete"]))
        for key in MEASURED:
            cells.append(f"{row[f'bias_{key}']:+.3f}" if np.isfinite(row[f"bias_{key}"]) else "-")
            cells.append(_share(row[f"coverage_{key}"]))
            factor = row[f"factor_{key}"]
            cells.append(f"{factor:.2f}" if np.isfinite(factor) else "-")
        rows.append(cells)
    return header, rows


def _share(value: float) -> str:
    return f"{100 * value:.0f} %" if np.isfinite(value) else "-"


def calibration_figure(recovery: Recovery) -> matplotlib.figure.Figure:
    """Bias, coverage and completeness by magnitude (upper row) and by size."""
    figure = matplotlib.figure.Figure(figsize=(11, 6.4), layout="constrained")
    axes = figure.subplots(2, 3)
    what = "magnitude" if recovery.brightness == "mag" else recovery.brightness
    parts = ((recovery.by_magnitude, what), (recovery.by_size, "half-light radius / pixels"))
    for row, (table, label) in zip(axes, parts, strict=True):
        x = np.asarray(table["middle"], dtype=float)
        width = 0.02 * (np.ptp(x) or 1.0)
        for k, key in enumerate(MEASURED):
            style = {"color": _COLOURS[key], "label": _LABELS[key]}
            row[0].errorbar(
                x + (k - 1.5) * width * (label == what), table[f"bias_{key}"],
                yerr=table[f"scatter_{key}"], fmt="o-", ms=4, lw=1, capsize=2, **style,
            )  # fmt: skip
            row[1].plot(x, 100 * np.asarray(table[f"coverage_{key}"]), "o-", ms=4, lw=1, **style)
        row[0].axhline(0, color="grey", lw=0.8)
        row[1].axhline(68.3, color="grey", lw=0.8)
        row[2].plot(x, 100 * np.asarray(table["complete"]), "o-", color="#444", ms=4, lw=1)
        for axis, title in zip(
            row, ("bias and scatter", "coverage, %", "recovered, %"), strict=True
        ):
            axis.set(xlabel=label, ylabel=title)
        row[1].set_ylim(0, 105)
        row[2].set_ylim(0, 105)
        if label != what and np.isfinite(x).any():
            for axis in row:
                axis.set(xscale="log", xlim=(0.8 * np.nanmin(x), 1.25 * np.nanmax(x)))
                axis.xaxis.set_major_locator(matplotlib.ticker.LogLocator(subs=(1, 2, 5)))
                axis.xaxis.set_major_formatter(matplotlib.ticker.FormatStrFormatter("%g"))
                axis.xaxis.set_minor_formatter(matplotlib.ticker.NullFormatter())
    axes[0, 0].legend(fontsize=8, frameon=False)
    return figure
