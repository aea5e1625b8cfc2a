"""Stamps of any size as images of one size: what the initialising network looks at.

A square around the target, binned by a whole number so that the target fills it at most to three
quarters, whatever the stamp's size: one network serves stamps of 32 to 512 pixels. All numbers
that the network gives are relative to what is measured here (centre, footprint, flux in it), in
units of binned pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import ndimage

from autofit_ml.images.stamp import PSF, Stamp
from autofit_ml.measure import block_sums, psf_fwhm
from autofit_ml.segmentation.result import Segmentation

__all__ = ["PSF_SIDE", "SCALARS", "SIDE", "Cutouts", "cut_outs", "sky_of"]

SIDE = 64
"""Binned pixels of the square."""

PSF_SIDE = 25
"""Binned pixels of the PSF's image."""

SCALARS = ("ln_radius", "ln_fwhm", "ln_snr", "ln_peak", "footprint", "contamination")
"""Numbers beside the images: radius of the footprint and FWHM of the PSF (binned pixels), S/N of
the light in the footprint, its brightest pixel (units of the sky noise), whether there is a
footprint at all; ln(1 + light of others / light in the footprint), that of others weighted with
(1 + (d / radius)^2)^-2 at a distance d from the centre."""

_FILLS = 0.75
"""Most that the footprint's diameter may fill of the square."""

_WIDEST_PSF = 6.0
"""Binned pixels: images with wider PSFs are binned."""


@dataclass(frozen=True)
class Cutouts:
    """The network's view of B objects.

    Attributes
    ----------
    data : ndarray, float32, shape (B, SIDE, SIDE)
        Sums over binned pixels, sky subtracted, units of the sky noise of a binned pixel.
    root_weight : ndarray, float32, shape (B, SIDE, SIDE)
        1 / sigma of these; 0 where over half is masked, another object's, or outside the stamp.
    footprint : ndarray, bool, shape (B, SIDE, SIDE)
        The target's instance.
    psf : ndarray, float32, shape (B, PSF_SIDE, PSF_SIDE)
        Binned, sums to 1.
    scalars : ndarray, float32, shape (B, len(SCALARS))
    binning : ndarray of int, shape (B,)
    corner : ndarray, float64, shape (B, 2)
        (x, y), stamp pixels, of the lower left edge of the square's first pixel.
    unit : ndarray, float64, shape (B,)
        Image units of one unit of `data`.
    sky : ndarray, float64, shape (B,)
        Level that was subtracted, image units per stamp pixel.
    flux : ndarray, float64, shape (B,)
        Of the footprint (or of an aperture of the PSF's size), units of `data`; at least 1.
    radius : ndarray, float64, shape (B,)
        Of the circle with the footprint's area, binned pixels; at least half of the PSF's FWHM.
    centre : ndarray, float64, shape (B, 2)
        (x, y), binned pixels, from which the network measures the position.
    """

    data: np.ndarray
    root_weight: np.ndarray
    footprint: np.ndarray
    psf: np.ndarray
    scalars: np.ndarray
    binning: np.ndarray
    corner: np.ndarray
    unit: np.ndarray
    sky: np.ndarray
    flux: np.ndarray
    radius: np.ndarray
    centre: np.ndarray

    def __len__(self) -> int:
        return len(self.data)

    def some(self, members: np.ndarray) -> "Cutouts":
        """A part of the objects, by number."""
        return Cutouts(*(plane[members] for plane in vars(self).values()))


def cut_outs(stamps: Sequence[Stamp], segmentations: Sequence[Segmentation]) -> Cutouts:
    """The network's view of stamps.

    Parameters
    ----------
    stamps : sequence of Stamp
    segmentations : sequence of Segmentation
        With target 0, a circle of the PSF's FWHM at the expected position stands for the
        footprint.
    """
    rows = [_one(stamp, found) for stamp, found in zip(stamps, segmentations, strict=True)]
    return Cutouts(*(np.stack(column) for column in zip(*rows, strict=True)))


def sky_of(stamp: Stamp, segmentation: Segmentation, good: np.ndarray) -> tuple[float, float]:
    """Level and scatter of the sky, with stand-ins where the segmentation found none."""
    sky, rms = segmentation.sky_level, segmentation.sky_rms
    some = good if good.any() else np.ones_like(good)
    if not np.isfinite(sky):
        sky = np.percentile(stamp.data[some], 5)
    if not 0 < rms < np.inf:
        rms = np.median(stamp.sigma[some])
    return float(sky), float(rms)


def _one(stamp: Stamp, found: Segmentation) -> tuple[Any, ...]:
    """Fields of `Cutouts` for one stamp."""
    good = ~(stamp.mask | found.contaminants) & np.isfinite(stamp.data)
    sky, noise = sky_of(stamp, found, good)
    fwhm = max(psf_fwhm(stamp.psf), 1.0)
    own, known = _footprint(stamp, found, fwhm)
    light = np.where(own & good, stamp.data - sky, 0.0)
    x, y = _centroid(light, own)
    radius = max(float(np.sqrt(own.sum() / np.pi)), fwhm / 2)
    b = max(int(np.ceil(2 * radius / (_FILLS * SIDE))), int(np.ceil(fwhm / _WIDEST_PSF)), 1)
    unit = noise * b
    left, low = (int(np.floor(place + 0.5 - 0.5 * SIDE * b)) for place in (x, y))

    def square(plane: np.ndarray) -> np.ndarray:
        return _square(plane, left, low, b)

    valid = square(good.astype(np.float32))
    usable = valid > 0.5 * b * b
    share = b * b / np.maximum(valid, 1.0)
    values = square(np.where(good, stamp.data - sky, 0.0))
    variance = square(np.where(good, stamp.sigma.astype(float) ** 2, 0.0))
    data = np.where(usable, values * share, 0.0) / unit
    sigma = np.sqrt(np.maximum(variance, 1e-300)) * share / unit
    root_weight = np.where(usable, 1.0 / np.maximum(sigma, 1e-6), 0.0)
    footprint = square(own.astype(np.float32)) > 0.5 * b * b
    flux = float(data[footprint].sum()) if footprint.any() else 0.0
    error = max(int(footprint.sum()), 1) ** 0.5
    scalars = [
        np.log(radius / b),
        np.log(fwhm / b),
        np.log(max(flux / error, 1.0)),
        np.log(max(float(np.max(data, where=usable, initial=1.0)), 1.0)),
        float(known),
        _contamination(stamp, found.contaminants, sky, x, y, radius, max(flux, 1.0) * unit),
    ]
    centre = ((x - left + 0.5) / b - 0.5, (y - low + 0.5) / b - 0.5)
    return (
        *(data.astype(np.float32), root_weight.astype(np.float32), footprint),
        *(_binned_psf(stamp.psf, b), np.array(scalars, dtype=np.float32), b),
        *((left - 0.5, low - 0.5), unit, sky, max(flux, 1.0), radius / b, centre),
    )


def _contamination(
    stamp: Stamp,
    others: np.ndarray,
    sky: float,
    x: float,
    y: float,
    radius: float,
    flux: float,
) -> float:
    rows, columns = np.nonzero(others & ~stamp.mask & np.isfinite(stamp.data))
    nearness = (1 + ((columns - x) ** 2 + (rows - y) ** 2) / radius**2) ** -2
    light = float(((stamp.data[rows, columns] - sky) * nearness).sum())
    return float(np.log1p(max(light, 0.0) / flux))


def _footprint(stamp: Stamp, found: Segmentation, fwhm: float) -> tuple[np.ndarray, bool]:
    if found.target:
        own = found.labels == found.target
        if own.any():
            return own, True
    x, y = stamp.position
    rows, columns = np.indices(stamp.shape)
    return np.hypot(columns - x, rows - y) <= max(fwhm, 1.5), False


def _centroid(light: np.ndarray, own: np.ndarray) -> tuple[float, float]:
    """Centroid of the brighter half of the light; of the footprint where there is none."""
    weight = np.maximum(light, 0.0)
    if weight.max() > 0:
        smooth = ndimage.uniform_filter(weight, 3)
        weight = np.where(smooth > 0.5 * smooth.max(), weight, 0.0)
    if not weight.sum() > 0:
        weight = own.astype(float)
    y, x = ndimage.center_of_mass(weight)
    return float(x), float(y)


def _square(plane: np.ndarray, left: int, low: int, b: int) -> np.ndarray:
    """Sums over b x b pixels, shape (SIDE, SIDE); 0 outside the plane."""
    ny, nx = plane.shape
    width = SIDE * b
    out = np.zeros((width, width), dtype=plane.dtype)
    y0, y1, x0, x1 = max(low, 0), min(low + width, ny), max(left, 0), min(left + width, nx)
    if y1 > y0 and x1 > x0:
        out[y0 - low : y1 - low, x0 - left : x1 - left] = plane[y0:y1, x0:x1]
    return block_sums(out, b)


def _binned_psf(psf: PSF, b: int) -> np.ndarray:
    """PSF at the sampling of the square, centred: by linear interpolation of its running sum."""
    wanted = (np.arange(PSF_SIDE + 1) - PSF_SIDE / 2) * (psf.oversampling * b)
    out = psf.data.astype(float)
    for _ in ("y", "x"):
        number, others = out.shape
        total = np.concatenate([np.zeros((1, others)), np.cumsum(out, axis=0)])
        at = np.clip(wanted + number / 2, 0, number)
        whole = np.minimum(at.astype(int), number - 1)
        share = (at - whole)[:, None]
        out = np.diff((1 - share) * total[whole] + share * total[whole + 1], axis=0).T
    return (out / max(out.sum(), 1e-30)).astype(np.float32)
