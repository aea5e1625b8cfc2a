"""Sources of a large frame."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import sep

from autofit_ml.errors import InputError
from autofit_ml.images.stamp import Frame
from autofit_ml.segment.classical import SepSettings, absorb_fragments, extract

__all__ = ["Detections", "detect_sources"]

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
        ``radius`` of the circle with the isophote's area, pixels; ``snr`` of that flux.
    labels : ndarray, int32, shape (ny, nx)
        0 = sky.
    background, background_rms : ndarray, float32, shape (ny, nx)
        Image units.
    """

    sources: np.ndarray
    labels: np.ndarray
    background: np.ndarray
    background_rms: np.ndarray


def detect_sources(
    data: Frame | np.ndarray,
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
    data : Frame or ndarray, shape (ny, nx)
        Image units.
    sigma, mask : ndarray, shape (ny, nx), optional
        Noise and bad pixels when `data` is an array. Without noise the background's is used.
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
    if isinstance(data, Frame):
        data, sigma, mask, file = data.data, data.sigma, data.mask, data.file or None
    settings = settings or SepSettings()
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
    sources, labels = _detect(image, background, sigma, bad, unit, fwhm, settings)
    covered = np.ascontiguousarray(bad | (labels > 0))
    if not covered.all():
        background = sep.Background(image, mask=covered, bw=mesh, bh=mesh)
        sources, labels = _detect(image, background, sigma, bad, unit, fwhm, settings)
    noise = _noise(background, sigma, unit)
    labels = _absorb_all(image - background.back(), noise, labels, sources, bad, settings)
    return Detections(
        sources=_table(image - background.back(), noise, labels, sources, unit),
        labels=labels,
        background=background.back() * np.float32(unit),
        background_rms=background.rms() * np.float32(unit),
    )


def _noise(background, sigma, unit) -> np.ndarray:
    if sigma is None:
        return np.maximum(background.rms(), np.float32(1e-12))
    return np.ascontiguousarray(np.asarray(sigma, dtype=float) / unit, dtype=np.float32)


def _detect(image, background, sigma, bad, unit, fwhm, settings):
    noise = _noise(background, sigma, unit)
    return extract(image - background.back(), noise, bad, fwhm, settings)


def _absorb_all(image, noise, labels, sources, bad, settings) -> np.ndarray:
    """Undo over-deblending, brightest source first."""
    from scipy import ndimage

    islands, _ = ndimage.label(labels > 0, structure=np.ones((3, 3)))
    windows = ndimage.find_objects(islands)
    for island, window in enumerate(windows, start=1):
        if window is None:
            continue
        part = np.where(islands[window] == island, labels[window], 0)
        inside = np.unique(part)
        inside = inside[inside > 0]
        if inside.size < 2:
            continue
        shifted = sources.copy()
        for name in ("x", "xcpeak", "xpeak"):
            shifted[name] -= window[1].start
        for name in ("y", "ycpeak", "ypeak"):
            shifted[name] -= window[0].start
        remaining = list(inside[np.argsort(-sources["flux"][inside - 1])])
        while remaining:
            main = remaining.pop(0)
            part = absorb_fragments(
                image[window], noise[window], part, shifted, int(main), ~bad[window], settings
            )
            present = set(np.unique(part))
            remaining = [label for label in remaining if label in present]
        labels[window] = np.where(islands[window] == island, part, labels[window])
    return labels


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
