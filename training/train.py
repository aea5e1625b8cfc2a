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
from collections.abc import Sequence
from pathlib import Path
from typing import Any

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[1])

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

from autofit_ml.errors import AutofitError
from autofit_ml.weights import load, trained_state
from training.checkpoints import network_state
from training.settings import Training, compose
from training.tasks import find_task

__all__ = ["train"]


def train(overrides: Sequence[str]) -> Path:
    """Train as configured.

    Parameters
    ----------
    overrides : sequence of str
        Hydra's, over ``conf/train.yaml``.

    Returns
    -------
    Path
        The last checkpoint.

    Raises
    ------
    SettingsError, WeightsError
        What was asked for makes no sense, or cannot be begun with.
    """
    training = compose(overrides)
    task, settings = find_task(training.task), training.trainer
    if training.start is not None and not training.start.endswith(".ckpt"):
        training = _with_architecture(training, training.start)
    run = Path(training.run)
    last = run / "checkpoints" / "last.ckpt"
    run.mkdir(parents=True, exist_ok=True)
    lightning.seed_everything(training.seed, verbose=False)
    data: Any = task.data(training)
    (run / "training.yaml").write_text(training.yaml())
    data.setup("fit")
    steps = len(data.train_dataloader())
    total = steps * settings.epochs
    if settings.max_steps > 0:
        total = min(total, settings.max_steps)
    module = task.module(training, total)
    if not last.exists():
        if training.start is None:
            task.begin(module, data)
        else:
            _begin_with(module.network, training.start)

    gpu = torch.cuda.is_available() and settings.accelerator != "cpu"
    precision: Any = settings.precision
    if precision == "auto":
        precision = "bf16-mixed" if gpu else "32-true"
    history = _History(run, training, gpu, data)
    # Weights drawn at random are not worth averaging before they have learnt something.
    unlearnt = 0 if training.start is not None else module.optimiser.warmup_steps
    trainer = lightning.Trainer(
        accelerator=settings.accelerator,
        devices=1,
        precision=precision,
        max_epochs=settings.epochs,
        max_steps=settings.max_steps,
        val_check_interval=max(1, int(steps * settings.val_every)),
        gradient_clip_val=module.optimiser.clip,
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
            EarlyStopping(
                "val/loss",
                patience=math.ceil(settings.patience / settings.val_every),
                check_on_train_epoch_end=False,
            ),
            LearningRateMonitor("step"),
            history,
        ],
        enable_progress_bar=sys.stderr.isatty(),
        enable_model_summary=False,
        log_every_n_steps=max(1, min(20, steps // 4)),
        reload_dataloaders_every_n_epochs=1 if training.sets.fresh else 0,
    )
    trainer.fit(module, data, ckpt_path=last if last.exists() else None, weights_only=True)
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

    def __init__(self, run: Path, training: Training, gpu: bool, data: Any) -> None:
        self.run, self.training, self.gpu, self.data = run, training, gpu, data
        self.since = time.time()

    def record(self, trainer: Any) -> None:
        """Add the time since the last record: passes, time, hardware, over continued runs."""
        now = time.time()
        path = self.run / "history.json"
        history = json.loads(path.read_text()) if path.exists() else {"seconds": 0.0}
        history["seconds"] += now - self.since
        history["steps"] = int(trainer.global_step)
        history["image_passes"] = int(trainer.global_step) * self.training.trainer.batch_size
        history["training_objects"] = len(self.data.sets["train"])
        if self.training.start is not None:
            history["start"] = self.training.start
        history["hardware"] = (
            torch.cuda.get_device_name()
            if self.gpu
            else f"{platform.machine()} CPU, {torch.get_num_threads()} threads"
        )
        history["versions"] = {"torch": torch.__version__, "lightning": lightning.__version__}
        history["validation"] = {
            key: float(value) for key, value in trainer.callback_metrics.items() if "val" in key
        }
        path.write_text(json.dumps(history, indent=2) + "\n")
        self.since = now

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        if not trainer.sanity_checking:
            self.record(trainer)


def _with_architecture(training: Training, start: str) -> Training:
    """The network of the bundle to begin with, where the configuration does not name one."""
    settings = load(start).settings
    if training.model["network"] or not dataclasses.is_dataclass(settings):
        return training
    network = dataclasses.asdict(settings)
    return dataclasses.replace(training, model={**training.model, "network": network})


def _begin_with(network: torch.nn.Module, start: str) -> None:
    """Load the weights of a bundle or of another run's checkpoint."""
    state = network_state(start) if start.endswith(".ckpt") else trained_state(start)
    for name, values in network.state_dict().items():
        more = values.shape[-1] - state[name].shape[-1] if values.ndim == 2 and name in state else 0
        if more > 0:  # inputs that the older network lacked: of no weight at first
            state[name] = torch.nn.functional.pad(state[name], (0, more))
    network.load_state_dict(state)


def main() -> None:
    """Command line."""
    try:
        print(train(sys.argv[1:]))
    except AutofitError as error:
        sys.exit(f"training: {error}")


if __name__ == "__main__":
    main()
