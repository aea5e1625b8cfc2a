"""Two images of one piece of sky subtracted: kernel, difference, and the variance of it."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from scipy.sparse.linalg import eigsh
from torch import Tensor

from autofit_ml.difference.kernel import Design, Kernel, Spectrum, polynomial_image, polynomials
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

SMOOTH = 1e-6
"""Smoothness of a kernel from which the rounding of float32 does not matter."""

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
    """An image on a device: data, variance (smoothed), good pixels; S/N of its light."""

    data: Tensor
    variance: Tensor
    good: Tensor
    significance: Tensor


@dataclass(frozen=True)
class Difference:
    """Science minus reference, in the units of the image that was not convolved.

    Attributes
    ----------
    difference, variance : Tensor, (ny, nx), float32
        0 where masked; float64 where the kernel's smoothness is under 1e-6. The variance has the
        noise of both images and the errors of kernel, background and model; neighbouring pixels
        are correlated by the kernel.
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
    leave_out: np.ndarray | None = None,
    device: str | torch.device = "cpu",
) -> Difference:
    """Subtract images that lie on the same pixels.

    Parameters
    ----------
    science, reference : Stamp, Frame, or anything with ``data``, ``sigma`` and ``mask``
        Shape (ny, nx); 1-sigma noise; True where a pixel is not to be used.
    settings : SubtractSettings, optional
    leave_out : ndarray, (ny, nx), bool, optional, keyword-only
        Pixels that the kernel is not fitted to, as those of a known variable; they have a
        difference all the same.
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
    dtype = torch.float32 if settings.smoothness >= SMOOTH else torch.float64
    one, other = (
        _planes(image, name, dtype, device)
        for image, name in ((science, "science"), (reference, "reference"))
    )
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
    unchanged = torch.ones_like(both)
    if leave_out is not None:
        if np.shape(leave_out) != science.data.shape:
            raise InputError(
                f"leave_out has the shape {np.shape(leave_out)}, the images {science.data.shape}",
                "give a value for each pixel of the science image",
            )
        unchanged = ~torch.as_tensor(np.asarray(leave_out, bool), device=device)
    direction, first, amplified = _direction(one, other, unchanged, settings)
    fixed, moved = (one, other) if direction == "reference" else (other, one)
    half = settings.kernel_size // 2
    good = fixed.good & ~_grown(~moved.good, half) & _inside(fixed.good, half)
    light, spread, left = _compared(first, fixed, moved, good)
    new = _smoothed(left, 1.5).abs() > SHARE * _smoothed(light, 1.5)
    changed = _grown(new & (_significance(left, spread, good).abs() > CHANGED), GROWN)
    kernel = _solved(
        fixed, moved, unchanged & ~changed, _design(settings), settings.most_pixels, first=first
    )
    if settings.known_scale is not None:
        known = settings.known_scale
        kernel = kernel.with_sum(known if direction == "reference" else 1 / known)
    light, spread, left = _compared(kernel, fixed, moved, good)
    kernel, left = _with_background(kernel, fixed, light, spread, good)
    sign = 1 if direction == "reference" else -1
    variance = spread.add_(_model_variance(kernel, moved)).mul_(good)
    return Difference(
        left.mul_(sign), variance, good, kernel, direction, light, one, other, amplified,
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


def _planes(image: Image, name: str, dtype: torch.dtype, device: str | torch.device) -> Planes:
    """An image as tensors; its variance smoothed over the good pixels.

    A variance that was made from the pixel itself goes with its noise, and weights would too.
    """
    good, data, sigma = (
        torch.as_tensor(np.asarray(plane), device=device).to(kind)
        for plane, kind in ((~np.asarray(image.mask, bool), torch.bool), (image.data, dtype),
                            (image.sigma, dtype))
    )  # fmt: skip
    good = good & torch.isfinite(data) & torch.isfinite(sigma) & (sigma > 0)
    seen = data[good]
    if not len(seen):
        raise InputError(f"no pixel of the {name} is good", "look at its mask and noise map")
    if bool((seen == seen[0]).all()):
        raise InputError(f"the {name} has one value everywhere", "give another image")
    nothing = torch.zeros((), dtype=dtype, device=device)
    data, squares = torch.where(good, data, nothing), torch.where(good, sigma.square(), nothing)
    variance = _smoothed(squares, 2.0) / _smoothed(good.to(dtype), 2.0).clamp_(min=1e-6)
    variance = torch.where(variance > 0, variance, squares[good].median())
    return Planes(data, variance, good, _significance(data, variance, good))


def _line(sigma: float, power: int = 1) -> list[float]:
    """A Gaussian of unit sum, and its square, sampled to 4 sigma."""
    half = math.ceil(4 * sigma)
    line = np.exp(-0.5 * (np.arange(-half, half + 1) / sigma) ** 2)
    return ((line / line.sum()) ** power).tolist()


def _smoothed(image: Tensor, sigma: float, power: int = 1) -> Tensor:
    """The image convolved with a Gaussian, or its square; 0 beyond it."""
    line = _line(sigma, power)
    half = len(line) // 2
    for axis in (0, 1):
        wide = torch.nn.functional.pad(image, (half, half, 0, 0) if axis else (0, 0, half, half))
        image = torch.zeros_like(image)
        for k, weight in enumerate(line):
            image.add_(wide.narrow(axis, k, image.shape[axis]), alpha=weight)
    return image


def _largest_near(values: Tensor, radius: int) -> Tensor:
    """The largest value in a square of that half side around each pixel."""
    least = values.min() if values.dtype.is_floating_point else False
    for axis in (0, 1):
        margin = values.narrow(axis, 0, 1).expand(*(radius if a == axis else -1 for a in (0, 1)))
        margin = torch.zeros_like(margin) + least
        values, width = torch.cat([margin, values, margin], axis), 1
        while width <= 2 * radius:  # windows twice as wide each time
            step = min(width, 2 * radius + 1 - width)
            length = values.shape[axis] - step
            values = torch.maximum(
                values.narrow(axis, 0, length), values.narrow(axis, step, length)
            )
            width += step
    return values


def _grown(mask: Tensor, radius: int) -> Tensor:
    """A mask with the squares of that half side around its pixels."""
    return _largest_near(mask, radius)


def _inside(plane: Tensor, margin: int) -> Tensor:
    """True but for a margin along the border."""
    inside = torch.zeros_like(plane, dtype=torch.bool)
    inside[margin:-margin, margin:-margin] = True
    return inside


def _significance(data: Tensor, variance: Tensor, good: Tensor, sigma: float = 1.5) -> Tensor:
    """S/N of the image smoothed by a Gaussian, about its median; 0 where it is not good.

    Measured scatter counts where it is larger than the variance says: noise may be correlated.
    """
    smooth = _smoothed(data * good, sigma) / _smoothed(variance, sigma, 2).sqrt_()
    seen = smooth[good]
    middle = seen.median()
    scatter = 1.4826 * (seen - middle).abs().median()
    return torch.where(good, (smooth - middle) / scatter.clamp(min=1), torch.zeros_like(smooth))


def _solved(
    fixed: Planes, moved: Planes, unchanged: Tensor, design: Design, most: int, *,
    first: Kernel | None = None, covariance: bool = True,
) -> Kernel:  # fmt: skip
    """The kernel from the pixels that have light, the brightest first."""
    possible = fixed.good & ~_grown(~moved.good, design.half) & unchanged
    possible &= _inside(possible, design.half)
    needed = len(polynomials((2, 2), design.variation)) * design.size**2
    # Whole neighbourhoods of bright pixels: a cut through the wings of a source at some level would
    # choose pixels by their noise.
    near = _largest_near(moved.significance, design.half)
    level = BRIGHT
    if int((possible & (near > level)).sum()) > most:
        level = max(level, float(torch.topk(near[possible], most).values[-1]))
    use = possible & (near > level)
    number = int(use.sum())
    if number < 2 * needed:
        raise InputError(
            f"only {number} good pixels have light, and the kernel has {needed} values",
            "use a smaller kernel or less variation, deeper images, or say which is convolved",
        )
    try:
        return solve(
            fixed.data, moved.data, fixed.variance, moved.variance, use, design, first=first,
            covariance=covariance,
        )  # fmt: skip
    except torch.linalg.LinAlgError as error:
        raise InputError(
            "the kernel is not determined by these images", "use a smaller kernel"
        ) from error


def _direction(
    science: Planes, reference: Planes, unchanged: Tensor, settings: SubtractSettings
) -> tuple[str, Kernel, dict[str, float]]:
    """Choose the image to convolve, and solve for a first kernel from the brightest pixels.

    A kernel that widens has a sum of squares below 1 (for unit sum); one that sharpens rings, and
    amplifies noise: the one that amplifies less is taken.
    """
    design = dataclasses.replace(_design(settings), variation=0, passes=1)
    most = min(20_000, settings.most_pixels)
    pairs = {"reference": (science, reference), "science": (reference, science)}
    names = list(pairs) if settings.convolve == "auto" else [settings.convolve]
    kernels = {
        name: _solved(*pairs[name], unchanged, design, most, covariance=False) for name in names
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
    design, sides = kernel.design, kernel.planes[0].shape
    light = kernel.light(Spectrum(moved.data, sides))
    spread = kernel.variance(Spectrum(moved.variance, sides)).add_(fixed.variance)
    spread.add_((design.floor * light).square_())
    sky = polynomial_image(kernel.background, light.shape, design.background).to(light)
    return light, spread, (fixed.data - light - sky).mul_(good)


def _with_background(
    kernel: Kernel, fixed: Planes, light: Tensor, spread: Tensor, good: Tensor
) -> tuple[Kernel, Tensor]:
    """The background fitted again to all good pixels but those where something has changed.

    With what is left of the image then.
    """
    count, order = kernel.background.numel(), kernel.design.background
    bare = (fixed.data - light).mul_(good)
    if not count:
        return kernel, bare
    normal, left = torch.eye(count), bare
    terms = polynomials(light.shape, order, light.dtype, light.device)
    for step in range(3):
        if step:
            use = good & ~_grown(_significance(left, spread, good).abs() > BRIGHT, GROWN)
        else:  # whatever the first background is: about the middle
            use = good & ((bare - bare[good].median()).abs() < BRIGHT * spread.sqrt())
        weight = torch.where(use, 1 / spread, torch.zeros_like(spread))
        parts = [(weight * term).flatten() for term in terms]
        normal = torch.stack([terms.flatten(1) @ part for part in parts]).double()
        right = torch.stack([bare.flatten() @ part for part in parts]).double()
        background = torch.linalg.solve(normal, right)
        kernel = dataclasses.replace(kernel, background=background)
        left = (bare - polynomial_image(background, light.shape, order).to(bare)).mul_(good)
    covariance = kernel.covariance.clone()
    covariance[-count:, :] = 0
    covariance[:, -count:] = 0
    covariance[-count:, -count:] = torch.linalg.inv(normal)
    return dataclasses.replace(kernel, covariance=covariance), left


def _model_variance(kernel: Kernel, moved: Planes) -> Tensor:
    """Variance of each pixel by the errors of kernel and background."""
    design, count = kernel.design, kernel.planes.numel()
    values, vectors = largest_modes(kernel.covariance, MODES)
    out, spectrum = torch.zeros_like(moved.data), Spectrum(moved.data, kernel.planes[0].shape)
    for vector in (vectors * values.clamp(min=0).sqrt()).T:
        change = spectrum.varied(vector[:count].reshape(kernel.planes.shape), design.variation)
        change += polynomial_image(vector[count:], out.shape, design.background)
        out.addcmul_(change, change)
    return out


def largest_modes(matrix: Tensor, number: int) -> tuple[Tensor, Tensor]:
    """Largest eigenvalues of a symmetric matrix (k,), and their vectors (n, k)."""
    if len(matrix) <= max(500, 2 * number):
        values, vectors = torch.linalg.eigh(matrix)
        return values[-number:], vectors[:, -number:]
    start = np.ones(len(matrix))  # the same answer every time
    values, vectors = eigsh(matrix.cpu().numpy(), number, v0=start, tol=1e-6)
    return torch.as_tensor(values).to(matrix), torch.as_tensor(vectors).to(matrix)
