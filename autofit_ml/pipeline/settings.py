"""Everything a run's user can choose."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from autofit_ml.errors import SettingsError
from autofit_ml.images.options import ReadOptions
from autofit_ml.images.stamp import PSF

__all__ = ["FitSettings"]

SAVE_CHOICES = ("objects", "previews", "report")


@dataclass(frozen=True)
class FitSettings:
    """Settings of a run.

    Attributes
    ----------
    read : ReadOptions
        What the user says about the images.
    model : str
        "sersic".
    sky : str
        "free", "fixed" (held at 0) or a number (held there, image units per pixel).
    segmenter : {"auto", "sep", "given", "maskrcnn"}
        "auto": the labels given with an object where there are some, else the network.
        "maskrcnn": the network in any case; sep, with OUT_OF_DOMAIN, for images unlike those that
        it was trained on.
    weights : str
        Names or folders of weights, separated by commas; empty: the installed ones that suit the
        images.
    init : {"resnet", "moments"}
        "resnet": a pretrained network; moments, with INIT_FALLBACK, where its answer is not to be
        trusted.
    prior : {"none", "network"}
        "network": the Gaussian that the network predicts is a prior of the fit.
    device : {"auto", "cpu", "cuda"}
    batch_size : int
        Objects fitted together; also the unit that an interruption can lose.
    workers : int
        Processes that read, segment and initialise; 0: in this process; -1: as many as useful
        (none for under 64 objects, else one for every two processors, at most 4; with the network
        one for each, at most 8).
    save : tuple of str
        Any of "objects", "previews", "report"; comma-separated text and "none" are understood.

    Raises
    ------
    SettingsError
        A value that makes no sense.
    """

    read: ReadOptions = field(default_factory=ReadOptions)
    model: str = "sersic"
    sky: str = "free"
    segmenter: str = "auto"
    weights: str = ""
    init: str = "resnet"
    prior: str = "none"
    device: str = "auto"
    batch_size: int = 256
    workers: int = -1
    save: tuple[str, ...] = SAVE_CHOICES

    def __post_init__(self) -> None:
        choices = {
            "model": ("sersic",),
            "segmenter": ("auto", "sep", "given", "maskrcnn"),
            "init": ("moments", "resnet"),
            "prior": ("none", "network"),
            "device": ("auto", "cpu", "cuda"),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise SettingsError(
                    f"{name} is {getattr(self, name)!r}", f"use one of: {', '.join(allowed)}"
                )
        if self.prior == "network" and self.init != "resnet":
            raise SettingsError("a prior from the network without the network", "use init resnet")
        object.__setattr__(self, "sky", _sky(self.sky))
        object.__setattr__(self, "save", _save(self.save))
        _check_whole("batch_size", self.batch_size, 1)
        _check_whole("workers", self.workers, -1)

    @property
    def sky_value(self) -> str | float:
        """`sky` as `autofit_ml.scene.sersic` takes it."""
        return self.sky if self.sky in ("free", "fixed") else float(self.sky)

    def identity(self) -> dict[str, Any]:
        """What decides the results, for run.json and for the check when a run is resumed.

        The device, the number of workers and the batch size are left out: a run may be resumed on
        another machine.
        """
        out: dict[str, Any] = {
            name: getattr(self, name) for name in ("model", "sky", "segmenter", "init", "prior")
        }
        out["weights"] = self.weights
        out["save"] = ",".join(self.save) or "none"
        for item in dataclasses.fields(self.read):
            out[item.name] = _plain(item.name, getattr(self.read, item.name))
        return out


def _sky(value: Any) -> str:
    """ "free", "fixed", or the text of a finite number (each number has one text)."""
    if value in ("free", "fixed"):
        return str(value)
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if isinstance(value, bool) or not math.isfinite(number):
        raise SettingsError(f"sky is {value!r}", "use free, fixed or a number")
    return repr(number + 0.0)


def _save(value: Any) -> tuple[str, ...]:
    """Kinds of files, in the order of `SAVE_CHOICES`, from a tuple or comma-separated text."""
    words = value.split(",") if isinstance(value, str) else list(value or ())
    names = [str(word).strip() for word in words]
    if names == ["none"]:
        return ()
    unknown = [name for name in names if name not in SAVE_CHOICES]
    if unknown:
        raise SettingsError(
            f"cannot save {', '.join(map(repr, unknown))}",
            f"use any of {','.join(SAVE_CHOICES)}, or none",
        )
    return tuple(name for name in SAVE_CHOICES if name in names)


def _check_whole(name: str, value: Any, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
        raise SettingsError(f"{name} is {value!r}", f"give a whole number of {least} or more")


def _plain(name: str, value: Any) -> Any:
    """A value as JSON holds it; the PSF by its content."""
    if isinstance(value, PSF):
        kind = f"has_pixel={value.has_pixel} oversampling={value.oversampling}"
        return f"{_plain(name, value.data)} {kind}"
    if isinstance(value, np.ndarray):
        digest = hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()
        return f"array {value.shape} {value.dtype} sha256:{digest[:16]}"
    if name == "psf" and isinstance(value, (str, Path)) and str(value) != "none":
        digest = hashlib.sha256(Path(value).read_bytes()).hexdigest()
        return f"{value} sha256:{digest[:16]}"
    if isinstance(value, (np.integer, np.floating)):
        return value.item()
    return value if isinstance(value, (int, float, str, bool, type(None))) else str(value)
