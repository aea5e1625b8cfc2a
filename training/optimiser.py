"""The optimiser and its schedule, the same for all networks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from autofit_ml.errors import SettingsError
from training.muon import MuonAdamW

__all__ = ["OptimiserSettings", "configure"]

OPTIMISERS = {"adamw": torch.optim.AdamW, "muon": MuonAdamW}
SCHEDULES = ("cosine", "constant")


@dataclass(frozen=True)
class OptimiserSettings:
    """Steps and their sizes.

    Attributes
    ----------
    lr : float
        Largest rate.
    weight_decay : float
    warmup_steps : int
        With a rising rate; at most a fifth of all.
    clip : float
        Largest norm of the gradient.
    name : {"adamw", "muon"}
    schedule : {"cosine", "constant"}
        After the warm-up: down to a hundredth of the rate, or constant, for runs whose end is not
        known.
    """

    lr: float
    weight_decay: float
    warmup_steps: int
    clip: float
    name: str = "adamw"
    schedule: str = "cosine"

    def __post_init__(self) -> None:
        for name, choices in (("name", tuple(OPTIMISERS)), ("schedule", SCHEDULES)):
            if getattr(self, name) not in choices:
                raise SettingsError(
                    f"optimiser {name} {getattr(self, name)!r}", f"one of {', '.join(choices)}"
                )


def configure(network: torch.nn.Module, settings: OptimiserSettings, total_steps: int) -> Any:
    """Optimiser and schedule as Lightning's ``configure_optimizers`` returns them.

    Parameters
    ----------
    network : torch.nn.Module
    settings : OptimiserSettings
    total_steps : int
    """
    optimiser = OPTIMISERS[settings.name](
        network.parameters(), lr=settings.lr, weight_decay=settings.weight_decay
    )
    warmup = min(settings.warmup_steps, max(1, total_steps // 5))
    rising = torch.optim.lr_scheduler.LinearLR(optimiser, 0.05, total_iters=warmup)
    if settings.schedule == "constant":
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": rising, "interval": "step"}}
    schedule = torch.optim.lr_scheduler.SequentialLR(
        optimiser,
        [
            rising,
            torch.optim.lr_scheduler.CosineAnnealingLR(
                optimiser, max(1, total_steps - warmup), eta_min=0.01 * settings.lr
            ),
        ],
        [warmup],
    )
    return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
