"""Fourier grids of real square images: frequencies, multiplicities, radial bins.

Images are (..., G, G); transforms are `torch.fft.rfft2(norm="ortho")`, (..., G, G // 2 + 1), in
which white noise of variance v has the power v in every mode. Powers of galaxies are kept per unit
flux in the transform without norm, which does not depend on G.
"""

import functools
import math
from dataclasses import dataclass

import torch

__all__ = ["BINS", "Grid", "coloured", "fft2", "grid_of", "ifft2"]

BINS = 24
"""Radial bins, evenly from 0 to the corner of the band."""


def fft2(image: torch.Tensor) -> torch.Tensor:
    """Half plane of the orthonormal transform."""
    return torch.fft.rfft2(image, norm="ortho")


def ifft2(spectrum: torch.Tensor, side: int) -> torch.Tensor:
    """The real image of a half plane."""
    return torch.fft.irfft2(spectrum, s=(side, side), norm="ortho")


def coloured(
    spectrum: torch.Tensor, side: int, generator: torch.Generator | None = None
) -> torch.Tensor:
    """Gaussian noise of a power spectrum (..., G, G // 2 + 1), as images (..., G, G).

    The same on every device with the same generator, which may be of another one.
    """
    shape = (*spectrum.shape[:-2], side, side)
    where = spectrum.device if generator is None else generator.device
    white = torch.randn(shape, generator=generator, dtype=spectrum.dtype, device=where)
    return ifft2(fft2(white.to(spectrum.device)) * spectrum.sqrt(), side)


@dataclass(frozen=True)
class Grid:
    """The modes of a grid, flattened: K = G (G // 2 + 1).

    Attributes
    ----------
    side : int
        G.
    ky, kx : Tensor, float32, shape (K,)
        Radians per pixel.
    count : Tensor, float32, shape (K,)
        1 or 2: modes of the full plane that each stands for.
    spread : Tensor, float32, shape (BINS, K)
        Linear interpolation from bins to modes.
    gather : Tensor, float32, shape (K, BINS)
        Mean over the modes of a bin (weights of `spread`, multiplicities included).
    low : Tensor, int64
        Modes with wavelengths above 16/3 pixels, from which a class of galaxies is told.
    lowest : Tensor, int64
        Modes with wavelengths above 32 pixels.
    """

    side: int
    ky: torch.Tensor
    kx: torch.Tensor
    count: torch.Tensor
    spread: torch.Tensor
    gather: torch.Tensor
    low: torch.Tensor
    lowest: torch.Tensor

    @property
    def shape(self) -> tuple[int, int]:
        """Shape of a half plane of Fourier modes."""
        return self.side, self.side // 2 + 1


@functools.lru_cache(maxsize=16)
def grid_of(side: int, device: str = "cpu") -> Grid:
    """The grid of images of `side` pixels."""
    fy = 2 * math.pi * torch.fft.fftfreq(side)
    fx = 2 * math.pi * torch.fft.rfftfreq(side)
    ky = fy[:, None].expand(side, len(fx)).reshape(-1)
    kx = fx[None, :].expand(side, len(fx)).reshape(-1)
    count = torch.full((side, len(fx)), 2.0)
    count[:, 0] = 1.0
    if side % 2 == 0:
        count[:, -1] = 1.0
    count = count.reshape(-1)
    place = torch.hypot(ky, kx) / (math.sqrt(2) * math.pi) * (BINS - 1)
    below = place.floor().clamp(0, BINS - 2).long()
    share = (place - below).clamp(0, 1)
    spread = torch.zeros(BINS, side * len(fx))
    members = torch.arange(side * len(fx))
    spread[below, members] = 1 - share
    spread[below + 1, members] += share
    weighted = (spread * count).T
    gather = weighted / weighted.sum(0).clamp_min(1e-6)
    reach = torch.maximum(ky.abs(), kx.abs())
    low = (reach <= 2 * math.pi * 12.01 / 64).nonzero()[:, 0]
    lowest = (reach <= 2 * math.pi * 2.01 / 64).nonzero()[:, 0]
    tensors = (ky, kx, count, spread, gather, low, lowest)
    return Grid(side, *(tensor.to(device) for tensor in tensors))
