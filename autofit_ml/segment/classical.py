"""The classical segmenter: sep (SExtractor's algorithms) with checks that keep a galaxy whole.

Bertin & Arnouts 1996 (A&AS 117, 393), Barbary 2016 (JOSS 1, 58). Deblending alone breaks spiral
arms and noisy outskirts off a bright galaxy. So deblending is generous, and a piece that touches
the target stays separate only if it holds light that the target does not have at the same radius
and on the opposite side.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import sep
from scipy import ndimage

from autofit_ml.errors import InputError
from autofit_ml.images.stamp import PSF, Stamp
from autofit_ml.segment.segmentation import Segmentation
from autofit_ml.segment.shapes import Ellipse, ellipse_of_source, grow_neighbours, mirrored
from autofit_ml.segment.sky import measure_sky, mode_of_sky

__all__ = ["SepSettings", "absorb_fragments", "extract", "segment_given", "segment_sep"]


@dataclass(frozen=True)
class SepSettings:
    """How to detect, deblend and grow.

    Attributes
    ----------
    threshold : float
        Detection threshold, sigma per pixel after the matched filter.
    min_area : int
        Pixels.
    deblend_levels : int
        Levels between threshold and peak.
    deblend_contrast : float
        Smallest share of the light that makes a piece of its own.
    min_excess : float
        A piece that touches the target is a neighbour if at least this share of its light is in
        excess of the target's profile and mirror image ...
    min_excess_snr : float
        ... with at least this significance.
    grow_relative, grow_minimum : float
        Neighbours' masks grow by the larger of this share of their radius and this many pixels
        (the latter plus half of the PSF's FWHM).
    search_radius : float
        How far from the expected position the target may lie, pixels; at least the PSF's FWHM.
    """

    threshold: float = 1.5
    min_area: int = 5
    deblend_levels: int = 32
    deblend_contrast: float = 0.002
    min_excess: float = 0.35
    min_excess_snr: float = 7.0
    grow_relative: float = 0.4
    grow_minimum: float = 1.0
    search_radius: float = 6.0


def segment_sep(stamp: Stamp, settings: SepSettings | None = None) -> Segmentation:
    """Find the target and its neighbours in a stamp.

    Parameters
    ----------
    stamp : Stamp
        Any units; a sky pedestal may be left in.
    settings : SepSettings, optional

    Returns
    -------
    Segmentation
        ``target`` is 0 when nothing was detected near ``stamp.position``.

    Raises
    ------
    InputError
        The deblending overflows (very crowded or corrupt images).
    """
    settings = settings or SepSettings()
    good = ~stamp.mask
    if not good.any():
        empty = np.zeros(stamp.shape, dtype=np.int32)
        return Segmentation(empty, 0, empty.astype(bool), 0.0, float(np.median(stamp.sigma)))
    fwhm = _psf_fwhm(stamp.psf)
    unit = float(np.median(stamp.sigma[good]))
    data = np.ascontiguousarray(stamp.data, dtype=np.float32) / np.float32(unit)
    noise = np.ascontiguousarray(stamp.sigma, dtype=np.float32) / np.float32(unit)
    level, rms = mode_of_sky(data[good], 1.0)

    for attempt in range(2):
        # a noise map that is far too small would detect the noise
        widened = noise * np.float32(max(rms, 1.0)) if rms > 1.3 else noise
        image = data - np.float32(level)
        sources, labels = extract(image, widened, stamp.mask, fwhm, settings)
        target = _choose_target(sources, labels, stamp.position, max(settings.search_radius, fwhm))
        if target:
            labels = absorb_fragments(
                image, widened, labels, sources, target, good, settings
            )
        present = np.bincount(labels.ravel(), minlength=len(sources) + 1)
        ellipses = {
            label: ellipse_of_source(sources[label - 1], present[label])
            for label in range(1, len(sources) + 1)
            if present[label]
        }
        contaminants = grow_neighbours(
            labels,
            target,
            ellipses,
            relative=settings.grow_relative,
            minimum=settings.grow_minimum + 0.5 * fwhm,
        )
        new_level, new_rms = _sky_outside(data, good, labels, contaminants, ellipses.get(target))
        moved = abs(new_level - level) > 0.25 * new_rms if np.isfinite(new_level) else False
        if np.isfinite(new_level):
            level, rms = new_level, new_rms
        if not moved or attempt:
            break

    return Segmentation(
        labels=labels,
        target=target,
        contaminants=contaminants,
        sky_level=level * unit,
        sky_rms=rms * unit,
        blend_fraction=_blend_fraction(data - level, labels, target, ellipses),
        method="sep",
        classes=_classes(sources, present, stamp.psf, settings),
    )


def segment_given(stamp: Stamp) -> Segmentation:
    """The segmentation that came with the stamp.

    Parameters
    ----------
    stamp : Stamp
        With ``labels``. Without ``target_label`` the target is the label at the expected position.

    Returns
    -------
    Segmentation
        Neighbours' masks are not grown: what was given is believed.

    Raises
    ------
    InputError
        No labels, labels of another shape, or a target label that does not occur.
    """
    if stamp.labels is None:
        raise InputError(
            "no segmentation was given",
            "add a _seg plane, or let one be made with --segmenter sep",
            stamp.file or None,
        )
    labels = np.asarray(stamp.labels, dtype=np.int32)
    if labels.shape != stamp.shape:
        raise InputError(
            f"segmentation of shape {labels.shape} for an image of shape {stamp.shape}",
            "give both on the same pixels",
            stamp.file or None,
        )
    if stamp.target_label is None:
        x, y = stamp.position
        row = min(max(round(y), 0), labels.shape[0] - 1)
        column = min(max(round(x), 0), labels.shape[1] - 1)
        target = int(labels[row, column])
    else:
        target = int(stamp.target_label)
        if target and not np.any(labels == target):
            raise InputError(
                f"target label {target} does not occur in the segmentation",
                "correct the TARGET card of the _seg plane",
                stamp.file or None,
            )
    contaminants = (labels != 0) & (labels != target)
    good = ~stamp.mask
    unit = float(np.median(stamp.sigma[good])) if good.any() else 1.0
    data = stamp.data / unit
    ellipses = {}
    if target:
        ellipses[target] = _ellipse_of_footprint(labels == target)
    level, rms = _sky_outside(data, good, labels, contaminants, ellipses.get(target))
    if not np.isfinite(level):
        level, rms = mode_of_sky(data[good], 1.0) if good.any() else (0.0, 1.0)
    return Segmentation(
        labels=labels,
        target=target,
        contaminants=contaminants,
        sky_level=level * unit,
        sky_rms=rms * unit,
        blend_fraction=_blend_fraction(data - level, labels, target, ellipses),
        method="given",
    )


def extract(
    image: np.ndarray,
    noise: np.ndarray,
    mask: np.ndarray,
    fwhm: float,
    settings: SepSettings,
) -> tuple[np.ndarray, np.ndarray]:
    """sep.extract with a matched filter of the PSF's width.

    Parameters
    ----------
    image, noise : ndarray, float32, C-contiguous, shape (ny, nx)
        Sky subtracted; any scale.
    mask : ndarray, bool, shape (ny, nx)
    fwhm : float
        Of the filter, pixels (limited to 1.5 to 5).
    settings : SepSettings

    Returns
    -------
    sources : structured array, shape (k,)
        sep's catalogue; row i has label i + 1.
    labels : ndarray, int32, shape (ny, nx)

    Raises
    ------
    InputError
        sep's buffers overflow.
    """
    sigma = min(max(fwhm, 1.5), 5.0) / 2.3548
    half = max(int(np.ceil(1.8 * sigma)), 1)
    offset = np.arange(-half, half + 1)
    one = np.exp(-0.5 * (offset / sigma) ** 2)
    kernel = np.outer(one, one).astype(np.float32)
    pixels = sep.get_extract_pixstack()
    try:
        if image.size > pixels:
            sep.set_extract_pixstack(image.size)
        sources, labels = sep.extract(
            image,
            settings.threshold,
            err=noise,
            mask=np.ascontiguousarray(mask) if mask.any() else None,
            minarea=settings.min_area,
            filter_kernel=kernel,
            filter_type="matched",
            deblend_nthresh=settings.deblend_levels,
            deblend_cont=settings.deblend_contrast,
            clean=False,
            segmentation_map=True,
        )
    except Exception as error:  # sep raises bare Exception from its C code
        raise InputError(
            f"source detection failed: {error}", "mask artefacts or give a segmentation"
        ) from error
    finally:
        sep.set_extract_pixstack(pixels)
    return sources, labels


def absorb_fragments(
    image: np.ndarray,
    noise: np.ndarray,
    labels: np.ndarray,
    sources: np.ndarray,
    target: int,
    good: np.ndarray,
    settings: SepSettings,
) -> np.ndarray:
    """Give pieces of the target that deblending broke off back to it.

    The expected light of the target at a pixel is the larger of the median around its ellipse and
    the light at the opposite side of its centre. A piece connected with the target stays separate
    only if the excess over that is large and significant (`SepSettings`).

    Returns
    -------
    ndarray, int32, shape (ny, nx)
        Labels; absorbed ones no longer occur.
    """
    islands, _ = ndimage.label(labels > 0, structure=np.ones((3, 3)))
    ours = islands == islands[_peak_of(sources, target, labels)]
    pieces = np.unique(labels[ours])
    pieces = pieces[(pieces != target) & (pieces != 0)]
    if not pieces.size:
        return labels
    own = labels == target
    centre = sources[target - 1]
    x, y = float(centre["xcpeak"]), float(centre["ycpeak"])
    ellipse = ellipse_of_source(centre, own.sum())
    ellipse = Ellipse(x, y, ellipse.semi_major, max(ellipse.q, 0.3), ellipse.theta)
    # median light around the ellipse, from pixels that are nobody else's
    rows, columns = np.nonzero(ours | own)
    radius = ellipse.distance_map(image.shape)
    ring = np.minimum((8 * radius).astype(np.intp), 63)
    usable = own & good
    profile = ndimage.median(image, np.where(usable, ring, -1), np.arange(64))
    known = np.bincount(ring[usable], minlength=64) >= 3
    if not known.any():
        return labels
    profile = np.interp(np.arange(64), np.flatnonzero(known), profile[known], right=0.0)
    expected = profile[ring]
    mirror = mirrored(np.where(own & good, image, np.float32(0)), x, y)
    expected = np.maximum(expected, mirror)
    excess = np.where(good, image - expected, 0)
    light = np.where(good, image, 0)
    piece_excess = ndimage.sum(excess, labels, pieces)
    piece_light = ndimage.sum(light, labels, pieces)
    piece_noise = np.sqrt(ndimage.sum(noise.astype(float) ** 2, labels, pieces))
    separate = (piece_excess > settings.min_excess * piece_light) & (
        piece_excess > settings.min_excess_snr * piece_noise
    )
    absorbed = pieces[~separate]
    if not absorbed.size:
        return labels
    mapping = np.arange(len(sources) + 1, dtype=labels.dtype)
    mapping[absorbed] = target
    return mapping[labels]


def _peak_of(sources: np.ndarray, label: int, labels: np.ndarray) -> tuple[int, int]:
    """(row, column) of a pixel of `label`: its peak, or any where the peak lies elsewhere."""
    row, column = int(sources[label - 1]["ypeak"]), int(sources[label - 1]["xpeak"])
    if labels[row, column] != label:
        rows, columns = np.nonzero(labels == label)
        row, column = int(rows[0]), int(columns[0])
    return row, column


def _choose_target(
    sources: np.ndarray, labels: np.ndarray, position: tuple[float, float], search_radius: float
) -> int:
    """Label of the source at the position, else of the nearest within `search_radius`, else 0."""
    if not len(sources):
        return 0
    x, y = position
    row = min(max(round(y), 0), labels.shape[0] - 1)
    column = min(max(round(x), 0), labels.shape[1] - 1)
    here = int(labels[row, column])
    distance = np.hypot(sources["xcpeak"] - x, sources["ycpeak"] - y)
    near = np.flatnonzero(distance <= search_radius)
    if here:
        # a fainter source whose peak is much nearer than that of the one whose isophote we are in
        best = int(np.argmin(distance)) + 1
        nearer = distance[best - 1] < 2.0 and distance[here - 1] > 3 * max(distance[best - 1], 1.0)
        return best if nearer else here
    if near.size:
        return int(near[np.argmin(distance[near])]) + 1
    return 0


def _sky_outside(
    data: np.ndarray,
    good: np.ndarray,
    labels: np.ndarray,
    contaminants: np.ndarray,
    target: Ellipse | None,
) -> tuple[float, float]:
    """Level and scatter outside all objects and far from the target; NaN if there is no sky."""
    free = good & (labels == 0) & ~contaminants
    needed = max(40, int(0.03 * data.size))
    if target is not None:
        distance = target.distance_map(data.shape)
        for factor in (2.2, 1.7, 1.35):
            far = free & (distance > factor)
            if np.count_nonzero(far) >= needed:
                free = far
                break
        else:
            free = far
    if np.count_nonzero(free) < 40:
        return float("nan"), float("nan")
    return measure_sky(data[free])


def _blend_fraction(
    image: np.ndarray, labels: np.ndarray, target: int, ellipses: dict[int, Ellipse]
) -> float:
    """Excess light of neighbours inside the target's isophote over the target's light."""
    if not target:
        return 0.0
    own = labels == target
    others = (labels != 0) & ~own
    if not others.any():
        return 0.0
    ellipse = ellipses[target]
    inside = others & (ellipse.distance_map(image.shape) < 1)
    if not inside.any():
        return 0.0
    expected = mirrored(np.where(own, image, 0.0).astype(float), ellipse.x, ellipse.y)
    excess = float(np.sum(image[inside] - expected[inside]))
    light = float(np.sum(image[own]) + np.sum(expected[inside]))
    return max(excess, 0.0) / light if light > 0 else 0.0


def _classes(
    sources: np.ndarray, area: np.ndarray, psf: PSF, settings: SepSettings
) -> dict[int, str]:
    """Star or galaxy, for bright sources: does the isophote have the area a point source has?"""
    ordered = np.sort(psf.data, axis=None)[::-1]
    peak = float(ordered[0])
    classes = {}
    for label in range(1, len(sources) + 1):
        source = sources[label - 1]
        if not area[label] or not source["cpeak"] > 20 * source["thresh"] > 0:
            continue
        level = source["thresh"] / source["peak"] * peak
        expected = np.count_nonzero(ordered > level) / psf.oversampling**2
        classes[label] = "star" if area[label] < 1.35 * expected + 3 else "galaxy"
    return classes


def _psf_fwhm(psf: PSF) -> float:
    """FWHM from the area above half of the peak, image pixels."""
    area = np.count_nonzero(psf.data > 0.5 * psf.data.max()) / psf.oversampling**2
    return float(2 * np.sqrt(max(area, 1.0) / np.pi))


def _ellipse_of_footprint(footprint: np.ndarray) -> Ellipse:
    rows, columns = np.nonzero(footprint)
    x, y = columns.mean(), rows.mean()
    xx, yy = columns.var() + 1 / 12, rows.var() + 1 / 12
    xy = np.mean((columns - x) * (rows - y))
    half = np.hypot((xx - yy) / 2, xy)
    mean = (xx + yy) / 2
    q = float(np.sqrt(max(mean - half, 0.02 * mean) / (mean + half)))
    return Ellipse(
        x=float(x),
        y=float(y),
        semi_major=float(np.sqrt(rows.size / (np.pi * q))),
        q=q,
        theta=float(0.5 * np.arctan2(2 * xy, xx - yy)),
    )
