"""Cut-outs of our own renderer's galaxies, with footprints by construction."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from autofit_ml.initialisation.cutouts import PSF_SIDE, SIDE
from autofit_ml.initialisation.network import USUAL_LN_N
from autofit_ml.weights.manifest import tuples
from training.endless import EndlessSersic, EndlessSettings
from training.settings import Entry
from training.tasks.initialise.measure import (
    FIELDS,
    centroids,
    contamination,
    joined,
    scalars_of,
)

__all__ = ["cut_endless", "endless_cut_outs"]


def endless_cut_outs(
    entry: Entry, seed: int, device: torch.device | str = "cpu"
) -> dict[str, torch.Tensor]:
    """Cut-outs of an endless entry: objects that fill the square as `cut_outs` would let them.

    Parameters
    ----------
    entry : mapping
        ``endless``: fields of `EndlessSettings`; ``count``.
    seed : int
    device : torch.device or str
        Where they are drawn; the result is on the host.
    """
    settings = EndlessSettings(shape=(SIDE, SIDE), psf_size=PSF_SIDE, **tuples(entry["endless"]))
    source = EndlessSersic(settings, 128, seed=seed, device=device)
    parts, count, step = [], 0, 0
    while count < int(entry["count"]):
        part = cut_endless(source.batch(step))
        parts.append(part)
        count += len(part["known"])
        step += 1
    return {name: plane[: int(entry["count"])] for name, plane in joined(parts).items()}


def cut_endless(batch: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """`cut_outs` for a batch of stamps that are already as large as the square."""
    rms = batch["sky_rms"][:, None, None]
    data = (batch["image"] - batch["sky"][:, None, None]) / rms
    root_weight = rms / batch["sigma"]
    footprint = batch["labels"] == 1
    others = (batch["labels"] > 1).to(data.dtype)[:, None]
    grown = torch.nn.functional.max_pool2d(others, 3, 1, 1)[:, 0] > 0
    masked = grown & ~footprint
    bare, data = data, data.masked_fill(masked, 0.0)
    root_weight = root_weight.masked_fill(masked, 0.0)
    centre = centroids(torch.where(footprint, data, 0.0).clamp_min(0.0), footprint)
    fwhm = batch["psf_fwhm"].clamp_min(1.0)
    radius = torch.maximum((footprint.sum((1, 2)) / torch.pi).sqrt(), fwhm / 2)
    # What is larger is binned, what is not detected has no footprint.
    usual = (radius <= 0.375 * SIDE) & (footprint.sum((1, 2)) >= 5)
    target = batch["fit"][:, 0].clone()
    target[:, :2] -= centre
    flux = torch.where(footprint, data, 0.0).sum((1, 2)).clamp_min(1.0)
    target[:, 2] -= (flux * batch["sky_rms"]).log()
    target[:, 3] -= (0.5 * radius).log()
    target[:, 4] -= USUAL_LN_N
    out = {
        "data": data,
        "root_weight": root_weight,
        "footprint": footprint,
        "psf": batch["psf"],
        "scalars": scalars_of(
            data,
            root_weight,
            footprint,
            flux,
            radius,
            fwhm,
            contamination(bare, masked, centre, radius),
        ),
        "flux": flux,
        "radius": radius,
        "centre": centre,
        "target": target,
        "known": torch.ones_like(usual),
        "snr": batch["snr"][:, 0],
    }
    return {name: plane[usual].to("cpu", FIELDS[name]) for name, plane in out.items()}
