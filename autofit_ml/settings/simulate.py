"""Options of simulated sets."""

from __future__ import annotations

from dataclasses import dataclass

from autofit_ml.options import Settings, option
from autofit_ml.settings.panels import INPUT, WORK


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
