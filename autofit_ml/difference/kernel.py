"""The kernel that turns one image into another: weighted, robust least squares.

``science = K * reference + B`` with a kernel that is free in every pixel (and may vary over the
image by a polynomial) and a polynomial background. Noise of the reference lies in the design
matrix: uncorrected it makes the kernel too small. With N what the normal matrix A gets from that
noise alone, ``A - N + N A^-1 N`` is what A would be without it, and always positive; its inverse is
``(1 + A^-1 N) A^-1`` to the third order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.fft import next_fast_len
from torch import Tensor

__all__ = [
    "Design",
    "Kernel",
    "Spectrum",
    "convolved",
    "laplacian",
    "polynomial_image",
    "polynomials",
    "rows",
]

_ROWS = 8192
"""Pixels of the design matrix that are in memory at a time."""


@dataclass(frozen=True)
class Design:
    """Design of the least-squares problem: kernel, background, weights.

    Attributes
    ----------
    size : int
        Side of the kernel, odd.
    background, variation : int
        Order of the background's polynomial (-1: none) and of the kernel's variation.
    smoothness : float
        Weight of the squared Laplacian of the kernel, in units of the mean diagonal of the normal
        matrix.
    floor : float
        Error of the model, as a share of its light.
    robust : {"huber", "student-t", "none"}
    passes : int
        Solutions with weights made from the one before.
    solver : {"auto", "dense", "conjugate"}
        Normal equations summed up, or conjugate gradients; auto: the faster.
    """

    size: int = 13
    background: int = 0
    variation: int = 0
    smoothness: float = 1e-5
    floor: float = 0.01
    robust: str = "huber"
    passes: int = 2
    solver: str = "auto"

    @property
    def half(self) -> int:
        return self.size // 2


@dataclass(frozen=True)
class Kernel:
    """A solution.

    Attributes
    ----------
    planes : Tensor, (terms, size, size), float64
        ``K(x, y) = sum_t planes[t] polynomial_t(x, y)``; the first is the kernel at the centre.
    background : Tensor, (terms,), float64
        Coefficients of the background's polynomial.
    covariance : Tensor, (n, n), float64
        Of all planes (flattened, one after the other) and the background: the sandwich of the
        weighted residuals.
    fitted : Tensor, (ny, nx), float64
        Weights of the pixels that it was fitted to; 0: not fitted.
    design : Design
    """

    planes: Tensor
    background: Tensor
    covariance: Tensor
    fitted: Tensor
    design: Design

    @property
    def scale(self) -> tuple[float, float]:
        """Sum of the kernel at the centre of the image, and its error."""
        n = self.planes[0].numel()
        return float(self.planes[0].sum()), float(self.covariance[:n, :n].sum().clamp(min=0).sqrt())

    def with_sum(self, value: float) -> Kernel:
        """The kernel, conditioned by its covariance on its sum at the centre of the image."""
        n = self.planes[0].numel()
        toward = self.covariance[:, :n].sum(1)
        gain = toward / toward[:n].sum()
        change = gain * (value - self.planes[0].sum())
        count = self.planes.numel()
        return Kernel(
            self.planes + change[:count].view(self.planes.shape),
            self.background + change[count:],
            self.covariance - gain[:, None] * toward,
            self.fitted,
            self.design,
        )

    def light(self, image: Spectrum) -> Tensor:
        """The image convolved, without background, (ny, nx)."""
        return image.varied(self.planes, self.design.variation)

    def variance(self, variance: Spectrum) -> Tensor:
        """Variance of the convolved image, for independent noise, (ny, nx)."""
        if len(self.planes) == 1:
            return variance.convolved(self.planes[0] ** 2).clamp_(min=0)
        terms = polynomials(
            variance.image_shape, self.design.variation, variance.dtype, variance.device
        )
        out = terms.new_zeros(variance.image_shape)
        for i in range(len(terms)):
            for j in range(i, len(terms)):
                both = variance.convolved(self.planes[i] * self.planes[j]).mul_(terms[i])
                out.add_(both.mul_(terms[j]), alpha=1 if i == j else 2)
        return out.clamp_(min=0)


def convolved(image: Tensor, kernel: Tensor) -> Tensor:
    """Convolution with a small kernel; 0 beyond the image.

    Parameters
    ----------
    image : Tensor, (ny, nx)
    kernel : Tensor, (h, w)
        Odd sides, its centre pixel is no shift.

    Returns
    -------
    Tensor, (ny, nx)
    """
    return Spectrum(image, kernel.shape).convolved(kernel)


class Spectrum:
    """An image's transform, for convolutions with several kernels of one shape.

    Parameters
    ----------
    image : Tensor, (ny, nx)
    shape : (h, w)
        Of the kernels, odd.
    """

    def __init__(self, image: Tensor, shape: Sequence[int]) -> None:
        self.shape, self.image_shape = tuple(shape), tuple(image.shape)
        sides = zip(image.shape, shape, strict=True)
        self.size = [next_fast_len(n + h - 1, real=True) for n, h in sides]
        self.dtype, self.device = image.dtype, image.device
        self.modes = torch.fft.rfft2(image, s=self.size)
        frequencies = torch.fft.fftfreq(self.size[0]), torch.fft.rfftfreq(self.size[1])
        self._waves = [
            torch.exp(-2j * torch.pi * f[:, None].double() * (torch.arange(h) - h // 2)).to(
                self.modes
            )
            for f, h in zip(frequencies, shape, strict=True)
        ]

    def of_kernel(self, kernel: Tensor) -> Tensor:
        """Transform of a kernel about its centre."""
        down, right = self._waves
        return down @ kernel.to(down) @ right.T

    def convolved(self, kernel: Tensor) -> Tensor:
        """The image convolved with a kernel; 0 beyond it."""
        return self._back(self.modes * self.of_kernel(kernel))

    def varied(self, planes: Tensor, order: int) -> Tensor:
        """The image convolved with a kernel that varies: planes (terms, h, w) of `polynomials`."""
        if len(planes) == 1:
            return self.convolved(planes[0])
        terms = polynomials(self.image_shape, order, self.dtype, self.device)
        out = terms.new_zeros(self.image_shape)
        for plane, term in zip(planes, terms, strict=True):
            out.addcmul_(self.convolved(plane), term)
        return out

    def correlated(self, other: Tensor) -> Tensor:
        """Sums of ``other(p) image(p - u)`` over p, for every pixel u of a kernel, (h, w)."""
        h, w = self.shape
        product = torch.fft.rfft2(other, s=self.size) * self.modes.conj()
        whole = torch.fft.irfft2(product, s=self.size)
        return whole.roll((h // 2, w // 2), (0, 1))[:h, :w]

    def _back(self, modes: Tensor) -> Tensor:
        ny, nx = self.image_shape
        return torch.fft.irfft2(modes, s=self.size)[:ny, :nx]


def polynomials(
    shape: Sequence[int],
    order: int,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Products of Legendre polynomials in x and y up to a total order, the constant first.

    Returns
    -------
    Tensor, (terms, ny, nx)
        Coordinates run from -1 to 1. Order -1: no term.
    """
    if order == 0:  # takes no memory
        return torch.ones((1, 1, 1), dtype=dtype, device=device).expand(1, *shape)
    legendre = np.polynomial.legendre.legvander
    py, px = (torch.as_tensor(legendre(np.linspace(-1, 1, n), max(order, 0))) for n in shape)
    terms = [
        py[:, j, None] * px[None, :, total - j]
        for total in range(order + 1)
        for j in range(total + 1)
    ]
    empty = torch.zeros((0, *shape), dtype=torch.float64)
    return (torch.stack(terms) if terms else empty).to(device, dtype)


def polynomial_image(coefficients: Tensor, shape: Sequence[int], order: int) -> Tensor:
    """The sum of `polynomials` with coefficients (terms,), (ny, nx)."""
    if order == 0:
        return coefficients[0].expand(*shape)
    terms = polynomials(shape, order, coefficients.dtype, coefficients.device)
    return torch.einsum("t,tyx->yx", coefficients, terms)


def rows(reference: Tensor, pixels: Tensor, design: Design) -> Iterator[tuple[slice, Tensor]]:
    """Rows of the design matrix for some pixels, a block at a time.

    Parameters
    ----------
    reference : Tensor, (ny, nx)
    pixels : Tensor, (m, 2), int64
        y and x, at least half a kernel off the border.

    Yields
    ------
    slice, Tensor (block, n)
    """
    h, half = design.size, design.half
    # A convolution takes the reference at y - u: windows of it turned round are those.
    windows = reference.flip(0, 1).unfold(0, h, 1).unfold(1, h, 1)
    last_y, last_x = windows.shape[0] - 1 + half, windows.shape[1] - 1 + half
    shape = reference.shape
    spatial = polynomials(shape, design.variation, reference.dtype, reference.device)
    sky = polynomials(shape, design.background, reference.dtype, reference.device)
    count = h * h
    for first in range(0, len(pixels), _ROWS):
        part = slice(first, first + _ROWS)
        y, x = pixels[part].T
        out = reference.new_empty((len(y), len(spatial) * count + len(sky)))
        out[:, :count].view(-1, h, h).copy_(windows[last_y - y, last_x - x])
        for t in range(1, len(spatial)):
            torch.mul(
                out[:, :count], spatial[t][y, x, None], out=out[:, t * count : (t + 1) * count]
            )
        out[:, len(spatial) * count :] = sky[:, y, x].T
        yield part, out


def laplacian(h: int) -> Tensor:
    """Squared Laplacian of a kernel, (h * h, h * h); 0 beyond the kernel."""
    second = 2 * torch.eye(h, dtype=torch.float64)
    second -= torch.diag(torch.ones(h - 1, dtype=torch.float64), 1)
    second -= torch.diag(torch.ones(h - 1, dtype=torch.float64), -1)
    one = torch.eye(h, dtype=torch.float64)
    whole = torch.kron(second, one) + torch.kron(one, second)
    return whole @ whole
