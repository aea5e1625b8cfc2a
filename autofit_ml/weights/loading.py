"""Loading of weights: from a name to a bundle's files, fetched if need be, and to a network."""

import os
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autofit_ml.errors import (
    DamagedWeightsError,
    IncompatibleWeightsError,
    MissingWeightsError,
    WeightsError,
    errors_as,
)
from autofit_ml.weights.bundle import BUNDLE_FILES, Bundle, read_bundle, verify_bundle
from autofit_ml.weights.manifest import (
    ENVIRONMENT,
    WeightInfo,
    installed_folder,
    weight_folders,
    weight_info,
)

if TYPE_CHECKING:
    import torch

__all__ = ["cache_folder", "find_bundle", "installed_folder", "load", "pull", "trained_state"]

BUNDLE_FORMAT = 1
"""Of config.json; a bundle of a higher one needs a newer autofit-ml."""

_BUILDERS = {
    "segment": "autofit_ml.segmentation.network",
    "initialise": "autofit_ml.initialisation.network",
    "deconvolve": "autofit_ml.deconvolution.network",
    "errors": "autofit_ml.fitting.model_error",
}
"""Module that builds a task's network: ``build(config) -> torch.nn.Module``."""

CACHE_ENVIRONMENT = "AUTOFIT_ML_CACHE"

NO_ADDRESS = "the manifest names no address for"


def cache_folder() -> Path:
    """Folder of fetched bundles: ``$AUTOFIT_ML_CACHE``, or the system's cache folder."""
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


def load(
    name_or_path: str | Path, device: "str | torch.device" = "cpu", *, offline: bool = False
) -> "torch.nn.Module":
    """A pretrained network in evaluation mode.

    Parameters
    ----------
    name_or_path : str or path
        ``task/survey-band`` (the newest version), ``task/survey-band@version``, or a folder.
    device : str or torch.device
    offline : bool
        Never use the network.

    Returns
    -------
    torch.nn.Module
        With ``bundle`` (descriptions) and ``info`` (the manifest's entry; None for a folder).

    Raises
    ------
    UnknownWeightsError, MissingWeightsError, DamagedWeightsError, IncompatibleWeightsError
        Each says what to do.
    """
    bundle, info = _found(name_or_path, offline)
    trained = _state(bundle)
    network = _build(bundle, info, trained)
    try:
        network.load_state_dict(trained, strict=True)
    except RuntimeError as error:
        raise IncompatibleWeightsError(
            f"does not fit the network that config.json describes: {_first_line(error)}",
            "fetch or export the bundle again",
            bundle.weights,
        ) from error
    network.bundle = bundle  # type: ignore[assignment]
    network.info = info  # type: ignore[assignment]
    return network.to(device).eval()


def trained_state(name_or_path: str | Path, *, offline: bool = False) -> "dict[str, torch.Tensor]":
    """The weights of a bundle as they were trained; those of a loaded network may be folded.

    Parameters and errors as in `load`.
    """
    bundle, _ = _found(name_or_path, offline)
    return _state(bundle)


def _found(name_or_path: str | Path, offline: bool) -> tuple[Bundle, WeightInfo | None]:
    if Path(name_or_path).is_dir():
        return read_bundle(Path(name_or_path)), None
    folder, info = find_bundle(str(name_or_path), offline=offline)
    return read_bundle(folder), info


def _build(
    bundle: Bundle, info: WeightInfo | None, trained: "Mapping[str, torch.Tensor]"
) -> "torch.nn.Module":
    from autofit_ml import __version__

    config = bundle.config
    path = bundle.folder / "config.json"
    if config.get("format") not in range(1, BUNDLE_FORMAT + 1):
        raise IncompatibleWeightsError(
            f"has format {config.get('format')!r}, this version reads {BUNDLE_FORMAT}",
            "update autofit-ml",
            path,
        )
    if info is not None and _version(info.needs) > _version(__version__):
        raise IncompatibleWeightsError(
            f"{info.name} needs autofit-ml {info.needs}, this is {__version__}",
            "update autofit-ml, or load an older version of the weights",
        )
    task = config.get("task")
    if task not in _BUILDERS:
        raise IncompatibleWeightsError(
            f"is for the task {task!r}", f"this version knows {', '.join(_BUILDERS)}", path
        )
    build = import_module(_BUILDERS[task]).build
    try:
        _check_settings(config["network"], trained)
        return build(config)
    except (
        ArithmeticError,
        LookupError,
        MemoryError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:
        raise IncompatibleWeightsError(
            f"describes no network that this version can build: {error}", "update autofit-ml", path
        ) from error


def _check_settings(settings: Mapping[str, Any], trained: "Mapping[str, torch.Tensor]") -> None:
    """Refuse to build a network that is far larger than its weights.

    Raises
    ------
    ValueError
    """
    if not isinstance(settings, Mapping):
        raise ValueError(f"network is {settings!r}")
    sides = [side for tensor in trained.values() for side in tensor.shape]
    most = max(512, *sides, len(trained))
    for name, value in settings.items():
        numbers = [n for n in (value if isinstance(value, list) else [value]) if type(n) is int]
        total = sum(numbers) if name == "blocks" else max(numbers, default=0)
        if len(numbers) > 64 or total > (len(trained) if name == "blocks" else most):
            raise ValueError(f"{name} is {value!r}, of {len(trained)} tensors of up to {most}")


def _state(bundle: Bundle) -> dict[str, Any]:
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    remedy = "fetch or export the bundle again"
    with errors_as(
        DamagedWeightsError,
        "cannot be read",
        remedy,
        bundle.weights,
        of=(SafetensorError, OSError, ValueError, KeyError, RuntimeError),
    ):
        state = load_file(bundle.weights)
    for name, value in state.items():
        # What is usual is infinite, or NaN, where it has not been measured.
        unset = name.startswith("usual_") and not bool(torch.isfinite(value).any())
        if value.is_floating_point() and not unset and not bool(torch.isfinite(value).all()):
            raise DamagedWeightsError(f"{name} is not finite everywhere", remedy, bundle.weights)
    return state


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[min(1, len(lines) - 1)] if lines else type(error).__name__


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".")[:3] if part.isdigit())
