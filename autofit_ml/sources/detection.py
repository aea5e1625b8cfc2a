"""Detection over bands together, and starting values.

The bands that share the reference's pixels are added up with the weights that are best for a
source of the usual colours (``white``), or their S/N are added in quadrature (``chi2``).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from autofit_ml.images.stamp import Frame
from autofit_ml.measure import psf_fwhm
from autofit_ml.segmentation.detection import Detections, background_of, scaled
from autofit_ml.segmentation.dispatch import detect_in_frame
from autofit_ml.sources.field import Field
from autofit_ml.sources.fluxes import solve_fluxes, templates
from autofit_ml.sources.priors import SourcePrior
from autofit_ml.sources.scan import Starts

__all__ = [
    "detect",
    "detection_image",
    "patch_sides",
    "sky_of",
    "starting_values",
]

_BOX = 64
_SIDES = np.array([24, 32, 48, 64, 96, 128, 192, 256, 384, 512])
_REACH = 2.0
"""Half side of a patch in isophotal radii of the detection."""

_FAINTEST = 0.5
"""Starting flux at least, in its error."""


def sky_of(frame: Frame, labels: np.ndarray | None = None) -> np.ndarray:
    """Sky of a frame, image units, (ny, nx): on a mesh, without the sources in `labels`."""
    image, bad, unit = scaled(frame.data, frame.mask, frame.file)
    covered = bad if labels is None else bad | (labels > 0)
    box = min(4 * _BOX, max(_BOX, min(frame.data.shape) // 4))
    return background_of(image, covered, box)[0] * np.float32(unit)


def detection_image(
    frames: Sequence[Frame], colours: Sequence[float] | np.ndarray, kind: str = "white"
) -> Frame:
    """One image of several bands on the same pixels.

    Parameters
    ----------
    frames : sequence of Frame
        Sky subtracted.
    colours : sequence of float
        Usual flux of a source in each, relative to the others.
    kind : str
        "white", "chi2" or "first".
    """
    first = frames[0]
    if kind == "first" or len(frames) == 1:
        return first
    total = np.zeros(first.data.shape)
    weight = np.zeros(first.data.shape)
    for frame, flux in zip(frames, colours, strict=True):
        inverse = np.where(frame.mask, 0.0, frame.sigma.astype(float) ** -2)
        if kind == "chi2":
            total += frame.data.astype(float) ** 2 * inverse
            weight += inverse > 0
        else:
            total += flux * frame.data * inverse
            weight += flux**2 * inverse
    good = weight > 0
    safe = np.where(good, weight, 1.0)
    if kind == "chi2":
        # The mean and scatter of chi with that many degrees of freedom (asymptotically).
        image = np.where(good, np.sqrt(total) - np.sqrt(np.maximum(safe - 0.5, 0.5)), 0.0)
        sigma = np.full(image.shape, math.sqrt(0.5))
    else:
        image, sigma = np.where(good, total / safe, 0.0), safe**-0.5
    return first.replace(
        data=image.astype(np.float32), sigma=sigma.astype(np.float32), mask=~good, saturated=None
    )


def detect(
    image: Frame, segmenter: str = "sep", weights: str = "", device: str = "cpu"
) -> tuple[Frame, Detections]:
    """Sources of a detection image; see `autofit_ml.segmentation.dispatch.detect_in_frame`."""
    seeing = 3.0 if image.psf is None else psf_fwhm(image.psf)
    return detect_in_frame(image, seeing, segmenter, weights, device)


def starting_values(
    field: Field,
    sources: np.ndarray,
    priors: tuple[SourcePrior, SourcePrior],
    *,
    fluxes_of_rest: bool = False,
) -> Starts:
    """Positions, sizes and shapes from a detection's moments; fluxes by least squares.

    Parameters
    ----------
    field : Field
    sources : structured array
        As `Detections.sources`.
    priors : tuple of SourcePrior
        Of stars and galaxies.
    fluxes_of_rest : bool
        From what is left of the images beside the field's model.
    """
    x, y = sources["x"], sources["y"]
    fwhm = max(band.fwhm for band in field.bands)
    reach = 2 * np.maximum(_REACH * sources["radius"] + 2, 2.2 * fwhm) + 4
    side = patch_sides(reach)
    seeing = (field.first.fwhm / 2.3548) ** 2
    # Isophotes cut the wings off: moments of faint sources are too small.
    major, minor = (np.maximum((1.3 * sources[name]) ** 2 - seeing, 0.3) for name in "ab")
    e = np.minimum(0.5 * np.log(major / minor), 1.5)
    eta = np.stack([np.cos(2 * sources["theta"]), np.sin(2 * sources["theta"])], 1) * e[:, None]
    rc = np.clip(1.18 * (major * minor) ** 0.25, 0.5, side / 4)
    starts = Starts(x, y, np.ones((len(x), len(field.fluxes))), rc, eta, side)
    return _with_fluxes(field, starts, priors, fluxes_of_rest)


def patch_sides(reach: np.ndarray) -> np.ndarray:
    """Sides of the patches that are at least so wide, pixels, as far as there are such."""
    return _SIDES[np.minimum(np.searchsorted(_SIDES, reach), len(_SIDES) - 1)]


def _with_fluxes(
    field: Field, starts: Starts, priors: tuple[SourcePrior, SourcePrior], of_rest: bool
) -> Starts:
    """The same with the fluxes that fit best together, at least a part of their errors."""
    n, nb = len(starts), len(field.fluxes)
    at = np.stack([starts.x, starts.y], 1)
    anchor = np.rint(at).astype(np.int64)
    shape = np.column_stack([at - anchor, np.log(starts.rc), np.zeros(n), starts.eta])
    drawn = templates(field, priors, anchor, starts.side, np.zeros(n, bool), shape, of_rest)
    total, weight = np.zeros((n, nb)), np.full((n, nb), 1e-6)
    for band, one in zip(field.bands, drawn, strict=True):
        found = solve_fluxes(one)
        inverse = np.nan_to_num(found.error**-2.0)
        total[:, band.flux] += inverse * np.nan_to_num(found.flux)
        weight[:, band.flux] += inverse
    flux = np.maximum(total / weight, _FAINTEST * np.minimum(weight**-0.5, 1.0))
    return dataclasses.replace(starts, flux=flux)
