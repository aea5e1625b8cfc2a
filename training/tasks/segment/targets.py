"""The network's channels and torchvision's targets from simulated images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from autofit_ml.measure import mode_of_sky
from autofit_ml.segmentation.channels import Preprocessing, prepare
from autofit_ml.segmentation.maskrcnn import NARROWEST
from autofit_ml.simulation.dataset import SOURCE_COLUMNS, SOURCE_KINDS

__all__ = ["Augmentation", "Instances", "SegmentTransform", "collate"]

_SNR, _PIXELS = SOURCE_COLUMNS.index("snr"), SOURCE_COLUMNS.index("n_pixels")

_LEAST_SCATTER = 0.1
"""Of a measured sky, units of the known one's, as where networks are used."""


@dataclass(frozen=True)
class Instances:
    """Selection of the sources that the network is asked for.

    Attributes
    ----------
    min_pixels : int
        Of the mask.
    min_snr : float
    """

    min_pixels: int
    min_snr: float


@dataclass(frozen=True)
class Augmentation:
    """Errors of what is measured on real images, besides mirror images and turns.

    Attributes
    ----------
    measured : float
        Share of images whose sky is measured on them, as it is where networks are used.
    sky_error : float
        Scatter of the sky level of the others, units of the sky noise.
    noise_error : float
        Relative scatter of their sky noise.
    psf_error : float
        Relative scatter of the PSF's width.
    masked : float
        Probability of a masked block or column.
    binned : float
        Probability of an image binned 2 x 2.
    """

    measured: float
    sky_error: float
    noise_error: float
    psf_error: float
    masked: float
    binned: float


@dataclass(frozen=True)
class SegmentTransform:
    """Transform of an item of a `ShardDataset` into the network's channels and targets.

    Attributes
    ----------
    preprocessing : Preprocessing
    instances : Instances
    augment : Augmentation or None
        None for validation: images as they are.
    largest : int
        Images with a longer side are binned 2 x 2: large galaxies are found on binned images.
    """

    preprocessing: Preprocessing
    instances: Instances
    augment: Augmentation | None = None
    largest: int = 160

    def __call__(self, item: Mapping[str, Any]) -> dict[str, Any]:
        data, labels, mask = item["data"], item["labels"], item["mask"]
        sky, rms, fwhm = item["sky"], item["sky_rms"], item["psf_fwhm"]
        augment, least = self.augment, self.instances.min_pixels
        often = 0.0 if augment is None else augment.binned
        if max(data.shape) > self.largest or float(torch.rand(())) < often:
            data, labels, mask, rms = _halved(data, labels, mask, sky, rms)
            fwhm = (fwhm / 2).clamp_min(NARROWEST)
        if augment is not None:
            turns, flip = int(torch.randint(4, ())), bool(torch.randint(2, ()))
            planes = [torch.rot90(plane, turns) for plane in (data, labels, mask)]
            data, labels, mask = (plane.flip(-1) if flip else plane for plane in planes)
            if float(torch.rand(())) < augment.measured:
                level, scatter = mode_of_sky((data[~mask] / rms).numpy(), 1.0)
                sky, rms = level * rms, max(scatter, _LEAST_SCATTER) * rms
            else:
                sky = sky + rms * augment.sky_error * torch.randn(())
                rms = rms * (augment.noise_error * torch.randn(())).exp()
            fwhm = fwhm * (augment.psf_error * torch.randn(())).exp()
            if float(torch.rand(())) < augment.masked:
                mask = mask | _block(data.shape)
        image = prepare(data, sky, rms, fwhm, mask, self.preprocessing)
        sources, stars = item["sources"], item["classes"] == SOURCE_KINDS.index("star")
        wanted = (sources[:, _PIXELS] >= least) & (sources[:, _SNR] >= self.instances.min_snr)
        return {"image": image, **_targets(labels, wanted, stars, least)}


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


def collate(items: Sequence[dict[str, Any]]) -> tuple[list[torch.Tensor], list[dict]]:
    """Images and targets, as torchvision's detectors take them."""
    images = [item["image"] for item in items]
    keys = ("boxes", "labels", "masks")
    return images, [{key: item[key] for key in keys} for item in items]
