"""The optimiser and its schedule, the same for all networks."""

from __future__ import annotations

from typing import Any

import torch
from omegaconf import DictConfig

from muon import MuonAdamW

__all__ = ["configure"]


def configure(network: torch.nn.Module, settings: DictConfig, total_steps: int) -> Any:
    """AdamW or Muon; a linear warm-up, then a cosine to a hundredth of the rate or a constant one.

    Parameters
    ----------
    network : torch.nn.Module
    settings : DictConfig
        ``lr``, ``weight_decay``, ``warmup_steps``; ``name`` adamw (where there is none) or muon;
        ``schedule`` cosine (where there is none) or constant, for runs whose end is not known.
    total_steps : int
    """
    kind = MuonAdamW if settings.get("name", "adamw") == "muon" else torch.optim.AdamW
    optimiser = kind(network.parameters(), lr=settings.lr, weight_decay=settings.weight_decay)
    warmup = min(settings.warmup_steps, max(1, total_steps // 5))
    rising = torch.optim.lr_scheduler.LinearLR(optimiser, 0.05, total_iters=warmup)
    if settings.get("schedule", "cosine") == "constant":
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
