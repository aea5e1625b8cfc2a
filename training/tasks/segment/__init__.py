"""Instance segmentation: the Mask R-CNN of `autofit_ml.segmentation.network`.

- `targets`: from simulated images to the network's channels and torchvision's targets.
- `network`: torchvision's Mask R-CNN on our trunk, as it is trained.
- `module`: losses and validation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from training.tasks import Task

if TYPE_CHECKING:
    from training.coverage import Coverage
    from training.module import NetworkModule
    from training.settings import Entry, Training
    from training.shards import ShardDataModule

__all__ = ["TASK"]


def _sets(entries: Sequence[Entry], folder: str, workers: int) -> list[Path]:
    from training.sets import make_sets

    return make_sets(entries, folder, workers=workers)


def _data(training: Training) -> ShardDataModule:
    from training.shards import ShardDataModule
    from training.tasks.segment.module import SegmentSettings
    from training.tasks.segment.targets import SegmentTransform, collate

    sets, model = training.sets, training.settings(SegmentSettings)
    transform = SegmentTransform(model.preprocessing, model.instances, model.augment)
    return ShardDataModule(
        _sets(sets.train, sets.folder, sets.workers),
        _sets(sets.val, sets.folder, sets.workers),
        batch_size=training.trainer.batch_size,
        workers=training.trainer.workers,
        planes=("data", "mask", "labels", "psf_fwhm"),
        transform=transform,
        eval_transform=replace(transform, augment=None),
        collate=collate,
        seed=training.seed,
    )


def _module(training: Training, total_steps: int) -> NetworkModule:
    from training.tasks.segment.module import SegmentModule, SegmentSettings

    return SegmentModule(training.settings(SegmentSettings), total_steps)


def _coverage(training: Training) -> Coverage:
    from training.coverage import coverage_of

    return coverage_of(training.sets.train)


_SCENES = {
    "data": "blends",
    "surveys": ["sdss-r"],
    "set": ["data.shape=[64,64]", "data.neighbours.number=2", "data.galaxies.n=[0.5,2]"],
}

TASK = Task(
    sets=_sets,
    data=_data,
    module=_module,
    coverage=_coverage,
    debug={
        "model": {
            "network": {
                "widths": [8, 16, 16, 16],
                "blocks": [1, 1, 1, 1],
                "pyramid": 16,
                "hidden": 32,
                "mask_layers": [16],
            },
            "optimiser": {"warmup_steps": 4},
        },
        "trainer": {"epochs": 2, "batch_size": 4},
        "sets": {
            "train": [{**_SCENES, "count": 16, "seed": 1}],
            "val": [{**_SCENES, "count": 8, "seed": 2}],
        },
    },
)
