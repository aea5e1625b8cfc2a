r"""Likelihoods of a pixel: how far a model may be from the data, and at what price.

Each is minus twice a log density :math:`\rho`, with the score :math:`-\frac12 d\rho/dm` and the
curvature by which the normal equations are weighted (iteratively reweighted least squares; Holland
& Welsch 1977, Comm. Stat. A6, 813). With the residual :math:`r = (d - m)/\sigma`:

==========  ================================================================  =====================
gaussian    :math:`r^2`
huber       :math:`r^2` inside k, :math:`2 k |r| - k^2` outside               k = 1.345
student-t   :math:`(\nu + 1) \ln(1 + r^2/\nu)`                                :math:`\nu = 4`
cauchy      :math:`2 \ln(1 + (r/c)^2)`                                        c = 2.385
poisson     :math:`2 [\lambda - c + c \ln(c/\lambda)]` in electrons           needs the gain
==========  ================================================================  =====================

The defaults of huber and cauchy are 95 % efficient for Gaussian noise. For poisson everything that
is not the model's own light (subtracted sky, read noise) is an expected number of electrons, the
same in all pixels: the median of what the noise plane has beyond the data.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

from autofit_ml.errors import SettingsError

__all__ = ["LIKELIHOODS", "Likelihood", "PixelTerms"]

LIKELIHOODS = ("gaussian", "poisson", "student-t", "huber", "cauchy")

_USUAL = {"student-t": 4.0, "huber": 1.345, "cauchy": 2.385}


@dataclass(frozen=True)
class PixelTerms:
    """Terms of pixels, (B, ny, nx): rho, -1/2 d rho / d model, and the curvature (>= 0)."""

    rho: torch.Tensor
    score: torch.Tensor
    curvature: torch.Tensor


@dataclass(frozen=True)
class Likelihood:
    """A likelihood of independent pixels.

    Attributes
    ----------
    name : {"gaussian", "poisson", "student-t", "huber", "cauchy"}
    parameter : float
        Degrees of freedom of student-t (> 0), k of huber, c of cauchy (in sigma); 0: the usual.

    Raises
    ------
    SettingsError
        An unknown name or a parameter that makes no sense.
    """

    name: str = "gaussian"
    parameter: float = 0.0

    def __post_init__(self) -> None:
        if self.name not in LIKELIHOODS:
            raise SettingsError(
                f"likelihood is {self.name!r}", f"use one of: {', '.join(LIKELIHOODS)}"
            )
        if not (math.isfinite(self.parameter) and self.parameter >= 0):
            raise SettingsError(
                f"the parameter of {self.name} is {self.parameter!r}", "give a positive number"
            )
        if self.parameter and self.name not in _USUAL:
            raise SettingsError(f"{self.name} has no parameter", f"use {self.name!r} alone")

    @classmethod
    def parse(cls, text: str) -> Likelihood:
        """Parse a likelihood from text: "gaussian", "student-t", "student-t:3", ..."""
        name, colon, number = text.partition(":")
        try:
            value = float(number) if colon else 0.0
        except ValueError:
            raise SettingsError(
                f"likelihood is {text!r}", "give a number after the colon, e.g. student-t:4"
            ) from None
        if colon and value <= 0:
            raise SettingsError(f"likelihood is {text!r}", "its parameter is a positive number")
        return cls(name.strip(), value)

    def __str__(self) -> str:
        return f"{self.name}:{self.parameter:g}" if self.parameter else self.name

    @property
    def robust(self) -> bool:
        """True if errors need the sandwich: the curvature is not the variance of the score."""
        return self.name in _USUAL

    @property
    def scale(self) -> float:
        """The parameter in force."""
        return self.parameter or _USUAL.get(self.name, 0.0)

    def terms(
        self,
        data: torch.Tensor,
        model: torch.Tensor,
        root_weight: torch.Tensor,
        electrons: torch.Tensor | None = None,
    ) -> PixelTerms:
        """rho, score and curvature.

        Parameters
        ----------
        data, model, root_weight : Tensor, (B, ny, nx)
            root_weight = 1 / sigma, 0 where masked.
        electrons : Tensor, (B,), optional
            Electrons per unit of the data, for poisson.
        """
        if self.name == "poisson":
            if electrons is None:
                raise ValueError("poisson needs the gain")
            return _poisson(data, model, root_weight, electrons[:, None, None])
        r = (data - model) * root_weight
        if self.name == "gaussian":
            return PixelTerms(r * r, r * root_weight, root_weight * root_weight)
        rho, weight = self._robust(r)
        return PixelTerms(rho, weight * r * root_weight, weight * root_weight * root_weight)

    def misfit(
        self,
        data: torch.Tensor,
        model: torch.Tensor,
        root_weight: torch.Tensor,
        electrons: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Each pixel's misfit and its variance, (B, ny, nx); 0 where masked. Arguments as `terms`.

        Its mean is 1 where model and noise are right, whatever the likelihood: r^2 for gaussian,
        Pearson's (c - lambda)^2 / lambda for poisson, rho over its mean for Gaussian noise for
        the others.
        """
        good = (root_weight > 0).to(data.dtype)
        if self.name == "poisson" and electrons is not None:
            count, expected = _counts(data, model, root_weight, electrons[:, None, None])
            return good * (count - expected).square() / expected, good * (2 + 1 / expected)
        r = (data - model) * root_weight
        if self.name == "gaussian":
            return r * r, 2 * good
        mean, variance = _moments(self)
        return self._robust(r)[0] / mean, variance * good

    def _robust(self, r: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """rho and the weight rho' / (2 r)."""
        k = self.scale
        if self.name == "huber":
            size = r.abs()
            outside = size > k
            rho = torch.where(outside, 2 * k * size - k * k, r * r)
            return rho, torch.where(outside, k / size.clamp_min(1e-30), torch.ones_like(r))
        if self.name == "student-t":
            return (k + 1) * torch.log1p(r * r / k), (k + 1) / (k + r * r)
        return 2 * torch.log1p((r / k) ** 2), 2 / (k * k + r * r)

    def slope(self, r: torch.Tensor) -> torch.Tensor:
        """Derivative of rho'/2 by r: the curvature of the likelihood itself (may be negative)."""
        k = self.scale
        if self.name == "huber":
            return (r.abs() <= k).to(r.dtype)
        if self.name == "student-t":
            return (k + 1) * (k - r * r) / (k + r * r) ** 2
        if self.name == "cauchy":
            return 2 * (k * k - r * r) / (k * k + r * r) ** 2
        return torch.ones_like(r)

    @property
    def log_normaliser(self) -> float:
        """ln of the integral of exp(-rho/2) over r; what a pixel's log density is reduced by."""
        k = self.scale
        if self.name == "huber":
            core = math.sqrt(2 * math.pi) * math.erf(k / math.sqrt(2))
            return math.log(core + 2 / k * math.exp(-k * k / 2))
        if self.name == "student-t":
            return math.lgamma(k / 2) - math.lgamma((k + 1) / 2) + 0.5 * math.log(k * math.pi)
        if self.name == "cauchy":
            return math.log(math.pi * k)
        return 0.5 * math.log(2 * math.pi)


@lru_cache
def _moments(likelihood: Likelihood) -> tuple[float, float]:
    """Mean of rho for Gaussian noise, and the variance of rho over that mean."""
    r = np.linspace(-9, 9, 3601)
    weight = np.exp(-0.5 * r * r)
    rho = likelihood._robust(torch.as_tensor(r))[0].numpy()
    mean, square = np.average(rho, weights=weight), np.average(rho**2, weights=weight)
    return float(mean), float(square / mean**2 - 1)


def _counts(
    data: torch.Tensor, model: torch.Tensor, root_weight: torch.Tensor, electrons: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Electrons that were counted and that are expected, sky and read noise with them."""
    good = root_weight > 0
    variance = (electrons / torch.where(good, root_weight, torch.ones_like(root_weight))).square()
    # Expected electrons that are not the model's: what the noise plane has beyond the data, in the
    # median of all pixels (pixel by pixel it would carry the noise of the data itself).
    beyond = torch.where(good, variance - electrons * data, torch.nan).flatten(1)
    other = beyond.nanmedian(1).values.nan_to_num().clamp_min(0.0)[:, None, None]
    count = (electrons * data + other).clamp_min(0.0)
    # An undersampled PSF rings below zero, but nothing takes half of the sky away.
    floor = (other / 2).clamp_min(1e-3)
    return count, torch.maximum(electrons * model + other, floor)


def _poisson(
    data: torch.Tensor, model: torch.Tensor, root_weight: torch.Tensor, electrons: torch.Tensor
) -> PixelTerms:
    good = root_weight > 0
    count, expected = _counts(data, model, root_weight, electrons)
    ratio = count / expected
    rho = 2 * (expected - count + torch.special.xlogy(count, ratio))
    zero = torch.zeros_like(rho)
    return PixelTerms(
        torch.where(good, rho, zero),
        torch.where(good, electrons * (ratio - 1), zero),
        torch.where(good, electrons * electrons / expected, zero),
    )
