"""Deconvolution's prior: the denoiser of `autofit_ml.deconvolution.network`.

- `sets`: draws sharp galaxies of unit flux; `galaxies`: these in memory.
- `observations`: random PSFs, fluxes and noise levels: the spectra that a batch is denoised under.
- `module`: the loss, validation, calibration, nearest neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from training.tasks import Task

if TYPE_CHECKING:
    from training.coverage import Coverage
    from training.module import NetworkModule
    from training.settings import Entry, Training
    from training.tasks.deconvolve.galaxies import SharpDataModule

__all__ = ["TASK"]


def _sets(entries: Sequence[Entry], folder: str, workers: int) -> list[Path]:
    from training.tasks.deconvolve.sets import make_sharp_sets

    return make_sharp_sets(entries, folder, workers=workers)


def _data(training: Training) -> SharpDataModule:
    from training.tasks.deconvolve.galaxies import SharpDataModule

    sets = training.sets
    return SharpDataModule(
        _sets(sets.train, sets.folder, sets.workers),
        _sets(sets.val, sets.folder, sets.workers),
        batch_size=training.trainer.batch_size,
        seed=training.seed,
    )


def _module(training: Training, total_steps: int) -> NetworkModule:
    from training.tasks.deconvolve.module import DeconvolveModule, DeconvolveTraining

    return DeconvolveModule(training.settings(DeconvolveTraining), total_steps)


def _coverage(training: Training) -> Coverage:
    from autofit_ml.deconvolution.target import TARGET_FWHM
    from training.coverage import Coverage
    from training.tasks.deconvolve.module import DeconvolveTraining

    seen = training.settings(DeconvolveTraining).observations
    # In data pixels: output pixels at 1x, half as many at 2x.
    low, high = (TARGET_FWHM * factor for factor in seen.fwhm)
    return Coverage(True, pixel_scale=(0.0, 1e9), psf_fwhm=(low, high), snr=seen.snr)


def _begin(module: Any, data: Any) -> None:
    module.fit_classes(data.sets["train"])


def _finish(module: Any, training: Training) -> None:
    from training.tasks.deconvolve.galaxies import SharpGalaxies
    from training.tasks.deconvolve.module import measure_usual_misfit

    sets = training.sets
    others = SharpGalaxies(_sets(sets.val, sets.folder, sets.workers))
    measure_usual_misfit(module, others, training.seed)


TASK = Task(
    sets=_sets,
    data=_data,
    module=_module,
    coverage=_coverage,
    begin=_begin,
    finish=_finish,
    debug={
        "model": {
            "network": {
                "widths": [8, 16],
                "blocks": [1, 1],
                "features": 16,
                "classes": 4,
                "side": 32,
            },
            "class_images": 48,
            "least_side": 32,
            "optimiser": {"warmup_steps": 2},
        },
        "trainer": {"epochs": 2, "batch_size": 16, "val_every": 1.0},
        "sets": {
            "train": [
                {"sharp": 32, "count": 32, "seed": 1},
                {"sharp": 48, "count": 32, "seed": 3},
            ],
            "val": [{"sharp": 32, "count": 16, "seed": 2}],
        },
    },
)
