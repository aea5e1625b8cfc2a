r"""The deconvolution prior's training: denoising under random coloured noise.

The loss is the mean over modes of :math:`|D(u; q) - x|^2 / g^2`, with g of the skip connection
(`autofit_ml.deconvolve.network`): about 1 where the U-Net adds nothing and the classes describe
the galaxy. Validation logs it by the noise level, beside that of the skip connection alone.
"""

from __future__ import annotations

from typing import Any, cast

import lightning
import torch
from omegaconf import DictConfig, OmegaConf

from autofit_ml.deconvolve.network import DeconvolveNetwork, DeconvolveSettings, Skip, describe
from autofit_ml.deconvolve.spectra import coloured, fft2, grid_of
from autofit_ml.weights.settings import tuples
from optimiser import configure
from sharp_data import SharpGalaxies
from sharp_observations import draw_observations, turned

__all__ = ["DeconvolveModule"]

_EDGES = (0.1, 1.0, 10.0)
"""Noise levels (units of the data's noise) between the bins of the validation."""


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
        """The mixture behind the skip connection, from a part of the training set."""
        generator = torch.Generator().manual_seed(1)
        members = torch.randperm(len(galaxies), generator=generator)[: self.config.class_images]
        self.network.fit_classes(turned(galaxies[members], generator))

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
        relative = (fft2(error).flatten(1) / skip.scale).abs().square()
        return relative @ grid.count / grid.count.sum()

    @torch.no_grad()
    def _skip_loss(
        self, u: torch.Tensor, spectra: torch.Tensor, x: torch.Tensor, skip: Skip
    ) -> torch.Tensor:
        if self.training:
            return torch.zeros(len(u))
        grid = grid_of(x.shape[-1])
        unit = (spectra.flatten(1).log() @ grid.count / grid.count.sum()).div(2).exp()[:, None]
        error = skip.estimate * unit - fft2(x).flatten(1)
        return (error / skip.scale).abs().square() @ grid.count / grid.count.sum()

    def training_step(self, batch: torch.Tensor, index: int) -> torch.Tensor:
        loss = self._step(turned(batch))[0].mean()
        if not torch.isfinite(loss):
            raise FloatingPointError(f"the loss is {loss} at step {self.global_step}")
        self.log("train/loss", loss.detach(), prog_bar=True, batch_size=len(batch))
        return loss

    def validation_step(self, batch: torch.Tensor, index: int) -> None:
        generator = torch.Generator().manual_seed(1000 + index)  # the same draws each time
        self._validation.append(self._step(batch, generator))

    def on_validation_epoch_end(self) -> None:
        loss, skip, sigma = (torch.cat(part) for part in zip(*self._validation, strict=True))
        self._validation.clear()
        self.log("val/loss", loss.mean(), prog_bar=True)
        self.log("val/skip", skip.mean())
        self.log("val/gain_db", 10 * (skip / loss).log10().mean())
        level = torch.bucketize(sigma, torch.tensor(_EDGES))
        for k in range(len(_EDGES) + 1):
            some = level == k
            if some.any():
                self.log(f"val/loss_sigma{k}", loss[some].mean())
                self.log(f"val/gain_db_sigma{k}", 10 * (skip / loss)[some].log10().mean())

    def configure_optimizers(self) -> Any:
        return configure(self.network, self.config.optimiser, self.total_steps)
