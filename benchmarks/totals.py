"""What `--model auto` says of the whole galaxy: python benchmarks/totals.py [-n 400] [--docs]

Simulated bulges in inclined discs (``conf/data/bulge_disc``, S/N over 100), once as they are and
once with discs that are infinitely thin, which is what the model says: a disc seen nearly edge-on
is no ellipse. From files to the catalogue with ``model=auto`` and all other defaults. Bias is the
median; the truth of re_total and q_total is that of points drawn from the galaxy.

Bars: bias of flux_total and re_total at most 1 %; the right model in 95 % where the bulge has 20 to
80 % of the light; coverage 68 +- 4 %.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence

import numpy as np
from default_pipeline import column, fit_as_files
from documents import markdown_table, write_section
from scipy import special

from autofit_ml.simulation import compose_recipe, simulate_one
from autofit_ml.simulation.sources import Component, Source, from_axes

SNR_BINS = ((100, 200), (200, 500), (500, 2001), (100, 2001))
SETS = {"as they are": (), "thin discs": ("data.galaxies.bulge_disc.thickness=[0.001,0.002]",)}
HEADER = ["discs, S/N", "galaxies", "usable", "two components", "flux_total bias",
          "within 1 σ", "re_total bias", "within 1 σ", "q_total bias", "within 1 σ",
          "B/T within 1 σ"]  # fmt: skip
_POINTS = 8000
_DISC_LENGTH = 1.6783469900166605
"""Half-light radius of an exponential disc in scale lengths."""


def points(part: Component) -> np.ndarray:
    """Positions of equal shares of a component's light, pixels from its centre, (2, N)."""
    k = np.arange(_POINTS)
    share, angle = (k + 0.5) / _POINTS, 2 * np.pi * k * 0.6180339887498949
    half = special.gammaincinv(2 * part.n, 0.5)
    radius = part.re * (special.gammaincinv(2 * part.n, share) / half) ** part.n
    squash, height = part.q, np.zeros(_POINTS)
    if part.kind == "disc":  # vertically sech^2, seen from the inclination that gives q
        squash = np.sqrt(max(part.q**2 - part.thickness**2, 0) / (1 - part.thickness**2))
        level = np.clip((k * 0.7548776662466927) % 1, 1e-6, 1 - 1e-6)
        height = part.thickness * part.re / _DISC_LENGTH * np.arctanh(2 * level - 1)
    across = squash * radius * np.sin(angle) + height * np.sqrt(1 - squash**2)
    return np.stack(from_axes(radius * np.cos(angle), across, part.pa))


def half_light_ellipse(source: Source) -> tuple[float, float]:
    """Semi-major axis and axis ratio of the ellipse that holds half of the light and has the axes
    of the second moments of the light inside."""
    place = np.concatenate([points(part) for part in source.components], axis=1)
    weight = np.repeat([part.flux / _POINTS for part in source.components], _POINTS)
    shape = np.cov(place, aweights=weight)
    for _ in range(300):
        shape = shape / np.sqrt(np.linalg.det(shape))
        radius = np.sqrt((place * np.linalg.solve(shape, place)).sum(0))
        order = np.argsort(radius)
        inside = order[: np.searchsorted(np.cumsum(weight[order]), 0.5 * weight.sum())]
        before, shape = shape, place[:, inside] * weight[inside] @ place[:, inside].T
        if np.abs(shape / np.sqrt(np.linalg.det(shape)) - before).max() < 1e-5:
            break
    low, high = np.linalg.eigvalsh(before)
    return float(radius[inside].max() * np.sqrt(high)), float(np.sqrt(low / high))


def rows(name: str, changes: Sequence[str], number: int) -> Iterator[list[str]]:
    """The table's rows of one set."""
    recipe = compose_recipe(["data=bulge_disc", "data.target.snr=[100,2000]", *changes])
    objects = [simulate_one(recipe, k) for k in range(number)]
    table = fit_as_files(objects, model="auto")
    sources = [item.target for item in objects]
    snr = np.concatenate([item.truth[:1]["snr"] for item in objects])
    share = np.array([1 - source.components[0].flux / source.flux for source in sources])
    size, ratio = np.array([half_light_ellipse(source) for source in sources]).T
    truth = {"flux_total": np.array([s.flux for s in sources]), "re_total": size, "q_total": ratio}
    two = np.array([str(model) == "sersic+exp" for model in table["model"]])
    use = np.asarray(table["use"], bool)
    for low, high in SNR_BINS:
        some = (snr >= low) & (snr < high)
        clear = some & (np.abs(share - 0.5) < 0.3)
        row = [f"{name}, {low}-{high - high % 100}", str(some.sum()), _percent(use[some])]
        row.append(_percent(two[clear]))
        for key, true in truth.items():
            off = column(table, key) - true
            relative = off if key == "q_total" else off / true
            good = some & use & np.isfinite(off)
            inside = np.abs(off[good]) < column(table, f"{key}_err")[good]
            bias = float(np.median(relative[good]))
            row += [f"{bias:+.3f}" if key == "q_total" else f"{100 * bias:+.2f} %"]
            row.append(_percent(inside))
        good = some & use & two
        off = np.abs(column(table, "fraction") - share) < column(table, "fraction_err")
        yield [*row, _percent(off[good])]


def _percent(which: np.ndarray) -> str:
    return f"{100 * which.mean():.0f} %" if len(which) else "-"


def main() -> None:
    """Simulate, fit, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-n", type=int, default=400)
    parser.add_argument("--docs", action="store_true", help="write the table into docs/accuracy.md")
    arguments = parser.parse_args()
    every = []
    for name, how in SETS.items():
        for row in rows(name, how, arguments.n):
            every.append(row)
            print(*row, sep=" | ", flush=True)
    text = markdown_table(HEADER, every)
    print(text)
    if arguments.docs:
        write_section("accuracy.md", "totals", f"{text}\n\n{arguments.n} galaxies each.\n")


if __name__ == "__main__":
    main()
