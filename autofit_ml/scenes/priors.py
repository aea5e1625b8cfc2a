r"""Priors of single parameters.

In: a value (tensor, catalogue units). Out: its log density, differentiable; and the way back from
the unit interval (inverse cumulative distribution), which nested sampling needs. Used by the
model (`autofit_ml.scenes.model`), the refiner and the samplers; knows nothing about images.

Every prior is a normalised density *in the parameter's own value*: the log-normal and log-uniform
ones contain the factor 1/value. `LogNormal.sd` is in natural logarithms; one dex is ln 10 = 2.3026.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from functools import cached_property

import torch

from autofit_ml.errors import SettingsError

__all__ = [
    "PRIORS",
    "LogNormal",
    "LogUniform",
    "Normal",
    "Prior",
    "Restricted",
    "TruncatedNormal",
    "Uniform",
    "log_normal",
    "log_uniform",
    "nearest_turn",
    "normal",
    "restricted",
    "truncated_normal",
    "uniform",
]

_LOG_ROOT_2PI = 0.5 * math.log(2 * math.pi)


@dataclass(frozen=True)
class Prior:
    """What every prior has; the classes below say how.

    Attributes
    ----------
    support : tuple of float
        Values outside have no density.
    log : bool
        Whether `gaussian` is in the natural logarithm of the value.
    gaussian : (float, float) or None
        Mean and standard deviation, for a least-squares fitter: of the value, or of its logarithm
        where `log`. None where the density is flat (in the value, or in its logarithm).
    """

    @property
    def support(self) -> tuple[float, float]:
        return (-math.inf, math.inf)

    @property
    def log(self) -> bool:
        return False

    @property
    def gaussian(self) -> tuple[float, float] | None:
        return None

    @property
    def centre(self) -> float:
        """The median: a start where nothing better is known."""
        return float(self.transform(torch.tensor(0.5, dtype=torch.float64)))

    def log_density(self, value: torch.Tensor) -> torch.Tensor:
        """ln of the density at `value`, same shape; -inf outside the support."""
        raise NotImplementedError

    def cumulative(self, value: torch.Tensor) -> torch.Tensor:
        """Probability below `value`."""
        raise NotImplementedError

    def transform(self, u: torch.Tensor) -> torch.Tensor:
        """The value below which a share `u` (0 to 1) of the probability lies."""
        raise NotImplementedError

    def mass(self, low: float, high: float) -> float:
        """Probability between two values."""
        ends = torch.tensor([low, high], dtype=torch.float64)
        below = self.cumulative(ends)
        return float(below[1] - below[0])

    @property
    def _open_ended(self) -> bool:
        """Whether limits may be infinite."""
        return False

    def __post_init__(self):
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Prior):
                continue
            try:
                number = float(value)
            except (TypeError, ValueError):
                number = math.nan
            if not (math.isfinite(number) or (self._open_ended and math.isinf(number))):
                raise SettingsError(
                    f"{field.name} of a {_label(self)} prior is {value!r}", "give a finite number"
                )
            object.__setattr__(self, field.name, number)
        self._check()

    def _check(self) -> None:
        """Raise SettingsError where the numbers do not make a distribution."""


def _label(prior: Prior) -> str:
    """The prior's name in model files."""
    for name, made_by in PRIORS.items():
        if isinstance(prior, made_by):
            return name
    return type(prior).__name__


def _check_order(prior: Prior, low: float, high: float) -> None:
    if not low < high:
        raise SettingsError(
            f"the {_label(prior)} prior runs from {low:g} to {high:g}",
            "give the smaller limit first",
        )


def _check_sd(prior: Prior, sd: float) -> None:
    if not sd > 0:
        raise SettingsError(
            f"the {_label(prior)} prior has a standard deviation of {sd:g}",
            "give a positive number; a value that must not change is {fixed: value}",
        )


@dataclass(frozen=True)
class Uniform(Prior):
    """Flat between `low` and `high`."""

    low: float
    high: float

    def _check(self) -> None:
        _check_order(self, self.low, self.high)

    @property
    def support(self) -> tuple[float, float]:
        return (self.low, self.high)

    def log_density(self, value: torch.Tensor) -> torch.Tensor:
        inside = (value >= self.low) & (value <= self.high)
        flat = torch.full_like(value, -math.log(self.high - self.low)) + 0.0 * value
        return torch.where(inside, flat, torch.full_like(value, -math.inf))

    def cumulative(self, value: torch.Tensor) -> torch.Tensor:
        return ((value - self.low) / (self.high - self.low)).clamp(0.0, 1.0)

    def transform(self, u: torch.Tensor) -> torch.Tensor:
        return self.low + u * (self.high - self.low)


@dataclass(frozen=True)
class LogUniform(Prior):
    """Flat in the logarithm between `low` and `high` (both positive)."""

    low: float
    high: float

    def _check(self) -> None:
        _check_order(self, self.low, self.high)
        if self.low <= 0:
            raise SettingsError(
                f"the log-uniform prior starts at {self.low:g}", "give a positive lower limit"
            )

    @property
    def support(self) -> tuple[float, float]:
        return (self.low, self.high)

    @property
    def log(self) -> bool:
        return True

    @property
    def _width(self) -> float:
        return math.log(self.high / self.low)

    def log_density(self, value: torch.Tensor) -> torch.Tensor:
        inside = (value >= self.low) & (value <= self.high)
        safe = torch.where(inside, value, torch.full_like(value, self.low))
        return torch.where(
            inside, -safe.log() - math.log(self._width), torch.full_like(value, -math.inf)
        )

    def cumulative(self, value: torch.Tensor) -> torch.Tensor:
        return (value.clamp(self.low, self.high) / self.low).log() / self._width

    def transform(self, u: torch.Tensor) -> torch.Tensor:
        return self.low * (u * self._width).exp()


@dataclass(frozen=True)
class Normal(Prior):
    """Gaussian of the given `mean` and standard deviation `sd`."""

    mean: float
    sd: float

    def _check(self) -> None:
        _check_sd(self, self.sd)

    @property
    def gaussian(self) -> tuple[float, float] | None:
        return (self.mean, self.sd)

    def log_density(self, value: torch.Tensor) -> torch.Tensor:
        return -0.5 * ((value - self.mean) / self.sd) ** 2 - math.log(self.sd) - _LOG_ROOT_2PI

    def cumulative(self, value: torch.Tensor) -> torch.Tensor:
        return torch.special.ndtr((value - self.mean) / self.sd)

    def transform(self, u: torch.Tensor) -> torch.Tensor:
        return self.mean + self.sd * torch.special.ndtri(u)


@dataclass(frozen=True)
class LogNormal(Prior):
    """Gaussian in the natural logarithm: `median`, and `sd` in ln (0.1 is about 10 per cent)."""

    median: float
    sd: float

    def _check(self) -> None:
        _check_sd(self, self.sd)
        if self.median <= 0:
            raise SettingsError(
                f"the log-normal prior has a median of {self.median:g}",
                "give a positive median in the parameter's own units, not its logarithm",
            )

    @property
    def support(self) -> tuple[float, float]:
        return (0.0, math.inf)

    @property
    def log(self) -> bool:
        return True

    @property
    def gaussian(self) -> tuple[float, float] | None:
        return (math.log(self.median), self.sd)

    def log_density(self, value: torch.Tensor) -> torch.Tensor:
        inside = value > 0
        ln = torch.where(inside, value, torch.ones_like(value)).log()
        density = -0.5 * ((ln - math.log(self.median)) / self.sd) ** 2 - ln
        density = density - math.log(self.sd) - _LOG_ROOT_2PI
        return torch.where(inside, density, torch.full_like(value, -math.inf))

    def cumulative(self, value: torch.Tensor) -> torch.Tensor:
        ln = value.clamp_min(0.0).log()
        return torch.special.ndtr((ln - math.log(self.median)) / self.sd)

    def transform(self, u: torch.Tensor) -> torch.Tensor:
        return self.median * (self.sd * torch.special.ndtri(u)).exp()


@dataclass(frozen=True)
class TruncatedNormal(Prior):
    """Gaussian of `mean` and `sd` (before the cut), cut off below `low` and above `high`."""

    mean: float
    sd: float
    low: float
    high: float

    def _check(self) -> None:
        _check_sd(self, self.sd)
        _check_order(self, self.low, self.high)
        if not self._parent.mass(self.low, self.high) > _SMALLEST_MASS:
            raise SettingsError(
                f"the truncated-normal prior {self.mean:g} +- {self.sd:g} has nothing between "
                f"{self.low:g} and {self.high:g}",
                "move the mean towards the limits, or widen them",
            )

    @property
    def support(self) -> tuple[float, float]:
        return (self.low, self.high)

    @property
    def gaussian(self) -> tuple[float, float] | None:
        return (self.mean, self.sd)

    @cached_property
    def _parent(self) -> Normal:
        return Normal(self.mean, self.sd)

    @cached_property
    def _restricted(self) -> Restricted:
        return Restricted(self._parent, self.low, self.high)

    def log_density(self, value: torch.Tensor) -> torch.Tensor:
        return self._restricted.log_density(value)

    def cumulative(self, value: torch.Tensor) -> torch.Tensor:
        return self._restricted.cumulative(value)

    def transform(self, u: torch.Tensor) -> torch.Tensor:
        return self._restricted.transform(u)


@dataclass(frozen=True)
class Restricted(Prior):
    """Any other prior, cut to the parameter's bounds and normalised again (`restricted`)."""

    prior: Prior
    low: float
    high: float

    @property
    def _open_ended(self) -> bool:
        return True

    def _check(self) -> None:
        _check_order(self, self.low, self.high)

    @property
    def support(self) -> tuple[float, float]:
        return (self.low, self.high)

    @property
    def log(self) -> bool:
        return self.prior.log

    @property
    def gaussian(self) -> tuple[float, float] | None:
        return self.prior.gaussian

    @cached_property
    def _inner(self) -> float:
        """Some value where the density is finite."""
        return float(self.transform(torch.tensor(0.5, dtype=torch.float64)))

    @cached_property
    def _ends(self) -> tuple[float, float]:
        """Probability below the two limits."""
        ends = torch.tensor([self.low, self.high], dtype=torch.float64)
        below = self.prior.cumulative(ends)
        return float(below[0]), float(below[1])

    def log_density(self, value: torch.Tensor) -> torch.Tensor:
        inside = (value >= self.low) & (value <= self.high)
        safe = torch.where(inside, value, torch.full_like(value, self._inner))
        density = self.prior.log_density(safe) - math.log(self._ends[1] - self._ends[0])
        return torch.where(inside, density, torch.full_like(value, -math.inf))

    def cumulative(self, value: torch.Tensor) -> torch.Tensor:
        below = self.prior.cumulative(value.clamp(self.low, self.high)) - self._ends[0]
        return below / (self._ends[1] - self._ends[0])

    def transform(self, u: torch.Tensor) -> torch.Tensor:
        share = self._ends[0] + u * (self._ends[1] - self._ends[0])
        return self.prior.transform(share).clamp(self.low, self.high)


_SMALLEST_MASS = 1e-9
"""A prior with less probability than this inside the bounds contradicts them."""


def restricted(prior: Prior, low: float, high: float) -> Prior:
    """The prior cut to ``low``..``high`` and normalised there.

    Parameters
    ----------
    prior : Prior
    low, high : float
        May be infinite.

    Returns
    -------
    Prior
        `prior` itself where its support lies inside.

    Raises
    ------
    SettingsError
        If (nearly) all of the probability lies outside.
    """
    below, above = prior.support
    if low <= below and high >= above:
        return prior
    if not prior.mass(low, high) > _SMALLEST_MASS:
        raise SettingsError(
            f"the prior {describe_prior(prior)} lies outside the bounds {low:g} to {high:g}",
            "let the two overlap",
        )
    low, high = max(low, below), min(high, above)
    if isinstance(prior, (Uniform, LogUniform)):
        return type(prior)(low, high)
    if isinstance(prior, TruncatedNormal):
        return TruncatedNormal(prior.mean, prior.sd, low, high)
    if isinstance(prior, Restricted):
        return Restricted(prior.prior, low, high)
    return Restricted(prior, low, high)


def nearest_turn(prior: Prior, value: torch.Tensor, period: float = 180.0) -> torch.Tensor:
    """An angle moved by whole turns to where it is nearest to the prior's centre.

    A position angle of 179 degrees is one degree away from a prior around 0: evaluate
    ``prior.log_density(nearest_turn(prior, pa))``.
    """
    return value - period * torch.round((value.detach() - prior.centre) / period)


def describe_prior(prior: Prior) -> str:
    """One short phrase, as `print(scene)` shows it."""
    if isinstance(prior, Restricted):
        return f"{describe_prior(prior.prior)} in [{prior.low:g}, {prior.high:g}]"
    numbers = ", ".join(f"{getattr(prior, field.name):g}" for field in fields(prior))
    return f"{_label(prior)}({numbers})"


PRIORS: dict[str, type[Prior]] = {
    "uniform": Uniform,
    "log-uniform": LogUniform,
    "normal": Normal,
    "log-normal": LogNormal,
    "truncated-normal": TruncatedNormal,
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
