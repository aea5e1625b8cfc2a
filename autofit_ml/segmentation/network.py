"""The Mask R-CNN: images in units of the sky noise in, instances out.

He et al. (2017, arXiv:1703.06870) on a slim residual trunk with a feature pyramid (Lin et al. 2017,
arXiv:1612.03144), for objects from 4 pixels up: the first features have half of the image's
sampling, not a quarter. Two classes, galaxy and star; which instance is the target is decided by
position afterwards.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_weights

from autofit_ml.segmentation import regions
from autofit_ml.segmentation.channels import CHANNELS, Preprocessing
from autofit_ml.weights.manifest import tuples

__all__ = [
    "CLASSES",
    "DIVISIBLE",
    "NetworkSettings",
    "SegmentNetwork",
    "build",
    "describe",
]

CLASSES = ("sky", "galaxy", "star")
"""Index in the network's classes; torchvision's class 0 is the background."""

DIVISIBLE = 16
"""Images are filled up to multiples of this many pixels."""

_SHARED = 256**2
"""Pixels of the largest image that shares a batch with others: for larger ones that takes memory
and saves no time."""


@dataclass(frozen=True)
class NetworkSettings:
    """Architecture.

    Attributes
    ----------
    widths : tuple of int
        Channels of the four stages, at 1/2, 1/4, 1/8 and 1/16 of the sampling.
    blocks : tuple of int
        Residual blocks of each.
    pyramid : int
        Channels of the feature pyramid.
    hidden : int
        Of the box head.
    mask_layers : tuple of int
        Channels of the mask head's convolutions.
    anchors : tuple of float
        Side of the anchors of each level of the pyramid (five), pixels.
    proposals : int
        Kept per image of up to 128 x 128 pixels; in larger ones as many more as they are larger.
    detections : int
        Most instances per image, in the same way.
    score : float
        Lowest score of an instance.
    objectness : float
        Lowest score of a proposal (when trained: all are used).
    """

    widths: tuple[int, ...] = (32, 64, 128, 192)
    blocks: tuple[int, ...] = (2, 2, 2, 2)
    pyramid: int = 64
    hidden: int = 256
    mask_layers: tuple[int, ...] = (64, 64)
    anchors: tuple[float, ...] = (6.0, 12.0, 24.0, 48.0, 96.0)
    proposals: int = 300
    detections: int = 200
    score: float = 0.5
    objectness: float = 0.02

    def proposals_in(self, shape: Sequence[int]) -> int:
        """Proposals that an image of `shape` (ny, nx) may need."""
        return math.ceil(self.proposals * _size(shape))

    def detections_in(self, shape: Sequence[int]) -> int:
        """Instances that an image of `shape` (ny, nx) may hold."""
        return math.ceil(self.detections * _size(shape))


def _size(shape: Sequence[int]) -> float:
    """Pixels of an image in units of 128 x 128, at least 1."""
    return max(1.0, math.prod(shape) / 128**2)


class SegmentNetwork(nn.Module):
    """The trained Mask R-CNN, for finding instances; `training` has the one that is trained.

    The forward pass of torchvision's model over the same weights, equal to rounding, several times
    as fast on a processor: batch normalisation is folded into the convolutions when weights are
    loaded, channels come last in memory, and proposals that hardly any object is in
    (``settings.objectness``) are dropped first. The answer for an image does not depend on the
    others, on a processor to the bit.

    Parameters
    ----------
    settings : NetworkSettings
    preprocessing : Preprocessing
    """

    def __init__(self, settings: NetworkSettings, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.settings, self.preprocessing = settings, preprocessing
        # Named as torchvision's parts, so that the trained weights fit.
        trunk, proposals, objects = _Trunk(settings), _ProposalHead(settings), _Heads(settings)
        rpn = nn.ModuleDict({"head": proposals})
        self.model = nn.ModuleDict({"backbone": trunk, "rpn": rpn, "roi_heads": objects})
        self.register_load_state_dict_pre_hook(_fold_batch_norm)

    def forward(self, images: Sequence[torch.Tensor]) -> list[dict[str, torch.Tensor]]:
        """Instances of some images, surest first.

        Parameters
        ----------
        images : sequence of Tensor, shape (4, ny, nx)
            From `prepare`; of any sizes, filled up to the largest of them.

        Returns
        -------
        list of dict
            ``boxes`` (n, 4), x0, y0, x1, y1, pixels; ``labels`` (n,), positions in `CLASSES`;
            ``scores`` (n,); ``masks`` (n, 1, 28, 28), probabilities on a grid over the box.
        """
        if len(images) > 1 and any(image[0].numel() > _SHARED for image in images):
            return [found for image in images for found in self([image])]
        parts: Any = self.model
        batch = _batch(images)
        maps = parts["backbone"](batch)
        guesses = parts["rpn"]["head"](maps)
        grids = [(part.shape[-2], part.shape[-1]) for part in maps]
        anchors = [
            regions.anchors(side, grid, (batch.shape[-2], batch.shape[-1]), batch.device)
            for side, grid in zip(self.settings.anchors, grids, strict=True)
        ]
        results = []
        for k, image in enumerate(images):
            ny, nx = image.shape[-2:]
            own = [(likely[k], shifts[k]) for likely, shifts in guesses]
            proposals = _proposals(own, anchors, (ny, nx), self.settings)
            features = regions.Features.of([part[k] for part in maps[:-1]])
            results.append(parts["roi_heads"](features, proposals, (ny, nx), self.settings))
        return results


def _batch(images: Sequence[torch.Tensor]) -> torch.Tensor:
    """Images in one tensor, filled up with sky; a small one alone comes twice.

    Convolutions take another way, with other rounding errors, for batches of one.
    """
    least = 2 if images[0][0].numel() <= _SHARED else 1
    ny, nx = (
        -(-max(image.shape[axis] for image in images) // DIVISIBLE) * DIVISIBLE for axis in (1, 2)
    )
    batch = (
        images[0]
        .new_zeros((max(len(images), least), CHANNELS, ny, nx))
        .contiguous(memory_format=torch.channels_last)
    )
    for k in range(len(batch)):
        image = images[min(k, len(images) - 1)]
        batch[k, :, : image.shape[1], : image.shape[2]] = image
    return batch


def _fold_batch_norm(module: nn.Module, state: dict[str, Any], *others: object) -> None:
    """Each normalisation of a trained network into the convolution before it, in place.

    In a block ``conv1`` comes before ``bn1``, in a sequence ``0`` before ``1``.
    """
    for key in [key for key in state if key.endswith(".running_mean")]:
        norm = key.removesuffix(".running_mean")
        parent, _, name = norm.rpartition(".")
        conv = f"{parent}.{name.replace('bn', 'conv') if name[0] == 'b' else int(name) - 1}"
        names = [f"{conv}.weight", *(f"{norm}.{part}" for part in _NORM)]
        if not all(name in state for name in names):
            continue  # `load_state_dict` says what is missing
        kernel, mean, variance, weight, bias = (state.pop(name).float() for name in names)
        state[f"{conv}.weight"], state[f"{conv}.bias"] = fuse_conv_bn_weights(
            kernel, None, mean, variance, _EPSILON, weight, bias
        )
        state.pop(f"{norm}.num_batches_tracked", None)


_NORM = ("running_mean", "running_var", "weight", "bias")
_EPSILON = 1e-5
"""Added to variances by BatchNorm, unless it is told otherwise."""


class _Trunk(nn.Module):
    """Residual trunk with a feature pyramid: maps at 1/2 to 1/32 of the image's sampling."""

    def __init__(self, settings: NetworkSettings) -> None:
        super().__init__()
        widths = settings.widths
        self.stem = nn.Sequential(nn.Conv2d(CHANNELS, widths[0], 5, stride=2, padding=2))
        self.stages = nn.ModuleList()
        before = widths[0]
        for k, (width, blocks) in enumerate(zip(widths, settings.blocks, strict=True)):
            first = _Block(before, width, stride=1 if k == 0 else 2)
            self.stages.append(
                nn.Sequential(first, *(_Block(width, width, 1) for _ in range(blocks - 1)))
            )
            before = width
        self.pyramid = _Pyramid(widths, settings.pyramid)

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        x = self.stem(images).relu_()
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return self.pyramid(maps)


class _Block(nn.Module):
    """Two convolutions beside a shortcut (He et al. 2016, arXiv:1512.03385)."""

    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, width, 3, stride=stride, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.downsample = None
        if stride != 1 or before != width:
            self.downsample = nn.Sequential(nn.Conv2d(before, width, 1, stride=stride))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        return self.conv2(self.conv1(x).relu_()).add_(shortcut).relu_()


class _Pyramid(nn.Module):
    """Coarse maps added to fine ones, and one still coarser (Lin et al. 2017)."""

    def __init__(self, widths: Sequence[int], width: int) -> None:
        super().__init__()
        self.inner_blocks = nn.ModuleList(nn.Sequential(nn.Conv2d(n, width, 1)) for n in widths)
        self.layer_blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width, width, 3, padding=1)) for _ in widths
        )

    def forward(self, maps: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        summed: list[torch.Tensor] = []
        for x, inner in zip(reversed(maps), reversed(self.inner_blocks), strict=True):
            part = inner(x)
            if summed:
                part += functional.interpolate(summed[-1], size=part.shape[-2:], mode="nearest")
            summed.append(part)
        out = [layer(part) for layer, part in zip(self.layer_blocks, reversed(summed), strict=True)]
        return [*out, out[-1][..., ::2, ::2]]


class _ProposalHead(nn.Module):
    """At each place and for each anchor: how likely an object is there, and its box."""

    def __init__(self, settings: NetworkSettings) -> None:
        super().__init__()
        width, number = settings.pyramid, len(regions.ASPECTS)
        self.conv = nn.Sequential(nn.Sequential(nn.Conv2d(width, width, 3, padding=1)))
        self.cls_logits = nn.Conv2d(width, number, 1)
        self.bbox_pred = nn.Conv2d(width, 4 * number, 1)

    def forward(self, maps: Sequence[torch.Tensor]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Logits (batch, anchors of the image) and shifts (batch, anchors, 4) for each map."""
        out = []
        for part in maps:
            x = self.conv(part).relu_()
            likely, shifts = self.cls_logits(x), self.bbox_pred(x)
            out.append(
                (
                    likely.permute(0, 2, 3, 1).flatten(1),
                    shifts.permute(0, 2, 3, 1).flatten(1).unflatten(1, (-1, 4)),
                )
            )
        return out


def _proposals(
    guesses: Sequence[tuple[torch.Tensor, torch.Tensor]],
    anchors: Sequence[torch.Tensor],
    shape: tuple[int, int],
    settings: NetworkSettings,
) -> torch.Tensor:
    """Boxes in which one image may have objects, (n, 4), the likeliest first."""
    most = settings.proposals_in(shape)
    best = []
    for k, ((likely, shifts), own) in enumerate(zip(guesses, anchors, strict=True)):
        chances, places = likely.topk(min(2 * most, likely.numel()))
        best.append((chances, shifts[places], own[places], torch.full_like(places, k)))
    chances, shifts, own, level = (torch.cat(parts) for parts in zip(*best, strict=True))
    scores, boxes = chances.sigmoid(), regions.clip(regions.decode(shifts, own), shape)
    kept = (scores >= settings.objectness) & (regions.sides(boxes) >= _SMALLEST_PROPOSAL).all(1)
    boxes = boxes[kept]
    return boxes[regions.nms(boxes, scores[kept], _SAME_PROPOSAL, level[kept])[:most]]


_SMALLEST_PROPOSAL, _SMALLEST = 1e-3, 1e-2
"""Sides of boxes that are none, pixels."""

_SAME_PROPOSAL, _SAME = 0.7, 0.5
"""Boxes that overlap by more (intersection over union) are one."""

_BOX_WEIGHTS = (10.0, 5.0)
"""Of the shifts of centre and sides, as trained."""


class _Heads(nn.Module):
    """Heads of the network: class, box and mask of each proposal."""

    def __init__(self, settings: NetworkSettings) -> None:
        super().__init__()
        width, hidden, layers = settings.pyramid, settings.hidden, settings.mask_layers
        self.box_head = nn.ModuleDict(
            {"fc6": _WholeGrid(width, hidden), "fc7": nn.Linear(hidden, hidden)}
        )
        self.box_predictor = nn.ModuleDict(
            {
                "cls_score": nn.Linear(hidden, len(CLASSES)),
                "bbox_pred": nn.Linear(hidden, 4 * len(CLASSES)),
            }
        )
        self.mask_head = nn.Sequential(
            *(
                nn.Sequential(nn.Conv2d(before, after, 3, padding=1), nn.ReLU(inplace=True))
                for before, after in zip((width, *layers), layers, strict=False)
            )
        )
        self.mask_predictor = nn.ModuleDict(
            {
                "conv5_mask": nn.ConvTranspose2d(layers[-1], layers[-1], 2, stride=2),
                "mask_fcn_logits": nn.Conv2d(layers[-1], len(CLASSES), 1),
            }
        )

    def forward(
        self,
        features: regions.Features,
        proposals: torch.Tensor,
        shape: tuple[int, int],
        settings: NetworkSettings,
    ) -> dict[str, torch.Tensor]:
        """Instances of one image, see `SegmentNetwork.forward`."""
        parts = [self.classified(features, some) for some in proposals.split(_AT_ONCE)]
        chances, boxes = (torch.cat(some) for some in zip(*parts, strict=True))
        boxes = regions.clip(boxes, shape)
        kept = (chances > settings.score) & (regions.sides(boxes) >= _SMALLEST).all(2)
        kept[:, 0] = False  # the sky
        labels = kept.nonzero()[:, 1]
        boxes, scores = boxes[kept], chances[kept]
        best = regions.nms(boxes, scores, _SAME, labels)[: settings.detections_in(shape)]
        boxes, scores, labels = boxes[best], scores[best], labels[best]
        several = zip(boxes.split(_AT_ONCE), labels.split(_AT_ONCE), strict=True)
        masks = torch.cat([self.masks(features, *some) for some in several])
        return {"boxes": boxes, "labels": labels, "scores": scores, "masks": masks}

    def classified(
        self, features: regions.Features, proposals: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Probabilities (n, classes) and boxes (n, classes, 4) of proposals."""
        x = self.box_head["fc6"](regions.roi_align(features, proposals, _GRID)).relu_()
        x = self.box_head["fc7"](x).relu_()
        chances = self.box_predictor["cls_score"](x).softmax(1)
        shifts = self.box_predictor["bbox_pred"](x).unflatten(1, (len(CLASSES), 4))
        return chances, regions.decode(shifts, proposals[:, None], _BOX_WEIGHTS)

    def masks(
        self, features: regions.Features, boxes: torch.Tensor, labels: torch.Tensor
    ) -> torch.Tensor:
        """Probabilities that the pixels of boxes are the objects', shape (n, 1, 28, 28)."""
        x = self.mask_head(regions.roi_align(features, boxes, 2 * _GRID))
        x = self.mask_predictor["conv5_mask"](x).relu_()
        logits = self.mask_predictor["mask_fcn_logits"](x)
        return logits[torch.arange(len(labels), device=labels.device), labels, None].sigmoid()


class _WholeGrid(nn.Linear):
    """A layer over all of a grid as a convolution, of which a processor makes two a product."""

    def __init__(self, width: int, features: int) -> None:
        super().__init__(width * _GRID**2, features)

    def forward(self, grid: torch.Tensor) -> torch.Tensor:
        kernel = self.weight.unflatten(1, grid.shape[1:])
        return functional.conv2d(grid, kernel, self.bias).flatten(1)


_GRID = 7
"""Cells along a box's side that its class is told from; masks have four times as many."""

_AT_ONCE = 512
"""Boxes whose features are in memory together."""


def build(config: Mapping[str, Any]) -> SegmentNetwork:
    """A network from a bundle's ``config.json``.

    Raises
    ------
    KeyError, TypeError, ValueError
        The configuration is not one of this version's.
    """
    if config["architecture"] != "mask-rcnn-slim":
        raise ValueError(f"unknown architecture {config['architecture']!r}")
    return SegmentNetwork(
        NetworkSettings(**tuples(config["network"])),
        Preprocessing(**tuples(config["preprocessing"])),
    )


def describe(network: SegmentNetwork) -> dict[str, Any]:
    """The part of a bundle's ``config.json`` from which `build` makes the network again."""
    return {
        "task": "segment",
        "format": 1,
        "architecture": "mask-rcnn-slim",
        "classes": list(CLASSES),
        "network": dataclasses.asdict(network.settings),
        "preprocessing": dataclasses.asdict(network.preprocessing),
        "channels": ["asinh soft", "asinh hard", "clipped", "ln(PSF FWHM / 3 pixels)"],
        "units": "image in units of the robust sky sigma, sky subtracted; boxes in pixels",
    }
