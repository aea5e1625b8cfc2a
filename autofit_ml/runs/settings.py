"""Everything a run's user can choose."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from autofit_ml.errors import SettingsError
from autofit_ml.images.options import FITTED_PSFS, ReadOptions
from autofit_ml.images.stamp import PSF

if TYPE_CHECKING:
    from autofit_ml.scenes import Scene

__all__ = ["FitSettings"]

SAVE_CHOICES = ("objects", "previews", "report")


@dataclass(frozen=True)
class FitSettings:
    """Settings of a run.

    Attributes
    ----------
    read : ReadOptions
        What the user says about the images.
    model : str, path or Scene
        ``sersic``, ``sersic+exp``, ``psf+sersic``, ...; a YAML file; from Python also a
        `autofit_ml.scenes.Scene`. ``auto``: the simplest that describes an object
        (`autofit_ml.fitting.choice`).
    galfit : path, optional
        A GALFIT or GALFITM input file in place of `model`.
    sky : str, optional
        "free", "fixed" (held at 0), "tilted" (a plane) or a number (held there, image units per
        pixel). None: as the model says, which is free unless it says otherwise.
    neighbours : {"fit", "mask"}
        Contaminants that overlap with the target are fitted with it, the others masked; or all
        are masked.
    likelihood : str
        gaussian, poisson, student-t[:nu], huber[:k] or cauchy[:c].
    error_floor : float
        Error of the model in units of the model itself, added to sigma in quadrature.
    bands : tuple of str
        Bands that are fitted together, the reference first; comma-separated text is understood,
        with wavelengths (any unit) for parameters that are polynomials in it: ``g:477,r:623``.
        Empty: every image is an object of its own, unless a manifest says otherwise.
    wavelengths : dict
        Band -> wavelength; usually given with `bands`.
    posterior : {"laplace", "bootstrap", "hmc", "nested"}
        Where errors come from: the curvature at the best fit, or samples, which are then written
        to ``posterior/`` (seconds an object).
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
        none for under 128, else one for each, at most 8).
    save : tuple of str
        Any of "objects", "previews", "report"; comma-separated text and "none" are understood.

    Raises
    ------
    SettingsError
        A value that makes no sense.
    """

    read: ReadOptions = field(default_factory=ReadOptions)
    model: str | Path | Scene = "sersic"
    galfit: str | Path | None = None
    sky: str | None = None
    neighbours: str = "fit"
    likelihood: str = "gaussian"
    error_floor: float = 0.0
    bands: tuple[str, ...] = ()
    wavelengths: Mapping[str, float] = field(default_factory=dict)
    posterior: str = "laplace"
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
            "neighbours": ("fit", "mask"),
            "posterior": ("laplace", "bootstrap", "hmc", "nested"),
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
        object.__setattr__(self, "sky", None if self.sky is None else _sky(self.sky))
        object.__setattr__(self, "error_floor", _floor(self.error_floor))
        bands, wavelengths = _bands(self.bands, self.wavelengths)
        object.__setattr__(self, "bands", bands)
        object.__setattr__(self, "wavelengths", wavelengths)
        self._check_model()
        object.__setattr__(self, "save", _save(self.save))
        _check_whole("batch_size", self.batch_size, 1)
        _check_whole("workers", self.workers, -1)

    def _check_model(self) -> None:
        """Everything about the model that can be wrong; what is plain needs no torch."""
        plain = isinstance(self.model, str) and self.model.strip() == "sersic"
        if plain:
            object.__setattr__(self, "model", "sersic")
        if self.galfit is not None and not plain:
            raise SettingsError("both a model and a GALFIT file are given", "give one of them")
        if self.likelihood != "gaussian":
            from autofit_ml.fitting import Likelihood

            object.__setattr__(self, "likelihood", str(Likelihood.parse(str(self.likelihood))))
        if not plain or self.galfit is not None or self.sky == "tilted":
            from autofit_ml.runs.model import scene_of

            scene_of(self)
        if self.prior == "network":
            self._check_prior(plain)

    def _check_prior(self, plain: bool) -> None:
        unlike = [
            what
            for what, given in (
                ("another model", not plain or self.galfit is not None or self.sky == "tilted"),
                ("neighbours that are fitted", self.neighbours == "fit"),
                ("another likelihood", self.likelihood != "gaussian"),
                ("an error floor", self.error_floor > 0),
                ("several bands", bool(self.bands)),
                ("samples", self.posterior != "laplace"),
            )
            if given
        ]
        if unlike:
            raise SettingsError(
                f"the network's prior is that of one Sérsic profile, not of {' and '.join(unlike)}",
                "leave the prior out, or give --model sersic --neighbours mask",
            )

    @property
    def sky_value(self) -> str | float:
        """`sky` as `autofit_ml.scenes.sersic` takes it."""
        sky = self.sky or "free"
        return sky if sky in ("free", "fixed", "tilted") else float(sky)

    def identity(self) -> dict[str, Any]:
        """What decides the results, for run.json and for the check when a run is resumed.

        The device, the number of workers and the batch size are left out: a run may be resumed on
        another machine.
        """
        from autofit_ml.runs.model import model_identity

        out: dict[str, Any] = model_identity(self)
        for name in ("neighbours", "likelihood", "error_floor", "posterior"):
            out[name] = getattr(self, name)
        for name in ("segmenter", "init", "prior"):
            out[name] = getattr(self, name)
        out["bands"] = ",".join(self.bands)
        out["wavelengths"] = ",".join(f"{b}:{w:g}" for b, w in self.wavelengths.items())
        out["weights"] = self.weights
        out["save"] = ",".join(self.save) or "none"
        for item in dataclasses.fields(self.read):
            out[item.name] = _plain(item.name, getattr(self.read, item.name))
        return out


def _sky(value: Any) -> str:
    """ "free", "fixed", "tilted", or the text of a finite number (each number has one text)."""
    if value in ("free", "fixed", "tilted"):
        return str(value)
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if isinstance(value, bool) or not math.isfinite(number):
        raise SettingsError(f"sky is {value!r}", "use free, fixed, tilted or a number")
    return repr(number + 0.0)


def _floor(value: Any) -> float:
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not (math.isfinite(number) and 0 <= number < 1):
        raise SettingsError(
            f"error_floor is {value!r}", "give a share of the model's light, e.g. 0.02; 0 for none"
        )
    return number


def _bands(value: Any, wavelengths: Mapping[str, Any]) -> tuple[tuple[str, ...], dict[str, float]]:
    """Bands, and their wavelengths where there are some."""
    words = value.split(",") if isinstance(value, str) and value else list(value or ())
    given = dict(wavelengths or {})
    names = []
    for word in (str(word).strip() for word in words):
        name, colon, number = word.partition(":")
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+-]*", name):
            raise SettingsError(
                f"a band is called {name!r}", "name bands like g,r,i or F606W,F814W"
            )
        if colon:
            given[name] = number
        names.append(name)
    if len({name.lower() for name in names}) < len(names):
        raise SettingsError(f"a band is given twice: {', '.join(names)}", "name each band once")
    out = {}
    for name, number in given.items():
        try:
            out[name] = float(number)
        except (TypeError, ValueError):
            out[name] = math.nan
        if not out[name] > 0 or not math.isfinite(out[name]):
            raise SettingsError(
                f"the wavelength of band {name} is {number!r}", "write for example g:477,r:623"
            )
    lacking = [name for name in names if out and name not in out]
    if lacking or set(out) - set(names):
        raise SettingsError(
            f"wavelengths of {', '.join(sorted(out))} for bands {', '.join(names) or '(none)'}",
            "give a wavelength for every band, or for none",
        )
    return tuple(names), out


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
    words = ("none", *FITTED_PSFS)
    if name == "psf" and isinstance(value, (str, Path)) and str(value) not in words:
        digest = hashlib.sha256(Path(value).read_bytes()).hexdigest()
        return f"{value} sha256:{digest[:16]}"
    if isinstance(value, (np.integer, np.floating)):
        return value.item()
    return value if isinstance(value, (int, float, str, bool, type(None))) else str(value)
