r"""Covariances: Laplace, and the sandwich for correlated noise.

Laplace: :math:`C = A^{-1}` in fit space at the minimum, carried to the catalogue's parameters by
the derivatives of the transform.

Correlated noise: with the correlation function :math:`R` of the noise, :math:`C' = A^{-1} B A^{-1}`
with :math:`B = V^T R V`, :math:`V = J/\sigma`; the product with R is a multiplication by its power
spectrum.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy import special

__all__ = ["axis_ratio_error", "correlated_products", "laplace", "position_angle_error"]


def laplace(matrix: torch.Tensor, frozen: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Inverse of the Gauss-Newton matrix.

    Parameters
    ----------
    matrix : Tensor, float64, (B, D, D)
    frozen : Tensor, bool, (B, D)
        Parameters that are fixed or sit on a bound: their rows and columns become 0.

    Returns
    -------
    covariance : Tensor, (B, D, D)
    good : Tensor, bool, (B,)
        False where the matrix is not positive definite to rounding.
    """
    free = (~frozen).to(matrix.dtype)
    diagonal = matrix.diagonal(dim1=1, dim2=2)
    usable = ((diagonal > 0) | frozen).all(1)
    inverse = free / torch.where(diagonal > 0, diagonal, torch.ones_like(diagonal)).sqrt()
    unit = matrix * inverse[:, :, None] * inverse[:, None, :]
    eye = torch.eye(unit.shape[-1], dtype=unit.dtype, device=unit.device)
    unit = torch.nan_to_num(unit * (1 - eye)) + eye
    values, vectors = torch.linalg.eigh(unit)
    good = usable & (values[:, 0] > 1e-9)
    values = values.clamp_min(1e-9)
    correlation = (vectors / values[:, None, :]) @ vectors.transpose(1, 2)
    return correlation * inverse[:, :, None] * inverse[:, None, :], good


def correlated_products(weighted: torch.Tensor, correlation: torch.Tensor) -> torch.Tensor:
    """V^T R V, float64, (B, D, D).

    Parameters
    ----------
    weighted : Tensor, (B, D, ny, nx)
        Derivatives of the model over sigma, 0 where masked.
    correlation : Tensor, (B, 2 lag + 1, 2 lag + 1)
    """
    lag = correlation.shape[-1] // 2
    ny, nx = weighted.shape[-2:]
    shape = (ny + lag, nx + lag)
    kernel = torch.zeros((len(weighted), *shape), dtype=torch.float64, device=weighted.device)
    rows = torch.arange(-lag, lag + 1, device=weighted.device) % shape[0]
    columns = torch.arange(-lag, lag + 1, device=weighted.device) % shape[1]
    kernel[:, rows[:, None], columns[None, :]] = correlation.to(torch.float64)
    # A measured correlation function need not be positive definite: clip its spectrum.
    power = torch.fft.rfft2(kernel).real.clamp_min(0.0)
    spectrum = torch.fft.rfft2(weighted.to(torch.float64), s=shape)
    convolved = torch.fft.irfft2(spectrum * power[:, None], s=shape)[..., :ny, :nx]
    return weighted.to(torch.float64).flatten(2) @ convolved.flatten(2).transpose(1, 2)


_UNKNOWN_RATIO = 0.34
"""68.3 % half-width of a ratio that may be anything between 0 and 1."""


def axis_ratio_error(theta: torch.Tensor, covariance: torch.Tensor) -> torch.Tensor:
    """Half of the interval in q that 1 sigma of ln q = -abs(eta) spans, q sinh(sigma), (B,).

    Equal to the linear error where that is small. Noise makes faint galaxies look flatter, where
    the linear error, proportional to q, is too small.

    Parameters
    ----------
    theta : Tensor, float64, (B, 8)
        Fit-space parameters.
    covariance : Tensor, float64, (B, 8, 8)
    """
    eta = torch.hypot(theta[:, 5], theta[:, 6])
    sigma = _spread(_direction(theta), covariance)
    sigma = sigma.clamp_max(10.0)
    half = ((sigma - eta).exp() - (-sigma - eta).exp()) / 2
    return half.clamp_max(_UNKNOWN_RATIO)


def _direction(theta: torch.Tensor) -> torch.Tensor:
    """Unit vector along (eta1, eta2), (B, 2); (1, 0) for a round object."""
    eta = torch.hypot(theta[:, 5], theta[:, 6])
    unit = theta[:, 5:7] / eta.clamp_min(1e-12)[:, None]
    first = torch.tensor([1.0, 0.0], dtype=theta.dtype, device=theta.device)
    return torch.where((eta > 1e-12)[:, None], unit, first)


def _spread(direction: torch.Tensor, covariance: torch.Tensor) -> torch.Tensor:
    """1-sigma spread of the ellipticity along a unit vector, (B,)."""
    block = covariance[:, 5:7, 5:7]
    variance = (direction[:, None] @ block @ direction[..., None])[:, 0, 0]
    return variance.clamp_min(1e-300).sqrt()


def position_angle_error(theta: torch.Tensor, covariance: torch.Tensor) -> torch.Tensor:
    r"""68.3 % half-width of the position angle, degrees, (B,).

    The likelihood of the ellipticity (eta1, eta2) is Gaussian; the posterior of its direction is
    not when the ellipticity is no larger than its error. With a prior flat in q = exp(-abs(eta))
    and in direction, the angle phi = 2 (pa - best pa) has

    .. math:: f(\phi) \propto e^{a^2/2}\, [1 + \mathrm{erf}(a / \sqrt 2)], \qquad
              a = |\eta| \cos\phi / \sigma - \sigma ,

    whose half-width is sigma / abs(eta) for a clear ellipticity and 68.3 % of 180 degrees for none.

    Parameters
    ----------
    theta : Tensor, float64, (B, 8)
        Fit-space parameters.
    covariance : Tensor, float64, (B, 8, 8)
    """
    eta = torch.hypot(theta[:, 5], theta[:, 6]).clamp_min(1e-12)
    along = _direction(theta)
    across = torch.stack([-along[:, 1], along[:, 0]], dim=1)
    sigma = _spread(across, covariance)
    half = _direction_half_width((eta / sigma).cpu().numpy(), sigma.cpu().numpy()) / 2
    return torch.as_tensor(np.rad2deg(half), dtype=theta.dtype, device=theta.device)


def _direction_half_width(length: np.ndarray, sigma: np.ndarray) -> np.ndarray:
    """68.3 % half-width of phi (radians) of `position_angle_error`; `length`: abs(eta) / sigma."""
    p, s = length[:, None], np.minimum(sigma, 10.0)[:, None]
    reach = np.where(p < 8.0, np.pi, 8.0 * np.pi / np.maximum(p, 8.0))  # over 20 sigma
    angle = np.linspace(0.0, 1.0, 401) * reach
    a = p * np.cos(angle) - s
    log_density = a * a / 2 + special.log_ndtr(a)
    density = np.exp(log_density - log_density[:, :1])
    cumulative = np.zeros_like(density)
    np.cumsum(density[:, 1:] + density[:, :-1], axis=1, out=cumulative[:, 1:])
    rows = zip(cumulative, angle, strict=True)
    return np.array([np.interp(_ONE_SIGMA * up[-1], up, at) for up, at in rows])


_ONE_SIGMA = float(special.erf(np.sqrt(0.5)))
