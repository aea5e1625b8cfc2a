"""The mixture of Gaussians in the deconvolution prior's skip connection, from galaxies."""

from __future__ import annotations

import torch

from autofit_ml.deconvolution.network import DeconvolveNetwork
from autofit_ml.deconvolution.spectra import fft2, grid_of, ifft2

__all__ = ["fit_classes"]


@torch.no_grad()
def fit_classes(
    network: DeconvolveNetwork, images: torch.Tensor, seed: int = 0, rounds: int = 20
) -> None:
    """Set a network's classes from images of unit flux (N, side, side): k-means in Fourier space.

    Distances are between transforms at wavelengths above 16/3 pixels, weighted by the inverse
    square root of each mode's variance.
    """
    side, number = network.settings.side, network.settings.classes
    if images.shape[-1] != side:
        raise ValueError(f"images of {images.shape[-1]} pixels, the classes have {side}")
    if len(images) < number:
        raise ValueError(f"{number} classes from {len(images)} images")
    grid = grid_of(side)
    generator = torch.Generator().manual_seed(seed)
    transforms = fft2(images.float()).flatten(1)
    low = transforms[:, grid.low]
    variance = (low - low.mean(0)).abs().square().mean(0)
    weight = (grid.count[grid.low] / variance.clamp_min(1e-12 * variance.max()).sqrt()).sqrt()
    points = torch.view_as_real(low * weight).flatten(1)
    centres = points[torch.randperm(len(points), generator=generator)[:number]]
    member = torch.cdist(points, centres).argmin(1)
    for _ in range(rounds):
        away = (points - centres[member]).square().sum(1)
        for c in range(number):
            some = member == c
            if some.any():
                centres[c] = points[some].mean(0)
            else:  # begin anew at the point that fits worst
                centres[c] = points[away.argmax()]
                away[away.argmax()] = 0
        member = torch.cdist(points, centres).argmin(1)
    whole = (transforms - transforms.mean(0)).abs().square().mean(0) @ grid.gather
    means, powers, shares = [], [], []
    for c in range(number):
        some = transforms[member == c]
        shares.append(max(len(some), 1) / len(points))
        mean = some.mean(0) if len(some) else transforms.mean(0)
        power = (some - mean).abs().square().mean(0) @ grid.gather if len(some) else whole
        # A class of few members does not know its scatter.
        power = (len(some) * power + 5 * whole * 0.1) / (len(some) + 5)
        means.append(ifft2(mean.reshape(grid.shape), side))
        powers.append(power * side**2)
    classes = {
        "class_mean": torch.stack(means),
        "class_power": torch.stack(powers),
        "class_share": torch.tensor(shares),
    }
    network.load_state_dict(classes, strict=False)
