"""Sharp galaxies in memory, for a Lightning `Trainer`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import lightning
import torch
from safetensors.torch import load_file
from torch.utils.data import DataLoader, Dataset, Sampler

from autofit_ml.errors import SettingsError

__all__ = ["SharpDataModule", "SharpGalaxies"]


class SharpGalaxies(Dataset):
    """All images of some files; an item is a whole batch of unit flux, given a list of numbers."""

    def __init__(self, files: Sequence[Path]) -> None:
        parts = [load_file(file) for file in files]
        self.image = torch.cat([part["image"] for part in parts])
        self.peak = torch.cat([part["peak"] for part in parts])

    def __len__(self) -> int:
        return len(self.image)

    def __getitem__(self, members: torch.Tensor) -> torch.Tensor:
        images = self.image[members].float()
        return images / images.sum((1, 2), keepdim=True)


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


class SharpDataModule(lightning.LightningDataModule):
    """Training and validation images.

    Parameters
    ----------
    train, val : sequence of path
        Of `sharp_sets.make_sharp_sets`.
    batch_size : int
    seed : int
    """

    def __init__(
        self, train: Sequence[Path], val: Sequence[Path], *, batch_size: int, seed: int = 0
    ) -> None:
        super().__init__()
        self.files = {"train": list(train), "val": list(val)}
        self.batch_size, self.seed = batch_size, seed
        self.sets: dict[str, SharpGalaxies] = {}

    def setup(self, stage: str | None = None) -> None:
        """Read the files."""
        for part, files in self.files.items():
            if part not in self.sets:
                self.sets[part] = SharpGalaxies(files)

    def train_dataloader(self) -> DataLoader:
        """Batches in random order."""
        if len(self.sets["train"]) < self.batch_size:
            raise SettingsError(
                f"batches of {self.batch_size} from a set of {len(self.sets['train'])} images",
                "make the batches smaller or the set larger",
            )
        return self._loader("train", shuffle=True)

    def val_dataloader(self) -> DataLoader:
        """Batches in the order of the files."""
        return self._loader("val", shuffle=False)

    def _loader(self, part: str, *, shuffle: bool) -> DataLoader:
        dataset = self.sets[part]
        batches = _Batches(len(dataset), self.batch_size, self.seed, shuffle=shuffle)
        return DataLoader(dataset, sampler=batches, batch_size=None)
