"""Options of studies: injected galaxies, populations, simulated sets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autofit_ml.errors import SettingsError
from autofit_ml.options import Settings, option, texts_of
from autofit_ml.settings.fit import grid_axes
from autofit_ml.settings.reading import INPUT, MODEL, OUTPUT, SAMPLING, STARTS, WORK, ReadOptions
from autofit_ml.settings.running import (
    INITIALISERS,
    SEGMENTERS,
    Networks,
    Seeded,
    Working,
    number_option,
    segmenter_option,
)

INJECTED = ("B/T", "snr", "re_ratio", "re", "q", "n")
"""Axes of a sensitivity map."""


def _injected(value: Any) -> tuple[str, ...]:
    """Axes of a sensitivity map, B/T first, each in one form: NAME=LOW:HIGH:NUMBER, with :log."""
    found: dict[str, str] = {}
    for text in texts_of(value):
        name, _, numbers = str(text).strip().partition("=")
        if name not in INJECTED or name in found:
            raise SettingsError(f"there is no axis {text!r}", f"use each once: {INJECTED}")
        try:
            low = high = float(numbers)
            found[name] = f"{name}={low:.12g}"
        except ValueError:
            (found[name],) = grid_axes(str(text))
            low, high = map(float, found[name].partition("=")[2].split(":")[:2])
        if not low > 0 or (name in ("B/T", "q") and not high < 1 + (name == "q")):
            raise SettingsError(f"{text!r}", "give values above 0, of B/T and q below 1")
    if "B/T" not in found:
        raise SettingsError("the grid has no B/T", "add for example B/T=0.05:0.4:4:log")
    return tuple(found[name] for name in INJECTED if name in found)


@dataclass(frozen=True, kw_only=True)
class CalibrateSettings(Seeded):
    """Settings of the injection of galaxies into a run's own images."""

    number: int = number_option(300, "Galaxies to inject.", least=1)
    apply: bool = option(
        False,
        "Add correction factors for the errors to the catalogue.",
        OUTPUT,
        changes_results=False,
    )


@dataclass(frozen=True, kw_only=True)
class SensitivitySettings(Seeded, Working, Networks, ReadOptions):
    """Settings of a sensitivity map: which galaxies are injected, and how they are fitted."""

    simpler: str | Path = option(
        "sersic", "Model with one component, for galaxies without the second.", MODEL, shell=str
    )
    richer: str | Path = option(
        "sersic+exp",
        "Model with two components, each a Sérsic profile or a point source; B/T is the flux "
        "fraction of the first.",
        MODEL,
        shell=str,
    )
    grid: str | Sequence[str] = option(
        ("B/T=0.05:0.4:4:log", "snr=50:400:4:log"),
        "Grid of injected galaxies: NAME=LOW:HIGH:NUMBER[:log] or NAME=VALUE for B/T, snr (total "
        "S/N), re_ratio (first over second component), re (second component, pixels), q (second) "
        "and n (first).",
        MODEL,
        normalise=_injected,
    )
    number: int = number_option(50, "Number of galaxies in each cell of the grid.", least=2)
    background: str = option(
        "sky",
        "Background: sky (the images' own sky, with objects replaced by sky) or noise (Gaussian, "
        "according to the noise plane).",
        MODEL,
        choices=("sky", "noise"),
    )
    margin: float = option(
        0.0, "Amount by which the BIC of the richer model must be lower.", MODEL, least=0
    )
    prior: str = option(
        "broad",
        "Prior of the fits: broad or none; see `autofit-ml fit`.",
        MODEL,
        choices=("broad", "none"),
    )
    likelihood: str = option("gaussian", "Likelihood of the pixels; see `autofit-ml fit`.", MODEL)
    segmenter: str = segmenter_option("auto", SEGMENTERS[:3])
    init: str = option(
        "resnet",
        "Starting values: resnet or moments; see `autofit-ml fit`.",
        STARTS,
        choices=INITIALISERS,
    )


@dataclass(frozen=True, kw_only=True)
class PopulationOptions(Seeded):
    """Settings of a population that is inferred from catalogues."""

    noise: str = option(
        "auto",
        "Errors of an object: fixed (as fitted) or model (a function of the true parameters); "
        "auto: model from 200 objects on.",
        MODEL,
        choices=("auto", "fixed", "model"),
    )
    outliers: bool = option(
        True,
        "Allow for a fraction of objects, which is fitted, whose errors are five times too small.",
        MODEL,
    )
    interim: str | None = option(
        None,
        "Prior that the values in other tables than catalogues of autofit-ml contain: flat.",
        INPUT,
        choices=("flat",),
    )
    draws: int = option(250, "Number of draws in each of four chains.", SAMPLING, least=20)


@dataclass(frozen=True, kw_only=True)
class SimulateSettings(Settings):
    """Settings of a simulated set, beside its recipe."""

    count: int | None = option(
        None,
        "Number of objects (default: as in the recipe).",
        INPUT,
        least=1,
        words=("--count", "-n"),
    )
    seed: int | None = option(None, "Random seed (default: as in the recipe).", WORK, least=0)
    shard_size: int | None = option(
        None, "Number of objects per file (default: as many as have 2**20 pixels).", WORK, least=1
    )
    workers: int = option(
        -1,
        "Number of worker processes; 0: none; -1: one for each processor.",
        WORK,
        least=-1,
        changes_results=False,
    )
