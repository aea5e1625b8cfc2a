"""Do errors hold on galaxies that no Sérsic profile describes? python benchmarks/model_error.py

Sets of another seed than those of the calibration (`training/errors.py`), in a survey that it knew
and in one that it did not, fitted with one Sérsic profile. Each family is judged twice: with the
installed coefficients, and with coefficients that were measured without that family.

Bars, by S/N: 68 % of flux, re, q, x, y within 1 error to +- 6 (a new seed, a new survey), to +- 12
(an unseen family); pure Sérsic profiles to +- 3, their median error at most 1.1 times that of the
noise.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Iterator, Sequence

import numpy as np
from documents import markdown_table, write_section

from autofit_ml.fitting.model_error import ErrorModel
from autofit_ml.weights import load
from training.errors import (
    COLUMNS,
    SNR_EDGES,
    Calibration,
    Measured,
    calibrate,
    errors_of,
    measured,
    settings,
)

SEED = 202
NEW_SURVEY = "kids-r"
SHOWN = ("flux", "re", "q", "x", "y")
BAR = {"seed": 6.0, "survey": 6.0, "family": 12.0}


def within(errors: np.ndarray, some: Measured, b: int, name: str, size: float = 1.0) -> float:
    """Per cent of a range of S/N within so many errors."""
    j = COLUMNS.index(name)
    at = (some.bins == b) & np.isfinite(some.off[:, j])
    return 100 * float(np.mean(np.abs(some.off[at, j]) < size * errors[at, j]))


def rows(label: str, some: Measured, model: ErrorModel, bar: float) -> Iterator[list[str]]:
    """A row for each range of S/N; bold: beyond the bar by more than its own 95 % interval."""
    total, noise = errors_of(model, some), np.sqrt(np.diagonal(some.covariance, 0, 1, 2))
    for b, low in enumerate(SNR_EDGES[:-1]):
        n = int((some.bins == b).sum())
        if n < 20:
            continue
        cells = []
        slack = 1.96 * 100 * np.sqrt(0.683 * 0.317 / n)
        for name in SHOWN:
            share, j = within(total, some, b, name), COLUMNS.index(name)
            before = within(noise, some, b, name)
            ratio = np.median((total / noise)[some.bins == b, j])
            missed = abs(share - 68.3) > bar + slack
            text = f"{share:.0f}"
            cells.append(f"{before:.0f} → {f'**{text}**' if missed else text} (× {ratio:.2g})")
        two = [within(total, some, b, name, 2.0) for name in SHOWN]
        upper = "" if np.isinf(SNR_EDGES[b + 1]) else f"-{SNR_EDGES[b + 1]:g}"
        yield [
            f"{label}, S/N {'> ' if not upper else ''}{low:g}{upper}",
            str(n), f"± {slack:.0f}", *cells, f"{min(two):.0f}-{max(two):.0f}",
        ]  # fmt: skip


def tables(calibration: Calibration, number: int | None) -> dict[str, list[list[str]]]:
    """Rows by section; `number`: galaxies of each test set, None as many as were learned from."""
    trained = {
        family: Measured.join(
            [measured(calibration, family, one, calibration.seed) for one in calibration.surveys]
        )
        for family in calibration.families
    }
    known = calibration.surveys[0]
    judges = calibration
    if number is not None:
        families = {name: {**one, "count": number} for name, one in calibration.families.items()}
        judges = dataclasses.replace(calibration, families=families)
    tests = {
        (family, survey): measured(judges, family, survey, SEED)
        for family in calibration.families
        for survey in (known, NEW_SURVEY)
    }
    installed = load(calibration.name)
    out: dict[str, list[list[str]]] = {"realistic": [], "family": [], "sersic": []}
    for (family, survey), some in tests.items():
        kind = "survey" if survey == NEW_SURVEY else "seed"
        if family == "sersic":
            out["sersic"] += rows(survey, some, installed, 3.0)
            continue
        label = f"{family}, {survey}"
        out["realistic"] += rows(f"{label} (new {kind})", some, installed, BAR[kind])
        others = {name: one for name, one in trained.items() if name != family}
        model = calibrate(
            others, dict.fromkeys(others, 1.0), calibration.degrees, calibration.together
        )
        out["family"] += rows(f"{label} (never seen)", some, model, BAR["family"])
    return out


def main(arguments: Sequence[str]) -> None:
    """Measure, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--docs", action="store_true", help="write into docs/errors.md")
    parser.add_argument("-n", type=int, help="galaxies of each test set (as many as of training)")
    parser.add_argument("overrides", nargs="*", help="of conf/errors.yaml")
    chosen = parser.parse_args(arguments)
    header = ["set", "galaxies", "95 %", *SHOWN, "within 2 errors"]
    for name, lines in tables(settings(chosen.overrides), chosen.n).items():
        text = markdown_table(header, lines)
        print(f"\n{name}\n\n{text}")
        if chosen.docs:
            write_section("errors.md", name, text)


if __name__ == "__main__":
    main(sys.argv[1:])
