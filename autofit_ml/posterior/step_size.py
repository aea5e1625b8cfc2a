"""The step of the sampler, adapted to the wanted acceptance."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from autofit_ml.posterior.samples import rows_of

__all__ = ["StepSize"]


@dataclass
class StepSize:
    """Dual averaging of ln(step) for B objects; constants of Hoffman and Gelman (2014)."""

    log_step: torch.Tensor
    average: torch.Tensor
    centre: torch.Tensor
    error: torch.Tensor
    count: int = 0

    @classmethod
    def start(cls, log_step: torch.Tensor) -> StepSize:
        """Begin (again) at a step."""
        return cls(
            log_step.clone(), log_step.clone(), log_step + math.log(1.5), torch.zeros_like(log_step)
        )

    def update(self, accept: torch.Tensor, target: float, shortest: float, longest: float) -> None:
        """Take in the acceptance (B,) of one iteration."""
        self.count += 1
        share = 1 / (self.count + 10)
        self.error = (1 - share) * self.error + share * (target - accept)
        log_step = self.centre - math.sqrt(self.count) / 0.05 * self.error
        self.log_step = log_step.clamp(math.log(shortest), math.log(longest))
        weight = self.count**-0.75
        self.average = weight * self.log_step + (1 - weight) * self.average

    def select(self, index: torch.Tensor) -> StepSize:
        """The objects at `index`."""
        return rows_of(self, index)
