"""What comes out of the default pipeline, by magnitude: python benchmarks/validation.py [--docs]

Simulated images with known truth are written as FITS files and fitted as ``autofit-ml fit`` does,
with nothing but defaults. Sets (``conf/data/validation``):

- ``realistic``: arms, bars, knots, irregulars with neighbours, KiDS r;
- ``bulge_disc``: bulges in inclined discs, KiDS r;
- ``single``: Sérsic profiles with the magnitudes, sizes and indices of the Euclid Morphology
  Challenge (Euclid preparation XXVI, 2023, A&A 671, A102) in Euclid VIS images;
- ``blends``: crowded stamps, HSC i, by the share of other sources in the target's light;
- ``frame``: SDSS frames, for completeness and purity of the detection as well.

Bias is a median, dispersion half of the 16 to 84 % range, of usable fits; re and n relative, mag
and q differences. Galaxies of several components are compared by their total light, half-light
radius and axis ratio; they have no single n.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from astropy.table import QTable, Table
from default_pipeline import column, fit_as_files
from documents import DOCS, machine, markdown_table, write_section

import autofit_ml
from autofit_ml.runs.segment import segment_run
from autofit_ml.settings import SegmentSettings
from autofit_ml.simulation import compose_recipe, export_fits, simulate_one

DOCUMENT = "validation.md"
STAMPS = ("realistic", "bulge_disc", "single", "blends")
NUMBER = {"realistic": 600, "bulge_disc": 600, "single": 1500, "blends": 500, "frame": 2}
CHALLENGE_EDGES = (20.5, 22.2, 23.2, 24.2, 25.3)
CHALLENGE = {
    "SourceXtractor++": ((0.012, 0.008, 0.001, -0.009), (0.028, 0.049, 0.100, 0.165),
                         (0.040, 0.051, 0.060, 0.057)),
    "ProFit": ((0.020, 0.016, 0.027, 0.071), (0.035, 0.052, 0.101, 0.181),
               (0.017, 0.023, 0.057, 0.159)),
    "DeepLeGATo": ((0.037, 0.031, 0.025, 0.043), (0.044, 0.048, 0.081, 0.113),
                   (0.024, 0.004, 0.003, 0.013)),
    "Galapagos-2": ((0.015, 0.014, 0.020, 0.047), (0.043, 0.055, 0.097, 0.183),
                    (0.014, 0.030, 0.079, 0.172)),
}  # fmt: skip
"""Published re: bias, dispersion, share off by over 0.5; bins about I_E 21.7, 22.7, 23.8, 24.8."""

PARAMETERS = ("re", "mag", "n", "q")


@dataclass(frozen=True)
class Sample:
    """A set after the fit.

    Attributes
    ----------
    truth : ndarray
        Structured, a row for each target.
    use : ndarray of bool
    off : dict
        Parameter -> difference from the truth (`PARAMETERS`).
    pull : dict
        x, y, flux, re, n, q -> difference over the error.
    seconds : float
        For an object, from files to catalogue.
    """

    truth: np.ndarray
    use: np.ndarray
    off: dict[str, np.ndarray]
    pull: dict[str, np.ndarray]
    seconds: float


def sample(name: str, count: int, **options: Any) -> Sample:
    """Simulate and fit a set of stamps."""
    recipe = compose_recipe([f"data=validation/{name}"])
    objects = [simulate_one(recipe, k) for k in range(count)]
    truth = np.concatenate([item.truth[:1] for item in objects])
    began = time.perf_counter()
    table = fit_as_files(objects, **options)
    seconds = (time.perf_counter() - began) / count
    return Sample(truth, np.asarray(table["use"], bool), *_compared(table, truth), seconds)


def _compared(
    table: QTable, truth: np.ndarray
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    with np.errstate(all="ignore"):
        off = {
            "re": column(table, "re") / truth["re"] - 1,
            "mag": -2.5 * np.log10(column(table, "flux") / truth["flux"]),
            "n": column(table, "n") / truth["n"] - 1,
            "q": column(table, "q") - truth["q"],
        }
        pull = {
            name: (column(table, name) - truth[name]) / column(table, f"{name}_err")
            for name in ("x", "y", "flux", "re", "n", "q")
        }
    return off, pull


# ------------------------------------------------------------------ tables


def _pair(values: np.ndarray) -> tuple[str, str]:
    values = values[np.isfinite(values)]
    if len(values) < 5:
        return "", ""
    low, middle, high = np.percentile(values, [15.87, 50, 84.13])
    return f"{middle:+.3f}", f"{(high - low) / 2:.3f}"


def _bins(name: str, truth: np.ndarray) -> list[tuple[str, np.ndarray]]:
    """Labels and members."""
    if name == "blends":
        share = truth["blend_fraction"]
        return [
            ("others under 1 % of the light", share < 0.01),
            ("1-5 %", (share >= 0.01) & (share < 0.05)),
            ("5-20 %", (share >= 0.05) & (share < 0.2)),
            ("over 20 %", share >= 0.2),
        ]
    magnitude = truth["mag"]
    edges: Sequence[float] = CHALLENGE_EDGES
    if name != "single":
        edges = np.round(np.quantile(magnitude, [0, 0.25, 0.5, 0.75, 1]), 1)
        edges[0], edges[-1] = magnitude.min(), magnitude.max() + 1e-6
    band = "I_E" if name == "single" else "r"
    return [
        (f"{band} {low:.1f}-{high:.1f}", (magnitude >= low) & (magnitude < high))
        for low, high in itertools.pairwise(edges)
    ]


def accuracy(samples: dict[str, Sample]) -> str:
    """Bias, dispersion, outliers of each set by magnitude (blends: by the others' light)."""
    rows = []
    for name, one in samples.items():
        for label, members in _bins(name, one.truth):
            good = members & one.use
            cells = [cell for key in PARAMETERS for cell in _pair(one.off[key][good])]
            far = np.abs(one.off["re"][good]) > 0.5
            rows.append(
                [
                    f"{name}, {label}",
                    str(members.sum()),
                    f"{100 * np.mean(~one.use[members]):.1f} %",
                    *cells[:2],
                    f"{np.mean(far):.3f}" if len(far) else "",
                    *cells[2:],
                ]
            )
    header = ["set, bin", "galaxies", "unusable", "re bias", "dispersion", "off by 0.5"]
    header += [text for name in ("mag", "n", "q") for text in (f"{name} bias", "dispersion")]
    return markdown_table(header, rows)


def challenge(fits: dict[str, Sample]) -> str:
    """Our re with each prior beside the published ones."""
    (first, *_) = fits.values()
    labels = [label for label, _ in _bins("single", first.truth)]
    header = ["re"]
    for what in ("bias", "dispersion", "off by 0.5"):
        header += [f"{what}, {labels[0]}", *labels[1:]]
    figures, rows = {}, []
    for name, one in fits.items():
        figures[name], all_fits = _published_terms(one)
        rows.append(_challenge_row(f"**{name}**", figures[name]))
        rows.append(["unusable ones counted as off", *[""] * 8, *(f"{v:.3f}" for v in all_fits)])
    rows += [_challenge_row(name, published) for name, published in CHALLENGE.items()]
    _figure(figures)
    return markdown_table(header, rows)


def _challenge_row(name: str, figures: Sequence[Sequence[float]]) -> list[str]:
    bias, dispersion, off = figures
    return [name, *(f"{v:+.3f}" for v in bias), *(f"{v:.3f}" for v in (*dispersion, *off))]


def _published_terms(one: Sample) -> tuple[list[list[float]], list[float]]:
    """Bias, dispersion and share off by 0.5 of usable fits; the last with the unusable as off."""
    bins = _bins("single", one.truth)
    ours: list[list[float]] = [[], [], []]
    all_fits: list[float] = []
    for _, members in bins:
        values = one.off["re"][members & one.use]
        low, middle, high = np.percentile(values, [15.87, 50, 84.13])
        ours[0].append(middle)
        ours[1].append((high - low) / 2)
        ours[2].append(float(np.mean(np.abs(values) > 0.5)))
        away = ~(np.abs(one.off["re"]) <= 0.5) | ~one.use
        all_fits.append(float(np.mean(away[members])))
    return ours, all_fits


def _figure(figures: dict[str, list[list[float]]]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    middle = (21.7, 22.7, 23.8, 24.8)
    figure, axes = plt.subplots(1, 3, figsize=(9.6, 3.2))
    titles = ("median bias of re", "dispersion of re", "share off by over 0.5")
    for axis, k, title in zip(axes, range(3), titles, strict=True):
        for name, published in CHALLENGE.items():
            axis.plot(middle, published[k], "o-", ms=3, lw=1, alpha=0.7, label=name)
        for style, (name, ours) in zip(("ks-", "kv:", "k^--"), figures.items(), strict=False):
            axis.plot(middle, ours[k], style, ms=5, lw=2, label=name)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("$I_E$")
        axis.grid(alpha=0.3)
    axes[0].axhline(0, color="k", lw=0.5)
    axes[0].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(DOCS / "figures" / "validation_challenge.png", dpi=110)
    plt.close(figure)


def errors(samples: dict[str, Sample]) -> str:
    """Coverage of one and two standard errors."""
    rows = []
    for name, one in samples.items():
        if name == "blends":
            continue
        for label, members in _bins(name, one.truth):
            good = members & one.use
            cells = []
            for key in ("x", "y", "flux", "re", "n", "q"):
                pull = one.pull[key][good]
                pull = np.abs(pull[np.isfinite(pull)])
                cells.append(
                    f"{100 * np.mean(pull < 1):.0f} / {100 * np.mean(pull < 2):.0f}"
                    if len(pull) > 4
                    else ""
                )
            rows.append([f"{name}, {label}", str(good.sum()), *cells])
    return markdown_table(["set, bin", "usable", "x", "y", "flux", "re", "n", "q"], rows)


# ------------------------------------------------------------------ frames


def frames(count: int) -> tuple[str, str]:
    """Detection by magnitude (network and sep), and the fits of what was matched."""
    recipe = compose_recipe(["data=validation/frame"])
    objects = [simulate_one(recipe, k) for k in range(count)]
    edges = (14.0, 18.0, 19.0, 20.0, 21.0, 21.5, 22.0, 22.7)
    with tempfile.TemporaryDirectory() as folder:
        images = export_fits(objects, Path(folder) / "images")
        rows = []
        for name in ("maskrcnn", "sep"):
            out = Path(folder) / name
            settings = SegmentSettings(mode="frame", segmenter=name, pictures=False)
            segment_run(images, out, settings)
            rows += _detection(name, objects, Table.read(out / "instances.ecsv"), edges)
        table = autofit_ml.fit(images, Path(folder) / "results", mode="frame", save="none")
        fits = _frame_fits(objects, table, edges)
    header = ["segmenter, magnitude", "galaxies", "found", "stars", "found", "detections", "real"]
    return markdown_table(header, rows), fits


def matched_galaxies(objects: Sequence[Any], table: QTable) -> tuple[np.ndarray, QTable]:
    """Detectable galaxies of frames with a fit within 2 pixels: their truth, and their rows."""
    truth, matched = [], []
    owner = np.array([str(one).rpartition("@")[0] for one in table["id"]])
    for item in objects:
        mine = np.flatnonzero(owner == item.id)
        x, y = column(table, "x")[mine], column(table, "y")[mine]
        for source in item.truth[item.truth["detectable"] & (item.truth["re"] > 0)]:
            distance = np.hypot(x - source["x"], y - source["y"])
            if np.isfinite(distance).any() and np.nanmin(distance) < 2:
                truth.append(source)
                matched.append(mine[np.nanargmin(distance)])
    return np.array(truth), table[matched]


def _frame_fits(objects: Sequence[Any], table: QTable, edges: Sequence[float]) -> str:
    known, some = matched_galaxies(objects, table)
    one = Sample(known, np.asarray(some["use"], bool), *_compared(some, known), 0.0)
    rows = []
    for low, high in itertools.pairwise(edges):
        members = (known["mag"] >= low) & (known["mag"] < high)
        if members.any():
            good = members & one.use
            cells = [c for key in ("re", "mag", "q") for c in _pair(one.off[key][good])]
            rows.append([f"r {low:g}-{high:g}", str(members.sum()),
                         f"{100 * np.mean(~one.use[members]):.0f} %", *cells])  # fmt: skip
    header = ["magnitude", "matched", "unusable"]
    header += [text for name in ("re", "mag", "q") for text in (f"{name} bias", "dispersion")]
    return markdown_table(header, rows)


def _detection(
    name: str, objects: Sequence[Any], instances: Table, edges: Sequence[float]
) -> list[list[str]]:
    """Matched within 2 pixels; a detection is real where any source of the truth is as near."""
    found: list[tuple[float, bool, bool]] = []  # magnitude, a galaxy, detected
    drawn: list[tuple[float, bool]] = []  # magnitude as detected, real
    zeropoint = compose_recipe(["data=validation/frame"]).survey.zeropoint
    for item in objects:
        mine = instances[np.asarray(instances["id"]) == item.id]
        x, y = column(mine, "x"), column(mine, "y")
        every = item.truth
        for source in every[every["detectable"]]:
            near = len(x) and np.min(np.hypot(x - source["x"], y - source["y"])) < 2
            found.append((float(source["mag"]), bool(source["re"] > 0), bool(near)))
        flux = column(mine, "flux")
        with np.errstate(all="ignore"):
            magnitude = zeropoint - 2.5 * np.log10(flux)
        for k in range(len(mine)):
            near = np.min(np.hypot(every["x"] - x[k], every["y"] - y[k])) < 3
            drawn.append((float(magnitude[k]), bool(near)))
    known, detected = np.array(found), np.array(drawn)
    rows = []
    for low, high in itertools.pairwise(edges):
        inside = (known[:, 0] >= low) & (known[:, 0] < high)
        seen = (detected[:, 0] >= low) & (detected[:, 0] < high)
        cells = []
        for kind in (1, 0):
            some = inside & (known[:, 1] == kind)
            cells += [str(some.sum()), f"{100 * known[some, 2].mean():.1f} %" if some.any() else ""]
        real = f"{100 * detected[seen, 1].mean():.1f} %" if seen.any() else ""
        rows.append([f"{name}, r {low:g}-{high:g}", *cells, str(seen.sum()), real])
    return rows


def main() -> None:
    """Fit the sets and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sets", nargs="+", choices=(*STAMPS, "frame"), default=list(NUMBER))
    parser.add_argument("-n", type=int, help="stamps of each set")
    parser.add_argument("--docs", action="store_true", help="write into docs/validation.md")
    arguments = parser.parse_args()
    print(machine())
    samples = {}
    for name in arguments.sets:
        if name in STAMPS:
            samples[name] = sample(name, arguments.n or NUMBER[name])
            print(f"{name}: {1e3 * samples[name].seconds:.0f} ms an object", flush=True)
    texts = {}
    if samples:
        texts |= {"accuracy": accuracy(samples), "coverage": errors(samples)}
    if "single" in samples:
        fits = {
            f"with --prior {prior}": sample("single", len(samples["single"].truth), prior=prior)
            for prior in ("none", "network")
        }
        fits["with --prior broad, the default"] = samples["single"]
        texts["challenge"] = challenge(fits)
    if "frame" in arguments.sets:
        texts["detection"], texts["frames"] = frames(NUMBER["frame"])
    for name, text in texts.items():
        print(f"\n{name}\n{text}")
        if arguments.docs:
            write_section(DOCUMENT, name, text)


if __name__ == "__main__":
    main()
