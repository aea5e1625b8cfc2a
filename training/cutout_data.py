"""Cut-outs in memory, for a Lightning `Trainer`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning
import torch
from safetensors.torch import load_file
from torch.utils.data import DataLoader, Dataset, Sampler

from autofit_ml.errors import SettingsError
from cutout_sets import FIELDS, endless_cut_outs

__all__ = ["CutoutDataModule", "Cutouts"]


class Cutouts(Dataset):
    """All objects of some files; an item is a whole batch, given a list of numbers."""

    def __init__(self, parts: Sequence[Mapping[str, torch.Tensor]]) -> None:
        self.tensors = {name: torch.cat([part[name] for part in parts]) for name in FIELDS}

    def __len__(self) -> int:
        return len(self.tensors["known"])

    def __getitem__(self, members: torch.Tensor) -> dict[str, torch.Tensor]:
        return {name: plane[members] for name, plane in self.tensors.items()}


class _Batches(Sampler[torch.Tensor]):
    """Members of each batch; another order in each epoch."""

    def __init__(self, number: int, size: int, seed: int, *, shuffle: bool) -> None:
        self.number, self.size, self.seed, self.shuffle = number, size, seed, shuffle
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Lightning calls this, also when a run is continued."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.number // self.size if self.shuffle else -(-self.number // self.size)

    def __iter__(self) -> Iterator[torch.Tensor]:
        order = torch.arange(self.number)
        if self.shuffle:
            generator = torch.Generator().manual_seed(self.seed + self.epoch)
            order = torch.randperm(self.number, generator=generator)
        for k in range(len(self)):
            yield order[k * self.size : (k + 1) * self.size]


class CutoutDataModule(lightning.LightningDataModule):
    """Training and validation cut-outs.

    Parameters
    ----------
    train, val : sequence of path
        Of `cutout_sets.make_cutout_sets`.
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
        fresh: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        super().__init__()
        self.files = {"train": list(train), "val": list(val)}
        self.batch_size, self.seed, self.fresh = batch_size, seed, list(fresh)
        self.sets: dict[str, Cutouts] = {}

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
        number = len(self.sets["train"])
        if number < self.batch_size:
            raise SettingsError(
                f"batches of {self.batch_size} from a set of {number} objects",
                "make the batches smaller or the set larger",
            )
        trainer = self.trainer
        if self.fresh and trainer is not None and trainer.current_epoch > 0:
            self.renew(trainer.current_epoch)
        return self._loader("train", shuffle=True)

    def val_dataloader(self) -> DataLoader:
        """Batches in the order of the files."""
        return self._loader("val", shuffle=False)

    def _loader(self, part: str, *, shuffle: bool) -> DataLoader:
        dataset = self.sets[part]
        batches = _Batches(len(dataset), self.batch_size, self.seed, shuffle=shuffle)
        return DataLoader(dataset, sampler=batches, batch_size=None)
