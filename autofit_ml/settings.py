"""Every option that a user can choose, declared once, as the settings of each kind of run.

A new option is one more field here, and the code that uses it: command line, Python signatures,
validation, docs and the identity that guards a continued run follow (`autofit_ml.options`). What
only the command line has (``--quiet``, ``--json`` ...) is declared in `autofit_ml.cli.calls`.

Imports nothing of the package but `options`, `errors` and (when a survey is named) `presets`: every
other module may import it.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from autofit_ml.errors import SettingsError
from autofit_ml.options import Option, Settings, any_of, declared, option, texts_of, word_or_number

if TYPE_CHECKING:
    from autofit_ml.images.stamp import PSF, VaryingPSF
    from autofit_ml.scenes import Scene

__all__ = [
    "CalibrateSettings",
    "CatalogCall",
    "CatalogSettings",
    "DeconvolveSettings",
    "DiffSettings",
    "FitCall",
    "FitOptions",
    "FitSettings",
    "InMemory",
    "LightCurveCall",
    "LightCurveOptions",
    "LightCurveSettings",
    "PopulationOptions",
    "ReadCall",
    "ReadKeywords",
    "ReadOptions",
    "Resumed",
    "SamplingSettings",
    "SegmentSettings",
    "Selected",
    "SensitivitySettings",
    "SimulateSettings",
    "SourceSettings",
    "SubtractCall",
    "SubtractSettings",
    "SurveyOptions",
    "SurveySettings",
    "date_ranges",
]

Paths: TypeAlias = "str | Path | Iterable[str | Path] | None"

FITTED_PSFS = ("moffat", "pixels", "stack")
"""PSFs from the stars of a frame; the first two with their uncertainty."""

SEGMENTERS = ("auto", "maskrcnn", "sep", "given")
INITIALISERS = ("resnet", "moments")
DEVICES = ("auto", "cpu", "cuda")
CLASSICAL = ("wiener", "richardson-lucy", "tv")
"""Deconvolution without a learned prior: one image, no posterior."""

MEASURES = ("morphology",)
SAVED = ("objects", "previews", "report")

# Panels of the command line, in order.
INPUT, MODEL, STARTS = "Input", "Model", "Segmentation and starting values"
NOISE, SAMPLING = "Calibration, noise and PSF", "Sampling"
OUTPUT, WORK = "Output", "Running"
PANELS = (INPUT, MODEL, STARTS, NOISE, SAMPLING, OUTPUT, WORK)


def _known_survey(name: Any) -> Any:
    """The name of a survey, if there is a preset for it."""
    if name is not None:
        from autofit_ml.presets import survey_preset

        survey_preset(str(name))
    return name


PRIORS = ("broad", "none", "network")


def _grid(value: Any) -> tuple[str, ...]:
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


INJECTED = ("B/T", "snr", "re_ratio", "re", "q", "n")
"""Axes of a sensitivity map."""


def _injected(value: Any) -> tuple[str, ...]:
    """Axes of a sensitivity map, B/T first, each in one form: NAME=LOW:HIGH:NUMBER, with :log."""
    found: dict[str, str] = {}
    for text in texts_of(value):
        name, _, numbers = str(text).strip().partition("=")
        if name not in INJECTED or name in found:
            raise SettingsError(f"there is no axis {text!r}", f"use each once: {INJECTED}")
        try:
            low = high = float(numbers)
            found[name] = f"{name}={low:.12g}"
        except ValueError:
            (found[name],) = _grid(str(text))
            low, high = map(float, found[name].partition("=")[2].split(":")[:2])
        if not low > 0 or (name in ("B/T", "q") and not high < 1 + (name == "q")):
            raise SettingsError(f"{text!r}", "give values above 0, of B/T and q below 1")
    if "B/T" not in found:
        raise SettingsError("the grid has no B/T", "add for example B/T=0.05:0.4:4:log")
    return tuple(found[name] for name in INJECTED if name in found)


def _prior(value: Any) -> str:
    """The name of a prior, or population:FILE."""
    text = str(value)
    kind, colon, file = text.partition(":")
    if not (text in PRIORS or (kind == "population" and file)):
        raise SettingsError(f"{text!r} is no prior", f"use {', '.join(PRIORS)} or population:FILE")
    return text


# --- reading images ---------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class ReadOptions(Settings):
    """Reading options: what the user says about the images; None means as the file says.

    Per-object values of a manifest win over these; these win over header cards; header cards win
    over the survey preset. For the PSF: `psf`, then the object's own PSF plane, then `psf_fwhm`,
    then (frames only) the frame's stars.
    """

    survey: str | None = option(
        None,
        "Survey whose file names, units, masks and noise are known: sdss, kids, hsc, hst, jwst, "
        "euclid, legacysurvey.",
        INPUT,
        normalise=_known_survey,
    )
    mode: str = option(
        "auto",
        "A file is one galaxy's stamp or a whole frame; auto tells by its size or the preset.",
        INPUT,
        choices=("auto", "stamp", "frame"),
    )
    psf: str | Path | np.ndarray | PSF | VaryingPSF | None = option(
        None,
        "PSF of all objects: an image, or a model that gives it at each place (PSFEx, Piff, "
        "psField, a grid of STPSF or STDPSF); none: fit without; of a frame's stars: pixels (with "
        "its uncertainty, varying if they do), moffat (likewise, one for the frame), stack (one "
        "mean image). Default: the object's own, else of the frame's stars, varying if they do.",
        NOISE,
        shell=str,
    )
    psf_fwhm: float | None = option(
        None, "FWHM of a Moffat PSF with beta 3, pixel included.", NOISE, unit="arcsec", above=0
    )
    psf_oversampling: int | None = option(None, "PSF pixels per image pixel.", NOISE, least=1)
    psf_has_pixel: bool | None = option(
        None,
        "PSF images contain the detector pixel, as empirical ones do; --psf-optical: they do not.",
        NOISE,
        words=("--psf-optical",),
        stands_for=False,
    )
    zeropoint: float | None = option(None, "AB magnitude of one image unit.", NOISE, unit="mag")
    pixel_scale: float | None = option(None, "Pixel scale.", NOISE, unit="arcsec/pixel", above=0)
    gain: float | None = option(None, "Electrons per image unit.", NOISE, unit="electrons", above=0)
    rdnoise: float | None = option(None, "Read noise.", NOISE, unit="electrons", least=0)
    sky_subtracted: float | None = option(
        None,
        "Sky already removed from the image: its photon noise is still there.",
        NOISE,
        unit="image units",
    )
    saturate: float | None = option(None, "Saturation level.", NOISE, unit="image units", above=0)
    sigma: float | None = option(
        None,
        "Constant noise of a pixel, for images without a noise plane.",
        NOISE,
        unit="image units",
        above=0,
    )
    noise: str = option(
        "given",
        "given: the noise plane, else a model; model: always a model.",
        NOISE,
        choices=("given", "model"),
    )
    mask_ignore_bits: int | None = option(
        None, "Bits of an integer mask that do not make a pixel bad, added up.", INPUT, least=0
    )
    stamp_radius_factor: float = option(
        3.0, "Half side of a stamp cut from a frame, in radii of the object.", INPUT, least=1
    )

    def check(self) -> None:
        """The PSF file exists."""
        given = isinstance(self.psf, (str, Path)) and str(self.psf) not in ("none", *FITTED_PSFS)
        if given and not Path(str(self.psf)).is_file():
            raise SettingsError("the PSF file does not exist", "check the path", str(self.psf))

    @functools.cached_property
    def read(self) -> ReadOptions:
        """The reading options alone."""
        return self if type(self) is ReadOptions else self.part(ReadOptions)


# --- work, networks ---------------------------------------------------------------------------


def _segmenter(default: str, choices: tuple[str, ...]) -> str:
    return option(
        default,
        "How objects are found: auto (labels given with an object, else the network), maskrcnn "
        "(the network; sep for images unlike those it was trained on), sep, or given.",
        STARTS,
        choices=choices,
    )


def _batch_size(default: int) -> int:
    return option(
        default,
        "Objects worked on together; also the most that an interruption can lose.",
        WORK,
        least=1,
        changes_results=False,
    )


def _number(default: int | None, help: str, **details: Any) -> Any:
    return option(default, help, INPUT, words=("--number", "-n"), **details)


@dataclass(frozen=True, kw_only=True)
class Networks(Settings):
    """Choice of networks and device."""

    weights: str = option(
        "",
        "Names or folders of weights, separated by commas, each for its task; empty: the installed "
        "ones that suit the images.",
        STARTS,
    )
    device: str = option(
        "auto", "Where it is computed.", WORK, choices=DEVICES, changes_results=False
    )


@dataclass(frozen=True, kw_only=True)
class Working(Settings):
    """Batch size and workers; results do not depend on them."""

    batch_size: int = _batch_size(256)
    workers: int = option(
        -1,
        "Worker processes; 0: none; -1: as many as useful.",
        WORK,
        least=-1,
        changes_results=False,
    )


@dataclass(frozen=True, kw_only=True)
class Seeded(Settings):
    """Settings of runs that draw random numbers."""

    seed: int = option(0, "Random seed.", WORK, least=0)


# --- fit --------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class FitSettings(Working, Networks, ReadOptions):
    """Settings of a fit, and everything that is said about its images."""

    model: str | Path | Scene = option(
        "sersic",
        "What is fitted: sersic, sersic+exp, psf+sersic, ..., a YAML file (from Python also a "
        "`Scene`), or auto: the simplest that describes an object.",
        MODEL,
        shell=str,
        normalise=lambda value: value.strip() if isinstance(value, str) else value,
    )
    galfit: str | Path | None = option(
        None, "GALFIT input file: the model and, without PATH, the images.", MODEL, shell=Path
    )
    pipeline: str | Path | None = option(
        None,
        "Stages of fits, each from what an earlier one found: a YAML file (docs/pipelines.md).",
        MODEL,
        shell=Path,
    )
    grid: str | Sequence[str] = option(
        (),
        "Fit in every cell of a grid, then from its minima: PARAMETER=LOW:HIGH:CELLS[:log], also "
        "several: n=0.5:8:5:log,B/T=0:1:4.",
        MODEL,
        normalise=_grid,
    )
    bands: str | Sequence[str] = option(
        (),
        "Bands fitted together, the reference first: g,r,i; with wavelengths for parameters that "
        "are polynomials in it: g:477,r:623.",
        MODEL,
    )
    wavelengths: Mapping[str, float] = field(
        default_factory=dict,
        metadata={"option": Option("Band -> wavelength, any unit.", MODEL, python_only=True)},
    )
    neighbours: str = option(
        "fit",
        "Overlapping neighbours are fitted along with the target, or masked.",
        MODEL,
        choices=("fit", "mask"),
    )
    sky: str | float | None = option(
        None,
        "free, fixed (at 0), tilted, or a value in image units per pixel (default: as the model "
        "says, else free).",
        MODEL,
        normalise=word_or_number("free", "fixed", "tilted"),
    )
    likelihood: str = option(
        "gaussian", "gaussian, poisson, student-t[:nu], huber[:k] or cauchy[:c].", MODEL
    )
    error_floor: float = option(
        0.0, "Error of the model, as a share of its light.", MODEL, least=0, below=1
    )
    prior: str = option(
        "broad",
        "broad (what any galaxy is like: matters for faint ones only), none, network (what the "
        "resnet predicts), or population:FILE.",
        MODEL,
        normalise=_prior,
    )
    posterior: str = option(
        "laplace",
        "Errors from laplace (the curvature), or samples: bootstrap, hmc, nested (seconds an "
        "object).",
        MODEL,
        choices=("laplace", "bootstrap", "hmc", "nested"),
    )
    watch: float = option(
        0.0,
        "Minutes between pictures of the best model so far in progress/, of hmc and nested; 0: "
        "none.",
        OUTPUT,
        unit="minutes",
        least=0,
        changes_results=False,
    )
    segmenter: str = _segmenter("auto", SEGMENTERS)
    init: str = option(
        "resnet",
        "Starting values: resnet (a network; moments, with INIT_FALLBACK, where its answer is not "
        "to be trusted) or moments.",
        STARTS,
        choices=INITIALISERS,
    )
    measure: str | Sequence[str] = option(
        (),
        "Further columns: morphology (Petrosian and half-light radii, concentration, asymmetry, "
        "smoothness, Gini, M20, of the data and of the model; by statmorph).",
        OUTPUT,
        normalise=any_of(MEASURES),
    )
    save: str | Sequence[str] = option(
        SAVED,
        "Any of objects,previews,report,votable (catalog.vot with UCDs); or none.",
        OUTPUT,
        normalise=any_of((*SAVED, "votable")),
    )

    def check(self) -> None:
        """Check that the options go together."""
        super().check()
        bands, wavelengths = _bands(self.bands, self.wavelengths)
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


def _bands(value: Any, wavelengths: Mapping[str, Any]) -> tuple[tuple[str, ...], dict[str, float]]:
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


# --- segment ----------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class SegmentSettings(Working, Networks, ReadOptions):
    """Settings of segmentation without a fit."""

    segmenter: str = _segmenter("maskrcnn", SEGMENTERS)
    batch_size: int = _batch_size(64)
    pictures: bool = option(True, "Draw the outlines as PNG.", OUTPUT)


# --- diff -------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class SubtractSettings(Settings):
    """Settings of the subtraction of one image from another."""

    kernel_size: int = option(
        13, "Side of the convolution kernel, odd.", MODEL, unit="pixels", least=3, most=31
    )
    background: int = option(
        0, "Order of the differential background's polynomial.", MODEL, least=0, most=6
    )
    variation: int = option(
        0, "Order of the kernel's variation over the image.", MODEL, least=0, most=3
    )
    convolve: str = option(
        "auto",
        "Which image is convolved; auto: the one whose kernel amplifies noise less.",
        MODEL,
        choices=("auto", "reference", "science"),
    )
    robust: str = option(
        "huber",
        "Weights of outliers in the solution for the kernel.",
        MODEL,
        choices=("huber", "student-t", "none"),
    )
    floor: float = option(
        0.01, "Error of the convolved image, as a share of its light.", MODEL, least=0, below=1
    )
    smoothness: float = option(
        1e-5, "Weight of the kernel's squared Laplacian.", MODEL, least=0, below=1
    )
    solver: str = option(
        "auto",
        "How the kernel's normal equations are solved: dense, or by conjugate gradients with FFTs; "
        "auto: the faster.",
        MODEL,
        choices=("auto", "dense", "conjugate"),
        python_only=True,
    )
    most_pixels: int = option(
        60_000,
        "The kernel is fitted to at most so many pixels, the brightest.",
        MODEL,
        least=1000,
        python_only=True,
    )

    def check(self) -> None:
        """The kernel has a central pixel."""
        super().check()
        if self.kernel_size % 2 == 0:
            raise SettingsError(f"kernel_size is {self.kernel_size}", "give an odd number")


def _threshold() -> float:
    return option(5.0, "Least S/N of a change between images.", MODEL, above=0)


@dataclass(frozen=True, kw_only=True)
class DiffSettings(SubtractSettings, Working, ReadOptions):
    """Settings of image subtraction over epochs, and of the detection of changes."""

    batch_size: int = _batch_size(4)
    threshold: float = _threshold()
    pictures: bool = option(True, "Draw reference, science and difference as PNG.", OUTPUT)


# --- catalog ----------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class SourceSettings(Settings):
    """Settings of the inference of stars and galaxies."""

    prior: str | Path = option(
        "celeste",
        "Population file of stars and galaxies, or celeste: those of SDSS.",
        MODEL,
        shell=str,
    )
    galaxy: str = option(
        "exp_dev",
        "Profile of galaxies: exp_dev (exponential and de Vaucouleurs light of one size), sersic.",
        MODEL,
        choices=("exp_dev", "sersic"),
    )
    likelihood: str = option("gaussian", "gaussian, or poisson (needs the gain).", MODEL)
    inference: str = option(
        "laplace",
        "laplace, or vi: the Gaussians of the largest variational bound (three times as long).",
        MODEL,
        choices=("laplace", "vi"),
    )
    detection: str = option(
        "white",
        "Image on which sources are detected: white (bands added with the best weights), chi2, or "
        "first (the first band).",
        STARTS,
        choices=("white", "chi2", "first"),
    )
    segmenter: str = _segmenter("sep", ("sep", "auto", "maskrcnn"))
    weights: str = option(
        "",
        "Names or folders of weights, separated by commas; empty: the installed ones that suit.",
        STARTS,
    )
    sweeps: int = option(
        10, "Sweeps over sources that overlap, at most.", WORK, least=1, python_only=True
    )


@dataclass(frozen=True, kw_only=True)
class CatalogSettings(SourceSettings, Working, ReadOptions):
    """Settings of the catalogue of frames, and everything that is said about its images."""

    bands: str | Sequence[str] = option(
        (), "Bands fitted together, the reference first: r,u,g,i,z.", MODEL
    )
    forced: str | Path | None = option(
        None,
        "Catalogue whose positions and shapes are held: its sources' fluxes in these images.",
        MODEL,
        shell=Path,
    )
    batch_size: int = _batch_size(1)
    save: str | Sequence[str] = option(
        ("page", "images", "regions"),
        "Any of page (the frame to zoom into, with its sources), images (model and residual), "
        "regions (for DS9 and Aladin); or none.",
        OUTPUT,
        normalise=any_of(("page", "images", "regions")),
    )

    def check(self) -> None:
        """Check the names of the bands."""
        super().check()
        object.__setattr__(self, "bands", _bands(self.bands, {})[0])


# --- lightcurve -------------------------------------------------------------------------------


def date_ranges(text: str) -> list[tuple[float, float]]:
    """Ranges of dates in a text like ``:58000,58100:58200``.

    Raises
    ------
    SettingsError
        Other text.
    """
    out = []
    for part in filter(None, text.replace(" ", "").split(",")):
        first, colon, last = part.partition(":")
        try:
            low, high = float(first or "-inf"), float(last or "inf")
        except ValueError as error:
            raise SettingsError(f"{part!r} is no range of dates", "write MJD:MJD") from error
        if not colon or low > high:
            raise SettingsError(f"{part!r} is no range of dates", "write MJD:MJD, smaller first")
        out.append((low, high))
    return out


@dataclass(frozen=True, kw_only=True)
class LightCurveOptions(SubtractSettings):
    """Settings of the photometry of a source over epochs."""

    method: str = option(
        "difference",
        "difference: forced photometry on differences from the reference; scene: host and source "
        "fitted to all epochs together; both.",
        MODEL,
        choices=("difference", "scene", "both"),
    )
    host: str = option(
        "sersic+pixels",
        "Host of the scene: sersic, sersic+exp ..., pixels about the source, both (joined by +), "
        "or none.",
        MODEL,
    )
    absent: str = option(
        "",
        "Dates without the source, as ranges of MJD: :58000,58100:58200; a reference of its own "
        "is without it, too.",
        MODEL,
    )
    scale: str = option(
        "auto",
        "How fluxes of epochs are brought to the reference's: stars in common, zeropoints of the "
        "headers, the sum of the kernel; auto: the first that there is.",
        NOISE,
        choices=("auto", "stars", "zeropoints", "kernel"),
    )
    psf_error: float = option(
        0.01, "Relative error of a PSF's width and shape in the scene.", NOISE, least=0, below=1
    )
    astrometric_error: float = option(
        0.02,
        "Error of an epoch's position against the reference's in the scene.",
        NOISE,
        unit="pixels",
        least=0,
    )
    position_error: float = option(
        0.1, "Error of the given position in the scene; 0: exact.", MODEL, unit="pixels", least=0
    )
    stamp_half: int = option(
        20, "Half side of the part of the image that the scene has.", MODEL, unit="pixels", least=8
    )

    def check(self) -> None:
        """The dates are ranges."""
        super().check()
        date_ranges(self.absent)


@dataclass(frozen=True, kw_only=True)
class LightCurveSettings(LightCurveOptions, Working, ReadOptions):
    """Settings of light curves, and everything that is said about the images."""

    batch_size: int = _batch_size(1)
    pictures: bool = option(True, "Draw light curves and scenes as PNG.", OUTPUT)


# --- survey -----------------------------------------------------------------------------------


def _share(value: Any) -> str | None:
    """A share of a whole: ``I/N``, I from 1 to N."""
    if value is None:
        return None
    found = re.fullmatch(r"(\d{1,9})/(\d{1,9})", str(value).strip())
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise SettingsError(f"{value!r} is no share of the tiles", "write for example 3/100")
    return f"{int(found[1])}/{int(found[2])}"


@dataclass(frozen=True, kw_only=True)
class SurveySettings(Settings):
    """Settings of a survey, beside those of what is done with each object."""

    run: str = option(
        "fit",
        "fit: every object, as autofit-ml fit; catalog: stars, galaxies and colours, as autofit-ml "
        "catalog; diff: what has changed since --reference; detect: places and sizes only.",
        MODEL,
        choices=("fit", "catalog", "diff", "detect"),
    )
    reference: str | Path | None = option(
        None,
        "Of diff: image that is subtracted, or a folder of them; those that cover an image are "
        "found by their WCS.",
        INPUT,
        shell=Path,
        changes_results=False,
    )
    tiling: str | None = option(
        None,
        "Tiles of the sky: healpix:ORDER or grid:DEGREES (default: the plan's, else healpix:8, of "
        "14 arcmin).",
        INPUT,
    )
    cell: int | None = option(
        None,
        "Images are cut into cells of about this side for detection (default: the plan's, else "
        "4096).",
        INPUT,
        unit="pixels",
        least=64,
    )
    halo: float | None = option(
        None,
        "Duplicates are looked for so far around a tile (default: the plan's, else 120).",
        INPUT,
        unit="arcsec",
        least=60,
        most=3600,
    )
    match: float = option(
        1.0,
        "Detections in overlapping images are one object within this distance.",
        INPUT,
        unit="arcsec",
        above=0,
        most=30,
    )
    scheduler: str = option(
        "local",
        "local: processes of this machine; slurm; none: this process alone; or the address of a "
        "dask scheduler.",
        WORK,
        changes_results=False,
    )
    share: str | None = option(
        None,
        "Share of the tiles, for job arrays without a scheduler: 3/100 is the third of 100.",
        WORK,
        normalise=_share,
        changes_results=False,
    )

    def check(self) -> None:
        """The tiling can be read."""
        super().check()
        if self.tiling is None:
            return
        kind, _, number = self.tiling.partition(":")
        if kind not in ("healpix", "grid") or not number:
            raise SettingsError(f"tiling is {self.tiling!r}", "give healpix:ORDER or grid:DEGREES")


@dataclass(frozen=True, kw_only=True)
class SurveyOptions(SurveySettings, FitSettings, SourceSettings, SubtractSettings):
    """Settings of a survey, and of everything that it can run."""

    threshold: float = _threshold()
    populations: str | Path = option(
        "celeste",
        "Of catalog: population file of stars and galaxies, or celeste: those of SDSS.",
        MODEL,
        shell=str,
    )

    @property
    def measuring(self) -> FitSettings | CatalogSettings | DiffSettings:
        """Settings of what is run."""
        if self.run == "catalog":
            return self.part(CatalogSettings, prior=self.populations, save=())
        return self.part(DiffSettings) if self.run == "diff" else self.part(FitSettings)

    def check(self) -> None:
        """Refuse options of what is not run, which would do nothing."""
        super().check()
        kinds = {"fit": FitSettings, "catalog": CatalogSettings, "diff": DiffSettings}
        names = {name: set(declared(kind)) for name, kind in kinds.items()}
        names["catalog"] -= {"prior", "save"}
        names["catalog"].add("populations")
        names["diff"].add("reference")
        names["detect"] = names["fit"]
        others = set().union(*names.values()) - names[self.run]
        wrong = [
            name
            for name, (item, about) in declared(self).items()
            if name in others and not about.python_only and getattr(self, name) != item.default
        ]
        if wrong:
            raise SettingsError(
                f"{', '.join(wrong)}: nothing to do with --run {self.run}", "leave it out"
            )
        if (self.run == "diff") > (self.reference is not None):
            raise SettingsError("a survey of changes without a reference", "give --reference")


# --- deconvolve -------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class SamplingSettings(Seeded, Networks):
    """Settings of the samplers of sharp images."""

    samples: int = option(64, "Posterior samples of each object.", SAMPLING, least=2)
    sampler: str = option(
        "eps",
        "eps, or gibbs: the reference, several times as long; without a prior and without a "
        "posterior, one image each: wiener, richardson-lucy, tv.",
        SAMPLING,
        choices=("eps", "gibbs", *CLASSICAL),
    )
    oversampling: int = option(1, "Output pixels per data pixel.", SAMPLING, choices=(1, 2))
    target_fwhm: float | None = option(
        None,
        "FWHM of the Gaussian target PSF, pixel included; 2, the default, is the finest that the "
        "weights have.",
        SAMPLING,
        unit="output pixels",
        least=2,
        most=30,
    )
    precision: str = option(
        "float32",
        "Of the network; bfloat16 takes a third less time on processors that compute in it.",
        SAMPLING,
        choices=("float32", "bfloat16"),
    )
    steps: int = option(
        48, "Noise levels of the reverse diffusion.", SAMPLING, least=4, python_only=True
    )
    sweeps: int = option(
        40,
        "Sweeps of the Gibbs sampler, after as many steps of eps.",
        SAMPLING,
        least=1,
        python_only=True,
    )
    padding: int | None = option(
        None, "Data pixels around the stamp; None: as the PSF needs.", SAMPLING, python_only=True
    )
    sky: float | None = option(
        None,
        "Level that is subtracted; None: the stamp's ``sky_prior``, 0 without.",
        SAMPLING,
        unit="image units",
        python_only=True,
    )
    prior: bool = option(
        True,
        "Draw prior samples for PRIORFRAC (a third of an object's time, once for each size of "
        "grid).",
        SAMPLING,
        python_only=True,
    )
    batch: int = option(
        64,
        "Samples of an object that go through the network together.",
        WORK,
        least=1,
        python_only=True,
        changes_results=False,
    )

    def check(self) -> None:
        """Check that the options go together."""
        super().check()
        if self.sampler in CLASSICAL and self.oversampling != 1:
            raise SettingsError(
                f"oversampling {self.oversampling} with the sampler {self.sampler}, which works at "
                "the sampling of the data",
                "use oversampling 1, or sampler eps",
            )


@dataclass(frozen=True, kw_only=True)
class DeconvolveSettings(Working, SamplingSettings, ReadOptions):
    """Settings of deconvolution, and everything that is said about its images."""

    segmenter: str = _segmenter("auto", SEGMENTERS)
    size: int = option(
        0,
        "Side of the square around the target that is deconvolved; 0: as the target needs.",
        SAMPLING,
        unit="data pixels",
        least=0,
    )
    fit: bool = option(False, "Fit a Sérsic profile to every sample.", OUTPUT)
    pictures: bool = option(True, "Draw a PNG of each object.", OUTPUT)
    batch_size: int = _batch_size(16)

    def check(self) -> None:
        """Check that the options go together."""
        super().check()
        if self.fit and self.sampler in CLASSICAL:
            raise SettingsError(
                f"fit needs samples, and {self.sampler} gives one image",
                "use sampler eps, or fit the image with autofit-ml fit",
            )


# --- calibrate, simulate ----------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class CalibrateSettings(Seeded):
    """Settings of the injection of galaxies into a run's own images."""

    number: int = _number(300, "Galaxies to inject.", least=1)
    apply: bool = option(
        False, "Add factors for the errors to the catalogue.", OUTPUT, changes_results=False
    )


@dataclass(frozen=True, kw_only=True)
class SensitivitySettings(Seeded, Working, Networks, ReadOptions):
    """Settings of a sensitivity map: which galaxies are injected, and how they are fitted."""

    simpler: str | Path = option(
        "sersic", "Model of one component: what a galaxy is without the other.", MODEL, shell=str
    )
    richer: str | Path = option(
        "sersic+exp",
        "Model of two components, each a Sérsic profile or a point source; B/T is the share of the "
        "first.",
        MODEL,
        shell=str,
    )
    grid: str | Sequence[str] = option(
        ("B/T=0.05:0.4:4:log", "snr=50:400:4:log"),
        "What is injected: NAME=LOW:HIGH:NUMBER[:log] or NAME=VALUE of B/T, snr (of the galaxy), "
        "re_ratio (first to second), re (pixels, of the second), q, n (of the first).",
        MODEL,
        normalise=_injected,
    )
    number: int = _number(50, "Galaxies of each cell of the grid.", least=2)
    background: str = option(
        "sky",
        "sky: the images' own, their objects replaced by it; noise: Gaussian, as the noise plane "
        "says.",
        MODEL,
        choices=("sky", "noise"),
    )
    margin: float = option(
        0.0, "By which the BIC of the richer model must be lower to be accepted.", MODEL, least=0
    )
    prior: str = option("broad", "broad or none; see fit.", MODEL, choices=("broad", "none"))
    likelihood: str = option("gaussian", "See fit.", MODEL)
    segmenter: str = _segmenter("auto", SEGMENTERS[:3])
    init: str = option(
        "resnet", "Starting values: resnet or moments; see fit.", STARTS, choices=INITIALISERS
    )


@dataclass(frozen=True, kw_only=True)
class PopulationOptions(Seeded):
    """Settings of a population that is inferred from catalogues."""

    noise: str = option(
        "auto",
        "Errors as they were fitted, or following the true parameters (model); auto: model from "
        "200 objects on.",
        MODEL,
        choices=("auto", "fixed", "model"),
    )
    outliers: bool = option(
        True, "Some errors are five times too small; how many is fitted along.", MODEL
    )
    interim: str | None = option(
        None,
        "The prior in the values of tables that are no catalogues of autofit-ml: flat.",
        INPUT,
        choices=("flat",),
    )
    draws: int = option(250, "Draws of each of four chains.", SAMPLING, least=20)


@dataclass(frozen=True, kw_only=True)
class SimulateSettings(Settings):
    """Settings of a simulated set, beside its recipe."""

    count: int | None = option(
        None, "Objects (default: the recipe's).", INPUT, least=1, words=("--count", "-n")
    )
    seed: int | None = option(None, "Random seed (default: the recipe's).", WORK, least=0)
    shard_size: int | None = option(
        None, "Objects in a file (default: 2**20 pixels).", WORK, least=1
    )
    workers: int = option(
        -1,
        "Processes; 0: none; -1: one for each processor.",
        WORK,
        least=-1,
        changes_results=False,
    )


# --- calls from Python -----------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Selected(Settings):
    """Selection of objects; the others are left for a later call in the same folder."""

    limit: int | None = option(
        None,
        "At most so many objects that are not done yet.",
        INPUT,
        least=1,
        changes_results=False,
    )
    ids: str | None = option(
        None,
        "Only objects whose id fits a pattern: NGC*, *_g?",
        INPUT,
        words=("--id",),
        changes_results=False,
    )
    retry: str = option(
        "none",
        "Do objects that failed in an earlier call once more.",
        INPUT,
        choices=("none", "failed"),
        changes_results=False,
    )


@dataclass(frozen=True, kw_only=True)
class Resumed(Settings):
    """Option that decides about an earlier run in the same folder."""

    restart: bool = option(
        False,
        "Begin anew, or continue a stopped run.",
        OUTPUT,
        words=("--restart/--resume",),
        changes_results=False,
    )


def _beside(help: str) -> Any:
    return option(None, help, INPUT, python_only=True)


@dataclass(frozen=True, kw_only=True)
class InMemory(Settings):
    """Planes given with images in memory; for a list of images a value for all, or a list."""

    sigma: Any = _beside(
        "Noise of each pixel (1 sigma): an array, an astropy uncertainty of any type, or a number; "
        "without it the noise is estimated, and flagged. Of files: a number.",
    )
    psf: Any = _beside(
        "PSF: an array, a PSF, a photutils model with its data, a file, or 'none' to fit without; "
        "of frames also 'moffat' or 'pixels'.",
    )
    mask: Any = _beside("True (or not 0) where a pixel is not to be used, (ny, nx).")
    segmentation: Any = _beside("Labels of the objects, 0 for sky, (ny, nx).")
    wcs: Any = _beside("An astropy.wcs.WCS of the image.")
    x: Any = _beside("Where the target is, in pixels from 0; its middle by default.")
    y: Any = _beside("See `x`.")
    ids: Any = _beside("Names of the objects; by default image_1, image_2 ...")

    @property
    def given_planes(self) -> dict[str, Any]:
        """Values that only images in memory have."""
        names = ("mask", "segmentation", "wcs", "x", "y", "ids")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}


@dataclass(frozen=True, kw_only=True)
class SubtractOptions(SubtractSettings):
    """Keywords of `autofit_ml.subtract`."""

    sigma: Any = _beside("Noise of the science image; see `fit`.")
    mask: Any = _beside("True where the science image is not to be used.")
    psf: Any = _beside("PSF of the science image; by default from its stars.")
    wcs: Any = _beside("An astropy.wcs.WCS of the science image.")
    reference_sigma: Any = _beside("Noise of the reference.")
    reference_mask: Any = _beside("True where the reference is not to be used.")
    reference_wcs: Any = _beside("An astropy.wcs.WCS of the reference.")


@dataclass(frozen=True)
class SubtractCall(SubtractOptions):
    """Arguments of `autofit_ml.subtract`."""

    science: Any = None
    reference: Any = None


@dataclass(frozen=True, kw_only=True)
class LightCurveKeywords(LightCurveOptions):
    """Keywords of `autofit_ml.light_curve`."""

    times: Any = _beside("MJD of each image; by default as the headers say.")
    reference: Any = _beside(
        "Image without the source that the others are compared with; by default the first."
    )
    sigma: Any = _beside("Noise of each image, or of all; see `fit`.")
    mask: Any = _beside("True where a pixel is not to be used; for each image.")
    psf: Any = _beside("PSF of each image, or of all; by default from their stars.")
    wcs: Any = _beside("An astropy.wcs.WCS for each image.")
    zeropoint: float | None = option(None, "AB magnitude of one unit of the reference.", NOISE)


@dataclass(frozen=True)
class LightCurveCall(LightCurveKeywords):
    """Arguments of `autofit_ml.light_curve`."""

    images: Any = None
    at: Any = None


@dataclass(frozen=True, kw_only=True)
class FitOptions(InMemory, FitSettings, Resumed):
    """Keywords of `autofit_ml.fit`."""

    out: str | Path | None = option(None, "Results folder; None: nothing is written.", OUTPUT)
    manifest: str | Path | None = option(None, "Table of objects in files.", INPUT)


@dataclass(frozen=True)
class FitCall(FitOptions):
    """Arguments of `autofit_ml.fit`."""

    data: Any = None


@dataclass(frozen=True, kw_only=True)
class ReadKeywords(InMemory, ReadOptions):
    """Keywords of `autofit_ml.read`."""

    manifest: str | Path | None = option(None, "Table of objects in files.", INPUT)
    errors: str = option(
        "raise",
        "Objects that cannot be read raise, or are left out with a warning.",
        choices=("raise", "skip"),
        python_only=True,
    )


@dataclass(frozen=True)
class ReadCall(ReadKeywords):
    """Arguments of `autofit_ml.read`."""

    data: Any = None


@dataclass(frozen=True, kw_only=True)
class CatalogOptions(InMemory, CatalogSettings, Resumed):
    """Keywords of `autofit_ml.catalog`."""

    out: str | Path | None = option(None, "Results folder; None: nothing is written.", OUTPUT)
    manifest: str | Path | None = option(None, "Table of frames in files.", INPUT)


@dataclass(frozen=True)
class CatalogCall(CatalogOptions):
    """Arguments of `autofit_ml.catalog`."""

    data: Any = None
