"""`sensitivity_run`: which second components can be seen in a user's own images."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from autofit_ml.catalogue import (
    atomic_write_ecsv,
    atomic_write_text,
)
from autofit_ml.images.stamp import Stamp
from autofit_ml.injection.pairs import draw_pair, light_of_pair, recipe_of, scaled_to_snr
from autofit_ml.injection.stamps import inject
from autofit_ml.population.sensitivity import FRACTION, Sensitivity, sensitivity_of
from autofit_ml.population.sensitivity_page import sensitivity_page
from autofit_ml.runs.calibrate import galaxies_of, only_noise
from autofit_ml.runs.claim import claimed
from autofit_ml.runs.fit import fit_run, fit_sources
from autofit_ml.runs.identity import identity_of, source_fingerprints
from autofit_ml.runs.kinds import Kind
from autofit_ml.runs.places import inject_once
from autofit_ml.runs.sources import inputs_of
from autofit_ml.runs.summary import Progress
from autofit_ml.scenes import parse_model, write_model
from autofit_ml.settings import FitSettings, Paths, SensitivitySettings
from autofit_ml.simulation.sources import require_galsim

__all__ = ["SensitivitySummary", "axes_of_map", "cells_of", "sensitivity_run"]

PAGE, SELECTION = "sensitivity.html", "selection.json"
_PLACES = 400
"""At most so many empty stamps are looked for."""

_TABLES = ("injections.ecsv", "cells.ecsv", "limits.ecsv")

MAPPED = Kind(
    (PAGE, SELECTION, *_TABLES, "injected.json", "models.yaml"),
    {"injected": (".fits",)},
    began=lambda folder: (folder / "fits" / ".work" / "state.json").exists(),
)
"""What a map writes, beside runs of its own in ``images/`` and ``fits/``."""


@dataclass(frozen=True)
class SensitivitySummary:
    """Result of `sensitivity_run`.

    Attributes
    ----------
    out : Path
        Folder of sensitivity.html, cells.ecsv, injections.ecsv, limits.ecsv, selection.json.
    found : Sensitivity
    places, skipped : int
        Stamps that galaxies were put into; images without enough sky.
    """

    out: Path
    found: Sensitivity
    places: int
    skipped: int


def axes_of_map(settings: SensitivitySettings) -> dict[str, list[float]]:
    """Values of each axis of a map, B/T first and without 0."""
    axes = {}
    for text in settings.grid:
        name, _, numbers = text.partition("=")
        low, high, count, *log = numbers.split(":") if ":" in numbers else [numbers] * 2 + ["1"]
        space = np.geomspace if log else np.linspace
        axes[name] = [float(value) for value in space(float(low), float(high), int(count))]
    return axes


def cells_of(axes: Mapping[str, Sequence[float]]) -> list[dict[str, float]]:
    """Cells of a map: its grid, and those without a first component (B/T = 0).

    Of the latter there is one for each combination of what the galaxy has without it.
    """
    whole = [
        dict(zip(axes, map(float, values), strict=True))
        for values in itertools.product(*axes.values())
    ]
    blank: dict[tuple[float, ...], dict[str, float]] = {}
    for cell in whole:
        kept = tuple(value for name, value in cell.items() if name not in (FRACTION, *_OF_FIRST))
        blank.setdefault(kept, cell | {FRACTION: 0.0})
    return [*blank.values(), *whole]


_OF_FIRST = ("re_ratio", "n")
"""Axes that mean nothing without the first component."""


def sensitivity_run(
    paths: Paths,
    out: str | Path = "sensitivity",
    settings: SensitivitySettings | None = None,
    *,
    manifest: str | Path | None = None,
    restart: bool = False,
    progress: Progress | None = None,
) -> SensitivitySummary:
    """Inject galaxies of two components over a grid into images, and fit both models to each.

    The images are fitted first, as one Sérsic profile: their galaxies are what the injected ones
    are like, and make room for them. Fits never begin at the truth, and have the priors that they
    always have.

    Parameters
    ----------
    paths : path or iterable of paths, or None
        The user's images: stamps or frames.
    out : path
        Results folder; a map that stopped there is continued.
    settings : SensitivitySettings, optional
    manifest : path, optional
        Table of objects.
    restart : bool
        Begin anew in a folder that holds another map.
    progress : Progress, optional

    Returns
    -------
    SensitivitySummary

    Raises
    ------
    SettingsError
        Models that cannot be injected, nothing to read; `ResumeError` for another map's folder.
    InputError
        No usable galaxies, or no empty sky, in the images.
    KeyboardInterrupt
        Interrupted; the same call goes on.
    """
    require_galsim()  # before the images are fitted
    settings, told, folder = settings or SensitivitySettings(), progress or Progress(), Path(out)
    simpler, richer = parse_model(settings.simpler), parse_model(settings.richer)
    recipe = recipe_of(simpler, richer)
    axes = axes_of_map(settings)
    cells = cells_of(axes)
    found = inputs_of(paths, manifest, survey=settings.survey, mode=settings.mode, bands=())
    names = [_name(c, k) for c in range(len(cells)) for k in range(settings.number)]
    models = {name: yaml.safe_load(write_model(s)) for name, s in _named(simpler, richer)}
    identity = identity_of(settings) | {"models": json.dumps(models, sort_keys=True)}
    identity |= {"images": json.dumps(source_fingerprints(found.sources), sort_keys=True)}
    with claimed(folder, MAPPED, identity, dict.fromkeys(names), restart=restart) as state:
        anew = not state
        plain = settings.part(FitSettings, save="none", grid=())
        first = fit_sources(found, folder / "images", plain, restart=anew, progress=told)
        if first.interrupted or first.table is None:
            raise KeyboardInterrupt
        like = galaxies_of(folder / "images")
        (folder / "injected").mkdir(exist_ok=True)

        def filled(n: int, place: Stamp, _: np.random.Generator) -> tuple[Stamp, dict[str, Any]]:
            c, k = divmod(n, settings.number)
            rng = np.random.default_rng([settings.seed, c, k])
            stamp = _background(place, settings.background, rng)
            galaxy = draw_pair(recipe, cells[c], like.draw(rng, stamp), rng)
            light = scaled_to_snr(light_of_pair(galaxy, stamp), stamp, galaxy["snr"])
            return inject(stamp, light, rng), {"id": names[n], "cell": c} | cells[c] | galaxy

        about = inject_once(
            folder, found.sources, plain, folder / "images", names, filled, told,
            seed=settings.seed, most=min(len(names), _PLACES), keep_mask=True,
        )  # fmt: skip
        stages = {"simpler": {"model": models["simpler"]}}
        stages["richer"] = {"from": "start", "model": models["richer"]}
        text = yaml.safe_dump({"stages": stages}, sort_keys=False)
        atomic_write_text(folder / "models.yaml", text)
        own = plain.replace(**only_noise(plain), pipeline=folder / "models.yaml")
        if own.segmenter == "given":
            own = own.replace(segmenter="auto")  # there are no labels of injected galaxies
        summary = fit_run(
            folder / "injected", folder / "fits", own, restart=anew, progress=told
        )  # fmt: skip
        if summary.interrupted or summary.table is None:
            raise KeyboardInterrupt
        rows = {row["id"]: row for row in summary.table.to_pylist()}
        sensitivity = sensitivity_of(
            axes, about["truth"], [rows.get(one["id"], {}) for one in about["truth"]],
            margin=settings.margin,
        )  # fmt: skip
        tables = (sensitivity.objects, sensitivity.cells, sensitivity.limits)
        for name, table in zip(_TABLES, tables, strict=True):
            atomic_write_ecsv(folder / name, table)
        if sensitivity.selection is not None:
            sensitivity.selection.save(folder / SELECTION)
        else:
            (folder / SELECTION).unlink(missing_ok=True)
        page = sensitivity_page(sensitivity, axes, (simpler.name, richer.name), about["places"])
        atomic_write_text(folder / PAGE, page)
    return SensitivitySummary(folder, sensitivity, about["places"], about["skipped"])


def _named(simpler: Any, richer: Any) -> list[tuple[str, Any]]:
    return [("simpler", simpler), ("richer", richer)]


def _name(cell: int, k: int) -> str:
    """Id of an injected galaxy: its cell, and its number there, from 0."""
    return f"cell{cell:04d}-{k:05d}"


def _background(stamp: Stamp, kind: str, rng: np.random.Generator) -> Stamp:
    """The stamp itself, or Gaussian noise of its noise plane."""
    if kind == "sky":
        return stamp
    level = float(np.median(stamp.data))
    noise = rng.normal(0, 1, stamp.shape) * stamp.sigma
    return stamp.replace(data=(level + noise).astype(np.float32))
