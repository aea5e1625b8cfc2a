"""When a second component is seen: python benchmarks/sensitivity.py [-n 50] [--docs] [--out DIR]

``autofit-ml sensitivity`` with its defaults (networks, priors, BIC) on simulated SDSS-like images
of single Sérsic galaxies: bulges and discs over B/T, S/N and the ratio of sizes, put into the
images' own sky. The table of cells, the least B/T that is seen in half and in 90 % of galaxies, and
how well the logistic surface of one half of the galaxies foretells the other.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
from pathlib import Path

import numpy as np
from documents import DOCS, machine, markdown_table, write_section

from autofit_ml.population.sensitivity import FRACTION, Sensitivity, fit_selection
from autofit_ml.population.sensitivity_page import sensitivity_figure
from autofit_ml.runs.sensitivity import axes_of_map, sensitivity_run
from autofit_ml.settings import SensitivitySettings
from autofit_ml.simulation import compose_recipe, export_fits, simulate_one

GRID = "B/T=0.05:0.4:4:log,snr=60:400:3:log,re_ratio=0.2:0.5:2"
IMAGES = ("data=single", "survey=sdss-r", "data.shape=[80,80]", "data.galaxies.re=[3.5,9]",
          "data.target.snr=[60,300]")  # fmt: skip
PREDICTED = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0)


def cells(found: Sensitivity) -> str:
    """P(accepted) with its interval, by S/N and ratio of sizes (rows) and B/T."""
    table = found.cells
    shares = sorted(set(np.round(np.asarray(table[FRACTION]), 6)))
    rows = []
    for snr in sorted(set(table["snr"])):
        for ratio in sorted(set(table["re_ratio"])):
            row = [f"S/N {snr:.0f}, re ratio {ratio:.2g}"]
            for share in shares:
                own = table[(np.asarray(table["snr"]) == snr)
                            & np.isclose(np.asarray(table[FRACTION]), share)]  # fmt: skip
                if share > 0:
                    own = own[np.asarray(own["re_ratio"]) == ratio]
                p, low, high = (100 * float(own[name][0]) for name in ("p", "p_low", "p_high"))
                row.append(f"{p:.0f} ({low:.0f}-{high:.0f})")
            rows.append(row)
    return markdown_table(["accepted, %", *(f"B/T {share:.2g}" for share in shares)], rows)


def shares(found: Sensitivity) -> str:
    """Bias and scatter of B/T where two components were accepted."""
    table, rows = found.objects, []
    for share in sorted(set(np.asarray(found.cells[FRACTION]))):
        some = table[(np.asarray(table[FRACTION]) == share) & np.asarray(table["accepted"])]
        if share == 0 or len(some) < 5:
            continue
        off = np.asarray(some["fraction"]) - share
        low, middle, high = np.quantile(off, [0.1587, 0.5, 0.8413])
        within = np.mean(np.abs(off) < np.asarray(some["fraction_err"]))
        rows.append(
            [f"{share:.2g}", str(len(some)), f"{middle:+.3f}", f"{(high - low) / 2:.3f}",
             f"{100 * within:.0f} %"]
        )  # fmt: skip
    return markdown_table(["B/T", "accepted", "bias", "scatter", "within one error"], rows)


def limits(found: Sensitivity) -> str:
    """Least B/T at 50 and 90 %."""
    rows = []
    for row in found.limits:
        cells = [f"S/N {row['snr']:.0f}, re ratio {row['re_ratio']:.2g}"]
        for share in (50, 90):
            value, low, high = (row[f"{k}_{share}"] for k in ("least", "low", "high"))
            over = ">0.5" if np.isnan(high) else f"{high:.3f}"
            cells.append("over 0.5" if np.isnan(value) else f"{value:.3f} ({low:.3f}-{over})")
        rows.append(cells)
    return markdown_table(["", "seen in 50 %", "seen in 90 %"], rows)


def foretold(found: Sensitivity) -> str:
    """Acceptance of one half of the galaxies, by what the surface of the other half says."""
    table = found.objects[np.asarray(found.objects[FRACTION]) > 0]
    names = [FRACTION, "snr", "re_ratio"]
    x = np.column_stack([np.asarray(table[name], dtype=float) for name in names])
    accepted, half = np.asarray(table["accepted"]), np.arange(len(table)) % 2 == 0
    p = np.empty(len(table))
    for own in (half, ~half):
        surface = fit_selection(names, x[own], accepted[own])
        p[~own] = surface(dict(zip(names, x[~own].T, strict=True)))
    rows = []
    for low, high in itertools.pairwise(PREDICTED):
        some = (p >= low) & (p < high)
        if some.any():
            rows.append(
                [f"{100 * low:.0f}-{100 * high:.0f} %", str(some.sum()),
                 f"{100 * p[some].mean():.1f} %", f"{100 * accepted[some].mean():.1f} %"]
            )  # fmt: skip
    return markdown_table(["surface says", "galaxies", "mean", "accepted"], rows)


def main() -> None:
    """Simulate, map, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-n", type=int, default=50, help="galaxies of each cell")
    parser.add_argument("--images", type=int, default=40, help="images")
    parser.add_argument("--out", type=Path, help="keep the map there (and go on with it)")
    parser.add_argument("--docs", action="store_true", help="write into docs/sensitivity.md")
    arguments = parser.parse_args()
    print(machine())
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.out or Path(scratch)
        recipe = compose_recipe(list(IMAGES))
        if not (folder / "images").exists():
            objects = [simulate_one(recipe, k) for k in range(arguments.images)]
            export_fits(objects, folder / "images", tables=False)
        settings = SensitivitySettings(grid=GRID, number=arguments.n)
        summary = sensitivity_run(folder / "images", folder / "map", settings)
        found = summary.found
        false, blank = found.false_positives
        text = "\n\n".join([
            f"{len(found.objects)} galaxies in {summary.places} stamps, "
            f"{int(np.sum(found.objects['failed']))} not fitted; of {blank} without a second "
            f"component {false} were given one.",
            cells(found), limits(found), shares(found), foretold(found),
        ])  # fmt: skip
        print(text)
        if arguments.docs:
            write_section("sensitivity.md", "map", text)
            figure = sensitivity_figure(found, axes_of_map(settings))
            figure.savefig(DOCS / "figures" / "sensitivity.png", dpi=90)


if __name__ == "__main__":
    main()
