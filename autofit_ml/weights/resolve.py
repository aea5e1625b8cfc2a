"""Where a bundle's files are."""

from __future__ import annotations

import os
from pathlib import Path

from autofit_ml.errors import DamagedWeightsError, MissingWeightsError, WeightsError
from autofit_ml.weights.bundle import BUNDLE_FILES, verify_bundle
from autofit_ml.weights.manifest import (
    ENVIRONMENT,
    WeightInfo,
    installed_folder,
    weight_folders,
    weight_info,
)

__all__ = ["cache_folder", "find_bundle", "installed_folder", "pull"]

CACHE_ENVIRONMENT = "AUTOFIT_ML_CACHE"

NO_ADDRESS = "the manifest names no address for"


def cache_folder() -> Path:
    """Where fetched bundles are kept: ``$AUTOFIT_ML_CACHE``, or the system's cache folder."""
    given = os.environ.get(CACHE_ENVIRONMENT)
    if given:
        return Path(given)
    import pooch

    return Path(pooch.os_cache("autofit-ml")) / "weights"


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
    folder = _whole(info)
    if folder is not None:
        return folder, info
    if offline or info.url is None:
        why = f"and {NO_ADDRESS} it" if info.url is None else "and this is offline"
        fetch = "" if info.url is None else f"; or run autofit-ml weights pull {info.name}"
        raise MissingWeightsError(
            f"the files of {info.name} are not on this machine, {why}", _by_hand(info) + fetch
        )
    return pull(info.name), info


def _whole(info: WeightInfo) -> Path | None:
    """The first folder that holds a bundle undamaged; None where no folder holds it.

    Raises
    ------
    DamagedWeightsError
        Every folder that holds it is damaged: what is wrong with the first.
    """
    damage: DamagedWeightsError | None = None
    for folder in (root / info.name for root in (*weight_folders(), cache_folder())):
        if folder.is_dir():
            try:
                verify_bundle(folder, info)
                return folder
            except DamagedWeightsError as error:
                damage = damage or error
    if damage is not None:
        raise damage
    return None


def _by_hand(info: WeightInfo) -> str:
    return (
        f"copy its folder into {cache_folder() / info.name}, or set ${ENVIRONMENT} to a folder "
        f"that holds {info.name}"
    )


def pull(name: str) -> Path:
    """Fetch a bundle into the cache, each file checked against its sha256.

    Files that are there and whole are not fetched again.

    Parameters
    ----------
    name : str
        As in `weight_info`.

    Returns
    -------
    Path
        The bundle's folder.

    Raises
    ------
    UnknownWeightsError
        No such name.
    MissingWeightsError
        No address, or it cannot be reached, or gives other files.
    """
    import pooch

    info = weight_info(name)
    if info.url is None:
        raise MissingWeightsError(f"{NO_ADDRESS} {info.name}", _by_hand(info))
    folder = cache_folder() / info.name
    try:
        for file in BUNDLE_FILES:
            pooch.retrieve(
                url=f"{info.url.rstrip('/')}/{file}",
                known_hash=f"sha256:{info.files[file]['sha256']}",
                fname=file,
                path=folder,
            )
    except (OSError, ValueError) as error:
        raise MissingWeightsError(
            f"{info.name} cannot be fetched from {info.url}: {error}",
            f"check the connection, or {_by_hand(info)}",
        ) from error
    except KeyError as error:
        raise WeightsError(
            f"the manifest lacks {error} of {info.name}", "update autofit-ml"
        ) from error
    verify_bundle(folder, info)
    return folder
