"""Sources of a large frame; label images as tables of their instances."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import astropy.units as u
import numpy as np
import sep
from astropy.table import QTable
from scipy import ndimage

from autofit_ml.errors import InputError
from autofit_ml.images.stamp import Frame
from autofit_ml.measure import block_sums, clipped_sky, large_objects
from autofit_ml.segmentation.classical import (
    SepSettings,
    absorb_fragments,
    drop_noise,
    extract,
    filtered_noise_ratio,
    split_hidden,
)
from autofit_ml.segmentation.fragments import join_fragments
from autofit_ml.segmentation.pieces import Piece, at_all_scales, draw, pieces_of
from autofit_ml.segmentation.shapes import moments_of_labels

__all__ = [
    "Detections",
    "background_of",
    "detect_sources",
    "detection_table",
    "instance_table",
    "scaled",
]

_NUMBERS = ("x", "y", "a", "b", "theta", "flux", "radius", "snr")

_LARGE = 150
"""Pixels: footprints from here on are searched for neighbours that deblending missed."""


@dataclass(frozen=True)
class Detections:
    """Result of `detect_sources`.

    Attributes
    ----------
    sources : structured array, shape (k,)
        ``label``; ``x, y`` 0-based pixels; ``a, b`` rms semi-axes (pixels) and ``theta`` (radians
        counter-clockwise from +x) of the isophote; ``flux`` inside the isophote, image units;
        ``radius`` of the circle with the isophote's area, pixels; ``snr`` of that flux, at least 5.
    labels : ndarray, int32, shape (ny, nx)
        0 = sky.
    background : ndarray, float32, shape (ny, nx)
        Image units.
    classes : dict
        label -> "galaxy" or "star", where known.
    method : str
        "sep" or "maskrcnn".
    """

    sources: np.ndarray
    labels: np.ndarray
    background: np.ndarray
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
    sources found above the first. Large galaxies are found in binned images (`pieces`).

    Parameters
    ----------
    frame : Frame or ndarray, shape (ny, nx)
        Image units.
    sigma, mask : ndarray, shape (ny, nx), optional
        Noise and bad pixels when `frame` is an array. Without noise the background's is used.
    fwhm : float
        Of the seeing, pixels: width of the matched filter.
    box : int
        Background mesh, pixels; larger where an object is.
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
    for name, plane in (("noise", sigma), ("mask", mask)):
        if plane is not None and np.shape(plane) != np.shape(data):
            raise InputError(
                f"{name} of shape {np.shape(plane)} for an image of shape {np.shape(data)}",
                "give both on the same pixels",
                file,
            )
    image, bad, unit = scaled(data, mask, file)
    large, box = large_objects(image, bad, box)
    covered = bad | large
    for _ in range(2):
        level, rms = background_of(image, covered, box)
        flat = image - level
        if sigma is None:
            noise = np.maximum(rms, np.float32(1e-12))
        else:
            noise = np.ascontiguousarray(np.asarray(sigma, dtype=float) / unit, dtype=np.float32)
        # correlated noise, or a noise map that is too small: raise the threshold
        noise = noise * np.float32(filtered_noise_ratio(flat / noise, ~bad, 0.0, 1.0, fwhm))
        found = extract(flat, noise, bad, fwhm, settings)
        covered = covered | (found[1] > 0)
        if covered.all():
            break

    def find(image: np.ndarray, noise: np.ndarray, bad: np.ndarray, fwhm: float) -> list[Piece]:
        first = found if image is flat else extract(image, noise, bad, fwhm, settings)
        return _pieces(first, image, noise, bad, fwhm, settings)

    pieces = at_all_scales(find, flat, noise, bad, fwhm)
    labels = join_fragments(draw(pieces, image.shape), flat, noise, bad)
    table, labels, _ = detection_table(flat, noise, labels, unit)
    return Detections(
        sources=table,
        labels=labels,
        background=level * np.float32(unit),
    )


def _pieces(
    found: tuple[np.ndarray, np.ndarray],
    image: np.ndarray,
    noise: np.ndarray,
    bad: np.ndarray,
    fwhm: float,
    settings: SepSettings,
) -> list[Piece]:
    """Pieces of what `extract` found in an image, deblending checked, remains of noise left out."""
    sources, labels = found
    labels, sources = _check_deblending(image, noise, labels, sources, ~bad, fwhm, settings)
    labels = drop_noise(image, noise, labels, len(sources), 0, settings)
    nothing = np.zeros(len(sources))
    return list(pieces_of(labels, nothing, nothing))


def scaled(
    data: np.ndarray, mask: np.ndarray | None, file: str | None
) -> tuple[np.ndarray, np.ndarray, float]:
    """Image of scatter 1 (float32) with bad pixels 0, these, and its unit: values may be 1e-10."""
    data = np.asarray(data)
    bad = ~np.isfinite(data)
    if mask is not None:
        bad |= np.asarray(mask, dtype=bool)
    if bad.all():
        raise InputError("every pixel is masked", "check the mask or DQ plane", file)
    values = data[~bad]
    unit = float(np.std(values[:: max(values.size // 1_000_000, 1)], dtype=float)) or 1.0
    return np.ascontiguousarray(np.where(bad, 0, data) / unit, dtype=np.float32), bad, unit


def background_of(image: np.ndarray, bad: np.ndarray, box: int) -> tuple[np.ndarray, np.ndarray]:
    """Level and scatter of the sky, float32: on a mesh of `box` pixels, or of what fits in.

    Where no box of the mesh has half of its pixels, one level for all.
    """
    mesh = max(16, min(box, *image.shape))
    if 2 * block_sums(~bad, mesh).max(initial=0) <= mesh**2:
        sky = clipped_sky(image[~bad])
        return np.full(image.shape, sky[0], np.float32), np.full(image.shape, sky[1], np.float32)
    found = sep.Background(image, mask=np.ascontiguousarray(bad), bw=mesh, bh=mesh)
    return found.back(), found.rms()


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


def measured_instances(image: np.ndarray, noise: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Measure every instance on its own pixels.

    Parameters
    ----------
    image, noise : ndarray, shape (ny, nx)
        Sky subtracted, and its noise.
    labels : ndarray of int, shape (ny, nx)
        0 = sky.

    Returns
    -------
    structured array
        As `Detections.sources`, by label; positions are light-weighted centroids.
    """
    inside = labels > 0
    label = labels[inside]
    present, area, x, y, major2, minor2, theta = moments_of_labels(labels, image)
    flux = np.bincount(label, image[inside])[present]
    scatter = np.sqrt(np.bincount(label, np.square(noise[inside], dtype=float))[present])
    table = np.zeros(
        len(present), dtype=[("label", np.int32), *((name, float) for name in _NUMBERS)]
    )
    table["label"] = present
    table["x"], table["y"], table["theta"] = x, y, theta
    table["a"], table["b"] = np.sqrt(major2), np.sqrt(np.maximum(minor2, 1 / 12))
    table["flux"], table["radius"] = flux, np.sqrt(area / np.pi)
    table["snr"] = np.divide(flux, scatter, out=np.zeros(len(flux)), where=scatter > 0)
    return table


def detection_table(
    flat: np.ndarray, noise: np.ndarray, labels: np.ndarray, unit: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
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
    given : ndarray of int
        The given label of each.
    """
    table = measured_instances(flat, noise, labels)
    table = table[np.lexsort((table["x"], np.rint(table["y"])))]
    given = table["label"].copy()
    table["label"] = np.arange(1, len(table) + 1)
    table["flux"] *= unit
    mapping = np.zeros(int(labels.max(initial=0)) + 1, dtype=np.int32)
    mapping[given] = table["label"]
    return table, mapping[labels], given


def instance_table(
    data: np.ndarray,
    sigma: np.ndarray,
    labels: np.ndarray,
    classes: Mapping[int, str] | None = None,
    target: int | None = None,
) -> QTable:
    """Instances of a stamp as a table with units.

    Parameters
    ----------
    data, sigma : ndarray, shape (ny, nx)
        Sky-subtracted image and its noise, image units.
    labels : ndarray of int, shape (ny, nx)
        0 = sky.
    classes : mapping, optional
        label -> "galaxy" or "star".
    target : int, optional
        Label of the target.

    Returns
    -------
    astropy.table.QTable
        ``label``; ``object_class`` (empty if unknown); ``target``; ``x, y`` light-weighted
        centroid, 0-based pixels; ``n_pixels``; ``flux`` inside the instance, image units; ``snr``
        of that flux.
    """
    found, classes = measured_instances(data, sigma, labels), classes or {}
    table = QTable({"label": found["label"]})
    table["object_class"] = np.array([classes.get(int(k), "") for k in found["label"]], dtype=str)
    table["target"] = found["label"] == (target or -1)
    table["x"], table["y"] = found["x"] * u.pix, found["y"] * u.pix
    table["n_pixels"] = np.bincount(labels.ravel())[found["label"]].astype(np.int32)
    table["flux"], table["snr"] = found["flux"], found["snr"]
    return table
