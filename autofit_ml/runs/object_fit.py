"""One object's fit in the catalogue's terms: numbers by column, flags, images.

In: a `SceneFit`. Out: an `ObjectFit`, which is all that the catalogue and the pictures are made
of.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from autofit_ml.catalogue import (
    FIT_NUMBERS,
    PRIOR_COORDINATES,
    Flag,
    band_suffix,
    bound_names,
    covariance_order,
    pack_covariance,
    suffix,
)
from autofit_ml.images.sky_coordinates import sky_angle
from autofit_ml.images.stamp import Stamp
from autofit_ml.measure import flux_limit

if TYPE_CHECKING:
    from autofit_ml.catalogue import ModelColumns
    from autofit_ml.fitting import SceneFit, SceneObject
    from autofit_ml.posterior.scenes import ScenePosterior
    from autofit_ml.scenes import Scene

__all__ = ["Drawn", "ObjectFit", "fit_of_scene", "sky_coordinates"]

_MAGNITUDE = 2.5 / math.log(10)
_INDEX = {"exponential": 1.0, "devaucouleurs": 4.0, "gaussian": 0.5}
"""Profiles that are a Sérsic profile of this index."""


@dataclass(frozen=True)
class Drawn:
    """The fit's picture of one image, image units, float32.

    Attributes
    ----------
    components : list of ndarray, (ny, nx)
        Of the target, in the order of the model.
    neighbours : ndarray or None
        All that were fitted along, together.
    sky : ndarray or float32
        A number where it is flat.
    """

    components: list[np.ndarray]
    neighbours: np.ndarray | None
    sky: Any

    @property
    def model(self) -> np.ndarray:
        """Everything."""
        whole = self.components[0]
        for image in (*self.components[1:], self.neighbours):
            if image is not None:
                whole = whole + image
        return np.asarray(whole + self.sky, dtype=np.float32)


@dataclass(frozen=True)
class ObjectFit:
    """One object's fit.

    Attributes
    ----------
    numbers : dict
        Column of the catalogue -> value; columns that are not in it keep their blank.
    flags : int
        Of the fit.
    model : str
        What was fitted: "sersic+exp".
    drawn : tuple of Drawn or None
        For each image; None where there is no image, () where they were not kept.
    masked : tuple of ndarray, bool, (ny, nx), or None
        Other objects' pixels that were left out, in each image.
    problem : str
        Why there is no fit; "" where there is one.
    posterior : ScenePosterior or None
        Samples, where they were asked for.
    message : str
        Something that the reader of the row should know.
    """

    numbers: Mapping[str, Any]
    flags: int
    model: str
    masked: tuple[np.ndarray | None, ...]
    drawn: tuple[Drawn | None, ...] = ()
    problem: str = ""
    posterior: ScenePosterior | None = None
    message: str = ""


def fit_of_scene(fit: SceneFit, one: SceneObject, scene: Scene, columns: ModelColumns) -> ObjectFit:
    """A fit of `autofit_ml.fitting.refine` in the catalogue's terms.

    Parameters
    ----------
    fit : SceneFit
        With the images of its components.
    one : SceneObject
    scene : Scene
        The target's; its components are the first ones of `columns`.
    columns : ModelColumns
    """
    masked = tuple(
        None if stamp is None else one.contaminants(image, one.masked)
        for image, stamp in enumerate(one.stamps)
    )
    if fit.flags & int(Flag.FAILED) or not np.all(np.isfinite(_known(fit, one))):
        problem = fit.message or "the fit ended without finite values (check the noise plane)"
        return ObjectFit({}, fit.flags | int(Flag.FAILED), scene.name, masked, problem=problem)
    reading = _Reading(fit, one, scene)
    numbers: dict[str, Any] = {}
    for k in range(len(scene.components)):
        numbers |= reading.component(k)
    numbers |= reading.sky(0, "")
    if len(columns.components) > 1:
        numbers |= reading.total(0, "")
    if columns.bands:
        numbers |= reading.bands(columns)
    for name, matrix in (("cov", fit.cov), ("cov_stat", fit.cov_stat)):
        numbers[name] = pack_covariance(reading.covariance(columns, matrix))
    numbers["at_bound"] = " ".join(dict.fromkeys(map(reading.bound_name, fit.at_bound)))
    for name in FIT_NUMBERS:
        numbers[name] = getattr(fit, name)
    numbers["chi2_red"] = fit.chi2 / fit.ndof if fit.ndof > 0 else np.nan
    numbers["noise_correlation"] = fit.noise_correlation
    numbers["n_neighbours"] = fit.neighbours
    numbers["prior"] = fit.prior
    numbers["prior_mean"], numbers["prior_precision"] = reading.prior()
    numbers["blend_fraction"] = fit.blended
    numbers["bic_point_source"] = fit.bic_point_source
    drawn = reading.drawn()
    return ObjectFit(numbers, fit.flags, scene.name, masked, drawn, message=fit.message)


def _known(fit: SceneFit, one: SceneObject) -> np.ndarray:
    """The fit's values without those of bands in which the object has no image."""
    labels = () if fit.layout is None else fit.layout.labels
    absent = tuple(
        f"[{label}]" for label, stamp in zip(labels, one.stamps, strict=False) if stamp is None
    )
    return fit.values[[not name.endswith(absent) for name in fit.names]]


@dataclass(frozen=True)
class _Reading:
    """A scene's fit, read value by value."""

    fit: SceneFit
    one: SceneObject
    scene: Scene

    def component(self, k: int) -> dict[str, Any]:
        """Columns of component k (from 0), in the first image."""
        component = self.scene.components[k]
        numbers: dict[str, Any] = {}
        for parameter in component.profile.parameters:
            i = self.fit.place(f"{component.name}.{parameter}", 0)
            if i is None:
                continue
            numbers[parameter] = self.fit.values[i]
            numbers[f"{parameter}_err"] = self.fit.errors[i]
            numbers[f"{parameter}_err_stat"] = self.fit.errors_stat[i]
            numbers[f"{parameter}_init"] = self.fit.start[i]
        if component.profile.name in _INDEX and not component.profile.modifiers:
            numbers["n"] = numbers["n_init"] = _INDEX[component.profile.name]
        if len(self.scene.components) > 1:
            numbers["flux_limit"] = float(flux_limit(numbers["flux"], numbers["flux_err"]))
        numbers |= _derived(numbers, self.one.reference, self._rc_error(k))
        numbers["flux_stamp"] = self.fit.flux_stamp[k]
        numbers["flux_stamp_err"] = self.fit.flux_stamp_err[k]
        return {_suffixed(name, suffix(k)): value for name, value in numbers.items()}

    def _rc_error(self, k: int) -> float:
        """Error of ln(re sqrt(q))."""
        name = self.scene.components[k].name
        fit = self.fit
        i, j = self.fit.place(f"{name}.re", 0), self.fit.place(f"{name}.q", 0)
        if i is None or j is None or fit.layout is None:
            return math.nan
        if f"{name}.ln_rc" in fit.layout.names:
            at = fit.layout.names.index(f"{name}.ln_rc")
            return math.sqrt(max(float(fit.theta_cov[at, at]), 0.0)) or math.nan
        slope = np.array([1 / fit.values[i], 0.5 / fit.values[j]])
        part = fit.cov[np.ix_([i, j], [i, j])]
        return math.sqrt(max(float(slope @ part @ slope), 0.0)) or math.nan

    def sky(self, image: int, extra: str) -> dict[str, Any]:
        """Level (and gradient) of an image's sky."""
        numbers: dict[str, Any] = {}
        for name in ("sky", "sky_dx", "sky_dy"):
            i = self.fit.place(name, image)
            if i is None:
                continue
            numbers[f"{name}{extra}"] = self.fit.values[i]
            numbers[f"{name}{extra}_err"] = self.fit.errors[i]
            numbers[f"{name}{extra}_err_stat"] = self.fit.errors_stat[i]
            if not extra and name == "sky":
                numbers["sky_init"] = self.fit.start[i]
        return numbers

    def total(self, image: int, extra: str) -> dict[str, Any]:
        """All components together."""
        fit, stamp = self.fit, self.one.stamps[image]
        numbers = {}
        for name, values, errors in (
            ("flux_total", fit.flux_total, fit.flux_total_err),
            ("re_total", fit.re_total, fit.re_total_err),
            ("q_total", fit.q_total, fit.q_total_err),
            ("fraction", fit.fractions, fit.fractions_err),
        ):
            if len(values):
                numbers[name], numbers[f"{name}_err"] = float(values[image]), float(errors[image])
        flux, error = numbers["flux_total"], numbers["flux_total_err"]
        zeropoint = math.nan if stamp is None else stamp.zeropoint
        numbers["mag_total"], numbers["mag_total_err"] = _magnitude(flux, error, zeropoint)
        if len(self.scene.components) == 1:
            numbers["fraction_err"] = math.nan
        return {_suffixed(name, extra): value for name, value in numbers.items()}

    def bands(self, columns: ModelColumns) -> dict[str, Any]:
        """Columns of each band; a band without an image keeps NaN."""
        numbers: dict[str, Any] = {}
        for image, (band, stamp) in enumerate(zip(columns.bands, self.one.stamps, strict=True)):
            if stamp is None:
                continue
            extra = band_suffix(band)
            numbers |= self.sky(image, extra)
            if len(columns.components) > 1:
                numbers |= self.total(image, extra)
            for item in columns.varied:
                if item.component >= len(self.scene.components):
                    continue
                name = self.scene.components[item.component].name
                i = self.fit.place(f"{name}.{item.parameter}", image)
                if i is None:
                    continue
                value, error = float(self.fit.values[i]), float(self.fit.errors[i])
                value += _offset(item.parameter, self.one.reference)
                column = f"{suffix(item.component)}{extra}"
                numbers[f"{item.parameter}{column}"] = value
                numbers[f"{item.parameter}{column}_err"] = error
                numbers[f"{item.parameter}{column}_err_stat"] = self.fit.errors_stat[i]
                if item.parameter == "flux":
                    mag, mag_error = _magnitude(value, error, stamp.zeropoint)
                    numbers[f"mag{column}"], numbers[f"mag{column}_err"] = mag, mag_error
        return numbers

    def covariance(self, columns: ModelColumns, matrix: np.ndarray) -> np.ndarray:
        """A covariance of the fit's values in the catalogue's order; 0 for what is not fitted."""
        names: dict[str, str] = {"sky": "sky"}
        for k, component in enumerate(self.scene.components):
            for parameter in component.profile.parameters:
                names[f"{parameter}{suffix(k)}"] = f"{component.name}.{parameter}"
        order = covariance_order(columns)
        places = [self.fit.place(names[name], 0) if name in names else None for name in order]
        rows = [row for row, i in enumerate(places) if i is not None]
        found = [i for i in places if i is not None]
        out = np.zeros((len(order), len(order)))
        out[np.ix_(rows, rows)] = matrix[np.ix_(found, found)]
        return out

    def prior(self) -> tuple[np.ndarray, np.ndarray]:
        """The first component's prior in `PRIOR_COORDINATES`: mean, packed precision.

        NaN where a parameter has a prior that is no Gaussian in them.
        """
        size = len(PRIOR_COORDINATES)
        mean, precision = np.zeros(size), np.zeros((size, size))
        component, fit = self.scene.components[0], self.fit
        spans = () if fit.layout is None else fit.layout.spans
        span = next((s for s in spans if s.component.name == component.name), None)
        own = any(item.prior is not None for item in component.parameters.values())
        other = own or bool(self.scene.constraints) or (span is not None and span.shape != "eta")
        if span is None or fit.layout is None or fit.prior_gaussian is None or other:
            return np.full(size, math.nan), pack_covariance(np.full((size, size), math.nan))
        known = {name.partition("[")[0]: j for j, name in reversed([*enumerate(fit.layout.names)])}
        full = [f"{component.name}.{name}" for name in PRIOR_COORDINATES]
        rows = [row for row, name in enumerate(full) if name in known]
        places = [known[full[row]] for row in rows]
        mean[rows] = fit.prior_gaussian[0][places]
        precision[np.ix_(rows, rows)] = fit.prior_gaussian[1][np.ix_(places, places)]
        mean[:2] += self.one.reference.origin
        return mean, pack_covariance(precision)

    def bound_name(self, name: str) -> str:
        """A fit parameter's name as columns have it: ``disk.ln_rc`` -> ``re_2``."""
        component, _, rest = name.rpartition(".")
        parameter, _, band = rest.partition("[")
        k = next((k for k, c in enumerate(self.scene.components) if c.name == component), 0)
        return f"{bound_names([parameter])[0]}{suffix(k)}" + (
            band_suffix(band.rstrip("]")) if band else ""
        )

    def drawn(self) -> tuple[Drawn | None, ...]:
        """Pictures of all images."""
        if self.fit.components is None:
            return ()
        target = [component.name for component in self.scene.components]
        out: list[Drawn | None] = []
        for stamp, images in zip(self.one.stamps, self.fit.components, strict=True):
            if stamp is None:
                out.append(None)
                continue
            others = [v for name, v in images.items() if name not in (*target, "sky")]
            neighbours = np.asarray(np.stack(others).sum(axis=0)) if others else None
            out.append(Drawn([images[name] for name in target], neighbours, images["sky"]))
        return tuple(out)


# --- what follows from the fitted parameters --------------------------------------------------


def _derived(numbers: dict[str, Any], stamp: Stamp, rc_error: float) -> dict[str, Any]:
    """Magnitude, sky coordinates and other sizes of a component; positions in the file's pixels.

    Parameters
    ----------
    numbers : dict
        x, y, flux (re, q, pa), their ``_err`` and ``_init``, in stamp pixels.
    stamp : Stamp
    rc_error : float
        Error of ln(re sqrt(q)).
    """
    out: dict[str, Any] = {}
    x, y = float(numbers["x"]), float(numbers["y"])
    for axis in ("x", "y"):
        for name in (axis, f"{axis}_init"):
            out[name] = numbers[name] + _offset(axis, stamp)
    out["mag"], out["mag_err"] = _magnitude(
        float(numbers["flux"]), float(numbers["flux_err"]), stamp.zeropoint
    )
    pa = float(numbers.get("pa", math.nan))
    ra, dec, pa_sky = sky_coordinates(stamp, x, y, pa if math.isfinite(pa) else 0.0)
    out["ra"], out["dec"] = ra, dec
    if math.isfinite(pa) and math.isfinite(pa_sky):
        out["pa_sky"], out["pa_sky_err"] = pa_sky, numbers["pa_err"]
    if "re" in numbers:
        re, q = numbers["re"], numbers["q"]
        out["re_arcsec"] = re * stamp.pixel_scale
        out["re_arcsec_err"] = numbers["re_err"] * stamp.pixel_scale
        out["re_circ"] = re * math.sqrt(q)
        out["re_circ_err"] = re * math.sqrt(q) * rc_error
    return out


def _offset(parameter: str, stamp: Stamp) -> float:
    """Offset from stamp pixels to the file's."""
    return {"x": stamp.origin[0], "y": stamp.origin[1]}.get(parameter, 0)


def _magnitude(flux: float, error: float, zeropoint: float) -> tuple[float, float]:
    """AB magnitude and its error; NaN without a zero point or a positive flux."""
    if not (flux > 0 and math.isfinite(zeropoint)):
        return math.nan, math.nan
    return zeropoint - 2.5 * math.log10(flux), _MAGNITUDE * error / flux


def _suffixed(name: str, extra: str) -> str:
    """re_err -> re_2_err."""
    for ending in ("_err_stat", "_err", "_init"):
        if name.endswith(ending):
            return f"{name.removesuffix(ending)}{extra}{ending}"
    return f"{name}{extra}"


def sky_coordinates(stamp: Stamp, x: float, y: float, pa: float) -> tuple[float, float, float]:
    """ICRS position and angle of `sky_angle` at a stamp pixel; NaN without a WCS that works."""
    if stamp.wcs is None:
        return math.nan, math.nan, math.nan
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return sky_angle(stamp.wcs, x, y, pa)
    except Exception:  # astropy raises many kinds; a WCS that fails here gives no position
        return math.nan, math.nan, math.nan
