"""The normal equations of the kernel by conjugate gradients: no matrix, products by FFT.

For kernels of many values (large, or varying over the image) the normal matrix takes longer to sum
up than all of this, and beyond a few thousand values it does not fit. What preconditions it is the
matrix that the equations would have if weights did not differ between neighbours: Toeplitz, from
the autocorrelation of the reference times the root of the weights (one block for each term of the
variation).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from autofit_ml.difference.kernel import Design, Spectrum, laplacian, polynomials

__all__ = ["conjugate_gradients", "system"]

TOLERANCE = 1e-4
MOST = 60


def system(
    reference: Tensor, weight: Tensor, data: Tensor, design: Design
) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    """The normal equations of a fit to an image.

    Parameters
    ----------
    reference, weight, data : Tensor, (ny, nx)
        Weight 0 where a pixel is not fitted.
    design : Design

    Returns
    -------
    inverse : callable
        Solution for a right-hand side (n,).
    right : Tensor, (n,)
    """
    h, (reference, weight, data) = design.size, (one.double() for one in (reference, weight, data))
    terms = polynomials(reference.shape, design.variation, reference.dtype, reference.device)
    sky = polynomials(reference.shape, design.background, reference.dtype, reference.device)
    spectrum = Spectrum(reference, (h, h))
    count = len(terms) * h * h
    mean = (weight * reference.square()).sum()
    rough = design.smoothness * mean * laplacian(h).to(reference)

    def across(plane: Tensor) -> Tensor:
        """Sums of the design matrix's columns times an image, (n,)."""
        parts = [spectrum.correlated(plane * term).flatten() for term in terms]
        return torch.cat([*parts, torch.einsum("syx,yx->s", sky, plane)])

    def product(x: Tensor) -> Tensor:
        model = torch.einsum("s,syx->yx", x[count:], sky)
        planes = x[:count].reshape(len(terms), h, h)
        model = model + spectrum.varied(planes, design.variation)
        out = across(weight * model)
        out[:count] += (planes.flatten(1) @ rough).flatten()
        return out

    factors = []
    for term in terms:
        bright = weight.sqrt() * term * reference
        lags = Spectrum(bright, (2 * h - 1,) * 2).correlated(bright)
        at = torch.arange(h, device=lags.device)
        apart = at[:, None] - at[None, :] + h - 1
        block = lags[apart[:, None, :, None], apart[None, :, None, :]].reshape(h * h, h * h)
        block = (block + block.T) / 2 + rough
        block.diagonal().mul_(1 + 1e-6)
        factors.append(torch.linalg.cholesky(block))
    level = torch.einsum("syx,yx,tyx->st", sky, weight, sky)

    def preconditioned(r: Tensor) -> Tensor:
        parts = [
            torch.cholesky_solve(part[:, None], factor)[:, 0]
            for part, factor in zip(r[:count].reshape(len(terms), h * h), factors, strict=True)
        ]
        return torch.cat([*parts, torch.linalg.solve(level, r[count:])])

    return lambda b: conjugate_gradients(product, preconditioned, b), across(weight * data)


def conjugate_gradients(
    product: Callable[[Tensor], Tensor], preconditioned: Callable[[Tensor], Tensor], right: Tensor
) -> Tensor:
    """Solve a positive definite system to a relative change of `TOLERANCE` in its own norm.

    Raises
    ------
    torch.linalg.LinAlgError
        It is not positive definite.
    """
    x = torch.zeros_like(right)
    r, z = right, preconditioned(right)
    p, gain = z, right @ z
    total = gain
    for _ in range(MOST):
        along = product(p)
        bend = p @ along
        step = gain / bend
        x = torch.where(bend > 0, x + step * p, x)
        r = r - step * along
        z = preconditioned(r)
        new = r @ z
        p, gain = z + (new / gain) * p, new
        # One look at values an iteration: a GPU's host waits for each.
        bent, left, whole = torch.stack([bend, new, total]).cpu().tolist()
        if whole != 0 and not bent > 0:
            raise torch.linalg.LinAlgError("the normal equations are not positive definite")
        if not left > TOLERANCE**2 * whole:
            break
    return x
