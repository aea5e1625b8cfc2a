"""Jobs for worker processes, which import this module."""

from __future__ import annotations

import os
import signal
import sys

from autofit_ml.runs.fitted import FittingTask
from autofit_ml.runs.prepare import prepare_objects, read_objects

DEADLY = "g03"


def read_or_die(sources, settings):
    """`read_objects`, but one object kills the process."""
    if any(source.id == DEADLY for source in sources):
        os.kill(os.getpid(), signal.SIGKILL)
    return read_objects(sources, settings)


def fit_or_die(part, settings):
    """Objects of a frame are fitted; the seventh kills the process."""
    if any(name.endswith("@07") for name in part.order):
        os.kill(os.getpid(), signal.SIGKILL)
    task = FittingTask((), "cpu", None)
    return task.fit(prepare_objects(part, settings), settings)


def surroundings() -> dict:
    """What a worker finds."""
    heavy = ("torch", "matplotlib", "rich", "typer", "galsim")
    return {
        "heavy": [name for name in heavy if name in sys.modules],
        "threads": os.environ.get("OMP_NUM_THREADS"),
    }
