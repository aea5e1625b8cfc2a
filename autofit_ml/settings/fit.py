"""Options of a fit."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autofit_ml.errors import SettingsError
from autofit_ml.options import Option, any_of, option, texts_of, word_or_number
from autofit_ml.settings.reading import MODEL, OUTPUT, STARTS, ReadOptions
from autofit_ml.settings.running import (
    INITIALISERS,
    SEGMENTERS,
    Networks,
    Working,
    segmenter_option,
)

if TYPE_CHECKING:
    from autofit_ml.scenes import Scene

MEASURES = ("morphology",)
SAVED = ("objects", "previews", "report")
PRIORS = ("broad", "none", "network")


def grid_axes(value: Any) -> tuple[str, ...]:
    """Axes of a grid, each in one form: NAME=LOW:HIGH:CELLS, with :log."""
    axes = []
    for text in () if value == "none" else texts_of(value):
        name, _, numbers = str(text).strip().partition("=")
        low, high, cells = [*numbers.split(":"), "", "", ""][:3]
        log = numbers.split(":")[3:]
        try:
            least, most, count = float(low), float(high), int(cells)
        except ValueError:
            least, most, count = math.nan, math.nan, 0
        good = -math.inf < least < most < math.inf and 1 <= count <= 100 and log in ([], ["log"])
        if not (name and good and (not log or least > 0)):
            raise SettingsError(
                f"{text!r} is no axis", "write PARAMETER=LOW:HIGH:CELLS, e.g. n=0.5:8:5:log"
            )
        axes.append(f"{name}={least:.12g}:{most:.12g}:{count}" + ":log" * bool(log))
    return tuple(axes)


def _prior(value: Any) -> str:
    """The name of a prior, or population:FILE."""
    text = str(value)
    kind, colon, file = text.partition(":")
    if not (text in PRIORS or (kind == "population" and file)):
        raise SettingsError(f"{text!r} is no prior", f"use {', '.join(PRIORS)} or population:FILE")
    return text


def bands_and_wavelengths(
    value: Any, wavelengths: Mapping[str, Any]
) -> tuple[tuple[str, ...], dict[str, float]]:
    """Bands, and their wavelengths where there are some."""
    given: dict[str, Any] = dict(wavelengths or {})
    names = []
    for word in (str(word).strip() for word in texts_of(value)):
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


@dataclass(frozen=True, kw_only=True)
class FitSettings(Working, Networks, ReadOptions):
    """Settings of a fit, and everything that is said about its images."""

    model: str | Path | Scene = option(
        "sersic",
        "Model to fit: sersic, sersic+exp, psf+sersic, ..., a YAML file (from Python also a "
        "`Scene`), or auto: the simplest that describes the object.",
        MODEL,
        shell=str,
        normalise=lambda value: value.strip() if isinstance(value, str) else value,
    )
    galfit: str | Path | None = option(
        None,
        "GALFIT input file, which gives the model and, without PATH, the images.",
        MODEL,
        shell=Path,
    )
    pipeline: str | Path | None = option(
        None,
        "YAML file with a sequence of fits, each of which starts from earlier results "
        "(docs/pipelines.md).",
        MODEL,
        shell=Path,
    )
    grid: str | Sequence[str] = option(
        (),
        "Fit in every cell of a grid of parameters, and again from its minima: "
        "PARAMETER=LOW:HIGH:CELLS[:log], for one or more parameters: n=0.5:8:5:log,B/T=0:1:4.",
        MODEL,
        normalise=grid_axes,
    )
    bands: str | Sequence[str] = option(
        (),
        "Bands that are fitted together, the reference band first: g,r,i; with wavelengths if "
        "parameters are polynomials in wavelength: g:477,r:623.",
        MODEL,
    )
    wavelengths: Mapping[str, float] = field(
        default_factory=dict,
        metadata={"option": Option("Band -> wavelength, any unit.", MODEL, python_only=True)},
    )
    neighbours: str = option(
        "fit",
        "Fit overlapping neighbours together with the target, or mask them.",
        MODEL,
        choices=("fit", "mask"),
    )
    sky: str | float | None = option(
        None,
        "Sky: free, fixed (to 0), tilted (a plane), or a value in image units per pixel (default: "
        "as in the model file, else free).",
        MODEL,
        normalise=word_or_number("free", "fixed", "tilted"),
    )
    likelihood: str = option(
        "gaussian",
        "Likelihood of the pixels: gaussian, poisson, student-t[:nu], huber[:k] or cauchy[:c].",
        MODEL,
    )
    error_floor: float = option(
        0.0,
        "Model error to add to the noise, as a fraction of the model's flux in each pixel.",
        MODEL,
        least=0,
        below=1,
    )
    prior: str = option(
        "broad",
        "Prior: broad (values typical of any galaxy; affects faint galaxies only), none, network "
        "(prediction of the initialising network), or population:FILE.",
        MODEL,
        normalise=_prior,
    )
    posterior: str = option(
        "laplace",
        "Errors from laplace (the curvature at the maximum), or from posterior samples: "
        "bootstrap, hmc, nested (seconds to minutes per object).",
        MODEL,
        choices=("laplace", "bootstrap", "hmc", "nested"),
    )
    watch: float = option(
        0.0,
        "Interval at which hmc and nested draw the best model so far into progress/; 0: never.",
        OUTPUT,
        unit="minutes",
        least=0,
        changes_results=False,
    )
    segmenter: str = segmenter_option("auto", SEGMENTERS)
    init: str = option(
        "resnet",
        "Starting values: resnet (a network; where its prediction is unreliable, moments are used "
        "and INIT_FALLBACK is set) or moments.",
        STARTS,
        choices=INITIALISERS,
    )
    measure: str | Sequence[str] = option(
        (),
        "Additional columns: morphology (Petrosian and half-light radii, concentration, "
        "asymmetry, smoothness, Gini, M20 of data and model, measured by statmorph).",
        OUTPUT,
        normalise=any_of(MEASURES),
    )
    save: str | Sequence[str] = option(
        SAVED,
        "Files to write besides the catalogue: any of objects,previews,report,votable "
        "(catalog.vot with UCDs); or none.",
        OUTPUT,
        normalise=any_of((*SAVED, "votable")),
    )

    def check(self) -> None:
        """Check that the options go together."""
        super().check()
        bands, wavelengths = bands_and_wavelengths(self.bands, self.wavelengths)
        object.__setattr__(self, "bands", bands)
        object.__setattr__(self, "wavelengths", wavelengths)
        if self.pipeline is not None:
            self._check_pipeline()
        if self.grid and self.model == "auto":
            raise SettingsError("a grid of model 'auto'", "name a model, or leave the grid out")
        if self.galfit is not None and not self.default_model:
            raise SettingsError("both a model and a GALFIT file are given", "give one of them")
        if self.prior not in ("broad", "none"):
            self._check_prior()

    def _check_pipeline(self) -> None:
        beside = {"model": not self.default_model, "galfit": self.galfit, "grid": self.grid}
        for name, given in beside.items():
            if given:
                raise SettingsError(
                    f"both a pipeline and {name} are given", "say it in a stage of the pipeline"
                )

    def _check_prior(self) -> None:
        if self.prior == "network" and self.init != "resnet":
            raise SettingsError(
                f"prior 'network' needs init 'resnet' (init is {self.init!r})", "use init resnet"
            )
        other = not self.default_model or self.galfit is not None or self.sky == "tilted"
        unlike = [
            what
            for what, given in (
                ("another model", other),
                ("several bands", bool(self.bands)),
            )
            if given
        ]
        if unlike:
            raise SettingsError(
                f"prior {self.prior!r} is that of one Sérsic profile, not of "
                f"{' and '.join(unlike)}",
                "leave the prior out, or give --model sersic without --bands",
            )

    @property
    def default_model(self) -> bool:
        """True if the model is one Sérsic profile as a matter of course."""
        return isinstance(self.model, str) and self.model == "sersic"

    @property
    def sky_value(self) -> str | float:
        """`sky` as `autofit_ml.scenes.sersic` takes it."""
        sky = self.sky or "free"
        return str(sky) if sky in ("free", "fixed", "tilted") else float(sky)
