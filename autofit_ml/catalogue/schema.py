"""The catalogue's columns: the one place where name, type, unit and meaning are written down.

A run's columns depend on its model and its bands (`ModelColumns`). A written catalogue describes
itself: its readers take names, types, units and meanings from the file, never from here.
"""

import dataclasses
import unicodedata
from collections import Counter
from dataclasses import dataclass

from autofit_ml.catalogue.flags import Flag
from autofit_ml.errors import SettingsError

__all__ = [
    "COVARIANCE_PARAMETERS",
    "FIT_NUMBERS",
    "SAMPLED",
    "BandParameter",
    "Column",
    "ComponentColumns",
    "ModelColumns",
    "ShapeColumn",
    "band_suffix",
    "columns_for",
    "columns_table",
    "covariance_order",
    "covariance_size",
    "suffix",
]

COVARIANCE_PARAMETERS = ("x", "y", "flux", "re", "n", "q", "pa", "sky")
"""Order of the parameters in ``cov`` for one Sersic profile."""


@dataclass(frozen=True)
class ShapeColumn:
    """A shape parameter that has a column of its own (``beta``, ``boxiness``, ...)."""

    name: str
    unit: str = ""
    description: str = ""


@dataclass(frozen=True)
class ComponentColumns:
    """Names and units by which the catalogue describes a component.

    Attributes
    ----------
    name : str
        "bulge"; for the descriptions.
    profile : str
    shapes : tuple of ShapeColumn
        Beyond the Sersic index.
    """

    name: str = "sersic"
    profile: str = "sersic"
    shapes: tuple[ShapeColumn, ...] = ()


@dataclass(frozen=True)
class BandParameter:
    """A parameter that differs from band to band: "flux" of component 0, for example."""

    component: int
    parameter: str


@dataclass(frozen=True)
class ModelColumns:
    """Model, bands and components that decide the columns of a run.

    Attributes
    ----------
    components : tuple of ComponentColumns
        At least one. Component k > 1 adds ``<name>_k``, ``<name>_k_err``, ``<name>_k_err_stat`` and
        ``<name>_k_init``.
    bands : tuple of str
        All bands, the reference first; empty for images of one band.
    varied : tuple of BandParameter
        Parameters that have a value of their own in each band: ``<name>[_k]_<band>``.
    tilted_sky : bool
        The sky has gradients too.
    tried : bool
        The model was chosen among several.
    measured : tuple of Column
        Of what is measured besides the fit.

    Raises
    ------
    SettingsError
        Two columns would have the same name (a band called "2", say).
    """

    components: tuple[ComponentColumns, ...] = (ComponentColumns(),)
    bands: tuple[str, ...] = ()
    varied: tuple[BandParameter, ...] = ()
    tilted_sky: bool = False
    tried: bool = False
    measured: "tuple[Column, ...]" = ()

    def __post_init__(self) -> None:
        if not self.components:
            raise ValueError("a model has 1 or more components")
        # FITS tables do not tell upper from lower case.
        counts = Counter(column.name.lower() for column in columns_for(self))
        twice = sorted(name for name, count in counts.items() if count > 1)
        if twice:
            raise SettingsError(
                f"the catalogue would have two columns called {', '.join(twice[:4])}",
                "give the band another name (in --bands and in the files' names or the manifest)",
            )


@dataclass(frozen=True)
class Column:
    """One column of the catalogue.

    Attributes
    ----------
    name : str
    dtype : str
        "str", "bool", "int32" or "float64".
    unit : str
        An astropy unit string; "" for none (image units have none).
    description : str
        One sentence in ASCII (FITS headers carry nothing else).
    size : int
        Numbers per row; more than 1 for ``cov`` and ``cov_stat`` only.
    of_fit : bool
        The value is that of the same name in the result of the fit, as it is.
    known_without_fit : bool
        True for a float that describes the input or the run, and so keeps its value in the row
        of a failed object; every other float of such a row is NaN.
    """

    name: str
    dtype: str
    unit: str
    description: str
    size: int = 1
    known_without_fit: bool = False
    of_fit: bool = False


def _float(name: str, unit: str, description: str) -> Column:
    return Column(name, "float64", unit, description)


def _input(name: str, unit: str, description: str) -> Column:
    return Column(name, "float64", unit, description, known_without_fit=True)


def _result(name: str, dtype: str, description: str) -> Column:
    """A number that the result of a fit has under the same name."""
    return Column(name, dtype, "", description, of_fit=True)


def _measured(name: str, unit: str, description: str) -> tuple[Column, Column]:
    """A quantity and its error."""
    return _float(name, unit, description), _float(f"{name}_err", unit, f"1-sigma error of {name}")


def _fitted(name: str, unit: str, description: str) -> tuple[Column, Column, Column]:
    """A quantity that is fitted, its total error, and that of the noise alone."""
    value, error = _measured(name, unit, description)
    total = dataclasses.replace(error, description=f"{error.description}: noise and model")
    return value, total, _float(f"{name}_err_stat", unit, f"1-sigma error of {name}: noise alone")


_IDENTITY = (
    Column("id", "str", "", "Object identifier, unique in this catalogue"),
    Column("file", "str", "", "Image file as given by the user"),
    Column("status", "str", "", "ok, or failed (no fit; see message)"),
    Column("message", "str", "", "Why it failed, or what was repaired or assumed"),
    Column(
        "flags",
        "int32",
        "",
        "Quality bits: " + ", ".join(f"{int(flag)} {flag.name}" for flag in Flag),
    ),
    Column("use", "bool", "", "True when no fatal flag is set"),
    Column("at_bound", "str", "", "Parameters that sit on their bound, separated by spaces"),
)

_POSITION = (
    *_fitted("x", "pix", "Centre along the image's first axis, 0-based pixels of the file"),
    *_fitted("y", "pix", "Centre along the image's second axis, 0-based pixels of the file"),
    _float("ra", "deg", "Right ascension of the centre (ICRS); NaN without a WCS"),
    _float("dec", "deg", "Declination of the centre (ICRS); NaN without a WCS"),
)

_SHAPE = (
    *_fitted("flux", "", "Total flux to infinity, image units"),
    *_measured("flux_stamp", "", "Flux of the model inside the stamp, image units"),
    *_measured("mag", "mag", "Total AB magnitude; NaN without a zero point or for flux <= 0"),
    *_fitted("re", "pix", "Half-light radius along the semi-major axis, pixels"),
    *_measured("re_arcsec", "arcsec", "Half-light radius along the semi-major axis"),
    *_measured("re_circ", "pix", "Circularised half-light radius re*sqrt(q), pixels"),
    *_fitted("n", "", "Sersic index"),
    *_fitted("q", "", "Axis ratio b/a, in (0, 1]"),
    *_fitted("pa", "deg", "Position angle counter-clockwise from +y (up 0, left 90), in [0, 180)"),
    *_measured("pa_sky", "deg", "Position angle east of north, in [0, 180); NaN without a WCS"),
)

_SKY = _fitted("sky", "", "Sky level under the object, image units per pixel")

_SKY_GRADIENT = (
    *_fitted("sky_dx", "1 / pix", "Change of the sky along the image's first axis, per pixel"),
    *_fitted("sky_dy", "1 / pix", "Change of the sky along the image's second axis, per pixel"),
)

_TOTAL = (
    *_measured("flux_total", "", "Total flux of all components of the target, image units"),
    *_measured("mag_total", "mag", "Total AB magnitude of all components of the target"),
    *_measured(
        "re_total",
        "pix",
        "Semi-major axis of the ellipse that holds half of flux_total, along the second moments of "
        "the light in it, pixels",
    ),
    *_measured("q_total", "", "Axis ratio of the ellipse of re_total, in (0, 1]"),
    *_measured("fraction", "", "Share of the first component in flux_total (B/T of bulge + disc)"),
)

_LIMIT = (_float("flux_limit", "", "Largest flux that the data allow (95 %), image units"),)

_TRIED = (Column("models_tried", "str", "", "Models that were tried, with their BIC"),)

SAMPLED = (
    _float("rhat", "", "Largest R-hat of the posterior's parameters; NaN for independent draws"),
    _float("ess", "", "Smallest effective sample size (bulk) of the posterior's parameters"),
)
"""Columns of runs that draw samples."""

_NEIGHBOURS = (
    Column("n_neighbours", "int32", "", "Neighbours that were fitted along with the target"),
    _float(
        "blend_fraction",
        "",
        "Light of neighbours over that of the target inside its half-light ellipse, by the fit; "
        "of masked neighbours inside its isophote, by the segmentation",
    ),
)

_INIT = (
    _float("x_init", "pix", "Starting value of x"),
    _float("y_init", "pix", "Starting value of y"),
    _float("flux_init", "", "Starting value of flux, image units"),
    _float("re_init", "pix", "Starting value of re"),
    _float("n_init", "", "Starting value of n"),
    _float("q_init", "", "Starting value of q"),
    _float("pa_init", "deg", "Starting value of pa"),
)

_SKY_INIT = (_float("sky_init", "", "Starting value of sky, image units per pixel"),)

_FIT = (
    _result("chi2", "float64", "Sum of squared residuals over sigma at the best fit"),
    _result("ndof", "int32", "Degrees of freedom: pixels used less free parameters; 0 if failed"),
    _float("chi2_red", "", "Reduced chi2: chi2 / ndof"),
    _result("snr", "float64", "Total signal-to-noise ratio of the model"),
    _result("n_pix", "int32", "Pixels used in the fit; 0 if failed"),
    _result("n_starts", "int32", "Starting points tried; 0 if failed"),
    _result("n_iter", "int32", "Evaluations of the model, all starts together; 0 if failed"),
    _result("logl", "float64", "Natural logarithm of the likelihood at the best fit"),
    _result("bic", "float64", "Bayesian information criterion of pixels that tell of the object"),
    _float("bic_point_source", "", "Bayesian information criterion of a point source"),
    Column("model", "str", "", "Model fitted to the target: sersic, sersic+exp, ..."),
    Column("segmenter", "str", "", "How the target was found: sep, given, maskrcnn"),
    Column(
        "object_class", "str", "", "galaxy or star, by the segmenting network; empty if unknown"
    ),
    Column("init", "str", "", "Where the starting values come from: moments, resnet"),
    Column("prior", "str", "", "Prior of the fit: broad, none, network, population:NAME"),
    Column("weights", "str", "", "Weight bundles used, empty for none"),
    Column("data_id", "str", "", "Hash of what the object's files, and a manifest, say of it"),
    Column("filter", "str", "", "Filter or band of the image"),
    Column("survey", "str", "", "Survey preset in force, empty for none"),
    _input("zeropoint", "mag", "AB magnitude of one image unit; NaN if unknown"),
    _input("pixel_scale", "arcsec / pix", "Pixel scale; NaN if unknown"),
    _input("psf_fwhm", "pix", "Full width at half maximum of the PSF, pixels"),
    _input(
        "noise_correlation",
        "",
        "Mean correlation of the noise of adjacent pixels; 0 for white noise",
    ),
    _input("time_ms", "ms", "Wall time spent on this object (its share of the batch)"),
)


def suffix(k: int) -> str:
    """Suffix of the column names of component k, which counts from 0: "", "_2", "_3", ..."""
    return f"_{k + 1}" if k else ""


def band_suffix(band: str) -> str:
    """Suffix of the column names of a band: letters, digits and underscores only."""
    return "_" + "".join(c if c.isascii() and c.isalnum() else "_" for c in band)


def covariance_order(model: ModelColumns | None = None) -> tuple[str, ...]:
    """Names of the parameters in ``cov``, in order.

    Parameters
    ----------
    model : ModelColumns, optional
        One Sersic profile by default. The parameters of component 2 and on follow those of the
        first, so that the first 36 numbers always mean the same; further shape parameters of all
        components come last.

    Returns
    -------
    names : tuple of str, length 8 + 7 (components - 1) + further shapes
        Of several bands those of the first.
    """
    model = model or ModelColumns()
    names = list(COVARIANCE_PARAMETERS)
    for k in range(1, len(model.components)):
        names += [f"{name}{suffix(k)}" for name in COVARIANCE_PARAMETERS if name != "sky"]
    for k, component in enumerate(model.components):
        names += [f"{shape.name}{suffix(k)}" for shape in component.shapes]
    return tuple(names)


def covariance_size(model: ModelColumns | None = None) -> int:
    """Numbers in ``cov``: the lower triangle, 36 for one Sersic profile."""
    parameters = len(covariance_order(model))
    return parameters * (parameters + 1) // 2


def _covariances(model: ModelColumns) -> tuple[Column, Column]:
    names = covariance_order(model)
    order = ", ".join(f"{name}[deg]" if name.startswith("pa") else name for name in names)
    description = (
        "lower triangle row by row (00, 10, 11, 20, 21, 22, ...), "
        f"of ({order}); units are those of these columns; 0 for what is not fitted"
    )
    size = covariance_size(model)
    return (
        Column("cov", "float64", "", f"Covariance matrix, {description}", size=size),
        Column(
            "cov_stat", "float64", "", f"Covariance of the noise alone, {description}", size=size
        ),
    )


def _renamed(column: Column, extra: str, description: str) -> Column:
    """The column of another component or band: re_err -> re_2_err, re_init -> re_2_init."""
    for ending in ("_err_stat", "_err", "_init"):
        if column.name.endswith(ending):
            name = f"{column.name.removesuffix(ending)}{extra}{ending}"
            return dataclasses.replace(column, name=name, description=description)
    return dataclasses.replace(column, name=f"{column.name}{extra}", description=description)


def _shape_columns(component: ComponentColumns) -> tuple[Column, ...]:
    """Columns of a component's further shape parameters."""
    out: list[Column] = []
    for shape in component.shapes:
        text = f"{component.profile}: {_ascii(shape.description or shape.name)}"
        out += _fitted(shape.name, shape.unit, text)
    return tuple(out)


def _shape_starts(component: ComponentColumns) -> tuple[Column, ...]:
    return tuple(
        _float(f"{shape.name}_init", shape.unit, f"Starting value of {shape.name}")
        for shape in component.shapes
    )


def _ascii(text: str) -> str:
    """Without accents; FITS headers carry nothing else."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode("ascii")
    return plain or "?"


def _component_columns(model: ModelColumns) -> tuple[Column, ...]:
    """Columns of the components from the second on."""
    out: list[Column] = []
    for k, component in enumerate(model.components[1:], start=1):
        shapes, starts = _shape_columns(component), _shape_starts(component)
        mine = (*_POSITION, *_SHAPE, *_LIMIT, *shapes, *_INIT, *starts)
        named = (
            component.name
            if component.name == component.profile
            else (f"{component.name}, {component.profile}")
        )
        out += [
            _renamed(column, suffix(k), f"Component {k + 1} ({named}): {column.description}")
            for column in mine
        ]
    return tuple(out)


def _band_columns(model: ModelColumns) -> tuple[Column, ...]:
    """Values of each band, band after band."""
    if not model.bands:
        return ()
    plain = {column.name: column for column in (*_POSITION, *_SHAPE)}
    out: list[Column] = []
    for band in model.bands:
        for item in model.varied:
            k = item.component
            known = dict(plain)
            for column in _shape_columns(model.components[k]):
                known[column.name] = column
            wanted = [item.parameter, *(f"{item.parameter}_err{end}" for end in ("", "_stat"))]
            if item.parameter == "flux":
                wanted += ["mag", "mag_err"]
            part = f"Component {k + 1}, band" if k else "Band"
            out += [
                _renamed(
                    known[name],
                    f"{suffix(k)}{band_suffix(band)}",
                    f"{part} {_ascii(band)}: {known[name].description}",
                )
                for name in wanted
            ]
        if len(model.components) > 1:
            out += [
                _renamed(column, band_suffix(band), f"Band {_ascii(band)}: {column.description}")
                for column in _TOTAL
            ]
        skies = (*_SKY, *(_SKY_GRADIENT if model.tilted_sky else ()))
        out += [
            _renamed(column, band_suffix(band), f"Band {_ascii(band)}: {column.description}")
            for column in skies
        ]
    return tuple(out)


def columns_for(model: ModelColumns | None = None) -> tuple[Column, ...]:
    """Every column of a catalogue, in order.

    Parameters
    ----------
    model : ModelColumns, optional
        One Sersic profile in one band by default: the columns that every run has.

    Returns
    -------
    columns : tuple of Column
    """
    if model is None:
        model = _SINGLE
    first = model.components[0]
    several = len(model.components) > 1
    return (
        *_IDENTITY,
        *_POSITION,
        *_SHAPE,
        *_shape_columns(first),
        *_SKY,
        *(_SKY_GRADIENT if model.tilted_sky else ()),
        *_INIT,
        *_shape_starts(first),
        *_SKY_INIT,
        *((*_LIMIT, *_TOTAL) if several else ()),
        *_component_columns(model),
        *_band_columns(model),
        *_covariances(model),
        *_NEIGHBOURS,
        *_FIT,
        *(_TRIED if model.tried else ()),
        *model.measured,
    )


def columns_table(model: ModelColumns | None = None) -> str:
    """Markdown table of a catalogue's columns."""
    lines = ["| column | type | unit | meaning |", "|---|---|---|---|"]
    lines += [
        f"| `{column.name}` | {column.dtype} | {column.unit} | {column.description} |"
        for column in columns_for(model)
    ]
    return "\n".join(lines) + "\n"


_SINGLE = ModelColumns()

FIT_NUMBERS = tuple(column.name for column in columns_for() if column.of_fit)
"""Columns that are copied from the result of a fit."""
