"""Settings of a training: conf/train.yaml and its groups, typed."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import yaml

from autofit_ml.errors import InputError, SettingsError

__all__ = ["Entry", "Sets", "TrainerSettings", "Training", "compose", "read_training", "typed"]

Entry = Mapping[str, Any]
"""One entry of a list of sets; what it may hold is the task's business."""

T = TypeVar("T")


@dataclass(frozen=True)
class TrainerSettings:
    """Length, batches and device of a training.

    Attributes
    ----------
    epochs : int
    batch_size : int
    workers : int
        Processes that read ahead, where sets are on disk.
    accelerator : str
        Lightning's: "auto", "cpu", "gpu".
    precision : str
        Lightning's; "auto" is "bf16-mixed" on a GPU and "32-true" on a CPU.
    ema_decay : float
        Of the averaged weights, per step.
    patience : float
        Epochs without a lower validation loss after which training ends.
    val_every : float
        Epochs between validations.
    max_steps : int
        -1: no limit.
    """

    epochs: int
    batch_size: int
    workers: int
    accelerator: str
    precision: str
    ema_decay: float
    patience: float
    val_every: float
    max_steps: int


@dataclass(frozen=True)
class Sets:
    """Sets of a training, and the folder they are kept in.

    Attributes
    ----------
    folder : str
    workers : int
        Processes that make missing sets.
    train, val : tuple of mapping
    test : tuple of mapping
        Held out from both; read by benchmarks only.
    calibrate : tuple of mapping
        What errors are calibrated on once a network is trained; `val` where there are none.
    fresh : tuple of mapping
        Entries that are drawn anew for each epoch.
    """

    folder: str
    workers: int
    train: tuple[Entry, ...]
    val: tuple[Entry, ...]
    test: tuple[Entry, ...] = ()
    calibrate: tuple[Entry, ...] = ()
    fresh: tuple[Entry, ...] = ()


@dataclass(frozen=True)
class Training:
    """A training.

    Attributes
    ----------
    name : str
        Of the bundle: ``task/survey-band``.
    title : str
    seed : int
    start : str or None
        Weights to begin with: a bundle's name or folder, or a checkpoint of a run.
    run : str
        Folder of checkpoints and logs.
    sets : Sets
    trainer : TrainerSettings
    model : mapping
        ``task``, and the settings of the task's module.
    """

    name: str
    title: str
    seed: int
    start: str | None
    run: str
    sets: Sets
    trainer: TrainerSettings
    model: Mapping[str, Any]

    @property
    def task(self) -> str:
        """Name of a task in `training.tasks`."""
        return str(self.model["task"])

    def settings(self, cls: type[T]) -> T:
        """The settings of the task's module, without ``task``."""
        return typed(cls, {name: value for name, value in self.model.items() if name != "task"})

    def yaml(self) -> str:
        """The text that `read_training` reads."""
        plain = json.loads(json.dumps(dataclasses.asdict(self)))
        return str(yaml.safe_dump(plain, sort_keys=False))


def compose(overrides: Sequence[str]) -> Training:
    """The training that ``conf/train.yaml`` and overrides describe.

    Parameters
    ----------
    overrides : sequence of str
        Hydra's, as on the command line.
    """
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.core.config_store import ConfigStore
    from omegaconf import OmegaConf

    from autofit_ml.simulation.compose import config_folder
    from training.tasks import find_task, task_names

    for name in task_names():
        smallest = dict(find_task(name).debug)
        ConfigStore.instance().store(f"debug_{name}", smallest, "task_size", "_global_")
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        config = hydra_compose("train", overrides=list(overrides))
    values: Any = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    return _training(values)


def read_training(path: str | Path) -> Training:
    """The settings of a run or bundle from its ``training.yaml``.

    Raises
    ------
    InputError
        There is no such file.
    """
    try:
        text = Path(path).read_text()
    except OSError as error:
        raise InputError(f"no {path}", "give the folder of a run or of a bundle") from error
    return _training(yaml.safe_load(text))


def _training(values: Mapping[str, Any]) -> Training:
    # An experiment may have values of its own that others refer to (conf/experiment/adapt.yaml).
    known = {field.name for field in dataclasses.fields(Training)}
    return typed(Training, {name: value for name, value in values.items() if name in known})


def typed(cls: type[T], values: Mapping[str, Any]) -> T:
    """A dataclass from a mapping as YAML holds it: tuples for lists, dataclasses for mappings.

    Raises
    ------
    SettingsError
        A name that the class does not have, or one that is missing.
    """
    hints = get_type_hints(cls)
    unknown = sorted(set(values) - set(hints))
    if unknown:
        raise SettingsError(
            f"{cls.__name__} has no {', '.join(unknown)}", f"known: {', '.join(hints)}"
        )
    try:
        return cls(**{name: _as(hints[name], value) for name, value in values.items()})
    except TypeError as error:
        raise SettingsError(f"incomplete {cls.__name__}: {error}", "add it to conf/") from error


def _as(hint: Any, value: Any) -> Any:
    if dataclasses.is_dataclass(hint) and isinstance(value, Mapping):
        return typed(hint, value)  # type: ignore[arg-type]
    return tuple(value) if isinstance(value, list) else value
