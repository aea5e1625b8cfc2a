"""Segmentation by the Mask R-CNN: from stamps to instances to a `Segmentation`.

Masks stay 28 x 28 pixels a box until they are pasted, one box at a time, into the label image;
where two overlap, the pixel goes to the instance whose mask is surer of it.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage
from torch.nn import functional

from autofit_ml.errors import InputError
from autofit_ml.images.stamp import Stamp
from autofit_ml.measure import psf_fwhm
from autofit_ml.segmentation.channels import prepare
from autofit_ml.segmentation.network import CLASSES, DIVISIBLE, SegmentNetwork
from autofit_ml.segmentation.pieces import (
    BINNINGS,
    LARGE,
    NARROWEST,
    Piece,
    bin_image,
    draw,
    pieces_of,
    with_large,
)
from autofit_ml.segmentation.regions import nms
from autofit_ml.segmentation.repair import repaired
from autofit_ml.segmentation.result import Segmentation, finished, mode_of_stamp
from autofit_ml.segmentation.shapes import Ellipse, ellipses_of_labels, pixel_at, renumbered
from autofit_ml.weights.choice import network_name

__all__ = ["MaskRCNNSettings", "find_instances", "segment_cut_out", "segment_maskrcnn"]


USUAL_FWHM = 3.0
"""Taken for the seeing, pixels, where there is no PSF."""


@dataclass(frozen=True)
class MaskRCNNSettings:
    """Settings that turn detections into a segmentation.

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
    binnings: tuple[int, ...] = BINNINGS


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
    skies = [mode_of_stamp(stamp) for stamp in stamps]
    fwhms = [psf_fwhm(stamp.psf) for stamp in stamps]
    found = _at_all_scales(stamps, skies, fwhms, network, settings)
    weights, out = network_name(network), []
    for stamp, sky, fwhm, pieces in zip(stamps, skies, fwhms, found, strict=True):
        labels = draw(pieces, stamp.shape)
        flat = stamp.data - sky[0]
        labels = repaired(labels, flat, stamp.sigma, stamp.mask, stamp.position)
        labels, given = renumbered(labels)
        classes = {k: pieces[i - 1].kind for k, i in enumerate(given, start=1)}
        ellipses = ellipses_of_labels(labels)
        target = _target(labels, ellipses, stamp.position, max(settings.search_radius, fwhm))
        grow = (settings.grow_relative, settings.grow_minimum + 0.5 * fwhm)
        about = {"method": "maskrcnn", "classes": classes, "weights": weights}
        out.append(finished(stamp, labels, target, sky, ellipses, grow, **about))
    return out


def _target(
    labels: np.ndarray,
    ellipses: Mapping[int, Ellipse],
    position: tuple[float, float],
    radius: float,
) -> int:
    """Label of the instance at a position: the one there, or the nearest centre within a radius."""
    here = pixel_at(labels, position)
    if here or not ellipses:
        return here
    distance, nearest = min(
        (math.dist((item.x, item.y), position), label) for label, item in ellipses.items()
    )
    return nearest if distance <= radius else 0


def _at_all_scales(
    stamps: Sequence[Stamp],
    skies: Sequence[tuple[float, float]],
    fwhms: Sequence[float],
    network: SegmentNetwork,
    settings: MaskRCNNSettings,
) -> list[list[Piece]]:
    """Instances of stamps; those that hold large objects are looked at binned, too."""
    images = [stamp.data for stamp in stamps]
    found = find_instances(images, skies, [s.mask for s in stamps], fwhms, network, settings)
    for b in settings.binnings:
        chosen = [
            k
            for k, image in enumerate(images)
            if min(image.shape) >= 16 * b and _largest_part(found[k], image.shape) >= LARGE * b
        ]
        if not chosen:
            break
        flat = {k: (images[k] - skies[k][0]).astype(np.float32) for k in chosen}
        noise = {k: np.full(images[k].shape, skies[k][1], np.float32) for k in chosen}
        binned = [bin_image(flat[k], noise[k], stamps[k].mask, b) for k in chosen]
        results = find_instances(
            [image for image, _, _ in binned],
            [(0.0, rms) for _, rms, _ in binned],
            [bad for _, _, bad in binned],
            [max(fwhms[k] / b, NARROWEST) for k in chosen],
            network,
            settings,
        )
        for k, coarse in zip(chosen, results, strict=True):
            found[k] = with_large(found[k], coarse, b, flat[k], noise[k])
    return found


def _largest_part(pieces: Sequence[Piece], shape: tuple[int, int]) -> float:
    """Equivalent diameter of the largest connected part of all objects, pixels."""
    parts, _ = ndimage.label(draw(pieces, shape) > 0)
    return float(2 * np.sqrt(np.bincount(parts.ravel())[1:].max(initial=0) / np.pi))


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
    labels, given = renumbered(np.asarray(stamp.labels, dtype=np.int32))
    numbers = {int(label): k for k, label in enumerate(given, start=1)}
    classes = {numbers[k]: name for k, name in stamp.label_classes.items() if k in numbers}
    return finished(
        stamp,
        labels,
        numbers.get(stamp.target_label, 0),
        mode_of_stamp(stamp),
        ellipses_of_labels(labels),
        (settings.grow_relative, settings.grow_minimum + 0.5 * psf_fwhm(stamp.psf)),
        method="maskrcnn",
        classes=classes,
        weights=weights,
    )


@torch.no_grad()
def find_instances(
    images: Sequence[np.ndarray],
    skies: Sequence[tuple[float, float | np.ndarray]],
    masks: Sequence[np.ndarray],
    fwhms: Sequence[float],
    network: SegmentNetwork,
    settings: MaskRCNNSettings | None = None,
) -> list[list[Piece]]:
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
    list of list of Piece
        The surest first; no pixel belongs to two.
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
    results: dict[int, list[Piece]] = {}
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
) -> list[Piece]:
    """Detections of one image in its own pixels."""
    keep = torch.nonzero(output["scores"] >= settings.score).flatten()
    # torchvision suppresses doubles within a class; one object may be called galaxy and star.
    keep = keep[nms(output["boxes"][keep], output["scores"][keep], settings.same_box)]
    boxes = (output["boxes"][keep] / zoom).cpu().numpy()
    scores, classes = (output[name][keep].cpu().numpy() for name in ("scores", "labels"))
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
    every = pieces_of(labels, scores, classes == CLASSES.index("star"))
    return [piece for piece in every if piece.area >= settings.min_pixels]


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
