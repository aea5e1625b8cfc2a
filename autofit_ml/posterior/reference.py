r"""The Gaussian that the sampler takes as its reference: centre and covariance of each object.

At first it is the Laplace approximation. During the warm-up it is fitted to draws x and gradients
:math:`g = \nabla \ln p` by minimising the Fisher divergence
:math:`E\,|g + C^{-1} (x - m)|^2` (measured with C), whose solution is the geometric mean

.. math:: C = \mathrm{Cov}(x)\; \#\; \mathrm{Cov}(g)^{-1}
            = B^{-1/2} (B^{1/2} A B^{1/2})^{1/2} B^{-1/2}, \qquad m = \bar x + C \bar g

(Seyboldt, Carlson and Carpenter 2026, "Preconditioning Hamiltonian Monte Carlo by minimizing
Fisher divergence"). On a Gaussian it is exact after D + 1 draws, wherever they are and also where
bounds cut it off; the covariance of the draws alone would still be off by :math:`\sqrt{D/N}`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from autofit_ml.posterior.samples import rows_of

__all__ = ["Reference", "fit_reference", "laplace_reference"]

_WIDEST = 0.5
"""Largest standard deviation that is believed, in units of the box."""

_PRIOR_DRAWS = 1.0
"""Weight of the first reference, in draws."""


@dataclass(frozen=True)
class Reference:
    """Gaussians of B objects.

    Attributes
    ----------
    centre : Tensor, float64, (B, D)
    root : Tensor, float64, (B, D, D)
        Lower triangular root S of the covariance, the unit matrix in rows and columns of fixed
        parameters.
    free : Tensor, bool, (B, D)
        Parameters that are not held fixed.
    """

    centre: torch.Tensor
    root: torch.Tensor
    free: torch.Tensor

    def select(self, index: torch.Tensor) -> Reference:
        """The objects at `index`."""
        return rows_of(self, index)

    def standardise(self, theta: torch.Tensor) -> torch.Tensor:
        """Parameters (B, N, D) to coordinates z (B, N, D)."""
        offset = torch.where(self.free[:, None], theta - self.centre[:, None], 0.0)
        return torch.linalg.solve_triangular(self.root, offset.mT, upper=False).mT.contiguous()


def laplace_reference(
    centre: torch.Tensor, covariance: torch.Tensor, lower: torch.Tensor, upper: torch.Tensor
) -> tuple[Reference, torch.Tensor]:
    """Gaussians from a fit.

    A free parameter without a variance (one whose fit stopped on its bound) gets a quarter of its
    box; standard deviations of over half of the box are cut to that.

    Parameters
    ----------
    centre, lower, upper : Tensor, float64, (B, D)
    covariance : Tensor, float64, (B, D, D)

    Returns
    -------
    reference : Reference
    good : Tensor, bool, (B,)
        False where the covariance or the centre is not finite.
    """
    free = lower < upper
    box = upper - lower
    both = free[:, :, None] & free[:, None, :]
    good = torch.isfinite(torch.where(both, covariance, 0.0)).all(2).all(1)
    good &= torch.isfinite(centre).all(1)
    covariance = torch.where(both & good[:, None, None], covariance, 0.0)
    variance = covariance.diagonal(dim1=1, dim2=2)
    known = variance > 0
    fallback = torch.where(torch.isfinite(box), box / 4, 1.0)
    sd = torch.where(known, variance.clamp_min(0).sqrt(), fallback)
    inverse = torch.where(known, 1 / sd, 0.0)
    eye = torch.eye(centre.shape[1], dtype=centre.dtype, device=centre.device)
    correlation = covariance * inverse[:, :, None] * inverse[:, None, :]
    correlation = correlation * (1 - eye) + eye
    values, vectors = torch.linalg.eigh((correlation + correlation.mT) / 2)
    correlation = _product(vectors * values.clamp_min(1e-9)[:, None, :], vectors.mT)
    sd = torch.where(free, torch.minimum(sd, _WIDEST * box), 1.0)
    covariance = correlation * sd[:, :, None] * sd[:, None, :]
    centre = torch.where(good[:, None], centre, 0.0)
    return Reference(centre, torch.linalg.cholesky(covariance), free), good


def fit_reference(first: Reference, draws: torch.Tensor, gradients: torch.Tensor) -> Reference:
    """Gaussians from draws and gradients.

    Parameters
    ----------
    first : Reference
        What it is drawn towards, with the weight of one draw; kept where the draws are of no use.
    draws, gradients : Tensor, float64, (B, N, D)
    """
    # All in the first reference's coordinates, in which things are of order one.
    z = first.standardise(draws)
    g = _product(torch.where(first.free[:, None], gradients, 0.0), first.root)
    mean_z, mean_g = z.mean(1), g.mean(1)
    a, b = _scatter(z - mean_z[:, None]), _scatter(g - mean_g[:, None])
    usable = torch.isfinite(a).all(2).all(1) & torch.isfinite(b).all(2).all(1)
    eye = torch.eye(z.shape[2], dtype=z.dtype, device=z.device)
    a = torch.where(usable[:, None, None], a, eye)
    b = torch.where(usable[:, None, None], b, eye)
    # With a unit diagonal of b the roots stay accurate: C(a, b) = E C(a / E E, b E E) E.
    scale = b.diagonal(dim1=1, dim2=2).rsqrt()
    both = scale[:, :, None] * scale[:, None, :]
    b_half, b_inverse = _roots(b * both)
    middle, _ = _roots(_product(b_half, _product(a / both, b_half)))
    covariance = _product(b_inverse, _product(middle, b_inverse)) * both
    centre = mean_z + (covariance * mean_g[:, None]).sum(-1)
    root, info = torch.linalg.cholesky_ex((covariance + covariance.mT) / 2)
    usable &= (info == 0) & torch.isfinite(root).all(2).all(1) & torch.isfinite(centre).all(1)
    root = torch.where(usable[:, None, None], root, eye)
    centre = torch.where(usable[:, None], centre, 0.0)
    moved = (first.root * centre[:, None]).sum(-1)
    return Reference(
        torch.where(first.free, first.centre + moved, first.centre),
        _product(first.root, root),
        first.free,
    )


def _scatter(offsets: torch.Tensor) -> torch.Tensor:
    """Covariance (B, D, D) of offsets (B, N, D), drawn towards the unit matrix."""
    eye = torch.eye(offsets.shape[2], dtype=offsets.dtype, device=offsets.device)
    squares = (offsets[..., None] * offsets[:, :, None]).sum(1)
    return (squares + _PRIOR_DRAWS * eye) / (offsets.shape[1] + _PRIOR_DRAWS)


def _roots(matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Square root of positive matrices (B, D, D) and its inverse; the unit matrix where it fails.

    Relative eigenvalues under 1e-12 are rounding.
    """
    matrix = (matrix + matrix.mT) / 2
    size = matrix.diagonal(dim1=1, dim2=2).amax(1)
    usable = torch.isfinite(matrix).all(2).all(1) & (size > 0)
    eye = torch.eye(matrix.shape[1], dtype=matrix.dtype, device=matrix.device)
    size = torch.where(usable, size, 1.0)[:, None, None]
    values, vectors = torch.linalg.eigh(torch.where(usable[:, None, None], matrix / size, eye))
    values = values.clamp_min(1e-12).sqrt()[:, None, :]
    root = _product(vectors * values, vectors.mT)
    inverse = _product(vectors / values, vectors.mT)
    return root * size.sqrt(), inverse / size.sqrt()


def _product(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Matrix products (B, N, K) (B, K, D), summed alike for any B (`bmm` is not)."""
    return (left[..., None] * right[:, None]).sum(2)
