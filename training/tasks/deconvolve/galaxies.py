"""Sharp galaxies in memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch.utils.data import Dataset

from training.memory import MemoryDataModule

__all__ = ["SharpDataModule", "SharpGalaxies", "central"]


def central(images: torch.Tensor, side: int) -> torch.Tensor:
    """The middle of images (N, G, G), G - side even, again of unit flux."""
    first = (images.shape[-1] - side) // 2
    middle = images[..., first : first + side, first : first + side]
    return middle / middle.sum((-2, -1), keepdim=True)


class SharpGalaxies(Dataset):
    """All images of some files; an item is a whole batch of unit flux, given a list of numbers.

    Images of a side are a group: the numbers of a batch must be of one.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        parts = [load_file(file)["image"] for file in files]
        self.sides = sorted({part.shape[-1] for part in parts})
        self.images = [
            torch.cat([part for part in parts if part.shape[-1] == side]) for side in self.sides
        ]

    @property
    def groups(self) -> list[int]:
        """Images of each side."""
        return [len(images) for images in self.images]

    def __len__(self) -> int:
        return sum(self.groups)

    def __getitem__(self, members: torch.Tensor) -> torch.Tensor:
        first = 0
        for images in self.images:
            if int(members[0]) < first + len(images):
                some = images[members - first].float()
                return some / some.sum((1, 2), keepdim=True)
            first += len(images)
        raise IndexError(f"{int(members[0])} of {len(self)} galaxies")

    def of_side(self, side: int, members: torch.Tensor) -> torch.Tensor:
        """The middles of galaxies at least that large; `members` counts these."""
        found, first = [], 0
        for images in self.images:
            if images.shape[-1] >= side:
                own = members[(members >= first) & (members < first + len(images))] - first
                found.append(central(images[own].float(), side))
                first += len(images)
        return torch.cat(found)

    def count(self, side: int) -> int:
        """Galaxies in images of at least that side."""
        return sum(len(images) for images in self.images if images.shape[-1] >= side)


class SharpDataModule(MemoryDataModule):
    """Training and validation images.

    Parameters
    ----------
    train, val : sequence of path
        Of `sets.make_sharp_sets`.
    batch_size : int
    seed : int
    """

    def __init__(
        self, train: Sequence[Path], val: Sequence[Path], *, batch_size: int, seed: int = 0
    ) -> None:
        super().__init__(batch_size=batch_size, seed=seed)
        self.files = {"train": list(train), "val": list(val)}

    def setup(self, stage: str | None = None) -> None:
        """Read the files."""
        for part, files in self.files.items():
            if part not in self.sets:
                self.sets[part] = SharpGalaxies(files)
