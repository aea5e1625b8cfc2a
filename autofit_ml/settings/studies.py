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
        False, "Add factors for the errors to the catalogue.", OUTPUT, changes_results=False
    )


@dataclass(frozen=True, kw_only=True)
class SensitivitySettings(Seeded, Working, Networks, ReadOptions):
    """Settings of a sensitivity map: which galaxies are injected, and how they are fitted."""

    simpler: str | Path = option(
        "sersic", "Model of one component: what a galaxy is without the other.", MODEL, shell=str
    )
    richer: str | Path = option(
        "sersic+exp",
        "Model of two components, each a Sérsic profile or a point source; B/T is the share of the "
        "first.",
        MODEL,
        shell=str,
    )
    grid: str | Sequence[str] = option(
        ("B/T=0.05:0.4:4:log", "snr=50:400:4:log"),
        "What is injected: NAME=LOW:HIGH:NUMBER[:log] or NAME=VALUE of B/T, snr (of the galaxy), "
        "re_ratio (first to second), re (pixels, of the second), q, n (of the first).",
        MODEL,
        normalise=_injected,
    )
    number: int = number_option(50, "Galaxies of each cell of the grid.", least=2)
    background: str = option(
        "sky",
        "sky: the images' own, their objects replaced by it; noise: Gaussian, as the noise plane "
        "says.",
        MODEL,
        choices=("sky", "noise"),
    )
    margin: float = option(
        0.0, "By which the BIC of the richer model must be lower to be accepted.", MODEL, least=0
    )
    prior: str = option("broad", "broad or none; see fit.", MODEL, choices=("broad", "none"))
    likelihood: str = option("gaussian", "See fit.", MODEL)
    segmenter: str = segmenter_option("auto", SEGMENTERS[:3])
    init: str = option(
        "resnet", "Starting values: resnet or moments; see fit.", STARTS, choices=INITIALISERS
    )


@dataclass(frozen=True, kw_only=True)
class PopulationOptions(Seeded):
    """Settings of a population that is inferred from catalogues."""

    noise: str = option(
        "auto",
        "Errors as they were fitted, or following the true parameters (model); auto: model from "
        "200 objects on.",
        MODEL,
        choices=("auto", "fixed", "model"),
    )
    outliers: bool = option(
        True, "Some errors are five times too small; how many is fitted along.", MODEL
    )
    interim: str | None = option(
        None,
        "The prior in the values of tables that are no catalogues of autofit-ml: flat.",
        INPUT,
        choices=("flat",),
    )
    draws: int = option(250, "Draws of each of four chains.", SAMPLING, least=20)


@dataclass(frozen=True, kw_only=True)
class SimulateSettings(Settings):
    """Settings of a simulated set, beside its recipe."""

    count: int | None = option(
        None, "Objects (default: the recipe's).", INPUT, least=1, words=("--count", "-n")
    )
    seed: int | None = option(None, "Random seed (default: the recipe's).", WORK, least=0)
    shard_size: int | None = option(
        None, "Objects in a file (default: 2**20 pixels).", WORK, least=1
    )
    workers: int = option(
        -1,
        "Processes; 0: none; -1: one for each processor.",
        WORK,
        least=-1,
        changes_results=False,
    )
