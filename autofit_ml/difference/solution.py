"""The solution for kernel and background: weights, robust passes, covariance."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from autofit_ml.difference.conjugate import system
from autofit_ml.difference.kernel import (
    Design,
    Kernel,
    Spectrum,
    laplacian,
    polynomial_image,
    polynomials,
    rows,
)

__all__ = ["solve"]

HUBER = 3.0
STUDENT = 4.0


def _robust(z2: Tensor, kind: str) -> Tensor:
    """Weight of a squared deviation in units of the noise."""
    if kind == "huber":
        return (HUBER / z2.sqrt().clamp(min=HUBER)).clamp(max=1)
    if kind == "student-t":
        return (STUDENT + 1) / (STUDENT + z2)
    return torch.ones_like(z2)


def solve(
    science: Tensor,
    reference: Tensor,
    science_variance: Tensor,
    reference_variance: Tensor,
    use: Tensor,
    design: Design,
) -> Kernel:
    """Fit kernel and background.

    Parameters
    ----------
    science, reference : Tensor, (ny, nx), float64
        On the same pixels.
    science_variance, reference_variance : Tensor, (ny, nx), float64
    use : Tensor, (ny, nx), bool
        Pixels to fit; those within half a kernel of the border are left out.
    design : Design

    Returns
    -------
    Kernel

    Raises
    ------
    torch.linalg.LinAlgError
        The pixels do not determine the kernel.
    """
    half = design.half
    inside = torch.zeros_like(use)
    inside[half : use.shape[0] - half, half : use.shape[1] - half] = True
    pixels = torch.nonzero(use & inside)
    y, x = pixels.T
    data = science[y, x]
    count = design.size**2
    terms = len(polynomials((2, 2), design.variation))
    variance = science_variance + reference_variance
    weight = 1 / variance[y, x]
    gradients = _wants_gradients(len(pixels), reference.shape, design)
    for _ in range(design.passes + 1):
        if gradients:
            inverse, right, noise = _by_gradients(
                reference, reference_variance, pixels, science, weight, design
            )
        else:
            normal, right, noise = _sums(
                reference, reference_variance, pixels, data, weight, design
            )
            inverse = _inverse(normal, design)
        plain = inverse(right)
        lifted = torch.zeros_like(plain)
        planes = plain[: terms * count].reshape(terms, count)
        lifted[: terms * count] = torch.einsum("stk,tk->sk", noise, planes).flatten()
        coefficients = plain + inverse(lifted)
        kernel = _kernel(coefficients, terms, design)
        model = (
            kernel.model(reference)[y, x]
            if gradients
            else torch.cat([block @ coefficients for _, block in rows(reference, pixels, design)])
        )
        total = science_variance + kernel.variance(reference_variance)
        light = model - polynomial_image(kernel.background, science.shape, design.background)[y, x]
        spread = total[y, x] + (design.floor * light) ** 2
        residual = data - model
        weight = _robust(residual**2 / spread, design.robust) / spread
    fitted = torch.zeros_like(science)
    fitted[y, x] = weight
    covariance = _sandwich(reference, pixels, weight, weight * residual, design, apart=gradients)
    return Kernel(kernel.planes, kernel.background, covariance, fitted, design)


_FLOPS = 2.0e10
_TRANSFORM = 1.8e-9
"""Seconds: of a product's operations, and of an FFT's, for each pixel and power of two."""

_PRODUCTS = 40
"""Products with the normal matrix that conjugate gradients take for a solution, and its lift."""


def _wants_gradients(number: int, shape: Sequence[int], design: Design) -> bool:
    """True if conjugate gradients are faster than summing up the normal matrix."""
    if design.solver != "auto":
        return design.solver == "conjugate"
    terms = len(polynomials((2, 2), design.variation))
    n = terms * design.size**2
    pixels = float((shape[0] + design.size) * (shape[1] + design.size))
    dense = 2 * number * n**2 / _FLOPS + n**3 / _FLOPS
    gradients = _PRODUCTS * 3 * terms * _TRANSFORM * pixels * np.log2(pixels)
    return bool(n > _LARGEST or gradients < dense)


_LARGEST = 4000
"""Values of a kernel whose normal matrix is still summed up."""

_SANDWICH = 20_000
"""Pixels that the covariance is summed over where conjugate gradients have solved."""


def _inverse(normal: Tensor, design: Design) -> Callable[[Tensor], Tensor]:
    """Solutions of the normal equations with the smoothness, for one or several right sides."""
    count = design.size**2
    normal = normal.clone()
    mean = normal.diagonal()[:count].mean()
    for t in range(len(polynomials((2, 2), design.variation))):
        part = slice(t * count, (t + 1) * count)
        if part.stop <= len(normal):
            normal[part, part] += design.smoothness * mean * laplacian(design.size).to(normal)
    root = normal.diagonal().sqrt()
    factor = torch.linalg.cholesky(normal / root[:, None] / root[None, :])

    def inverse(b: Tensor) -> Tensor:
        several = b.reshape(len(b), -1)
        return (torch.cholesky_solve(several / root[:, None], factor) / root[:, None]).view(b.shape)

    return inverse


def _sandwich(
    reference: Tensor,
    pixels: Tensor,
    weight: Tensor,
    scores: Tensor,
    design: Design,
    *,
    apart: bool,
) -> Tensor:
    """Covariance of all coefficients by the scatter of the weighted residuals.

    `apart`: from some of the pixels, and with the terms of the kernel's variation taken to be
    independent of each other (the polynomials are orthogonal).
    """
    some = slice(None)
    if apart and len(pixels) > _SANDWICH:
        some = slice(None, None, len(pixels) // _SANDWICH)
    share = len(pixels) / len(pixels[some])
    pixels, weight, scores = pixels[some], weight[some], scores[some]
    count, terms = design.size**2, len(polynomials((2, 2), design.variation))
    n = terms * count + len(polynomials((2, 2), design.background))
    every = torch.arange(n)
    blocks = [every]
    if apart:  # the background goes with the kernel's mean
        own = [every[t * count : (t + 1) * count] for t in range(terms)]
        blocks = [torch.cat([own[0], every[terms * count :]]), *own[1:]]
    out = reference.new_zeros((n, n))
    for block in blocks:
        normal, meat = reference.new_zeros((2, len(block), len(block)))
        for part, design_rows in rows(reference, pixels, design):
            mine = design_rows[:, block] if apart else design_rows
            normal += (mine * weight[part, None]).T @ mine
            scaled = mine * scores[part, None]
            meat += scaled.T @ scaled
        inverse = _inverse(normal, design)
        out[block[:, None], block[None, :]] = inverse(inverse(meat).T.contiguous()) / share
    return out


def _by_gradients(
    reference: Tensor,
    reference_variance: Tensor,
    pixels: Tensor,
    science: Tensor,
    weight: Tensor,
    design: Design,
) -> tuple[Callable[[Tensor], Tensor], Tensor, Tensor]:
    """Inverse, right-hand side and noise, as of `_sums`, without the normal matrix."""
    plane = torch.zeros_like(science)
    plane[pixels[:, 0], pixels[:, 1]] = weight
    inverse, right = system(reference, plane, science, design)
    spatial = polynomials(reference.shape, design.variation, reference.dtype, reference.device)
    spectrum = Spectrum(reference_variance, (design.size, design.size))
    noise = reference.new_zeros((len(spatial), len(spatial), design.size**2))
    for s, one in enumerate(spatial):
        for t, other in enumerate(spatial[: s + 1]):
            sums = spectrum.correlated(plane * one * other).flatten()
            noise[s, t] = noise[t, s] = sums
    return inverse, right, noise


def _kernel(coefficients: Tensor, terms: int, design: Design) -> Kernel:
    count = terms * design.size**2
    planes = coefficients[:count].reshape(terms, design.size, design.size)
    return Kernel(planes, coefficients[count:], torch.zeros(0), torch.zeros(0), design)


def _sums(
    reference: Tensor,
    reference_variance: Tensor,
    pixels: Tensor,
    data: Tensor,
    weight: Tensor,
    design: Design,
) -> tuple[Tensor, Tensor, Tensor]:
    """Normal matrix, right-hand side, and what the reference's noise adds to the normal matrix.

    The last is diagonal in the kernel's pixels: (terms, terms, size * size).
    """
    spatial = polynomials(reference.shape, design.variation, device=reference.device)
    count, terms = design.size**2, len(spatial)
    n = terms * count + len(polynomials((2, 2), design.background))
    normal = torch.zeros((n, n), dtype=reference.dtype, device=reference.device)
    right = torch.zeros_like(normal[0])
    noise = right.new_zeros((terms, terms, count))
    noisy = rows(reference_variance, pixels, Design(design.size, background=-1))
    for (part, block), (_, seen) in zip(rows(reference, pixels, design), noisy, strict=True):
        weighted = block * weight[part, None]
        normal += weighted.T @ block
        right += weighted.T @ data[part]
        y, x = pixels[part].T
        here = spatial[:, y, x]
        noise += torch.einsum("sm,tm,mk->stk", here * weight[part], here, seen)
    return normal, right, noise
