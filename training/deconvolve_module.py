r"""The deconvolution prior's training: denoising under random coloured noise.

The loss is a mean over modes of :math:`|D(u; q) - x|^2 / g^2`, with g of the skip connection
(`autofit_ml.deconvolve.network`): about 1 where the U-Net adds nothing and the classes describe
the galaxy. Modes are weighted by :math:`1 / |k|^2` (k = 0 like one wave in 64 pixels), so that
each octave counts the same: flux, position and size are in a few long waves, and an error of half a
standard deviation in every pixel would be one of many in k = 0. The weights depend on k alone, so
what is learnt is the conditional mean all the same. Validation logs the loss by the noise level,
beside that of the skip connection alone.
"""

from __future__ import annotations

import math
from typing import Any, cast

import lightning
import torch
from omegaconf import DictConfig, OmegaConf

from autofit_ml.deconvolve.network import DeconvolveNetwork, DeconvolveSettings, Skip, describe
from autofit_ml.deconvolve.spectra import Grid, coloured, fft2, grid_of
from autofit_ml.weights.settings import tuples
from optimiser import configure
from sharp_data import SharpDataModule, SharpGalaxies, central
from sharp_observations import draw_observations, turned
from sharp_sets import make_sharp_sets

__all__ = ["DeconvolveModule", "calibrated_prior", "neighbour_distances"]

_EDGES = (0.1, 1.0, 10.0)
"""Noise levels (units of the data's noise) between the bins of the validation."""


def _weights(grid: Grid) -> torch.Tensor:
    """Of the modes in the loss, (K,); their sum is 1."""
    waves = torch.hypot(grid.ky, grid.kx) * 64 / (2 * math.pi)
    weight = grid.count / waves.clamp_min(1.0).square()
    return weight / weight.sum()


class DeconvolveModule(lightning.LightningModule):
    """Losses of `DeconvolveNetwork`."""

    def __init__(self, config: DictConfig, total_steps: int) -> None:
        super().__init__()
        self.config, self.total_steps = config, total_steps
        given = cast(dict[str, Any], OmegaConf.to_container(config.network, resolve=True))
        self.network = DeconvolveNetwork(DeconvolveSettings(**tuples(given)))
        self._validation: list[tuple[torch.Tensor, ...]] = []

    def describe(self) -> dict[str, Any]:
        """For a bundle's ``config.json``."""
        return describe(self.network)

    def fit_classes(self, galaxies: SharpGalaxies) -> None:
        """Fit the mixture behind the skip connection to a part of the training set."""
        generator = torch.Generator().manual_seed(1)
        side = self.network.settings.side
        members = torch.randperm(galaxies.count(side), generator=generator)
        images = galaxies.of_side(side, members[: self.config.class_images])
        self.network.fit_classes(turned(images, generator))

    def _step(
        self, images: torch.Tensor, generator: torch.Generator | None = None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Loss of each image, that of the skip connection, sigma."""
        observations = self.config.observations
        flux, spectra, sigma = draw_observations(images, observations, generator)
        x = images * flux[:, None, None]
        side = x.shape[-1]
        u = x + coloured(spectra, side, generator)
        autocast = torch.bfloat16 if self.config.bfloat16 and self.training else None
        found, skip = self.network.estimate(u, spectra, autocast=autocast)
        return self._loss(found - x, skip), self._skip_loss(u, spectra, x, skip), sigma

    def _loss(self, error: torch.Tensor, skip: Skip) -> torch.Tensor:
        grid = grid_of(error.shape[-1])
        return (fft2(error).flatten(1) / skip.scale).abs().square() @ _weights(grid)

    @torch.no_grad()
    def _skip_loss(
        self, u: torch.Tensor, spectra: torch.Tensor, x: torch.Tensor, skip: Skip
    ) -> torch.Tensor:
        if self.training:
            return torch.zeros(len(u))
        grid = grid_of(x.shape[-1])
        unit = (spectra.flatten(1).log() @ grid.count / grid.count.sum()).div(2).exp()[:, None]
        error = skip.estimate * unit - fft2(x).flatten(1)
        return (error / skip.scale).abs().square() @ _weights(grid)

    def training_step(self, batch: torch.Tensor, index: int) -> torch.Tensor:
        loss = self._step(turned(self._cropped(batch)))[0].mean()
        if not torch.isfinite(loss):
            raise FloatingPointError(f"the loss is {loss} at step {self.global_step}")
        self.log("train/loss", loss.detach(), prog_bar=True, batch_size=len(batch))
        return loss

    def _cropped(self, images: torch.Tensor) -> torch.Tensor:
        """Some batches as they are, the others' middles: any grid may be asked for later.

        Large ones less often, in proportion to 1 / area: a batch of 160 pixels a side takes six
        times as long as one of 64, and shows as many galaxies. Middles have half the side at
        least, so that large galaxies are cut as by a stamp that is too small, and not to a piece
        of their centre.
        """
        whole = images.shape[-1]
        least = max(int(self.config.least_side), 8 * math.ceil(whole / 16))
        sides = torch.arange(least, whole, 8)
        if not len(sides):
            return images
        usual = min(1.0, (self.config.usual_side / whole) ** 2)
        if float(torch.rand(())) < (1 - self.config.cropped) * usual:
            return images
        place = torch.multinomial(sides.double() ** -2, 1)
        return central(images, int(sides[place]))

    def validation_step(self, batch: torch.Tensor, index: int) -> None:
        generator = torch.Generator().manual_seed(1000 + index)  # the same draws each time
        loss, skip, sigma = self._step(batch, generator)
        side = torch.full_like(sigma, batch.shape[-1])
        self._validation.append((loss, skip, sigma, side))

    def on_validation_epoch_end(self) -> None:
        loss, skip, sigma, side = (torch.cat(part) for part in zip(*self._validation, strict=True))
        self._validation.clear()
        gain = 10 * (skip / loss).log10()
        self.log("val/loss", loss.mean(), prog_bar=True)
        self.log("val/skip", skip.mean())
        self.log("val/gain_db", gain.mean())
        level = torch.bucketize(sigma, torch.tensor(_EDGES))
        for name, of in (("sigma", level), ("side", side.int())):
            for value in of.unique().tolist():
                self.log(f"val/loss_{name}{value}", loss[of == value].mean())
                self.log(f"val/gain_db_{name}{value}", gain[of == value].mean())

    def configure_optimizers(self) -> Any:
        return configure(self.network, self.config.optimiser, self.total_steps)


_USUAL = 0.99
"""Share of simulated galaxies whose misfit is called usual."""


@torch.no_grad()
def calibrated_prior(module: DeconvolveModule, config: DictConfig) -> None:
    """Measure what the network must know once it is trained: the largest usual misfit.

    On galaxies that it was not trained on (``sets.val``), under the training's random
    observations at the level at which sampling starts.
    """
    sets = config.sets
    data = SharpDataModule(
        make_sharp_sets(sets.train, sets.folder, workers=sets.workers),
        make_sharp_sets(sets.val, sets.folder, workers=sets.workers),
        batch_size=256,
    )
    data.setup()
    galaxies = data.sets["val"]
    settings = OmegaConf.merge(module.config.observations, {"prior": 0.0, "white": 0.0})
    assert isinstance(settings, DictConfig)
    generator = torch.Generator().manual_seed(config.seed)
    values = []
    for members in list(data.val_dataloader().sampler) * 4:
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
