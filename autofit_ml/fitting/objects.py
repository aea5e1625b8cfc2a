"""An object to fit: its images, and how their pixels lie to each other."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from autofit_ml.errors import InputError
from autofit_ml.fitting.neighbours import Neighbour, find_neighbours
from autofit_ml.images.stamp import Stamp
from autofit_ml.segmentation.result import Segmentation

if TYPE_CHECKING:
    from autofit_ml.fitting.known import Known

__all__ = ["SceneObject", "affine_between", "join_images", "object_of"]


@dataclass(frozen=True)
class SceneObject:
    """One object in one or several images; the first is the reference.

    Attributes
    ----------
    stamps : tuple of Stamp or None
        None where an image is missing (a band that does not cover the object).
    segmentation : Segmentation
        Of the first image.
    maps : tuple of ndarray, (2, 3)
        From pixels (x, y, 1) of the first image to those of each.
    neighbours : tuple of Neighbour or None
        Contaminants that are fitted along, where they were looked for already
        (`with_neighbours`).
    left_over : ndarray, bool, or None
        Then: pixels of all other contaminants, in the first image.
    known : Known or None
        What is known of its parameters from elsewhere.
    """

    stamps: tuple[Stamp | None, ...]
    segmentation: Segmentation
    maps: tuple[np.ndarray, ...]
    neighbours: tuple[Neighbour, ...] | None = None
    left_over: np.ndarray | None = None
    known: Known | None = None

    @property
    def masked(self) -> np.ndarray:
        """Contaminants that are left out of the fit, in the first image."""
        if self.left_over is not None:
            return self.left_over
        return np.asarray(self.segmentation.contaminants, dtype=bool)

    def with_neighbours(self, largest: int) -> SceneObject:
        """The same, with the neighbours that overlap with the target (at most so many).

        As it is where they were looked for already.
        """
        if self.neighbours is not None:
            return self
        found, masked = find_neighbours(self.reference, self.segmentation, largest)
        # One order of kinds, so that objects can share a layout.
        found.sort(key=lambda item: item.profile)
        return dataclasses.replace(self, neighbours=tuple(found), left_over=masked)

    @property
    def reference(self) -> Stamp:
        """The first image."""
        stamp = self.stamps[0]
        if stamp is None:
            raise ValueError("an object without its reference image")
        return stamp

    def contaminants(self, image: int, mask: np.ndarray) -> np.ndarray:
        """A mask (ny, nx) of the first image in the pixels of another."""
        stamp = self.stamps[image]
        if image == 0 or stamp is None:
            return mask
        return carried(mask, self.maps[image], stamp.shape)


IDENTITY = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])

_SAME_PLACE = 1e-5
"""Pixels up to which two WCS put the pixels of a stamp in the same places: rounding."""


def object_of(stamp: Stamp, segmentation: Segmentation) -> SceneObject:
    """An object with one image."""
    return SceneObject((stamp,), segmentation, (IDENTITY,))


def join_images(stamps: Sequence[Stamp | None], segmentation: Segmentation) -> SceneObject:
    """Several images of one object.

    Parameters
    ----------
    stamps : sequence of Stamp or None
        The first must be there.
    segmentation : Segmentation
        Of the first.

    Raises
    ------
    InputError
        The images' pixels cannot be related: no WCS and different shapes, or no overlap.
    """
    reference = stamps[0]
    if reference is None:
        raise InputError("the reference image is missing", "name a band that all objects have")
    maps = []
    for stamp in stamps:
        maps.append(IDENTITY if stamp is None else affine_between(reference, stamp))
    return SceneObject(tuple(stamps), segmentation, tuple(maps))


def affine_between(reference: Stamp, other: Stamp) -> np.ndarray:
    """Local affine map from the pixels of one stamp to those of another, (2, 3).

    By their WCS about the reference's target; by identical grids where neither has one.

    Raises
    ------
    InputError
        No WCS and different shapes, or the target lies outside the other image.
    """
    if reference is other:
        return IDENTITY
    if reference.wcs is None or other.wcs is None:
        same_scale = not (
            abs(reference.pixel_scale - other.pixel_scale) > 1e-3 * reference.pixel_scale
        )
        if reference.shape != other.shape or not same_scale:
            raise InputError(
                f"{other.file or other.id}: without a WCS its pixels cannot be related to those of "
                f"{reference.file or reference.id}",
                "give both a WCS, or put them on one grid",
            )
        return IDENTITY
    x, y = reference.position
    points = np.array([[x, y], [x + 1.0, y], [x, y + 1.0]])
    sky = reference.wcs.all_pix2world(points, 0)
    try:
        there = other.wcs.all_world2pix(sky, 0)
    except Exception as error:  # astropy: no convergence far outside of a distorted field
        raise InputError(
            f"{other.file or other.id}: its WCS does not reach the target ({error})",
            "check the WCS, or leave this image out",
        ) from None
    matrix = np.stack([there[1] - there[0], there[2] - there[0]], axis=1)
    offset = there[0] - matrix @ points[0]
    ny, nx = other.shape
    inside = -0.5 <= there[0][0] <= nx - 0.5 and -0.5 <= there[0][1] <= ny - 0.5
    if not np.isfinite(matrix).all() or not inside:
        raise InputError(
            f"{other.file or other.id} does not overlap with {reference.file or reference.id} "
            "at the target",
            "check the WCS, or leave this image out",
        )
    affine = np.column_stack([matrix, offset])
    corners = np.array([[u, v, 1.0] for u in (0, nx) for v in (0, ny)]).T
    same = np.abs(affine @ corners - corners[:2]).max() < _SAME_PLACE
    return IDENTITY if same else affine


def carried(mask: np.ndarray, affine: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """A mask in another image's pixels, by the nearest pixel; False outside."""
    if mask.shape == shape and np.array_equal(affine, IDENTITY):
        return mask
    inverse = np.linalg.inv(affine[:, :2])
    y, x = np.mgrid[: shape[0], : shape[1]]
    back = inverse @ (np.stack([x.ravel(), y.ravel()]) - affine[:, 2:])
    column, row = np.rint(back).astype(np.int64)
    ny, nx = mask.shape
    inside = (column >= 0) & (column < nx) & (row >= 0) & (row < ny)
    out = np.zeros(shape[0] * shape[1], dtype=bool)
    out[inside] = mask[row[inside], column[inside]]
    return out.reshape(shape)


def scale_of(affine: np.ndarray) -> float:
    """Pixels there per pixel here."""
    return math.sqrt(abs(float(np.linalg.det(affine[:, :2]))))
