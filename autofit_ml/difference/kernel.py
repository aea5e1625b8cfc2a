"""The kernel that turns one image into another: weighted, robust least squares.

``science = K * reference + B`` with a kernel that is free in every pixel (and may vary over the
image by a polynomial) and a polynomial background. Noise of the reference lies in the design
matrix: uncorrected it makes the kernel too small. With N what the normal matrix A gets from that
noise alone, ``A - N + N A^-1 N`` is what A would be without it, and always positive; its inverse is
``(1 + A^-1 N) A^-1`` to the third order.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.fft import next_fast_len
from torch import Tensor

__all__ = ["Design", "Kernel", "Spectrum", "convolved", "laplacian", "polynomials", "solve"]

_ROWS = 8192
"""Pixels of the design matrix that are in memory at a time."""

HUBER = 3.0
STUDENT = 4.0


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

    def model(self, image: Tensor) -> Tensor:
        """The image convolved, with the background."""
        shape = image.shape
        out = _polynomial(self.background, shape, self.design.background)
        terms = polynomials(shape, self.design.variation, image.dtype, image.device)
        spectrum = Spectrum(image, self.planes[0].shape)
        for plane, term in zip(self.planes, terms, strict=True):
            out = out + spectrum.convolved(plane).mul_(term)
        return out

    def variance(self, variance: Tensor) -> Tensor:
        """Variance of the convolved image, for independent noise."""
        terms = polynomials(variance.shape, self.design.variation, variance.dtype)
        if len(self.planes) == 1:
            return convolved(variance, self.planes[0] ** 2).clamp(min=0)
        spectrum = Spectrum(variance, self.planes[0].shape)
        pairs = (
            (1 if i == j else 2)
            * spectrum.convolved(self.planes[i] * self.planes[j])
            * (terms[i] * terms[j])
            for i in range(len(terms))
            for j in range(i, len(terms))
        )
        return sum(pairs, torch.zeros_like(variance)).clamp(min=0)


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
    y, x = (torch.linspace(-1, 1, n, dtype=torch.float64) for n in shape)
    legendre = np.polynomial.legendre.legvander
    px, py = (torch.as_tensor(legendre(c.numpy(), max(order, 0))) for c in (x, y))
    terms = [
        py[:, j, None] * px[None, :, total - j]
        for total in range(order + 1)
        for j in range(total + 1)
    ]
    empty = torch.zeros((0, *shape), dtype=torch.float64)
    return (torch.stack(terms) if terms else empty).to(device, dtype)


def _polynomial(coefficients: Tensor, shape: Sequence[int], order: int) -> Tensor:
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
    for first in range(0, len(pixels), _ROWS):
        part = slice(first, first + _ROWS)
        y, x = pixels[part].T
        seen = windows[last_y - y, last_x - x].reshape(len(y), h * h)
        terms = [seen * term[y, x, None] for term in spatial]
        yield part, torch.cat([*terms, sky[:, y, x].T], 1)


def laplacian(h: int) -> Tensor:
    """Squared Laplacian of a kernel, (h * h, h * h); 0 beyond the kernel."""
    second = 2 * torch.eye(h, dtype=torch.float64)
    second -= torch.diag(torch.ones(h - 1, dtype=torch.float64), 1)
    second -= torch.diag(torch.ones(h - 1, dtype=torch.float64), -1)
    one = torch.eye(h, dtype=torch.float64)
    whole = torch.kron(second, one) + torch.kron(one, second)
    return whole @ whole


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
        light = model - _polynomial(kernel.background, science.shape, design.background)[y, x]
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
    reference: Tensor, pixels: Tensor, weight: Tensor, scores: Tensor, design: Design, *, apart: bool
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
    from autofit_ml.difference.conjugate import system

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
