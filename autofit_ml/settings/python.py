"""Arguments of the functions for Python: options of a run, and images in memory."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autofit_ml.options import Settings, option
from autofit_ml.settings.catalog import CatalogSettings
from autofit_ml.settings.difference import LightCurveOptions, SubtractSettings
from autofit_ml.settings.fit import FitSettings
from autofit_ml.settings.reading import INPUT, NOISE, OUTPUT, ReadOptions
from autofit_ml.settings.running import Resumed


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
class SubtractCall(SubtractSettings):
    """Arguments of `autofit_ml.subtract`."""

    science: Any = field(default=None, kw_only=False)
    reference: Any = field(default=None, kw_only=False)
    sigma: Any = _beside("Noise of the science image; see `fit`.")
    mask: Any = _beside("True where the science image is not to be used.")
    psf: Any = _beside("PSF of the science image; by default from its stars.")
    wcs: Any = _beside("An astropy.wcs.WCS of the science image.")
    reference_sigma: Any = _beside("Noise of the reference.")
    reference_mask: Any = _beside("True where the reference is not to be used.")
    reference_wcs: Any = _beside("An astropy.wcs.WCS of the reference.")
    leave_out: Any = _beside(
        "True in pixels of the science image that the kernel is not fitted to, as those of a known "
        "variable; they have a difference all the same."
    )


@dataclass(frozen=True, kw_only=True)
class LightCurveCall(LightCurveOptions):
    """Arguments of `autofit_ml.light_curve`."""

    images: Any = field(default=None, kw_only=False)
    at: Any = field(default=None, kw_only=False)
    times: Any = _beside("MJD of each image; by default as the headers say.")
    reference: Any = _beside(
        "Image without the source that the others are compared with; by default the first."
    )
    sigma: Any = _beside("Noise of each image, or of all; see `fit`.")
    mask: Any = _beside("True where a pixel is not to be used; for each image.")
    psf: Any = _beside("PSF of each image, or of all; by default from their stars.")
    wcs: Any = _beside("An astropy.wcs.WCS for each image.")
    zeropoint: float | None = option(None, "AB magnitude of one unit of the reference.", NOISE)


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
class ReadCall(InMemory, ReadOptions):
    """Arguments of `autofit_ml.read`."""

    data: Any = field(default=None, kw_only=False)
    manifest: str | Path | None = option(None, "Table of objects in files.", INPUT)
    errors: str = option(
        "raise",
        "Objects that cannot be read raise, or are left out with a warning.",
        choices=("raise", "skip"),
        python_only=True,
    )


@dataclass(frozen=True, kw_only=True)
class CatalogCall(InMemory, CatalogSettings, Resumed):
    """Arguments of `autofit_ml.catalog`."""

    data: Any = field(default=None, kw_only=False)
    out: str | Path | None = option(None, "Results folder; None: nothing is written.", OUTPUT)
    manifest: str | Path | None = option(None, "Table of frames in files.", INPUT)
