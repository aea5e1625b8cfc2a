"""Cut-outs in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch.utils.data import DataLoader, Dataset

from training.memory import MemoryDataModule
from training.settings import Entry
from training.tasks.initialise.endless import endless_cut_outs
from training.tasks.initialise.measure import FIELDS

__all__ = ["CutoutDataModule", "Cutouts"]


class Cutouts(Dataset):
    """All objects of some files; an item is a whole batch, given a list of numbers."""

    def __init__(self, parts: Sequence[Mapping[str, torch.Tensor]]) -> None:
        self.tensors = {name: torch.cat([part[name] for part in parts]) for name in FIELDS}

    def __len__(self) -> int:
        return len(self.tensors["known"])

    @property
    def groups(self) -> list[int]:
        """One: all cut-outs have the same size."""
        return [len(self)]

    def __getitem__(self, members: torch.Tensor) -> dict[str, torch.Tensor]:
        return {name: plane[members] for name, plane in self.tensors.items()}


class CutoutDataModule(MemoryDataModule):
    """Training and validation cut-outs.

    Parameters
    ----------
    train, val : sequence of path
        Of `sets.make_cutout_sets`.
    batch_size : int
    seed : int
    fresh : sequence of mapping
        Endless entries that are drawn anew for each epoch.
    """

    def __init__(
        self,
        train: Sequence[Path],
        val: Sequence[Path],
        *,
        batch_size: int,
        seed: int = 0,
        fresh: Sequence[Entry] = (),
    ) -> None:
        super().__init__(batch_size=batch_size, seed=seed)
        self.files = {"train": list(train), "val": list(val)}
        self.fresh = list(fresh)

    def setup(self, stage: str | None = None) -> None:
        """Read the files."""
        for part, files in self.files.items():
            if part not in self.sets:
                parts = [load_file(file) for file in files]
                if part == "train":
                    self._kept = sum(len(tensors["known"]) for tensors in parts)
                    parts += self._drawn(0)
                self.sets[part] = Cutouts(parts)

    def _drawn(self, epoch: int) -> list[dict[str, torch.Tensor]]:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        return [
            endless_cut_outs(entry, int(entry["seed"]) + 1000 * epoch, device)
            for entry in self.fresh
        ]

    def renew(self, epoch: int) -> None:
        """Draw the endless entries of an epoch."""
        if self.fresh:
            train = self.sets["train"].tensors
            parts = [{name: plane[: self._kept] for name, plane in train.items()}]
            self.sets["train"] = Cutouts(parts + self._drawn(epoch))

    def train_dataloader(self) -> DataLoader:
        """Batches in random order."""
        trainer = self.trainer
        if self.fresh and trainer is not None and trainer.current_epoch > 0:
            self.renew(trainer.current_epoch)
        return super().train_dataloader()
