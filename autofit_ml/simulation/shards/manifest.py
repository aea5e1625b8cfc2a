"""Contents of a set: the files of its folder, its manifest, and whether they agree."""

import contextlib
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from autofit_ml import __version__
from autofit_ml.catalogue.atomic import file_sha256
from autofit_ml.errors import InputError
from autofit_ml.simulation.shards.columns import FORMAT, schema_of

if TYPE_CHECKING:
    from autofit_ml.simulation.recipe import Recipe

__all__ = [
    "CONTINUE",
    "IDENTITY",
    "MANIFEST",
    "SHARDS",
    "SOURCES",
    "STATE",
    "WORK",
    "Progress",
    "SetManifest",
    "ShardEntry",
    "problem_of",
    "read_manifest",
    "set_identity",
    "shard_file",
    "verify_set",
]

MANIFEST, SOURCES, SHARDS, WORK = "manifest.json", "sources.parquet", "shards", ".work"
STATE = f"{WORK}/state.json"

CONTINUE = "run the same `autofit-ml simulate` command again: damaged shards are made anew"
"""Remedy for a set that is damaged."""

IDENTITY = ("format", "versions", "generator", "recipe", "inputs", "shard_size")
"""Entries of a manifest that say what the bytes depend on."""

Progress = Callable[[int, int], None]
"""Called with (objects that are done, all)."""


def shard_file(number: int) -> str:
    """Name of a shard, relative to the set's folder."""
    return f"{SHARDS}/shard-{number:05d}.arrow"


@dataclass(frozen=True)
class ShardEntry:
    """A file of a set: its name, rows, the number of its first object, bytes, sha256."""

    file: str
    rows: int
    first: int
    bytes: int
    sha256: str

    @classmethod
    def of(cls, folder: Path, file: str, rows: int, first: int = 0) -> "ShardEntry":
        """The entry of a file that is complete."""
        path = folder / file
        return cls(file, rows, first, path.stat().st_size, file_sha256(path))


@dataclass(frozen=True)
class SetManifest:
    """Manifest of a complete set.

    Attributes
    ----------
    folder : Path
    count : int
        Objects.
    seed : int
    recipe : dict
        The resolved recipe (`Recipe.as_mapping`; folders in it may not exist on this machine).
    recipe_sha256 : str
        `Recipe.digest`.
    versions : dict
        Of autofit-ml and of the packages that the pixels depend on.
    generator : str
        The function that made the objects.
    inputs : dict
        sha256 of the PSF images, galaxy images or noise files that the recipe names.
    shard_size, batch_rows : int
        Objects of a shard and of a record batch (the last one may hold fewer).
    shards : tuple of ShardEntry
    sources : ShardEntry
        The table of all sources; `rows` are sources.
    """

    folder: Path
    count: int
    seed: int
    recipe: dict[str, Any]
    recipe_sha256: str
    versions: dict[str, str]
    generator: str
    inputs: dict[str, str]
    shard_size: int
    batch_rows: int
    shards: tuple[ShardEntry, ...]
    sources: ShardEntry

    @property
    def kind(self) -> str:
        """``stamp`` or ``frame``."""
        return self.recipe["data"]["kind"]

    @property
    def shape(self) -> tuple[int, int]:
        """(ny, nx) of every image."""
        ny, nx = self.recipe["data"]["shape"]
        return ny, nx

    @property
    def schema(self) -> pa.Schema:
        """Columns of the shards; see `shard_schema`."""
        labels = self.recipe["data"]["labels"]
        return schema_of(labels["noise_free"], labels["light"])


def read_manifest(folder: str | Path) -> SetManifest:
    """The manifest of a complete set.

    Raises
    ------
    InputError
        No set there, an unfinished one, a damaged manifest, or a newer format.
    """
    folder = Path(folder)
    path = folder / MANIFEST
    try:
        return _manifest_from(folder, json.loads(path.read_text("utf-8")))
    except OSError as error:
        if (folder / STATE).is_file():
            raise InputError(
                "this set of simulated objects is not finished",
                "run the same `autofit-ml simulate` command again: it continues",
                folder,
            ) from error
        raise InputError(
            "no set of simulated objects here",
            "give a folder that `autofit-ml simulate --out` has written",
            folder,
        ) from error
    except InputError:
        raise
    except ValueError as error:
        raise InputError("this manifest cannot be read", CONTINUE, path) from error
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError("this is not the manifest of a set", CONTINUE, path) from error


def _manifest_from(folder: Path, content: Mapping[str, Any]) -> SetManifest:
    if content["format"] > FORMAT:
        raise InputError(
            f"this set has format {content['format']}; this version of autofit-ml reads up to "
            f"{FORMAT}",
            "update autofit-ml",
            folder / MANIFEST,
        )
    names = ("count", "seed", "recipe", "recipe_sha256", "versions", "generator", "inputs")
    return SetManifest(
        folder=folder,
        **{name: content[name] for name in (*names, "shard_size", "batch_rows")},
        shards=tuple(ShardEntry(**entry) for entry in content["shards"]),
        sources=ShardEntry(**content["sources"]),
    )


def verify_set(folder: str | Path) -> SetManifest:
    """Read every file of a set and compare with the manifest's sha256.

    Parameters
    ----------
    folder : path

    Returns
    -------
    SetManifest

    Raises
    ------
    InputError
        Names the damaged and missing files.
    """
    manifest = read_manifest(folder)
    every = (*manifest.shards, manifest.sources)
    found = {entry.file: problem_of(manifest.folder, entry) for entry in every}
    wrong = [f"{file} {problem}" for file, problem in found.items() if problem]
    if wrong:
        raise InputError("this set is damaged: " + "; ".join(wrong), CONTINUE, folder)
    return manifest


def problem_of(folder: Path, entry: ShardEntry) -> str:
    """Say what is wrong with a file of a set; empty: nothing."""
    path = folder / entry.file
    try:
        size = path.stat().st_size
        if size != entry.bytes:
            return f"has {size} bytes instead of {entry.bytes}"
        return "" if file_sha256(path) == entry.sha256 else "has another sha256"
    except FileNotFoundError:
        return "is missing"
    except OSError as error:
        return f"cannot be read: {error.strerror or error}"


def set_identity(recipe: "Recipe", shard_size: int, make: Callable) -> dict[str, Any]:
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


def _input_hashes(recipe: "Recipe") -> dict[str, str]:
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
