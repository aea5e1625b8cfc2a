"""The simulated sets that a training needs: made where they are missing.

python training/training_sets.py experiment=segment_ground      # only make the sets
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from autofit_ml.runs.simulate import write_set
from autofit_ml.simulation import compose_recipe
from autofit_ml.simulation.recipe import Recipe

__all__ = ["make_sets", "set_folder"]


def set_folder(root: str | Path, recipe: Recipe, count: int, seed: int) -> Path:
    """Where a set is kept: its name says what is in it."""
    name = f"{recipe.data.name}-{recipe.survey.name}-{count}-{seed}-{recipe.digest[:8]}"
    return Path(root) / name


def make_sets(
    entries: Sequence[Mapping[str, Any]], root: str | Path, *, workers: int = 1
) -> list[Path]:
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
    """Make the sets of an experiment."""
    from settings import compose

    config = compose(sys.argv[1:])
    for part in ("train", "val"):
        for folder in make_sets(config.sets[part], config.sets.folder, workers=config.sets.workers):
            print(folder)


if __name__ == "__main__":
    main()
