r"""Tables of the Fourier transform of circular profiles.

A circular profile :math:`I(r)` of unit flux has the two-dimensional transform

.. math:: S(\kappa) = 2\pi \int_0^\infty I(r)\, J_0(\kappa r)\, r\, dr,

computed for all :math:`\kappa` of a logarithmic grid by one FFTLog (Hamilton 2000, MNRAS 312,
257, appendix B; `scipy.fft.fht`). The slope :math:`dS/d\ln\kappa` is the transform of
:math:`-(2 I + r I')`, so it comes from the same routine and needs no differencing.

Between the nodes in :math:`\ln\kappa` the table is a cubic Hermite polynomial; along the shape
parameter it is a Chebyshev series in its logarithm. Both are smooth, and derivatives taken by the
renderer are derivatives *of the interpolant*, so that they agree with finite differences of the
rendered image to rounding.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from scipy import ndimage
from scipy.fft import fht, fhtoffset

from autofit_ml.profiles.live import LiveTable, cubic_coefficients
from autofit_ml.profiles.products import row_products

__all__ = [
    "HankelTable",
    "Table",
    "chebyshev_nodes",
    "chebyshev_series",
    "row_products",
    "tabulate",
]

_LOG_R_MIN, _LOG_R_MAX, _N_R = np.log(1e-9), np.log(1e7), 8192
_LOG_KAPPA_MIN, _LOG_KAPPA_MAX, _LOG_KAPPA_STEP = np.log(1e-5), np.log(1e5), 0.05
_BIAS = -0.5
_N_SERIES = 32


@dataclass(frozen=True)
class HankelTable:
    """Transform of a one-parameter family of profiles.

    Attributes
    ----------
    log_kappa_min, log_kappa_step : float
        Grid of the argument, natural logarithm of ``k * half-light radius``.
    log_shape_range : tuple of float
        Range of the logarithm of the shape parameter; (0, 0) for a family without one.
    chebyshev : ndarray, float64, shape (n_series, n_kappa, 4)
        Chebyshev coefficients (along ln shape) of the four cubic coefficients (ascending powers
        of the fraction of a step) of S on every interval of ln kappa.
    """

    log_kappa_min: float
    log_kappa_step: float
    log_shape_range: tuple[float, float]
    chebyshev: np.ndarray
    _on_device: dict = field(default_factory=dict, repr=False, compare=False)

    @property
    def n_kappa(self) -> int:
        """Number of intervals in ln kappa."""
        return self.chebyshev.shape[1]

    @property
    def n_shapes(self) -> int:
        """1, or 0 for a family with a single member."""
        return int(len(self.chebyshev) > 1)

    def coefficients(self, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
        """Chebyshev coefficients as a tensor, shape (n_series, n_kappa * 4); made once a device."""
        key = (device, dtype)
        if key not in self._on_device:
            flat = self.chebyshev.reshape(len(self.chebyshev), -1)
            self._on_device[key] = torch.as_tensor(flat, device=device, dtype=dtype)
        return self._on_device[key]

    def rows(
        self, shapes: torch.Tensor, dtype: torch.dtype, derivatives: bool = True
    ) -> torch.Tensor:
        """Cubic coefficients for a batch of shape parameters.

        Parameters
        ----------
        shapes : Tensor, float64, shape (B, 1), or (B, 0) for a family with a single member
            Natural logarithm of the shape parameter, inside `log_shape_range`.
        dtype : torch.dtype
            Of the result.
        derivatives : bool
            They cost nothing here and are always there.

        Returns
        -------
        Tensor, shape (B, n_kappa, 8), or (1, n_kappa, 4) for a family with a single member
            Ascending cubic coefficients of S, then those of dS/dln(shape). Differentiable.
        """
        coefficients = self.coefficients(shapes.device, torch.float64)
        if not self.n_shapes:
            return coefficients.view(1, self.n_kappa, 4).to(dtype)
        parts = [
            row_products(basis, coefficients).view(-1, self.n_kappa, 4)
            for basis in self._basis(shapes[:, 0])
        ]
        return torch.cat(parts, dim=-1).to(dtype)

    def _basis(self, log_shape: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Chebyshev polynomials T_j(t) and dT_j/dln(shape), each (B, n_series)."""
        n_series = len(self.chebyshev)
        low, high = self.log_shape_range
        scale = 2.0 / (high - low)
        # T_j(t) = cos(j a), dT_j/dt = j sin(j a) / sin(a) with t = cos(a), inside the range.
        t = ((log_shape - low) * scale - 1.0).clamp(-1.0 + 1e-9, 1.0 - 1e-9)
        angle = t[:, None].expand(-1, n_series).acos()
        j = torch.arange(n_series, dtype=log_shape.dtype, device=log_shape.device)
        return (j * angle).cos(), j * (j * angle).sin() / angle.sin() * scale


Table = HankelTable | LiveTable
"""Transforms of a family of profiles with any number S of shape parameters."""


def tabulate(
    profile: Callable[[np.ndarray, float], np.ndarray],
    slope: Callable[[np.ndarray, float], np.ndarray],
    shape_range: tuple[float, float],
) -> HankelTable:
    """Tabulate the transform of a family of circular profiles.

    Parameters
    ----------
    profile : callable (r, shape) -> ndarray
        Brightness at radius `r` (in half-light radii), of unit flux.
    slope : callable (r, shape) -> ndarray
        ``r dI/dr`` of the same.
    shape_range : tuple of float
        Smallest and largest shape parameter (> 0).

    Returns
    -------
    HankelTable
    """
    low, high = np.log(shape_range)
    shapes = np.exp(chebyshev_nodes(low, high))
    log_r = np.linspace(_LOG_R_MIN, _LOG_R_MAX, _N_R, endpoint=False)
    r, dln = np.exp(log_r), log_r[1] - log_r[0]
    offset = fhtoffset(dln, mu=0.0, initial=0.0, bias=_BIAS)
    log_k = offset - log_r[::-1]
    grid = np.arange(_LOG_KAPPA_MIN, _LOG_KAPPA_MAX + _LOG_KAPPA_STEP / 2, _LOG_KAPPA_STEP)

    value = np.empty((len(shapes), len(grid)))
    derivative = np.empty_like(value)
    for i, shape in enumerate(shapes):
        value[i] = _transform(profile(r, shape) * r, dln, offset, log_k, grid)
        derivative[i] = _transform(
            -(2 * profile(r, shape) + slope(r, shape)) * r, dln, offset, log_k, grid
        )

    nodes = torch.from_numpy(value), torch.from_numpy(derivative * _LOG_KAPPA_STEP)
    series = chebyshev_series(cubic_coefficients(*nodes).numpy())
    return HankelTable(float(_LOG_KAPPA_MIN), _LOG_KAPPA_STEP, (float(low), float(high)), series)


def chebyshev_nodes(low: float, high: float) -> np.ndarray:
    """Nodes at which a family is tabulated along its shape parameter."""
    nodes = np.cos(np.pi * (np.arange(_N_SERIES) + 0.5) / _N_SERIES)
    return low + (nodes + 1) * (high - low) / 2


def chebyshev_series(values: np.ndarray) -> np.ndarray:
    """Values at Chebyshev nodes cos(pi (i + 1/2) / n) to coefficients, along the first axis."""
    n = len(values)
    j = np.arange(n)[:, None]
    angle = np.pi * (np.arange(n)[None, :] + 0.5) / n
    to_series = 2.0 / n * np.cos(j * angle)
    to_series[0] /= 2
    return np.tensordot(to_series, values, axes=(1, 0))


def _transform(
    integrand: np.ndarray, dln: float, offset: float, log_k: np.ndarray, grid: np.ndarray
) -> np.ndarray:
    """2 pi int a(r) J0(k r) dr on the wanted grid; `integrand` is a(r) on the log grid."""
    on_log_k = 2 * np.pi * fht(integrand, dln, mu=0.0, offset=offset, bias=_BIAS) / np.exp(log_k)
    inside = (log_k > grid[0] - 1) & (log_k < grid[-1] + 1)
    # A cubic spline; its ends are too far away to matter.
    place = (grid - log_k[inside][0]) / dln
    return ndimage.map_coordinates(on_log_k[inside], [place], order=3, mode="mirror")
