r"""Likelihoods of the objects: Gaussians with the interim prior divided out, or samples.

Gaussians are kept as precision and mean of the *likelihood*,
:math:`\Lambda = C^{-1} - P`, :math:`\Lambda\mu = C^{-1}\hat\mu - P m` with the interim prior
N(m, P^-1): parameters that were not measured, and a likelihood that is flat, are zeros in
:math:`\Lambda`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch

from autofit_ml.errors import InputError, SettingsError
from autofit_ml.population.coordinates import Coordinates, PlainCoordinates

__all__ = [
    "GaussianObjects",
    "Interim",
    "SampledObjects",
    "divided",
    "gaussian_objects",
    "pseudo_inverse",
    "sampled_objects",
]

Interim: TypeAlias = "str | tuple[np.ndarray, np.ndarray] | np.ndarray | Callable[..., np.ndarray]"
"""Prior that the per-object posteriors contain: "flat"; (mean, precision) of Gaussians; of samples
also ln of its density at them, or a function of the parameters that returns it."""


@dataclass(frozen=True)
class GaussianObjects:
    """Gaussian likelihoods of N objects in D coordinates.

    Attributes
    ----------
    coordinates : Coordinates
    mean : Tensor, float64, (N, D)
        Maximum of the likelihood.
    precision : Tensor, float64, (N, D, D)
    posterior_mean : Tensor, float64, (N, D)
        As they were given, with the interim prior.
    covariance : Tensor, float64, (N, D, D)
        As they were given; NaN where something was not measured.
    undivided : Tensor, bool, (N,)
        The interim prior could not be divided out: the posterior is wider than it.
    """

    coordinates: Coordinates
    mean: torch.Tensor
    precision: torch.Tensor
    posterior_mean: torch.Tensor
    covariance: torch.Tensor
    undivided: torch.Tensor

    def __len__(self) -> int:
        return len(self.mean)

    @property
    def likelihood_covariance(self) -> torch.Tensor:
        """Covariances of the likelihoods, (N, D, D); NaN where one is flat in some direction."""
        scale = self.precision.diagonal(dim1=1, dim2=2)
        scale = torch.where(scale > 0, scale, 1.0).rsqrt()
        both = scale[:, :, None] * scale[:, None]
        unit = self.precision * both
        whole = torch.linalg.eigvalsh(unit).amin(1) > 1e-9
        eye = torch.eye(unit.shape[1], dtype=unit.dtype)
        inverse = torch.linalg.inv(torch.where(whole[:, None, None], unit, eye)) * both
        return torch.where(whole[:, None, None], inverse, torch.nan)

    def select(self, index: torch.Tensor) -> GaussianObjects:
        """Some of them."""
        return GaussianObjects(
            self.coordinates,
            self.mean[index],
            self.precision[index],
            self.posterior_mean[index],
            self.covariance[index],
            self.undivided[index],
        )

    def projected(
        self,
        coordinates: Coordinates,
        turn: torch.Tensor,
        shift: torch.Tensor,
        places: Sequence[int],
    ) -> GaussianObjects:
        """Change to other coordinates, turn theta + shift, of which those at `places` are kept.

        The likelihood is integrated over the others.
        """
        back = torch.linalg.inv(turn)
        precision = back.mT @ self.precision @ back
        rest = [j for j in range(precision.shape[1]) if j not in places]
        kept, cross = precision[:, places][:, :, places], precision[:, places][:, :, rest]
        kept = kept - cross @ pseudo_inverse(precision[:, rest][:, :, rest]) @ cross.mT

        def moved(theta: torch.Tensor) -> torch.Tensor:
            return (torch.einsum("nij,nj->ni", turn, theta) + shift)[:, places]

        unknown = ~torch.isfinite(self.posterior_mean)
        seen = moved(torch.where(unknown, 0.0, self.posterior_mean))
        seen = torch.where(unknown[:, places], torch.nan, seen)
        missing = torch.isnan(self.covariance)
        cov = turn @ torch.where(missing, 0.0, self.covariance) @ turn.mT
        cov = torch.where(missing, torch.nan, cov)[:, places][:, :, places]
        return GaussianObjects(
            coordinates, moved(self.mean), (kept + kept.mT) / 2, seen, cov, self.undivided
        )


@dataclass(frozen=True)
class SampledObjects:
    """Posterior samples of N objects.

    Attributes
    ----------
    names : tuple of str
    values : Tensor, float64, (N, K, D)
    log_weight : Tensor, float64, (N, K)
        - ln(interim prior x number of samples); -inf for places without a sample.
    gaussian : GaussianObjects
        The same objects as Gaussians, for those whose samples are too few.
    """

    names: tuple[str, ...]
    values: torch.Tensor
    log_weight: torch.Tensor
    gaussian: GaussianObjects

    def __len__(self) -> int:
        return len(self.values)


def gaussian_objects(
    coordinates: Coordinates,
    mu: np.ndarray,
    cov: np.ndarray,
    interim: Interim | None,
    *,
    extra: np.ndarray | None = None,
) -> GaussianObjects:
    """Gaussian posteriors without their prior.

    Parameters
    ----------
    coordinates : Coordinates
    mu : ndarray, (N, D)
        NaN for what was not measured.
    cov : ndarray, (N, D, D) or (N, D)
        Covariances, or standard deviations.
    interim : "flat" or (mean, precision)
        (D,) or (N, D); (D, D) or (N, D, D).
    extra : ndarray, (N, D, D), optional
        Covariance to add once the prior is divided out: what a model cannot describe.

    Raises
    ------
    InputError, SettingsError
        Shapes, covariances that are none, an unknown prior.
    """
    names = coordinates.names
    mean = torch.as_tensor(np.array(mu, dtype=np.float64))
    if mean.ndim == 1 and len(names) == 1:
        mean = mean[:, None]
    c = torch.as_tensor(np.array(cov, dtype=np.float64))
    if mean.ndim != 2 or mean.shape[1] != len(names):
        raise SettingsError(
            f"mu has the shape {tuple(mean.shape)}, names are {', '.join(names)}",
            "give (N, D), with a name for each of D",
        )
    n, d = mean.shape
    if c.shape == (n, d):
        c = torch.diag_embed(c.square())
    if c.shape != (n, d, d):
        raise SettingsError(
            f"cov has the shape {tuple(c.shape)}", f"give {(n, d, d)}, or errors {(n, d)}"
        )
    known = torch.isfinite(mean) & torch.isfinite(c.diagonal(dim1=1, dim2=2))
    both = known[:, :, None] & known[:, None]
    _refuse_no_covariance(c, both)
    eye = torch.eye(d, dtype=torch.float64)
    whole = torch.where(both, c, eye)
    precision = torch.where(both, torch.linalg.inv(whole), 0.0)
    at = torch.where(known, mean, 0.0)
    prior_mean, prior = _interim_gaussian(interim, n, d)
    weak = torch.zeros(n, dtype=torch.bool)
    likelihood = precision
    if prior is not None and prior_mean is not None:
        pull = torch.einsum("nij,nj->ni", precision, at)
        pull = pull - torch.einsum("nij,nj->ni", torch.where(both, prior, 0.0), prior_mean)
        likelihood, at, weak = divided(precision, torch.where(both, prior, 0.0), pull)
    if extra is not None:
        # (L^-1 + E)^-1 also where L has no inverse.
        e = torch.where(both, torch.as_tensor(np.asarray(extra, np.float64)), 0.0)
        likelihood = torch.linalg.solve(eye + likelihood @ e, likelihood)
        likelihood = (likelihood + likelihood.mT) / 2
        c = c + e
    middle = torch.where(known, mean, torch.nan).nanmedian(0).values.nan_to_num()
    at = torch.where(known, at, middle)
    return GaussianObjects(coordinates, at, likelihood, mean, torch.where(both, c, torch.nan), weak)


def _refuse_no_covariance(c: torch.Tensor, both: torch.Tensor) -> None:
    unit = torch.where(both, c, torch.eye(c.shape[1], dtype=c.dtype))
    scale = unit.diagonal(dim1=1, dim2=2).clamp_min(0).sqrt()
    unit = unit / (scale[:, :, None] * scale[:, None])
    wrong = ~torch.isfinite(unit).flatten(1).all(1)
    wrong[~wrong] |= torch.linalg.eigvalsh(unit[~wrong]).amin(1) <= 1e-10
    if wrong.any():
        first = int(wrong.nonzero()[0, 0])
        raise InputError(
            f"{int(wrong.sum())} of {len(c)} covariances are none (the first in row {first})",
            "leave these objects out, or make what was not measured NaN",
        )


def _interim_gaussian(
    interim: Interim | None, n: int, d: int
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    if isinstance(interim, str) and interim == "flat":
        return None, None
    if not isinstance(interim, tuple) or len(interim) != 2:
        raise SettingsError(
            f"the prior that the posteriors contain is {interim!r}",
            "say interim='flat', or (mean, precision) of the Gaussians that the fits were given",
        )
    mean, precision = (torch.as_tensor(np.asarray(part, np.float64)) for part in interim)
    if mean.shape not in ((d,), (n, d)) or precision.shape not in ((d, d), (n, d, d)):
        raise SettingsError(
            f"interim has the shapes {tuple(mean.shape)} and {tuple(precision.shape)}",
            f"give a mean {(n, d)} and a precision {(n, d, d)}",
        )
    return mean.expand(n, d), precision.expand(n, d, d)


def pseudo_inverse(matrix: torch.Tensor) -> torch.Tensor:
    """Inverse of precisions (N, D, D), whatever their scales; 0 in directions without any."""
    scale = matrix.diagonal(dim1=1, dim2=2)
    scale = torch.where(scale > 0, scale, 1.0).rsqrt()
    both = scale[:, :, None] * scale[:, None]
    return torch.linalg.pinv(matrix * both, rtol=1e-10, hermitian=True) * both


def divided(
    precision: torch.Tensor, prior: torch.Tensor, pull: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Precision and mean of Gaussians without their priors, and which priors were the narrower.

    Where the difference of the precisions is no precision, the data say nothing in that direction.
    """
    own = precision.diagonal(dim1=1, dim2=2)
    scale = torch.where(own > 0, own, 1.0).rsqrt()
    both = scale[:, :, None] * scale[:, None]
    values, vectors = torch.linalg.eigh((precision - prior) * both)
    weak = values.amin(1) < -1e-3
    kept = values > 1e-9
    values = torch.where(kept, values, 0.0)
    likelihood = (vectors * values[:, None]) @ vectors.mT / both
    turned = torch.einsum("nij,ni->nj", vectors, pull * scale)
    at = torch.where(kept, turned / torch.where(kept, values, 1.0), 0.0)
    mean = torch.einsum("nij,nj->ni", vectors, at) * scale
    return likelihood, mean, weak


def sampled_objects(
    names: Sequence[str], samples: Sequence[np.ndarray] | np.ndarray, interim: Interim | None
) -> SampledObjects:
    """Posterior samples with the interim prior as weights.

    Parameters
    ----------
    names : sequence of str, D
    samples : ndarray, (N, K, D), or sequence of (K_i, D)
    interim : "flat", (mean, precision), ndarray or sequence (N, K), or callable
        See `Interim`.

    Raises
    ------
    SettingsError
    """
    arrays = [np.asarray(one, np.float64).reshape(len(one), -1) for one in samples]
    n, d = len(arrays), len(names)
    if not arrays or any(one.shape[1] != d or len(one) < d + 2 for one in arrays):
        raise SettingsError(
            f"samples of {n} objects in {d} parameters",
            f"give arrays (K, {d}) with {d + 2} or more samples of each object",
        )
    most = max(map(len, arrays))
    values = torch.zeros((n, most, d), dtype=torch.float64)
    log_weight = torch.full((n, most), -math.inf, dtype=torch.float64)
    for k, one in enumerate(arrays):
        values[k, : len(one)] = torch.as_tensor(one)
        values[k, len(one) :] = torch.as_tensor(one[0])
        log_weight[k, : len(one)] = -math.log(len(one))
    there = torch.isfinite(log_weight)
    if callable(interim) or isinstance(interim, (np.ndarray, list)):
        given = interim(values.numpy()) if callable(interim) else interim
        density = torch.zeros((n, most), dtype=torch.float64)
        for k, one in enumerate(arrays):
            density[k, : len(one)] = torch.as_tensor(np.asarray(given[k], np.float64)[: len(one)])
    else:
        mean, precision = _interim_gaussian(interim, n, d)
        density = torch.zeros((n, most), dtype=torch.float64)
        if mean is not None and precision is not None:
            off = values - mean[:, None]
            density = -0.5 * torch.einsum("nki,nij,nkj->nk", off, precision, off)
    log_weight = torch.where(there, log_weight - density, log_weight)
    share = torch.softmax(log_weight, 1)
    at = torch.einsum("nk,nkd->nd", share, values)
    off = values - at[:, None]
    cov = torch.einsum("nk,nki,nkj->nij", share, off, off)
    gaussian = gaussian_objects(PlainCoordinates(tuple(names)), at.numpy(), cov.numpy(), "flat")
    return SampledObjects(tuple(names), values, log_weight, gaussian)
