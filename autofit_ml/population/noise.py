r"""Errors that depend on the galaxy: those of an object are those at its *true* parameters.

A fit's covariance is that at the fitted parameters: a galaxy whose noise made it brighter has
smaller errors than its true magnitude deserves, and a population inferred with them is biased.
:math:`\ln\sigma_d` of all objects is therefore fitted by a quadratic g of the measured parameters,
and the likelihood of true parameters x is that of

.. math:: \sigma_d(x) = \sigma_d \, e^{g_d(x) - g_d(\mu)}

with the object's own correlations: what makes its errors differ from those of its like stays.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from autofit_ml.errors import SettingsError

__all__ = ["NoiseModel", "fit_noise", "quadratic_features"]

_CLIP = 4.0
"""Outliers in ln sigma, robust standard deviations."""


def quadratic_features(x: torch.Tensor) -> torch.Tensor:
    """1, x, and products of two: (..., D) -> (..., 1 + D + D (D + 1) / 2)."""
    d = x.shape[-1]
    i, j = torch.triu_indices(d, d)
    return torch.cat([torch.ones_like(x[..., :1]), x, x[..., i] * x[..., j]], -1)


@dataclass(frozen=True)
class NoiseModel:
    """Errors as functions of the parameters.

    Attributes
    ----------
    middle, scale : Tensor, (D,)
        Of the measured parameters; features are those of (x - middle) / scale.
    reach : Tensor, (2, D)
        Range of the measured parameters: g is linear beyond it.
    coefficients : Tensor, (F, D)
    correlation : Tensor, (D, D)
        Mean one.
    further : dict of str to Tensor, (F,)
        Coefficients of ln of other quantities ("snr").
    """

    middle: torch.Tensor
    scale: torch.Tensor
    reach: torch.Tensor
    coefficients: torch.Tensor
    correlation: torch.Tensor
    further: Mapping[str, torch.Tensor]

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """Features of parameters (..., D)."""
        inside = torch.maximum(torch.minimum(x, self.reach[1]), self.reach[0])
        at, beyond = (inside - self.middle) / self.scale, (x - inside) / self.scale
        ahead, behind = quadratic_features(at + beyond), quadratic_features(at - beyond)
        return quadratic_features(at) + (ahead - behind) / 2

    def log_sigma(self, x: torch.Tensor) -> torch.Tensor:
        """ln of the errors, (..., D), of true parameters."""
        return self.features(x) @ self.coefficients

    def measured(self, x: torch.Tensor, normal: torch.Tensor) -> torch.Tensor:
        """Parameters as they are measured, from standard normal numbers (..., D)."""
        root = torch.linalg.cholesky(self.correlation)
        return x + self.log_sigma(x).exp() * (normal @ root.T)


def fit_noise(
    mean: torch.Tensor,
    covariance: torch.Tensor,
    further: Mapping[str, np.ndarray] | None = None,
) -> NoiseModel:
    """Fit ln sigma by quadratics, without outliers.

    Parameters
    ----------
    mean : Tensor, (N, D)
    covariance : Tensor, (N, D, D)
        Infinite or NaN in rows and columns that are not measured; such objects are left out.
    further : dict of str to ndarray, (N,), optional
        Positive quantities that depend on the parameters likewise.

    Raises
    ------
    SettingsError
        Too few objects.
    """
    variance = covariance.diagonal(dim1=1, dim2=2)
    good = torch.isfinite(covariance).flatten(1).all(1) & (variance > 0).all(1)
    good &= torch.isfinite(mean).all(1)
    count, d = int(good.sum()), mean.shape[1]
    needed = 4 * (1 + d + d * (d + 1) // 2)
    if count < needed:
        raise SettingsError(
            f"{count} objects are too few to fit how errors depend on {d} parameters",
            f"give at least {needed}, or noise='fixed'",
        )
    x, sigma = mean[good], variance[good].sqrt()
    middle, scale = x.median(0).values, x.std(0).clamp_min(1e-12)
    reach = x.quantile(torch.tensor([0.001, 0.999], dtype=x.dtype), 0)
    blank = NoiseModel(middle, scale, reach, torch.zeros(0), torch.zeros(0), {})
    features = blank.features(x)
    unit = covariance[good] / (sigma[:, :, None] * sigma[:, None])
    more = {
        name: _robust(features, torch.as_tensor(values, dtype=x.dtype)[good].log()[:, None])[:, 0]
        for name, values in (further or {}).items()
    }
    return NoiseModel(middle, scale, reach, _robust(features, sigma.log()), unit.mean(0), more)


def _robust(features: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Least squares without outliers, (F, D)."""
    columns = []
    for one in y.T:
        keep = torch.isfinite(one)
        for _ in range(4):
            found = torch.linalg.lstsq(features[keep], one[keep, None]).solution[:, 0]
            off = (one - features @ found).nan_to_num(nan=float("inf"))
            spread = 1.4826 * off[keep].abs().median()
            keep = off.abs() <= _CLIP * spread.clamp_min(1e-9)
        columns.append(found)
    return torch.stack(columns, 1)
