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
more finely (a larger L). On the stamp, which is shorter than L, a wave of any low frequency is a
sum of the FFT's own low modes to 1e-7 (a Fourier extension: Huybrechs 2010, SIAM J. Numer. Anal.
47, 4326), and so are its derivatives, so that two small matrix products add the finely sampled
modes to the FFT's (`autofit_ml.rendering.synthesis`). The cost does not depend on the galaxy, and
the image is a smooth function of its parameters.

**Undersampled PSFs.** With a PSF oversampled s times the integrand is evaluated up to s times the
Nyquist frequency of the pixels and the s x s aliases of each mode are added before the inverse FFT.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import torch

ALIGNMENT = 64
"""Lengths are filled up to a multiple of this, so that no object's arithmetic depends on its place
in a batch."""

__all__ = ["ALIGNMENT", "Accuracy", "FourierPlan", "make_plan", "psf_modes"]


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

    kx (a, nkx), ky (b, nky): angular frequencies per pixel; a, b count the aliases. In the first
    level ky runs fastest, (a, nkx, b, nky), so that the first inverse transform reads memory in
    order; in the others kx does, (nky, nkx). Those carry what adds them to the first: `to_y` real
    (jy, nky), `to_x` real (2 nkx, 4 jx) for interleaved real and imaginary parts.
    """

    kx: torch.Tensor
    ky: torch.Tensor
    weight: torch.Tensor
    to_y: torch.Tensor | None = None
    to_x: torch.Tensor | None = None

    @cached_property
    def size(self) -> int:
        """Number of modes."""
        return self.kx.numel() * self.ky.numel()

    @cached_property
    def ky_pairs(self) -> torch.Tensor:
        """ky for real and imaginary parts that lie side by side, (b, 2 nky)."""
        return self.ky.repeat_interleave(2, 1)

    @cached_property
    def slopes(self) -> dict[tuple[int, int], torch.Tensor]:
        """(order in x, in y) -> what turns modes into those of derivatives, but for the factors of
        ky, complex, (a, 1, nkx)."""
        orders = [(x, y) for x in range(3) for y in range(3)]
        return {(x, y): self.kx[:, None] ** x * (-1j) ** (x + y) for x, y in orders}

    def outer(self, along_x: torch.Tensor, along_y: torch.Tensor) -> torch.Tensor:
        """Products of factors (B, kx) and (B, ky), (B, modes)."""
        if self.to_y is None:
            return (along_x[:, :, None] * along_y[:, None, :]).flatten(1)
        return (along_y[:, :, None] * along_x[:, None, :]).flatten(1)


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
        a multiple of `ALIGNMENT`; the filling carries no light.
    frequencies : tuple of Tensor (n_modes,)
        kx and ky of the same.
    lines : tuple of Tensor
        kx of all levels one after the other, then ky, each filled up to a multiple of `ALIGNMENT`.
    turn : Tensor, complex, (jy, jx)
        Phases and scale of what the other levels add to the first's low modes (jy from -J to J).
    """

    shape: tuple[int, int]
    fft_shape: tuple[int, int]
    oversampling: int
    levels: tuple[_Level, ...]
    quadratic: torch.Tensor
    frequencies: tuple[torch.Tensor, torch.Tensor]
    lines: tuple[torch.Tensor, torch.Tensor]
    turn: torch.Tensor

    @property
    def device(self) -> torch.device:
        """Device of the plan's tensors."""
        return self.quadratic.device

    @property
    def dtype(self) -> torch.dtype:
        """float32 or float64."""
        return self.quadratic.dtype

    @property
    def n_modes(self) -> int:
        """Number of Fourier modes evaluated for one component."""
        return self.quadratic.shape[1]

    def joined(self, parts: Sequence[torch.Tensor]) -> torch.Tensor:
        """Modes (B, ...) of the levels in order, filled up with zeros, (B, n_modes)."""
        missing = self.n_modes - sum(part.shape[1] for part in parts)
        return torch.cat([*parts, parts[0].new_zeros((len(parts[0]), missing))], dim=1)


def make_plan(
    shape: tuple[int, int],
    psf_shape: Sequence[int] = (1, 1),
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
    lengths = _fast_length(smallest[0]), _fast_length(smallest[1])
    return _plan(shape, lengths, int(oversampling), accuracy, torch.device(device), dtype)


@lru_cache(maxsize=32)
def _plan(
    shape: tuple[int, int],
    lengths: tuple[int, int],
    s: int,
    accuracy: Accuracy,
    device: torch.device,
    dtype: torch.dtype,
) -> FourierPlan:
    """The plan of an FFT of some `lengths`, made once."""
    (ny, nx), (ly, lx) = shape, lengths
    step_y, step_x = 2 * np.pi / ly, 2 * np.pi / lx
    ky = _aliases(np.fft.fftfreq(ly, 1 / ly) * step_y, s)
    kx = _aliases(np.arange(lx // 2 + 1) * step_x, s)
    widths = [(accuracy.split * step_y, accuracy.split * step_x)]
    weight = 1.0 - _split_weight(ky, kx, widths[0], accuracy)
    if not accuracy.refinements:
        weight = np.ones_like(weight)
    if s == 1:
        # The highest frequency along y is -pi and +pi in equal parts; the latter comes last.
        ky = np.append(ky, [[np.pi]], axis=1)
        weight = np.concatenate([weight, weight[:, ly // 2 : ly // 2 + 1]], axis=1)
        weight[:, [ly // 2, ly]] /= 2
    else:  # one of its aliases lies on the border, on one side of it: it carries nothing
        weight = np.where(np.abs(ky)[:, :, None, None] > (s - 1e-9) * np.pi, 0.0, weight)
    place: dict[str, Any] = {"device": device, "dtype": dtype}
    levels = [_level(ky, kx, weight, place)]
    reach = _reach(accuracy)
    low = [math.ceil(2 * reach * accuracy.split) if accuracy.refinements else -1] * 2
    low = [min(low[0], (ly - 1) // 2), min(low[1], lx // 2)]
    low_y, low_x = np.arange(-low[0], low[0] + 1) * step_y, np.arange(low[1] + 1) * step_x
    turn = np.exp(-0.5j * ((ny - 1) * low_y[:, None] + (nx - 1) * low_x[None, :]))
    turn = turn * (ly * lx / (2 * np.pi) ** 2)

    for i, ratio in enumerate(accuracy.refinements):
        step_y, step_x = step_y / ratio, step_x / ratio
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
        weight = weight * (step_y * step_x)
        to_y = _extension(ny, low_y, ky[0])
        both = np.concatenate([-low_x[:0:-1], low_x])
        to_x = _extension(nx, both, np.concatenate([kx[0], -kx[0]]))[low[1] :]
        levels.append(_level(ky, kx, weight, place, to_y, to_x))

    every_kx, every_ky = [], []
    for level in levels:
        kx_of, ky_of = level.kx.flatten()[None], level.ky.flatten()[None]
        every_kx.append(level.outer(kx_of, torch.ones_like(ky_of))[0])
        every_ky.append(level.outer(torch.ones_like(kx_of), ky_of)[0])
    missing = -sum(map(len, every_kx)) % ALIGNMENT
    filling = torch.full((missing,), math.pi, device=device, dtype=dtype)
    all_kx, all_ky = torch.cat([*every_kx, filling]), torch.cat([*every_ky, filling])
    quadratic = torch.stack([all_kx.square(), all_ky.square(), all_kx * all_ky])
    turned = torch.complex(torch.as_tensor(turn.real, **place), torch.as_tensor(turn.imag, **place))
    lines = (
        _filled(torch.cat([level.kx.flatten() for level in levels])),
        _filled(torch.cat([level.ky.flatten() for level in levels])),
    )
    return FourierPlan(
        (ny, nx), (ly, lx), s, tuple(levels), quadratic, (all_kx, all_ky), lines, turned
    )


def _filled(k: torch.Tensor) -> torch.Tensor:
    """Frequencies, with zeros up to a multiple of `ALIGNMENT`."""
    return torch.cat([k, k.new_zeros(-len(k) % ALIGNMENT)])


def _extension(n: int, basis: np.ndarray, k: np.ndarray) -> np.ndarray:
    """Matrix (len(basis), len(k)) from waves of frequencies k to those of the basis.

    On n pixels about their centre, by least squares in the waves and their first two derivatives;
    real, since the pixels are symmetric.
    """
    x = np.arange(n) - (n - 1) / 2
    there, here = (
        np.concatenate([np.exp(1j * np.outer(x, waves)) * (1j * waves) ** d for d in range(3)])
        for waves in (basis, k)
    )
    return np.linalg.lstsq(there, here, rcond=1e-10)[0].real


def _level(
    ky: np.ndarray,
    kx: np.ndarray,
    weight: np.ndarray,
    place: dict[str, Any],
    to_y: np.ndarray | None = None,
    to_x: np.ndarray | None = None,
) -> _Level:
    """Tensors of one sampling, `weight` (b, nky, a, nkx).

    to_y (jy, nky), to_x (jx, 2 nkx): the extensions of one that is added to the first level; the
    latter of kx and of -kx, whose modes are the conjugates of those of kx.
    """

    def tensor(array: np.ndarray) -> torch.Tensor:
        return torch.as_tensor(np.ascontiguousarray(array), **place)

    if to_y is None or to_x is None:
        return _Level(tensor(kx), tensor(ky), tensor(weight.transpose(2, 3, 0, 1)))
    half = np.where(kx[0] == 0, 0.5, 1.0)[:, None]
    plus, minus = np.split(to_x.T, 2)
    pairs = [np.kron(plus * half, np.eye(2)), np.kron(minus * half, np.diag([1.0, -1.0]))]
    return _Level(
        tensor(kx), tensor(ky), tensor(weight[0, :, 0]), tensor(to_y), tensor(np.hstack(pairs))
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
        direct = level.to_y is not None
        pixel = (
            torch.sinc(kx / (2 * np.pi * binning))[:, None]
            * torch.sinc(ky / (2 * np.pi * binning))[None, :]
        )
        scale = torch.where(has_pixel.to(device)[:, None, None], one, pixel)
        block = _block_transfer(kx, binning)[:, None] * _block_transfer(ky, binning)[None, :]
        if direct:  # about the stamp's centre, where the extensions are real
            weight = level.weight.T * block
            turn_y = torch.polar(one, ky * ((plan.shape[0] - 1) / 2))
            turn_x = torch.polar(one, kx * ((plan.shape[1] - 1) / 2))
            modes = modes * (turn_x[:, None] * turn_y[None, :])
            parts.append((modes * (scale * weight)).transpose(1, 2).flatten(1))
        else:
            weight = level.weight.flatten(2, 3).flatten(0, 1) * block
            parts.append((modes * (scale * weight)).flatten(1))
    return plan.joined(parts)


def _block_transfer(k: torch.Tensor, binning: int) -> torch.Tensor:
    """Transform of adding up `binning` neighbouring pixels; `k` per block."""
    if binning == 1:
        return torch.ones_like(k)
    half = k / (2 * binning)
    small = half.sin().abs() < 1e-4
    safe = torch.where(small, torch.ones_like(half), half.sin())
    return torch.where(small, torch.ones_like(half), (binning * half).sin() / (binning * safe))


def _fast_length(n: int) -> int:
    """Smallest even number >= n whose prime factors are at most 5."""
    n += n % 2
    while True:
        rest = n
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return n
        n += 2


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
