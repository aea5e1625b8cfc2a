"""Which pretrained network segments an image."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from autofit_ml.errors import AutofitError, SettingsError
from autofit_ml.weights import WeightInfo, list_weights, load, weight_info
from autofit_ml.weights.bundle import sha256

if TYPE_CHECKING:
    from autofit_ml.segment.network import SegmentNetwork

__all__ = ["choose_weights", "in_domain", "segment_network", "usable_weights"]

_MARGIN = 1.25
"""Widths beyond the trained range by this factor still count as inside."""


def in_domain(info: WeightInfo, pixel_scale: float, fwhm: float) -> bool:
    """Whether an image is like those that weights were trained on.

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


def usable_weights(given: str) -> dict[str, str]:
    """The bundles that `choose_weights` may name, each loaded once: name -> sha256.

    Raises
    ------
    SettingsError
        There are none.
    WeightsError
        One cannot be used; see `autofit_ml.load`.
    """
    names = [text.strip() for text in given.split(",") if text.strip()]
    if names:
        names = [
            name if Path(name).is_dir() else weight_info(name).name
            for name in names
            if Path(name).is_dir() or weight_info(name).task == "segment"
        ]
    else:
        names = [info.name for info in _installed()]
    if not names:
        raise SettingsError(
            "no weights for segmenting are installed", "use --segmenter sep, or give --weights"
        )
    hashes = {}
    for name in names:
        bundle = segment_network(name).bundle
        hashes[name] = sha256(bundle.weights)  # type: ignore[union-attr, arg-type]
    return hashes


def choose_weights(given: str, pixel_scale: float, fwhm: float) -> str | None:
    """Name (or folder) of the weights for an image; None if there are none for images like it.

    Parameters
    ----------
    given : str
        The user's choice: names or folders separated by commas (those of other tasks are passed
        over); empty: any that is installed.
    pixel_scale, fwhm : float
        As in `in_domain`.
    """
    names = [text.strip() for text in given.split(",") if text.strip()]
    if names:
        for name in names:
            if Path(name).is_dir():
                return name
            info = weight_info(name)
            if info.task == "segment":
                return info.name if in_domain(info, pixel_scale, fwhm) else None
        return None
    return _nearest(_installed(), pixel_scale, fwhm)


def _nearest(bundles: Sequence[WeightInfo], pixel_scale: float, fwhm: float) -> str | None:
    inside = [info for info in bundles if in_domain(info, pixel_scale, fwhm)]
    if not inside:
        return None

    def distance(info: WeightInfo) -> float:
        if not np.isfinite(pixel_scale):
            return 0.0
        return abs(np.log(pixel_scale / np.sqrt(info.pixel_scale[0] * info.pixel_scale[1])))

    return min(inside, key=distance).name


@functools.cache
def _installed() -> tuple[WeightInfo, ...]:
    """The newest version of every bundle for segmenting."""
    newest: dict[str, WeightInfo] = {}
    for info in list_weights("segment"):
        newest.setdefault(info.name.partition("@")[0], info)
    return tuple(newest.values())


@functools.lru_cache(maxsize=4)
def segment_network(name: str, device: str = "cpu") -> SegmentNetwork:
    """A network, loaded once a process.

    Raises
    ------
    WeightsError
        See `autofit_ml.load`.
    """
    network = load(name, device)
    if not hasattr(network, "preprocessing"):
        raise AutofitError(f"{name} is no network for segmenting", "give segment/...")
    return network  # type: ignore[return-value]
