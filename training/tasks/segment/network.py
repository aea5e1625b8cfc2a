"""The Mask R-CNN as it is trained: torchvision's model on our trunk.

`autofit_ml.segmentation.network` has the same forward pass without what only training needs;
weights trained here are loaded there.
"""

from collections.abc import Sequence
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

from autofit_ml.segmentation.channels import CHANNELS, Preprocessing
from autofit_ml.segmentation.network import CLASSES, DIVISIBLE, NetworkSettings
from autofit_ml.segmentation.regions import ASPECTS, CANONICAL_LEVEL, CANONICAL_SIDE

__all__ = ["TrainableNetwork"]


class TrainableNetwork(nn.Module):
    """torchvision's Mask R-CNN with its settings and preprocessing.

    ``forward(images, targets)`` is torchvision's: a list of (4, ny, nx) tensors from `prepare`,
    and in training the targets (boxes, labels, masks); the losses in training, otherwise a list
    of detections (boxes, labels, scores, and masks of 28 x 28 pixels a box).
    """

    def __init__(self, settings: NetworkSettings, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.settings, self.preprocessing = settings, preprocessing
        levels = [str(k) for k in range(4)]
        scale = {"canonical_scale": CANONICAL_SIDE, "canonical_level": CANONICAL_LEVEL}
        self.model = MaskRCNN(
            _Trunk(settings),
            num_classes=None,
            rpn_anchor_generator=AnchorGenerator(
                tuple((side,) for side in settings.anchors), (ASPECTS,) * len(settings.anchors)
            ),
            rpn_pre_nms_top_n_train=600,
            rpn_post_nms_top_n_train=settings.proposals,
            rpn_batch_size_per_image=128,
            box_roi_pool=MultiScaleRoIAlign(levels, 7, 2, **scale),
            box_head=TwoMLPHead(settings.pyramid * 49, settings.hidden),
            box_predictor=FastRCNNPredictor(settings.hidden, len(CLASSES)),
            box_batch_size_per_image=64,
            box_score_thresh=settings.score,
            box_nms_thresh=0.5,
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
        rpn: Any = self.model.rpn
        rpn.score_thresh = 0.0
        if not self.training:
            largest = max((image.shape[-2:] for image in images), key=lambda shape: shape.numel())
            proposals = self.settings.proposals_in(largest)
            rpn.score_thresh = self.settings.objectness
            rpn._pre_nms_top_n["testing"] = 2 * proposals
            rpn._post_nms_top_n["testing"] = proposals
            heads: Any = self.model.roi_heads
            heads.detections_per_img = self.settings.detections_in(largest)
        return self.model(list(images), None if targets is None else list(targets))


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


class _Batching(GeneralizedRCNNTransform):
    """Images of any size into one batch: nothing is scaled, smaller ones are filled up."""

    def __init__(self) -> None:
        super().__init__(1, 1, [0.0] * CHANNELS, [1.0] * CHANNELS, size_divisible=DIVISIBLE)

    def resize(self, image: Any, target: Any = None) -> Any:
        return image, target

    def postprocess(self, result: Any, image_shapes: Any, original_image_sizes: Any) -> Any:
        # Masks stay 28 x 28 a box: pasting all of a frame's at full size takes gigabytes.
        return result
