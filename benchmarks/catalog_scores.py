"""Scores of a catalogue of stars and galaxies against the truth.

Both are tables with x, y, is_star or p_star, flux_<band>, re, q, pa, dev. The rows of
`celeste_errors` are those of the published comparison of Celeste with Photo (Regier et al. 2019,
Ann. Appl. Stat. 13, 1884): nearest neighbour within 0.396 arcsec; a star at P > 0.5; "missed" is
the wrong type among the matched; profile, axis ratio, scale and angle of true galaxies whose
de Vaucouleurs share is <= 0.05 or >= 0.95, the angle (min(d, 180 - d)) only at q <= 0.6; truth of
a radius over 20 pixels is left out.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
from scipy.spatial import cKDTree

__all__ = [
    "CELESTE", "ROWS", "celeste_errors", "classification", "coverage", "detection", "error_rows",
    "magnitude", "match", "means", "reliability",
]  # fmt: skip

ARCSEC = 1.0
"""Pixels in 0.396 arcsec, the pixel of SDSS: how near a match is."""

ZEROPOINT = 22.5
LARGEST_RADIUS = 20.0
COLOURS = ("u-g", "g-r", "r-i", "i-z")

ROWS = {
    "missed stars": 3, "missed galaxies": 3, "position (pixels)": 3, "r (mag)": 3, "u-g": 3,
    "g-r": 3, "r-i": 3, "i-z": 3, "profile": 3, "axis ratio": 3, "scale (pixels)": 3,
    "angle (degrees)": 1,
}  # fmt: skip
"""Rows of the table -> decimals."""

CELESTE = {
    "Photo": (0.071, 0.038, 0.271, 0.180, 1.02, 0.329, 0.203, 0.379, 0.229, 0.204, 1.254, 15.0),
    "Celeste-VI": (0.061, 0.028, 0.268, 0.172, 0.575, 0.169, 0.115, 0.173, 0.162, 0.143, 0.630,
                   13.0),
    "MCMC": (0.133, 0.010, 0.269, 0.182, 0.564, 0.168, 0.113, 0.181, 0.315, 0.110, 0.545, 12.8),
}  # fmt: skip
"""Published: single SDSS frames of Stripe 82 against the coadd."""

Columns = Mapping[str, np.ndarray]


def column(table: Columns, name: str) -> np.ndarray:
    """A column as float64, NaN where masked; all NaN where there is none."""
    try:
        values = table[name]
    except KeyError:
        return np.full(len(np.asarray(table["x"])), np.nan)
    return np.ma.filled(np.ma.asarray(getattr(values, "value", values), dtype=float), np.nan)


def magnitude(flux: np.ndarray) -> np.ndarray:
    """AB magnitude of nanomaggies; NaN where not positive."""
    with np.errstate(all="ignore"):
        return np.where(flux > 0, ZEROPOINT - 2.5 * np.log10(np.maximum(flux, 1e-300)), np.nan)


def colour(table: Columns, name: str) -> np.ndarray:
    """A colour of `COLOURS`, mag."""
    blue, red = (magnitude(column(table, f"flux_{band}")) for band in name.split("-"))
    return blue - red


def match(truth: Columns, found: Columns, within: float = ARCSEC) -> tuple[np.ndarray, np.ndarray]:
    """Rows of truth and catalogue that are each other's nearest neighbour, and so near."""
    places = [np.stack([column(t, "x"), column(t, "y")], axis=1) for t in (truth, found)]
    if min(map(len, places)) == 0:
        return np.zeros(0, int), np.zeros(0, int)
    gap, nearest = cKDTree(places[1]).query(places[0])
    _, back = cKDTree(places[0]).query(places[1])
    rows = np.flatnonzero((gap <= within) & (back[nearest] == np.arange(len(places[0]))))
    return rows, nearest[rows]


def error_rows(truth: Columns, found: Columns) -> dict[str, np.ndarray]:
    """Absolute errors of matched tables (row k of both is one source), NaN where not counted."""
    star, called_star = column(truth, "is_star") > 0.5, column(found, "p_star") > 0.5
    counted = ~(column(truth, "re") > LARGEST_RADIUS)
    share, q = column(truth, "dev"), column(truth, "q")
    shaped = ~star & ~((share > 0.05) & (share < 0.95)) & np.isfinite(share)
    turn = np.abs(column(found, "pa") - column(truth, "pa")) % 180
    values = {
        "missed stars": np.where(star, ~called_star, np.nan),
        "missed galaxies": np.where(~star, called_star, np.nan),
        "position (pixels)": np.hypot(*(column(found, k) - column(truth, k) for k in ("x", "y"))),
        "r (mag)": magnitude(column(found, "flux_r")) - magnitude(column(truth, "flux_r")),
    }
    values |= {name: colour(found, name) - colour(truth, name) for name in COLOURS}
    shapes = {
        "profile": column(found, "dev") - share,
        "axis ratio": column(found, "q") - q,
        "scale (pixels)": column(found, "re") - column(truth, "re"),
        "angle (degrees)": np.where(q <= 0.6, np.minimum(turn, 180 - turn), np.nan),
    }
    values |= {name: np.where(shaped, off, np.nan) for name, off in shapes.items()}
    return {name: np.where(counted, np.abs(values[name]), np.nan) for name in ROWS}


def celeste_errors(truth: Columns, found: Columns) -> dict[str, np.ndarray]:
    """`error_rows` of the sources that both have."""
    rows, theirs = match(truth, found)
    return error_rows(chosen(truth, rows), chosen(found, theirs))


def chosen(table: Columns, rows: np.ndarray) -> dict[str, np.ndarray]:
    """Some rows of the numerical columns."""
    names = getattr(table, "colnames", None) or list(table)
    out = {}
    for name in names:
        if np.asarray(table[name]).dtype.kind in "fiub" and np.ndim(table[name]) == 1:
            out[name] = column(table, name)[rows]
    return out


def means(errors: Mapping[str, np.ndarray]) -> dict[str, tuple[float, float, int]]:
    """Mean, its standard error and number of each row."""
    out = {}
    for name, values in errors.items():
        good = values[np.isfinite(values)]
        n = len(good)
        spread = float(np.std(good, ddof=1) / np.sqrt(n)) if n > 1 else np.nan
        out[name] = (float(good.mean()) if n else np.nan, spread, n)
    return out


def detection(
    truth: Columns, found: Columns, edges: Sequence[float], within: float = 2.0
) -> list[dict[str, float]]:
    """Completeness by true, purity by measured r magnitude, and F1, in bins.

    A source is found where a row lies within 2 pixels, one row for each source; a row is real
    where it was matched.
    """
    rows, theirs = match(truth, found, within)
    true, seen = (magnitude(column(table, "flux_r")) for table in (truth, found))
    matched = [np.zeros(len(true), bool), np.zeros(len(seen), bool)]
    matched[0][rows], matched[1][theirs] = True, True
    out = []
    for low, high in itertools.pairwise(edges):
        inside = [(values >= low) & (values < high) for values in (true, seen)]
        shares = [float(m[i].mean()) if i.any() else np.nan
                  for m, i in zip(matched, inside, strict=True)]  # fmt: skip
        f1 = 2 * shares[0] * shares[1] / sum(shares) if sum(shares) > 0 else np.nan
        out.append({"low": low, "high": high, "n": int(inside[0].sum()), "rows":
                    int(inside[1].sum()), "completeness": shares[0], "purity": shares[1],
                    "f1": f1})  # fmt: skip
    return out


def classification(
    truth: Columns, found: Columns, edges: Sequence[float]
) -> list[dict[str, float]]:
    """Share of matched stars and galaxies with the right type, by true r magnitude."""
    rows, theirs = match(truth, found)
    star = column(truth, "is_star")[rows] > 0.5
    right = (column(found, "p_star")[theirs] > 0.5) == star
    true = magnitude(column(truth, "flux_r"))[rows]
    out = []
    for low, high in itertools.pairwise(edges):
        line: dict[str, float] = {"low": low, "high": high}
        for name, kind in (("stars", star), ("galaxies", ~star)):
            some = kind & (true >= low) & (true < high)
            line[f"n_{name}"] = int(some.sum())
            line[name] = float(right[some].mean()) if some.any() else np.nan
        out.append(line)
    return out


def reliability(
    p_star: np.ndarray,
    is_star: np.ndarray,
    edges: Sequence[float] = (0, 0.02, 0.1, 0.3, 0.7, 0.9, 0.98, 1.0001),
) -> tuple[list[dict[str, float]], float, float]:
    """Bins of the probability; the mean of |share - probability| over all sources; Brier score."""
    lines, off = [], 0.0
    for low, high in itertools.pairwise(edges):
        some = (p_star >= low) & (p_star < high)
        n = int(some.sum())
        if n == 0:
            continue
        told, share = float(p_star[some].mean()), float(is_star[some].mean())
        error = float(np.sqrt(max(told * (1 - told), 1e-9) / n))
        lines.append({"low": low, "high": high, "n": n, "p": told, "share": share,
                      "error": error})  # fmt: skip
        off += n * abs(share - told)
    return lines, off / max(len(p_star), 1), float(np.mean((p_star - is_star) ** 2))


def coverage(off: np.ndarray, error: np.ndarray, width: float = 1.0) -> tuple[float, float, int]:
    """Share of |off| < width * error, its binomial error, and the number that has both."""
    good = np.isfinite(off) & np.isfinite(error) & (error > 0)
    n = int(good.sum())
    share = float((np.abs(off[good]) < width * error[good]).mean()) if n else np.nan
    return share, float(np.sqrt(max(share * (1 - share), 1e-9) / n)) if n else np.nan, n
