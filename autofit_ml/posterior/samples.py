"""Posterior samples of every method: draws, and how far they can be trusted."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TypeVar

import torch

__all__ = ["PosteriorSamples", "rows_of"]

T = TypeVar("T")


def rows_of(data: T, index: torch.Tensor) -> T:
    """A dataclass with these rows of each of its tensors."""
    values = vars(data).items()
    rows = {name: value[index] for name, value in values if isinstance(value, torch.Tensor)}
    return dataclasses.replace(data, **rows)  # type: ignore[type-var]


@dataclass(frozen=True)
class PosteriorSamples:
    """Draws of the parameters of B objects; everything has one row per object.

    What does not apply to a method is NaN (or 0): bootstrap and Laplace draws are independent, so
    that they have no step size, and one chain.

    Attributes
    ----------
    method : str
        "hmc", "laplace", "bootstrap" or "nested".
    draws : Tensor, float64, (B, chains, draws, D)
        In the space that was sampled. NaN for objects that could not be sampled.
    log_density : Tensor, float64, (B, chains, draws)
    accept : Tensor, float64, (B,)
        Accepted share of the proposals (of the refits, for a bootstrap).
    step_size : Tensor, float64, (B,)
        In units of the adapted metric, in which the posterior's standard deviation is about 1.
    divergences : Tensor, int64, (B,)
        Trajectories whose energy error exceeded 1000, or that met a density that is not finite.
    rhat : Tensor, float64, (B, D)
        Rank-normalised split R-hat; NaN for parameters that are held fixed.
    ess_bulk, ess_tail : Tensor, float64, (B, D)
    n_gradients : Tensor, int64, (B,)
        Evaluations of density and gradient, warm-up included.
    ok : Tensor, bool, (B,)
        False where there are no draws to use: the start had no finite density, the covariance was
        no covariance, or every refit failed.
    """

    method: str
    draws: torch.Tensor
    log_density: torch.Tensor
    accept: torch.Tensor
    step_size: torch.Tensor
    divergences: torch.Tensor
    rhat: torch.Tensor
    ess_bulk: torch.Tensor
    ess_tail: torch.Tensor
    n_gradients: torch.Tensor
    ok: torch.Tensor

    def __len__(self) -> int:
        return len(self.draws)

    @classmethod
    def empty(
        cls,
        method: str,
        objects: int,
        chains: int,
        draws: int,
        parameters: int,
        like: torch.Tensor,
    ) -> PosteriorSamples:
        """NaN throughout, to be filled; on the device of `like`."""
        double = {"dtype": torch.float64, "device": like.device}
        whole = torch.zeros(objects, dtype=torch.int64, device=like.device)

        def nan(*shape: int) -> torch.Tensor:
            return torch.full((objects, *shape), torch.nan, **double)  # type: ignore[call-overload]

        return cls(
            method=method,
            draws=nan(chains, draws, parameters),
            log_density=nan(chains, draws),
            accept=nan(),
            step_size=nan(),
            divergences=whole.clone(),
            rhat=nan(parameters),
            ess_bulk=nan(parameters),
            ess_tail=nan(parameters),
            n_gradients=whole,
            ok=torch.zeros(objects, dtype=torch.bool, device=like.device),
        )

    def select(self, index: torch.Tensor) -> PosteriorSamples:
        """The objects at `index`."""
        return rows_of(self, index)
