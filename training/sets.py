"""Make the sets of an experiment: python training/sets.py experiment=segment_ground

A training makes them too; this makes the held-out ones as well, and trains nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from autofit_ml.errors import AutofitError
from autofit_ml.runs.simulate import write_set
from autofit_ml.simulation import compose_recipe
from autofit_ml.simulation.recipe import Recipe
from training.settings import Entry, compose
from training.tasks import find_task

__all__ = ["make_sets", "set_folder"]


def set_folder(root: str | Path, recipe: Recipe, count: int, seed: int) -> Path:
    """Folder of a set; its name says what is in it."""
    name = f"{recipe.data.name}-{recipe.survey.name}-{count}-{seed}-{recipe.digest[:8]}"
    return Path(root) / name


def make_sets(entries: Sequence[Entry], root: str | Path, *, workers: int = 1) -> list[Path]:
    """Folders of all sets, made first where they are not complete.

    Parameters
    ----------
    entries : sequence of mapping
        Each with ``data``, ``surveys`` (one set for each), ``count`` and ``seed``, and ``set``: a
        list of Hydra overrides.
    root : path
        Folder of all sets.
    workers : int
        Processes.

    Returns
    -------
    list of Path
    """
    folders = []
    for entry in entries:
        for survey in entry["surveys"]:
            recipe = compose_recipe(
                [f"data={entry['data']}", f"survey={survey}", *entry.get("set", [])]
            )
            count, seed = int(entry["count"]), int(entry["seed"])
            folder = set_folder(root, recipe, count, seed)
            if not (folder / "manifest.json").exists():
                print(f"simulating {folder}", flush=True)
                write_set(recipe, folder, count=count, seed=seed, workers=workers)
            folders.append(folder)
    return folders


def main() -> None:
    """Command line."""
    try:
        training = compose(sys.argv[1:])
        sets, make = training.sets, find_task(training.task).sets
        for entries in (sets.train, sets.val, sets.test, sets.calibrate):
            for path in make(entries, sets.folder, sets.workers):
                print(path)
    except AutofitError as error:
        sys.exit(f"sets: {error}")


if __name__ == "__main__":
    main()
