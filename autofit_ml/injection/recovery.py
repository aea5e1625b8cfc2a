"""Recovery of injected galaxies, by magnitude and by size.

An injected galaxy is *recovered* if its row is usable (no fatal flag) and its centre is within the
larger of its half-light radius and two pixels of where it was put. Errors of flux, re and n are
those of the logarithm.
"""

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
        x, y, flux, re, n, q, pa, and ``zeropoint``, ``pixel_scale``.
    rows : mapping
        Id -> row of the catalogue.
    names : sequence of str
        Ids of the injected galaxies, in the order of `truth`.
    bins : int
        At most; fewer where there are few galaxies.
    """
    found = [rows.get(name, {}) for name in names]

    def column(source: Sequence[Mapping[str, float]], key: str) -> np.ndarray:
        return np.array([float(item.get(key, np.nan)) for item in source])

    put = {key: column(truth, key) for key in ("x", "y", *MEASURED)}
    apart = np.hypot(column(found, "x") - put["x"], column(found, "y") - put["y"])
    good = (column(found, "use") == 1) & (apart < np.maximum(put["re"], 2.0))
    table = Table({"id": list(names), "recovered": good})
    table["snr"] = np.where(good, column(found, "snr"), np.nan)
    table["pixel_scale"] = column(truth, "pixel_scale")
    table["brightness_true"] = -2.5 * np.log10(put["flux"])
    zeropoint = column(truth, "zeropoint")
    calibrated = len(truth) > 0 and bool(np.isfinite(zeropoint).all())
    if calibrated:
        table["brightness_true"] += zeropoint
    for key in MEASURED:
        value, error = (np.where(good, column(found, k), np.nan) for k in (key, f"{key}_err"))
        table[f"{key}_true"], table[key], table[f"{key}_err"] = put[key], value, error
        if key in _LOGARITHMIC:
            off, error = np.log(value / put[key]), error / value
        else:
            off = value - put[key]
        table[f"off_{key}"] = off
        table[f"pull_{key}"] = off / np.where(error > 0, error, np.nan)
    by_size = _binned(table, np.log(put["re"]), bins)
    for name in ("low", "high", "middle"):
        by_size[name] = np.exp(by_size[name])
    by_brightness = _binned(table, np.array(table["brightness_true"]), bins)
    return Recovery(table, by_brightness, by_size, "mag" if calibrated else "-2.5 log10 flux")


def _binned(table: Table, by: np.ndarray, bins: int) -> Table:
    """Bins of about equal numbers."""
    number = max(1, min(bins, len(table) // (2 * _LEAST)))
    edges = np.quantile(by, np.linspace(0, 1, number + 1)) if len(table) else np.zeros(2)
    bin_of = np.clip(np.searchsorted(edges, by, side="right") - 1, 0, number - 1)
    rows = []
    for k in range(number):
        some = table[bin_of == k]
        row: dict[str, float] = {
            "low": edges[k],
            "high": edges[k + 1],
            "middle": float(np.median(by[bin_of == k])) if len(some) else np.nan,
            "objects": len(some),
            "complete": float(np.mean(some["recovered"])) if len(some) else np.nan,
        }
        for key in MEASURED:
            off, pull = (np.array(some[f"{kind}_{key}"]) for kind in ("off", "pull"))
            off, pull = off[np.isfinite(off)], np.abs(pull[np.isfinite(pull)])
            # too few say nothing
            off, pull = (x if len(x) >= _LEAST else np.full(1, np.nan) for x in (off, pull))
            low, row[f"bias_{key}"], high = np.quantile(off, [0.15865, 0.5, 0.84135])
            row[f"scatter_{key}"] = (high - low) / 2
            row[f"coverage_{key}"] = float(np.mean(np.where(np.isnan(pull), pull, pull < 1)))
            row[f"factor_{key}"] = np.quantile(pull, 0.6827)
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
