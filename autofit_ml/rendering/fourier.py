r"""Rendering of elliptical profiles in Fourier space, with analytic derivatives.

An elliptical profile with the circular transform :math:`S(\kappa)` (`autofit_ml.profiles`), flux
:math:`F`, centre :math:`\mathbf{x}_c` and PSF :math:`P` makes the image

.. math::

    f(\mathbf{x}) = \frac{F}{4\pi^2} \int S\big(\sqrt{\mathbf{k}^T M \mathbf{k}}\big)\,
        P(\mathbf{k})\, e^{i \mathbf{k}\cdot(\mathbf{x} - \mathbf{x}_c)}\, d^2k .

**Shape.** :math:`M = r_c^2 \exp[\eta_1 \sigma_z + \eta_2 \sigma_x]` with the circularised
half-light radius :math:`r_c = r_e\sqrt{q}`, :math:`|\eta| = -\ln q` and the direction of
:math:`\eta` twice the major axis' angle from +x; nothing is singular at q = 1.

**Wrap-around.** One FFT turns the integral into a sum with step :math:`2\pi/L` and so adds the
periodic images of the galaxy, displaced by L; light of concentrated profiles reaches that far.
Instead of a very large FFT the integrand is split by smooth weights :math:`1 = (1 - g_0) +
g_0 (1 - g_1) + \dots`, where :math:`g_l` keeps small :math:`|k|` only. The first part has no
extended wings and goes through the FFT; each next part lives on a few modes, which are sampled
more finely (a larger L) and are summed directly as two small matrix products. The cost does not
depend on the galaxy, and the image is a smooth function of its parameters.

**Undersampled PSFs.** With a PSF oversampled s times the integrand is evaluated up to s times the
Nyquist frequency of the pixels and the s x s aliases of each mode are added before the inverse FFT.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from scipy.fft import next_fast_len

_ALIGNMENT = 64

__all__ = [
    "Accuracy",
    "FourierPlan",
    "make_plan",
    "phase",
    "psf_modes",
    "synthesise",
]


@dataclass(frozen=True)
class Accuracy:
    """Accuracy settings of the Fourier renderer.

    The defaults keep the image within 5e-5 of its peak and 1e-3 of the stamp's flux for
    n <= 6 and re up to a third of the stamp (benchmarks/rendering.py).

    Attributes
    ----------
    padding : float
        The FFT is larger than the stamp by at least (padding - 1) times its longer side.
    margin : float
        ... and by at least this many pixels.
    refinements : tuple of float
        Factor in L from each level to the next.
    split : float
        Width of the weights g, in steps of the level that they are taken from.
    order : int
        Order of the weights at k = 0: 1 - g ~ k^(2 order).
    cutoff : float
        Value of g under which modes of the next level are left out.
    """

    padding: float = 2.5
    margin: float = 32.0
    refinements: tuple[float, ...] = (2.0, 2.0, 2.0)
    split: float = 3.0
    order: int = 2
    cutoff: float = 1e-3


@dataclass(frozen=True)
class _Level:
    """One sampling of the (ky, kx) plane, kx >= 0.

    kx (a, nkx), ky (b, nky): angular frequencies per pixel; a, b count the aliases. ky runs
    fastest, so that the first inverse transform reads memory in order. Direct levels carry the
    matrices of the inverse transform: `to_y` complex (ny, nky), and `to_x` real (2 nkx, nx), whose
    rows meet the interleaved real and imaginary parts.
    """

    kx: torch.Tensor
    ky: torch.Tensor
    weight: torch.Tensor  # (a, nkx, b, nky)
    to_y: torch.Tensor | None = None
    to_x: torch.Tensor | None = None


@dataclass(frozen=True)
class FourierPlan:
    """Everything about rendering that depends only on the stamp's shape.

    Attributes
    ----------
    shape : (ny, nx) of the stamp.
    fft_shape : (Ly, Lx) of the padded FFT.
    oversampling : PSF pixels per image pixel.
    levels : samplings of Fourier space; the first goes through the FFT.
    quadratic : Tensor (3, n_modes)
        kx^2, ky^2, kx ky of all modes of all levels, flattened and concatenated, then filled up to
        a multiple of 64 (with which every object's arithmetic is the same wherever it sits in a
        batch); the filling carries no light.
    frequencies : tuple of Tensor (n_modes,)
        kx and ky of the same.
    """

    shape: tuple[int, int]
    fft_shape: tuple[int, int]
    oversampling: int
    levels: tuple[_Level, ...]
    quadratic: torch.Tensor
    frequencies: tuple[torch.Tensor, torch.Tensor]

    @property
    def device(self) -> torch.device:
        """Where the plan's tensors live."""
        return self.quadratic.device

    @property
    def dtype(self) -> torch.dtype:
        """float32 or float64."""
        return self.quadratic.dtype

    @property
    def n_modes(self) -> int:
        """Number of Fourier modes evaluated for one component."""
        return self.quadratic.shape[1]


@lru_cache(maxsize=32)
def make_plan(
    shape: tuple[int, int],
    psf_shape: tuple[int, int] = (1, 1),
    oversampling: int = 1,
    accuracy: Accuracy | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> FourierPlan:
    """Lay out the Fourier modes for stamps of one shape.

    Parameters
    ----------
    shape : (ny, nx)
        Of the stamp, pixels.
    psf_shape : (h, w)
        Of the PSF image, PSF pixels.
    oversampling : int
        PSF pixels per image pixel, >= 1.
    accuracy : Accuracy, optional
    device, dtype : of the tensors.

    Returns
    -------
    FourierPlan
    """
    accuracy = accuracy or Accuracy()
    margin = max((accuracy.padding - 1.0) * max(shape), accuracy.margin)
    smallest = [
        math.ceil(n + max(margin, p / (2 * oversampling) + 8))
        for n, p in zip(shape, psf_shape, strict=True)
    ]
    # An odd length along y has no Nyquist row, which a complex transform would treat one-sidedly.
    lengths = _fast_odd_length(smallest[0]), _fast_even_length(smallest[1])
    (ny, nx), (ly, lx), s = shape, lengths, int(oversampling)

    step_y, step_x = 2 * np.pi / ly, 2 * np.pi / lx
    ky = _aliases(np.fft.fftfreq(ly, 1 / ly) * step_y, s)
    kx = _aliases(np.arange(lx // 2 + 1) * step_x, s)
    widths = [(accuracy.split * step_y, accuracy.split * step_x)]
    weight = 1.0 - _split_weight(ky, kx, widths[0], accuracy)
    if not accuracy.refinements:
        weight = np.ones_like(weight)
    place = {"device": device, "dtype": dtype}
    levels = [_level(ky, kx, weight, place)]

    for i, ratio in enumerate(accuracy.refinements):
        step_y, step_x = step_y / ratio, step_x / ratio
        reach = _reach(accuracy)
        jy = math.ceil(reach * widths[-1][0] / step_y)
        jx = math.ceil(reach * widths[-1][1] / step_x)
        ky = np.arange(-jy, jy + 1)[None] * step_y
        kx = np.arange(0, jx + 1)[None] * step_x
        weight = np.ones((1, ky.size, 1, kx.size))
        for width in widths:
            weight = weight * _split_weight(ky, kx, width, accuracy)
        widths.append((accuracy.split * step_y, accuracy.split * step_x))
        if i + 1 < len(accuracy.refinements):
            weight = weight * (1.0 - _split_weight(ky, kx, widths[-1], accuracy))
        levels.append(_level(ky, kx, weight, place, (ny, nx), (step_y, step_x)))

    every_kx, every_ky = [], []
    for level in levels:
        y, x = torch.broadcast_tensors(level.ky[None, None], level.kx[:, :, None, None])
        every_kx.append(x.flatten())
        every_ky.append(y.flatten())
    missing = -sum(map(len, every_kx)) % _ALIGNMENT
    filling = torch.full((missing,), math.pi, device=device, dtype=dtype)
    all_kx, all_ky = torch.cat([*every_kx, filling]), torch.cat([*every_ky, filling])
    quadratic = torch.stack([all_kx.square(), all_ky.square(), all_kx * all_ky])
    return FourierPlan((ny, nx), (ly, lx), s, tuple(levels), quadratic, (all_kx, all_ky))


def _level(
    ky: np.ndarray,
    kx: np.ndarray,
    weight: np.ndarray,
    place: dict[str, Any],
    shape: tuple[int, int] | None = None,
    steps: tuple[float, float] | None = None,
) -> _Level:
    """Tensors of one sampling; given the stamp's shape and the steps, one summed directly."""

    def tensor(array: np.ndarray) -> torch.Tensor:
        return torch.as_tensor(array, **place)

    if shape is None or steps is None:
        return _Level(tensor(kx), tensor(ky), tensor(weight.transpose(2, 3, 0, 1)))
    area = steps[0] * steps[1] / (2 * np.pi) ** 2
    half = np.where(kx[0] == 0, 1.0, 2.0)  # kx < 0 is the conjugate of kx > 0
    to_y = np.exp(1j * np.outer(np.arange(shape[0]), ky[0]))
    to_x = np.exp(1j * np.outer(kx[0], np.arange(shape[1]))) * (half * area)[:, None]
    return _Level(
        tensor(kx),
        tensor(ky),
        tensor(weight.transpose(2, 3, 0, 1)),
        torch.complex(tensor(to_y.real), tensor(to_y.imag)),
        tensor(np.stack([to_x.real, -to_x.imag], axis=1).reshape(-1, shape[1])),
    )


def psf_modes(
    plan: FourierPlan,
    psf: torch.Tensor,
    has_pixel: torch.Tensor,
    oversampling: int | None = None,
    binning: int = 1,
) -> torch.Tensor:
    """Transform of PSF images at the plan's modes, times the weights of the levels.

    Parameters
    ----------
    plan : FourierPlan
    psf : Tensor, shape (B, h, w)
        PSF images of one shape, centred at ((h - 1) / 2, (w - 1) / 2).
    has_pixel : Tensor, bool, shape (B,)
        False: the pixel is added here.
    oversampling : int, optional
        PSF pixels per image pixel; the plan's when not given.
    binning : int
        The plan's pixels are blocks of binning x binning image pixels, added up.

    Returns
    -------
    Tensor, complex, shape (B, n_modes)
    """
    wide = torch.float64 if plan.dtype == torch.float64 else torch.float32
    device = plan.device
    _, h, w = psf.shape
    s = (oversampling or plan.oversampling) * binning
    row = (torch.arange(h, device=device, dtype=wide) - (h - 1) / 2) / s
    column = (torch.arange(w, device=device, dtype=wide) - (w - 1) / 2) / s
    images = psf.to(device, wide)
    one = torch.ones((), dtype=wide, device=device)
    parts = []
    for level in plan.levels:
        ky, kx = level.ky.flatten(), level.kx.flatten()
        along_y = torch.polar(one, -ky[:, None] * row)
        along_x = torch.polar(one, -kx[:, None] * column)
        half = along_x @ images.to(along_x.dtype).transpose(1, 2)
        modes = half @ along_y.transpose(0, 1)
        pixel = (
            torch.sinc(kx / (2 * np.pi * binning))[:, None]
            * torch.sinc(ky / (2 * np.pi * binning))[None, :]
        )
        scale = torch.where(has_pixel.to(device)[:, None, None], one, pixel)
        block = _block_transfer(kx, binning)[:, None] * _block_transfer(ky, binning)[None, :]
        weight = level.weight.flatten(2, 3).flatten(0, 1) * block
        parts.append((modes * (scale * weight)).flatten(1))
    return _fill(plan, parts)


def _fill(plan: FourierPlan, parts: list[torch.Tensor]) -> torch.Tensor:
    """Join the levels' modes (B, ...) and add zeros up to the plan's number of modes."""
    missing = plan.n_modes - sum(part.shape[1] for part in parts)
    return torch.cat([*parts, parts[0].new_zeros((len(parts[0]), missing))], dim=1)


def _block_transfer(k: torch.Tensor, binning: int) -> torch.Tensor:
    """Transform of adding up `binning` neighbouring pixels; `k` per block."""
    if binning == 1:
        return torch.ones_like(k)
    half = k / (2 * binning)
    small = half.sin().abs() < 1e-4
    safe = torch.where(small, torch.ones_like(half), half.sin())
    return torch.where(small, torch.ones_like(half), (binning * half).sin() / (binning * safe))


def synthesise(plan: FourierPlan, spectra: torch.Tensor) -> torch.Tensor:
    """Inverse transform, restricted to the stamp.

    Parameters
    ----------
    plan : FourierPlan
    spectra : Tensor, complex, shape (..., n_modes)

    Returns
    -------
    Tensor, real, shape (..., ny, nx)
    """
    (ny, nx), lx = plan.shape, plan.fft_shape[1]
    lead = spectra.shape[:-1]
    image = spectra.new_zeros(()).real
    start = 0
    for level in plan.levels:
        (b, nky), (a, nkx) = level.ky.shape, level.kx.shape
        part = spectra[..., start : start + b * nky * a * nkx].reshape(*lead, a, nkx, b, nky)
        start += b * nky * a * nkx
        part = part.sum((-4, -2)) if a * b > 1 else part.reshape(*lead, nkx, nky)
        if level.to_y is None or level.to_x is None:  # the first level
            rows = torch.fft.ifft(part, dim=-1)[..., :ny].transpose(-1, -2)
            image = torch.fft.irfft(rows, n=lx, dim=-1).reshape(-1, lx)[:, :nx]
        else:
            rows = torch.view_as_real(level.to_y @ part.transpose(-1, -2)).flatten(-2)
            image = torch.addmm(image, rows.reshape(-1, 2 * nkx), level.to_x)
    return image.reshape(*lead, ny, nx)


def phase(plan: FourierPlan, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """exp(-i k . x_c) at all modes, complex, shape (B, n_modes); `x`, `y` (B,) in pixels."""
    parts = []
    for level in plan.levels:
        along_y, along_x = _turn(y, level.ky), _turn(x, level.kx)
        parts.append((along_x[:, :, None] * along_y[:, None, :]).flatten(1))
    return _fill(plan, parts)


def _turn(shift: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    """exp(-i k shift), (B, number of k); rows are filled up so that batches do not matter."""
    flat = k.flatten()
    filled = torch.cat([flat, flat.new_zeros(-len(flat) % _ALIGNMENT)])
    one = torch.ones((), dtype=k.dtype, device=k.device)
    return torch.polar(one, -shift[:, None] * filled)[:, : len(flat)]


def _fast_odd_length(n: int) -> int:
    """Smallest odd number >= n whose prime factors are at most 11."""
    n += 1 - n % 2
    while True:
        rest = n
        for prime in (3, 5, 7, 11):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return n
        n += 2


def _fast_even_length(n: int) -> int:
    """Smallest even number >= n that a real FFT handles fast."""
    return 2 * next_fast_len((n + 1) // 2, real=True)


def _aliases(k: np.ndarray, oversampling: int) -> np.ndarray:
    """The `oversampling` frequencies of each k + 2 pi m that are nearest to zero, (s, len(k))."""
    m = np.arange(-oversampling, oversampling + 1)
    candidates = k[None, :] + 2 * np.pi * m[:, None]
    order = np.argsort(np.abs(candidates), axis=0, kind="stable")[:oversampling]
    return np.take_along_axis(candidates, order, axis=0)


def _split_weight(
    ky: np.ndarray, kx: np.ndarray, width: tuple[float, float], accuracy: Accuracy
) -> np.ndarray:
    """g(k) on the grid, shape (b, nky, a, nkx): 1 at k = 0 and flat there, 0 far out."""
    u2 = (ky[:, :, None, None] / width[0]) ** 2 + (kx[None, None] / width[1]) ** 2
    g = 1.0 - (-np.expm1(-u2 / 2)) ** accuracy.order
    return np.where(u2 <= _reach(accuracy) ** 2, g, 0.0)


def _reach(accuracy: Accuracy) -> float:
    """Frequency, in widths, at which g falls to the cutoff."""
    return math.sqrt(2 * math.log(accuracy.order / accuracy.cutoff))
