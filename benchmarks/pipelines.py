"""Chains and grids of fits against single ones: python benchmarks/pipelines.py [--docs]

- ``chain``: bulges and discs of S/N 100-1000, fitted with two free Sérsic profiles: at once (from
  three guesses of the shares and sizes, or the first of them), and in three stages. A wrong minimum
  is a fit whose chi2 is over 4 above the deepest that anything found, fits from the truth included.
- ``grid``: the same galaxies and model, at once and over a grid of n and B/T: deeper minima, and
  second ones that the data allow (chi2 less than 4 above the best).
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from documents import Section, run_sections
from scenes import INDICES, labelled, psf_of, scaled, segmented

from autofit_ml.fitting import RefineSettings, SceneFit, SceneObject, object_of, refine
from autofit_ml.fitting.grids import refine_grid
from autofit_ml.fitting.known import Known
from autofit_ml.fitting.starts import component_starts
from autofit_ml.initialisation import Starts, start_from_moments
from autofit_ml.runs.model import run_model
from autofit_ml.runs.pipeline import axes_of
from autofit_ml.runs.scenes import staged_outcomes
from autofit_ml.scenes import parse_model
from autofit_ml.settings import FitSettings
from autofit_ml.simulation import SimulatedObject, observe_scene
from autofit_ml.simulation.sources import Component, composite

MODEL = "sersic+sersic"
STAGES = """
stages:
  whole:
    model: sersic
  bulge_and_disc:
    model: sersic+exp
  free:
    model: sersic+sersic
    start: {sersic: sersic, sersic_2: exponential, sersic_2.n: 1}
"""
GRID = "sersic.n=0.5:6:4:log,B/T=0:1:4"
_WRONG = 4.0


def bulges_and_discs(number: int) -> tuple[list[SimulatedObject], np.ndarray]:
    """Objects and their S/N: B/T 0.05-0.95, the disc 1.5 to 12 times as large as the bulge."""
    rng = np.random.default_rng(71)
    objects, ratios = [], []
    for k in range(number):
        psf, shape = psf_of(rng), (112, 112)
        disc = float(np.exp(rng.uniform(np.log(4), np.log(14))))
        bulge = max(disc / float(np.exp(rng.uniform(np.log(1.5), np.log(12)))), 0.7)
        share, q = rng.uniform(0.05, 0.95), rng.uniform(0.2, 1.0)
        n = float(rng.choice(INDICES[INDICES > 0.8]))
        round_ = max(q, rng.uniform(0.4, 1))
        parts = (
            Component("sersic", share, bulge, n, round_, rng.uniform(0, 180)),
            Component("sersic", 1 - share, disc, 1.0, q, rng.uniform(0, 180)),
        )
        x, y = 55.5 + rng.uniform(-0.5, 0.5, 2)
        snr = float(np.exp(rng.uniform(np.log(100), np.log(1000))))
        target = scaled(composite(float(x), float(y), parts, "bulge_disc"), snr, psf, shape)
        objects.append(observe_scene(f"bd{k}", target, (), psf, shape, rng=rng, sky=20.0))
        ratios.append(snr)
    return objects, np.array(ratios)


def galaxies(
    number: int,
) -> tuple[list[SceneObject], Starts, np.ndarray, list[SceneObject]]:
    """Objects, starts from moments, S/N, and the objects with their true values as known."""
    objects, snr = bulges_and_discs(number)
    stamps = labelled(objects)
    found = segmented(stamps, "given")
    scenes = [object_of(s, g).with_neighbours(6) for s, g in zip(stamps, found, strict=True)]
    parts = [
        {
            f"{name}.{key}": np.array([float(getattr(part, key))])
            for name, part in zip(("sersic", "sersic_2"), one.target.components, strict=True)
            for key in ("flux", "re", "n", "q", "pa")
        }
        | {f"sersic.{axis}": np.array([float(getattr(one.target, axis))]) for axis in "xy"}
        for one in objects
    ]
    true = [dataclasses.replace(s, known=Known(p)) for s, p in zip(scenes, parts, strict=True)]
    return scenes, start_from_moments(stamps, found), snr, true


def one_guess(some: Sequence[SceneObject], starts: Starts) -> list[SceneObject]:
    """Objects that begin at the first guess alone."""
    values = component_starts(parse_model(MODEL), starts.values, np.zeros(len(some)))[0]
    names = [name for name in values if name not in ("sersic_2.x", "sersic_2.y")]
    return [
        dataclasses.replace(one, known=Known({name: values[name][k : k + 1] for name in names}))
        for k, one in enumerate(some)
    ]


def chain(number: int) -> list[list[str]]:
    """Wrong minima and cost, by the way of fitting and S/N."""
    some, starts, snr, true = galaxies(number)
    settings, scene = RefineSettings(), parse_model(MODEL)
    fits: dict[str, Sequence[SceneFit]] = {}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "stages.yaml"
        file.write_text(STAGES)
        staged = run_model(FitSettings(pipeline=file))
        every = staged_outcomes(some, starts, staged, [settings] * 3, images=False)
    fits["three stages"] = [
        dataclasses.replace(of[-1].fit, n_iter=sum(one.fit.n_iter for one in of))
        for of in zip(*every, strict=True)
    ]
    fits["at once"] = refine(some, scene, starts, settings=settings)
    for name, objects in (("one guess", one_guess(some, starts)), ("from the truth", true)):
        fits[name] = refine(objects, scene, starts, settings=settings)
    chi2 = {name: np.array([fit.chi2 for fit in made]) for name, made in fits.items()}
    deepest = np.nanmin(list(chi2.values()), axis=0)
    rows = []
    for low, high in ((100, 200), (200, 1000)):
        members = (snr >= low) & (snr < high)
        for name, made in fits.items():
            wrong = ~(chi2[name] < deepest + _WRONG)
            spent = np.mean([fit.n_iter for fit, own in zip(made, members, strict=True) if own])
            rows.append(
                [f"S/N {low}-{high}, {name}", str(members.sum()),
                 f"{wrong[members].sum()} ({100 * wrong[members].mean():.1f} %)",
                 f"{spent:.0f}"]
            )  # fmt: skip
    return rows


def grid(number: int) -> list[list[str]]:
    """What a grid over n and B/T finds."""
    some, starts, snr, true = galaxies(number)
    settings, scene = RefineSettings(), parse_model(MODEL)
    once = refine(some, scene, starts, settings=settings)
    found = refine_grid(some, scene, starts, axes_of(GRID.split(","), scene), settings)
    plain = np.array([fit.chi2 for fit in once])
    best = np.array([one.fit.chi2 for one in found])
    second = np.array([np.inf if one.second is None else one.second.chi2 for one in found]) - best
    rows = []
    for low, high in ((100, 200), (200, 1000)):
        members = (snr >= low) & (snr < high)
        rows.append(
            [f"S/N {low}-{high}", str(members.sum()), str((plain > best + _WRONG)[members].sum()),
             str((second < _WRONG)[members].sum())]
        )  # fmt: skip
    return rows


CHAIN = ["S/N, fit", "galaxies", "wrong minima", "evaluations"]
GRIDS = ["S/N", "galaxies", "deeper than at once", "second minimum within 4"]
SECTIONS = {
    "chain": Section(chain, CHAIN, 100, "pipelines.md"),
    "grid": Section(grid, GRIDS, 30, "pipelines.md"),
}

if __name__ == "__main__":
    run_sections(__doc__ or "", SECTIONS)
