"""The Mask R-CNN's training: targets, losses, validation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import lightning
import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn
from torchmetrics.detection import MeanAveragePrecision
from torchvision.models.detection.roi_heads import paste_masks_in_image

from autofit_ml.segmentation.maskrcnn import NARROWEST
from autofit_ml.segmentation.network import NetworkSettings, Preprocessing, describe, prepare
from autofit_ml.segmentation.trainable import TrainableNetwork
from autofit_ml.simulation.dataset import SOURCE_COLUMNS, SOURCE_KINDS
from autofit_ml.weights.settings import tuples
from optimiser import configure

__all__ = ["SegmentModule", "SegmentTransform", "segment_collate"]

_SNR, _PIXELS = SOURCE_COLUMNS.index("snr"), SOURCE_COLUMNS.index("n_pixels")


@dataclass(frozen=True)
class SegmentTransform:
    """From an item of a `ShardDataset` to the network's channels and targets.

    Attributes
    ----------
    preprocessing : Preprocessing
    min_pixels, min_snr : number
        Sources with less are not asked for.
    sky_error, noise_error, psf_error, masked, binned : float
        See conf/model/segment.yaml.
    largest : int
        Images with a longer side are binned 2 x 2: large galaxies are found on binned images.
    augment : bool
        Flips, quarter turns, and the errors above; False for validation.
    """

    preprocessing: Preprocessing
    min_pixels: int = 5
    min_snr: float = 5.0
    sky_error: float = 0.1
    noise_error: float = 0.05
    psf_error: float = 0.03
    masked: float = 0.1
    binned: float = 0.15
    largest: int = 160
    augment: bool = True

    def __call__(self, item: Mapping[str, Any]) -> dict[str, Any]:
        data, labels, mask = item["data"], item["labels"], item["mask"]
        sky, rms, fwhm = item["sky"], item["sky_rms"], item["psf_fwhm"]
        often = self.binned if self.augment else 0.0
        if max(data.shape) > self.largest or float(torch.rand(())) < often:
            data, labels, mask, rms = _halved(data, labels, mask, sky, rms)
            fwhm = (fwhm / 2).clamp_min(NARROWEST)
        if self.augment:
            turns, flip = int(torch.randint(4, ())), bool(torch.randint(2, ()))
            planes = [torch.rot90(plane, turns) for plane in (data, labels, mask)]
            data, labels, mask = (plane.flip(-1) if flip else plane for plane in planes)
            sky = sky + rms * self.sky_error * torch.randn(())
            rms = rms * (self.noise_error * torch.randn(())).exp()
            fwhm = fwhm * (self.psf_error * torch.randn(())).exp()
            if float(torch.rand(())) < self.masked:
                mask = mask | _block(data.shape)
        image = prepare(data, sky, rms, fwhm, mask, self.preprocessing)
        sources, stars = item["sources"], item["classes"] == SOURCE_KINDS.index("star")
        wanted = (sources[:, _PIXELS] >= self.min_pixels) & (sources[:, _SNR] >= self.min_snr)
        return {"image": image, **_targets(labels, wanted, stars, self.min_pixels)}


def _block(shape: Sequence[int]) -> torch.Tensor:
    """A masked rectangle; one in three is a column."""
    ny, nx = shape
    height = ny if float(torch.rand(())) < 0.33 else int(torch.randint(3, ny // 4, ()))
    width = 2 if height == ny else int(torch.randint(3, nx // 4, ()))
    y0, x0 = (int(torch.randint(0, side, ())) for side in (ny - height + 1, nx - width + 1))
    mask = torch.zeros(ny, nx, dtype=torch.bool)
    mask[y0 : y0 + height, x0 : x0 + width] = True
    return mask


def _halved(
    data: torch.Tensor,
    labels: torch.Tensor,
    mask: torch.Tensor,
    sky: torch.Tensor,
    rms: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Means over 2 x 2 pixels, the label that most of them have, and the scatter of the sky."""
    ny, nx = (side - side % 2 for side in data.shape)
    blocks = [
        plane[:ny, :nx].reshape(ny // 2, 2, nx // 2, 2).transpose(1, 2).flatten(2)
        for plane in (data, labels, mask.int())
    ]
    data, mask = blocks[0].mean(-1), blocks[2].sum(-1) > 1
    labels = blocks[1].mode(-1).values
    empty = data[(labels == 0) & ~mask] - sky
    if empty.numel() >= 200:
        low, high = torch.quantile(empty, torch.tensor([0.1587, 0.5])).tolist()
        rms = torch.as_tensor(max(high - low, 0.3 * float(rms)), dtype=rms.dtype)
    else:
        rms = rms / 2  # white noise
    return data, labels, mask, rms


def _targets(
    labels: torch.Tensor, wanted: torch.Tensor, stars: torch.Tensor, least: int
) -> dict[str, Any]:
    """torchvision's detection targets of the wanted sources that are in the image."""
    boxes, classes, masks = [], [], []
    for k in torch.nonzero(wanted).flatten().tolist():
        own = labels == k + 1
        if int(own.sum()) < least:  # less than was simulated, where the image is binned
            continue
        rows, columns = torch.nonzero(own.any(1)).flatten(), torch.nonzero(own.any(0)).flatten()
        boxes.append([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
        classes.append(2 if stars[k] else 1)
        masks.append(own)
    ny, nx = labels.shape
    return {
        "boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        "labels": torch.tensor(classes, dtype=torch.int64),
        "masks": torch.stack(masks).to(torch.uint8)
        if masks
        else torch.zeros((0, ny, nx), dtype=torch.uint8),
    }


def segment_collate(items: Sequence[dict[str, Any]]) -> tuple[list[torch.Tensor], list[dict]]:
    """Images and targets, as torchvision's detectors take them."""
    images = [item["image"] for item in items]
    keys = ("boxes", "labels", "masks")
    return images, [{key: item[key] for key in keys} for item in items]


class SegmentModule(lightning.LightningModule):
    """Losses of torchvision's Mask R-CNN, summed; validation loss and AP50 of the masks."""

    def __init__(self, config: DictConfig, total_steps: int) -> None:
        super().__init__()
        self.config, self.total_steps = config, total_steps
        self.network = TrainableNetwork(
            NetworkSettings(**_plain(config.network)), Preprocessing(**_plain(config.preprocessing))
        )
        self.precision_50 = MeanAveragePrecision(iou_type="segm", iou_thresholds=[0.5])
        self.precision_50.warn_on_many_detections = False

    def transform(self, augment: bool) -> SegmentTransform:
        """For the data module."""
        return SegmentTransform(
            self.network.preprocessing,
            **_plain(self.config.instances),
            **_plain(self.config.augment),
            augment=augment,
        )

    def describe(self) -> dict[str, Any]:
        """For a bundle's ``config.json``."""
        return describe(self.network)

    def training_step(self, batch: Any, index: int) -> torch.Tensor:
        images, targets = batch
        losses = self.network(images, targets)
        total = sum(losses.values())
        if not torch.isfinite(total):
            raise FloatingPointError(
                f"the loss is {float(total)} at step {self.global_step}: "
                + ", ".join(f"{name} {float(value):.3g}" for name, value in losses.items())
            )
        self.log_dict({f"train/{name}": value.detach() for name, value in losses.items()})
        self.log("train/loss", total.detach(), prog_bar=True, batch_size=len(images))
        return total

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

    def on_validation_epoch_end(self) -> None:
        values = self.precision_50.compute()
        self.precision_50.reset()
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

    def configure_optimizers(self) -> Any:
        return configure(self.network, self.config.optimiser, self.total_steps)


def _pasted(found: dict[str, torch.Tensor], shape: Sequence[int]) -> dict[str, torch.Tensor]:
    masks = paste_masks_in_image(found["masks"], found["boxes"], tuple(shape))[:, 0] > 0.5
    return {"masks": masks, "scores": found["scores"], "labels": found["labels"]}


def _plain(values: Any) -> dict[str, Any]:
    return tuples(cast(dict[str, Any], OmegaConf.to_container(values, resolve=True)))
