"""Noise-free galaxies: do we get back what was put in? python benchmarks/truth.py [-n 1000]

GalSim draws single Sérsic galaxies (64 x 64 pixels, n 0.5-6, re 2-8 px, q 0.1-1, Moffat PSFs of
FWHM 2.5-5 px on 25 x 25 pixels) without noise; the noise map is that of S/N 1000. The default
pipeline runs on them, as FITS files.

Bars: every parameter within 0.5 % (position within 0.01 px,
pa within 0.2 degrees where q < 0.9), no failures.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
from default_pipeline import columns, fit_as_files
from documents import write_section

from autofit_ml.scenes import CATALOGUE_PARAMETERS
from autofit_ml.simulation import simulate_sersic


def truth_of(objects) -> np.ndarray:
    """True parameters in the order of the fit's, (N, 8)."""
    return np.array(
        [
            [o.target.x, o.target.y, o.target.flux, o.target.re]
            + [o.target.n, o.target.q, o.target.pa, o.sky]
            for o in objects
        ]
    )


def deviations(values: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Differences: px, px, relative (4), degrees, relative (where there is a sky)."""
    out = values - truth
    out[:, 2:6] /= truth[:, 2:6]
    out[:, 7] /= np.where(truth[:, 7] > 0, truth[:, 7], 1.0)
    out[:, 6] = (out[:, 6] + 90) % 180 - 90
    return out


def main() -> None:
    """Simulate, fit, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-n", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=20)
    arguments = parser.parse_args()
    began = time.time()
    objects = simulate_sersic(
        arguments.n, seed=arguments.seed, noise=False, snr=(1000.0, 1000.0), sky=(5.0, 50.0)
    )
    print(f"simulated in {time.time() - began:.0f} s", flush=True)
    table = fit_as_files(objects)
    values = columns(table, CATALOGUE_PARAMETERS)
    truth = truth_of(objects)
    off = np.abs(deviations(values.copy(), truth))
    off[truth[:, 5] >= 0.9, 6] = 0.0
    bars = np.array([0.01, 0.01, 0.005, 0.005, 0.005, 0.005, 0.2, 0.005])
    names = ["x [px]", "y [px]", "flux", "re", "n", "q", "pa [deg], q < 0.9", "sky"]
    lines = ["| parameter | median | 99 % | worst | bar | outside |", "|---|---|---|---|---|---|"]
    for i, name in enumerate(names):
        column = off[:, i]
        lines.append(
            f"| {name} | {np.median(column):.1e} | {np.percentile(column, 99):.1e} | "
            f"{np.nanmax(column):.1e} | {bars[i]:g} | {int((~(column <= bars[i])).sum())} |"
        )
    bad = ~np.asarray(table["use"], bool)
    lines.append("")
    lines.append(f"{arguments.n} galaxies, {int(bad.sum())} flagged unusable.")
    text = "\n".join(lines) + "\n"
    print(text)
    worst = np.argsort(-np.nanmax(off / bars, axis=1))[:5]
    for i in worst:
        print(objects[i].id, np.round(truth[i], 3), np.round(values[i], 3), table["flags"][i])
    if arguments.n >= 1000:
        write_section("accuracy.md", "truth", text)
    raise SystemExit(int(bad.any() or not (off <= bars).all()))


if __name__ == "__main__":
    main()
