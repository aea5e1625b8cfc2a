"""What to simulate: validated settings, and how they are read from Hydra configs.

A `Recipe` has two parts: `data` (which scenes; the config group ``conf/data``) and `survey` (how
they are observed; the bands of `autofit_ml.presets`). Everything is checked before any work
starts: a wrong value is named by its path in the config (``data.target.n: ...``).
"""

import hashlib
import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)

from autofit_ml.errors import SettingsError
from autofit_ml.extras import needs
from autofit_ml.presets import simulated_surveys
from autofit_ml.simulation.noise import autocorrelation
from autofit_ml.user_yaml import parse_user_yaml, read_user_text

__all__ = [
    "Artefacts",
    "BulgeDisc",
    "Clustering",
    "DataRecipe",
    "Galaxies",
    "Labels",
    "Neighbours",
    "Noise",
    "PSFModel",
    "Recipe",
    "Structure",
    "Survey",
    "Target",
    "compose_recipe",
    "config_folder",
    "list_recipes",
]


def _between(low: float, high: float, rule: str) -> AfterValidator:
    """(low, high) of a range inside two limits; `rule` says so."""

    def check(value: tuple[float, float]) -> tuple[float, float]:
        if not low <= value[0] <= high or not low <= value[1] <= high:
            raise ValueError(f"{list(value)}: {rule}")
        if value[0] > value[1]:
            raise ValueError(f"{list(value)}: the lower limit comes first")
        return value

    return AfterValidator(check)


_Pair = tuple[float, float]
Range = Annotated[_Pair, _between(-math.inf, math.inf, "must be numbers")]
PositiveRange = Annotated[_Pair, _between(5e-324, math.inf, "must be positive")]
FractionRange = Annotated[_Pair, _between(0, 1, "must lie between 0 and 1")]
AxisRatios = Annotated[_Pair, _between(0.03, 1, "an axis ratio lies between 0.03 and 1")]
Indices = Annotated[_Pair, _between(0.3, 6.2, "GalSim draws Sérsic indices from 0.3 to 6.2")]
Fraction = Annotated[float, Field(ge=0, le=1)]


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="strings")


class PSFModel(_Settings):
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


class Noise(_Settings):
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


class Artefacts(_Settings):
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


class Survey(_Settings):
    """How a survey observes in one band.

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


class BulgeDisc(_Settings):
    """Bulge + inclined disc.

    Attributes
    ----------
    bulge_fraction : (low, high)
        Bulge to total light, uniform.
    bulge_n : (low, high)
        Sérsic index of the bulge, uniform over the grid.
    size_ratio : (low, high)
        Bulge re / disc re, log-uniform.
    thickness : (low, high)
        Scale height over scale length of the disc, uniform.
    """

    bulge_fraction: FractionRange = (0.0, 0.7)
    bulge_n: Indices = (1.5, 5.0)
    size_ratio: PositiveRange = (0.1, 0.6)
    thickness: FractionRange = (0.05, 0.25)


class Structure(_Settings):
    """Arms, bars, rings and knots on top of bulge + disc.

    Attributes
    ----------
    arms : (low, high)
        Amplitude of the log-spiral modulation (0 none, 1 dark between the arms).
    pitch : (low, high)
        Pitch angle, degrees.
    bar_probability : float
    bar_fraction : (low, high)
        Bar to total light.
    ring_probability : float
    ring_fraction : (low, high)
        Ring to total light.
    knot_fraction : (low, high)
        Light in star-forming knots / total light.
    knots : (low, high)
        Number of knots.
    irregular_probability : float
        Galaxies without bulge and arms, with up to twice the light in knots.
    """

    arms: FractionRange = (0.2, 0.9)
    pitch: PositiveRange = (8.0, 35.0)
    bar_probability: Fraction = 0.35
    bar_fraction: FractionRange = (0.05, 0.2)
    ring_probability: Fraction = 0.0
    ring_fraction: FractionRange = (0.2, 0.8)
    knot_fraction: FractionRange = (0.02, 0.12)
    knots: tuple[PositiveInt, PositiveInt] = (12, 60)
    irregular_probability: Fraction = 0.2


class Galaxies(_Settings):
    """Structure of galaxies.

    Attributes
    ----------
    morphology : dict
        Weights of sersic, bulge_disc, structured, real.
    re : (low, high) or None
        Semi-major half-light radius of a stamp's target, **pixels**, log-uniform (of a disc, where
        there is one); its neighbours are between half of the lower limit and the middle. None:
        all from the size-magnitude relation (`autofit_ml.simulation.populations`), in arcsec.
    re_limits : (low, high)
        pixels; sizes from the relation are redrawn until inside.
    n : (low, high)
    n_distribution : str
        log_uniform, or population (discs about 1, spheroids about 3.5, more of these when bright).
    q : (low, high)
    q_distribution : str
        uniform, or population (discs at random inclination, spheroids about 0.75).
    nucleus_probability : float
        Galaxies with a point source at their centre; they count as ``bulge_disc`` where they are
        one Sérsic profile otherwise.
    nucleus_fraction : (low, high)
        Nucleus to total light, log-uniform.
    real_folder : path
        Images ``<name>_image.fits`` with ``<name>_psf.fits`` of real galaxies for ``real``.
    """

    morphology: dict[Literal["sersic", "bulge_disc", "structured", "real"], NonNegativeFloat] = {
        "sersic": 1.0
    }
    re: PositiveRange | None = None
    re_limits: PositiveRange = (0.3, 1e4)
    n: Indices = (0.5, 6.0)
    n_distribution: Literal["log_uniform", "population"] = "log_uniform"
    q: AxisRatios = (0.1, 1.0)
    q_distribution: Literal["uniform", "population"] = "uniform"
    bulge_disc: BulgeDisc = BulgeDisc()
    structure: Structure = Structure()
    nucleus_probability: Fraction = 0.0
    nucleus_fraction: PositiveRange = (0.02, 0.5)
    real_folder: Path | None = None

    @model_validator(mode="after")
    def _check(self) -> "Galaxies":
        if not sum(self.morphology.values()) > 0:
            raise ValueError("morphology: needs a positive weight")
        if self.morphology.get("real", 0) > 0:
            if self.real_folder is None:
                raise ValueError("morphology real needs real_folder, a folder of images and PSFs")
            if not self.real_folder.is_dir():
                raise ValueError(f"real_folder {self.real_folder} does not exist")
        return self


class Target(_Settings):
    """What stands at a stamp's centre. Give `snr` or `magnitude`.

    Attributes
    ----------
    snr : (low, high)
        Total S/N of its light alone, log-uniform.
    magnitude : (low, high)
        Drawn from the galaxy counts between these limits.
    star_probability : float
        The target is a star.
    max_shift : float
        Its centre is uniform within this many pixels of the stamp's, per axis.
    """

    snr: PositiveRange | None = None
    magnitude: Range | None = None
    star_probability: Fraction = 0.0
    max_shift: NonNegativeFloat = 0.5

    @model_validator(mode="after")
    def _check(self) -> "Target":
        if (self.snr is None) == (self.magnitude is None):
            raise ValueError("give snr or magnitude (one of the two)")
        return self


class Clustering(_Settings):
    """Companions: pairs with surface density ~ separation ** -slope.

    Attributes
    ----------
    fraction : float
        Of the galaxies that are placed around another one (a stamp's target; in frames any).
    slope : float
        0.8: the angular correlation function of galaxies.
    scale : float
        Largest separation, arcsec.
    stars : bool
        Stars are placed so too.
    """

    fraction: Fraction = 0.3
    slope: Annotated[float, Field(ge=0, lt=2)] = 0.8
    scale: PositiveFloat = 15.0
    stars: bool = False


class Neighbours(_Settings):
    """All sources but the target.

    Attributes
    ----------
    number : float or None
        Mean number per stamp (Poisson) of detectable ones. None: from the counts of galaxies and
        stars down to `magnitude`.
    magnitude : (low, high)
        With ``number = None``: limits of the counts, AB mag.
    relative_magnitude : (low, high)
        With a number: magnitude minus the target's, uniform.
    faint_magnitude : float or None
        Sources below the cut, from the fainter limit of `magnitude` down to here: in the image
        and in the truth (``detectable`` False).
    re : (low, high) or None
        Semi-major half-light radius, pixels, log-uniform. None: see `Galaxies.re`.
    star_fraction : float
        With a number: part that are stars.
    star_density : float
        With counts: factor on the star counts at high galactic latitude.
    galaxy_density : float
        With counts: factor on the galaxy counts.
    min_separation : float
        No source closer to another than this, in PSF FWHM (the target included).
    clustering : Clustering
    """

    number: NonNegativeFloat | None = 0.0
    magnitude: Range | None = None
    relative_magnitude: Range = (-1.0, 4.0)
    faint_magnitude: float | None = None
    re: PositiveRange | None = None
    star_fraction: Fraction = 0.25
    star_density: NonNegativeFloat = 1.0
    galaxy_density: NonNegativeFloat = 1.0
    min_separation: NonNegativeFloat = 0.7
    clustering: Clustering = Clustering()

    @model_validator(mode="after")
    def _check(self) -> "Neighbours":
        if self.number is None and self.magnitude is None:
            raise ValueError("give number, or magnitude for the counts")
        if self.faint_magnitude is not None:
            if self.magnitude is None:
                raise ValueError("faint_magnitude needs magnitude, the limits of what is detected")
            if self.faint_magnitude < self.magnitude[1]:
                raise ValueError("faint_magnitude must be fainter than magnitude's limit")
        return self


class Labels(_Settings):
    """What is stored beside the images.

    Attributes
    ----------
    isophote : float
        A pixel belongs to a source where the source's own light exceeds this many sigma of the
        sky and no other source is brighter.
    noise_free : bool
        Store the noise-free image (light + sky).
    light : bool
        Store every labelled source's own light: fractional light maps.
    """

    isophote: PositiveFloat = 1.0
    noise_free: bool = False
    light: bool = False


class DataRecipe(_Settings):
    """Which scenes. ``kind`` is ``stamp`` (a target at the centre) or ``frame``."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9_-]+$")]
    version: PositiveInt = 1
    title: str = ""
    kind: Literal["stamp", "frame"] = "stamp"
    shape: tuple[PositiveInt, PositiveInt] = (64, 64)
    galaxies: Galaxies = Galaxies()
    target: Target | None = None
    neighbours: Neighbours = Neighbours()
    labels: Labels = Labels()
    count: PositiveInt = 100
    seed: Annotated[int, Field(ge=0)] = 1
    survey: str | None = None

    @model_validator(mode="after")
    def _check(self) -> "DataRecipe":
        if min(self.shape) < 9:
            raise ValueError(f"shape {list(self.shape)}: at least 9 x 9 pixels")
        if (self.kind == "stamp") != (self.target is not None):
            raise ValueError("a stamp has a target, a frame has none")
        if self.kind == "frame" and self.neighbours.number is not None:
            raise ValueError("neighbours.number: a frame takes its sources from the counts (null)")
        return self


class Recipe(_Settings):
    """A whole recipe: scenes and survey."""

    data: DataRecipe
    survey: Survey

    @model_validator(mode="after")
    def _check(self) -> "Recipe":
        if self.survey.psf.size > min(self.data.shape):
            raise ValueError(
                f"survey.psf.size {self.survey.psf.size}: larger than the images of "
                f"{self.data.shape[0]} x {self.data.shape[1]} pixels (data.shape)"
            )
        return self

    @classmethod
    def from_mapping(cls, config: Mapping[str, Any]) -> "Recipe":
        """Validate a mapping.

        Raises
        ------
        SettingsError
            Names every wrong value by its path.
        """
        try:
            return cls.model_validate(dict(config))
        except ValidationError as error:
            lines = [
                f"{'.'.join(str(part) for part in item['loc'])}: "
                f"{item['msg'].removeprefix('Value error, ')}".removeprefix(": ")
                for item in error.errors(include_url=False)
            ]
            raise SettingsError(
                "wrong recipe: " + "; ".join(lines), "correct these values of the config"
            ) from error

    def as_mapping(self) -> dict[str, Any]:
        """Plain values (JSON), defaults filled in."""
        return json.loads(self.model_dump_json())

    @property
    def digest(self) -> str:
        """sha256 of the resolved recipe."""
        text = json.dumps(self.as_mapping(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


def config_folder() -> Path:
    """The folder of Hydra configs that comes with the package."""
    return Path(__file__).resolve().parents[1] / "conf"


def list_recipes(
    group: Literal["data", "survey"] = "data", *, config_dir: str | Path | None = None
) -> dict[str, str]:
    """What ``data=`` or ``survey=`` accepts: name -> title, those of `config_dir` first."""
    titles: dict[str, str] = {}
    for folder in (config_dir, config_folder()):
        root = Path(folder or "") / group
        for path in sorted(root.rglob("*.yaml")) if folder is not None else ():
            content = _config(path)
            name = str(path.relative_to(root).with_suffix(""))
            titles.setdefault(name, str(content.get("title", "")))
    if group == "survey":
        for name, band in simulated_surveys().items():
            titles.setdefault(name, str(band["title"]))
    return titles


def _config(path: Path) -> dict[str, Any]:
    """Content of a config file, checked: Hydra's own reader unfolds aliases."""
    try:
        content = parse_user_yaml(read_user_text(path, "config file")) or {}
    except SettingsError as error:
        raise SettingsError(error.problem, error.remedy, path) from None
    if not isinstance(content, dict):
        raise SettingsError("no settings in it", "write `name: value` lines", path)
    return content


def compose_recipe(
    overrides: Sequence[str] = (), *, config_dir: str | Path | None = None
) -> Recipe:
    """Compose ``conf/simulate.yaml`` with Hydra overrides and validate it.

    ``survey=`` takes the bands of `autofit_ml.presets`, which are registered with Hydra here.

    Parameters
    ----------
    overrides : sequence of str
        Hydra's override grammar: ``data=blends``, ``survey=hsc-i``, ``data.target.snr=[20,200]``,
        ``+survey.artefacts.cosmic_rays=5``.
    config_dir : path, optional
        A folder of your own configs that is searched first (the same layout as ``conf``).

    Returns
    -------
    Recipe

    Raises
    ------
    SettingsError
        Unknown config, wrong override, wrong value.
    """
    with needs("simulate", "a recipe"):
        from hydra import compose, initialize_config_dir
        from hydra.core.config_store import ConfigStore
        from hydra.errors import HydraException
        from omegaconf import OmegaConf
        from omegaconf.errors import OmegaConfBaseException
    # Values may be set whether or not the config file spells their default out.
    overrides = [
        f"++{item}" if "." in item.split("=")[0] and item[0] not in "+~" else item
        for item in overrides
    ]
    extra = []
    if config_dir is not None:
        if not Path(config_dir).is_dir():
            problem = f"config folder {config_dir} does not exist"
            raise SettingsError(problem, "give an existing folder")
        for path in sorted(Path(config_dir).rglob("*.yaml")):
            _config(path)
        extra = [f"hydra.searchpath=[file://{Path(config_dir).resolve()}]"]
    for name, band in simulated_surveys().items():
        ConfigStore.instance().store(name, dict(band), group="survey")
    try:
        with initialize_config_dir(str(config_folder()), version_base="1.3"):
            composed = compose("simulate", overrides=[*extra, *overrides])
            mapping = OmegaConf.to_container(composed, resolve=True)
            wanted = mapping["data"].get("survey") if isinstance(mapping, dict) else None
            if wanted and not any(item.startswith("survey=") for item in overrides):
                composed = compose("simulate", overrides=[*extra, f"survey={wanted}", *overrides])
                mapping = OmegaConf.to_container(composed, resolve=True)
    except (HydraException, OmegaConfBaseException) as error:
        # Hydra adds its own list of options and its search path; the remedy has the list.
        text = " ".join(str(error).partition("Available options")[0].split())
        raise SettingsError(
            f"cannot compose the recipe: {text}",
            f"data is one of {', '.join(list_recipes('data'))}; "
            f"survey one of {', '.join(list_recipes('survey'))}",
        ) from error
    return Recipe.from_mapping(mapping)  # type: ignore[arg-type]
