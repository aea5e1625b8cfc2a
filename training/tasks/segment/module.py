"""The Mask R-CNN's training: losses and validation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torchvision.models.detection.roi_heads import paste_masks_in_image

from autofit_ml.segmentation.channels import Preprocessing
from autofit_ml.segmentation.network import NetworkSettings, describe
from training.module import NetworkModule
from training.optimiser import OptimiserSettings
from training.tasks.segment.network import TrainableNetwork
from training.tasks.segment.targets import Augmentation, Instances

__all__ = ["SegmentModule", "SegmentSettings"]


@dataclass(frozen=True)
class SegmentSettings:
    """``conf/model/segment.yaml``."""

    network: NetworkSettings
    preprocessing: Preprocessing
    instances: Instances
    augment: Augmentation
    optimiser: OptimiserSettings


class SegmentModule(NetworkModule):
    """Losses of torchvision's Mask R-CNN, summed; validation loss and AP50 of the masks."""

    def __init__(self, settings: SegmentSettings, total_steps: int) -> None:
        network = TrainableNetwork(settings.network, settings.preprocessing)
        super().__init__(network, settings.optimiser, total_steps)

    def describe(self) -> dict[str, Any]:
        return describe(self.network)

    def loss(self, batch: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        losses = self.network(*batch)
        return torch.stack(list(losses.values())).sum(), losses

    def validation_step(self, batch: Any, index: int) -> None:
        images, targets = batch
        losses = self._losses(images, targets)
        self.log("val/loss", sum(losses.values()), prog_bar=True, batch_size=len(images))
        heads: Any = self.network.model.roi_heads
        # A precision-recall curve needs the unsure detections too.
        usual, heads.score_thresh = heads.score_thresh, 0.05
        found = self.network(images)
        heads.score_thresh = usual
        shapes = [image.shape[-2:] for image in images]
        self.precision_50.update(
            [_pasted(item, shape) for item, shape in zip(found, shapes, strict=True)],
            [{**item, "masks": item["masks"].bool()} for item in targets],
        )

    def on_validation_epoch_start(self) -> None:
        from torchmetrics.detection import MeanAveragePrecision

        metric = MeanAveragePrecision(iou_type="segm", iou_thresholds=[0.5])
        self.precision_50 = metric.to(self.device)
        self.precision_50.warn_on_many_detections = False

    def on_validation_epoch_end(self) -> None:
        values = self.precision_50.compute()
        self.log("val/ap50", values["map_50"], prog_bar=True)
        for size in ("small", "medium", "large"):
            self.log(f"val/ap50_{size}", values[f"map_{size}"])

    def _losses(self, images: list[torch.Tensor], targets: list[dict]) -> dict[str, torch.Tensor]:
        """Losses with the normalisation of evaluation: torchvision gives none in that mode."""
        self.network.train()
        for part in self.network.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.eval()
        try:
            return self.network(images, targets)
        finally:
            self.network.eval()


def _pasted(found: dict[str, torch.Tensor], shape: Sequence[int]) -> dict[str, torch.Tensor]:
    masks = paste_masks_in_image(found["masks"], found["boxes"], tuple(shape))[:, 0] > 0.5
    return {"masks": masks, "scores": found["scores"], "labels": found["labels"]}
