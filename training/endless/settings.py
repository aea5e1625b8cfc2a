"""Settings of endless stamps."""

import math
from dataclasses import dataclass

from autofit_ml.errors import SettingsError
from autofit_ml.profiles import N_MAX, N_MIN
from autofit_ml.simulation.noise import autocorrelation

__all__ = ["SPREAD", "EndlessSettings"]

SPREAD = 1.6448536
"""Standard deviations of the 5 and 95 % points of a normal distribution."""


_LIMITS = {
    "snr": (1e-3, math.inf),
    "re": (0.05, math.inf),
    "neighbour_re": (0.05, math.inf),
    "n": (N_MIN, N_MAX),
    "q": (0.05, 1.0),
    "flux_ratio": (1e-12, math.inf),
    "sky_rms": (1e-300, math.inf),
    "gain": (1e-300, math.inf),
    "pedestal": (-math.inf, math.inf),
    "gradient": (-math.inf, math.inf),
    "psf_fwhm": (0.3, math.inf),
    "psf_beta": (1.01, math.inf),
    "psf_ellipticity": (0, 0.2),
    "psf_size": (3, math.inf),
    "psf_oversampling": (1, 8),
    "isophote": (0, math.inf),
    "star_probability": (0, 1),
    "star_fraction": (0, 1),
    "clustered": (0, 1),
    "max_shift": (0, math.inf),
    "neighbours": (0, math.inf),
    "min_separation": (0, math.inf),
    "clustering_slope": (0, 1.99),
    "clustering_scale": (0, math.inf),
    "max_sources": (1, 10000),
}
"""What numbers, and both ends of ranges, lie between."""


@dataclass(frozen=True)
class EndlessSettings:
    """Settings of the stamps. Ranges are (low, high); lengths are in pixels.

    Attributes
    ----------
    shape : (ny, nx)
    max_sources : int
        Sources per stamp at most, the target included: the length of the source axis.
    snr : (low, high)
        Total S/N of the target's own light, log-uniform.
    star_probability : float
        The target is a star.
    max_shift : float
        The target's centre is uniform within this many pixels of the stamp's, per axis.
    re : (low, high)
        Semi-major half-light radius of a target, log-uniform. Layouts are checked up to a quarter
        of the stamp.
    n, q : (low, high)
        Sérsic index, log-uniform in [0.3, 8] (checked 0.5 to 6); axis ratio, uniform in
        [0.05, 1] (checked from 0.1).
    neighbours : float
        Mean number of other sources inside the stamp (Poisson, cut at ``max_sources - 1``).
    margin : float or None
        Neighbours stand up to this far beyond the borders too; None: a tenth of the shorter side.
    flux_ratio : (low, high)
        A neighbour's flux over the target's, log-uniform.
    neighbour_re : (low, high) or None
        None: from half the smallest target to the geometric mean of `re`.
    star_fraction : float
        Part of the neighbours that are stars.
    min_separation : float
        No two sources are closer than this, in PSF FWHM; a neighbour that finds no place is left
        out.
    clustered : float
        Part of the neighbouring galaxies that are companions of the target, with surface density
        ~ separation ** -`clustering_slope` out to `clustering_scale`.
    clustering_slope, clustering_scale : float
    sky_rms : (low, high)
        Noise of an empty pixel, image units, log-normal with these as its 5 and 95 % points.
    gain : (low, high)
        Electrons per image unit, log-uniform. The noise of a pixel is Gaussian with variance
        ``sky_rms**2 + (light + gradient) / gain``, and no less than a quarter of ``sky_rms**2``.
    pedestal, gradient : (low, high)
        Sky per pixel, and its change across the stamp, in units of `sky_rms`; uniform.
    correlation : float or tuple of tuples
        Correlation of adjacent pixels' noise in [0, 0.9] (``rho ** (dx**2 + dy**2)``), or an
        autocorrelation with odd sides and centre 1; 0: white.
    psf_fwhm : (low, high)
        Moffat PSFs before the pixel; log-normal with these as its 5 and 95 % points.
    psf_beta : (low, high)
        Moffat exponent, uniform, above 1.
    psf_ellipticity : float
        Scatter of each component of the reduced shear; |g| is at most 0.3.
    psf_size : int
        Side of drawn PSFs in **image** pixels.
    psf_oversampling : int
        PSF pixels per image pixel, of drawn and of given PSFs.
    psf_has_pixel : bool
        The PSFs contain the detector pixel.
    isophote : float
        A pixel belongs to a source where its own light exceeds this many `sky_rms` and every
        other's.
    lights : bool
        Batches carry the light of every source by itself.
    pixel_scale : float or None
        arcsec per pixel; for the record, nothing depends on it.
    chunk : int or None
        Sources drawn together; None: by the device and the layout.
    """

    shape: tuple[int, int] = (64, 64)
    max_sources: int = 1
    snr: tuple[float, float] = (10.0, 1000.0)
    star_probability: float = 0.0
    max_shift: float = 0.5
    re: tuple[float, float] = (1.5, 10.0)
    n: tuple[float, float] = (0.5, 6.0)
    q: tuple[float, float] = (0.1, 1.0)
    neighbours: float = 0.0
    margin: float | None = None
    flux_ratio: tuple[float, float] = (0.025, 2.5)
    neighbour_re: tuple[float, float] | None = None
    star_fraction: float = 0.25
    min_separation: float = 0.7
    clustered: float = 0.0
    clustering_slope: float = 0.8
    clustering_scale: float = 40.0
    sky_rms: tuple[float, float] = (1.0, 1.0)
    gain: tuple[float, float] = (10.0, 10.0)
    pedestal: tuple[float, float] = (0.0, 0.0)
    gradient: tuple[float, float] = (0.0, 0.0)
    correlation: float | tuple[tuple[float, ...], ...] = 0.0
    psf_fwhm: tuple[float, float] = (2.5, 4.0)
    psf_beta: tuple[float, float] = (2.5, 4.5)
    psf_ellipticity: float = 0.02
    psf_size: int = 41
    psf_oversampling: int = 1
    psf_has_pixel: bool = True
    isophote: float = 1.0
    lights: bool = False
    pixel_scale: float | None = None
    chunk: int | None = None

    def __post_init__(self) -> None:
        for name, (low, high) in _LIMITS.items():
            given = getattr(self, name)
            if given is None and name == "neighbour_re":
                continue
            first, last = given if isinstance(given, tuple) else (given, given)
            if not low <= first <= last <= high or not math.isfinite(last - first):
                raise SettingsError(
                    f"{name} = {given}",
                    f"must lie between {low:g} and {high:g}, a range's lower limit first",
                )
        if min(self.shape) < 9:
            raise SettingsError(f"shape = {self.shape}", "at least 9 x 9 pixels")
        if self.neighbours > 0 and self.max_sources == 1:
            raise SettingsError(
                f"neighbours = {self.neighbours} with max_sources = 1", "raise max_sources"
            )
        if self.chunk is not None and self.chunk < 1:
            raise SettingsError(f"chunk = {self.chunk}", "must be positive, or None")
        tilt = max(map(abs, self.gradient)) / 2
        if tilt > 0.5 * self.sky_rms[0] * self.gain[0]:
            raise SettingsError(
                f"gradient = {self.gradient}: as large as the sky itself, whose noise is "
                f"{self.sky_rms[0]:g} at {self.gain[0]:g} electrons per unit",
                "lower it",
            )
        autocorrelation(self.correlation, self.shape)
