"""The solution for kernel and background: weights, robust passes, covariance."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from autofit_ml.difference.conjugate import system
from autofit_ml.difference.kernel import (
    Design,
    Kernel,
    Spectrum,
    convolved,
    laplacian,
    polynomial_image,
    polynomials,
    rows,
)

__all__ = ["solve", "wants_gradients"]

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
    *,
    first: Kernel | None = None,
    covariance: bool = True,
) -> Kernel:
    """Fit kernel and background.

    Parameters
    ----------
    science, reference : Tensor, (ny, nx)
        On the same pixels.
    science_variance, reference_variance : Tensor, (ny, nx)
    use : Tensor, (ny, nx), bool
        Pixels to fit; those within half a kernel of the border are left out.
    design : Design
    first : Kernel, optional
        The first weights are made from it; else from the noise alone, in one more solution.
    covariance : bool
        False: the kernel has none.

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
    shape, sides = science.shape, (design.size, design.size)
    spatial = polynomials(shape, design.variation, science.dtype, science.device)
    bright, noisy = Spectrum(reference, sides), Spectrum(reference_variance, sides)
    gradients = wants_gradients(len(pixels), shape, design)

    def weighed(kernel: Kernel) -> tuple[Tensor, Tensor]:
        """Weights of the pixels, and what the kernel leaves of them."""
        light = kernel.light(bright)[y, x]
        sky = polynomial_image(kernel.background, shape, design.background)[y, x].to(light)
        spread = (science_variance + kernel.variance(noisy))[y, x] + (design.floor * light) ** 2
        residual = science[y, x] - light - sky
        return _robust(residual**2 / spread, design.robust) / spread, residual

    kernel, plane = first, torch.zeros_like(science)
    normal = None
    weight = residual = 1 / (science_variance + reference_variance)[y, x]
    if kernel is not None:
        weight, residual = weighed(kernel)
    for _ in range(design.passes + (first is None)):
        plane[y, x] = weight
        if gradients:
            inverse, right = system(reference, plane, science, design)
        else:
            normal, right = _sums(reference, pixels, science[y, x], weight, design)
            inverse = _inverse(normal, design)
        plain = inverse(right)
        count = len(spatial) * design.size**2
        planes = plain[:count].reshape(len(spatial), -1)
        lifted = torch.zeros_like(plain)
        noise = _noise(noisy, plane, spatial).to(plain)
        lifted[:count] = torch.einsum("stk,tk->sk", noise, planes).flatten()
        coefficients = plain + inverse(lifted)
        kernel = _kernel(coefficients, len(spatial), design)
        weight, residual = weighed(kernel)
    plane[y, x] = weight
    if kernel is None:
        raise ValueError("no pass")
    spread = torch.zeros(0)
    if covariance:
        spread = _sandwich(
            reference, pixels, weight, weight * residual, design, normal, apart=gradients
        )
    found = Kernel(kernel.planes, kernel.background, spread, plane, design)
    if not covariance:
        return found
    return _with_shared_noise(found, bright, noisy, science_variance, reference_variance)


def _with_shared_noise(
    kernel: Kernel, bright: Spectrum, noisy: Spectrum, science_variance: Tensor,
    reference_variance: Tensor,
) -> Kernel:  # fmt: skip
    """The kernel with the variance of its sum as correlated residuals make it.

    The kernel spreads the noise of a pixel of the reference over several residuals, which the
    sandwich takes to be independent: what it says of the sum grows by the ratio of the two, as the
    noise of both images has it. What is known of the kernel given its sum stays.
    """
    design, n = kernel.design, kernel.planes[0].numel()
    toward = kernel.covariance[:, :n].sum(1)
    count, shape = kernel.planes.numel(), science_variance.shape
    light = bright.varied(toward[:count].view(kernel.planes.shape), design.variation)
    light = light + polynomial_image(toward[count:], shape, design.background).to(light)
    filter_ = kernel.fitted * light
    terms = polynomials(shape, design.variation, light.dtype, light.device)
    back = sum(
        convolved(filter_ * term, plane.flip(0, 1))
        for term, plane in zip(terms, kernel.planes, strict=True)
    )
    alone = (filter_.square() * (science_variance + kernel.variance(noisy))).sum()
    shared = (filter_.square() * science_variance + back**2 * reference_variance).sum()
    grown = float(shared / alone) - 1
    spread = kernel.covariance + grown * toward[:, None] * toward / toward[:n].sum()
    return dataclasses.replace(kernel, covariance=spread)


_FLOPS = 7e10
_TRANSFORM = 4e-10
"""Products of the normal matrix's sum in a second, and seconds of an FFT for each pixel and power
of two, of one core (their ratio decides)."""

_PRODUCTS = 100
"""Products with the normal matrix that conjugate gradients take for a solution and its lift, with
what else they do."""


def wants_gradients(number: int, shape: Sequence[int], design: Design) -> bool:
    """True if conjugate gradients are faster than summing up the normal matrix."""
    if design.solver != "auto":
        return design.solver == "conjugate"
    terms = len(polynomials((2, 2), design.variation))
    n = terms * design.size**2
    pixels = float((shape[0] + design.size) * (shape[1] + design.size))
    dense = 3 * number * n**2 / _FLOPS  # two solutions and the covariance sum up a matrix each
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
    normal: Tensor | None,
    *,
    apart: bool,
) -> Tensor:
    """Covariance of all coefficients by the scatter of the weighted residuals.

    `normal`: the normal matrix where it has been summed up.
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
    out = torch.zeros((n, n), dtype=torch.float64, device=reference.device)
    for block in blocks:
        known = normal
        if known is None:
            known = out.new_zeros((len(block), len(block)))
            for part, design_rows in rows(reference, pixels, design):
                mine = design_rows[:, block] * weight[part, None].sqrt()
                known += mine.T @ mine
        inverse, meat = _inverse(known, design), torch.zeros_like(known)
        for part, design_rows in rows(reference, pixels, design):
            scaled = design_rows[:, block] if apart else design_rows
            scaled = scaled * scores[part, None]
            meat += scaled.T @ scaled
        out[block[:, None], block[None, :]] = inverse(inverse(meat).T.contiguous()) / share
    return out


def _noise(noisy: Spectrum, weight: Tensor, spatial: Tensor) -> Tensor:
    """Contribution of the reference's noise to the normal matrix, (terms, terms, size * size).

    It is diagonal in the kernel's pixels.
    """
    h, w = noisy.shape
    out = weight.new_zeros((len(spatial), len(spatial), h * w))
    for s, one in enumerate(spatial):
        for t, other in enumerate(spatial[: s + 1]):
            out[s, t] = out[t, s] = noisy.correlated(weight * one * other).flatten()
    return out


def _kernel(coefficients: Tensor, terms: int, design: Design) -> Kernel:
    count = terms * design.size**2
    planes = coefficients[:count].reshape(terms, design.size, design.size)
    return Kernel(planes, coefficients[count:], torch.zeros(0), torch.zeros(0), design)


def _sums(
    reference: Tensor, pixels: Tensor, data: Tensor, weight: Tensor, design: Design
) -> tuple[Tensor, Tensor]:
    """Normal matrix and right-hand side, float64."""
    n = len(polynomials((2, 2), design.variation)) * design.size**2
    n += len(polynomials((2, 2), design.background))
    normal = torch.zeros((n, n), dtype=torch.float64, device=reference.device)
    right, root = torch.zeros_like(normal[0]), weight.sqrt()
    for part, block in rows(reference, pixels, design):
        block.mul_(root[part, None])
        normal += block.T @ block
        right += block.T @ (root * data)[part]
    return normal, right
