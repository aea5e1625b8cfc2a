"""Panels of the command line, and the options of reading images."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from autofit_ml.errors import SettingsError
from autofit_ml.options import Settings, option

if TYPE_CHECKING:
    from autofit_ml.images.stamp import PSF, VaryingPSF

# Panels of the command line, in order.
INPUT, MODEL, STARTS = "Input", "Model", "Segmentation and starting values"
NOISE, SAMPLING = "Calibration, noise and PSF", "Sampling"
OUTPUT, WORK = "Output", "Running"
PANELS = (INPUT, MODEL, STARTS, NOISE, SAMPLING, OUTPUT, WORK)

Paths: TypeAlias = "str | Path | Iterable[str | Path] | None"

FITTED_PSFS = ("moffat", "pixels", "stack")
"""PSFs from the stars of a frame; the first two with their uncertainty."""


def _known_survey(name: Any) -> Any:
    """The name of a survey, if there is a preset for it."""
    if name is not None:
        from autofit_ml.presets import survey_preset

        survey_preset(str(name))
    return name


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
