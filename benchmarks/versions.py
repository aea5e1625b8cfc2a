"""Answers of two versions: python benchmarks/versions.py EARLIER [-n 40] [--only KIND ...]

Galaxies of five kinds are simulated, written as files with the true labels, and fitted by the
command line of this version and of an earlier one (a checkout at EARLIER), from the same starts
(moments). Printed for each kind: shifts of the target's parameters in the earlier version's errors
and the ratio of the errors, where both versions call the fit usable; fits whose chi2 differs by
more than 1 (other minima), and flags that both versions know and only one of them set.

A change that is to keep the answers: shifts of at most 0.05 (median) and 0.3 (99 %), 99 % of the
flags equal, no minimum higher.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from documents import markdown_table
from end_to_end import HERE, command, surroundings

from autofit_ml.simulation import (
    SimulatedObject,
    compose_recipe,
    export_fits,
    observe_scene,
    simulate_one,
    simulate_sersic,
)

PARAMETERS = ("x", "y", "flux", "re", "n", "q", "pa", "re_2", "flux_2", "q_2")


def _singles(n: int, seed: int, snr: tuple[float, float]) -> list[SimulatedObject]:
    return simulate_sersic(n, seed=seed, size=64, psf_fwhm=(2.5, 4), re=(2, 8), snr=snr, sky=10.0)


def _blends(n: int) -> list[SimulatedObject]:
    return simulate_sersic(
        n, seed=903, size=128, psf_fwhm=(2.5, 4), psf_size=31, snr=(20, 500), re=(2.5, 12),
        n=(0.5, 5.5), sky=20.0, neighbours=5.0,
    )  # fmt: skip


def _two(n: int) -> list[SimulatedObject]:
    recipe = compose_recipe(["data=bulge_disc"])
    return [simulate_one(recipe, k, 904) for k in range(n)]


def _bands(n: int) -> list[SimulatedObject]:
    rng, out = np.random.default_rng(905), []
    for one in _singles(n, 906, (20, 100)):
        for band, colour in zip("gri", (1.0, 1.4, 0.7), strict=True):
            target = one.target.replace(flux=one.target.flux * colour)
            name, shape = f"{one.id}_{band}", one.data.shape
            out.append(observe_scene(name, target, (), one.psf, shape, rng=rng, sky=10.0))
    return out


KINDS: dict[str, tuple[Callable[[int], list[SimulatedObject]], dict[str, str]]] = {
    "faint": (lambda n: _singles(n, 901, (5, 40)), {}),
    "bright": (lambda n: _singles(n, 902, (30, 300)), {}),
    "blends": (_blends, {}),
    "two components": (_two, {"model": "sersic+exp"}),
    "three bands": (_bands, {"bands": "g,r,i"}),
}
"""Kind -> what makes n of its galaxies, options of the fit."""

FLAGS = """
import json
from autofit_ml.catalogue import Flag
print(json.dumps({flag.name: int(flag) for flag in Flag}))
"""


def flags_of(tree: Path) -> dict[str, int]:
    """Names and bits of a version's flags."""
    words = [sys.executable, "-c", FLAGS]
    done = subprocess.run(words, capture_output=True, text=True, check=True, **surroundings(tree))
    return json.loads(done.stdout.splitlines()[-1])


def fitted(tree: Path, images: Path, out: Path, options: dict[str, str]) -> dict[str, np.ndarray]:
    """The catalogue that a version makes of a folder, by column."""
    fixed = {"segmenter": "given", "init": "moments", "save": "none"}
    done = subprocess.run(
        command(tree, images, out, fixed | options), capture_output=True, text=True, check=False,
        **surroundings(tree),
    )  # fmt: skip
    if done.returncode not in (0, 3):
        raise RuntimeError(f"exit status {done.returncode}: {done.stderr[-2000:]}")
    table = pq.read_table(out / "catalog.parquet")
    return {name: np.array(table[name].to_pylist()) for name in table.column_names}


def shifts(old: dict[str, np.ndarray], new: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """|change| / earlier error, and the ratio of errors, of fits that both versions call usable."""
    moved, ratio = [], []
    for name in PARAMETERS:
        if f"{name}_err" not in old:
            continue
        values, errors = (
            [t[key].astype(float) for t in (old, new)] for key in (name, f"{name}_err")
        )
        change = np.abs(values[1] - values[0])
        if name == "pa":
            change = np.minimum(change, 180 - change)
        good = old["use"] & new["use"] & (errors[0] > 0) & np.isfinite(change)
        moved.append(change[good] / errors[0][good])
        ratio.append(errors[1][good] / errors[0][good])
    return np.concatenate(moved), np.concatenate(ratio)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("earlier", type=Path, help="checkout of the earlier version")
    parser.add_argument("-n", type=int, default=40, help="galaxies of each kind")
    parser.add_argument("--only", nargs="+", choices=list(KINDS), default=list(KINDS))
    arguments = parser.parse_args()
    trees = arguments.earlier.resolve(), HERE
    known = [flags_of(tree) for tree in trees]
    common = sorted(known[0].keys() & known[1].keys())
    rows, remarks = [], []
    for kind in arguments.only:
        make, options = KINDS[kind]
        with tempfile.TemporaryDirectory() as name:
            export_fits(make(arguments.n), Path(name) / "images", labels=True)
            old, new = (
                fitted(tree, Path(name) / "images", Path(name) / "out", options) for tree in trees
            )
        if list(old["id"]) != list(new["id"]):
            raise RuntimeError(f"{kind}: the versions have different objects")
        moved, ratio = shifts(old, new)
        change = new["chi2"].astype(float) - old["chi2"].astype(float)
        bits = [
            {flag: (table["flags"] & bit[flag]) != 0 for flag in common}
            for table, bit in zip((old, new), known, strict=True)
        ]
        differ = Counter({flag: int((bits[0][flag] != bits[1][flag]).sum()) for flag in common})
        equal = 1 - sum(differ.values()) / (len(common) * len(change))
        quantiles = [f"{v:.3f}" for v in np.quantile(moved, (0.5, 0.9, 0.99, 1))]
        minima = [f"{(change < -1).sum()}", f"{(change > 1).sum()}"]
        row = [kind, f"{len(change)}", *quantiles, f"{np.nanmedian(ratio):.4f}", *minima]
        rows.append([*row, f"{100 * equal:.2f} %"])
        remarks += [f"{kind}: {flag} differs for {n}" for flag, n in differ.items() if n]
        print(rows[-1], flush=True)
    header = ["", "galaxies", "shift in sigma, median", "90 %", "99 %", "largest", "errors, ratio",
              "chi2 lower by > 1", "higher by > 1", "flags equal"]  # fmt: skip
    print("\n".join([markdown_table(header, rows), "", *remarks]))


if __name__ == "__main__":
    main()
