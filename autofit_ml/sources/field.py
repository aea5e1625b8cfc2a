"""A field: images of one piece of sky in several bands, as the inference takes them.

In: frames, read. Out: `Field`: sky-subtracted, scaled tensors for each band, with the map from the
first band's pixels, and PSFs at any position. Patches of many sources are gathered from it at once,
and their light is added to its model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from autofit_ml.errors import InputError
from autofit_ml.fitting.pixels import Placement
from autofit_ml.fitting.settings import RefineSettings
from autofit_ml.images.sky_coordinates import pixel_positions, sky_positions
from autofit_ml.images.stamp import PSF, Frame
from autofit_ml.measure import psf_fwhm
from autofit_ml.rendering import FourierPlan, make_plan, psf_modes
from autofit_ml.sources.priors import MAGNITUDE, Band
from autofit_ml.sources.problem import BandPatch

__all__ = ["Field", "FieldBand", "PSFAt", "make_field"]

PSFAt = Callable[[float, float], PSF]
"""PSF at a position of a frame, 0-based pixels."""

_SAME = 0.02
"""Pixels: grids whose corners agree so well are the same."""


@dataclass(frozen=True)
class FieldBand:
    """One band of a field.

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
    psf_at : callable or None
        None: `psf` everywhere.
    psf : PSF
        In the middle.
    aligned : bool
        Its pixels are the first band's.
    """

    band: Band
    frame: Frame
    data: torch.Tensor
    root: torch.Tensor
    model: torch.Tensor
    scale: float
    electrons: float
    psf: PSF
    psf_at: PSFAt | None
    aligned: bool
    _modes: dict[int, torch.Tensor] = field(default_factory=dict, repr=False, compare=False)

    @property
    def fwhm(self) -> float:
        """Of its PSF, pixels."""
        return psf_fwhm(self.psf)

    def plan(self, side: int) -> FourierPlan:
        """What draws patches of `side` pixels."""
        shape, oversampling = self.psf.data.shape, self.psf.oversampling
        return make_plan((side, side), shape, oversampling, RefineSettings().compact)

    def modes(self, side: int, x: np.ndarray, y: np.ndarray) -> torch.Tensor:
        """PSFs at positions here, as `rendering.psf_modes`, (n, modes) or the same for all (1,)."""
        if self.psf_at is None:
            if side not in self._modes:
                self._modes[side] = self._modes_of(side, [self.psf])
            return self._modes[side]
        return self._modes_of(side, [self.psf_at(*at) for at in zip(x, y, strict=True)])

    def _modes_of(self, side: int, psfs: Sequence[PSF]) -> torch.Tensor:
        shape = self.psf.data.shape
        images = torch.as_tensor(np.stack([_fitted(psf.data, shape) for psf in psfs]))
        contains = torch.tensor([psf.has_pixel for psf in psfs])
        return psf_modes(self.plan(side), images, contains)


@dataclass(frozen=True)
class Field:
    """Images of one piece of sky, the first being the one whose pixels positions are given in."""

    bands: tuple[FieldBand, ...]

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
        self, side: int, anchors: np.ndarray, light: Sequence[torch.Tensor]
    ) -> tuple[tuple[BandPatch, ...], list[torch.Tensor]]:
        """Pixels around sources.

        Parameters
        ----------
        side : int
            Of the patches.
        anchors : ndarray of int, (A, 2)
            x and y of the sources' pixels in the first band.
        light : sequence of Tensor, (A, side, side)
            What the model has of each source itself, for each band.

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
            others = (one.model[rows, columns] - light[b]) * inside
            patches.append(
                BandPatch(
                    one.plan(side),
                    one.modes(side, *here.T),
                    one.data[rows, columns],
                    root,
                    others,
                    torch.full((len(x),), one.electrons, dtype=torch.float64),
                    Placement(
                        torch.as_tensor(np.array(matrix)),
                        torch.as_tensor(here - corner),
                    ),
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
    """Whether pixels of patches lie inside (A, side, side); their rows and columns, clipped."""
    steps = torch.arange(side)
    rows, columns = corner[:, 1, None] + steps, corner[:, 0, None] + steps
    ny, nx = shape
    good = ((rows >= 0) & (rows < ny))[:, :, None] & ((columns >= 0) & (columns < nx))[:, None, :]
    return good.float(), rows.clamp(0, ny - 1)[:, :, None], columns.clamp(0, nx - 1)[:, None, :]


def make_field(
    frames: Sequence[Frame],
    names: Sequence[str],
    background: Sequence[np.ndarray],
    psf_at: Sequence[PSFAt | None],
) -> Field:
    """A field of frames.

    Parameters
    ----------
    frames : sequence of Frame
        One a band, the reference first.
    names : sequence of str
        Of the bands.
    background : sequence of ndarray, (ny, nx)
        Sky of each, image units.
    psf_at : sequence of callable or None
        Where the PSF varies.

    Raises
    ------
    InputError
        A frame without a PSF, or grids that cannot be related.
    """
    bands = []
    for frame, name, sky, at in zip(frames, names, background, psf_at, strict=True):
        ny, nx = frame.data.shape
        psf = at((nx - 1) / 2, (ny - 1) / 2) if at is not None else frame.psf
        if psf is None:
            raise InputError("the frame has no PSF", "give --psf FILE or --psf-fwhm", frame.file)
        good = ~frame.mask
        scale = float(np.median(frame.sigma[good]))
        data = np.where(good, (frame.data - sky) / scale, 0.0).astype(np.float32)
        root = np.where(good, scale / frame.sigma, 0.0).astype(np.float32)
        zeropoint = frame.zeropoint - MAGNITUDE * math.log(scale)
        bands.append(
            FieldBand(
                Band(name, zeropoint),
                frame,
                torch.as_tensor(data),
                torch.as_tensor(root),
                torch.zeros(data.shape),
                scale,
                frame.gain * scale,
                psf,
                at,
                _aligned(frames[0], frame),
            )
        )
    return Field(tuple(bands))


def _aligned(first: Frame, other: Frame) -> bool:
    """True if pixels are the same; an error where nothing tells how they are related."""
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


def _fitted(image: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """A PSF image cut, or filled with zeros, about its middle to a shape of the same parity."""
    out = np.zeros(shape, np.float32)
    cut = [min(n, m) for n, m in zip(image.shape, shape, strict=True)]
    cut = [n - (n - m) % 2 for n, m in zip(cut, shape, strict=True)]
    here = tuple(slice((m - n) // 2, (m - n) // 2 + n) for n, m in zip(cut, shape, strict=True))
    from_ = tuple(
        slice((m - n) // 2, (m - n) // 2 + n) for n, m in zip(cut, image.shape, strict=True)
    )
    out[here] = image[from_]
    return out
