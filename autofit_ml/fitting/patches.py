"""Patches: the part of the stamp on which a neighbour's light is drawn.

A galaxy of 3 pixels in a stamp of 300 fills a hundredth of it. Where its profile and the wings of
the PSF have fallen under a small share of the noise at the border of a smaller square, it is drawn
in that square, and is zero outside. The target is always drawn on the whole stamp.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from autofit_ml.profiles.sersic import sersic_brightness
from autofit_ml.scenes.layout import Layout

__all__ = ["light_beyond", "patch_corners", "patch_sizes", "worth_patches"]

_SIZES = np.array([32, 48, 64, 96, 128, 192, 256, 384])
_SMALLEST_STAMP, _LARGEST = 192, 0.75
"""Shorter side of a stamp from which patches pay (under it calls cost more than pixels do), and the
largest patch in units of it."""

_FAINT = 5e-3
"""Brightness at the border of a patch, in units of the noise, under which light has ended."""


def worth_patches(shape: tuple[int, int]) -> bool:
    """True if patches pay in a stamp of (ny, nx) pixels."""
    return min(shape) >= _SMALLEST_STAMP


def light_beyond(psf: np.ndarray, oversampling: int, radius: int) -> np.ndarray:
    """Largest light of a point source in a pixel beyond 0, 1 ... `radius` pixels, (radius + 1,)."""
    y, x = (np.arange(n) - (n - 1) / 2 for n in psf.shape)
    ring = np.minimum(np.hypot(y[:, None], x) / oversampling, radius).astype(int)
    largest = np.zeros(radius + 1)
    np.maximum.at(largest, ring, np.abs(psf) * oversampling**2)
    return np.maximum.accumulate(largest[::-1])[::-1]


def patch_sizes(
    layout: Layout,
    values: Mapping[str, np.ndarray],
    stretch: np.ndarray,
    beyond: Sequence[np.ndarray],
    noise: np.ndarray,
    shape: tuple[int, int],
    compact_re: float,
    n_neighbours: int,
) -> np.ndarray:
    """Side of the smallest patch that holds the light of each component; 0: the whole stamp.

    Parameters
    ----------
    layout : Layout
    values : mapping
        Catalogue values "component.parameter" -> (B,), sizes in pixels of the first image.
    stretch : ndarray, (B,)
        Pixels here per pixel of the first image.
    beyond : sequence of ndarray, (B,)
        `light_beyond` of the PSFs.
    noise : ndarray, (B,)
        Typical sigma of a pixel, in the unit of the fluxes.
    shape : (ny, nx)
    compact_re : float
        Largest re, over the side of the patch, that the compact renderer serves.
    n_neighbours : int
        How many of the layout's last components have patches.

    Returns
    -------
    ndarray, int, (B, components)
    """
    b, count = len(noise), len(layout.spans)
    size = np.zeros((b, count), dtype=int)
    sizes = _SIZES[_LARGEST * min(shape) >= _SIZES]
    for k in range(count - n_neighbours, count):
        component = layout.spans[k].component
        name, kind = component.name, component.profile.name
        flux = np.abs(values[f"{name}.flux"]) / noise
        re = values[f"{name}.re"] * stretch if kind == "sersic" else np.zeros(b)
        for side in sizes:
            reach = side / 2 - 2.0  # the corners are whole pixels, and the position moves
            at = np.maximum(reach - re, 0).astype(int)
            wings = np.array([one[min(j, len(one) - 1)] for one, j in zip(beyond, at, strict=True)])
            ends = (size[:, k] == 0) & (flux * wings < _FAINT)
            if kind == "sersic":
                q, n = values[f"{name}.q"], values[f"{name}.n"]
                edge = flux / (q * re**2) * sersic_brightness(reach / re, n)
                ends &= (edge < _FAINT) & (re < compact_re * side * np.minimum(q / 0.4, 1))
            size[ends, k] = side
    return size


def patch_corners(position: np.ndarray, size: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """x and y of the first pixels of patches about positions, (B, components, 2)."""
    corner = np.round(position - size[..., None] / 2 + 0.5).astype(int)
    last = np.array(shape[::-1]) - size[..., None]
    return np.clip(corner, 0, last) * (size > 0)[..., None]
