"""Starting parameters with a covariance: the ResNet of `autofit_ml.initialisation.network`.

- `sets`, `endless`, `measure`: cut-outs of simulated sets, of our own renderer's galaxies and of
  real images, and what is measured on them.
- `cutouts`: these in memory; `augment`: other views of the same ones.
- `module`: losses, validation; `calibration`: what is measured once the network is trained.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from training.tasks import Task

if TYPE_CHECKING:
    from training.coverage import Coverage
    from training.module import NetworkModule
    from training.settings import Entry, Training
    from training.tasks.initialise.cutouts import CutoutDataModule

__all__ = ["TASK"]


def _sets(entries: Sequence[Entry], folder: str, workers: int) -> list[Path]:
    from training.tasks.initialise.sets import make_cutout_sets

    return make_cutout_sets(entries, folder, workers=workers)


def _data(training: Training) -> CutoutDataModule:
    from training.tasks.initialise.cutouts import CutoutDataModule

    sets = training.sets
    return CutoutDataModule(
        _sets(sets.train, sets.folder, sets.workers),
        _sets(sets.val, sets.folder, sets.workers),
        batch_size=training.trainer.batch_size,
        seed=training.seed,
        fresh=sets.fresh,
    )


def _module(training: Training, total_steps: int) -> NetworkModule:
    from training.tasks.initialise.module import InitialiseModule, InitialiseTraining

    return InitialiseModule(training.settings(InitialiseTraining), total_steps)


def _coverage(training: Training) -> Coverage:
    from training.coverage import coverage_of

    def measured(entry: Entry) -> Mapping[str, list[float]]:
        from training.tasks.initialise.sets import ranges_of

        return ranges_of(_sets([entry], training.sets.folder, training.sets.workers)[0])

    return coverage_of(training.sets.train, measured)


def _finish(module: Any, training: Training) -> None:
    from training.tasks.initialise.module import calibrate

    sets = training.sets
    data = _data(replace(training, sets=replace(sets, val=sets.calibrate or sets.val)))
    data.setup()
    calibrate(module, data.sets["train"], data.sets["val"], training.seed)


TASK = Task(
    sets=_sets,
    data=_data,
    module=_module,
    coverage=_coverage,
    finish=_finish,
    debug={
        "model": {
            "network": {"widths": [8, 16, 16, 16], "psf_widths": [4, 8], "hidden": 32},
            "optimiser": {"warmup_steps": 4},
        },
        "trainer": {"epochs": 3, "batch_size": 16},
        "sets": {
            "train": [
                {
                    "endless": {"snr": [20, 500], "re": [1, 6], "max_sources": 3, "neighbours": 1},
                    "count": 64,
                    "seed": 1,
                },
                {
                    "data": "blends",
                    "surveys": ["sdss-r"],
                    "set": [
                        "data.shape=[64,64]",
                        "data.neighbours.number=2",
                        "data.galaxies.n=[0.5,2]",
                    ],
                    "segmenters": {"given": 1, "sep": 1},
                    "count": 8,
                    "seed": 1,
                },
            ],
            "val": [{"endless": {"snr": [20, 500], "re": [1, 6]}, "count": 32, "seed": 2}],
        },
    },
)
