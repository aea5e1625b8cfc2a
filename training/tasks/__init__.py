"""The networks that can be trained: one folder (or module) each, found by its name.

``task: NAME`` of a model's configuration (``conf/model``) is the folder's name; it defines `TASK`.
Importing one reads no data and builds nothing: what a step needs is imported when it runs, so that
a task whose extras are not installed is in nobody's way.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autofit_ml.errors import SettingsError

if TYPE_CHECKING:
    import lightning

    from training.coverage import Coverage
    from training.module import NetworkModule
    from training.settings import Entry, Training

__all__ = ["Task", "find_task", "task_names"]


def _nothing(*_: Any) -> None:
    """No such step."""


@dataclass(frozen=True)
class Task:
    """Functions that train a network.

    Attributes
    ----------
    sets : callable
        ``(entries, folder, workers) -> paths``: sets of entries, made first where missing.
    data : callable
        ``training -> data module``, with the training and validation sets of `sets`.
    module : callable
        ``(training, total_steps) -> module``: network, losses, validation.
    coverage : callable
        ``training -> coverage``: the images that the manifest says the weights are for.
    begin : callable
        ``(module, data)``: before the first step of a network that begins with random weights.
    finish : callable
        ``(module, training)``: measure what a network must know once it is trained.
    debug : mapping
        Configuration of ``size=debug``: the smallest training that goes all the way.
    """

    sets: Callable[[Sequence[Entry], str, int], Sequence[Path]]
    data: Callable[[Training], lightning.LightningDataModule]
    module: Callable[[Training, int], NetworkModule]
    coverage: Callable[[Training], Coverage]
    debug: Mapping[str, Any]
    begin: Callable[[Any, Any], None] = _nothing
    finish: Callable[[Any, Training], None] = _nothing


def task_names() -> tuple[str, ...]:
    """Every task, sorted."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(__path__)))


def find_task(name: str) -> Task:
    """A task by its name.

    Raises
    ------
    SettingsError
        There is none.
    """
    if name not in task_names():
        raise SettingsError(f"unknown task {name!r}", f"one of {', '.join(task_names())}")
    task = import_module(f"{__name__}.{name}").TASK
    assert isinstance(task, Task)
    return task
