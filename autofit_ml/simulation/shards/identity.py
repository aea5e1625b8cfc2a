"""What the bytes of a set depend on."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autofit_ml import __version__
from autofit_ml.catalogue.atomic import file_sha256
from autofit_ml.errors import InputError
from autofit_ml.simulation.shards.columns import FORMAT

if TYPE_CHECKING:
    from autofit_ml.simulation.recipe import Recipe

__all__ = ["IDENTITY", "set_identity"]

IDENTITY = ("format", "versions", "generator", "recipe", "inputs", "shard_size")
"""Entries of a manifest that say what the bytes depend on."""


def set_identity(recipe: Recipe, shard_size: int, make: Callable) -> dict[str, Any]:
    """Everything that the bytes of the shards depend on, as the manifest states it.

    Raises
    ------
    InputError
        A file that the recipe names cannot be read.
    """
    return {
        "format": FORMAT,
        "versions": _versions(),
        "generator": f"{make.__module__}.{make.__qualname__}",
        "recipe": recipe.as_mapping(),
        "inputs": _input_hashes(recipe),
        "shard_size": shard_size,
    }


def _versions() -> dict[str, str]:
    found = {"autofit_ml": __version__}
    for name in ("galsim", "numpy", "scipy", "pyarrow"):
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def _input_hashes(recipe: Recipe) -> dict[str, str]:
    """sha256 of the files that a recipe names, of a folder's FITS files together."""
    hashes = {}
    correlation = recipe.survey.noise.correlation
    places = [recipe.survey.psf.folder, recipe.data.galaxies.real_folder]
    places.append(correlation if isinstance(correlation, Path) else None)
    for place in filter(None, places):
        try:
            if place.is_file():
                hashes[str(place)] = file_sha256(place)
                continue
            parts = [f"{path.name} {file_sha256(path)}" for path in sorted(place.glob("*.fits*"))]
        except OSError as error:
            raise InputError(
                f"cannot be read: {error.strerror or error}", "check its permissions", place
            ) from error
        hashes[str(place)] = hashlib.sha256("\n".join(parts).encode()).hexdigest()
    return hashes
