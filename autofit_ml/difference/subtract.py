"""Two images of one piece of sky subtracted: kernel, difference, and the variance of it."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from scipy.sparse.linalg import eigsh
from torch import Tensor

from autofit_ml.difference.kernel import Design, Kernel, Spectrum, convolved, polynomials
from autofit_ml.difference.solution import solve
from autofit_ml.errors import InputError
from autofit_ml.settings import SubtractSettings

__all__ = ["Difference", "Image", "subtract_images"]

BRIGHT = 3.0
"""S/N of a smoothed pixel that the kernel is fitted to."""

CHANGED = 5.0
SHARE = 0.5
"""S/N of a smoothed residual, and its share of the light, that are no errors of the first kernel:
something new is there, and the kernel is not fitted to it."""

GROWN = 6
"""Pixels by which what has changed is grown before the background is fitted."""

MODES = 24
"""Independent errors of the kernel that the variance has."""


class Image(Protocol):
    """Attributes that are needed of a `Stamp` or `Frame`."""

    @property
    def data(self) -> np.ndarray: ...
    @property
    def sigma(self) -> np.ndarray: ...
    @property
    def mask(self) -> np.ndarray: ...


@dataclass(frozen=True)
class Planes:
    """An image on a device: data, variance (smoothed), good pixels."""

    data: Tensor
    variance: Tensor
    good: Tensor


@dataclass(frozen=True)
class Difference:
    """Science minus reference, in the units of the image that was not convolved.

    Attributes
    ----------
    difference, variance : Tensor, (ny, nx), float64
        0 where masked. The variance has the noise of both images and the errors of kernel,
        background and model; neighbouring pixels are correlated by the kernel.
    good : Tensor, (ny, nx), bool
        Pixels with a difference: none of those under the kernel is bad.
    kernel : Kernel
    convolved : {"reference", "science"}
    light : Tensor, (ny, nx)
        The convolved image, without background.
    science, reference : Planes
    amplified : dict
        Image that was tried -> variance of white noise after its kernel, over what a kernel of one
        pixel leaves: the image with the smaller number is convolved.
    """

    difference: Tensor
    variance: Tensor
    good: Tensor
    kernel: Kernel
    convolved: str
    light: Tensor
    science: Planes
    reference: Planes
    amplified: dict[str, float]

    @property
    def sign(self) -> int:
        """Sign of a brighter science image in ``fixed - model``: 1, or -1 if it is convolved."""
        return 1 if self.convolved == "reference" else -1

    @property
    def moved(self) -> Planes:
        """The image that was convolved."""
        return self.reference if self.convolved == "reference" else self.science

    @property
    def fixed(self) -> Planes:
        """The image that was not."""
        return self.science if self.convolved == "reference" else self.reference

    @property
    def scale(self) -> tuple[float, float]:
        """Flux in the science image of a source with flux 1 in the reference, and its error."""
        value, error = self.kernel.scale
        return (value, error) if self.sign > 0 else (1 / value, error / value**2)


def subtract_images(
    science: Image,
    reference: Image,
    settings: SubtractSettings | None = None,
    *,
    device: str | torch.device = "cpu",
) -> Difference:
    """Subtract images that lie on the same pixels.

    Parameters
    ----------
    science, reference : Stamp, Frame, or anything with ``data``, ``sigma`` and ``mask``
        Shape (ny, nx); 1-sigma noise; True where a pixel is not to be used.
    settings : SubtractSettings, optional
    device : str

    Returns
    -------
    Difference

    Raises
    ------
    InputError
        Other shapes, no pixel in common, one of them constant, or too little light to find a
        kernel.
    """
    settings = settings or SubtractSettings()
    if science.data.shape != reference.data.shape:
        raise InputError(
            f"the images have {science.data.shape} and {reference.data.shape} pixels",
            "align them first (they need a WCS, or stars in common)",
        )
    if min(science.data.shape) < 3 * settings.kernel_size:
        raise InputError(
            f"an image of {science.data.shape} pixels is too small for a kernel of "
            f"{settings.kernel_size}",
            "use a smaller kernel, or larger images",
        )
    one, other = _planes(science, "science", device), _planes(reference, "reference", device)
    both = one.good & other.good
    if not both.any():
        raise InputError("no pixel is good in both images", "look at the masks and the overlap")
    spans = [int(torch.nonzero(both.any(axis)).flatten().diff().sum()) + 1 for axis in (1, 0)]
    if min(spans) < 3 * settings.kernel_size:
        raise InputError(
            f"the images have {spans[0]} x {spans[1]} pixels in common, too few for a kernel of "
            f"{settings.kernel_size}",
            "use a smaller kernel, or images with more overlap",
        )
    direction, first, amplified = _direction(one, other, settings)
    fixed, moved = (one, other) if direction == "reference" else (other, one)
    half = settings.kernel_size // 2
    good = fixed.good & ~_grown(~moved.good, half) & _inside(fixed.good, half)
    light, spread, left = _compared(first, fixed, moved, good)
    new = _smoothed(left, 1.5).abs() > SHARE * _smoothed(light, 1.5)
    changed = _grown(new & (_significance(left, spread, good).abs() > CHANGED), GROWN)
    kernel = _solved(fixed, moved, _design(settings), settings.most_pixels, ~changed)
    kernel = _with_background(kernel, fixed, moved, good)
    light, spread, left = _compared(kernel, fixed, moved, good)
    sign = 1 if direction == "reference" else -1
    variance = torch.where(good, spread + _model_variance(kernel, moved), 0 * spread)
    return Difference(
        sign * left, variance, good, kernel, direction, light, one, other, amplified,
    )  # fmt: skip


def _design(settings: SubtractSettings) -> Design:
    return Design(
        settings.kernel_size,
        settings.background,
        settings.variation,
        settings.smoothness,
        settings.floor,
        settings.robust,
        solver=settings.solver,
    )


def _planes(image: Image, name: str, device: str | torch.device) -> Planes:
    """An image as tensors; its variance smoothed over the good pixels.

    A variance that was made from the pixel itself goes with its noise, and weights would too.
    """
    good = torch.as_tensor(~np.asarray(image.mask, bool), device=device)
    data = torch.as_tensor(np.asarray(image.data, float), device=device)
    sigma = torch.as_tensor(np.asarray(image.sigma, float), device=device)
    good = good & torch.isfinite(data) & torch.isfinite(sigma) & (sigma > 0)
    seen = data[good]
    if not len(seen):
        raise InputError(f"no pixel of the {name} is good", "look at its mask and noise map")
    if bool((seen == seen[0]).all()):
        raise InputError(f"the {name} has one value everywhere", "give another image")
    data = torch.where(good, data, torch.zeros_like(data))
    known = good.to(data)
    near = _smoothed(known, 2.0).clamp(min=1e-6)
    variance = _smoothed(torch.where(good, sigma**2, torch.zeros_like(data)), 2.0) / near
    typical = (seen.new_tensor(1.0) * sigma[good] ** 2).median()
    return Planes(data, torch.where(variance > 0, variance, typical), good)


def _gaussian(sigma: float) -> Tensor:
    half = math.ceil(4 * sigma)
    x = torch.arange(-half, half + 1, dtype=torch.float64)
    line = torch.exp(-0.5 * (x / sigma) ** 2)
    line = line / line.sum()
    return line[:, None] * line[None, :]


def _smoothed(image: Tensor, sigma: float) -> Tensor:
    return convolved(image, _gaussian(sigma))


def _largest_near(values: Tensor, radius: int) -> Tensor:
    """The largest value in a square of that half side around each pixel."""
    for axis in (0, 1):  # a line at a time
        size, padding = [1, 1], [0, 0]
        size[axis], padding[axis] = 2 * radius + 1, radius
        values = torch.nn.functional.max_pool2d(
            values[None, None], size, stride=1, padding=padding
        )[0, 0]
    return values


def _grown(mask: Tensor, radius: int) -> Tensor:
    """A mask with the squares of that half side around its pixels."""
    return _largest_near(mask.float(), radius) > 0.5


def _inside(plane: Tensor, margin: int) -> Tensor:
    """True but for a margin along the border."""
    inside = torch.zeros_like(plane, dtype=torch.bool)
    inside[margin:-margin, margin:-margin] = True
    return inside


def _significance(data: Tensor, variance: Tensor, good: Tensor, sigma: float = 1.5) -> Tensor:
    """S/N of the image smoothed by a Gaussian, about its median; 0 where it is not good.

    Measured scatter counts where it is larger than the variance says: noise may be correlated.
    """
    window = _gaussian(sigma)
    smooth = convolved(data * good, window) / convolved(variance, window**2).clamp(min=0).sqrt()
    seen = smooth[good]
    middle = seen.median()
    scatter = 1.4826 * (seen - middle).abs().median()
    return torch.where(good, (smooth - middle) / scatter.clamp(min=1), torch.zeros_like(smooth))


def _solved(
    fixed: Planes, moved: Planes, design: Design, most: int, unchanged: Tensor | None = None
) -> Kernel:
    """The kernel from the pixels that have light, the brightest first."""
    significance = _significance(moved.data, moved.variance, moved.good)
    possible = fixed.good & ~_grown(~moved.good, design.half)
    if unchanged is not None:
        possible &= unchanged
    possible &= _inside(possible, design.half)
    needed = len(polynomials((2, 2), design.variation)) * design.size**2
    # Whole neighbourhoods of bright pixels: a cut through the wings of a source at some level would
    # choose pixels by their noise.
    near = _largest_near(significance, design.half)
    level = BRIGHT
    if int((possible & (near > level)).sum()) > most:
        level = max(level, float(torch.topk(near[possible], most).values[-1]))
    use = possible & (near > level)
    number = int(use.sum())
    if number < 2 * needed:
        raise InputError(
            f"only {number} good pixels have light, and the kernel has {needed} values",
            "use a smaller kernel or less variation, or deeper images",
        )
    try:
        return solve(fixed.data, moved.data, fixed.variance, moved.variance, use, design)
    except torch.linalg.LinAlgError as error:
        raise InputError(
            "the kernel is not determined by these images", "use a smaller kernel"
        ) from error


def _direction(
    science: Planes, reference: Planes, settings: SubtractSettings
) -> tuple[str, Kernel, dict[str, float]]:
    """Choose the image to convolve, and solve for a first kernel from the brightest pixels.

    A kernel that widens has a sum of squares below 1 (for unit sum); one that sharpens rings, and
    amplifies noise: the one that amplifies less is taken.
    """
    design = dataclasses.replace(_design(settings), variation=0, passes=1)
    most = min(20_000, settings.most_pixels)
    names = ("reference", "science") if settings.convolve == "auto" else (settings.convolve,)
    kernels = {
        name: _solved(*pair, design, most)
        for name, pair in (("reference", (science, reference)), ("science", (reference, science)))
        if name in names
    }

    amplified = {
        name: float((kernel.planes[0] ** 2).sum() / kernel.planes[0].sum() ** 2)
        for name, kernel in kernels.items()
    }
    best = min(names, key=lambda name: amplified[name])
    return best, kernels[best], amplified


def _compared(
    kernel: Kernel, fixed: Planes, moved: Planes, good: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The convolved image, the variance of what is left with the model's error, what is left."""
    design, shape = kernel.design, fixed.data.shape
    terms = polynomials(shape, design.background, fixed.data.dtype, fixed.data.device)
    sky = torch.einsum("t,tyx->yx", kernel.background, terms)
    light = kernel.model(moved.data) - sky
    spread = fixed.variance + kernel.variance(moved.variance) + (design.floor * light) ** 2
    left = torch.where(good, fixed.data - light - sky, torch.zeros_like(light))
    return light, spread, left


def _with_background(kernel: Kernel, fixed: Planes, moved: Planes, good: Tensor) -> Kernel:
    """The background fitted again to all good pixels but those where something has changed."""
    count = kernel.background.numel()
    if not count:
        return kernel
    normal = torch.eye(count)
    light, spread, left = _compared(kernel, fixed, moved, good)
    terms = polynomials(light.shape, kernel.design.background, light.dtype, light.device)
    for step in range(3):
        if step:
            use = good & ~_grown(_significance(left, spread, good).abs() > BRIGHT, GROWN)
        else:  # whatever the first background is: about the middle
            middle = left[good].median()
            use = good & ((left - middle).abs() < BRIGHT * spread.sqrt())
        weight = torch.where(use, 1 / spread, torch.zeros_like(spread))
        normal = torch.einsum("syx,yx,tyx->st", terms, weight, terms)
        right = torch.einsum("syx,yx->s", terms, weight * (fixed.data - light))
        background = torch.linalg.solve(normal, right)
        kernel = dataclasses.replace(kernel, background=background)
        left = torch.where(
            good, fixed.data - light - torch.einsum("t,tyx->yx", background, terms), 0 * light
        )
    covariance = kernel.covariance.clone()
    covariance[-count:, :] = 0
    covariance[:, -count:] = 0
    covariance[-count:, -count:] = torch.linalg.inv(normal)
    return dataclasses.replace(kernel, covariance=covariance)


def _model_variance(kernel: Kernel, moved: Planes) -> Tensor:
    """Variance of each pixel by the errors of kernel and background."""
    shape, design = moved.data.shape, kernel.design
    terms = polynomials(shape, design.variation, moved.data.dtype, moved.data.device)
    sky = polynomials(shape, design.background, moved.data.dtype, moved.data.device)
    values, vectors = largest_modes(kernel.covariance, MODES)
    out, count = torch.zeros_like(moved.data), kernel.planes.numel()
    spectrum = Spectrum(moved.data, kernel.planes[0].shape)
    for value, vector in zip(values, vectors.T, strict=True):
        change = torch.einsum("t,tyx->yx", vector[count:], sky)
        for plane, term in zip(vector[:count].reshape(kernel.planes.shape), terms, strict=True):
            change += spectrum.convolved(plane).mul_(term)
        out += change.square_().mul_(value.clamp(min=0))
    return out


def largest_modes(matrix: Tensor, number: int) -> tuple[Tensor, Tensor]:
    """Largest eigenvalues of a symmetric matrix (k,), and their vectors (n, k)."""
    if len(matrix) <= max(500, 2 * number):
        values, vectors = torch.linalg.eigh(matrix)
        return values[-number:], vectors[:, -number:]
    start = np.ones(len(matrix))  # the same answer every time
    values, vectors = eigsh(matrix.cpu().numpy(), number, v0=start, tol=1e-6)
    return torch.as_tensor(values).to(matrix), torch.as_tensor(vectors).to(matrix)
