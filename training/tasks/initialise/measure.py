"""Measurements that the network gets beside a cut-out's pixels, made on the device.

The same quantities as `autofit_ml.initialisation.cutouts` measures on the host.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch

from autofit_ml.errors import InputError
from autofit_ml.initialisation.cutouts import SIDE

__all__ = ["FIELDS", "centroids", "contamination", "joined", "scalars_of"]

FIELDS: dict[str, torch.dtype] = {
    "data": torch.float16,
    "root_weight": torch.float16,
    "footprint": torch.bool,
    "psf": torch.float16,
    "scalars": torch.float32,
    "flux": torch.float32,
    "radius": torch.float32,
    "centre": torch.float32,
    "target": torch.float32,
    "known": torch.bool,
    "snr": torch.float32,
}
"""As in `autofit_ml.initialisation.cutouts.Cutouts`, and ``target`` (B, 7): relative parameters."""


def scalars_of(
    data: torch.Tensor,
    root_weight: torch.Tensor,
    footprint: torch.Tensor,
    flux: torch.Tensor,
    radius: torch.Tensor,
    fwhm: torch.Tensor,
    others: torch.Tensor,
) -> torch.Tensor:
    """`autofit_ml.initialisation.cutouts.SCALARS`, (B, 6), given the weighted light of others."""
    number = footprint.sum((1, 2)).clamp_min(1)
    peak = data.masked_fill(root_weight == 0, 1.0).amax((1, 2))
    columns = [
        radius.log(),
        fwhm.log(),
        (flux / number.sqrt()).clamp_min(1.0).log(),
        peak.clamp_min(1.0).log(),
        torch.ones_like(radius),
        (others / flux).log1p(),
    ]
    return torch.stack([column.to(torch.float32) for column in columns], dim=1)


def contamination(
    data: torch.Tensor, others: torch.Tensor, centre: torch.Tensor, radius: torch.Tensor
) -> torch.Tensor:
    """Weighted light of other objects, (B,), from their pixels before these are masked."""
    pixels = torch.arange(data.shape[-1], dtype=data.dtype, device=data.device)
    dx, dy = pixels - centre[:, :1], pixels - centre[:, 1:]
    distance = (dx.square()[:, None] + dy.square()[:, :, None]) / radius.square()[:, None, None]
    light = torch.where(others, data * (1 + distance) ** -2, 0.0)
    return light.sum((1, 2)).clamp_min(0.0)


def centroids(light: torch.Tensor, footprint: torch.Tensor) -> torch.Tensor:
    """(x, y) of the brighter half of the light, or of the footprint where there is none, (B, 2)."""
    smooth = torch.nn.functional.avg_pool2d(light[:, None], 3, 1, 1)[:, 0]
    weight = torch.where(smooth > 0.5 * smooth.amax((1, 2), keepdim=True), light, 0.0)
    empty = weight.sum((1, 2), keepdim=True) <= 0
    weight = torch.where(empty, footprint.to(light.dtype), weight)
    total = weight.sum((1, 2)).clamp_min(1e-12)
    pixels = torch.arange(SIDE, dtype=light.dtype, device=light.device)
    x = (weight.sum(1) * pixels).sum(1) / total
    y = (weight.sum(2) * pixels).sum(1) / total
    return torch.stack([x, y], dim=1)


def joined(parts: Iterable[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Cut-outs of several parts; cores beyond the range of half precision are left out.

    Raises
    ------
    InputError
        There is none.
    """
    parts = list(parts)
    if not parts:
        raise InputError("a set has no object to learn from", "check its entry in the experiment")
    tensors = {name: torch.cat([part[name] for part in parts]) for name in FIELDS}
    finite = torch.isfinite(tensors["target"]).all(1)
    finite &= torch.isfinite(tensors["data"]).flatten(1).all(1)
    return {name: plane[finite].contiguous() for name, plane in tensors.items()}
