"""Train a network: python training/train.py experiment=segment_ground [size=debug] [...]

Overrides are Hydra's, over conf/train.yaml. The run's folder (``run=``) holds the resolved
config, checkpoints, and logs for CSV and TensorBoard; the same command continues an interrupted
run from its last checkpoint. Simulated sets are made first where they are missing.
"""

from __future__ import annotations

import json
import math
import platform
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import (
    EarlyStopping,
    EMAWeightAveraging,
    LearningRateMonitor,
    ModelCheckpoint,
)
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from omegaconf import DictConfig, OmegaConf

from autofit_ml.weights import load
from data_module import ShardDataModule
from settings import compose
from training_sets import make_sets

__all__ = ["train"]


def _module(config: DictConfig, total_steps: int) -> tuple[Any, Any]:
    """The task's Lightning module and its collate function."""
    if config.model.task == "segment":
        from segment_module import SegmentModule, segment_collate

        return SegmentModule(config.model, total_steps), segment_collate
    raise SystemExit(f"unknown task {config.model.task!r}")


def train(overrides: Sequence[str]) -> Path:
    """Train as configured; the path of the last checkpoint."""
    config = compose(overrides)
    settings = config.trainer
    run = Path(config.run)
    run.mkdir(parents=True, exist_ok=True)
    lightning.seed_everything(config.seed, verbose=False)
    folders = {
        part: make_sets(config.sets[part], config.sets.folder, workers=config.sets.workers)
        for part in ("train", "val")
    }
    OmegaConf.save(config, run / "training.yaml", resolve=True)

    data = ShardDataModule(
        folders["train"],
        folders["val"],
        batch_size=settings.batch_size,
        workers=settings.workers,
        planes=("data", "mask", "labels", "psf_fwhm"),
        seed=config.seed,
    )
    data.setup("fit")
    steps = len(data.train_dataloader())
    total = steps * settings.epochs
    if settings.max_steps > 0:
        total = min(total, settings.max_steps)
    module, data.collate = _module(config, total)
    data.sets.clear()
    data.transform, data.eval_transform = module.transform(True), module.transform(False)

    last = run / "checkpoints" / "last.ckpt"
    if config.start is not None and not last.exists():
        _begin_with(module.network, config.start)

    gpu = torch.cuda.is_available() and settings.accelerator != "cpu"
    precision = settings.precision
    if precision == "auto":
        precision = "bf16-mixed" if gpu else "32-true"
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
            CSVLogger(run, name="", version="csv"),
            TensorBoardLogger(run, name="", version="tb"),
        ],
        callbacks=[
            EMAWeightAveraging(
                decay=settings.ema_decay,
                update_starting_at_step=min(config.model.optimiser.warmup_steps, total // 5),
            ),
            ModelCheckpoint(
                run / "checkpoints",
                filename="best",
                monitor="val/loss",
                save_last=True,
                enable_version_counter=False,
            ),
            EarlyStopping("val/loss", patience=math.ceil(settings.patience / settings.val_every)),
            LearningRateMonitor("step"),
        ],
        enable_progress_bar=sys.stderr.isatty(),
        enable_model_summary=False,
        log_every_n_steps=max(1, min(20, steps // 4)),
    )
    began = time.time()
    trainer.fit(module, data, ckpt_path=str(last) if last.exists() else None, weights_only=False)
    _record(run, config, trainer, time.time() - began, gpu, len(data.sets["train"]))
    return last


def _begin_with(network: torch.nn.Module, start: str) -> None:
    """Load the weights of a bundle or of another run's checkpoint."""
    if start.endswith(".ckpt"):
        # A file of ours: the only place beside export.py where a checkpoint is unpickled.
        state = torch.load(start, map_location="cpu", weights_only=False)["state_dict"]
        prefix = "network."
        state = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    else:
        state = load(start).state_dict()
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
