"""Base of the Lightning modules of all networks."""

from __future__ import annotations

from typing import Any

import lightning
import torch

from training.optimiser import OptimiserSettings, configure

__all__ = ["NetworkModule"]


class NetworkModule(lightning.LightningModule):
    """A network, its optimiser, and a loss that must be finite; what inherits adds the losses.

    A checkpoint holds the network's tensors as ``network.*`` and nothing of the settings.

    Parameters
    ----------
    network : torch.nn.Module
    optimiser : OptimiserSettings
    total_steps : int
        Of the whole training, for schedules.
    """

    network: Any

    def __init__(
        self, network: torch.nn.Module, optimiser: OptimiserSettings, total_steps: int
    ) -> None:
        super().__init__()
        self.network = network
        self.optimiser, self.total_steps = optimiser, total_steps

    def describe(self) -> dict[str, Any]:
        """A bundle's ``config.json``, from which `autofit_ml.load` makes the network again."""
        raise NotImplementedError

    def configure_optimizers(self) -> Any:
        return configure(self.network, self.optimiser, self.total_steps)

    def loss(self, batch: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Loss of a batch of the data module, and the terms that it is made of."""
        raise NotImplementedError

    def training_step(self, batch: Any, index: int) -> torch.Tensor:
        """Lightning's: the loss of a batch, logged with its terms.

        Raises
        ------
        FloatingPointError
            The loss is not finite.
        """
        loss, terms = self.loss(batch)
        terms = {name: value.detach() for name, value in terms.items()}
        if not torch.isfinite(loss):
            parts = ", ".join(f"{name} {float(value):.3g}" for name, value in terms.items())
            raise FloatingPointError(
                f"the loss is {float(loss)} at step {self.global_step}" + (parts and f": {parts}")
            )
        self.log_dict({f"train/{name}": value for name, value in terms.items()})
        self.log("train/loss", loss.detach(), prog_bar=True)
        return loss
