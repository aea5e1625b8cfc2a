"""The Mask R-CNN: images in units of the sky noise in, instances out.

He et al. (2017, arXiv:1703.06870) on a slim residual trunk with a feature pyramid (Lin et al. 2017,
arXiv:1612.03144), for objects from 4 pixels up: the first features have half of the image's
sampling, not a quarter. Two classes, galaxy and star; which instance is the target is decided by
position afterwards.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.rpn import AnchorGenerator
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.models.resnet import BasicBlock
from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from autofit_ml.weights.settings import tuples

__all__ = [
    "CLASSES",
    "DIVISIBLE",
    "NetworkSettings",
    "Preprocessing",
    "SegmentNetwork",
    "build",
    "describe",
    "prepare",
]

CLASSES = ("sky", "galaxy", "star")
"""Index in the network's classes; torchvision's class 0 is the background."""

CHANNELS = 4
"""Of the input: three of the signal, one for the width of the PSF (`prepare`)."""

DIVISIBLE = 16
"""Images are filled up to multiples of this many pixels."""


@dataclass(frozen=True)
class Preprocessing:
    """From an image to the network's channels.

    Attributes
    ----------
    soft, hard : float
        Softening of the two asinh channels, units of the sky noise.
    clip : (low, high)
        Of the linear channel, units of the sky noise.
    psf_fwhm : (low, high)
        pixels; images with a PSF outside are resampled so that it becomes `resampled_fwhm`.
    resampled_fwhm : float
    """

    soft: float = 1.0
    hard: float = 20.0
    clip: tuple[float, float] = (-3.0, 6.0)
    psf_fwhm: tuple[float, float] = (1.5, 6.0)
    resampled_fwhm: float = 3.0

    def zoom(self, psf_fwhm: float) -> float:
        """Factor by which an image of this seeing is resampled; 1 where that is not needed."""
        low, high = self.psf_fwhm
        if not psf_fwhm > 0 or low <= psf_fwhm <= high:
            return 1.0
        return self.resampled_fwhm / psf_fwhm


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


class _Trunk(nn.Module):
    """Residual trunk with a feature pyramid; BatchNorm is trained from scratch."""

    def __init__(self, settings: NetworkSettings) -> None:
        super().__init__()
        widths = settings.widths
        self.stem = nn.Sequential(
            nn.Conv2d(CHANNELS, widths[0], 5, stride=2, padding=2, bias=False),
            nn.BatchNorm2d(widths[0]),
            nn.ReLU(inplace=True),
        )
        stages = []
        before = widths[0]
        for k, (width, blocks) in enumerate(zip(widths, settings.blocks, strict=True)):
            stages.append(_stage(before, width, blocks, stride=1 if k == 0 else 2))
            before = width
        self.stages = nn.ModuleList(stages)
        self.pyramid = FeaturePyramidNetwork(
            list(widths),
            settings.pyramid,
            extra_blocks=LastLevelMaxPool(),
            norm_layer=nn.BatchNorm2d,
        )
        self.out_channels = settings.pyramid

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        x = self.stem(images)
        features = {}
        for k, stage in enumerate(self.stages):
            x = stage(x)
            features[str(k)] = x
        return self.pyramid(features)


def _stage(before: int, width: int, blocks: int, stride: int) -> nn.Sequential:
    shortcut = None
    if stride != 1 or before != width:
        shortcut = nn.Sequential(
            nn.Conv2d(before, width, 1, stride=stride, bias=False), nn.BatchNorm2d(width)
        )
    layers = [BasicBlock(before, width, stride, shortcut)]
    layers += [BasicBlock(width, width) for _ in range(blocks - 1)]
    return nn.Sequential(*layers)


class SegmentNetwork(nn.Module):
    """Mask R-CNN with its settings and preprocessing.

    ``forward(images, targets)`` is torchvision's: a list of (4, ny, nx) tensors from `prepare`,
    and in training the targets (boxes, labels, masks); the losses in training, otherwise a list
    of detections (boxes, labels, scores, and masks of 28 x 28 pixels a box).
    """

    def __init__(self, settings: NetworkSettings, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.settings, self.preprocessing = settings, preprocessing
        trunk = _Trunk(settings)
        levels = [str(k) for k in range(4)]
        # Boxes of 12 pixels and less are read from the finest level, of 96 and more from the
        # coarsest.
        scale = {"canonical_scale": 96, "canonical_level": 4}
        self.model = MaskRCNN(
            trunk,
            num_classes=None,
            rpn_anchor_generator=AnchorGenerator(
                tuple((side,) for side in settings.anchors),
                ((0.5, 1.0, 2.0),) * len(settings.anchors),
            ),
            rpn_pre_nms_top_n_train=600,
            rpn_pre_nms_top_n_test=600,
            rpn_post_nms_top_n_train=settings.proposals,
            rpn_post_nms_top_n_test=settings.proposals,
            rpn_batch_size_per_image=128,
            box_roi_pool=MultiScaleRoIAlign(levels, 7, 2, **scale),
            box_head=TwoMLPHead(settings.pyramid * 49, settings.hidden),
            box_predictor=FastRCNNPredictor(settings.hidden, len(CLASSES)),
            box_batch_size_per_image=64,
            box_score_thresh=settings.score,
            box_nms_thresh=0.5,
            box_detections_per_img=settings.detections,
            mask_roi_pool=MultiScaleRoIAlign(levels, 14, 2, **scale),
            mask_head=MaskRCNNHeads(settings.pyramid, settings.mask_layers, 1),
            mask_predictor=MaskRCNNPredictor(
                settings.mask_layers[-1], settings.mask_layers[-1], len(CLASSES)
            ),
        )
        self.model.transform = _Batching()

    def forward(
        self,
        images: Sequence[torch.Tensor],
        targets: Sequence[dict[str, torch.Tensor]] | None = None,
    ) -> Any:
        if not self.training:
            self._allow_for(max(image[0].numel() for image in images))
        return self.model(list(images), None if targets is None else list(targets))

    def _allow_for(self, pixels: int) -> None:
        """As many proposals and detections as an image of this size may need."""
        times = max(1.0, pixels / 128**2)
        rpn: Any = self.model.rpn
        rpn._pre_nms_top_n["testing"] = math.ceil(2 * self.settings.proposals * times)
        rpn._post_nms_top_n["testing"] = math.ceil(self.settings.proposals * times)
        heads: Any = self.model.roi_heads
        heads.detections_per_img = math.ceil(self.settings.detections * times)


class _Batching(GeneralizedRCNNTransform):
    """Images of any size into one batch: nothing is scaled, smaller ones are filled up."""

    def __init__(self) -> None:
        super().__init__(1, 1, [0.0] * CHANNELS, [1.0] * CHANNELS, size_divisible=DIVISIBLE)

    def resize(self, image: Any, target: Any = None) -> Any:
        return image, target

    def postprocess(self, result: Any, image_shapes: Any, original_image_sizes: Any) -> Any:
        # Masks stay 28 x 28 a box: pasting all of a frame's at full size takes gigabytes.
        return result


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


def prepare(
    image: torch.Tensor,
    sky: torch.Tensor | float,
    rms: torch.Tensor | float,
    fwhm: torch.Tensor | float,
    mask: torch.Tensor | None = None,
    preprocessing: Preprocessing | None = None,
) -> torch.Tensor:
    """The network's channels.

    Parameters
    ----------
    image : Tensor, shape (..., ny, nx)
        Image units.
    sky, rms : float or Tensor that broadcasts
        Robust level and scatter of the sky.
    fwhm : float or Tensor that broadcasts
        Of the PSF, pixels.
    mask : Tensor, bool, shape (..., ny, nx), optional
        True = do not use: set to the sky.
    preprocessing : Preprocessing, optional

    Returns
    -------
    Tensor, float32, shape (..., 4, ny, nx)
        ``asinh(s / soft) / 3``, ``asinh(s / hard)`` and the clipped ``s / 3`` of the signal s in
        units of the sky noise; ``ln(fwhm / 3)`` everywhere: how large a star is.
    """
    settings = preprocessing or Preprocessing()
    signal = (image - sky) / rms
    if mask is not None:
        signal = torch.where(mask, torch.zeros_like(signal), signal)
    return torch.stack(
        [
            torch.asinh(signal / settings.soft) / 3,
            torch.asinh(signal / settings.hard),
            signal.clamp(*settings.clip) / 3,
            torch.as_tensor(fwhm).to(signal).clamp_min(0.5).div(3).log().expand_as(signal),
        ],
        dim=-3,
    ).float()
