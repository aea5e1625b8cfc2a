"""Training sets in memory, for a Lightning `Trainer`: a batch is one indexing operation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import lightning
import torch
from safetensors.torch import save_file
from torch.utils.data import DataLoader, Sampler

from autofit_ml.errors import SettingsError

__all__ = ["Batches", "MemoryDataModule", "MemorySet", "write_tensors"]


class MemorySet(Protocol):
    """Objects in memory; an item is a whole batch, given a list of numbers."""

    @property
    def groups(self) -> Sequence[int]:
        """Objects in each run of numbers; a batch has members of one of them (images of a size)."""
        ...

    def __getitem__(self, members: torch.Tensor, /) -> Any: ...


class Batches(Sampler[torch.Tensor]):
    """Members of each batch.

    Shuffled: another order in each epoch, and what does not fill a batch is left out.

    Parameters
    ----------
    groups : sequence of int
        Of `MemorySet`.
    size : int
    seed : int
    shuffle : bool
    """

    def __init__(self, groups: Sequence[int], size: int, seed: int, *, shuffle: bool) -> None:
        self.groups, self.size, self.seed, self.shuffle = tuple(groups), size, seed, shuffle
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Lightning calls this, also when a run is continued."""
        self.epoch = epoch

    def __len__(self) -> int:
        spare = 0 if self.shuffle else self.size - 1
        return sum((number + spare) // self.size for number in self.groups)

    def __iter__(self) -> Iterator[torch.Tensor]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        batches, first = [], 0
        for number in self.groups:
            order = torch.randperm(number, generator=generator) if self.shuffle else None
            members = first + (torch.arange(number) if order is None else order)
            whole = number // self.size * self.size if self.shuffle else number
            batches += list(members[:whole].split(self.size)) if whole else []
            first += number
        if self.shuffle and len(self.groups) > 1:
            batches = [batches[k] for k in torch.randperm(len(batches), generator=generator)]
        return iter(batches)


class MemoryDataModule(lightning.LightningDataModule):
    """Training and validation sets; what inherits fills `sets` in ``setup``.

    Parameters
    ----------
    batch_size : int
    seed : int
    """

    def __init__(self, *, batch_size: int, seed: int = 0) -> None:
        super().__init__()
        self.batch_size, self.seed = batch_size, seed
        self.sets: dict[str, Any] = {}

    def train_dataloader(self) -> DataLoader:
        """Batches in random order."""
        loader = self._loader("train", shuffle=True)
        if not len(loader):
            raise SettingsError(
                f"batches of {self.batch_size} from a set of {sum(self.sets['train'].groups)} "
                "objects",
                "make the batches smaller or the set larger",
            )
        return loader

    def val_dataloader(self) -> DataLoader:
        """Batches in the order of the files."""
        return self._loader("val", shuffle=False)

    def _loader(self, part: str, *, shuffle: bool) -> DataLoader:
        dataset = self.sets[part]
        batches = Batches(dataset.groups, self.batch_size, self.seed, shuffle=shuffle)
        return DataLoader(dataset, sampler=batches, batch_size=None)


def write_tensors(
    path: Path, tensors: Mapping[str, torch.Tensor], about: dict[str, str] | None = None
) -> Path:
    """Write a set's file, complete or not at all; its path.

    Parameters
    ----------
    path : Path
    tensors : mapping of str to Tensor
    about : dict of str to str, optional
        Written beside them.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    save_file(dict(tensors), partial, metadata=about)
    partial.replace(path)
    return path
