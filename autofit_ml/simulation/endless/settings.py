"""What endless stamps show, and what a recipe means in these settings."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

from autofit_ml.errors import SettingsError
from autofit_ml.profiles import N_MAX, N_MIN
from autofit_ml.simulation.endless.noise import noise_autocorrelation

if TYPE_CHECKING:
    from autofit_ml.simulation.recipe import Recipe

__all__ = ["SPREAD", "EndlessSettings"]

SPREAD = 1.6448536
"""Standard deviations of the 5 and 95 % points of a normal distribution."""


@dataclass(frozen=True)
class EndlessSettings:
    """What the stamps show. Ranges are (low, high); lengths are in pixels.

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
        limits = {
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
        }
        for name, (low, high) in limits.items():
            given = getattr(self, name)
            if name == "neighbour_re" and given is None:
                continue
            finite = all(map(math.isfinite, given))
            if not (finite and low <= given[0] <= given[1] <= high):
                raise SettingsError(
                    f"{name} = {given}", f"give (low, high) with {low:g} <= low <= high <= {high:g}"
                )
        for name, (low, high) in {
            "star_probability": (0, 1),
            "star_fraction": (0, 1),
            "clustered": (0, 1),
            "max_shift": (0, math.inf),
            "neighbours": (0, math.inf),
            "min_separation": (0, math.inf),
            "clustering_slope": (0, 1.99),
            "clustering_scale": (0, math.inf),
            "psf_ellipticity": (0, 0.2),
            "psf_size": (3, math.inf),
            "psf_oversampling": (1, 8),
            "isophote": (0, math.inf),
            "max_sources": (1, 10000),
        }.items():
            value = getattr(self, name)
            if not (math.isfinite(value) and low <= value <= high):
                raise SettingsError(f"{name} = {value}", f"must lie between {low:g} and {high:g}")
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
        noise_autocorrelation(self.correlation)

    @classmethod
    def from_recipe(
        cls, recipe: Recipe, *, psfs_given: bool = False, without: Collection[str] = ()
    ) -> EndlessSettings:
        """What a recipe means, in these settings.

        Parameters
        ----------
        recipe : Recipe
            Stamps of Sérsic galaxies and stars, brightness by S/N and relative magnitudes.
        psfs_given : bool
            PSF images will be given to `EndlessSersic`: ``survey.psf.kind`` may be any.
        without : collection of str
            Parts of the recipe to leave out knowingly: bulge_disc, structured, real (the Sérsic
            galaxies take their share), n_distribution, q_distribution (drawn log-uniform, uniform
            over their ranges), artefacts.

        Returns
        -------
        EndlessSettings
            The light, the sky and the noise have the recipe's distributions, but for three: n is
            continuous, Poisson noise is Gaussian, and with ``survey.noise.scatter`` the sky's
            noise is log-normal with the right 5 and 95 % points. The number of sources is cut
            where the Poisson distribution has 1e-4 left.

        Raises
        ------
        SettingsError
            Names everything that cannot be expressed.
        """
        optional = {
            "bulge_disc",
            "structured",
            "real",
            "n_distribution",
            "q_distribution",
            "artefacts",
        }
        unknown = set(without) - optional
        if unknown:
            raise SettingsError(
                f"without = {sorted(unknown)}", f"can be left out: {', '.join(sorted(optional))}"
            )
        data, survey = recipe.data, recipe.survey
        galaxies, neighbours, noise = data.galaxies, data.neighbours, survey.noise
        target = data.target
        never: list[str] = []
        parts: list[str] = []
        if data.kind != "stamp" or target is None:
            never.append("data.kind: frames")
        elif target.snr is None:
            never.append("data.target.magnitude (give snr)")
        if galaxies.re is None:
            never.append("data.galaxies.re: sizes by magnitude (give a range)")
        if neighbours.number is None or neighbours.faint_magnitude is not None:
            never.append("data.neighbours: counts by magnitude (give number)")
        if survey.psf.kind != "moffat" and not psfs_given:
            never.append(f"survey.psf.kind {survey.psf.kind} (psfs_given=True, and PSF images)")
        parts += [kind for kind, w in galaxies.morphology.items() if kind != "sersic" and w > 0]
        if galaxies.n_distribution != "log_uniform":
            parts.append("n_distribution")
        if galaxies.q_distribution != "uniform":
            parts.append("q_distribution")
        if survey.artefacts != type(survey.artefacts)():
            parts.append("artefacts")
        parts = [part for part in parts if part not in without]
        if never or parts:
            raise SettingsError(
                f"endless data cannot express {'; '.join(never + parts)} of recipe {data.name!r}",
                "change the recipe"
                + (f", or leave out knowingly: without={parts}" if parts and not never else ""),
            )
        assert target is not None and target.snr is not None  # both checked above
        assert galaxies.re is not None and neighbours.number is not None

        def rms(deviates: float) -> float:
            brightness = noise.sky_brightness - deviates * noise.scatter
            level = 10 ** (-0.4 * (brightness - survey.zeropoint)) * survey.pixel_scale**2
            return math.sqrt(level * noise.gain + noise.read_noise**2) / noise.gain

        margin = 0.1 * min(data.shape)
        mean = neighbours.number * math.prod(1 + 2 * margin / side for side in data.shape)
        faintest, brightest = neighbours.relative_magnitude[1], neighbours.relative_magnitude[0]
        scale = survey.pixel_scale
        return cls(
            shape=data.shape,
            max_sources=1 + _poisson_quantile(mean, 1 - 1e-4),
            snr=target.snr,
            star_probability=target.star_probability,
            max_shift=target.max_shift,
            re=galaxies.re,
            n=galaxies.n,
            q=galaxies.q,
            neighbours=neighbours.number,
            flux_ratio=(10 ** (-0.4 * faintest), 10 ** (-0.4 * brightest)),
            star_fraction=neighbours.star_fraction,
            min_separation=neighbours.min_separation,
            clustered=neighbours.clustering.fraction,
            clustering_slope=neighbours.clustering.slope,
            clustering_scale=neighbours.clustering.scale / scale,
            sky_rms=(rms(-SPREAD), rms(SPREAD)),
            gain=(noise.gain, noise.gain),
            pedestal=noise.pedestal,
            gradient=noise.gradient,
            correlation=_explicit(noise.correlation, data.shape),
            psf_fwhm=(survey.psf.fwhm[0] / scale, survey.psf.fwhm[1] / scale),
            psf_beta=survey.psf.beta,
            psf_ellipticity=survey.psf.ellipticity,
            psf_size=survey.psf.size,
            psf_oversampling=survey.psf.oversampling,
            psf_has_pixel=survey.psf.has_pixel,
            isophote=data.labels.isophote,
            lights=data.labels.light,
            pixel_scale=scale,
        )


def _poisson_quantile(mean: float, share: float) -> int:
    """Smallest number that a Poisson variable does not exceed with probability `share`."""
    number, term = 0, math.exp(-mean)
    total = term
    while total < share:
        number += 1
        term *= mean / number
        total += term
    return number


def _explicit(correlation, shape: tuple[int, int]) -> float | tuple[tuple[float, ...], ...]:
    """A recipe's noise correlation as numbers; of a range the middle."""
    if isinstance(correlation, float | int):
        return float(correlation)
    if isinstance(correlation[0], float | int):
        return sum(correlation) / 2
    from autofit_ml.simulation.noise import autocorrelation

    array = autocorrelation(correlation, shape)
    return 0.0 if array is None else tuple(map(tuple, array.tolist()))
