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
        "Noise of each pixel (1 sigma): an array, an astropy uncertainty of any type, or a "
        "number; if it is missing, the noise is estimated and the fit flagged. For files: a "
        "number.",
    )
    psf: Any = _beside(
        "PSF: an array, a PSF, a photutils model with its data, a file, or 'none' to fit without; "
        "for frames also 'moffat', 'pixels' or 'stack'.",
    )
    mask: Any = _beside("Mask: True (or nonzero) where a pixel must not be used, (ny, nx).")
    segmentation: Any = _beside("Segmentation: labels of the objects, 0 for sky, (ny, nx).")
    wcs: Any = _beside("WCS of the image (astropy.wcs.WCS).")
    x: Any = _beside(
        "Position of the target in pixels, counted from 0; by default, the centre of the image."
    )
    y: Any = _beside("Position of the target along the second axis; see `x`.")
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
    mask: Any = _beside("Mask of the science image: True where a pixel must not be used.")
    psf: Any = _beside("PSF of the science image; by default it is built from its stars.")
    wcs: Any = _beside("WCS of the science image (astropy.wcs.WCS).")
    reference_sigma: Any = _beside("Noise of the reference.")
    reference_mask: Any = _beside("Mask of the reference: True where a pixel must not be used.")
    reference_wcs: Any = _beside("WCS of the reference (astropy.wcs.WCS).")
    leave_out: Any = _beside(
        "Pixels of the science image to leave out of the fit of the kernel (True), such as "
        "those of a known variable; they are subtracted all the same."
    )


@dataclass(frozen=True, kw_only=True)
class LightCurveCall(LightCurveOptions):
    """Arguments of `autofit_ml.light_curve`."""

    images: Any = field(default=None, kw_only=False)
    at: Any = field(default=None, kw_only=False)
    times: Any = _beside("MJD of each image; by default, from the headers.")
    reference: Any = _beside("Reference image without the source; by default, the first image.")
    sigma: Any = _beside("Noise of each image, or one value for all; see `fit`.")
    mask: Any = _beside("Masks of the images: True where a pixel must not be used.")
    psf: Any = _beside("PSF of each image, or one for all; by default they are built from stars.")
    wcs: Any = _beside("WCS of each image (astropy.wcs.WCS).")
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
        "Raise an error for objects that cannot be read, or skip them with a warning.",
        choices=("raise", "skip"),
        python_only=True,
    )


@dataclass(frozen=True, kw_only=True)
class CatalogCall(InMemory, CatalogSettings, Resumed):
    """Arguments of `autofit_ml.catalog`."""

    data: Any = field(default=None, kw_only=False)
    out: str | Path | None = option(None, "Results folder; None: nothing is written.", OUTPUT)
    manifest: str | Path | None = option(None, "Table of frames in files.", INPUT)
