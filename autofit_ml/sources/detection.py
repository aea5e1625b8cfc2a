"""Detection over bands together, and starting values.

The bands that share the reference's pixels are added up with the weights that are best for a
source of the usual colours (``white``), or their S/N are added in quadrature (``chi2``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from autofit_ml.images.stamp import Frame
from autofit_ml.measure import psf_fwhm
from autofit_ml.rendering import render_component
from autofit_ml.segmentation.detection import Detections, background_of, scaled
from autofit_ml.segmentation.dispatch import detect_in_frame
from autofit_ml.sources.field import Field
from autofit_ml.sources.fluxes import solve_fluxes
from autofit_ml.sources.priors import SourcePrior
from autofit_ml.sources.scan import Starts

__all__ = ["DETECTION_IMAGES", "detect", "detection_image", "sky_of", "starting_values"]

DETECTION_IMAGES = ("white", "chi2", "first")

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
    frames: Sequence[Frame], colours: Sequence[float], kind: str = "white"
) -> Frame:
    """One image of several bands on the same pixels.

    Parameters
    ----------
    frames : sequence of Frame
        Sky subtracted.
    colours : sequence of float
        Usual flux of a source in each, relative to the others.
    kind : str
        One of `DETECTION_IMAGES`.
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


def starting_values(field: Field, sources: np.ndarray, prior: SourcePrior) -> Starts:
    """Positions, sizes and shapes from a detection's moments; fluxes by least squares.

    Parameters
    ----------
    field : Field
    sources : structured array
        As `Detections.sources`.
    prior : SourcePrior
        Of galaxies.
    """
    x, y = sources["x"], sources["y"]
    fwhm = max(band.fwhm for band in field.bands)
    reach = 2 * np.maximum(_REACH * sources["radius"] + 2, 2.2 * fwhm) + 4
    side = _SIDES[np.minimum(np.searchsorted(_SIDES, reach), len(_SIDES) - 1)]
    seeing = (field.first.fwhm / 2.3548) ** 2
    # Isophotes cut the wings off: moments of faint sources are too small.
    major, minor = (np.maximum((1.3 * sources[name]) ** 2 - seeing, 0.3) for name in "ab")
    e = np.minimum(0.5 * np.log(major / minor), 1.5)
    eta = np.stack([np.cos(2 * sources["theta"]), np.sin(2 * sources["theta"])], 1) * e[:, None]
    rc = np.clip(1.18 * (major * minor) ** 0.25, 0.5, side / 4)
    starts = Starts(x, y, np.ones((len(x), len(field.bands))), rc, eta, side)
    return _with_fluxes(field, starts, prior)


def _with_fluxes(field: Field, starts: Starts, prior: SourcePrior) -> Starts:
    """The same with the fluxes that fit best together, at least a part of their errors."""
    from autofit_ml.sources.problem import SourceProblem
    from autofit_ml.fitting.likelihoods import Likelihood

    n, nb = starts.flux.shape
    anchor = np.rint(np.stack([starts.x, starts.y], 1)).astype(np.int64)
    theta = np.zeros((n, 6 + nb))
    theta[:, :2] = np.stack([starts.x, starts.y], 1) - anchor
    theta[:, -4], theta[:, -2:] = np.log(starts.rc), starts.eta
    images: list[list[torch.Tensor]] = [[torch.empty(0)] * n for _ in range(nb)]
    data, root = ([[torch.empty(0)] * n for _ in range(nb)] for _ in range(2))
    corners = np.zeros((nb, n, 2), np.int64)
    for side in np.unique(starts.side):
        every = np.flatnonzero(starts.side == side)
        for first in range(0, len(every), 256):
            some = every[first : first + 256]
            nothing = [torch.zeros((len(some), side, side))] * nb
            patches, at = field.patches(int(side), anchor[some], nothing)
            problem = SourceProblem(prior, patches, Likelihood())
            drawn = problem.images(torch.arange(len(some)), torch.as_tensor(theta[some]))
            for b in range(nb):
                corners[b, some] = at[b].numpy()
                for k, i in enumerate(some):
                    images[b][i], data[b][i] = drawn[b][k], patches[b].data[k]
                    root[b][i] = patches[b].root[k]
    flux = np.ones((n, nb))
    for b in range(nb):
        found = solve_fluxes(images[b], data[b], root[b], corners[b])
        error = np.nan_to_num(found.error, nan=1.0)
        flux[:, b] = np.maximum(np.nan_to_num(found.flux), _FAINTEST * error)
    return Starts(starts.x, starts.y, flux, starts.rc, starts.eta, starts.side)
