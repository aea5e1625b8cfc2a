"""`radial_profile`: surface brightness of data and model in elliptical annuli."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import astropy.units as u
import numpy as np
from astropy.table import QTable

if TYPE_CHECKING:
    from photutils.aperture import EllipticalAnnulus, EllipticalAperture

    from autofit_ml.results.fit import Fit

__all__ = ["radial_profile"]

_GROWTH = 1.12
"""From each annulus to the next where they are wider than the step."""

_LEAST = 0.5
"""An annulus of which less is usable (by area) ends the profile."""


def radial_profile(fit: Fit, *, step: float = 1.0, r_max: float | None = None) -> QTable:
    """Mean surface brightness of data and model in the ellipses of a fit.

    Parameters
    ----------
    fit : Fit
        With its images.
    step : float, optional
        Width of the inner annuli along the major axis, pixels; the outer ones grow.
    r_max : float, optional
        Where it ends, pixels; by default where half of an annulus lies outside of the image.

    Returns
    -------
    QTable
        ``radius`` (semi-major axis of the middle, pixels; ``radius_arcsec`` where the scale is
        known), ``data``, ``data_err``, ``model`` (without sky; neighbours taken off the data),
        ``psf`` (a point source of the same flux, where the PSF is known), image units per pixel;
        ``mu``, ``mu_model`` (mag / arcsec2) where there are a zero point and a scale; ``area``
        (pixels that were used). The error is that of the noise plane, as if pixels were
        independent.

    Raises
    ------
    InputError
        The object has no fit, or its images were not kept.
    """
    model, data = fit.model(), fit.data.astype(np.float64)
    images = fit.images.planes
    target = sum(image for name, image in fit.components.items() if name != "neighbours")
    others = np.asarray(model - target, np.float64)  # sky and neighbours
    light = {"data": data - others, "model": np.asarray(target, np.float64)}
    if fit.psf is not None:
        from autofit_ml.results.model import model_image

        flux = float(np.nansum([fit[f"flux{end}"] for end in fit._suffixes]))
        place = {"model": "psf", "x": fit.x, "y": fit.y, "flux": flux}
        light["psf"] = model_image(place, data.shape, psf=fit.psf, origin=fit.origin)
    mask = np.asarray(images["MASK"], dtype=bool)
    x, y = fit.x - fit.origin[0], fit.y - fit.origin[1]
    q, pa = _shape(fit)
    largest = float(r_max or np.hypot(*data.shape) / 2)
    columns: dict[str, list[float]] = {name: [] for name in ("radius", "data_err", "area", *light)}
    inner = 0.0
    while inner < largest:
        outer = max(inner + step, inner * _GROWTH)
        ring = _annulus((x, y), inner, outer, q, pa)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # rings that leave the image
            area = float(ring.area_overlap(data, mask=mask))
            if not area >= _LEAST * ring.area and (inner > 2 * step or not area > 0):
                if r_max is None and inner > 2 * step:
                    break
                inner = outer
                continue
            for name, image in light.items():
                columns[name].append(float(ring.do_photometry(image, mask=mask)[0][0]) / area)
            noise = ring.do_photometry(data, error=fit.sigma, mask=mask)[1][0]
        columns["data_err"].append(float(noise) / area)
        columns["radius"].append((inner + outer) / 2 if inner else outer * 2 / 3)
        columns["area"].append(area)
        inner = outer
    return _table(fit, {name: np.array(values) for name, values in columns.items()})


def _shape(fit: Fit) -> tuple[float, float]:
    """Axis ratio and position angle of the largest component; round for a point source."""
    sizes = [fit[f"re{end}"] for end in fit._suffixes]
    if not np.isfinite(sizes).any():
        return 1.0, 0.0
    end = fit._suffixes[int(np.nanargmax(sizes))]
    return float(fit[f"q{end}"]), float(fit[f"pa{end}"])


def _annulus(
    place: tuple[float, float], inner: float, outer: float, q: float, pa: float
) -> EllipticalAnnulus | EllipticalAperture:
    from photutils.aperture import EllipticalAnnulus, EllipticalAperture

    angle = (pa + 90.0) * u.deg
    if inner == 0:
        return EllipticalAperture(place, outer, outer * q, theta=angle)
    return EllipticalAnnulus(place, inner, outer, outer * q, b_in=inner * q, theta=angle)


def _table(fit: Fit, columns: dict[str, np.ndarray]) -> QTable:
    table = QTable()
    scale, zeropoint = fit.pixel_scale, fit.zeropoint
    table["radius"] = columns["radius"] * u.pix
    if np.isfinite(scale):
        table["radius_arcsec"] = columns["radius"] * scale * u.arcsec
    for name in ("data", "data_err", "model", "psf"):
        if name in columns:
            table[name] = columns[name]
    if np.isfinite(scale + zeropoint):
        for name, source in (("mu", "data"), ("mu_model", "model")):
            with np.errstate(invalid="ignore", divide="ignore"):
                mu = zeropoint - 2.5 * np.log10(columns[source] / scale**2)
            table[name] = mu * u.mag / u.arcsec**2
    table["area"] = columns["area"] * u.pix**2
    for name in table.colnames:
        table[name].info.format = ".4g"
    return table
