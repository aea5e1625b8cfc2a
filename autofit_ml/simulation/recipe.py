"""Recipe: validated settings of what to simulate.

A `Recipe` has two parts: `data` (which scenes; the config group ``conf/data``) and `survey` (how
they are observed; the bands of `autofit_ml.presets`). Everything is checked before any work
starts: a wrong value is named by its path in the config (``data.target.n: ...``).
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)

from autofit_ml.errors import SettingsError
from autofit_ml.simulation.ranges import (
    AxisRatios,
    Fraction,
    FractionRange,
    Indices,
    PositiveRange,
    Range,
    RecipeSettings,
)
from autofit_ml.simulation.survey import Survey

__all__ = [
    "BulgeDisc",
    "Clustering",
    "DataRecipe",
    "Galaxies",
    "Labels",
    "Neighbours",
    "Recipe",
    "Structure",
    "Target",
]


class BulgeDisc(RecipeSettings):
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


class Structure(RecipeSettings):
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


class Galaxies(RecipeSettings):
    """Structure of galaxies.

    Attributes
    ----------
    morphology : dict
        Weights of sersic, bulge_disc, structured, real. An override changes those that it names:
        a recipe's other kinds need a 0.
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

    morphology: dict[Literal["sersic", "bulge_disc", "structured", "real"], NonNegativeFloat] = {  # noqa: RUF012
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


class Target(RecipeSettings):
    """Target at a stamp's centre. Give `snr` or `magnitude`.

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


class Clustering(RecipeSettings):
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


class Neighbours(RecipeSettings):
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


class Labels(RecipeSettings):
    """Labels that are stored beside the images.

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


class DataRecipe(RecipeSettings):
    """Scenes of a recipe. ``kind`` is ``stamp`` (a target at the centre) or ``frame``."""

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


class Recipe(RecipeSettings):
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
