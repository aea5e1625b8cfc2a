"""What was found of injected galaxies, by magnitude and by size.

An injected galaxy is *recovered* if its row is usable (no fatal flag) and its centre is within the
larger of its half-light radius and two pixels of where it was put. Errors of flux, re and n are
those of the logarithm.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from astropy.table import Table

__all__ = ["MEASURED", "Recovery", "error_factor", "measure"]

MEASURED = ("flux", "re", "n", "q")
_LOGARITHMIC = ("flux", "re", "n")
_LEAST = 8
"""Objects in a bin."""


@dataclass(frozen=True)
class Recovery:
    """Figures of injected galaxies.

    Attributes
    ----------
    objects : astropy.table.Table
        One row for each injected galaxy: what was put in (``<name>_true``), what came out, errors,
        ``recovered``, ``pull_<name>``.
    by_magnitude, by_size : astropy.table.Table
        A row for each bin: ``low``, ``high``, ``middle``, ``objects``, ``complete``, and for each
        of flux, re, n, q ``bias_``, ``scatter_``, ``coverage_`` and ``factor_<name>``: by what
        errors have to be multiplied for 68.3 % intervals to hold 68.3 %.
    brightness : str
        What "magnitude" is: "mag" or, without a zero point, "-2.5 log10 flux".
    """

    objects: Table
    by_magnitude: Table
    by_size: Table
    brightness: str

    @property
    def complete(self) -> float:
        """Share of all injected galaxies that was recovered."""
        return float(np.mean(self.objects["recovered"])) if len(self.objects) else float("nan")


def measure(
    truth: Sequence[Mapping[str, float]],
    rows: Mapping[str, Mapping[str, float]],
    names: Sequence[str],
    bins: int = 6,
) -> Recovery:
    """Compare what was put in with what came out.

    Parameters
    ----------
    truth : sequence of mapping
        x, y, flux, re, n, q, pa, and ``zeropoint``.
    rows : mapping
        Id -> row of the catalogue.
    names : sequence of str
        Ids of the injected galaxies, in the order of `truth`.
    bins : int
        At most; fewer where there are few galaxies.
    """
    columns: dict[str, list[float]] = {}

    def put(name: str, value: float) -> None:
        columns.setdefault(name, []).append(value)

    for one, name in zip(truth, names, strict=True):
        row = rows.get(name, {})
        good = bool(row.get("use", False))
        if good:
            off = np.hypot(row["x"] - one["x"], row["y"] - one["y"])
            good = bool(off < max(one["re"], 2.0))
        put("recovered", good)
        put("snr", float(row.get("snr", np.nan)) if good else np.nan)
        put("brightness_true", one["zeropoint"] - 2.5 * np.log10(one["flux"]))
        for key in MEASURED:
            value = float(row[key]) if good else np.nan
            error = float(row[f"{key}_err"]) if good else np.nan
            put(f"{key}_true", one[key])
            put(key, value)
            put(f"{key}_err", error)
            if key in _LOGARITHMIC:
                off, error = np.log(value / one[key]), error / value
            else:
                off = value - one[key]
            put(f"off_{key}", off)
            put(f"pull_{key}", off / error if error > 0 else np.nan)
    table = Table({"id": list(names), **{name: np.array(v) for name, v in columns.items()}})
    calibrated = bool(np.isfinite(table["brightness_true"]).all()) if len(table) else False
    if not calibrated and len(table):
        table["brightness_true"] = -2.5 * np.log10(table["flux_true"])
    size = np.log(np.asarray(table["re_true"], dtype=float)) if len(table) else np.zeros(0)
    by_size = _binned(table, size, bins)
    for name in ("low", "high", "middle"):
        by_size[name] = np.exp(by_size[name])
    return Recovery(
        table,
        _binned(table, np.asarray(table["brightness_true"], dtype=float), bins),
        by_size,
        "mag" if calibrated else "-2.5 log10 flux",
    )


def _binned(table: Table, by: np.ndarray, bins: int) -> Table:
    """Bins of about equal numbers."""
    number = max(1, min(bins, len(table) // (2 * _LEAST)))
    edges = np.quantile(by, np.linspace(0, 1, number + 1)) if len(table) else np.zeros(2)
    rows = []
    for k in range(number):
        last = k == number - 1
        some = (by >= edges[k]) & ((by < edges[k + 1]) | last)
        row: dict[str, float] = {
            "low": edges[k],
            "high": edges[k + 1],
            "middle": float(np.median(by[some])) if some.any() else np.nan,
            "objects": int(some.sum()),
            "complete": float(np.mean(table["recovered"][some])) if some.any() else np.nan,
        }
        for key in MEASURED:
            off = np.asarray(table[f"off_{key}"][some], dtype=float)
            pull = np.abs(np.asarray(table[f"pull_{key}"][some], dtype=float))
            off, pull = off[np.isfinite(off)], pull[np.isfinite(pull)]
            enough = len(off) >= _LEAST
            low, middle, high = (
                np.quantile(off, [0.15865, 0.5, 0.84135]) if enough else [np.nan] * 3
            )
            row[f"bias_{key}"] = middle
            row[f"scatter_{key}"] = (high - low) / 2
            row[f"coverage_{key}"] = float(np.mean(pull < 1)) if len(pull) >= _LEAST else np.nan
            row[f"factor_{key}"] = np.quantile(pull, 0.6827) if len(pull) >= _LEAST else np.nan
        rows.append(row)
    return Table(rows)


def error_factor(recovery: Recovery, name: str, brightness: np.ndarray) -> np.ndarray:
    """Factor for the errors of objects of some brightness, interpolated between bins.

    Parameters
    ----------
    recovery : Recovery
    name : {"flux", "re", "n", "q"}
    brightness : ndarray
        Magnitudes (or -2.5 log10 flux, see `Recovery.brightness`).

    Returns
    -------
    ndarray
        NaN where the brightness is not known or no bin has enough objects; the outermost bins'
        beyond them.
    """
    table = recovery.by_magnitude
    x = np.asarray(table["middle"], dtype=float)
    y = np.asarray(table[f"factor_{name}"], dtype=float)
    good = np.isfinite(x) & np.isfinite(y)
    if not good.any():
        return np.full(np.shape(brightness), np.nan)
    order = np.argsort(x[good])
    out = np.interp(brightness, x[good][order], y[good][order])
    return np.where(np.isfinite(brightness), out, np.nan)
