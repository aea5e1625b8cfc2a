"""Sources of a large frame."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import sep
from scipy import ndimage

from autofit_ml.errors import InputError
from autofit_ml.images.stamp import Frame
from autofit_ml.segmentation.classical import (
    SepSettings,
    absorb_fragments,
    extract,
    filtered_noise_ratio,
    split_hidden,
)

__all__ = ["Detections", "detect_sources", "detection_table"]

_LARGE = 150
"""Pixels: footprints from here on are searched for neighbours that deblending missed."""

_COLUMNS = [
    ("label", np.int32),
    ("x", float),
    ("y", float),
    ("a", float),
    ("b", float),
    ("theta", float),
    ("flux", float),
    ("radius", float),
    ("snr", float),
]


@dataclass(frozen=True)
class Detections:
    """What `detect_sources` found.

    Attributes
    ----------
    sources : structured array, shape (k,)
        ``label``; ``x, y`` 0-based pixels; ``a, b`` rms semi-axes (pixels) and ``theta`` (radians
        counter-clockwise from +x) of the isophote; ``flux`` inside the isophote, image units;
        ``radius`` of the circle with the isophote's area, pixels; ``snr`` of that flux, at least 5.
    labels : ndarray, int32, shape (ny, nx)
        0 = sky.
    background, background_rms : ndarray, float32, shape (ny, nx)
        Image units.
    classes : dict
        label -> "galaxy" or "star", where known.
    method : str
        "sep" or "maskrcnn".
    """

    sources: np.ndarray
    labels: np.ndarray
    background: np.ndarray
    background_rms: np.ndarray
    classes: dict[int, str] = field(default_factory=dict)
    method: str = "sep"


def detect_sources(
    frame: Frame | np.ndarray,
    sigma: np.ndarray | None = None,
    mask: np.ndarray | None = None,
    *,
    fwhm: float = 3.0,
    box: int = 64,
    settings: SepSettings | None = None,
) -> Detections:
    """Detect and deblend the sources of a frame.

    The background is measured twice with ``sep.Background``: of everything, then without the
    sources found above the first.

    Parameters
    ----------
    frame : Frame or ndarray, shape (ny, nx)
        Image units.
    sigma, mask : ndarray, shape (ny, nx), optional
        Noise and bad pixels when `frame` is an array. Without noise the background's is used.
    fwhm : float
        Of the seeing, pixels: width of the matched filter.
    box : int
        Background mesh, pixels; several times larger than the galaxies of interest.
    settings : SepSettings, optional

    Returns
    -------
    Detections

    Raises
    ------
    InputError
        Shapes differ, every pixel is masked, or sep's buffers overflow.
    """
    file = None
    if isinstance(frame, Frame):
        data, sigma, mask, file = frame.data, frame.sigma, frame.mask, frame.file or None
    else:
        data = frame
    settings = settings or SepSettings(deblend_levels=64)
    values = np.asarray(data, dtype=float)
    bad = ~np.isfinite(values)
    if mask is not None:
        bad |= np.asarray(mask, dtype=bool)
    if bad.all():
        raise InputError("every pixel is masked", "check the mask or DQ plane", file)
    for name, plane in (("noise", sigma), ("mask", mask)):
        if plane is not None and np.shape(plane) != values.shape:
            raise InputError(
                f"{name} of shape {np.shape(plane)} for an image of shape {values.shape}",
                "give both on the same pixels",
                file,
            )
    # scale inside: values may be 1e-10
    unit = float(np.std(values[~bad])) or 1.0
    image = np.ascontiguousarray(np.where(bad, 0, values) / unit, dtype=np.float32)
    mesh = max(16, min(box, *image.shape))
    background = sep.Background(image, mask=bad, bw=mesh, bh=mesh)
    labels = np.zeros(image.shape, dtype=np.int32)
    for attempt in range(2):
        if attempt:
            covered = np.ascontiguousarray(bad | (labels > 0))
            if covered.all():
                break
            background = sep.Background(image, mask=covered, bw=mesh, bh=mesh)
        flat = image - background.back()
        if sigma is None:
            noise = np.maximum(background.rms(), np.float32(1e-12))
        else:
            noise = np.ascontiguousarray(np.asarray(sigma, dtype=float) / unit, dtype=np.float32)
        # correlated noise, or a noise map that is too small: raise the threshold
        ratio = filtered_noise_ratio(flat / noise, ~bad, 0.0, 1.0, fwhm)
        noise = noise * np.float32(ratio)
        sources, labels = extract(flat, noise, bad, fwhm, settings)
    labels, sources = _check_deblending(flat, noise, labels, sources, ~bad, fwhm, settings)
    table = _table(flat, noise, labels, sources, unit)
    # what remains of the noise
    faint = table["label"][table["snr"] < settings.min_island_snr]
    if faint.size:
        labels = np.where(np.isin(labels, faint), 0, labels)
        table = table[table["snr"] >= settings.min_island_snr]
    return Detections(
        sources=table,
        labels=labels,
        background=background.back() * np.float32(unit),
        background_rms=background.rms() * np.float32(unit),
    )


def _check_deblending(image, noise, labels, sources, good, fwhm, settings):
    """Undo over- and under-deblending in each island, brightest source first."""
    islands, _ = ndimage.label(labels > 0, structure=np.ones((3, 3)))
    added: list[np.ndarray] = []
    total = len(sources)
    for island, window in enumerate(ndimage.find_objects(islands), start=1):
        inside = islands[window] == island
        part = np.where(inside, labels[window], 0)
        present = np.unique(part[inside])
        if present.size == 1 and np.count_nonzero(inside) < _LARGE:
            continue
        # a catalogue of this island alone: rows 1..k, positions in the window
        local = sources[present - 1].copy()
        _shift(local, -window[1].start, -window[0].start)
        part = np.where(inside, np.searchsorted(present, part) + 1, 0).astype(np.int32)
        planes = image[window], noise[window]
        for main in np.argsort(-local["flux"]) + 1:
            if not np.any(part == main):
                continue
            part = absorb_fragments(*planes, part, local, int(main), good[window], settings)
            if np.count_nonzero(part == main) >= _LARGE:
                part, local = split_hidden(
                    *planes, part, local, int(main), good[window], fwhm, settings
                )
        new = local[present.size :].copy()
        _shift(new, window[1].start, window[0].start)
        numbers = np.concatenate([[0], present, total + 1 + np.arange(len(new))])
        labels[window] = np.where(inside, numbers[part], labels[window])
        added.append(new)
        total += len(new)
    return labels, np.concatenate([sources, *added])


def _shift(sources: np.ndarray, dx: int, dy: int) -> None:
    """Move a catalogue's positions, in place."""
    for axis, offset in (("x", dx), ("y", dy)):
        for name in (axis, f"{axis}cpeak", f"{axis}peak"):
            sources[name] += offset


def _table(image, noise, labels, sources, unit) -> np.ndarray:
    area = np.bincount(labels.ravel(), minlength=len(sources) + 1)[1:]
    flux = np.bincount(labels.ravel(), image.ravel(), len(sources) + 1)[1:]
    variance = np.bincount(labels.ravel(), (noise.astype(float) ** 2).ravel(), len(sources) + 1)[1:]
    kept = np.flatnonzero(area)
    table = np.zeros(kept.size, dtype=_COLUMNS)
    table["label"] = kept + 1
    for name in ("x", "y", "a", "b", "theta"):
        table[name] = sources[name][kept]
    table["flux"] = flux[kept] * unit
    table["radius"] = np.sqrt(area[kept] / np.pi)
    table["snr"] = flux[kept] / np.sqrt(variance[kept])
    return table


def detection_table(
    flat: np.ndarray, noise: np.ndarray, labels: np.ndarray, unit: float
) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """Measure labelled objects, and number them by position.

    Parameters
    ----------
    flat, noise : ndarray, shape (ny, nx)
        Sky subtracted, and its noise; in units of `unit`.
    labels : ndarray, int32, shape (ny, nx)
    unit : float
        Image units.

    Returns
    -------
    sources : structured array
        As in `Detections`; positions are light-weighted centroids.
    labels : ndarray, int32, shape (ny, nx)
        Numbered 1, 2, ... by the rows and columns of the centroids.
    order : list of int
        The given label of each.
    """
    rows: list[tuple[float, ...]] = []
    given: list[int] = []
    for k, window in enumerate(ndimage.find_objects(labels), start=1):
        if window is None:
            continue
        mask = labels[window] == k
        light = flat[window][mask].astype(float)
        y, x = (axis + part.start for axis, part in zip(np.nonzero(mask), window, strict=True))
        weight = np.maximum(light, 0)
        if not weight.sum() > 0:
            weight = np.ones_like(light)
        cy, cx = np.average(y, weights=weight), np.average(x, weights=weight)
        dy, dx = y - cy, x - cx
        yy, xx, xy = (np.average(p, weights=weight) for p in (dy * dy, dx * dx, dx * dy))
        half = np.hypot((xx - yy) / 2, xy)
        mean = (xx + yy) / 2 + 1 / 12
        flux = float(light.sum())
        scatter = float(np.sqrt(np.sum(np.square(noise[window][mask], dtype=float))))
        rows.append(
            (
                cx,
                cy,
                np.sqrt(mean + half),
                np.sqrt(max(mean - half, 1 / 12)),
                0.5 * np.arctan2(2 * xy, xx - yy),
                flux * unit,
                np.sqrt(np.count_nonzero(mask) / np.pi),
                flux / scatter if scatter > 0 else 0.0,
            )
        )
        given.append(k)
    order = sorted(range(len(rows)), key=lambda i: (round(rows[i][1]), rows[i][0]))
    table = np.zeros(len(rows), dtype=_COLUMNS)
    mapping = np.zeros(int(labels.max(initial=0)) + 1, dtype=np.int32)
    for new, i in enumerate(order, start=1):
        table[new - 1] = (new, *rows[i])
        mapping[given[i]] = new
    return table, mapping[labels], [given[i] for i in order]
