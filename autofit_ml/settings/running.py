"""Options that several kinds of run share: networks, workers, random numbers, objects, resuming."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from autofit_ml.options import Settings, option
from autofit_ml.settings.reading import INPUT, OUTPUT, STARTS, WORK

SEGMENTERS = ("auto", "maskrcnn", "sep", "given")
INITIALISERS = ("resnet", "moments")


def segmenter_option(default: str, choices: tuple[str, ...]) -> str:
    return option(
        default,
        "Segmentation: auto (labels that come with the image, else the network), maskrcnn (the "
        "network; sep for images unlike its training set), sep (SExtractor's algorithms), or "
        "given (labels only).",
        STARTS,
        choices=choices,
    )


def batch_size_option(default: int) -> int:
    return option(
        default,
        "Objects per batch; an interruption loses at most one batch.",
        WORK,
        least=1,
        changes_results=False,
    )


def number_option(default: int | None, help: str, **details: Any) -> Any:
    return option(default, help, INPUT, words=("--number", "-n"), **details)


@dataclass(frozen=True, kw_only=True)
class Networks(Settings):
    """Choice of networks and device."""

    weights: str = option(
        "",
        "Names or folders of weights, separated by commas, one for each task; empty: the "
        "installed ones that match the images.",
        STARTS,
    )
    device: str = option(
        "auto",
        "Device for the computations.",
        WORK,
        choices=("auto", "cpu", "cuda"),
        changes_results=False,
    )


@dataclass(frozen=True, kw_only=True)
class Working(Settings):
    """Batch size and workers; results do not depend on them."""

    batch_size: int = batch_size_option(256)
    workers: int = option(
        -1,
        "Number of worker processes; 0: none; -1: chosen automatically.",
        WORK,
        least=-1,
        changes_results=False,
    )


@dataclass(frozen=True, kw_only=True)
class Seeded(Settings):
    """Settings of runs that draw random numbers."""

    seed: int = option(0, "Random seed.", WORK, least=0)


@dataclass(frozen=True, kw_only=True)
class Selected(Settings):
    """Selection of objects; the others are left for a later call in the same folder."""

    limit: int | None = option(
        None,
        "Process at most this many of the remaining objects.",
        INPUT,
        least=1,
        changes_results=False,
    )
    ids: str | None = option(
        None,
        "Process only objects whose id matches a pattern: NGC*, *_g?",
        INPUT,
        words=("--id",),
        changes_results=False,
    )
    retry: str = option(
        "none",
        "Process objects again that failed in an earlier call.",
        INPUT,
        choices=("none", "failed"),
        changes_results=False,
    )


@dataclass(frozen=True, kw_only=True)
class Resumed(Settings):
    """Option that decides about an earlier run in the same folder."""

    restart: bool = option(
        False,
        "Start again from the beginning, or continue an interrupted run.",
        OUTPUT,
        words=("--restart/--resume",),
        changes_results=False,
    )
