r"""Priors of single parameters.

In: a value (tensor, catalogue units). Out: its log density, differentiable. Used by the model
(`autofit_ml.scenes.model`), the fit and the samplers; knows nothing about images.

Every prior is flat or Gaussian, in the value or in its logarithm, within limits; and a normalised
density *in the parameter's own value*: the log-normal and log-uniform ones contain the factor
1/value. `LogNormal.sd` is in natural logarithms; one dex is ln 10 = 2.3026.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from functools import cached_property
from statistics import NormalDist
from typing import ClassVar

import torch

from autofit_ml.errors import SettingsError

__all__ = [
    "PRIORS",
    "SMALLEST_MASS",
    "LogNormal",
    "LogUniform",
    "Normal",
    "Prior",
    "TruncatedNormal",
    "Uniform",
    "describe_prior",
    "log_normal",
    "log_uniform",
    "normal",
    "truncated_normal",
    "uniform",
]

SMALLEST_MASS = 1e-9
"""A prior with less probability than this inside limits contradicts them."""


@dataclass(frozen=True)
class Prior:
    """Base of all priors; the classes below say what numbers make one.

    Attributes
    ----------
    name : str
        In model files.
    log : bool
        Whether it is flat or Gaussian in the natural logarithm of the value.
    """

    name: ClassVar[str]
    log: ClassVar[bool] = False

    @property
    def support(self) -> tuple[float, float]:
        """Values outside have no density."""
        return (0.0 if self.log else -math.inf, math.inf)

    @property
    def gaussian(self) -> tuple[float, float] | None:
        """Mean and standard deviation, for least squares: of the value, or its log where `log`.

        None where the density is flat (in the value, or in its logarithm).
        """
        return None

    def log_density(self, value: torch.Tensor) -> torch.Tensor:
        """ln of the density at `value`, same shape; -inf outside the support."""
        low, high = self.support
        inside = value.clamp(max(low, 1e-300) if self.log else low, high)
        place = inside.log() if self.log else inside
        density = -(place if self.log else 0.0 * place) - math.log(self._whole)
        if self.gaussian is not None:
            mean, sd = self.gaussian
            density = (
                density - 0.5 * ((place - mean) / sd) ** 2 - 0.5 * math.log(2 * math.pi * sd**2)
            )
        return torch.where(inside == value, density, torch.full_like(value, -math.inf))

    def mass(self, low: float, high: float) -> float:
        """Probability between two values."""
        least, most = self.support
        low, high = max(low, least), min(high, most)
        return self._integral(low, high) / self._whole if low < high else 0.0

    @cached_property
    def _whole(self) -> float:
        return self._integral(*self.support)

    def _integral(self, low: float, high: float) -> float:
        """Integral of a flat density of height 1, or of a normalised Gaussian."""
        if self.log:
            low, high = math.log(low) if low > 0 else -math.inf, math.log(high)
        if self.gaussian is None:
            return high - low
        normal = NormalDist(*self.gaussian)
        return normal.cdf(high) - normal.cdf(low)

    def __post_init__(self):
        for field in fields(self):
            try:
                number = float(getattr(self, field.name))
            except (TypeError, ValueError):
                number = math.nan
            if not math.isfinite(number):
                raise SettingsError(
                    f"{field.name} of a {self.name} prior is {getattr(self, field.name)!r}",
                    "give a finite number",
                )
            object.__setattr__(self, field.name, number)
            if field.name == "sd" and not number > 0:
                raise SettingsError(
                    f"the {self.name} prior has a standard deviation of {number:g}",
                    "give a positive number; a value that must not change is {fixed: value}",
                )
            if self.log and field.name in ("median", "low") and not number > 0:
                raise SettingsError(
                    f"the {field.name} of a {self.name} prior is {number:g}",
                    f"give a positive {field.name} in the parameter's own units, not its logarithm",
                )
        low, high = self.support
        if not low < high:
            raise SettingsError(
                f"the {self.name} prior runs from {low:g} to {high:g}",
                "give the smaller limit first",
            )
        if not self._whole > SMALLEST_MASS:
            raise SettingsError(
                f"{describe_prior(self)} has nothing between {low:g} and {high:g}",
                "move the mean towards the limits, or widen them",
            )


@dataclass(frozen=True)
class Uniform(Prior):
    """Flat between `low` and `high`."""

    low: float
    high: float
    name: ClassVar[str] = "uniform"

    @property
    def support(self) -> tuple[float, float]:
        return (self.low, self.high)


@dataclass(frozen=True)
class LogUniform(Uniform):
    """Flat in the logarithm between `low` and `high` (both positive)."""

    name: ClassVar[str] = "log-uniform"
    log: ClassVar[bool] = True


@dataclass(frozen=True)
class Normal(Prior):
    """Gaussian of the given `mean` and standard deviation `sd`."""

    mean: float
    sd: float
    name: ClassVar[str] = "normal"

    @property
    def gaussian(self) -> tuple[float, float] | None:
        return (self.mean, self.sd)


@dataclass(frozen=True)
class LogNormal(Prior):
    """Gaussian in the natural logarithm: `median`, and `sd` in ln (0.1 is about 10 per cent)."""

    median: float
    sd: float
    name: ClassVar[str] = "log-normal"
    log: ClassVar[bool] = True

    @property
    def gaussian(self) -> tuple[float, float] | None:
        return (math.log(self.median), self.sd)


@dataclass(frozen=True)
class TruncatedNormal(Normal):
    """Gaussian of `mean` and `sd` (before the cut), cut off below `low` and above `high`."""

    low: float
    high: float
    name: ClassVar[str] = "truncated-normal"

    @property
    def support(self) -> tuple[float, float]:
        return (self.low, self.high)


def describe_prior(prior: Prior) -> str:
    """One short phrase, as `print(scene)` shows it."""
    numbers = ", ".join(f"{getattr(prior, field.name):g}" for field in fields(prior))
    return f"{prior.name}({numbers})"


PRIORS: dict[str, type[Prior]] = {
    kind.name: kind for kind in (Uniform, LogUniform, Normal, LogNormal, TruncatedNormal)
}
"""Names in model files; a list gives the fields in order."""


def uniform(low: float, high: float) -> Uniform:
    """Flat between two values."""
    return Uniform(low, high)


def log_uniform(low: float, high: float) -> LogUniform:
    """Flat in the logarithm between two positive values."""
    return LogUniform(low, high)


def normal(mean: float, sd: float) -> Normal:
    """Gaussian."""
    return Normal(mean, sd)


def log_normal(median: float, sd: float) -> LogNormal:
    """Gaussian in ln: median, and standard deviation in natural logarithms."""
    return LogNormal(median, sd)


def truncated_normal(mean: float, sd: float, low: float, high: float) -> TruncatedNormal:
    """Gaussian, cut off at two values."""
    return TruncatedNormal(mean, sd, low, high)
