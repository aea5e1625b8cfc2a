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
        "Survey preset for file names, units, masks and noise: sdss, kids, hsc, hst, jwst, euclid "
        "or legacysurvey.",
        INPUT,
        normalise=_known_survey,
    )
    mode: str = option(
        "auto",
        "Treat each file as the stamp of one galaxy or as a frame with many; auto decides by the "
        "survey preset or the size.",
        INPUT,
        choices=("auto", "stamp", "frame"),
    )
    psf: str | Path | np.ndarray | PSF | VaryingPSF | None = option(
        None,
        "PSF of all objects: an image, a varying model (PSFEx, Piff, psField, or a grid of STPSF "
        "or STDPSF), or none. From the stars of a frame: pixels (varying if the stars do, with "
        "uncertainty), moffat (one Moffat profile, with uncertainty) or stack (one mean image). "
        "Default: the object's own PSF, else from the stars of the frame.",
        NOISE,
        shell=str,
    )
    psf_fwhm: float | None = option(
        None,
        "FWHM of a Moffat PSF with beta = 3, including the pixel.",
        NOISE,
        unit="arcsec",
        above=0,
    )
    psf_oversampling: int | None = option(None, "PSF pixels per image pixel.", NOISE, least=1)
    psf_has_pixel: bool | None = option(
        None,
        "Whether PSF images include the detector pixel, as empirical PSFs do; --psf-optical: they "
        "do not.",
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
        "Sky level that was subtracted from the image; its photon noise remains.",
        NOISE,
        unit="image units",
    )
    saturate: float | None = option(None, "Saturation level.", NOISE, unit="image units", above=0)
    sigma: float | None = option(
        None,
        "Constant noise per pixel, for images without a noise plane.",
        NOISE,
        unit="image units",
        above=0,
    )
    noise: str = option(
        "given",
        "Noise: given (the noise plane if there is one, else a noise model) or model (always the "
        "noise model).",
        NOISE,
        choices=("given", "model"),
    )
    mask_ignore_bits: int | None = option(
        None, "Sum of the bits of an integer mask that do not make a pixel bad.", INPUT, least=0
    )
    stamp_radius_factor: float = option(
        3.0, "Half the side of stamps cut from a frame, in radii of the object.", INPUT, least=1
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
