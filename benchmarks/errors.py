"""Are the errors right? python benchmarks/errors.py [-n 4000]

Noisy single Sérsic galaxies (64 x 64 pixels, n 0.5-6, re 2-8 px, q 0.1-1, S/N 10-1000, Moffat PSFs
of FWHM 2.5-5 px, free sky), default pipeline. Coverage is the fraction of usable objects whose true
value lies within the 1-sigma error; wrong minima are usable objects at S/N > 30 whose re is off by
both over 50 % and over 3 of its own sigma.

Bars (METHODS.md section 3): coverage 68 +- 3 % for each parameter overall and at S/N > 100, no bin
under 65 %; under 0.5 % wrong minima; at most 4 % unusable at S/N > 30.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
from default_pipeline import columns, fit_as_files
from documents import write_section
from truth import truth_of

from autofit_ml.catalogue import Flag
from autofit_ml.scenes import CATALOGUE_PARAMETERS
from autofit_ml.simulation import simulate_sersic

SNR_BINS = ((10, 30), (30, 100), (100, 300), (300, 1001))
N_BINS = ((0.5, 1.0), (1.0, 2.0), (2.0, 4.0), (4.0, 6.3))
RE_BINS = ((2.0, 3.0), (3.0, 5.0), (5.0, 8.1))


def coverage(values, errors, truth) -> np.ndarray:
    """|value - truth| < error, bool (N, 8)."""
    off = values - truth
    off[:, 6] = (off[:, 6] + 90) % 180 - 90
    return np.abs(off) < errors


def table(inside: np.ndarray, groups: dict[str, np.ndarray]) -> list[str]:
    """Markdown rows of coverage in per cent."""
    lines = [
        "| objects | N | " + " | ".join(CATALOGUE_PARAMETERS) + " |",
        "|---" * (2 + len(CATALOGUE_PARAMETERS)) + "|",
    ]
    for name, members in groups.items():
        cells = " | ".join(f"{100 * inside[members, i].mean():.1f}" for i in range(8))
        lines.append(f"| {name} | {int(members.sum())} | {cells} |")
    return lines


def main() -> None:
    """Simulate, fit, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-n", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument("--correlated", type=float, help="correlation of adjacent pixels' noise")
    arguments = parser.parse_args()
    began = time.time()
    objects = simulate_sersic(
        arguments.n,
        seed=arguments.seed,
        snr=(10.0, 1000.0),
        sky=(0.0, 50.0),
        correlated_noise=arguments.correlated,
    )
    print(f"simulated in {time.time() - began:.0f} s", flush=True)
    rows = fit_as_files(objects)
    values = columns(rows, CATALOGUE_PARAMETERS)
    errors = columns(rows, CATALOGUE_PARAMETERS, "_err")
    raised = np.asarray(rows["flags"], np.int64)
    truth = truth_of(objects)
    snr = np.array([o.snr for o in objects])
    use = np.asarray(rows["use"], bool)
    inside = coverage(values, errors, truth)
    groups = {"all usable": use, "S/N > 100": use & (snr > 100)}
    groups |= {f"S/N {a}-{min(b, 1000)}": use & (snr >= a) & (snr < b) for a, b in SNR_BINS}
    groups |= {f"n {a:g}-{b:g}": use & (truth[:, 4] >= a) & (truth[:, 4] < b) for a, b in N_BINS}
    groups |= {
        f"re {a:g}-{b:g} px": use & (truth[:, 3] >= a) & (truth[:, 3] < b) for a, b in RE_BINS
    }
    lines = table(inside, groups)
    bright = snr > 30
    off = np.abs(values[:, 3] - truth[:, 3])
    wrong = (off > 0.5 * truth[:, 3]) & (off > 3 * errors[:, 3])
    flags = ", ".join(
        f"{flag.name} {100 * ((raised & int(flag)) > 0).mean():.1f} %"
        for flag in Flag
        if (raised & int(flag)).any()
    )
    lines += [
        "",
        f"{arguments.n} galaxies, {100 * use.mean():.1f} % usable. At S/N > 30: "
        f"{100 * (~use[bright]).mean():.2f} % unusable, wrong minima "
        f"{100 * wrong[bright & use].mean():.2f} % of the usable ({int(wrong[bright & use].sum())} "
        f"of {int((bright & use).sum())}).",
        "",
        f"Flags: {flags}.",
        "",
        f"Statistical error of a coverage: {100 * np.sqrt(0.683 * 0.317 / use.sum()):.1f} % for "
        "all, and as 1/sqrt(N) for a part.",
    ]
    text = "\n".join(lines) + "\n"
    print(text)
    if arguments.n >= 2000 and not arguments.correlated:
        write_section("accuracy.md", "errors", text)
    main_rows = [100 * inside[groups[g]].mean(0) for g in ("all usable", "S/N > 100")]
    bins = [100 * inside[m].mean(0) for g, m in groups.items() if g != "all usable"]
    missed = (np.abs(np.array(main_rows) - 68) > 3).any() or (np.array(bins) < 65).any()
    missed |= (~use[bright]).mean() > 0.04 or wrong[bright & use].mean() > 0.005
    raise SystemExit(int(missed))


if __name__ == "__main__":
    main()
