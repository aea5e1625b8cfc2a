r"""The deconvolution prior's training: denoising under random coloured noise.

The loss is a mean over modes of :math:`|D(u; q) - x|^2 / g^2`, with g of the skip connection
(`autofit_ml.deconvolution.network`): about 1 where the U-Net adds nothing and the classes describe
the galaxy. Modes are weighted by :math:`1 / |k|^2` (k = 0 like one wave in 64 pixels), so that
each octave counts the same: flux, position and size are in a few long waves, and an error of half a
standard deviation in every pixel would be one of many in k = 0. The weights depend on k alone, so
what is learnt is the conditional mean all the same. Validation logs the loss by the noise level,
beside that of the skip connection alone.
"""

from __future__ import annotations

import dataclasses
import math
import random
from dataclasses import dataclass
from typing import Any

import torch

from autofit_ml.deconvolution.network import DeconvolveNetwork, DeconvolveSettings, describe
from autofit_ml.deconvolution.spectra import Grid, coloured, fft2, grid_of
from training.memory import Batches
from training.module import NetworkModule
from training.optimiser import OptimiserSettings
from training.tasks.deconvolve.classes import fit_classes
from training.tasks.deconvolve.galaxies import SharpGalaxies, central
from training.tasks.deconvolve.observations import Observations, draw_observations, turned

__all__ = [
    "DeconvolveModule",
    "DeconvolveTraining",
    "measure_usual_misfit",
    "neighbour_distances",
]

_EDGES = (0.1, 1.0, 10.0)
"""Noise levels (units of the data's noise) between the bins of the validation."""


@dataclass(frozen=True)
class DeconvolveTraining:
    """``conf/model/deconvolve.yaml``.

    Attributes
    ----------
    network : DeconvolveSettings
    class_images : int
        That the mixture of the skip connection is fitted to.
    cropped : float
        Share of batches of which only the middles are used.
    usual_side : int
        Of larger images more: whole ones in proportion to 1 / area.
    least_side : int
        Of the middles, which have half the side at least.
    bfloat16 : bool
        The U-Net's precision in training.
    observations : Observations
    optimiser : OptimiserSettings
    """

    network: DeconvolveSettings
    class_images: int
    cropped: float
    usual_side: int
    least_side: int
    bfloat16: bool
    observations: Observations
    optimiser: OptimiserSettings


def _weights(grid: Grid) -> torch.Tensor:
    """Weights of the modes in the loss, (K,); their sum is 1."""
    waves = torch.hypot(grid.ky, grid.kx) * 64 / (2 * math.pi)
    weight = grid.count / waves.clamp_min(1.0).square()
    return weight / weight.sum()


class DeconvolveModule(NetworkModule):
    """Losses of `DeconvolveNetwork`."""

    def __init__(self, settings: DeconvolveTraining, total_steps: int) -> None:
        super().__init__(DeconvolveNetwork(settings.network), settings.optimiser, total_steps)
        self.settings = settings
        self._validation: list[tuple[torch.Tensor, ...]] = []

    def describe(self) -> dict[str, Any]:
        return describe(self.network)

    def fit_classes(self, galaxies: SharpGalaxies) -> None:
        """Fit the mixture behind the skip connection to a part of the training set."""
        generator = torch.Generator().manual_seed(1)
        side = self.network.settings.side
        members = torch.randperm(galaxies.count(side), generator=generator)
        images = galaxies.of_side(side, members[: self.settings.class_images])
        fit_classes(self.network, turned(images, generator))

    def losses(
        self, images: torch.Tensor, generator: torch.Generator | None = None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Loss of each image, in validation that of the skip connection, sigma; all (B,).

        Parameters
        ----------
        images : Tensor, shape (B, G, G)
            Of unit flux.
        generator : torch.Generator, optional
        """
        # A trainer's half precision is not for Fourier space.
        with torch.autocast(images.device.type, enabled=False):
            flux, spectra, sigma = draw_observations(images, self.settings.observations, generator)
            x = images * flux[:, None, None]
            side = x.shape[-1]
            u = x + coloured(spectra, side, generator)
            bfloat16 = self.settings.bfloat16 and self.training
            found, skip = self.network.estimate(
                u, spectra, autocast=torch.bfloat16 if bfloat16 else None
            )
            grid = grid_of(side, str(u.device))
            weights = _weights(grid)
            loss = (fft2(found - x).flatten(1) / skip.scale).abs().square() @ weights
            alone = torch.zeros_like(loss)
            if not self.training:
                unit = spectra.flatten(1).log() @ grid.count / grid.count.sum()
                error = skip.estimate * unit.div(2).exp()[:, None] - fft2(x).flatten(1)
                alone = (error / skip.scale).abs().square() @ weights
        return loss, alone, sigma

    def loss(self, batch: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        return self.losses(turned(self._cropped(batch)))[0].mean(), {}

    def _cropped(self, images: torch.Tensor) -> torch.Tensor:
        """Some batches as they are, the others' middles: any grid may be asked for later.

        Large ones less often, in proportion to 1 / area: a batch of 160 pixels a side takes six
        times as long as one of 64, and shows as many galaxies. Middles have half the side at
        least, so that large galaxies are cut as by a stamp that is too small, and not to a piece
        of their centre.
        """
        whole, settings = images.shape[-1], self.settings
        least = max(settings.least_side, 8 * math.ceil(whole / 16))
        sides = range(least, whole, 8)
        usual = min(1.0, (settings.usual_side / whole) ** 2)
        if not sides or random.random() < (1 - settings.cropped) * usual:
            return images
        return central(images, random.choices(sides, [side**-2.0 for side in sides])[0])

    def validation_step(self, batch: torch.Tensor, index: int) -> None:
        generator = torch.Generator().manual_seed(1000 + index)  # the same draws each time
        losses = self.losses(batch, generator)
        side = torch.full((len(batch),), batch.shape[-1])
        self._validation.append((*(part.cpu() for part in losses), side))

    def on_validation_epoch_end(self) -> None:
        loss, skip, sigma, side = (torch.cat(part) for part in zip(*self._validation, strict=True))
        self._validation.clear()
        gain = 10 * (skip / loss).log10()
        self.log("val/loss", loss.mean(), prog_bar=True)
        self.log("val/skip", skip.mean())
        self.log("val/gain_db", gain.mean())
        level = torch.bucketize(sigma, torch.tensor(_EDGES))
        for name, of in (("sigma", level), ("side", side)):
            for value in of.unique().tolist():
                self.log(f"val/loss_{name}{value}", loss[of == value].mean())
                self.log(f"val/gain_db_{name}{value}", gain[of == value].mean())


_USUAL = 0.99
"""Share of simulated galaxies whose misfit is called usual."""


@torch.no_grad()
def measure_usual_misfit(module: DeconvolveModule, galaxies: SharpGalaxies, seed: int) -> None:
    """Measure what the network must know once it is trained: the largest usual misfit.

    Under the training's random observations at the level at which sampling starts.

    Parameters
    ----------
    module : DeconvolveModule
    galaxies : SharpGalaxies
        That it was not trained on.
    seed : int
    """
    settings = dataclasses.replace(module.settings.observations, prior=0.0, white=0.0)
    generator = torch.Generator().manual_seed(seed)
    values = []
    for members in list(Batches(galaxies.groups, 256, seed, shuffle=False)) * 4:
        images = turned(galaxies[members], generator)
        side = images.shape[-1]
        flux, spectra, sigma = draw_observations(images, settings, generator)
        gain = (1 / spectra - sigma[:, None, None] ** -2).clamp_min(0)
        high = (4 * flux / side).clamp_min(10.0)
        spectra = 1 / (high[:, None, None] ** -2 + gain)
        u = images * flux[:, None, None] + coloured(spectra, side, generator)
        values.append(module.network.misfit(u, spectra))
    largest = torch.cat(values).sort().values
    place = min(int(_USUAL * len(largest)), len(largest) - 1)
    module.network.get_buffer("usual_misfit").copy_(largest[place])


@torch.no_grad()
def neighbour_distances(images: torch.Tensor, galaxies: SharpGalaxies) -> torch.Tensor:
    """Relative distance of each image to the nearest training image, its turns included, (N,).

    :math:`\\min_j |x - x_j| / |x|` for images of unit flux: 0 for a copy. The distances of
    held-out simulations, measured the same way, are what to compare with.
    """
    points = images.flatten(1)
    best = torch.full((len(images),), torch.inf)
    side = images.shape[-1]
    for members in torch.arange(galaxies.count(side)).split(2000):
        some = galaxies.of_side(side, members)
        for turn in range(8):
            seen = some.transpose(-1, -2) if turn & 4 else some
            seen = seen.flip(-1) if turn & 1 else seen
            seen = seen.flip(-2) if turn & 2 else seen
            best = torch.minimum(best, torch.cdist(points, seen.flatten(1)).amin(1))
    return best / points.norm(dim=1)
