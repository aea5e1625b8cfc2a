"""The vector of a population's free numbers: order, limits, prior, and the values it stands for.

Numbers with a prior in the logarithm are varied as logarithms; nested ones as standard normal
numbers z, value = mean + sd z, so that a group without data does not stop the sampler.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from autofit_ml.population.model import Hyperparameter, PopulationModel, central

__all__ = ["HyperVector"]

_SMALLEST = 1e-9


@dataclass(frozen=True)
class HyperVector:
    """Free numbers of a model, as a vector u.

    Attributes
    ----------
    items : tuple of Hyperparameter
        All with a prior, or nested.
    groups : dict of str to ndarray
        Covariate -> its different values, of those with numbers of their own.
    """

    items: tuple[Hyperparameter, ...]
    groups: Mapping[str, np.ndarray]

    @classmethod
    def of(cls, model: PopulationModel, groups: Mapping[str, np.ndarray]) -> HyperVector:
        """The vector of a model."""
        return cls(model.hyper, groups)

    @cached_property
    def slices(self) -> dict[str, slice]:
        """Place of each number."""
        out, first = {}, 0
        for item in self.items:
            size = len(self.groups[item.by]) if item.by else 1
            out[item.name] = slice(first, first + size)
            first += size
        return out

    @property
    def size(self) -> int:
        """Length of the vector."""
        return max((part.stop for part in self.slices.values()), default=0)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """A name for each element: ``ln_re.mean[0.75]`` for those of a group."""
        out: list[str] = []
        for item in self.items:
            of = self.groups[item.by] if item.by else [None]
            out += [item.name if value is None else f"{item.name}[{value}]" for value in of]
        return tuple(out)

    @cached_property
    def limits(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Lower and upper bounds, (H,) each."""
        low, high = torch.full((2, self.size), math.inf, dtype=torch.float64)
        low = -low
        for item in self.items:
            if item.prior is None:
                continue
            least, most = item.prior.support
            if item.log:
                least = math.log(least) if least > 0 else -math.inf
                most = math.log(most)
            low[self.slices[item.name]], high[self.slices[item.name]] = least, most
        return low, high

    @cached_property
    def scales(self) -> torch.Tensor:
        """Steps that are small for each element, (H,)."""
        out = torch.ones(self.size, dtype=torch.float64)
        for item in self.items:
            if item.prior is not None and not item.log:
                low, high = item.prior.support
                sd = item.prior.gaussian[1] if item.prior.gaussian else high - low
                out[self.slices[item.name]] = min(sd, high - low)
        return out

    def start(self) -> torch.Tensor:
        """Middle of the prior, (H,)."""
        u = torch.zeros(self.size, dtype=torch.float64)
        for item in self.items:
            if item.prior is not None:
                value = central(item.prior)
                u[self.slices[item.name]] = math.log(value) if item.log else value
        return u

    def values(self, u: torch.Tensor) -> dict[str, torch.Tensor]:
        """Values (A,), or (A, G) of those with groups, of vectors (A, H)."""
        out: dict[str, torch.Tensor] = {}
        for item in self.items:
            v = u[:, self.slices[item.name]]
            if item.nested is not None:
                mean, sd = (
                    out[n][:, None] if isinstance(n, str) else u.new_full((1, 1), n)
                    for n in item.nested
                )
                v = (mean.log() if item.log else mean) + sd * v
            v = v.exp() if item.log else v
            out[item.name] = v if item.by else v[:, 0]
        return out

    def flat(self, u: torch.Tensor) -> torch.Tensor:
        """Values (A, H) in the order of `names`."""
        values = self.values(u)
        return torch.cat([values[item.name].view(len(u), -1) for item in self.items], 1)

    def log_prior(self, u: torch.Tensor) -> torch.Tensor:
        """ln of the prior's density in u, (A,)."""
        total = u.new_zeros(len(u))
        for item in self.items:
            v = u[:, self.slices[item.name]]
            if item.prior is None:
                total = total - 0.5 * v.square().sum(1)
                continue
            value = v.exp() if item.log else v
            low, high = item.prior.support  # rounding of exp and log
            density = item.prior.log_density(value.clamp(max(low, -1e300), min(high, 1e300)))
            total = total + (density + (v if item.log else 0.0)).sum(1)
        return total

    def at_centre(self, u: torch.Tensor) -> dict[str, Any]:
        """Values of one vector (H,): floats, and arrays of those with groups."""
        values = self.values(u[None])
        return {name: value[0].detach().numpy()[()] for name, value in values.items()}
