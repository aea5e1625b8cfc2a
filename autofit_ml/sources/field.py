"""A field: images of one piece of sky in several bands, as the inference takes them.

In: frames, read. Out: `Field`: sky-subtracted, scaled tensors for each band, with the map from the
first band's pixels, and PSFs at any position. Patches of many sources are gathered from it at once,
and their light is added to its model.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from scipy import ndimage

from autofit_ml.errors import InputError
from autofit_ml.fitting.pixels import Placement
from autofit_ml.fitting.settings import RefineSettings
from autofit_ml.images.sky_coordinates import pixel_positions, sky_positions
from autofit_ml.images.stamp import PSF, Frame
from autofit_ml.measure import psf_fwhm
from autofit_ml.rendering import FourierPlan, make_plan, psf_modes
from autofit_ml.sources.priors import MAGNITUDE, Band
from autofit_ml.sources.problem import BandPatch

__all__ = ["Field", "FieldBand", "aligned", "make_field", "scaled_band", "scales_of"]

_SAME = 0.02
"""Pixels: grids whose corners agree so well are the same."""

_MESH = 256
"""Pixels between the nodes of the fitted sky; smaller images have one constant."""


@dataclass(frozen=True)
class FieldBand:
    """One image of a field.

    Attributes
    ----------
    band : Band
        Its zero point is that of the scaled unit.
    frame : Frame
    data, root : Tensor, float32, (ny, nx)
        Scaled, sky subtracted; 1/sigma, 0 where masked.
    model : Tensor, float32, (ny, nx)
        Light of all sources, scaled; changed in place.
    scale : float
        Image units per scaled unit.
    electrons : float
        Per scaled unit; NaN if unknown.
    psf : PSF
        In the middle.
    rings : ndarray, (h, w)
        Error of the PSF moved by a part of a pixel, in its peak.
    aligned : bool
        Its pixels are the first band's.
    flux : int
        Which of the fluxes it shows: images of one band share theirs.
    """

    band: Band
    frame: Frame
    data: torch.Tensor
    root: torch.Tensor
    model: torch.Tensor
    scale: float
    electrons: float
    psf: PSF
    rings: np.ndarray
    aligned: bool
    flux: int
    _modes: dict[tuple[float, ...], torch.Tensor] = field(
        default_factory=dict, repr=False, compare=False
    )

    @property
    def fwhm(self) -> float:
        """FWHM of its PSF, pixels."""
        return psf_fwhm(self.psf)

    def subtract_rest(self) -> np.ndarray:
        """Subtract the sky that fits best beside the sources; that sky, image units, (ny, nx).

        Linear between the nodes of a mesh, by least squares over the pixels without much light. A
        sky from medians is low by a part of an electron (photons are skew), and high by the wings
        of sources; this one is neither.
        """
        rest = ((self.data - self.model) * self.root).numpy()
        quiet = ((self.root > 0) & (self.model * self.root < 0.1)).numpy() & (abs(rest) < 5)
        weight = np.where(quiet, self.root.numpy(), np.float32(0))
        down, along = (_hats(n) for n in rest.shape)
        right = down.T @ (rest * weight) @ along
        square = weight * weight
        pairs = [(i, k) for i in range(down.shape[1]) for k in (i, i + 1) if k < down.shape[1]]
        size = right.size
        blocks = np.zeros((down.shape[1], along.shape[1]) * 2)
        for i, k in pairs:
            line = (down[:, i] * down[:, k]) @ square
            blocks[i, :, k, :] = blocks[k, :, i, :] = (along.T * line) @ along
        matrix = blocks.reshape(size, size)
        total = matrix.sum()
        mean = right.sum() / total if total > 0 else 0.0
        left = right.ravel() - matrix @ np.full(size, mean)
        # A node without pixels has the others' mean.
        ridge = np.eye(size) * max(1e-6 * total / size, 1e-12)
        nodes = mean + np.linalg.solve(matrix + ridge, left)
        sky = (down @ nodes.reshape(right.shape) @ along.T).astype(np.float32)
        self.data.sub_(torch.as_tensor(sky))
        return sky * np.float32(self.scale)

    def unsure(self, side: int) -> torch.Tensor:
        """Error of the PSF moved by parts of a pixel, in its peak, (side, side).

        Rings of an undersampled PSF, that is: without it bright stars are galaxies small enough to
        smooth them.
        """
        small = self.rings
        out = np.zeros((side, side), np.float32)
        (y, v), (x, u) = (_common(side, size) for size in small.shape)
        out[y, x] = small[v, u]
        return torch.as_tensor(out)

    def plan(self, side: int) -> FourierPlan:
        """Plan that draws patches of `side` pixels."""
        shape, oversampling = self.psf.data.shape, self.psf.oversampling
        return make_plan((side, side), shape, oversampling, RefineSettings().compact)

    def modes(self, side: int, x: np.ndarray, y: np.ndarray) -> torch.Tensor:
        """PSFs at positions here, as `rendering.psf_modes`, (n, modes) or the same for all (1,)."""
        if self.frame.varying_psf is None:
            x, y = np.zeros(1), np.zeros(1)
        keys = [(side, float(a), float(b)) for a, b in zip(x, y, strict=True)]
        new = [k for k, key in enumerate(keys) if key not in self._modes]
        if new:
            images = torch.as_tensor(np.array(self.frame.psfs_at(x[new], y[new])))
            contains = torch.full((len(new),), self.psf.has_pixel)
            made = psf_modes(self.plan(side), images, contains)
            self._modes.update(zip([keys[k] for k in new], made, strict=True))
        return torch.stack([self._modes[key] for key in keys])


def _hats(length: int) -> np.ndarray:
    """Linear functions of a mesh along one axis, (length, nodes); their sum is 1."""
    cells = length // _MESH
    if cells == 0:
        return np.ones((length, 1))
    place = np.linspace(0, cells, length)[:, None] - np.arange(cells + 1)
    return np.maximum(1 - abs(place), 0.0)


def _rings(psf: PSF) -> np.ndarray:
    """Difference of two ways to move a PSF by half a pixel, in its peak; rms of three moves."""
    image = np.asarray(psf.data, float)
    out = np.zeros(image.shape)
    if psf.oversampling == 1:
        padded, inner = np.pad(image, 8), (slice(8, -8), slice(8, -8))
        for step in ((0.5, 0.0), (0.0, 0.5), (0.5, 0.5)):
            moved = np.fft.ifft2(ndimage.fourier_shift(np.fft.fft2(padded), step)).real
            out += (moved - ndimage.shift(padded, step))[inner] ** 2 / 3
    return np.sqrt(out) / image.max()


def _common(side: int, other: int) -> tuple[slice, slice]:
    """Places in squares of both sides that lie on each other when their middles do."""
    half = min(side // 2, other // 2)
    width = min(side - side // 2, other - other // 2)
    return tuple(slice(n // 2 - half, n // 2 + width) for n in (side, other))  # type: ignore[return-value]


@dataclass(frozen=True)
class Field:
    """Images of one piece of sky, the first being the one whose pixels positions are given in."""

    bands: tuple[FieldBand, ...]

    @property
    def fluxes(self) -> tuple[FieldBand, ...]:
        """The first image of each band."""
        return tuple({band.flux: band for band in reversed(self.bands)}[k] for k in self._numbers)

    @property
    def _numbers(self) -> range:
        return range(1 + max(band.flux for band in self.bands))

    @property
    def first(self) -> FieldBand:
        """The reference."""
        return self.bands[0]

    @property
    def shape(self) -> tuple[int, int]:
        """(ny, nx) of the first band."""
        return self.first.frame.data.shape

    def positions(self, b: int, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Positions in another band of positions in the first."""
        if self.bands[b].aligned:
            return x, y
        here, there = self.first.frame.wcs, self.bands[b].frame.wcs
        return pixel_positions(there, *sky_positions(here, x, y))

    def patches(
        self, side: int, anchors: np.ndarray, light: Sequence[torch.Tensor] | torch.Tensor
    ) -> tuple[tuple[BandPatch, ...], list[torch.Tensor]]:
        """Pixels around sources.

        Parameters
        ----------
        side : int
            Of the patches.
        anchors : ndarray of int, (A, 2)
            x and y of the sources' pixels in the first band.
        light : Tensor, (bands, A, side, side), or sequence of its planes
            What the model has of each source itself; what drawing it may be off by counts as noise.

        Returns
        -------
        patches : tuple of BandPatch
        corners : list of Tensor, int64, (A, 2)
            x and y of the patches' first pixels in each band.
        """
        patches, corners = [], []
        x, y = anchors.T.astype(float)
        for b, one in enumerate(self.bands):
            here = np.stack(self.positions(b, x, y), 1)
            matrix = np.broadcast_to(np.eye(2), (len(x), 2, 2))
            if not one.aligned:
                along = np.stack(self.positions(b, x + 1, y), 1) - here
                across = np.stack(self.positions(b, x, y + 1), 1) - here
                matrix = np.stack([along, across], 2)
            here = np.nan_to_num(here, nan=-1e6)
            corner = np.rint(here).astype(np.int64) - side // 2
            at = torch.as_tensor(corner)
            inside, rows, columns = _window(at, side, one.data.shape)
            root = one.root[rows, columns] * inside
            unsure = light[b].amax((1, 2), keepdim=True) * one.unsure(side)
            counted = 1 / (1 + (unsure * root).square())
            root = root * counted.sqrt()
            others = (one.model[rows, columns] - light[b]) * inside
            patches.append(
                BandPatch(
                    one.plan(side),
                    one.modes(side, *here.T),
                    one.data[rows, columns],
                    root,
                    others,
                    counted,
                    torch.full((len(x),), one.electrons, dtype=torch.float64),
                    Placement(
                        torch.as_tensor(np.array(matrix)),
                        torch.as_tensor(here - corner),
                    ),
                    one.flux,
                )
            )
            corners.append(at)
        return tuple(patches), corners

    def add(self, b: int, corner: torch.Tensor, change: torch.Tensor) -> None:
        """Add light (A, side, side) on patches to a band's model."""
        one = self.bands[b]
        inside, rows, columns = _window(corner, change.shape[-1], one.data.shape)
        one.model.index_put_(
            (rows.expand(change.shape), columns.expand(change.shape)),
            change * inside,
            accumulate=True,
        )


def _window(
    corner: torch.Tensor, side: int, shape: tuple[int, ...]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Mask of patch pixels that lie inside (A, side, side); their rows and columns, clipped."""
    steps = torch.arange(side)
    rows, columns = corner[:, 1, None] + steps, corner[:, 0, None] + steps
    ny, nx = shape
    good = ((rows >= 0) & (rows < ny))[:, :, None] & ((columns >= 0) & (columns < nx))[:, None, :]
    return good.float(), rows.clamp(0, ny - 1)[:, :, None], columns.clamp(0, nx - 1)[:, None, :]


def make_field(
    frames: Sequence[Frame],
    names: Sequence[str],
    background: Sequence[np.ndarray | float],
) -> Field:
    """A field of frames.

    Parameters
    ----------
    frames : sequence of Frame
        One a band, the reference first, or several (epochs), which share a flux.
    names : sequence of str
        Of their bands.
    background : sequence of ndarray, (ny, nx), or float
        Sky of each, image units.

    Raises
    ------
    InputError
        A frame without a PSF, or grids that cannot be related.
    """
    bands: list[FieldBand] = []
    known = list(dict.fromkeys(names))
    scales = scales_of(frames, names)
    for frame, name, sky, scale in zip(frames, names, background, scales, strict=True):
        ny, nx = frame.data.shape
        good = ~frame.mask
        data = np.where(good, (frame.data - sky) / scale, 0.0).astype(np.float32)
        root = np.where(good, scale / frame.sigma, 0.0).astype(np.float32)
        psf = frame.psf_at((nx - 1) / 2, (ny - 1) / 2)
        bands.append(
            FieldBand(
                scaled_band(frame, name, scale),
                frame,
                torch.as_tensor(data),
                torch.as_tensor(root),
                torch.zeros(data.shape),
                scale,
                frame.gain * scale,
                psf,
                _rings(psf),
                aligned(frames[0], frame),
                known.index(name),
            )
        )
    return Field(tuple(bands))


def scales_of(frames: Sequence[Frame], names: Sequence[str]) -> list[float]:
    """Image units per scaled unit: the usual noise, the same flux in all epochs of a band."""
    firsts: dict[str, tuple[float, float]] = {}
    out = []
    for frame, name in zip(frames, names, strict=True):
        if name not in firsts:
            firsts[name] = float(np.median(frame.sigma[~frame.mask])), frame.zeropoint
        scale, zeropoint = firsts[name]
        brighter = (frame.zeropoint - zeropoint) / MAGNITUDE
        out.append(scale * math.exp(brighter if math.isfinite(brighter) else 0.0))
    return out


def scaled_band(frame: Frame, name: str, scale: float) -> Band:
    """A band whose fluxes are in so many image units."""
    return Band(name, frame.zeropoint - MAGNITUDE * math.log(scale))


def aligned(first: Frame, other: Frame) -> bool:
    """True if pixels are the same.

    Raises
    ------
    InputError
        Nothing tells how they are related.
    """
    if first is other:
        return True
    same = first.data.shape == other.data.shape
    if first.wcs is None or other.wcs is None:
        if not same:
            raise InputError(
                f"without a WCS its pixels cannot be related to those of {first.file}",
                "give both a WCS, or put them on one grid",
                other.file,
            )
        return True
    ny, nx = first.data.shape
    x, y = np.array([0.0, nx - 1, 0, nx - 1]), np.array([0.0, 0, ny - 1, ny - 1])
    there = pixel_positions(other.wcs, *sky_positions(first.wcs, x, y))
    return same and bool(np.abs(np.stack(there) - np.stack([x, y])).max() < _SAME)
