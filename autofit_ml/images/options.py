"""Settings of reading: what the user says about the images, kept apart from the files."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from autofit_ml.errors import SettingsError
from autofit_ml.images.stamp import PSF
from autofit_ml.presets import survey_preset

__all__ = ["FRAME_SIDE", "MAX_STAMP_SIDE", "MIN_SIDE", "ReadOptions"]

FRAME_SIDE = 512
"""An image larger than this along either axis is a frame in mode "auto" (pixels)."""

MAX_STAMP_SIDE = 4096
"""A stamp larger than this is refused: one galaxy is not fitted on that many pixels."""

MIN_SIDE = 5
"""Smallest side of an image (pixels)."""


FITTED_PSFS = ("moffat", "pixels")
"""PSFs that are fitted to the stars of a frame, with their uncertainty."""


@dataclass(frozen=True)
class ReadOptions:
    """What the user says about the images. None means: as the file says.

    Per-object values of a manifest win over these; these win over header cards; header cards win
    over the survey preset. For the PSF: `psf`, then the object's own PSF plane, then `psf_fwhm`,
    then (frames only) the frame's stars.

    Attributes
    ----------
    psf : path, array, PSF, "none", "moffat" or "pixels", optional
        One PSF for all objects, wins over everything. "none": fit without a PSF
        (``data=[[1.]], has_pixel=False``: the renderer still adds the pixel).
    psf_fwhm : float, optional
        FWHM in arcsec of a pixel-integrated Moffat PSF with beta = 3.
    psf_oversampling : int, optional
        PSF pixels per image pixel.
    psf_has_pixel : bool, optional
        Whether the PSF contains the detector pixel (default True).
    survey : str, optional
        Name of a survey preset, see `autofit_ml.presets.list_surveys`.
    mode : {"auto", "stamp", "frame"}
        "auto" tells a frame by its size (`FRAME_SIDE`) or by the preset.
    zeropoint : float, optional
        AB magnitude of one image unit.
    pixel_scale : float, optional
        arcsec per pixel.
    gain : float, optional
        Electrons per image unit.
    rdnoise : float, optional
        Read noise, electrons.
    sky_subtracted : float, optional
        Sky already removed from the image (image units): its photon noise is still there.
    saturate : float, optional
        Saturation level, image units.
    sigma : float, optional
        Constant noise per pixel (image units) for images without a noise plane.
    noise : {"given", "model"}
        "given": the noise plane if there is one, else the model. "model": always the model.
    mask_ignore_bits : int, optional
        Bits of an integer mask that do not make a pixel bad.
    stamp_radius_factor : float
        Half side of a stamp cut from a frame in units of the object's radius.
    """

    psf: str | Path | np.ndarray | PSF | None = None
    psf_fwhm: float | None = None
    psf_oversampling: int | None = None
    psf_has_pixel: bool | None = None
    survey: str | None = None
    mode: str = "auto"
    zeropoint: float | None = None
    pixel_scale: float | None = None
    gain: float | None = None
    rdnoise: float | None = None
    sky_subtracted: float | None = None
    saturate: float | None = None
    sigma: float | None = None
    noise: str = "given"
    mask_ignore_bits: int | None = None
    stamp_radius_factor: float = 3.0

    def __post_init__(self) -> None:
        if self.mode not in ("auto", "stamp", "frame"):
            raise SettingsError(f"unknown mode {self.mode!r}", "use auto, stamp or frame")
        if self.noise not in ("given", "model"):
            raise SettingsError(f"unknown noise {self.noise!r}", "use given or model")
        for name in ("psf_fwhm", "pixel_scale", "gain", "sigma", "saturate"):
            _check_number(name, getattr(self, name), low=0.0, open_low=True)
        _check_number("rdnoise", self.rdnoise, low=0.0)
        _check_number("zeropoint", self.zeropoint)
        _check_number("sky_subtracted", self.sky_subtracted)
        _check_number("stamp_radius_factor", self.stamp_radius_factor, low=1.0)
        over = self.psf_oversampling
        if over is not None and (isinstance(over, bool) or over != int(over) or over < 1):
            raise SettingsError(f"psf_oversampling is {over!r}", "give a whole number of 1 or more")
        if self.mask_ignore_bits is not None and self.mask_ignore_bits < 0:
            raise SettingsError("mask_ignore_bits is negative", "give the sum of the bits")
        from_file = isinstance(self.psf, (str, Path)) and str(self.psf) not in (
            "none",
            *FITTED_PSFS,
        )
        if from_file and not Path(self.psf).is_file():  # type: ignore[arg-type]
            raise SettingsError("the PSF file does not exist", "check the path", str(self.psf))
        if self.survey is not None:
            survey_preset(self.survey)

    def replace(self, **changes) -> ReadOptions:
        """A copy with some settings changed."""
        return dataclasses.replace(self, **changes)


def _check_number(
    name: str, value: float | None, low: float | None = None, open_low: bool = False
) -> None:
    if value is None:
        return
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    bad = not math.isfinite(number)
    if low is not None:
        bad = bad or number < low or (open_low and number == low)
    if bad:
        need = "a number" if low is None else f"a number {'above' if open_low else 'from'} {low:g}"
        raise SettingsError(f"{name} is {value!r}", f"give {need}")
