"""Settings of a survey's PSFs, sky, noise and defects (bands of `presets`)."""

import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from autofit_ml.errors import SettingsError
from autofit_ml.simulation.noise import autocorrelation
from autofit_ml.simulation.ranges import Fraction, PositiveRange, Range, RecipeSettings

__all__ = ["Artefacts", "Noise", "PSFModel", "Survey"]


class PSFModel(RecipeSettings):
    """Point-spread functions of a survey.

    Attributes
    ----------
    kind : str
        moffat, kolmogorov, optical (obscured, aberrated aperture with Gaussian jitter), folder.
    fwhm : (low, high)
        arcsec; moffat and kolmogorov: log-normal between these as its 5 and 95 % points.
    beta : (low, high)
        Moffat exponent, uniform.
    ellipticity : float
        Scatter of each component of the reduced shear.
    lam_over_diam : float
        optical: wavelength over aperture, arcsec.
    obscuration : float
        optical: central obscuration, fraction of the diameter.
    struts : int
        optical: spider vanes.
    aperture : str
        optical: round, or hexagons (18 segments and three struts as JWST's, whose PSF has spikes;
        `obscuration` and `struts` do not count).
    aberrations : float
        optical: scatter of the Zernike coefficients 4 to 11, waves.
    jitter : float
        optical: Gaussian sigma, arcsec.
    folder : path
        folder: PSF images in FITS, one a file, drawn at random.
    size : int
        Side of the PSF image in **image** pixels; odd.
    oversampling : int
        PSF pixels per image pixel.
    has_pixel : bool
        The PSF image contains the detector pixel.
    variation : float
        Over a frame: relative scatter of the width (and scatter / 3 of the ellipticity) between
        opposite borders.
    pool : int
        optical and folder: number of different PSFs in a set.
    """

    kind: Literal["moffat", "kolmogorov", "optical", "folder"] = "moffat"
    fwhm: PositiveRange = (0.8, 1.2)
    beta: PositiveRange = (2.5, 4.5)
    ellipticity: Annotated[float, Field(ge=0, le=0.2)] = 0.02
    lam_over_diam: PositiveFloat = 0.05
    obscuration: Annotated[float, Field(ge=0, lt=1)] = 0.3
    struts: Annotated[int, Field(ge=0, le=8)] = 4
    aperture: Literal["round", "hexagons"] = "round"
    aberrations: Annotated[float, Field(ge=0, le=0.2)] = 0.02
    jitter: NonNegativeFloat = 0.0
    folder: Path | None = None
    size: Annotated[int, Field(ge=5, le=501)] = 41
    oversampling: Annotated[int, Field(ge=1, le=8)] = 1
    has_pixel: bool = True
    variation: Annotated[float, Field(ge=0, le=0.5)] = 0.05
    pool: PositiveInt = 24

    @model_validator(mode="after")
    def _check(self) -> "PSFModel":
        if self.size % 2 == 0:
            raise ValueError(f"size {self.size}: the PSF image needs an odd side")
        if self.beta[0] <= 1:
            raise ValueError(f"beta {list(self.beta)}: a Moffat profile needs beta > 1")
        if self.kind == "folder":
            if self.folder is None:
                raise ValueError("kind folder needs a folder of PSF images")
            if not self.folder.is_dir():
                raise ValueError(f"folder {self.folder} does not exist")
        return self


class Noise(RecipeSettings):
    """Sky and noise.

    The noise of an empty pixel is ``sqrt(sky_electrons + read_noise**2) / gain``.

    Attributes
    ----------
    sky_brightness : float
        AB mag per square arcsec.
    gain : float
        Electrons per image unit (coadds: of the whole stack). With correlated noise an effective
        value: resampling lowers the noise of a pixel, so that the physical gain is multiplied by
        the sum of the autocorrelation.
    read_noise : float
        Electrons per pixel (coadds: of the whole stack).
    scatter : float
        Object to object scatter of the sky brightness, mag (Gaussian): depth varies.
    pedestal : (low, high)
        Sky left in the image per pixel, in units of the sky noise.
    gradient : (low, high)
        Change of the sky across the image, in units of the sky noise; random direction.
    correlation : float or (low, high) or 2-d list or path
        Correlation of adjacent pixels' noise (rho ** (dx**2 + dy**2)), the same for all images or
        uniform between two values; an explicit autocorrelation (odd sides, centre 1), or a FITS
        file of one; 0: white.
    """

    sky_brightness: float
    gain: PositiveFloat
    read_noise: NonNegativeFloat = 0.0
    scatter: NonNegativeFloat = 0.0
    pedestal: Range = (0.0, 0.0)
    gradient: Range = (0.0, 0.0)
    correlation: float | Range | tuple[tuple[float, ...], ...] | Path = 0.0

    @model_validator(mode="after")
    def _check(self) -> "Noise":
        given: Any = self.correlation
        for setting in given if self._is_range() else [given]:
            try:
                autocorrelation(setting, (sys.maxsize, sys.maxsize))
            except SettingsError as error:
                raise ValueError(f"correlation: {error}") from error
        return self

    def _is_range(self) -> bool:
        given = self.correlation
        return isinstance(given, tuple) and not isinstance(given[0], tuple)

    def drawn(self, rng: np.random.Generator) -> float | tuple[tuple[float, ...], ...] | Path:
        """The `correlation` of one image."""
        given: Any = self.correlation
        return float(rng.uniform(*given)) if self._is_range() else given


class Artefacts(RecipeSettings):
    """Detector and pipeline defects; rates are means of Poisson numbers.

    Attributes
    ----------
    saturation : float
        Level (image units, with sky) at which a pixel is full; inf: never.
    bleed : bool
        Excess charge runs along columns (CCDs).
    bad_columns : float
        Per 1000 columns.
    cosmic_rays : float
        Hits per 10**6 pixels.
    cosmic_rays_masked : float
        Fraction of the hits that the survey's mask has found.
    masked_regions : float
        Blocks, trails and circles cut out per 10**6 pixels.
    ghosts : float
        Fraction of a star's flux that is in its ghost ring (stars that saturate only); 0: none.
    clipped, quantised : float
        Share of the images whose values end at a level of -1.5 to 0 sigma of the sky; that have
        steps of 0.3 to 1.5 sigma.
    """

    saturation: PositiveFloat = float("inf")
    bleed: bool = False
    bad_columns: NonNegativeFloat = 0.0
    cosmic_rays: NonNegativeFloat = 0.0
    cosmic_rays_masked: Fraction = 0.8
    masked_regions: NonNegativeFloat = 0.0
    ghosts: Annotated[float, Field(ge=0, le=0.05)] = 0.0
    clipped: Fraction = 0.0
    quantised: Fraction = 0.0


class Survey(RecipeSettings):
    """PSF, sky, noise and defects of a survey in one band.

    Attributes
    ----------
    name, band, title : str
    references : tuple of str
        Where the numbers come from.
    pixel_scale : float
        arcsec per pixel.
    zeropoint : float
        AB magnitude of one image unit.
    depth : float
        Published 5-sigma depth of a point source (AB mag), or NaN; for comparison.
    colour : float
        Typical colour of galaxies, this band minus i, AB mag: numbers and sizes are laws of the i
        band.
    psf : PSFModel
    noise : Noise
    artefacts : Artefacts
    """

    name: Annotated[str, Field(pattern=r"^[a-z0-9-]+$")]
    band: str
    title: str
    references: tuple[str, ...] = Field(min_length=1)
    pixel_scale: PositiveFloat
    zeropoint: float
    depth: float = float("nan")
    colour: float = 0.0
    psf: PSFModel
    noise: Noise
    artefacts: Artefacts = Artefacts()
