"""One bundle of weights: a folder of five files."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autofit_ml.catalogue.atomic import (
    atomic_write_bytes,
    atomic_write_json,
    atomic_write_text,
    file_sha256,
)
from autofit_ml.errors import DamagedWeightsError, IncompatibleWeightsError, errors_as
from autofit_ml.weights.manifest import WeightInfo

__all__ = [
    "BUNDLE_FILES",
    "Bundle",
    "describe_files",
    "read_bundle",
    "verify_bundle",
    "write_bundle",
]

BUNDLE_FILES = ("model.safetensors", "config.json", "metrics.json", "training.yaml", "CARD.md")
"""Weights; architecture, preprocessing, parameter transforms, units; held-out figures; resolved
training configuration; what a user should know."""


@dataclass(frozen=True)
class Bundle:
    """A bundle on this machine, read but for its weights.

    Attributes
    ----------
    folder : path
    config : dict
        ``task``, ``format``, ``architecture`` and what the network needs to be built.
    metrics : dict
    card : str
    """

    folder: Path
    config: dict[str, Any]
    metrics: dict[str, Any]
    card: str

    @property
    def weights(self) -> Path:
        """The safetensors file."""
        return self.folder / "model.safetensors"


def describe_files(folder: str | Path) -> dict[str, dict[str, Any]]:
    """``files`` of a manifest entry for a bundle's folder."""
    return {
        name: {
            "sha256": file_sha256(Path(folder) / name),
            "bytes": (Path(folder) / name).stat().st_size,
        }
        for name in BUNDLE_FILES
    }


def verify_bundle(folder: str | Path, info: WeightInfo | None = None) -> None:
    """Check that every file is there and, given the manifest's entry, unaltered.

    Raises
    ------
    DamagedWeightsError
        Names the file.
    """
    folder, remedy = Path(folder), _remedy(info)
    for name in BUNDLE_FILES:
        path = folder / name
        if not path.is_file():
            raise DamagedWeightsError("is missing from the bundle", remedy, path)
        expected = None if info is None else info.files.get(name)
        if expected is None:
            continue
        size = path.stat().st_size
        if size != expected["bytes"]:
            raise DamagedWeightsError(
                f"has {size} bytes instead of {expected['bytes']}", remedy, path
            )
        if file_sha256(path) != expected["sha256"]:
            raise DamagedWeightsError("has been altered: its sha256 differs", remedy, path)


def _remedy(info: WeightInfo | None) -> str:
    """Remedy for a damaged bundle."""
    if info is None:
        return "copy the folder anew from where it came"
    if info.url is None:  # nothing to pull from
        return "it comes with the package: install autofit-ml anew, or copy the folder anew"
    return f"autofit-ml weights pull {info.name} fetches it anew"


def read_bundle(folder: str | Path) -> Bundle:
    """Read a bundle's descriptions.

    Raises
    ------
    DamagedWeightsError
        A file is missing or no JSON.
    """
    folder = Path(folder)
    verify_bundle(folder)
    config, metrics = (_described(folder / name) for name in ("config.json", "metrics.json"))
    return Bundle(folder, config, metrics, _text(folder / "CARD.md"))


def _text(path: Path) -> str:
    with errors_as(
        DamagedWeightsError, "cannot be read", _remedy(None), path, of=(OSError, ValueError)
    ):
        return path.read_text(encoding="utf-8")


def _described(path: Path) -> dict[str, Any]:
    with errors_as(
        DamagedWeightsError, "is no JSON", _remedy(None), path, of=(ValueError, RecursionError)
    ):
        content = json.loads(_text(path))
    if not isinstance(content, dict):
        raise DamagedWeightsError("is no JSON object", _remedy(None), path)
    return content


def write_bundle(
    folder: str | Path,
    *,
    state: Mapping[str, Any],
    config: Mapping[str, Any],
    metrics: Mapping[str, Any],
    training: str,
    card: str,
) -> Bundle:
    """Write a bundle, each file complete or not at all.

    Parameters
    ----------
    folder : path
    state : mapping of str to Tensor
        Of the network; written contiguous, on the CPU.
    config : mapping
        Must name ``task`` and ``architecture``.
    metrics : mapping
    training : str
        Resolved training configuration, YAML.
    card : str
        Markdown.

    Returns
    -------
    Bundle

    Raises
    ------
    IncompatibleWeightsError
        The configuration lacks a key.
    OutputError
        The folder cannot be written.
    """
    from safetensors.torch import save

    for key in ("task", "architecture", "format"):
        if key not in config:
            raise IncompatibleWeightsError(f"the bundle's config lacks {key!r}", "add it")
    folder = Path(folder)
    tensors = {name: value.detach().cpu().contiguous() for name, value in state.items()}
    atomic_write_bytes(folder / "model.safetensors", save(tensors))
    atomic_write_json(folder / "config.json", dict(config))
    atomic_write_json(folder / "metrics.json", dict(metrics))
    atomic_write_text(folder / "training.yaml", training)
    atomic_write_text(folder / "CARD.md", card)
    return read_bundle(folder)
