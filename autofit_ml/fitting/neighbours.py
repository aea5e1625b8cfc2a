"""Neighbours that are fitted with a target, and the starts of their fits.

A neighbour whose footprint comes near that of the target is fitted simultaneously (a Sérsic
profile, or a point source where it looks like one); all others stay masked, and so do those whose
light does not matter beside the target's.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from autofit_ml.images.stamp import Stamp
from autofit_ml.initialisation.moments import start_from_moments
from autofit_ml.measure import psf_fwhm
from autofit_ml.segmentation.result import Segmentation

__all__ = ["Neighbour", "find_neighbours", "significant"]

_POINT_RE, _STAR_RE = 0.25, 0.5
"""A start with re under this share of the PSF's FWHM is a point source: of any object, and of one
that the segmenter calls a star. It may be wrong, and a galaxy fitted as a star spoils the target,
which a star fitted as a small galaxy does not."""

_LEAST_SHARE = 0.01
"""A neighbour with less light in its footprint than this share of the target's stays masked: what
reaches beyond its mask is nothing to the target, and its own fit would wander."""


_SIGNIFICANT = 5.0
"""A neighbour's flux in units of its error below which it is dropped: a detected one has more, a
fragment of the target that was taken for a neighbour has not."""


@dataclass(frozen=True)
class Neighbour:
    """A contaminant that is fitted along.

    Attributes
    ----------
    label : int
        In the segmentation.
    profile : str
        "sersic" or "point".
    start : ndarray, (8,)
        x, y, flux, re, n, q, pa, sky.
    """

    label: int
    profile: str
    start: np.ndarray


def find_neighbours(
    stamp: Stamp, segmentation: Segmentation, largest: int
) -> tuple[list[Neighbour], np.ndarray]:
    """Neighbours that overlap with the target, and what remains to be masked.

    Parameters
    ----------
    stamp : Stamp
    segmentation : Segmentation
    largest : int
        At most so many, the brightest ones.

    Returns
    -------
    neighbours : list of Neighbour
        Brightest first.
    contaminants : ndarray, bool, (ny, nx)
        Pixels of all others.
    """
    labels, target = np.asarray(segmentation.labels), segmentation.target
    contaminants = np.asarray(segmentation.contaminants, dtype=bool)
    others = [int(label) for label in np.unique(labels) if label not in (0, target)]
    if not others or not target or largest < 1:
        return [], contaminants
    reach = 1.0 + psf_fwhm(stamp.psf)
    near = ndimage.distance_transform_edt(labels != target) <= reach
    light = stamp.data.astype(np.float64) - segmentation.sky_level
    least = _LEAST_SHARE * light[labels == target].sum()
    touching = [
        label
        for label in others
        if np.any(near & (labels == label)) and light[labels == label].sum() >= least
    ]
    if not touching:
        return [], contaminants
    # Each masked pixel belongs to the nearest contaminant.
    foreign = (labels != 0) & (labels != target)
    nearest = ndimage.distance_transform_edt(~foreign, return_distances=False, return_indices=True)
    owner = labels[tuple(nearest)]
    found = []
    for label in touching:
        start = _start(stamp, segmentation, label, owner, contaminants)
        if start is None:
            continue
        profile = "sersic"
        limit = _STAR_RE if segmentation.classes.get(label) == "star" else _POINT_RE
        if start[3] < limit * psf_fwhm(stamp.psf):
            profile = "point"
        found.append(Neighbour(label, profile, start))
    found.sort(key=lambda item: -item.start[2])
    found = found[:largest]
    fitted = np.isin(owner, [item.label for item in found])
    return found, contaminants & ~fitted


def _start(
    stamp: Stamp,
    segmentation: Segmentation,
    label: int,
    owner: np.ndarray,
    contaminants: np.ndarray,
) -> np.ndarray | None:
    """Moments of a neighbour, with everything else masked."""
    labels = np.asarray(segmentation.labels)
    mine = labels == label
    if mine.sum() < 4:
        return None
    masked = (contaminants & (owner != label)) | (labels == segmentation.target)
    turned = dataclasses.replace(
        segmentation, target=label, contaminants=masked & ~mine, blend_fraction=0.0
    )
    y, x = np.nonzero(mine)
    light = np.clip(stamp.data[mine] - segmentation.sky_level, 1e-30, None).astype(np.float64)
    centre = {
        "x": float(np.average(x, weights=light)),
        "y": float(np.average(y, weights=light)),
    }
    values = start_from_moments([stamp.replace(**centre)], [turned]).values[0]
    return values if np.isfinite(values).all() and values[2] > 0 else None


def significant(
    neighbours: Sequence[Neighbour],
    names: Sequence[str],
    values: np.ndarray,
    errors: np.ndarray,
) -> tuple[Neighbour, ...]:
    """The neighbours whose light in any image is significant in a fit.

    Parameters
    ----------
    neighbours : sequence of Neighbour
        In the order in which they were fitted.
    names : sequence of str, (V,)
    values, errors : ndarray, (V,)
        Of the fit.
    """
    kept = []
    for number, neighbour in enumerate(neighbours, start=1):
        key = f"neighbour_{number}.flux"
        places = [i for i, name in enumerate(names) if name.partition("[")[0] == key]
        with np.errstate(invalid="ignore", divide="ignore"):
            ratio = values[places] / errors[places]
        known = ratio[np.isfinite(ratio)]
        if known.size == 0 or known.max() >= _SIGNIFICANT:
            kept.append(neighbour)
    return tuple(kept)
