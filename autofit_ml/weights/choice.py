"""Choice of the pretrained network that suits an image."""

import contextlib
import ctypes
import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from autofit_ml.catalogue.atomic import file_sha256
from autofit_ml.errors import SettingsError
from autofit_ml.weights.bundle import read_bundle
from autofit_ml.weights.loading import load
from autofit_ml.weights.manifest import WeightInfo, list_weights, weight_info

__all__ = [
    "choose_weights",
    "forget",
    "given_weights",
    "in_domain",
    "network",
    "network_name",
    "usable_device",
    "usable_weights",
]

_MARGIN = 1.25
"""Widths beyond the trained range by this factor still count as inside."""


def in_domain(info: WeightInfo, pixel_scale: float, fwhm: float) -> bool:
    """True if an image is like those that weights were trained on.

    Parameters
    ----------
    info : WeightInfo
    pixel_scale : float
        arcsec; NaN if unknown (then it is not asked for).
    fwhm : float
        Of the PSF, pixels.
    """
    low, high = info.psf_fwhm
    if not low / _MARGIN <= fwhm <= high * _MARGIN:
        return False
    finest, coarsest = info.pixel_scale
    # Ground-based and space-based images differ by more than the seeing in pixels.
    return not np.isfinite(pixel_scale) or finest / 2 <= pixel_scale <= coarsest * 2


def usable_weights(task: str, given: str) -> dict[str, str]:
    """The bundles that `choose_weights` may name, each loaded once: name -> sha256.

    Parameters
    ----------
    task : str
        "segment", "initialise", ...
    given : str
        As in `choose_weights`.

    Raises
    ------
    SettingsError
        There are none.
    WeightsError
        One cannot be used; see `autofit_ml.load`.
    """
    names = given_weights(task, given) or [info.name for info in _installed(task)]
    if not names:
        raise _none_installed(task)
    return {name: file_sha256(network(name).bundle.weights) for name in names}


def choose_weights(task: str, given: str, pixel_scale: float, fwhm: float) -> str | None:
    """Name (or folder) of the weights for an image; None if there are none for images like it.

    Parameters
    ----------
    task : str
    given : str
        The user's choice: names or folders separated by commas (those of other tasks are passed
        over); none of this task: any that is installed.
    pixel_scale, fwhm : float
        As in `in_domain`.

    Raises
    ------
    SettingsError
        There are no weights of this task at all.
    """
    names = given_weights(task, given)
    for name in names:
        if Path(name).is_dir() or in_domain(weight_info(name), pixel_scale, fwhm):
            return name
    if names:
        return None
    if not _installed(task):
        raise _none_installed(task)
    return _nearest(_installed(task), pixel_scale, fwhm)


def _none_installed(task: str) -> SettingsError:
    return SettingsError(
        f"no weights for the task {task!r} are installed",
        "choose a method without a network, or give --weights",
    )


@functools.lru_cache(maxsize=32)
def given_weights(task: str, given: str) -> list[str]:
    """The names of a task among those that a user gave, with their versions."""
    names = []
    for name in filter(None, (text.strip() for text in given.split(","))):
        if Path(name).is_dir():
            if _task_of(Path(name)) == task:
                names.append(name)
        elif weight_info(name).task == task:
            names.append(weight_info(name).name)
    return names


def _task_of(folder: Path) -> str:
    """Task of a bundle's folder; what is wrong with it is said when it is loaded."""
    try:
        return str(json.loads((folder / "config.json").read_text())["task"])
    except (OSError, ValueError, KeyError):
        return str(read_bundle(folder).config["task"])


def _nearest(bundles: Sequence[WeightInfo], pixel_scale: float, fwhm: float) -> str | None:
    inside = [info for info in bundles if in_domain(info, pixel_scale, fwhm)]
    if not inside:
        return None

    def distance(info: WeightInfo) -> tuple[float, ...]:
        scale = abs(np.log(pixel_scale) - np.log(info.pixel_scale).mean())
        width = abs(np.log(fwhm) - np.log(info.psf_fwhm).mean())
        # Those for several surveys first: they have seen more. Weights for one are asked for.
        several = info.survey != "multi"
        return (several, scale, width) if np.isfinite(pixel_scale) else (several, width)

    return min(inside, key=distance).name


@functools.lru_cache(maxsize=8)
def _installed(task: str) -> tuple[WeightInfo, ...]:
    """The newest version of every bundle of a task."""
    newest: dict[str, WeightInfo] = {}
    for info in list_weights(task):
        newest.setdefault(info.name.partition("@")[0], info)
    return tuple(newest.values())


@functools.lru_cache(maxsize=8)
def network(name: str, device: str = "cpu") -> Any:
    """A network, loaded once a process.

    Raises
    ------
    WeightsError
        See `autofit_ml.load`.
    """
    return load(name, device)


_CACHED = (given_weights, _installed, network)


def network_name(loaded: Any) -> str:
    """The bundle's name, or its folder; empty for a network that is in no bundle."""
    info, bundle = getattr(loaded, "info", None), getattr(loaded, "bundle", None)
    if info is not None:
        return str(info.name)
    return "" if bundle is None else str(bundle.folder)


def forget() -> None:
    """Look anew at what is installed, and load networks again: the folders have changed."""
    for cached in _CACHED:
        cached.cache_clear()


def _has_driver() -> bool:
    """True if the library of NVIDIA's driver is there; PyTorch takes a second to say so."""
    for name in ("libcuda.so.1", "nvcuda.dll"):
        with contextlib.suppress(OSError):
            ctypes.CDLL(name)
            return True
    return False


def usable_device(choice: str) -> str:
    """ "cpu" or "cuda" for the setting `device` ("auto", "cpu", "cuda").

    Raises
    ------
    SettingsError
        "cuda" where there is none.
    """
    if choice == "cpu" or (choice == "auto" and not _has_driver()):
        return "cpu"
    import torch

    if torch.cuda.is_available():
        return "cuda"
    if choice == "cuda":
        raise SettingsError("no CUDA device is available", "use --device cpu or auto")
    return "cpu"
