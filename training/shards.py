"""Sets of simulated objects for a Lightning `Trainer`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import lightning
import numpy as np
import torch
from torch.utils.data import ConcatDataset, DataLoader, Sampler

from autofit_ml.errors import SettingsError
from autofit_ml.simulation.dataset import ChunkSampler, ShardDataset, collate
from autofit_ml.simulation.shards import verify_set

__all__ = ["MixedSampler", "ShardDataModule"]

Folders = str | Path | Sequence[str | Path]


def _listed(folders: Folders | None) -> list[str | Path]:
    if folders is None:
        return []
    return [folders] if isinstance(folders, str | Path) else list(folders)


class ShardDataModule(lightning.LightningDataModule):
    """Training, validation and test sets that ``autofit-ml simulate`` has made.

    Parameters
    ----------
    train : path or sequence of paths
        One set or several; shuffled anew in each epoch (`MixedSampler`); the last batch is
        dropped if it is smaller.
    val, test : path or sequence of paths
        In the order of the sets; `test` is optional.
    batch_size : int, keyword-only
    workers : int, keyword-only
        Processes that read ahead, for each of the sets; they are spawned, and kept.
    planes : sequence of str, keyword-only
        See `ShardDataset`.
    transform : callable, keyword-only, optional
        Applied to each training item; a module-level function if there are workers.
    eval_transform : callable, keyword-only, optional
        Applied to each item of the other sets (no augmentation).
    collate : callable, keyword-only
        From a list of (transformed) items to a batch.
    seed : int, keyword-only
        Of the order of the training set.
    pin_memory : bool, keyword-only, optional
        True where there is a GPU, if not given.
    verify : bool, keyword-only
        Compare all files with their sha256 before anything else (about a second for each GB).

    Raises
    ------
    SettingsError
        A batch size or number of workers that makes no sense, more objects in a batch than there
        are to train on.
    InputError
        From `prepare_data` and `setup`: no complete set, or a damaged one.
    """

    def __init__(
        self,
        train: Folders,
        val: Folders,
        test: Folders | None = None,
        *,
        batch_size: int = 64,
        workers: int = 0,
        planes: Sequence[str] = ("data", "sigma", "mask", "labels", "psf"),
        transform: Callable[[dict[str, Any]], Any] | None = None,
        eval_transform: Callable[[dict[str, Any]], Any] | None = None,
        collate: Callable[[Sequence[Any]], Any] = collate,
        seed: int = 0,
        pin_memory: bool | None = None,
        verify: bool = True,
    ) -> None:
        super().__init__()
        if batch_size < 1 or workers < 0:
            raise SettingsError(
                f"batch_size {batch_size}, workers {workers}", "at least 1, and at least 0"
            )
        self.folders = {"train": _listed(train), "val": _listed(val), "test": _listed(test)}
        self.batch_size, self.workers = batch_size, workers
        self.planes = tuple(planes)
        self.transform, self.eval_transform = transform, eval_transform
        self.collate, self.seed, self.verify = collate, seed, verify
        self.pin_memory = torch.cuda.is_available() if pin_memory is None else pin_memory
        self.sets: dict[str, ConcatDataset] = {}

    def prepare_data(self) -> None:
        """Verify the sets, once on each machine."""
        if self.verify:
            for folders in self.folders.values():
                for folder in folders:
                    verify_set(folder)

    def setup(self, stage: str | None = None) -> None:
        """Open the sets of a stage (fit, validate, test; None: all)."""
        wanted = {"fit": ("train", "val"), "validate": ("val",), "test": ("test",)}
        for name in wanted.get(stage or "", tuple(self.folders)):
            folders = self.folders[name]
            if folders and name not in self.sets:
                transform = self.transform if name == "train" else self.eval_transform
                self.sets[name] = ConcatDataset(
                    [ShardDataset(folder, self.planes, transform) for folder in folders]
                )

    def train_dataloader(self) -> DataLoader:
        """Batches in random order."""
        dataset = self._set("train")
        if len(dataset) < self.batch_size:
            raise SettingsError(
                f"batches of {self.batch_size} from a set of {len(dataset)} objects",
                "make the batches smaller or the set larger",
            )
        sampler = MixedSampler(dataset, seed=self.seed)
        return self._loader(dataset, sampler=sampler, drop_last=True)

    def val_dataloader(self) -> DataLoader:
        """Batches in the order of the set."""
        return self._loader(self._set("val"))

    def test_dataloader(self) -> DataLoader:
        """Batches in the order of the set."""
        return self._loader(self._set("test"))

    def _set(self, name: str) -> ConcatDataset:
        if name not in self.sets:
            raise SettingsError(f"no {name} set", f"give its folder as {name}=, and call setup")
        return self.sets[name]

    def _loader(self, dataset: ConcatDataset, **options: Any) -> DataLoader:
        return DataLoader(
            dataset,
            batch_size=self.batch_size,
            num_workers=self.workers,
            collate_fn=self.collate,
            pin_memory=self.pin_memory,
            # A fork of a process with threads (PyTorch's, a logger's) may hang.
            multiprocessing_context="spawn" if self.workers else None,
            persistent_workers=self.workers > 0,
            **options,
        )


class MixedSampler(Sampler[int]):
    """All objects of several sets once, interleaved at random.

    Each set keeps the order of its own `ChunkSampler`.

    Parameters
    ----------
    dataset : ConcatDataset of ShardDataset
    seed : int, keyword-only
    """

    def __init__(self, dataset: ConcatDataset, *, seed: int = 0) -> None:
        self.seed, self.epoch = seed, 0
        self._starts = [0, *dataset.cumulative_sizes]
        self._samplers = [
            ChunkSampler(cast(ShardDataset, part), seed=seed + k)
            for k, part in enumerate(dataset.datasets)
        ]

    def set_epoch(self, epoch: int) -> None:
        """The next iteration has the order of this epoch."""
        self.epoch = epoch
        for sampler in self._samplers:
            sampler.set_epoch(epoch)

    def __len__(self) -> int:
        return self._starts[-1]

    def __iter__(self) -> Iterator[int]:
        rng = np.random.default_rng([self.seed, self.epoch])
        orders = [iter(sampler) for sampler in self._samplers]
        of_set = np.repeat(np.arange(len(orders)), np.diff(self._starts))
        for k in rng.permutation(of_set):
            yield self._starts[k] + next(orders[k])
