"""Fitted parameters to catalogue rows."""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING

import numpy as np

from autofit_ml.catalogue import Flag, empty_rows, pack_covariance
from autofit_ml.images.psf import psf_fwhm
from autofit_ml.images.stamp import Stamp
from autofit_ml.pipeline.prepare import Failure, Prepared
from autofit_ml.pipeline.settings import FitSettings

if TYPE_CHECKING:
    from autofit_ml.refine import FitResults

__all__ = ["catalogue_rows"]

_PARAMETERS = ("x", "y", "flux", "re", "n", "q", "pa", "sky")


def catalogue_rows(
    prepared: Prepared, results: FitResults | None, settings: FitSettings, milliseconds: float
) -> dict[str, np.ndarray]:
    """Rows of one batch, in the order of its inputs.

    Parameters
    ----------
    prepared : Prepared
    results : FitResults or None
        One row per stamp of `prepared`; None when there are no stamps.
    settings : FitSettings
    milliseconds : float
        Wall time per object.

    Returns
    -------
    dict of ndarray
        See `autofit_ml.catalogue.columns_for`.
    """
    rows = empty_rows(len(prepared.order))
    place = {name: i for i, name in enumerate(prepared.order)}
    rows["id"][:] = prepared.order
    rows["model"][:] = settings.model
    rows["init"][:] = settings.init
    rows["survey"][:] = settings.read.survey or ""
    rows["time_ms"][:] = milliseconds
    for failure in prepared.failures:
        _failed(rows, place[failure.id], failure)
    if results is None:
        return rows
    for k, stamp in enumerate(prepared.stamps):
        i = place[stamp.id]
        rows["file"][i] = stamp.file
        rows["filter"][i] = stamp.filter
        rows["zeropoint"][i] = stamp.zeropoint
        rows["pixel_scale"][i] = stamp.pixel_scale
        rows["psf_fwhm"][i] = psf_fwhm(stamp.psf)
        rows["segmenter"][i] = prepared.segmentations[k].method
        rows["object_class"][i] = prepared.segmentations[k].target_class
        rows["weights"][i] = ", ".join(filter(None, _weights(prepared, k)))
        rows["message"][i] = "; ".join(stamp.messages)
        flags = int(results.flags[k]) | stamp.flags
        if prepared.starts is not None:
            flags |= int(prepared.starts.flags[k])
        if flags & int(Flag.INIT_FALLBACK):
            rows["init"][i] = "moments"
        if flags & int(Flag.FAILED) or not np.all(np.isfinite(results.values[k])):
            _failed(
                rows,
                i,
                Failure(
                    stamp.id,
                    stamp.file,
                    "; ".join(
                        [
                            *stamp.messages,
                            f"{stamp.file}: too few usable pixels for a fit "
                            "(check the mask and noise planes)",
                        ]
                    ),
                ),
            )
            rows["flags"][i] = flags | int(Flag.FAILED)
            continue
        rows["status"][i] = "ok"
        rows["flags"][i] = flags
        _fill(rows, i, k, stamp, results)
    return rows


def _weights(prepared: Prepared, k: int) -> tuple[str, str]:
    """Weights that segmented and that initialised stamp `k`."""
    starts = prepared.starts
    return prepared.segmentations[k].weights, (
        starts.weights[k] if starts is not None and starts.weights else ""
    )


def _failed(rows: dict[str, np.ndarray], i: int, failure: Failure) -> None:
    rows["file"][i] = failure.file
    rows["message"][i] = failure.message


def _fill(rows: dict[str, np.ndarray], i: int, k: int, stamp: Stamp, fit: FitResults) -> None:
    values, errors = fit.values[k].copy(), fit.errors[k]
    start = fit.start[k].copy()
    for offset, axis in zip(stamp.origin, (0, 1), strict=True):
        values[axis] += offset
        start[axis] += offset
    for name, value, error, begin in zip(_PARAMETERS, values, errors, start, strict=True):
        rows[name][i] = value
        rows[f"{name}_err"][i] = error
        rows[f"{name}_init"][i] = begin
    flux, re, q, pa = (values[_PARAMETERS.index(p)] for p in ("flux", "re", "q", "pa"))
    flux_err, re_err = errors[2], errors[3]
    rows["mag"][i] = stamp.zeropoint - 2.5 * math.log10(flux)
    if math.isfinite(stamp.zeropoint):
        rows["mag_err"][i] = 2.5 / math.log(10) * flux_err / flux
    rows["flux_stamp"][i], rows["flux_stamp_err"][i] = fit.flux_stamp[k], fit.flux_stamp_err[k]
    rows["re_arcsec"][i] = re * stamp.pixel_scale
    rows["re_arcsec_err"][i] = re_err * stamp.pixel_scale
    rows["re_circ"][i] = re * math.sqrt(q)
    # re_circ = rc of the fit space, whose logarithm is the fitted parameter.
    rows["re_circ_err"][i] = re * math.sqrt(q) * math.sqrt(max(fit.theta_cov[k, 3, 3], 0.0))
    ra, dec, pa_sky = sky_coordinates(stamp, fit.values[k, 0], fit.values[k, 1], pa)
    rows["ra"][i], rows["dec"][i], rows["pa_sky"][i] = ra, dec, pa_sky
    if math.isfinite(pa_sky):
        rows["pa_sky_err"][i] = errors[6]
    rows["cov"][i] = pack_covariance(fit.cov[k])
    rows["at_bound"][i] = fit.at_bound[k].replace(",", " ")
    for name in ("chi2", "ndof", "snr", "n_pix", "n_starts", "n_iter", "logl", "bic"):
        rows[name][i] = getattr(fit, name)[k]
    rows["bic_point_source"][i] = fit.bic_point_source[k]
    rows["chi2_red"][i] = fit.chi2[k] / fit.ndof[k] if fit.ndof[k] > 0 else np.nan
    rows["noise_correlation"][i] = fit.noise_correlation[k]


def sky_coordinates(stamp: Stamp, x: float, y: float, pa: float) -> tuple[float, float, float]:
    """(ra, dec, position angle east of north) in degrees at stamp pixel (x, y); NaN without WCS.

    The angle is measured on the sky between the centre and a point one pixel along the major axis,
    so that rotation, flips and distortion of the image are all in it.
    """
    if stamp.wcs is None:
        return math.nan, math.nan, math.nan
    angle = math.radians(pa)
    points = np.array([[x, y], [x - math.sin(angle), y + math.cos(angle)]])
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            (ra, dec), (ra1, dec1) = stamp.wcs.all_pix2world(points, 0)
    except Exception:  # astropy raises many kinds; a WCS that fails here gives no position
        return math.nan, math.nan, math.nan
    east = ((ra1 - ra + 180.0) % 360.0 - 180.0) * math.cos(math.radians(dec))
    return float(ra) % 360.0, float(dec), math.degrees(math.atan2(east, dec1 - dec)) % 180.0
