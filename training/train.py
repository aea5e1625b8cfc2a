"""Train a network: python training/train.py experiment=segment_ground [size=debug] [...]

Overrides are Hydra's, over conf/train.yaml. The run's folder (``run=``) holds the resolved
config, checkpoints, and logs for CSV and TensorBoard; the same command continues an interrupted
run from its last checkpoint. Simulated sets are made first where they are missing.
"""

from __future__ import annotations

import dataclasses
import json
import math
import platform
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import (
    Callback,
    EarlyStopping,
    EMAWeightAveraging,
    LearningRateMonitor,
    ModelCheckpoint,
)
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from omegaconf import DictConfig, OmegaConf

from autofit_ml.weights import load
from checkpoints import network_state
from settings import compose

__all__ = ["train"]


Parts = tuple[lightning.LightningDataModule, Callable[[int], Any]]
"""Data, and what makes the Lightning module once the number of steps is known."""


def _segment(config: DictConfig) -> Parts:
    from data_module import ShardDataModule
    from segment_module import SegmentModule, segment_collate
    from training_sets import make_sets

    sets = config.sets
    data = ShardDataModule(
        make_sets(sets.train, sets.folder, workers=sets.workers),
        make_sets(sets.val, sets.folder, workers=sets.workers),
        batch_size=config.trainer.batch_size,
        workers=config.trainer.workers,
        planes=("data", "mask", "labels", "psf_fwhm"),
        collate=segment_collate,
        seed=config.seed,
    )

    def make(total_steps: int) -> SegmentModule:
        module = SegmentModule(config.model, total_steps)
        data.sets.clear()
        data.transform, data.eval_transform = module.transform(True), module.transform(False)
        return module

    return data, make


def _initialise(config: DictConfig) -> Parts:
    from cutout_data import CutoutDataModule
    from cutout_sets import make_cutout_sets
    from initialise_module import InitialiseModule

    sets = config.sets
    data = CutoutDataModule(
        make_cutout_sets(sets.train, sets.folder, workers=sets.workers),
        make_cutout_sets(sets.val, sets.folder, workers=sets.workers),
        batch_size=config.trainer.batch_size,
        seed=config.seed,
        fresh=sets.fresh,
    )
    return data, lambda total_steps: InitialiseModule(config.model, total_steps)


def _deconvolve(config: DictConfig) -> Parts:
    from deconvolve_module import DeconvolveModule
    from sharp_data import SharpDataModule
    from sharp_sets import make_sharp_sets

    sets = config.sets
    data = SharpDataModule(
        make_sharp_sets(sets.train, sets.folder, workers=sets.workers),
        make_sharp_sets(sets.val, sets.folder, workers=sets.workers),
        batch_size=config.trainer.batch_size,
        seed=config.seed,
    )

    def make(total_steps: int) -> DeconvolveModule:
        module = DeconvolveModule(config.model, total_steps)
        if config.start is None and not (Path(config.run) / "checkpoints" / "last.ckpt").exists():
            module.fit_classes(data.sets["train"])
        return module

    return data, make


_TASKS: dict[str, Callable[[DictConfig], Parts]] = {
    "segment": _segment,
    "initialise": _initialise,
    "deconvolve": _deconvolve,
}


def train(overrides: Sequence[str]) -> Path:
    """Train as configured; the path of the last checkpoint."""
    config = compose(overrides)
    settings = config.trainer
    if config.model.task not in _TASKS:
        raise SystemExit(f"unknown task {config.model.task!r}")
    if config.start is not None and not str(config.start).endswith(".ckpt"):
        _take_architecture(config)
    run = Path(config.run)
    run.mkdir(parents=True, exist_ok=True)
    lightning.seed_everything(config.seed, verbose=False)
    data, make_module = _TASKS[config.model.task](config)
    OmegaConf.save(config, run / "training.yaml", resolve=True)
    data.setup("fit")
    steps = len(data.train_dataloader())
    total = steps * settings.epochs
    if settings.max_steps > 0:
        total = min(total, settings.max_steps)
    module = make_module(total)

    last = run / "checkpoints" / "last.ckpt"
    if config.start is not None and not last.exists():
        _begin_with(module.network, config.start)

    gpu = torch.cuda.is_available() and settings.accelerator != "cpu"
    precision = settings.precision
    if precision == "auto":
        precision = "bf16-mixed" if gpu else "32-true"
    history = _History(run, config, gpu, data)
    # Weights drawn at random are not worth averaging before they have learnt something.
    unlearnt = 0 if config.start is not None else config.model.optimiser.warmup_steps
    trainer = lightning.Trainer(
        accelerator=settings.accelerator,
        devices=1,
        precision=precision,
        max_epochs=settings.epochs,
        max_steps=settings.max_steps,
        val_check_interval=max(1, int(steps * settings.val_every)),
        gradient_clip_val=config.model.optimiser.clip,
        default_root_dir=run,
        logger=[
            _csv_log(run),
            TensorBoardLogger(run, name="", version="tb"),
        ],
        callbacks=[
            EMAWeightAveraging(
                decay=settings.ema_decay,
                update_starting_at_step=min(unlearnt, total // 5),
            ),
            ModelCheckpoint(
                run / "checkpoints",
                filename="best",
                monitor="val/loss",
                enable_version_counter=False,
            ),
            # `save_last` would keep the last one that was better than all before it.
            ModelCheckpoint(run / "checkpoints", filename="last", enable_version_counter=False),
            EarlyStopping("val/loss", patience=math.ceil(settings.patience / settings.val_every)),
            LearningRateMonitor("step"),
            history,
        ],
        enable_progress_bar=sys.stderr.isatty(),
        enable_model_summary=False,
        log_every_n_steps=max(1, min(20, steps // 4)),
        reload_dataloaders_every_n_epochs=1 if config.sets.fresh else 0,
    )
    trainer.fit(module, data, ckpt_path=str(last) if last.exists() else None, weights_only=False)
    history.record(trainer)
    return last


def _csv_log(run: Path) -> CSVLogger:
    """A log that goes on when a run is continued: Lightning would remove what is there."""
    path = run / "csv" / "metrics.csv"
    kept = path.read_text() if path.exists() else ""
    logger = CSVLogger(run, name="", version="csv")
    writer = logger.experiment
    if kept:
        path.write_text(kept)
        writer.metrics_keys = kept.splitlines()[0].split(",")
    return logger


class _History(Callback):
    """Keeps history.json up to date: a run that is stopped can be exported as it is."""

    def __init__(self, run: Path, config: DictConfig, gpu: bool, data: Any) -> None:
        self.run, self.config, self.gpu, self.data = run, config, gpu, data
        self.since = time.time()

    def record(self, trainer: Any) -> None:
        """Add the time since the last record."""
        now = time.time()
        objects = len(self.data.sets["train"])
        _record(self.run, self.config, trainer, now - self.since, self.gpu, objects)
        self.since = now

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        if not trainer.sanity_checking:
            self.record(trainer)


def _take_architecture(config: DictConfig) -> None:
    """Of the bundle to begin with, where the configuration does not name one."""
    settings = load(config.start).settings
    if not config.model.network and dataclasses.is_dataclass(settings):
        OmegaConf.update(
            config,
            "model.network",
            dataclasses.asdict(settings),
            force_add=True,  # type: ignore[arg-type]
        )


def _begin_with(network: torch.nn.Module, start: str) -> None:
    """Load the weights of a bundle or of another run's checkpoint."""
    if start.endswith(".ckpt"):
        state = network_state(start)
    else:
        state = load(start).state_dict()
    for name, values in network.state_dict().items():
        more = values.shape[-1] - state[name].shape[-1] if values.ndim == 2 else 0
        if more > 0:  # inputs that the older network lacked: of no weight at first
            state[name] = torch.nn.functional.pad(state[name], (0, more))
    network.load_state_dict(state)


def _record(
    run: Path, config: DictConfig, trainer: Any, seconds: float, gpu: bool, objects: int
) -> None:
    """What a card must say: passes, time, hardware; added up over continued runs."""
    path = run / "history.json"
    history = json.loads(path.read_text()) if path.exists() else {"seconds": 0.0}
    history["seconds"] += seconds
    history["steps"] = int(trainer.global_step)
    history["image_passes"] = int(trainer.global_step) * int(config.trainer.batch_size)
    history["training_objects"] = objects
    if config.start is not None:
        history["start"] = str(config.start)
    history["hardware"] = (
        torch.cuda.get_device_name()
        if gpu
        else f"{platform.machine()} CPU, {torch.get_num_threads()} threads"
    )
    history["versions"] = {"torch": torch.__version__, "lightning": lightning.__version__}
    history["validation"] = {
        key: float(value) for key, value in trainer.callback_metrics.items() if "val" in key
    }
    path.write_text(json.dumps(history, indent=2) + "\n")


if __name__ == "__main__":
    print(train(sys.argv[1:]))
