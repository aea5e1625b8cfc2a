"""The default pipeline on the validation sets: python benchmarks/recovery.py [--sets single ...]

``single`` has the magnitudes, sizes and indices of the Euclid Morphology Challenge (Euclid
preparation XXVI, 2023): median bias, dispersion (half of the 16 to 84 % range) and fraction of re
off by over 0.5, in the challenge's bins of magnitude. ``blends`` are split by the share of other
sources in the target's light; galaxies of several components are compared by their total light
and half-light radius; frames by what is detected and matched within 2 pixels.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import time
from pathlib import Path

import numpy as np
from documents import markdown_table, write_section
from truth import fit

import autofit_ml
from autofit_ml.catalogue import usable
from autofit_ml.simulate import compose_recipe, export_fits, simulate_one

SETS = ("single", "blends", "bulge_disc", "realistic", "frame")
HEADER = (
    "set",
    "bin",
    "galaxies",
    "unusable",
    "re bias",
    "re dispersion",
    "re off by 0.5",
    "mag bias",
    "mag dispersion",
    "n bias",
    "n dispersion",
)


def summary(name: str, label: str, good: np.ndarray, re, mag, n) -> list[str]:
    """One row: `re` and `n` relative, `mag` differences, of usable fits."""

    def pair(values: np.ndarray) -> list[str]:
        values = values[np.isfinite(values)]
        if len(values) < 5:
            return ["", ""]
        low, middle, high = np.percentile(values, [16, 50, 84])
        return [f"{middle:+.3f}", f"{(high - low) / 2:.3f}"]

    used = re[good]
    off = f"{np.mean(abs(used) > 0.5):.3f}" if len(used) else ""
    return [
        name,
        label,
        str(len(good)),
        f"{np.mean(~good):.3f}",
        *pair(used),
        off,
        *pair(mag[good]),
        *pair(n[good]),
    ]


def stamps(name: str, count: int | None) -> list[list[str]]:
    """Rows of a set of stamps."""
    recipe = compose_recipe([f"data=validation/{name}"])
    objects = [simulate_one(recipe, k) for k in range(count or recipe.data.count)]
    results = fit(objects)
    truth = np.concatenate([item.truth[:1] for item in objects])
    good = usable(results.flags)
    x, y, flux, radius, index = results.values[:, :5].T
    re = radius / truth["re"] - 1
    mag = -2.5 * np.log10(np.maximum(flux, 1e-30) / truth["flux"])
    n = index / truth["n"] - 1
    if name == "single":
        edges = [20.5, 22.2, 23.2, 24.2, 25.3]
        chosen = [
            (f"I_E {low}-{high}", (truth["mag"] >= low) & (truth["mag"] < high))
            for low, high in itertools.pairwise(edges)
        ]
    elif name == "blends":
        share = truth["blend_fraction"]
        chosen = [
            ("others under 1 % of the light", share < 0.01),
            ("1-5 %", (share >= 0.01) & (share < 0.05)),
            ("5-20 %", (share >= 0.05) & (share < 0.2)),
            ("over 20 %", share >= 0.2),
        ]
    else:
        kinds = np.unique(truth["kind"])
        chosen = [(kind, truth["kind"] == kind) for kind in kinds]
    return [summary(name, text, good[k], re[k], mag[k], n[k]) for text, k in chosen if k.any()]


def frames(name: str, count: int | None) -> list[list[str]]:
    """Rows of a set of frames: galaxies brighter than the cut, matched within 2 pixels."""
    recipe = compose_recipe([f"data=validation/{name}"])
    objects = [simulate_one(recipe, k) for k in range(count or recipe.data.count)]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        export_fits(objects, Path(folder) / "images")
        table = autofit_ml.fit(
            Path(folder) / "images", out=Path(folder) / "results", mode="frame", save="none"
        )
        owner = np.array([str(name).rpartition("@")[0] for name in table["id"]])
        matched: list[tuple[float, bool, bool, float, float]] = []
        for item in objects:
            mine = table[owner == item.id]
            x, y = (np.asarray(mine[axis], dtype=float) for axis in ("x", "y"))
            for source in item.truth[item.truth["detectable"] & (item.truth["re"] > 0)]:
                distance = np.hypot(x - source["x"], y - source["y"])
                k = int(np.nanargmin(distance)) if np.isfinite(distance).any() else -1
                found = k >= 0 and distance[k] < 2
                use = bool(found and mine["use"][k])
                re = float(np.asarray(mine["re"])[k]) / source["re"] - 1 if found else np.nan
                flux = float(np.asarray(mine["flux"])[k]) if found else np.nan
                change = -2.5 * np.log10(max(flux, 1e-30) / source["flux"]) if found else np.nan
                matched.append((float(source["mag"]), bool(found), use, re, change))
    values = np.array(matched)
    for low, high in ((14, 18), (18, 20), (20, 21), (21, 22), (22, 22.7)):
        inside = (values[:, 0] >= low) & (values[:, 0] < high)
        found = inside & (values[:, 1] > 0)
        if not inside.any():
            continue
        label = f"r {low}-{high}, {found.sum()} of {inside.sum()} matched"
        good = values[found, 2] > 0
        nothing = np.full(found.sum(), np.nan)
        rows.append(summary(name, label, good, values[found, 3], values[found, 4], nothing))
    return rows


def main() -> None:
    """Fit the sets and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("-n", type=int, default=None, help="objects a set (default: all)")
    arguments = parser.parse_args()
    rows = []
    for name in arguments.sets:
        began = time.time()
        rows += (frames if name == "frame" else stamps)(name, arguments.n)
        print(f"{name}: {time.time() - began:.0f} s", flush=True)
    text = markdown_table(HEADER, rows)
    print(text)
    if arguments.n is None and list(arguments.sets) == list(SETS):
        write_section("simulation.md", "recovery", text)


if __name__ == "__main__":
    main()
