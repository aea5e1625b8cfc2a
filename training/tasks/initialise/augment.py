"""Other views of the same cut-outs: what a batch of the initialiser's training goes through.

Mirrored and turned by quarters; noisier; with an error of the sky and of the PSF's width; with
masks. What the network is given relative to the image (centre, radius, flux, scalars) is measured
anew, as `autofit_ml.initialisation.cutouts` would have measured it on such an image.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from training.tasks.initialise.measure import centroids, scalars_of

__all__ = ["Augmentation", "Masks", "augment", "masks"]

Batch = dict[str, torch.Tensor]

_LEAST = 0.3
"""Share of the footprint that a mask must leave: of what shows less, nothing is to be learnt."""


@dataclass(frozen=True)
class Masks:
    """Masked blocks.

    Attributes
    ----------
    share : float
        Of the images, that have one.
    large : float
        Of these, a rectangle a fifth to half of the side wide and high.
    edge : float
        Of these, a strip along a border, an eighth to half of the side deep, as at the border of a
        detector; the others are small.
    object : float
        Of all, a band across the object that hides 25 to 40 % of its footprint.
    """

    share: float
    large: float
    edge: float
    object: float


@dataclass(frozen=True)
class Augmentation:
    """Ranges by which augmented views differ.

    Attributes
    ----------
    noise : float
        Largest added noise, units of the image's own.
    sky_error : float
        Units of the sky noise.
    psf_error : float
        Relative scatter of the power that the PSF is raised to.
    masked : Masks
    """

    noise: float
    sky_error: float
    psf_error: float
    masked: Masks


def augment(batch: Batch, settings: Augmentation) -> Batch:
    """Another view of the same objects.

    Parameters
    ----------
    batch : dict of Tensor
        Fields of `measure.FIELDS`.
    settings : Augmentation

    Returns
    -------
    dict of Tensor
        With images and PSFs in float32.
    """
    out = _turned(batch)
    data, root_weight, footprint = out["data"], out["root_weight"], out["footprint"]
    b, device = len(data), data.device

    usable = root_weight > 0
    extra = _coin(0.5, b, device) * torch.rand(b, device=device) * settings.noise
    noisier = (1 + extra.square()).sqrt()[:, None, None]
    data = (data + extra[:, None, None] * torch.randn_like(data)) / noisier
    variance = root_weight.clamp_min(1e-6).pow(-2) + extra.square()[:, None, None]
    root_weight = torch.where(usable, noisier / variance.sqrt(), 0.0)
    data = data + settings.sky_error * torch.randn(b, 1, 1, device=device)
    sharper = 1 + settings.psf_error * torch.randn(b, 1, 1, device=device)
    psf = out["psf"].clamp_min(0).pow(sharper)
    out.update(
        data=data.masked_fill(~usable, 0.0),
        root_weight=root_weight,
        psf=psf / psf.sum((1, 2), keepdim=True),
    )
    out["target"][:, 2] += (batch["flux"] / noisier[:, 0, 0]).log()

    masked = masks(footprint, settings.masked)
    hidden = masked.any(2).any(1)
    if hidden.any():
        some = hidden.nonzero()[:, 0]
        out.update(_hidden(out, some, masked[some]))

    data, footprint = out["data"], out["footprint"]
    flux = torch.where(footprint, data, 0.0).sum((1, 2)).clamp_min(1.0)
    out["target"][:, 2] -= flux.log()
    fwhm = batch["scalars"][:, 1].exp()
    others = batch["scalars"][:, 5].expm1() * batch["flux"] / noisier[:, 0, 0]
    scalars = scalars_of(data, out["root_weight"], footprint, flux, out["radius"], fwhm, others)
    scalars[:, 4] = batch["scalars"][:, 4]
    out.update(scalars=scalars, flux=flux)
    return out


def _coin(share: float, number: int, device: torch.device) -> torch.Tensor:
    return torch.rand(number, device=device) < share


def _turned(batch: Batch) -> Batch:
    """Mirrored, and turned by quarters; position and ellipticity follow."""
    planes = [batch[name].float() for name in ("data", "root_weight", "psf")]
    planes.append(batch["footprint"])
    target, centre = batch["target"].clone(), batch["centre"].clone()
    b, device = len(target), target.device
    side = planes[0].shape[-1] - 1.0
    for axis in (-1, -2):
        flip = _coin(0.5, b, device)
        where = flip[:, None, None]
        planes = [torch.where(where, plane.flip(axis), plane) for plane in planes]
        column = 0 if axis == -1 else 1
        centre[:, column] = torch.where(flip, side - centre[:, column], centre[:, column])
        for k in (column, 6):
            target[:, k] = torch.where(flip, -target[:, k], target[:, k])
    swap = _coin(0.5, b, device)
    where = swap[:, None, None]
    planes = [torch.where(where, plane.transpose(-1, -2), plane) for plane in planes]
    centre = torch.where(swap[:, None], centre.flip(1), centre)
    target[:, :2] = torch.where(swap[:, None], target[:, :2].flip(1), target[:, :2])
    target[:, 5] = torch.where(swap, -target[:, 5], target[:, 5])
    data, root_weight, psf, footprint = planes
    out = dict(batch)
    out.update(
        data=data, root_weight=root_weight, psf=psf, footprint=footprint,
        target=target, centre=centre,
    )  # fmt: skip
    return out


# ------------------------------------------------------------------ masks


def masks(footprint: torch.Tensor, settings: Masks) -> torch.Tensor:
    """Masked pixels of some of the images, (B, side, side).

    Parameters
    ----------
    footprint : Tensor, bool, shape (B, side, side)
    settings : Masks

    Notes
    -----
    No mask hides more than 70 % of a footprint; where it would, there is none.
    """
    b, side = len(footprint), footprint.shape[-1]
    device = footprint.device
    kind = torch.rand(b, device=device)
    large = kind < settings.large
    edge = kind > 1 - settings.edge
    along = torch.rand(b, device=device) < 0.5
    far = torch.rand(b, device=device) < 0.5
    pixels = torch.arange(side, device=device)
    inside = torch.ones_like(footprint)
    for axis in (1, 2):
        width = torch.randint(2, side // 5, (b,), device=device)
        width = torch.where(
            large, torch.randint(side // 5, side // 2 + 1, (b,), device=device), width
        )
        low = torch.randint(0, side - 3, (b,), device=device)
        depth = torch.randint(side // 8, side // 2 + 1, (b,), device=device)
        whole = along if axis == 1 else ~along
        width = torch.where(edge, torch.where(whole, side, depth), width)
        low = torch.where(edge, torch.where(~whole & far, side - depth, 0), low)
        within = (pixels >= low[:, None]) & (pixels < (low + width)[:, None])
        inside &= within[:, :, None] if axis == 1 else within[:, None, :]
    left = (footprint & ~inside).sum((1, 2)) / footprint.sum((1, 2)).clamp_min(1)
    which = _coin(settings.share, b, device) & (left >= _LEAST)
    bands = _coin(settings.object, b, device) & footprint.any(2).any(1)
    inside = torch.where(bands[:, None, None], _band(footprint), inside)
    return inside & (which | bands)[:, None, None]


def _band(footprint: torch.Tensor) -> torch.Tensor:
    """Rows or columns that hold a quarter to two fifths of the footprint, (B, side, side)."""
    b, device = len(footprint), footprint.device
    share = 0.25 + 0.15 * torch.rand(b, 1, device=device)
    first = (1 - share) * torch.rand(b, 1, device=device)
    rows = _coin(0.5, b, device)[:, None]
    counts = torch.where(rows, footprint.sum(2), footprint.sum(1)).cumsum(1)
    below = counts / counts[:, -1:].clamp_min(1)
    hidden = (below > first) & (below <= first + share)
    return torch.where(rows[:, :, None], hidden[:, :, None], hidden[:, None, :])


def _hidden(batch: Batch, some: torch.Tensor, masked: torch.Tensor) -> Batch:
    """Hide some of the objects behind masks; return the changed fields of the whole batch.

    Half of the segmentations end at the mask, as the pipeline's do; labels that came with the
    image go on behind it. The square moves with the centre of the light that is left.
    """
    part = {name: batch[name][some] for name in ("data", "root_weight", "footprint")}
    footprint, radius = part["footprint"], batch["radius"][some]
    ends = _coin(0.5, len(some), some.device)[:, None, None] & masked
    before = footprint.sum((1, 2)).clamp_min(1)
    part["footprint"] = footprint & ~ends
    part["data"] = part["data"].masked_fill(masked, 0.0)
    part["root_weight"] = part["root_weight"].masked_fill(masked, 0.0)
    shrunk = radius * (part["footprint"].sum((1, 2)) / before).sqrt()
    smallest = 0.5 * batch["scalars"][some, 1].exp()
    shrunk = torch.minimum(torch.maximum(shrunk, smallest), radius)
    light = torch.where(part["footprint"], part["data"], 0.0).clamp_min(0.0)
    found = centroids(light, part["footprint"])
    shift = (found + 0.5 - 0.5 * masked.shape[-1]).floor().long()
    target = batch["target"].clone()
    target[some, :2] += batch["centre"][some] - found
    target[some, 3] += (radius / shrunk).log()
    moved = {name: _moved(plane, shift) for name, plane in part.items()}
    moved.update(radius=shrunk, centre=found - shift)
    out = {"target": target}
    for name, values in moved.items():
        out[name] = batch[name].index_copy(0, some, values.to(batch[name].dtype))
    return out


def _moved(plane: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    """The plane seen from (x, y) whole pixels further on, zero beyond its border."""
    b, side = len(plane), plane.shape[-1]
    pixels = torch.arange(side, device=plane.device)
    columns, rows = (pixels + shift[:, k, None] for k in (0, 1))
    beyond = [(places < 0) | (places >= side) for places in (columns, rows)]
    members = torch.arange(b, device=plane.device)[:, None, None]
    seen = plane[members, rows.clamp(0, side - 1)[:, :, None], columns.clamp(0, side - 1)[:, None]]
    return seen.masked_fill(beyond[0][:, None, :] | beyond[1][:, :, None], 0)
