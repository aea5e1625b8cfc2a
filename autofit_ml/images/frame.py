"""Cut stamps out of a frame."""

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from autofit_ml.catalogue.flags import Flag
from autofit_ml.errors import InputError
from autofit_ml.images.psf import crop_psf
from autofit_ml.images.roles import as_id
from autofit_ml.images.sky_coordinates import pixel_positions, sky_positions
from autofit_ml.images.stamp import Frame, Stamp
from autofit_ml.measure import sky_at
from autofit_ml.settings import ReadOptions

__all__ = ["cut_like", "cut_stamps", "stamp_half_size"]

MIN_HALF = 16
MAX_HALF = 512
MIN_LARGE_HALF = 96
"""Half side from which a stamp in the region of a large object is that object's."""

_BEYOND = 2.0
"""Half side of a large object's stamp, in radii of its region; the sky there decides its errors."""

DEFAULT_HALF = 32
"""Half side of a stamp whose detection has no radius, pixels."""


def stamp_half_size(radius: float | None, factor: float) -> int:
    """Half side of a stamp in pixels: `factor` times the radius plus 8, within 16 and 512."""
    if radius is None or not math.isfinite(radius) or radius <= 0:
        return DEFAULT_HALF
    return int(min(MAX_HALF, max(MIN_HALF, math.ceil(factor * radius) + 8)))


def cut_stamps(
    frame: Frame,
    detections: Iterable[Mapping[str, Any]] | np.ndarray,
    options: ReadOptions | None = None,
    *,
    labels: np.ndarray | None = None,
    classes: Mapping[int, str] | None = None,
) -> Iterator[Stamp]:
    """Stamps around detections.

    Parameters
    ----------
    frame : Frame
        With a PSF; each stamp gets that at its detection.
    detections : iterable of mapping, structured array or Table
        Each with ``x``, ``y`` (0-based frame pixels), and optionally ``radius`` (of the object's
        outer isophote, pixels), ``id`` and ``label`` (its label in `labels`).
    options : ReadOptions, optional
        For ``stamp_radius_factor``.
    labels : ndarray of int, optional
        Segmentation of the frame, cut along.
    classes : mapping, optional
        label -> "galaxy" or "star".

    Yields
    ------
    Stamp
        With ``origin``, the WCS shifted, the target's position, and ``sky_prior``: the sky
        measured outside the stamp (a plane fitted in the ring up to three times its size,
        objects masked; its error includes the scatter between parts of the ring; none in the region
        of an object larger than a background's mesh, whose light reaches far). Parts outside
        the frame are not filled: a stamp at the border is smaller, and flagged EDGE.

    Raises
    ------
    InputError
        A detection outside the frame, or no PSF.
    """
    options = ReadOptions() if options is None else options
    ny, nx = frame.data.shape
    for number, detection in enumerate(detections, start=1):
        x, y = float(detection["x"]), float(detection["y"])
        name = _entry(detection, "id")
        name = as_id(f"{frame.id}_{number:05d}" if name is None else str(name))
        if not (
            math.isfinite(x) and math.isfinite(y) and -0.5 <= x < nx - 0.5 and -0.5 <= y < ny - 0.5
        ):
            raise InputError(
                f"{name}: position ({x:g}, {y:g}) is outside the {ny} x {nx} (ny, nx) frame",
                "give 0-based x and y in the frame's pixels",
                frame.file,
            )
        radius = _entry(detection, "radius")
        half = stamp_half_size(
            None if radius is None else float(radius), options.stamp_radius_factor
        )
        column, row = round(x), round(y)
        region = 0 if frame.large is None else int(frame.large[row, column])
        if region and half > MIN_LARGE_HALF:
            reach = math.sqrt(np.count_nonzero(frame.large == region) / math.pi)
            half = min(MAX_HALF, max(half, math.ceil(_BEYOND * reach)))
        y0, y1 = max(0, row - half), min(ny, row + half + 1)
        x0, x1 = max(0, column - half), min(nx, column + half + 1)
        window = (slice(y0, y1), slice(x0, x1))
        psf = frame.psf_at(x, y)
        data = frame.data[window].copy()
        mask = frame.mask[window].copy()
        if min(data.shape) < 5 or mask.all():
            raise InputError(
                f"{name}: no usable pixels around ({x:g}, {y:g})", "drop this detection", frame.file
            )
        psf, notes = crop_psf(psf, data.shape)
        flags = frame.flags
        if data.shape != (2 * half + 1, 2 * half + 1):
            flags |= int(Flag.EDGE)
        label = _entry(detection, "label")
        part = None if labels is None else labels[window].astype(np.int32)
        yield Stamp(
            id=name,
            data=data,
            sigma=frame.sigma[window].copy(),
            mask=mask,
            psf=psf,
            x=x - x0,
            y=y - y0,
            origin=(x0, y0),
            labels=part,
            target_label=None if label is None or labels is None else int(label),
            label_classes=_classes_in(part, classes),
            saturated=None if frame.saturated is None else frame.saturated[window].copy(),
            wcs=None if frame.wcs is None else frame.wcs[window],
            pixel_scale=frame.pixel_scale,
            zeropoint=frame.zeropoint,
            filter=frame.filter,
            gain=frame.gain,
            sky_prior=None if region else _sky_outside(frame, (y0, y1, x0, x1)),
            flags=flags,
            messages=(*frame.messages, *notes),
            file=frame.file,
            unit=frame.unit,
            background_sigma=None
            if frame.background_sigma is None
            else frame.background_sigma[window].copy(),
        )


def cut_like(
    frame: Frame,
    stamp: Stamp,
    reference: Frame,
    options: ReadOptions | None = None,
) -> Stamp | None:
    """The region of a stamp, cut from a frame of another band.

    Parameters
    ----------
    frame : Frame
    stamp : Stamp
        Cut from `reference`, with its target's position.
    reference : Frame
    options : ReadOptions, optional

    Returns
    -------
    Stamp or None
        None where the frame does not cover the target, or has no usable pixel there.

    Raises
    ------
    InputError
        The frames' pixels cannot be related: no WCS, and different shapes.
    """
    options = ReadOptions() if options is None else options
    x, y = stamp.position
    scale = 1.0
    if stamp.wcs is not None and frame.wcs is not None:
        corner = np.array([x, x + 1, x]), np.array([y, y, y + 1])
        try:
            there = np.transpose(pixel_positions(frame.wcs, *sky_positions(stamp.wcs, *corner)))
        except Exception:  # astropy raises many kinds where a position is far outside
            return None
        along, across = there[1] - there[0], there[2] - there[0]
        scale = math.sqrt(abs(float(along[0] * across[1] - along[1] * across[0])))
        x, y = (float(value) for value in there[0])
    elif frame.data.shape == reference.data.shape:
        x, y = x + stamp.origin[0], y + stamp.origin[1]
    else:
        raise InputError(
            f"without a WCS its pixels cannot be related to those of {reference.file}",
            "give both a WCS, or put them on one grid",
            frame.file,
        )
    if not (math.isfinite(x) and math.isfinite(y) and math.isfinite(scale)):
        return None
    half = scale * max(stamp.shape) / 2
    detection = {"x": x, "y": y, "radius": (half - 8) / options.stamp_radius_factor}
    try:
        found = next(iter(cut_stamps(frame, [detection], options)))
    except InputError:
        return None
    return found.replace(id=stamp.id)


def _classes_in(labels: np.ndarray | None, classes: Mapping[int, str] | None) -> dict[int, str]:
    if labels is None or not classes:
        return {}
    return {int(k): classes[int(k)] for k in np.unique(labels) if int(k) in classes}


def _entry(detection: Any, name: str) -> Any:
    """Value of a mapping, table row or record; None where it is absent or masked."""
    try:
        value = detection[name]
    except (KeyError, ValueError, IndexError):
        return None
    return None if value is None or np.ma.is_masked(value) else value


def _sky_outside(frame: Frame, box: tuple[int, int, int, int]) -> tuple[float, float] | None:
    """(level, error) of the sky in the ring around a stamp; None if there is too little of it."""
    ny, nx = frame.data.shape
    y0, y1, x0, x1 = box
    reach = max(y1 - y0, x1 - x0)
    for factor in (1, 2):
        ya, yb = max(0, y0 - factor * reach), min(ny, y1 + factor * reach)
        xa, xb = max(0, x0 - factor * reach), min(nx, x1 + factor * reach)
        mask = frame.mask[ya:yb, xa:xb].copy()
        if frame.large is not None:
            mask |= frame.large[ya:yb, xa:xb] > 0
        mask[y0 - ya : y1 - ya, x0 - xa : x1 - xa] = True
        centre = ((x0 + x1 - 1) / 2 - xa, (y0 + y1 - 1) / 2 - ya)
        sky = sky_at(frame.data[ya:yb, xa:xb], mask, *centre)
        if sky.n_pixels >= 400:
            return sky.level, sky.level_err
    return None
