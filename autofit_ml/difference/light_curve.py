"""Light curves: one source in many epochs, by differences, by a scene, or both."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from astropy.table import QTable, Row, vstack
from scipy import ndimage

from autofit_ml.difference.epochs import absent_at, pixels_of
from autofit_ml.difference.photometry import forced, with_pixel
from autofit_ml.difference.result import Subtraction, subtract_frames
from autofit_ml.difference.scene import SceneCurve, fit_scene
from autofit_ml.difference.stars import Scale, Stars, common_stars, measure_stars, relative_scale
from autofit_ml.errors import InputError
from autofit_ml.images.frame import cut_stamps
from autofit_ml.images.stamp import Frame, Stamp
from autofit_ml.images.star_psf import psf_from_stars
from autofit_ml.measure import flux_limit
from autofit_ml.settings import LightCurveOptions, ReadOptions

__all__ = ["LightCurve", "Measured", "Spot", "light_curve_of", "measure_epoch", "with_psf"]

_WINDOW = 32
"""Half side of the part of the reference whose noise two epochs have in common, pixels."""

_SHOWN = 3.0
"""S/N from which a flux has a magnitude; below it has a limit."""


@dataclass(frozen=True)
class Spot:
    """One position in one epoch.

    Attributes
    ----------
    flux, error : float
        On the difference, in units of the reference; NaN without one.
    noise : ndarray, float32, (65, 65)
        What each pixel of the reference about the position adds to the error (with its sign).
    stamp : Stamp or None
        The image about it, in units of the reference; None where the image does not reach.
    """

    flux: float
    error: float
    noise: np.ndarray
    stamp: Stamp | None


@dataclass(frozen=True)
class Measured:
    """One epoch: all that a light curve needs of it.

    Attributes
    ----------
    id : str
    time : float
        MJD; NaN: unknown.
    scale : Scale
    spots : tuple of Spot
        One for each position.
    convolved : str
        "reference", "science", or "" without a difference.
    reference : bool
        It is the reference.
    messages : tuple of str
    """

    id: str
    time: float
    scale: Scale
    spots: tuple[Spot, ...]
    convolved: str = ""
    reference: bool = False
    messages: tuple[str, ...] = ()


@dataclass(frozen=True)
class LightCurve:
    """A source's flux in every epoch.

    Attributes
    ----------
    name : str
    table : QTable
        One row for each epoch and method: ``name epoch mjd method flux flux_err snr flux_limit
        mag mag_err mag_limit scale scale_err chi2 message``. Fluxes in units of the reference;
        limits of 95 %.
    covariance : dict
        Method -> (epochs, epochs) of the fluxes, in the order of its rows.
    scene : SceneCurve or None
        Host and position of the scene.
    images : dict
        Epoch -> (data, host, source, sigma) of the scene, in units of the reference.
    messages : tuple of str
    """

    name: str
    table: QTable
    covariance: Mapping[str, np.ndarray] = field(default_factory=dict)
    scene: SceneCurve | None = None
    images: Mapping[str, tuple[np.ndarray, ...]] = field(default_factory=dict)
    messages: tuple[str, ...] = ()

    def rows(self, method: str) -> QTable:
        """Rows of one method."""
        return self.table[np.asarray(self.table["method"]) == method]


def with_psf(frame: Frame) -> tuple[Frame, tuple[str, ...]]:
    """The frame, with a PSF from its stars where it has none."""
    if frame.psf is not None:
        return frame, ()
    psf, said = psf_from_stars(frame)
    return frame.replace(psf=psf), said


def measure_epoch(
    frame: Frame,
    reference: Frame,
    at: QTable,
    settings: LightCurveOptions,
    *,
    time: float = math.nan,
    name: str | None = None,
) -> Measured:
    """Measure what a light curve needs of one epoch.

    Parameters
    ----------
    frame, reference : Frame
        The same object: the epoch is the reference.
    at : QTable
        From `places`.
    settings : LightCurveOptions
    time : float
        MJD.
    name : str
        Of the epoch; that of the frame by default; "": a reference that is no epoch.

    Raises
    ------
    InputError
        Another band than the reference's, no PSF, no common scale, or what else a difference needs.
    """
    name = frame.id if name is None else name
    same = frame is reference
    if frame.filter and reference.filter and frame.filter != reference.filter:
        raise InputError(
            f"its filter is {frame.filter}, that of the reference {reference.filter}",
            "make a light curve of each band", frame.file,
        )  # fmt: skip
    frame, said = with_psf(frame)
    reference = frame if same else with_psf(reference)[0]
    x, y = pixels_of(at, frame, reference)
    common = common_stars(frame, reference)
    there, here = common or (None, None)
    stars, scale = measure_stars(frame, there, settings.psf_error), None
    scaled = settings.scale in ("auto", "stars") and common is not None
    if same:
        scale = Scale(1.0, 0.0, "none")
    elif settings.scale != "kernel":
        theirs = measure_stars(reference, here, settings.psf_error)
        scale = relative_scale(frame, stars, reference, theirs, settings.scale)
        scaled = scale is not None and scale.how == "stars"
    found: Subtraction | None = None
    wants = settings.method != "scene" or scale is None
    if wants and not same:
        try:
            found = subtract_frames(frame, reference, settings)
        except InputError as error:
            if settings.method == "difference" or scale is None:
                raise
            said = (*said, f"no difference: {error.problem}")
    if scale is None:
        assert found is not None
        scale = Scale(found.scale, found.scale_err, "kernel")
    if found is not None:
        said = (*said, *(text for text in found.messages if text not in said))
    measured = found if settings.method != "scene" else None
    forced_at = _forced(measured, frame, reference, at, x, y, stars, scale)
    stamps = [_stamp(frame, *spot, scale, settings) for spot in zip(x, y, strict=True)]
    stamps = [s and s.replace(psf=stars.corrected(s.psf, scaled=scaled)) for s in stamps]
    spots = [Spot(*values, stamp) for values, stamp in zip(forced_at, stamps, strict=True)]
    convolved = measured.convolved if measured is not None else ""
    return Measured(name, time, scale, tuple(spots), convolved, same, said)


def _forced(
    found: Subtraction | None, frame: Frame, reference: Frame, at: QTable, x: np.ndarray,
    y: np.ndarray, stars: Stars, scale: Scale,
) -> list[tuple[float, float, np.ndarray]]:  # fmt: skip
    """Flux, error and `Spot.noise` of each position on a difference."""
    empty = np.zeros((2 * _WINDOW + 1,) * 2, np.float32)
    if found is None:
        return [(math.nan, math.nan, empty)] * len(at)
    out = []
    ny, nx = frame.data.shape
    for k in range(len(at)):
        psf = stars.corrected(frame.psf_at(np.clip(x[k], 0, nx - 1), np.clip(y[k], 0, ny - 1)))
        at_x, at_y = torch.tensor([[x[k]], [y[k]]], dtype=torch.float64)
        shape = torch.as_tensor(with_pixel(psf))
        got = forced(
            found.result, at_x, at_y, shape, oversampling=psf.oversampling,
            excess=found.whitened.excess,
        )  # fmt: skip
        flux, error = float(got.flux) / scale.value, float(got.error) / scale.value
        error = math.hypot(error, flux * scale.error / scale.value)
        corner = np.array([float(got.row), float(got.column)])
        share = _on_reference(got.reference_filter[0].numpy(), corner, frame, reference, at[k])
        centre = round(float(at["y"][k])), round(float(at["x"][k]))
        sigma = _window(np.where(reference.mask, 0, reference.sigma), *centre)
        out.append((flux, error, (share * sigma / scale.value).astype(np.float32)))
    return out


def _window(plane: np.ndarray, row: int, column: int) -> np.ndarray:
    """The square of `_WINDOW` about a pixel; 0 beyond the image."""
    wide = np.pad(plane, 2 * _WINDOW)
    row, column = row + 2 * _WINDOW, column + 2 * _WINDOW
    return wide[row - _WINDOW : row + _WINDOW + 1, column - _WINDOW : column + _WINDOW + 1]


def _on_reference(
    filter_: np.ndarray, middle: np.ndarray, frame: Frame, reference: Frame, place: Row
) -> np.ndarray:
    """A filter about the pixel `middle` (y, x) of an image, on the pixels of the reference."""
    x, y = float(place["x"]), float(place["y"])
    row, column = np.indices((2 * _WINDOW + 1,) * 2) - _WINDOW
    row, column = row + round(y), column + round(x)
    if frame.wcs is not None and reference.wcs is not None:
        ra, dec = reference.wcs.all_pix2world(column.ravel(), row.ravel(), 0)
        there = np.array(frame.wcs.all_world2pix(ra, dec, 0, quiet=True))
        column, row = there.reshape(2, *row.shape)
        if np.abs(column - np.rint(column)).max() < 0.02:  # the same grid to its rounding
            column = np.rint(column)
        if np.abs(row - np.rint(row)).max() < 0.02:
            row = np.rint(row)
    half = np.array(filter_.shape) // 2
    inside = [row - middle[0] + half[0], column - middle[1] + half[1]]
    return ndimage.map_coordinates(filter_, inside, order=3, mode="constant")


def _stamp(
    frame: Frame, x: float, y: float, scale: Scale, settings: LightCurveOptions
) -> Stamp | None:
    """The part of an image about a position, in units of the reference."""
    options = ReadOptions()
    radius = (settings.stamp_half - 8) / options.stamp_radius_factor
    try:
        stamp = next(iter(cut_stamps(frame, [{"x": x, "y": y, "radius": radius}], options)))
    except InputError:
        return None
    one = np.float32(1 / scale.value)
    return stamp.replace(data=stamp.data * one, sigma=stamp.sigma * one, gain=math.nan)


def light_curve_of(
    measured: Sequence[Measured], number: int, name: str, settings: LightCurveOptions,
    zeropoint: float = math.nan,
) -> LightCurve:  # fmt: skip
    """The light curve of one of the positions.

    Parameters
    ----------
    measured : sequence of Measured
        Epochs, and the reference where it is one of its own (its name is "").
    number : int
        Of the position.
    name : str
    settings : LightCurveOptions
    zeropoint : float
        Of the reference.

    Raises
    ------
    SettingsError
        No epoch in the range of dates without the source, or all of them.
    """
    epochs = sorted((one for one in measured if one.id), key=lambda one: (one.time, one.id))
    own = [one for one in measured if not one.id]
    tables: list[QTable] = []
    covariance: dict[str, np.ndarray] = {}
    messages: list[str] = []
    images: dict[str, tuple[np.ndarray, ...]] = {}
    scene = None
    absent = absent_at([one.time for one in epochs], settings.absent)
    if settings.method != "scene":
        pairs = zip(epochs, absent, strict=True)
        some = [(one, gone) for one, gone in pairs if not one.reference]
        rows = [one for one, _ in some]
        flux, covariance["difference"] = _above_baseline(
            np.array([one.spots[number].flux for one in rows]), _common(rows, number),
            np.array([gone for _, gone in some], bool),
        )  # fmt: skip
        blank = np.full(len(rows), math.nan)
        told = flux, covariance["difference"], blank
        tables.append(_table(name, "difference", rows, *told, zeropoint))
    if settings.method != "difference":
        every = [*((one, True) for one in own), *zip(epochs, map(bool, absent), strict=True)]
        every.sort(key=lambda item: not item[0].reference)
        seen = [(one, s, gone) for one, gone in every if (s := one.spots[number].stamp) is not None]
        try:
            scene = fit_scene([s for _, s, _ in seen], [gone for *_, gone in seen], settings)
        except InputError as problem:
            messages.append(f"no scene: {problem.problem}")
        if scene is not None:
            messages += filter(None, [scene.message])
            order = [k for k, (one, *_) in enumerate(seen) if one.id]
            order.sort(key=lambda k: (seen[k][0].time, seen[k][0].id))
            rows = [seen[k][0] for k in order]
            images = {one.id: scene.images[k] for k, one in zip(order, rows, strict=True)}
            flux, spread = scene.flux[order], scene.covariance[np.ix_(order, order)]
            scale_error = np.array([one.scale.error / one.scale.value for one in rows])
            covariance["scene"] = spread + np.diag((flux * scale_error) ** 2)
            told = flux, covariance["scene"], scene.chi2[order]
            tables.append(_table(name, "scene", rows, *told, zeropoint))
    table = _stacked(tables)
    return LightCurve(name, table, covariance, scene, images, tuple(messages))


def _common(epochs: Sequence[Measured], number: int) -> np.ndarray:
    """Covariance of fluxes on differences: their own variances, and the reference's noise."""
    if not epochs:
        return np.zeros((0, 0))
    noise = np.array([one.spots[number].noise.ravel() for one in epochs], float)
    out = noise @ noise.T
    np.fill_diagonal(out, [one.spots[number].error ** 2 for one in epochs])
    return out


def _above_baseline(
    flux: np.ndarray, covariance: np.ndarray, absent: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Fluxes above their mean in the epochs without the source: the reference may have it."""
    known = np.flatnonzero(absent & np.isfinite(flux))
    if not len(known):
        return flux, covariance
    weight = np.zeros(len(flux))
    inverse = np.linalg.inv(covariance[np.ix_(known, known)])
    weight[known] = inverse.sum(0) / inverse.sum()
    turn = np.eye(len(flux)) - weight
    finite = np.isfinite(flux)
    covariance = np.where(finite[:, None] & finite, covariance, 0.0)
    out = turn @ covariance @ turn.T
    out[np.diag_indices(len(flux))] += np.where(finite, 0.0, np.nan)
    return flux - weight @ np.where(finite, flux, 0.0), out


def _table(
    name: str, method: str, epochs: Sequence[Measured], flux: np.ndarray, covariance: np.ndarray,
    chi2: np.ndarray, zeropoint: float,
) -> QTable:  # fmt: skip
    error = np.sqrt(np.diag(covariance))
    seen = flux / np.where(error > 0, error, np.nan)
    limit = flux_limit(flux, error)
    with np.errstate(invalid="ignore", divide="ignore"):
        mag = np.where(seen >= _SHOWN, zeropoint - 2.5 * np.log10(flux), np.nan)
        mag_err = np.where(np.isfinite(mag), 2.5 / math.log(10) / seen, np.nan)
        mag_limit = zeropoint - 2.5 * np.log10(limit)
    return QTable(
        {
            "name": np.full(len(epochs), name),
            "epoch": np.array([one.id for one in epochs], dtype=str),
            "mjd": np.array([one.time for one in epochs], float),
            "method": np.full(len(epochs), method),
            "flux": flux,
            "flux_err": error,
            "snr": seen,
            "flux_limit": limit,
            "mag": mag,
            "mag_err": mag_err,
            "mag_limit": mag_limit,
            "scale": np.array([one.scale.value for one in epochs], float),
            "scale_err": np.array([one.scale.error for one in epochs], float),
            "chi2": chi2,
            "message": np.array(["; ".join(one.messages) for one in epochs], dtype=str),
        }
    )


def _stacked(tables: Sequence[QTable]) -> QTable:
    return vstack(list(tables)) if tables else QTable()
