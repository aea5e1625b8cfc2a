"""The catalogue's columns: the one place where name, type, unit and meaning are written down."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from autofit_ml.catalogue.flags import Flag

__all__ = [
    "COVARIANCE_PARAMETERS",
    "Column",
    "columns_for",
    "components_of",
    "covariance_order",
    "covariance_size",
]

COVARIANCE_PARAMETERS = ("x", "y", "flux", "re", "n", "q", "pa", "sky")
"""Order of the parameters in ``cov`` for one component."""


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
        Numbers per row; more than 1 for ``cov`` only.
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


def _float(name: str, unit: str, description: str) -> Column:
    return Column(name, "float64", unit, description)


def _input(name: str, unit: str, description: str) -> Column:
    return Column(name, "float64", unit, description, known_without_fit=True)


def _measured(name: str, unit: str, description: str) -> tuple[Column, Column]:
    """A quantity and its error."""
    return _float(name, unit, description), _float(f"{name}_err", unit, f"1-sigma error of {name}")


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
    *_measured("x", "pix", "Centre along the image's first axis, 0-based pixels of the file"),
    *_measured("y", "pix", "Centre along the image's second axis, 0-based pixels of the file"),
    _float("ra", "deg", "Right ascension of the centre (ICRS); NaN without a WCS"),
    _float("dec", "deg", "Declination of the centre (ICRS); NaN without a WCS"),
)

_SHAPE = (
    *_measured("flux", "", "Total flux to infinity, image units"),
    *_measured("flux_stamp", "", "Flux of the model inside the stamp, image units"),
    *_measured("mag", "mag", "Total AB magnitude; NaN without a zero point or for flux <= 0"),
    *_measured("re", "pix", "Half-light radius along the semi-major axis, pixels"),
    *_measured("re_arcsec", "arcsec", "Half-light radius along the semi-major axis"),
    *_measured("re_circ", "pix", "Circularised half-light radius re*sqrt(q), pixels"),
    *_measured("n", "", "Sersic index"),
    *_measured("q", "", "Axis ratio b/a, in (0, 1]"),
    *_measured(
        "pa", "deg", "Position angle counter-clockwise from +y (up 0, left 90), in [0, 180)"
    ),
    *_measured("pa_sky", "deg", "Position angle east of north, in [0, 180); NaN without a WCS"),
)

_SKY = _measured("sky", "", "Sky level under the object, image units per pixel")

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
    _float("chi2", "", "Sum of squared residuals over sigma at the best fit"),
    Column(
        "ndof", "int32", "", "Degrees of freedom: pixels used less free parameters; 0 if failed"
    ),
    _float("chi2_red", "", "Reduced chi2: chi2 / ndof"),
    _float("snr", "", "Total signal-to-noise ratio of the model"),
    Column("n_pix", "int32", "", "Pixels used in the fit; 0 if failed"),
    Column("n_starts", "int32", "", "Starting points tried; 0 if failed"),
    Column("n_iter", "int32", "", "Evaluations of the model, all starts together; 0 if failed"),
    _float("logl", "", "Natural logarithm of the likelihood at the best fit"),
    _float("bic", "", "Bayesian information criterion of the model (lower is better)"),
    _float("bic_point_source", "", "Bayesian information criterion of a point source"),
    Column("model", "str", "", "Model fitted: sersic, sersic+exp, ..."),
    Column("segmenter", "str", "", "How the target was found: sep, given, maskrcnn"),
    Column(
        "object_class", "str", "", "galaxy or star, by the segmenting network; empty if unknown"
    ),
    Column("init", "str", "", "Where the starting values come from: moments, resnet"),
    Column("weights", "str", "", "Weight bundles used, empty for none"),
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


def covariance_order(components: int = 1) -> tuple[str, ...]:
    """Names of the parameters in ``cov``, in order.

    Parameters
    ----------
    components : int
        Number of components of the model. The parameters of component 2 and on follow those
        of a single component, so that the first 36 numbers always mean the same.

    Returns
    -------
    names : tuple of str, length 8 + 7 (components - 1)
    """
    names = list(COVARIANCE_PARAMETERS)
    for k in range(2, components + 1):
        names += [f"{name}_{k}" for name in COVARIANCE_PARAMETERS if name != "sky"]
    return tuple(names)


def covariance_size(components: int = 1) -> int:
    """Numbers in ``cov``: the lower triangle, 36 for one component."""
    parameters = len(covariance_order(components))
    return parameters * (parameters + 1) // 2


def _covariance(components: int) -> Column:
    names = covariance_order(components)
    order = ", ".join(f"{name}[deg]" if name.startswith("pa") else name for name in names)
    description = (
        "Covariance matrix, lower triangle row by row (00, 10, 11, 20, 21, 22, ...), "
        f"of ({order}); units are those of these columns"
    )
    return Column("cov", "float64", "", description, size=covariance_size(components))


def _suffixed(column: Column, k: int) -> Column:
    """The column of component `k`: re -> re_2, re_err -> re_2_err, re_init -> re_2_init."""
    for ending in ("_err", "_init"):
        if column.name.endswith(ending):
            name = f"{column.name.removesuffix(ending)}_{k}{ending}"
            break
    else:
        name = f"{column.name}_{k}"
    return dataclasses.replace(
        column, name=name, description=f"Component {k}: {column.description}"
    )


def columns_for(components: int = 1) -> tuple[Column, ...]:
    """Every column of a catalogue, in order.

    Parameters
    ----------
    components : int
        Number of components of the model, 1 or more. Component k > 1 adds ``<name>_k``,
        ``<name>_k_err`` and ``<name>_k_init`` after the columns of the first.

    Returns
    -------
    columns : tuple of Column

    Raises
    ------
    ValueError
        `components` is below 1.
    """
    if components < 1:
        raise ValueError(f"components must be 1 or more, not {components}")
    extra = tuple(
        _suffixed(column, k)
        for k in range(2, components + 1)
        for column in (*_POSITION, *_SHAPE, *_INIT)
    )
    return (
        *_IDENTITY,
        *_POSITION,
        *_SHAPE,
        *_SKY,
        *_INIT,
        *_SKY_INIT,
        *extra,
        _covariance(components),
        *_FIT,
    )


def components_of(names) -> int:
    """Number of components of a catalogue whose columns are called `names`."""
    present = set(names)
    components = 1
    while f"re_{components + 1}" in present:
        components += 1
    return components
