"""Fluxes of point sources on a difference, whitened differences, scores."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from autofit_ml.difference.kernel import Spectrum, convolved, polynomials
from autofit_ml.difference.subtract import Difference
from autofit_ml.errors import InputError
from autofit_ml.images.psf import resample_psf
from autofit_ml.images.stamp import PSF

__all__ = [
    "Forced",
    "Whitened",
    "fluxes",
    "forced",
    "point_image",
    "psf_at",
    "whitened",
    "with_pixel",
]

WHITENER = 41


@dataclass(frozen=True)
class Whitened:
    """A difference whose noise is white, and what finds point sources on it.

    Attributes
    ----------
    difference, variance : Tensor, (ny, nx)
        Variance of sky pixels, without the errors of the kernel.
    psf : Tensor, (h, w)
        Of a point source of flux 1 in the science image.
    score : Tensor, (ny, nx)
        S/N of a point source at each pixel.
    excess : float
        Scatter of point sources' fluxes on empty sky over what the images' noise maps say, 1 at
        least: noise of resampled images is correlated. The score is divided by it.
    """

    difference: Tensor
    variance: Tensor
    psf: Tensor
    score: Tensor
    excess: float


@dataclass(frozen=True)
class Forced:
    """Fluxes at given places, and what they are made of.

    Attributes
    ----------
    flux, error : Tensor, (n,)
        In units of the science image; NaN where over half of the PSF is masked.
    reference_filter : Tensor, (n, h, w)
        What each flux subtracts from the reference: ``sum(filter * reference)`` about the pixel
        (column, row), on the pixels that were subtracted.
    column, row : Tensor, (n,), int64
    """

    flux: Tensor
    error: Tensor
    reference_filter: Tensor
    column: Tensor
    row: Tensor


def with_pixel(psf: PSF) -> np.ndarray:
    """A PSF on its own grid, averaged over the pixels of the image, float64."""
    data, step = np.asarray(psf.data, float), psf.oversampling
    if psf.has_pixel:
        return data
    data = np.pad(data, 2 * step)
    fy, fx = (np.sinc(step * np.fft.fftfreq(side)) for side in data.shape)
    return np.fft.ifft2(np.fft.fft2(data) * fy[:, None] * fx).real


def point_image(psf: PSF) -> np.ndarray:
    """A PSF on the pixels of its image: float64, odd sides, the source in the middle, sum 1.

    Raises
    ------
    InputError
        A PSF on the image's own pixels has an even side.
    """
    data = with_pixel(psf)
    if psf.oversampling > 1:
        data = resample_psf(data, psf.oversampling)
    if not all(side % 2 for side in data.shape):
        raise InputError(
            f"the PSF has the shape {data.shape}", "give two odd sides, the source in the middle"
        )
    return data / data.sum()


def psf_at(
    psf: Tensor, dx: Tensor, dy: Tensor, *, margin: int = 2, oversampling: int = 1
) -> Tensor:
    """PSF images shifted by fractions of a pixel, by a Fourier shift on their own grid.

    Parameters
    ----------
    psf : Tensor, (h, w) or (k, h, w)
        The source in the middle.
    dx, dy : Tensor, (n,)
        Pixels of the image.
    margin : int
        Pixels of the image around the PSF.
    oversampling : int
        Pixels of the PSF in one of the image.

    Returns
    -------
    Tensor, (n, h', w') or (n, k, h', w')
        On the pixels of the image, odd sides; the light in each.
    """
    step, sides = oversampling, psf.shape[-2:]
    half = [(side - 1) // (2 * step) + margin for side in sides]
    pads = [step * h - side // 2 for h, side in zip(half, sides, strict=True)]
    (top, left), (ny, nx) = pads, (2 * step * h + 1 for h in half)
    wide = torch.nn.functional.pad(psf, (left, nx - sides[1] - left, top, ny - sides[0] - top))
    # The middle of an even side lies between two pixels.
    right, down = (step * d + (1 - s % 2) / 2 for d, s in zip((dx, dy), sides[::-1], strict=True))
    fy = torch.fft.fftfreq(ny, dtype=psf.dtype, device=psf.device)
    fx = torch.fft.rfftfreq(nx, dtype=psf.dtype, device=psf.device)
    phase = -2 * torch.pi * (fy[None, :, None] * down[:, None, None] + fx * right[:, None, None])
    turn = torch.exp(1j * phase).view(-1, *(1,) * (psf.ndim - 2), ny, nx // 2 + 1)
    out = torch.fft.irfft2(torch.fft.rfft2(wide) * turn, s=(ny, nx))
    return step**2 * out[..., ::step, ::step]


def fluxes(
    result: Difference,
    x: Tensor,
    y: Tensor,
    psf: Tensor,
    *,
    oversampling: int = 1,
    excess: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Flux of point sources at given places, and its error.

    Parameters
    ----------
    result : Difference
    x, y : Tensor, (n,), float64
        0-based pixels.
    psf : Tensor, (h, w), float64
        Of the science image: centred, odd sides, sum 1.
    oversampling : int
        Pixels of the PSF in one of the image. Undersampled images need more than 1: their own
        samples do not tell how a source looks elsewhere in a pixel.
    excess : float
        `Whitened.excess`, by which the images' noise is larger than its maps say.

    Returns
    -------
    flux, error : Tensor, (n,)
        In units of the science image; NaN where over half of the PSF's weight is masked or outside.
        The error has the noise of both images, of kernel and background (less
        what the source's own pixels did in their fit), and the floor of the model.
    """
    found = forced(result, x, y, psf, oversampling=oversampling, excess=excess)
    return found.flux, found.error


def forced(
    result: Difference,
    x: Tensor,
    y: Tensor,
    psf: Tensor,
    *,
    oversampling: int = 1,
    excess: float = 1.0,
) -> Forced:
    """Forced photometry with the filters that made it; arguments as of `fluxes`."""
    kernel, design = result.kernel, result.kernel.design
    column, row = torch.floor(x + 0.5).long(), torch.floor(y + 0.5).long()
    profiles = psf_at(psf, x - column, y - row, oversampling=oversampling)
    if result.sign < 0:
        pad = design.half
        wide = torch.nn.functional.pad(profiles, (2 * pad,) * 4)
        turned = kernel.planes[0].flip(-1, -2)
        profiles = torch.nn.functional.conv2d(wide[:, None], turned[None, None])[:, 0]
    half_y, half_x = profiles.shape[1] // 2, profiles.shape[2] // 2
    edge = design.half

    def around(image: Tensor, more: int = 0) -> Tensor:
        """Windows of an image about the places; 0 beyond it."""
        a, b = half_y + more, half_x + more
        rows = row[:, None, None] + torch.arange(-a, a + 1)[None, :, None]
        columns = column[:, None, None] + torch.arange(-b, b + 1)[None, None, :]
        inside = (rows >= 0) & (rows < image.shape[0]) & (columns >= 0) & (columns < image.shape[1])
        seen = image[rows.clamp(0, image.shape[0] - 1), columns.clamp(0, image.shape[1] - 1)]
        return torch.where(inside, seen, torch.zeros_like(seen)).to(psf)

    good = around(result.good)
    moved = result.moved
    spread = kernel.variance(Spectrum(moved.variance, kernel.planes[0].shape))
    level = around(result.fixed.variance) + around(spread)
    noise = (level * good).sum((1, 2)) / good.sum((1, 2)).clamp(min=1)
    weight = profiles * good
    share = (weight * profiles).sum((1, 2)) / (profiles**2).sum((1, 2))
    filters = weight / (weight * profiles).sum((1, 2), keepdim=True)
    flux = (filters * around(result.difference)).sum((1, 2))
    near = around(moved.data, edge)
    # The kernel at each place: K^T a is what the filter makes of the convolved image's pixels.
    terms = polynomials(result.good.shape, design.variation)
    inside_y = row.clamp(0, result.good.shape[0] - 1)
    inside_x = column.clamp(0, result.good.shape[1] - 1)
    here = terms[:, inside_y, inside_x]
    local = torch.einsum("tn,tuv->nuv", here, kernel.planes)
    n = len(x)
    spread = torch.nn.functional.conv_transpose2d(
        filters[None], local.flip(-1, -2)[:, None], groups=n
    )[0]
    variance = (filters**2 * around(result.fixed.variance)).sum((1, 2))
    variance = variance + (spread**2 * around(moved.variance, edge)).sum((1, 2))
    variance = variance * excess**2
    # g = X^T a: by shifts of the convolved image; of the fitted pixels alone, with their weights.
    gradient = _gradient(filters, near, here, row, column, result)
    fitted = around(kernel.fitted) * level
    part = _gradient(filters * fitted.clamp(max=1), near, here, row, column, result)
    covariance = kernel.covariance
    variance = variance + ((gradient - 2 * part) @ covariance * gradient).sum(1)
    light = torch.einsum("nyx,nyx->n", filters, around(result.light))
    variance = variance + (design.floor * light) ** 2
    bad = (share < 0.5) | (noise <= 0)
    nan = torch.full_like(flux, torch.nan)
    return Forced(
        torch.where(bad, nan, flux),
        torch.where(bad, nan, variance.clamp(min=0).sqrt()),
        spread if result.sign > 0 else filters,
        column,
        row,
    )


def _gradient(
    filters: Tensor, moved: Tensor, here: Tensor, row: Tensor, column: Tensor, result: Difference
) -> Tensor:
    """Derivative of the filtered model by every coefficient, (n, coefficients)."""
    n = len(filters)
    shifts = torch.nn.functional.conv2d(moved[None], filters[:, None], groups=n)[0]
    shifts = shifts.flip(-1, -2).reshape(n, -1)
    planes = [shifts * term[:, None] for term in here]
    sky = polynomials(result.good.shape, result.kernel.design.background)
    ny, nx = result.good.shape
    at = sky[:, row.clamp(0, ny - 1), column.clamp(0, nx - 1)].T
    return torch.cat([*planes, at * filters.sum((1, 2))[:, None]], 1)


def whitened(result: Difference, psf: Tensor) -> Whitened:
    """Undo the correlation that the kernel gives to the noise.

    ``phi = sqrt((V_f + s^2 V_m) / (V_f + |K|^2 V_m))`` in Fourier space, with the typical variances
    of the two images (ZOGY's idea, Zackay, Ofek & Gal-Yam 2016; for a kernel, Reiss & Lupton 2016).

    Parameters
    ----------
    result : Difference
    psf : Tensor, (h, w), float64
        Of the science image.
    """
    kernel = result.kernel.planes[0]
    fixed = result.fixed.variance[result.good].median()
    moved = result.moved.variance[result.good].median()
    size = 128
    grid = torch.zeros((size, size), dtype=kernel.dtype)
    h = kernel.shape[0]
    grid[:h, :h] = kernel
    power = torch.fft.fft2(grid).abs() ** 2
    scale = kernel.sum()
    ratio = ((fixed + scale**2 * moved) / (fixed + power * moved)).sqrt()
    half = WHITENER // 2
    phi = torch.fft.fftshift(torch.fft.ifft2(ratio).real)
    phi = phi[size // 2 - half : size // 2 + half + 1, size // 2 - half : size // 2 + half + 1]
    difference = convolved(result.difference, phi)
    variance = result.fixed.variance + scale**2 * result.moved.variance
    pad = half
    seen = torch.nn.functional.pad(psf, (pad, pad, pad, pad))
    if result.sign < 0:
        seen = convolved(seen, kernel)
    seen = convolved(seen, phi)
    back = seen.flip(-1, -2)
    noise = convolved(torch.where(result.good, variance, variance.median()), back**2)
    score = convolved(difference, back) / noise.clamp(min=1e-30).sqrt()
    dark = result.good & ((result.kernel.design.floor * result.light) ** 2 < 0.1 * variance)
    empty = score[dark] if bool(dark.any()) else score[result.good]
    excess = max(1.0, 1.4826 * float((empty - empty.median()).abs().median()))
    score = torch.where(result.good, score / excess, torch.zeros_like(score))
    return Whitened(difference, variance, seen, score, excess)
