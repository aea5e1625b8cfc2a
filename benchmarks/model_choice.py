"""How well `--model auto` can choose: python benchmarks/model_choice.py [-n 150] [--docs]

Simulated bulges in thin inclined discs (B/T 0.2-0.8) and single Sérsic profiles. Each is fitted
with the whole ladder, from the labels of the simulator; then the penalty of a parameter is varied.
The share of galaxies whose two components are seen, against that of Sérsic profiles that are given
a second component, is what the likelihood can do, whatever the criterion.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from documents import markdown_table, write_section
from scenes import labelled, segmented

from autofit_ml.fitting import SceneFit, object_of
from autofit_ml.fitting.choice import choose_models
from autofit_ml.initialisation import start_from_moments
from autofit_ml.simulation import compose_recipe, simulate_one

THIN = ("data=bulge_disc", "data.galaxies.bulge_disc.thickness=[0.001,0.002]")
SETS = {
    "two components, S/N 100-200": (*THIN, "data.target.snr=[100,200]"),
    "two components, S/N 200-500": (*THIN, "data.target.snr=[200,500]", "data.seed=5"),
    "one Sérsic profile, S/N 60-600": (
        "data=single", "data.target.snr=[60,600]", "data.shape=[96,96]",
        "data.galaxies.re=[3,14]", "data.seed=3",
    ),
}  # fmt: skip
PENALTIES = (2.0, 2.5, 3.0, 3.5, 4.0, 5.0, 6.0, 8.0)
Ladder = Mapping[str, SceneFit]
Penalty = Callable[[SceneFit], float]


def fitted(changes: Sequence[str], number: int) -> list[Ladder]:
    """The ladder's fits of one set; of bulges and discs, those with B/T 0.2-0.8."""
    recipe, out = compose_recipe(list(changes)), []
    for first in range(0, number, 50):
        objects = [simulate_one(recipe, k) for k in range(first, min(first + 50, number))]
        stamps = labelled(objects)
        found = segmented(stamps, "given")
        scenes = [object_of(s, g) for s, g in zip(stamps, found, strict=True)]
        chosen = choose_models(scenes, start_from_moments(stamps, found))
        for item, one in zip(objects, chosen, strict=True):
            parts = item.target.components
            if not parts or abs(parts[0].flux / item.target.flux - 0.5) < 0.3:
                out.append(one.fits)
    return out


def two(fits: Ladder, penalty: Penalty) -> bool:
    """Whether two components win where a parameter costs `penalty` of the best fit."""
    of_one = penalty(min(fits.values(), key=lambda fit: fit.chi2))
    cost = {name: fit.chi2 + fit.n_fitted * of_one for name, fit in fits.items()}
    return min(cost, key=lambda name: cost[name]) == "sersic+exp"


def constant(value: float) -> Penalty:
    """The same penalty for all."""
    return lambda _: value


def main() -> None:
    """Simulate, fit, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-n", type=int, default=150, help="galaxies of each set")
    parser.add_argument("--docs", action="store_true", help="write the table into docs/scenes.md")
    arguments = parser.parse_args()
    tried = {name: fitted(changes, arguments.n) for name, changes in SETS.items()}
    rules: dict[str, Penalty] = {f"{value:g}": constant(value) for value in PENALTIES}
    rules["ln of all pixels"] = lambda fit: math.log(fit.n_pix)
    rules["ln n, as used"] = lambda fit: math.log(max(fit.n_eff, 2.0))
    rows = [
        [name, *(f"{100 * np.mean([two(f, rule) for f in fits]):.1f} %" for fits in tried.values())]
        for name, rule in rules.items()
    ]
    numbers = [f"{name} ({len(fits)})" for name, fits in tried.items()]
    text = markdown_table(["a parameter costs", *numbers], rows)
    print(text)
    if arguments.docs:
        write_section("scenes.md", "trade-off", text)


if __name__ == "__main__":
    main()
