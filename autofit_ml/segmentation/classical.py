"""The classical segmenter: sep (SExtractor's algorithms) with checks that keep a galaxy whole.

Bertin & Arnouts 1996 (A&AS 117, 393), Barbary 2016 (JOSS 1, 58). Deblending alone breaks spiral
arms and noisy outskirts off a bright galaxy. So deblending is generous, and a piece that touches
the target stays separate only if it holds light that the target does not have at the same radius
and on the opposite side.
"""

import dataclasses
from dataclasses import dataclass

import numpy as np
import sep
from scipy import ndimage

from autofit_ml.errors import InputError
from autofit_ml.images.stamp import PSF, Stamp
from autofit_ml.measure import mode_of_sky
from autofit_ml.segmentation.repair import repaired
from autofit_ml.segmentation.result import Segmentation, finished, typical
from autofit_ml.segmentation.shapes import (
    Ellipse,
    ellipse_of_source,
    expected_light,
    pixel_at,
)

__all__ = [
    "SepSettings",
    "absorb_fragments",
    "drop_noise",
    "extract",
    "segment_sep",
    "split_hidden",
]


@dataclass(frozen=True)
class SepSettings:
    """Settings of detection, deblending and growing.

    Attributes
    ----------
    threshold : float
        Detection threshold in sigma of the matched-filtered image (3 is about 0.7 sigma per
        pixel of the image itself in seeing of 3 pixels).
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
    min_island_snr : float
        The same for a detection that does not touch the target; fainter ones are dropped.
    grow_relative, grow_minimum : float
        Neighbours' masks grow by the larger of this share of their radius and this many pixels
        (the latter plus half of the PSF's FWHM).
    search_radius : float
        How far from the expected position the target may lie, pixels; at least the PSF's FWHM.
    """

    threshold: float = 3.0
    min_area: int = 5
    deblend_levels: int = 32
    deblend_contrast: float = 0.0002
    min_excess: float = 0.45
    min_excess_snr: float = 7.0
    min_island_snr: float = 5.0
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
    unit = typical(stamp.sigma[good])
    data = np.ascontiguousarray(stamp.data, dtype=np.float32) / np.float32(unit)
    noise = np.ascontiguousarray(stamp.sigma, dtype=np.float32) / np.float32(unit)
    level, rms = mode_of_sky(data[good], 1.0)
    widened = noise * np.float32(filtered_noise_ratio(data, good, level, rms, fwhm))
    grow = (settings.grow_relative, settings.grow_minimum + 0.5 * fwhm)

    for _ in range(2):
        image = data - np.float32(level)
        sources, labels = extract(image, widened, stamp.mask, fwhm, settings)
        target = _choose_target(sources, labels, stamp.position, max(settings.search_radius, fwhm))
        labels = drop_noise(image, widened, labels, len(sources), target, settings)
        if target:
            _recentre(sources, target, image, labels, stamp.position, fwhm)
            labels = absorb_fragments(image, widened, labels, sources, target, good, settings)
            labels, sources = split_hidden(
                image, widened, labels, sources, target, good, fwhm, settings
            )
            own = labels == target
            labels = repaired(labels, image, widened, stamp.mask, stamp.position, fragments=False)
            target = int(labels[own].max(initial=0))
        area = np.bincount(labels.ravel(), minlength=len(sources) + 1)
        ellipses = {
            int(label): ellipse_of_source(sources[label - 1], area[label])
            for label in np.flatnonzero(area[1:]) + 1
        }
        classes = _classes(sources, area, stamp.psf, fwhm)
        sky = level * unit, rms * unit
        result = finished(stamp, labels, target, sky, ellipses, grow, classes=classes)
        if abs(result.sky_level - sky[0]) <= 0.35 * result.sky_rms:
            break
        level, rms = result.sky_level / unit, result.sky_rms / unit
    return result


def extract(
    image: np.ndarray,
    noise: np.ndarray,
    mask: np.ndarray,
    fwhm: float,
    settings: SepSettings,
) -> tuple[np.ndarray, np.ndarray]:
    """sep.extract, smoothed with a Gaussian of the PSF's width.

    The threshold is relative to the noise of the smoothed image. (sep's own "matched" filter does
    that too, but then deblends worse: stars on a galaxy's outskirts are not separated.)

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
    sigma = _filter_sigma(fwhm)
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
            settings.threshold / np.sqrt(4 * np.pi * sigma**2 + 1),
            err=noise,
            mask=np.ascontiguousarray(mask) if mask.any() else None,
            minarea=settings.min_area,
            filter_kernel=kernel,
            filter_type="conv",
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
    the light at the opposite side of its centre. A piece within three isophotal radii stays
    separate only if its excess over that is large and significant (`SepSettings`). Others join
    the target where they touch it and are forgotten (label 0) where they do not: noise peaks on
    its faint outskirts.

    Parameters
    ----------
    image, noise : ndarray, float32, shape (ny, nx)
        Sky subtracted, and its noise.
    labels, sources
        As from `extract`.
    target : int
        Label whose fragments to look for.
    good : ndarray, bool, shape (ny, nx)
    settings : SepSettings

    Returns
    -------
    ndarray, int32, shape (ny, nx)
        Labels; absorbed ones no longer occur.
    """
    present = np.bincount(labels.ravel(), minlength=len(sources) + 1)
    own = labels == target
    ellipse = _symmetry_of(sources[target - 1], present[target])
    pieces = np.flatnonzero(present)
    pieces = pieces[(pieces != target) & (pieces != 0)]
    where = sources[pieces - 1]
    pieces = pieces[ellipse.distance(where["xcpeak"], where["ycpeak"]) < 3]
    if not pieces.size:
        return labels
    member = np.isin(labels, pieces) & good
    free = (own | (labels == 0)) & good
    index = labels[member]
    light = image[member]
    excess = light - expected_light(image, free, member, ellipse)
    size = len(sources) + 1
    piece_excess = np.bincount(index, excess, size)[pieces]
    piece_light = np.bincount(index, light, size)[pieces]
    piece_noise = np.sqrt(np.bincount(index, noise[member].astype(float) ** 2, size)[pieces])
    islands, _ = ndimage.label(labels > 0, structure=np.ones((3, 3)))
    home = np.bincount(islands[own]).argmax()
    touching = np.isin(pieces, np.unique(labels[islands == home]))
    needed_snr = np.where(touching, settings.min_excess_snr, settings.min_island_snr)
    separate = (piece_excess > settings.min_excess * piece_light) & (
        piece_excess > needed_snr * piece_noise
    )
    absorbed = pieces[~separate]
    if not absorbed.size:
        return labels
    mapping = np.arange(size, dtype=labels.dtype)
    mapping[absorbed] = target
    merged = mapping[labels]
    islands, _ = ndimage.label(merged == target, structure=np.ones((3, 3)))
    home = np.bincount(islands[own]).argmax()
    merged[(merged == target) & (islands != home)] = 0
    return merged


def split_hidden(
    image: np.ndarray,
    noise: np.ndarray,
    labels: np.ndarray,
    sources: np.ndarray,
    target: int,
    good: np.ndarray,
    fwhm: float,
    settings: SepSettings,
) -> tuple[np.ndarray, np.ndarray]:
    """Take neighbours that deblending missed out of the target's footprint.

    What is in excess of the target's own symmetric light (see `absorb_fragments`) is searched for
    sources; one that is significant, dominates its pixels and is no smaller than the PSF
    (`fwhm`, pixels) gets a label of its own.

    Returns
    -------
    labels : ndarray, int32, shape (ny, nx)
    sources : structured array
        With rows added for new labels.
    """
    own = (labels == target) & good
    if np.count_nonzero(own) < 4 * settings.min_area:
        return labels, sources
    ellipse = _symmetry_of(sources[target - 1], int(np.count_nonzero(own)))
    free = (own | (labels == 0)) & good
    excess = image[own] - expected_light(image, free, own, ellipse)
    # cheap look: pixels that are mostly excess and stand out, if together they could be a source
    candidate = (excess > 0.4 * image[own]) & (excess > 2 * noise[own])
    significance = 1.5 * settings.min_excess_snr
    limit = significance * np.sqrt(2 * np.sum(noise[own][candidate] ** 2))
    if not np.sum(excess[candidate]) > limit or np.count_nonzero(candidate) < settings.min_area:
        return labels, sources
    residual = np.zeros_like(image)
    residual[own] = np.where(candidate, excess, 0)
    # the mirror image is as noisy as the image
    strict = dataclasses.replace(settings, threshold=6.0, deblend_contrast=0.01)
    found, new = extract(residual, noise * np.float32(1.4142), ~own, 1.5, strict)
    size = len(found) + 1
    signal = np.bincount(new.ravel(), residual.ravel(), size)
    variance = np.bincount(new.ravel(), 2 * (noise * noise).ravel(), size)
    light = np.bincount(new.ravel(), np.where(own, image, 0).ravel(), size)
    area = np.bincount(new.ravel(), minlength=size)
    real = (signal > significance * np.sqrt(variance)) & (signal > 0.5 * light)
    real &= area >= max(settings.min_area, fwhm**2)
    real[0] = False
    if not real.any():
        return labels, sources
    mapping = np.zeros(size, dtype=labels.dtype)
    mapping[real] = len(sources) + 1 + np.arange(np.count_nonzero(real))
    labels = np.where(real[new] & own, mapping[new], labels)
    return labels, np.concatenate([sources, found[real[1:]]])


def _symmetry_of(source: np.void, area: float) -> Ellipse:
    """The ellipse about a source's peak by which its light is expected to be symmetric."""
    ellipse = ellipse_of_source(source, area)
    return dataclasses.replace(
        ellipse, x=float(source["xcpeak"]), y=float(source["ycpeak"]), q=max(ellipse.q, 0.3)
    )


def _choose_target(
    sources: np.ndarray, labels: np.ndarray, position: tuple[float, float], search_radius: float
) -> int:
    """Label of the source at the position, else of the nearest within `search_radius`, else 0."""
    if not len(sources):
        return 0
    here = pixel_at(labels, position)
    distance = np.hypot(sources["xcpeak"] - position[0], sources["ycpeak"] - position[1])
    best = int(np.argmin(distance)) + 1
    nearest = float(distance[best - 1])
    if not here:
        return best if nearest <= search_radius else 0
    # a fainter source whose peak is much nearer than that of the one whose isophote we are in
    return best if nearest < 2.0 and distance[here - 1] > 3 * max(nearest, 1.0) else here


def drop_noise(
    image: np.ndarray,
    noise: np.ndarray,
    labels: np.ndarray,
    count: int,
    target: int,
    settings: SepSettings,
) -> np.ndarray:
    """Labels without detections fainter than ``min_island_snr``; the target always stays."""
    if not count:
        return labels
    inside = labels > 0
    index = labels[inside]
    signal = np.bincount(index, image[inside], count + 1)
    variance = np.bincount(index, noise[inside].astype(float) ** 2, count + 1)
    keep = signal > settings.min_island_snr * np.sqrt(variance)
    keep[target] = True
    if keep[1:].all():
        return labels
    return np.where(keep, np.arange(count + 1), 0).astype(labels.dtype)[labels]


def _recentre(
    sources: np.ndarray,
    target: int,
    image: np.ndarray,
    labels: np.ndarray,
    position: tuple[float, float],
    fwhm: float,
) -> None:
    """Move the target's peak to one at the expected position if a brighter one was taken.

    Happens where target and neighbour were not deblended. `sources` is changed in place.
    """
    x, y = position
    if np.hypot(sources["xcpeak"][target - 1] - x, sources["ycpeak"][target - 1] - y) <= fwhm:
        return
    reach = max(round(0.7 * fwhm), 1)
    row, column = round(y), round(x)
    top, left = max(row - reach - 1, 0), max(column - reach - 1, 0)
    window = ndimage.gaussian_filter(image[top : row + reach + 2, left : column + reach + 2], 0.8)
    if min(window.shape) < 3:
        return
    inner = window[1:-1, 1:-1]
    brightest = np.unravel_index(np.argmax(inner), inner.shape)
    peak_row, peak_column = int(brightest[0]) + top + 1, int(brightest[1]) + left + 1
    # a peak, not the flank of one: nothing brighter on the window's rim
    rim = max(window[0].max(), window[-1].max(), window[:, 0].max(), window[:, -1].max())
    if labels[peak_row, peak_column] == target and inner[brightest] > rim:
        for name, value in (("xcpeak", peak_column), ("ycpeak", peak_row)):
            sources[name][target - 1] = value


def _classes(sources: np.ndarray, area: np.ndarray, psf: PSF, fwhm: float) -> dict[int, str]:
    """Star or galaxy, for bright sources: does the isophote have the area a point source has?"""
    bright = np.flatnonzero(
        (area[1:] > 0) & (sources["thresh"] > 0) & (sources["cpeak"] > 20 * sources["thresh"])
    )
    if not bright.size:
        return {}
    # isophotes are those of the smoothed image
    sigma = _filter_sigma(fwhm) * psf.oversampling
    smooth = ndimage.gaussian_filter(np.pad(psf.data, int(np.ceil(3 * sigma))), sigma)
    ordered = np.sort(smooth, axis=None)
    level = sources["thresh"][bright] / sources["cpeak"][bright] * ordered[-1]
    expected = (ordered.size - np.searchsorted(ordered, level)) / psf.oversampling**2
    return {
        int(index) + 1: "star" if area[index + 1] < 1.35 * size + 3 else "galaxy"
        for index, size in zip(bright, expected, strict=True)
    }


def _filter_sigma(fwhm: float) -> float:
    return min(max(fwhm, 1.5), 5.0) / 2.3548


def filtered_noise_ratio(
    data: np.ndarray, good: np.ndarray, level: float, rms: float, fwhm: float
) -> float:
    """Noise of the filtered sky over what white noise of the given size would leave, 0.7 to 4.

    Above 1 where the noise map is too small or the noise is correlated (drizzled images): there a
    matched filter would detect the noise.
    """
    sigma = _filter_sigma(fwhm)
    filtered = ndimage.gaussian_filter(np.where(good, data - np.float32(level), 0), sigma)
    expected = 1 / np.sqrt(4 * np.pi * sigma**2 + 1)
    _, measured = mode_of_sky(filtered[good], 1.5 * expected * max(rms, 0.7))
    return float(np.clip(measured / expected, 0.7, 4.0))


def _psf_fwhm(psf: PSF) -> float:
    """FWHM in whole pixels above half of the peak: what the thresholds below were tuned with."""
    area = np.count_nonzero(psf.data > 0.5 * psf.data.max()) / psf.oversampling**2
    return float(2 * np.sqrt(max(area, 1.0) / np.pi))
