"""Segmentation by the Mask R-CNN: from stamps to instances to a `Segmentation`.

Masks stay 28 x 28 pixels a box until they are pasted, one box at a time, into the label image;
where two overlap, the pixel goes to the instance whose mask is surer of it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage
from torch.nn import functional

from autofit_ml.errors import InputError
from autofit_ml.images.stamp import Stamp
from autofit_ml.measure import mode_of_sky, psf_fwhm
from autofit_ml.segmentation.fragments import join_fragments
from autofit_ml.segmentation.network import CLASSES, DIVISIBLE, SegmentNetwork, prepare
from autofit_ml.segmentation.pieces import LARGE, Piece, bin_image, draw, pieces_of, with_large
from autofit_ml.segmentation.regions import nms
from autofit_ml.segmentation.result import Segmentation
from autofit_ml.segmentation.shapes import grow_neighbours
from autofit_ml.segmentation.summary import blend_fraction, ellipses_of_labels, sky_outside
from autofit_ml.weights.choice import network_name

__all__ = ["Instances", "MaskRCNNSettings", "find_instances", "segment_cut_out", "segment_maskrcnn"]


USUAL_FWHM = 3.0
"""Taken for the seeing, pixels, where there is no PSF."""

LEAST_SCATTER = 0.1
"""Scatter of the sky, units of the noise map's median, that an image is taken to have at least."""

NARROWEST = 1.5
"""Seeing, pixels, that a binned image is taken to have at least: it is not resampled."""


@dataclass(frozen=True)
class MaskRCNNSettings:
    """How detections become a segmentation.

    Attributes
    ----------
    score : float
        Lowest score of an instance.
    mask : float
        Lowest probability of an instance's pixel.
    same_box : float
        Boxes that overlap by more (intersection over union) are one object.
    min_pixels : int
        Smaller instances are dropped.
    search_radius : float
        How far from the expected position the target may lie, pixels; at least the PSF's FWHM.
    grow_relative, grow_minimum : float
        As in `SepSettings`.
    batch_size : int
        Stamps that go through the network together.
    binnings : tuple of int
        Stamps with large objects are looked at binned, too (see `pieces`).
    """

    score: float = 0.5
    mask: float = 0.5
    same_box: float = 0.5
    min_pixels: int = 4
    search_radius: float = 6.0
    grow_relative: float = 0.4
    grow_minimum: float = 1.0
    batch_size: int = 16
    binnings: tuple[int, ...] = (2, 4)


@dataclass(frozen=True)
class Instances:
    """Detections in one image.

    Attributes
    ----------
    boxes : ndarray, float32, shape (k, 4)
        (x0, y0, x1, y1), pixels of the image.
    scores : ndarray, float32, shape (k,)
    classes : ndarray, int, shape (k,)
        Positions in `CLASSES`.
    labels : ndarray, int32, shape (ny, nx)
        0, or instance i + 1.
    sources : ndarray of int, shape (k,), or None
        -b for those that were found in the image binned b x b; None: none was.
    """

    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray
    labels: np.ndarray
    sources: np.ndarray | None = None

    def pieces(self) -> list[Piece]:
        """The same as masks in boxes."""
        out = list(pieces_of(self.labels, self.scores, self.classes == 2))
        if self.sources is None:
            return out
        return [
            dataclasses.replace(piece, source=int(source))
            for piece, source in zip(out, self.sources, strict=True)
        ]


def segment_maskrcnn(
    stamps: Sequence[Stamp],
    network: SegmentNetwork,
    settings: MaskRCNNSettings | None = None,
) -> list[Segmentation]:
    """Find targets and neighbours.

    Parameters
    ----------
    stamps : sequence of Stamp
        Of any sizes.
    network : SegmentNetwork
        From `autofit_ml.load`, on any device.
    settings : MaskRCNNSettings, optional

    Returns
    -------
    list of Segmentation
        ``target`` is the instance at the expected position, or the nearest within the search
        radius; 0 if there is none.
    """
    settings = settings or MaskRCNNSettings()
    skies = [_sky_of(stamp) for stamp in stamps]
    fwhms = [psf_fwhm(stamp.psf) for stamp in stamps]
    found = _at_all_scales(
        [stamp.data for stamp in stamps],
        skies,
        [stamp.mask for stamp in stamps],
        fwhms,
        network,
        settings,
    )
    found = [
        _joined(instances, stamp, sky)
        for stamp, sky, instances in zip(stamps, skies, found, strict=True)
    ]
    weights = network_name(network)
    return [
        _segmentation(stamp, sky, fwhm, instances, settings, weights)
        for stamp, sky, fwhm, instances in zip(stamps, skies, fwhms, found, strict=True)
    ]


def _joined(found: Instances, stamp: Stamp, sky: tuple[float, float]) -> Instances:
    """Without the instances that are parts of larger ones."""
    if len(found.scores) < 2:
        return found
    labels = join_fragments(found.labels, stamp.data - sky[0], stamp.sigma, stamp.mask)
    kept = np.unique(labels[labels > 0]) - 1
    if len(kept) == len(found.scores):
        return found
    mapping = np.zeros(len(found.scores) + 1, dtype=np.int32)
    mapping[kept + 1] = np.arange(1, len(kept) + 1)
    return Instances(found.boxes[kept], found.scores[kept], found.classes[kept], mapping[labels])


def _at_all_scales(
    images: Sequence[np.ndarray],
    skies: Sequence[tuple[float, float]],
    masks: Sequence[np.ndarray],
    fwhms: Sequence[float],
    network: SegmentNetwork,
    settings: MaskRCNNSettings,
) -> list[Instances]:
    """Instances of stamps; those that hold large objects are looked at binned, too."""
    found = find_instances(images, skies, masks, fwhms, network, settings)
    for b in settings.binnings:
        chosen = [
            k
            for k, (image, item) in enumerate(zip(images, found, strict=True))
            if min(image.shape) >= 16 * b and _largest_part(item.labels) >= LARGE * b
        ]
        if not chosen:
            break
        flat = {k: (images[k] - skies[k][0]).astype(np.float32) for k in chosen}
        noise = {k: np.full(images[k].shape, skies[k][1], np.float32) for k in chosen}
        binned = [bin_image(flat[k], noise[k], masks[k], b) for k in chosen]
        results = find_instances(
            [image for image, _, _ in binned],
            [(0.0, rms) for _, rms, _ in binned],
            [bad for _, _, bad in binned],
            [max(fwhms[k] / b, NARROWEST) for k in chosen],
            network,
            settings,
        )
        for k, coarse in zip(chosen, results, strict=True):
            large = list(pieces_of(coarse.labels, coarse.scores, coarse.classes == 2))
            fine = found[k].pieces()
            found[k] = _as_instances(with_large(fine, large, b, flat[k], noise[k]), flat[k].shape)
    return found


def _largest_part(labels: np.ndarray) -> float:
    """Equivalent diameter of the largest connected part of all objects, pixels."""
    parts, number = ndimage.label(labels > 0)
    if not number:
        return 0.0
    return float(2 * np.sqrt(np.bincount(parts.ravel())[1:].max() / np.pi))


def _as_instances(pieces: Sequence[Piece], shape: tuple[int, int]) -> Instances:
    """Pieces drawn into one label image; those that others hide are gone."""
    labels, order = draw(pieces, shape)
    present = np.unique(labels[labels > 0])
    mapping = np.zeros(len(order) + 1, dtype=np.int32)
    mapping[present] = np.arange(1, len(present) + 1)
    kept = [order[k - 1] for k in present]
    corners = [(p.x0, p.y0, p.x0 + p.mask.shape[1], p.y0 + p.mask.shape[0]) for p in kept]
    return Instances(
        np.array(corners, dtype=np.float32).reshape(-1, 4),
        np.array([p.score for p in kept], dtype=np.float32),
        np.array([2 if p.star else 1 for p in kept], dtype=np.int64),
        mapping[labels],
        np.array([p.source for p in kept], dtype=int),
    )


def segment_cut_out(
    stamp: Stamp, weights: str, settings: MaskRCNNSettings | None = None
) -> Segmentation:
    """The segmentation of a stamp cut from a frame that the network has segmented as a whole.

    Parameters
    ----------
    stamp : Stamp
        With the frame's ``labels`` and its ``target_label``.
    weights : str
        Name of the network's weights.
    settings : MaskRCNNSettings, optional
        For the growing of neighbours.
    """
    if stamp.labels is None or stamp.target_label is None:
        raise InputError("the stamp has no labels of its frame", "", stamp.file or None)
    settings = settings or MaskRCNNSettings()
    labels = np.asarray(stamp.labels, dtype=np.int32)
    present = np.unique(labels[labels > 0])
    small = np.searchsorted(present, labels) + 1
    small[labels == 0] = 0
    where = np.flatnonzero(present == stamp.target_label)
    target = int(where[0]) + 1 if where.size else 0
    classes = {
        number: stamp.label_classes[int(label)]
        for number, label in enumerate(present, start=1)
        if int(label) in stamp.label_classes
    }
    sky, fwhm = _sky_of(stamp), psf_fwhm(stamp.psf)
    return _finished(stamp, sky, fwhm, small.astype(np.int32), target, classes, settings, weights)


@torch.no_grad()
def find_instances(
    images: Sequence[np.ndarray],
    skies: Sequence[tuple[float, float | np.ndarray]],
    masks: Sequence[np.ndarray],
    fwhms: Sequence[float],
    network: SegmentNetwork,
    settings: MaskRCNNSettings | None = None,
) -> list[Instances]:
    """Run the network on images of any sizes.

    Parameters
    ----------
    images : sequence of ndarray, shape (ny, nx)
    skies : sequence of (level, scatter)
        Of the sky, image units; the scatter a number or a map of the image's shape.
    masks : sequence of ndarray, bool
        True = do not use.
    fwhms : sequence of float
        Of the PSF, pixels.
    network : SegmentNetwork
    settings : MaskRCNNSettings, optional

    Returns
    -------
    list of Instances
    """
    settings = settings or MaskRCNNSettings()
    device = next(network.parameters()).device
    inputs, zooms = [], []
    for image, (level, rms), mask, fwhm in zip(images, skies, masks, fwhms, strict=True):
        zooms.append(network.preprocessing.zoom(fwhm))
        channels = prepare(
            torch.as_tensor(np.ascontiguousarray(image, dtype=np.float32), device=device),
            level,
            torch.as_tensor(rms, dtype=torch.float32, device=device),
            zooms[-1] * (fwhm if fwhm > 0 else USUAL_FWHM),
            torch.as_tensor(np.ascontiguousarray(mask), device=device),
            network.preprocessing,
        )
        inputs.append(_resampled(channels, zooms[-1]))
    # A batch is filled up to a common shape, and the network sees what is filled up: only images
    # that are filled up alike go together, so that none depends on the others.
    groups: dict[tuple[int, int], list[int]] = {}
    for i, channels in enumerate(inputs):
        ny, nx = channels.shape[-2:]
        groups.setdefault((-(-ny // DIVISIBLE), -(-nx // DIVISIBLE)), []).append(i)
    results: dict[int, Instances] = {}
    for group in groups.values():
        for start in range(0, len(group), settings.batch_size):
            members = group[start : start + settings.batch_size]
            outputs = network([inputs[i] for i in members])
            for i, output in zip(members, outputs, strict=True):
                results[i] = _instances(output, zooms[i], images[i].shape, settings)
    return [results[i] for i in range(len(images))]


def _resampled(channels: torch.Tensor, zoom: float) -> torch.Tensor:
    if zoom == 1.0:
        return channels
    ny, nx = channels.shape[-2:]
    size = (max(16, round(ny * zoom)), max(16, round(nx * zoom)))
    return functional.interpolate(
        channels[None], size, mode="bilinear", align_corners=False, antialias=zoom < 1
    )[0]


def _instances(
    output: dict[str, torch.Tensor],
    zoom: float,
    shape: tuple[int, int],
    settings: MaskRCNNSettings,
) -> Instances:
    """Detections of one image as labels, in the image's own pixels."""
    keep = torch.nonzero(output["scores"] >= settings.score).flatten()
    # torchvision suppresses doubles within a class; one object may be called galaxy and star.
    keep = keep[nms(output["boxes"][keep], output["scores"][keep], settings.same_box)]
    boxes = (output["boxes"][keep] / zoom).cpu().numpy()
    scores, classes = output["scores"][keep].cpu().numpy(), output["labels"][keep].cpu().numpy()
    small = output["masks"][keep][:, 0].float().cpu().numpy()
    labels = np.zeros(shape, dtype=np.int32)
    surest = np.full(shape, settings.mask, dtype=np.float32)
    for k, (box, mask) in enumerate(zip(boxes, small, strict=True)):
        patch, y0, x0 = _pasted(mask, box, shape)
        if patch.size == 0:
            continue
        where = np.s_[y0 : y0 + patch.shape[0], x0 : x0 + patch.shape[1]]
        own = patch > surest[where]
        labels[where][own] = k + 1
        surest[where][own] = patch[own]
    sizes = np.bincount(labels.ravel(), minlength=len(scores) + 1)[1:]
    kept = np.flatnonzero(sizes >= settings.min_pixels)
    mapping = np.zeros(len(scores) + 1, dtype=np.int32)
    mapping[kept + 1] = np.arange(1, len(kept) + 1)
    return Instances(boxes[kept], scores[kept], classes[kept], mapping[labels])


def _pasted(
    mask: np.ndarray, box: np.ndarray, shape: tuple[int, int]
) -> tuple[np.ndarray, int, int]:
    """A box's 28 x 28 mask on the image's pixels: values, and the (y, x) of the first."""
    x0, y0, x1, y1 = box.tolist()
    top, along_y = _hats(y0, y1, shape[0], mask.shape[0])
    left, along_x = _hats(x0, x1, shape[1], mask.shape[1])
    return along_y @ mask @ along_x.T, top, left


def _hats(low: float, high: float, number: int, cells: int) -> tuple[int, np.ndarray]:
    """Linear interpolation from a box's cells to the pixels that it covers of an image's `number`.

    Returns the first pixel and weights (pixels, cells); what lies outside of the cells is 0.
    """
    first, last = max(math.floor(low), 0), min(math.ceil(high), number)
    centre = (np.arange(first, last) + 0.5 - low) / max(high - low, 1e-3) * cells - 0.5
    distance = np.abs(centre[:, None] - np.arange(cells))
    return first, np.maximum(1 - distance, 0).astype(np.float32)


def _sky_of(stamp: Stamp) -> tuple[float, float]:
    """Robust level and scatter of the sky, image units."""
    good = ~stamp.mask
    if not good.any():
        return 0.0, float(np.median(stamp.sigma))
    noise = float(np.median(stamp.sigma[good]))
    level, rms = mode_of_sky(stamp.data[good] / noise, 1.0)
    # In an image without noise the network would see its rounding errors.
    return level * noise, max(rms, LEAST_SCATTER) * noise


def _segmentation(
    stamp: Stamp,
    sky: tuple[float, float],
    fwhm: float,
    found: Instances,
    settings: MaskRCNNSettings,
    weights: str,
) -> Segmentation:
    target = _target(found, stamp.position, max(settings.search_radius, fwhm))
    classes = {
        int(label): CLASSES[int(found.classes[label - 1])]
        for label in np.unique(found.labels[found.labels > 0])
    }
    return _finished(stamp, sky, fwhm, found.labels, target, classes, settings, weights)


def _finished(
    stamp: Stamp,
    sky: tuple[float, float],
    fwhm: float,
    labels: np.ndarray,
    target: int,
    classes: dict[int, str],
    settings: MaskRCNNSettings,
    weights: str,
) -> Segmentation:
    """Neighbours grown, sky and blending measured."""
    level, rms = sky
    ellipses = ellipses_of_labels(labels)
    contaminants = grow_neighbours(
        labels,
        target,
        ellipses,
        relative=settings.grow_relative,
        minimum=settings.grow_minimum + 0.5 * fwhm,
    )
    better = sky_outside(stamp.data / rms, ~stamp.mask, labels, contaminants, ellipses.get(target))
    if np.isfinite(better[0]):
        # An image without noise has no scatter to measure: the noise map's stays.
        level, rms = better[0] * sky[1], better[1] * sky[1] or rms
    return Segmentation(
        labels=labels,
        target=target,
        contaminants=contaminants,
        sky_level=level,
        sky_rms=rms,
        blend_fraction=blend_fraction((stamp.data - level) / rms, labels, target, ellipses),
        method="maskrcnn",
        classes=classes,
        weights=weights,
    )


def _target(found: Instances, position: tuple[float, float], radius: float) -> int:
    """Label of the instance at a position: the one there, or the nearest centre."""
    if not len(found.scores):
        return 0
    x, y = position
    ny, nx = found.labels.shape
    here = found.labels[min(max(round(y), 0), ny - 1), min(max(round(x), 0), nx - 1)]
    if here:
        return int(here)
    centre_x = found.boxes[:, [0, 2]].mean(axis=1) - 0.5
    centre_y = found.boxes[:, [1, 3]].mean(axis=1) - 0.5
    distance = np.hypot(centre_x - x, centre_y - y)
    nearest = int(np.argmin(distance))
    return nearest + 1 if distance[nearest] <= radius else 0
