"""Repair label maps, and refuse those that would ruin a fit; used by every segmenter.

Whatever made a map, three things are never right: a hole in an object, a nucleus apart from its own
envelope, and parts that are no more than a larger object's own light (`fragments`). And some maps
say nothing of the image: a bright target without a label, an object that is mostly sky. They are
refused, and another segmenter takes over.
"""

import math

import numpy as np
from scipy import ndimage

from autofit_ml.images.stamp import Stamp
from autofit_ml.measure import psf_fwhm
from autofit_ml.segmentation.fragments import host_of, join_fragments
from autofit_ml.segmentation.result import Segmentation
from autofit_ml.segmentation.shapes import ellipse_of_footprint, mirrored, pixel_at

__all__ = ["repaired", "why_refused"]

_ENCLOSED = 0.8
"""Share of a nucleus that lies inside the envelope's outline."""

_CENTRAL = 0.25
"""Offset of a nucleus from the middle of its envelope, in semi-major axes, at most."""

_TOUCHING = 2.5
"""Pixels between the brightest pixel of an envelope and its nucleus, at most: an object of its own
has its brightest pixel elsewhere."""

_OPPOSITE = 0.5
"""Least share of a piece of the target that has other pieces opposite to it."""

_BESIDE = 0.15, 0.2
"""Offsets from the target's position, in semi-major axes: of all pieces together, at most, and of
the one that is there, at least."""

_LARGEST = 0.6
"""Share of all pieces in the one at the target's position, at most."""

_COVERS = 0.6
"""Share of the usable pixels that no object covers."""

_LARGE, _SKY = 0.1, 0.5
"""An object with more than this share of the pixels, whose median is below so many times the
scatter of the sky, is sky."""

_BRIGHT = 10.0
"""S/N within the PSF's FWHM of a target that must have a label."""


def repaired(
    labels: np.ndarray,
    image: np.ndarray,
    noise: np.ndarray,
    bad: np.ndarray,
    position: tuple[float, float] | None = None,
    *,
    fragments: bool = True,
) -> np.ndarray:
    """Labels without holes, with nuclei and fragments joined to what they belong to.

    Parameters
    ----------
    labels : ndarray of int, shape (ny, nx)
        0 = sky.
    image, noise : ndarray, shape (ny, nx)
        Sky subtracted, and its noise.
    bad : ndarray, bool, shape (ny, nx)
        True = do not use.
    position : (x, y), optional
        Where the target is expected, pixels.
    fragments : bool
        False where the segmenter has joined these itself.

    Returns
    -------
    ndarray of int, shape (ny, nx)
        Joined labels no longer occur.
    """
    out = _filled(labels)
    if out.max() < 2:
        return out
    _join_nuclei(out, image)
    if fragments:
        out = join_fragments(out, image, noise, bad)
    if position is not None:
        _join_pieces(out, position)
    return out


def _filled(labels: np.ndarray) -> np.ndarray:
    """Sky that is enclosed by objects goes to the one that has most of its border."""
    out = labels.copy()
    parts, _ = ndimage.label(labels == 0)
    border = np.concatenate([parts[0], parts[-1], parts[:, 0], parts[:, -1]])
    outer = set(np.unique(border).tolist())
    for number, window in enumerate(ndimage.find_objects(parts), start=1):
        if number in outer:
            continue
        wide = tuple(slice(part.start - 1, part.stop + 1) for part in window)
        hole = parts[wide] == number
        around = labels[wide][ndimage.binary_dilation(hole) & ~hole]
        out[wide][hole] = np.bincount(around).argmax()
    return out


def _join_nuclei(labels: np.ndarray, image: np.ndarray) -> None:
    """Join nuclei to their envelopes, in place.

    A nucleus lies in the middle of its envelope, and is brighter, or the envelope is the brighter
    the nearer to it.
    """
    windows = ndimage.find_objects(labels)
    area = np.bincount(labels.ravel())
    for small in np.argsort(area, kind="stable").tolist():
        if small == 0 or area[small] == 0:
            continue
        wide = tuple(slice(max(part.start - 1, 0), part.stop + 1) for part in windows[small - 1])
        around = labels[wide][ndimage.binary_dilation(labels[wide] == small)]
        met = np.bincount(around[(around != small) & (around != 0)])
        if not met.any() or area[met.argmax()] < area[small]:
            continue
        large = int(met.argmax())
        rows, columns = np.nonzero(labels == small)
        own = labels == large
        host = host_of(image, own)
        outline = host.outline
        offset = math.hypot(columns.mean() - outline.x, rows.mean() - outline.y)
        inside = outline.distance(columns, rows) < 1
        if offset > _CENTRAL * outline.semi_major or inside.mean() < _ENCLOSED:
            continue
        v, h = np.unravel_index(np.argmax(np.where(own, image, -np.inf)), image.shape)
        near = np.hypot(columns - h, rows - v).min() <= _TOUCHING
        if near or image[rows, columns].max() > image[v, h]:
            labels[rows, columns] = large


def _join_pieces(labels: np.ndarray, position: tuple[float, float]) -> None:
    """Join the pieces of a target that was cut up, in place.

    Where the object at the target's position lies beside it, but several that touch each other lie
    round it and opposite to each other, these are one object.
    """
    here = pixel_at(labels, position)
    if not here:
        return
    islands, _ = ndimage.label(labels > 0, structure=np.ones((3, 3)))
    island = islands == pixel_at(islands, position)
    turned = mirrored(island, *position)
    number = np.bincount(labels[island])
    opposite = np.bincount(labels[island], turned[island]) / np.maximum(number, 1)
    pieces = np.flatnonzero(opposite > _OPPOSITE)
    if len(pieces) < 3 or here not in pieces:
        return
    whole = np.isin(labels, pieces) & island
    outline, own = ellipse_of_footprint(whole), ellipse_of_footprint(labels == here)
    centred = math.dist((outline.x, outline.y), position) < _BESIDE[0] * outline.semi_major
    beside = math.dist((own.x, own.y), position) > _BESIDE[1] * own.semi_major
    if centred and beside and number[here] < _LARGEST * number[pieces].sum():
        labels[whole] = here


def why_refused(stamp: Stamp, found: Segmentation) -> str:
    """Say what is wrong with a segmentation as a whole; "" if it can be used."""
    good, labels = ~stamp.mask, np.asarray(found.labels)
    if not good.any():
        return ""
    image = (stamp.data - found.sky_level) / found.sky_rms
    share = np.bincount(labels[good]) / np.count_nonzero(good)
    share[0] = 0
    if share.max() > _COVERS:
        return "an object covers most of the image"
    for label in np.flatnonzero(share > _LARGE):
        if np.median(image[good & (labels == label)]) < _SKY:
            return "an object is mostly sky"
    (x, y), fwhm = stamp.position, psf_fwhm(stamp.psf)
    v, h = np.ogrid[: labels.shape[0], : labels.shape[1]]
    distance = np.hypot(h - x, v - y)
    core = good & (distance <= max(fwhm, 1.5) / 2)
    if not core.any() or image[core].sum() < _BRIGHT * math.sqrt(np.count_nonzero(core)):
        return ""
    if not found.target:
        return "the target is bright, but has no label"
    near = np.where(good & (distance <= 2 * fwhm), image, -np.inf)
    return "" if labels.flat[near.argmax()] else "the brightest pixel of the target has no label"
