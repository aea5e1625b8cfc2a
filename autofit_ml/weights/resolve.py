"""Where a bundle's files are."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

from autofit_ml.errors import MissingWeightsError, WeightsError
from autofit_ml.weights.bundle import BUNDLE_FILES, verify_bundle
from autofit_ml.weights.manifest import (
    ENVIRONMENT,
    WeightInfo,
    installed_folder,
    weight_info,
)

__all__ = ["cache_folder", "find_bundle", "installed_folder", "pull"]

CACHE_ENVIRONMENT = "AUTOFIT_ML_CACHE"


def cache_folder() -> Path:
    """Where fetched bundles are kept: ``$AUTOFIT_ML_CACHE``, or the system's cache folder."""
    given = os.environ.get(CACHE_ENVIRONMENT)
    if given:
        return Path(given)
    import pooch

    return Path(pooch.os_cache("autofit-ml")) / "weights"


def _candidates(info: WeightInfo) -> Iterator[Path]:
    """Folders that may hold a bundle, in the order of preference."""
    given = os.environ.get(ENVIRONMENT, "")
    for text in given.split(os.pathsep) if given else []:
        yield Path(text) / info.name
    yield installed_folder() / info.name
    yield cache_folder() / info.name


def find_bundle(name: str, *, offline: bool = False) -> tuple[Path, WeightInfo]:
    """The folder of a bundle, fetched if need be, and its manifest entry; its files are verified.

    Parameters
    ----------
    name : str
        As in `weight_info`.
    offline : bool
        Never use the network.

    Raises
    ------
    UnknownWeightsError
        No such name.
    MissingWeightsError
        Not on this machine, and not to be fetched.
    DamagedWeightsError
        A file is missing or altered.
    """
    info = weight_info(name)
    for folder in _candidates(info):
        if folder.is_dir():
            verify_bundle(folder, info)
            return folder, info
    if offline or info.url is None:
        why = "--offline" if offline else "the manifest names no address for it"
        raise MissingWeightsError(
            f"the files of {info.name} are not on this machine ({why})",
            f"copy its folder into {cache_folder() / info.name}, or set ${ENVIRONMENT} to a folder "
            f"that holds {info.name}"
            + ("" if info.url is None else "; or run without offline to fetch them"),
        )
    return pull(info.name), info


def pull(name: str) -> Path:
    """Fetch a bundle into the cache, each file checked against its sha256.

    Raises
    ------
    MissingWeightsError
        No address, or it cannot be reached.
    """
    import pooch

    info = weight_info(name)
    if info.url is None:
        raise MissingWeightsError(
            f"the manifest names no address for {info.name}", "it comes with the package"
        )
    folder = cache_folder() / info.name
    try:
        for file in BUNDLE_FILES:
            pooch.retrieve(
                url=f"{info.url.rstrip('/')}/{file}",
                known_hash=f"sha256:{info.files[file]['sha256']}",
                fname=file,
                path=folder,
                progressbar=sys.stderr.isatty(),
            )
    except (OSError, ValueError) as error:
        raise MissingWeightsError(
            f"{info.name} cannot be fetched: {error}", "check the connection, or copy the folder"
        ) from error
    except KeyError as error:
        raise WeightsError(
            f"the manifest lacks {error} of {info.name}", "update autofit-ml"
        ) from error
    verify_bundle(folder, info)
    return folder
