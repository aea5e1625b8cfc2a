"""Everything a run's user can choose."""

from __future__ import annotations

import dataclasses
import hashlib
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
    segmenter : {"auto", "sep", "given"}
        "auto": the labels given with an object where there are some, else sep.
    init : {"moments"}
    device : {"auto", "cpu", "cuda"}
    batch_size : int
        Objects fitted together; also the unit that an interruption can lose.
    workers : int
        Processes that read, segment and initialise; 0: in this process; -1: as many as useful.
    save : tuple of str
        Any of "objects", "previews", "report".
    """

    read: ReadOptions = field(default_factory=ReadOptions)
    model: str = "sersic"
    sky: str = "free"
    segmenter: str = "auto"
    init: str = "moments"
    device: str = "auto"
    batch_size: int = 256
    workers: int = -1
    save: tuple[str, ...] = SAVE_CHOICES

    def __post_init__(self) -> None:
        choices = {
            "model": ("sersic",),
            "segmenter": ("auto", "sep", "given"),
            "init": ("moments",),
            "device": ("auto", "cpu", "cuda"),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise SettingsError(
                    f"{name} is {getattr(self, name)!r}", f"use one of: {', '.join(allowed)}"
                )
        if self.sky not in ("free", "fixed"):
            try:
                finite = np.isfinite(float(self.sky))
            except ValueError:
                finite = False
            if not finite:
                raise SettingsError(f"sky is {self.sky!r}", "use free, fixed or a number")
        unknown = [name for name in self.save if name not in SAVE_CHOICES]
        if unknown:
            raise SettingsError(
                f"cannot save {', '.join(unknown)}",
                f"use any of {','.join(SAVE_CHOICES)}, or none",
            )
        if self.batch_size < 1:
            raise SettingsError("batch_size is below 1", "give a positive number")
        if self.workers < -1:
            raise SettingsError("workers is below 0", "give the number of processes")

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
            name: getattr(self, name) for name in ("model", "sky", "segmenter", "init")
        }
        out["save"] = ",".join(self.save) or "none"
        for item in dataclasses.fields(self.read):
            out[item.name] = _plain(getattr(self.read, item.name))
        return out


def _plain(value: Any) -> Any:
    """A value as JSON holds it; files and arrays by their content."""
    if isinstance(value, PSF):
        value = value.data
    if isinstance(value, np.ndarray):
        digest = hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()
        return f"array {value.shape} sha256:{digest[:16]}"
    if isinstance(value, (str, Path)) and Path(value).is_file():
        digest = hashlib.sha256(Path(value).read_bytes()).hexdigest()
        return f"{value} sha256:{digest[:16]}"
    return value if isinstance(value, (int, float, str, bool, type(None))) else str(value)
