"""The catalogue of frames, step by step: sky, detection, inference, rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from astropy.table import QTable, Table

from autofit_ml.errors import InputError, SettingsError
from autofit_ml.fitting.likelihoods import Likelihood
from autofit_ml.images.stamp import Frame
from autofit_ml.scenes.populations import CELESTE, read_populations
from autofit_ml.segmentation.detection import Detections
from autofit_ml.settings import SourceSettings
from autofit_ml.sources.blends import with_blends
from autofit_ml.sources.detection import detect, detection_image, sky_of, starting_values
from autofit_ml.sources.field import Field, aligned, make_field, scaled_band, scales_of
from autofit_ml.sources.priors import Band, SourcePrior, make_prior
from autofit_ml.sources.rows import catalogue_rows
from autofit_ml.sources.scan import Scan

_MODEL_ERROR, _SIGNIFICANT, _APART = 0.04, 7.0, 0.4
"""Sources missed by the detection: error of the model as a share of its light, least S/N, least
distance from known ones in seeings."""

_STRUCTURE, _INSIDE, _LARGE = 0.1, 2.5, 1.5
"""What has less than a tenth of a galaxy's light, within 2.5 re of it, is a part of it, if its re
is over 1.5 seeings."""

__all__ = [
    "DetectedTogether",
    "NothingDetected",
    "SourceCatalogue",
    "catalogue_frames",
    "detect_together",
    "make_priors",
]


class NothingDetected(InputError):
    """There is no source in a frame."""


@dataclass(frozen=True)
class SourceCatalogue:
    """Sources of a field.

    Attributes
    ----------
    table : QTable
    field : Field
        With the model of all sources.
    sky : tuple of ndarray
        Of each band, image units.
    messages : tuple of str
    covariance : Table or None
        Of fluxes of different sources, where their positions and shapes were held.
    detected : Detections or None
        Each source as it was detected, and by what.
    """

    table: QTable
    field: Field
    sky: tuple[np.ndarray, ...]
    messages: tuple[str, ...] = ()
    covariance: Table | None = None
    detected: Detections | None = None

    def model(self, b: int) -> np.ndarray:
        """Light of all sources in a band, image units, (ny, nx)."""
        band = self.field.bands[b]
        return band.model.numpy() * np.float32(band.scale)

    def residual(self, b: int) -> np.ndarray:
        """Image without sky and sources, image units, (ny, nx)."""
        return self.field.bands[b].frame.data - self.sky[b] - self.model(b)


def make_priors(field: Field, settings: SourceSettings) -> tuple[SourcePrior, SourcePrior]:
    """Priors of stars and galaxies.

    Raises
    ------
    SettingsError
        The population file lacks one of them.
    """
    return _priors([band.band for band in field.fluxes], field.first.frame, settings)


def _priors(
    bands: Sequence[Band], first: Frame, settings: SourceSettings
) -> tuple[SourcePrior, SourcePrior]:
    """Priors in some bands; sizes are in the pixels of the first frame."""
    path = CELESTE if settings.prior == "celeste" else Path(settings.prior)
    found = {one.type: one for one in read_populations(path)}
    lacking = {"star", "galaxy"} - set(found)
    if lacking:
        raise SettingsError(
            f"no population of type {', '.join(sorted(lacking))}",
            "list both under populations:, each with its share",
            path,
        )
    scale = first.pixel_scale if first.pixel_scale > 0 else 1.0
    star, galaxy = (
        make_prior(found[kind], bands, scale, settings.galaxy) for kind in ("star", "galaxy")
    )
    return star, galaxy


@dataclass(frozen=True)
class DetectedTogether:
    """Detections in several images of one piece of sky together.

    Attributes
    ----------
    image : Frame
        On which it was detected, with the flags and messages of the detection.
    found : Detections
    same : list of int
        Images that have the first one's pixels: those that were added up.
    usual : ndarray
        Flux of a usual galaxy in each image, its units, relative to the largest.
    """

    image: Frame
    found: Detections
    same: list[int]
    usual: np.ndarray


def detect_together(
    frames: Sequence[Frame],
    names: Sequence[str],
    settings: SourceSettings,
    device: str = "cpu",
) -> DetectedTogether:
    """Sources of a field in all bands together; see `detection_image`.

    Raises
    ------
    InputError
        Grids that cannot be related.
    """
    same = [k for k, frame in enumerate(frames) if aligned(frames[0], frame)]
    usual = _usual_fluxes(frames, names, settings)
    flat = [frames[k].replace(data=frames[k].data - sky_of(frames[k])) for k in same]
    ny, nx = frames[0].data.shape
    psf = frames[0].psf_at((nx - 1) / 2, (ny - 1) / 2)
    image = detection_image(flat, usual[same], settings.detection).replace(psf=psf)
    image, found = detect(image, settings.segmenter, settings.weights, device)
    return DetectedTogether(image, found, same, usual)


def catalogue_frames(
    frames: Sequence[Frame],
    bands: Sequence[str],
    settings: SourceSettings | None = None,
) -> SourceCatalogue:
    """Catalogue of a field in one band or several.

    Parameters
    ----------
    frames : sequence of Frame
        One for each band, the reference first, or several: epochs of a band share its flux.
    bands : sequence of str
        Their names.
    settings : SourceSettings, optional

    Raises
    ------
    InputError
        Nothing is detected; a frame without a PSF or a WCS that is needed; Poisson without a gain.
    """
    settings = settings or SourceSettings()
    likelihood = Likelihood.parse(settings.likelihood)
    if likelihood.name == "poisson":
        for frame in frames:
            if not frame.gain > 0:
                raise InputError("poisson needs the gain", "give --gain", frame.file)
    together = detect_together(frames, bands, settings)
    found, same = together.found, together.same
    if len(found.sources) == 0:
        raise NothingDetected("nothing is detected", "check noise and mask", frames[0].file)
    sky = tuple(
        sky_of(frame, found.labels if k in same else None) for k, frame in enumerate(frames)
    )
    field = make_field(frames, bands, sky)
    priors = make_priors(field, settings)
    starts = starting_values(field, found.sources, priors)
    scan = Scan(field, starts, priors, likelihood)
    scan.run(1)
    sky = _with_rest(sky, field)
    scan.run(settings.sweeps)
    missed = _missed(scan, same, together.usual, settings.detection)
    if len(missed):
        more = starting_values(field, missed, priors, fluxes_of_rest=True)
        scan = scan.joined(more)
        new = np.arange(len(starts), len(scan))
        scan.run(settings.sweeps, np.union1d(new, [j for i in new for j in scan.edges[i]]))
        sky = _with_rest(sky, field)
    posterior = with_blends(scan, scan.posterior(settings.inference))
    missed["label"] += found.sources["label"].max()
    found = replace(found, sources=np.concatenate([found.sources, missed]))
    table = catalogue_rows(field, posterior, found.sources["radius"], frames[0].id, settings.galaxy)
    messages = tuple(dict.fromkeys(text for frame in frames for text in frame.messages))
    return SourceCatalogue(table, field, sky, messages, detected=found)


def _with_rest(sky: Sequence[np.ndarray], field: Field) -> tuple[np.ndarray, ...]:
    """Sky with what the field's bands have left of it beside the sources."""
    pairs = zip(sky, field.bands, strict=True)
    return tuple(np.asarray(one, np.float32) + band.subtract_rest() for one, band in pairs)


def _missed(scan: Scan, same: Sequence[int], usual: np.ndarray, kind: str) -> np.ndarray:
    """Sources in what is left of the image, apart from those that are known.

    The model's own errors count as noise: a share of its light.
    """
    field, known, left = scan.field, scan.anchor, []
    for k in same:
        band = field.bands[k]
        data = (band.data - band.model).numpy() * np.float32(band.scale)
        error = np.float32(_MODEL_ERROR * band.scale) * band.model.numpy()
        left.append(band.frame.replace(data=data, sigma=np.hypot(band.frame.sigma, error)))
    image = detection_image(left, usual[same], kind).replace(psf=field.first.psf)
    _, found = detect(image)
    x, y = found.sources["x"], found.sources["y"]
    apart = np.hypot(x[:, None] - known[:, 0], y[:, None] - known[:, 1])
    good = found.sources["snr"] > _SIGNIFICANT
    good &= apart.min(1, initial=np.inf) > _APART * field.first.fwhm
    theta = scan.theta[1].numpy()
    re = np.exp(theta[:, -4] + np.hypot(theta[:, -2], theta[:, -1]) / 2)
    large = (scan.p_star < 0.5) & (re > _LARGE * field.first.fwhm)
    flux = np.exp(theta[:, 2]) * field.first.scale * usual.max() / usual[0]
    part = large & (apart < _INSIDE * re) & (found.sources["flux"][:, None] < _STRUCTURE * flux)
    return found.sources[good & ~part.any(1)]


def _usual_fluxes(
    frames: Sequence[Frame], names: Sequence[str], settings: SourceSettings
) -> np.ndarray:
    """Flux of a usual galaxy in each image, its units, relative to the largest."""
    scales, known = scales_of(frames, names), list(dict.fromkeys(names))
    firsts = [names.index(name) for name in known]
    bands = [scaled_band(frames[k], names[k], scales[k]) for k in firsts]
    _, prior = _priors(bands, frames[0], settings)
    mean = torch.einsum("k,kw->w", prior.log_weights.softmax(0), prior.means).numpy()
    ln_flux = mean[[known.index(name) for name in names]] + np.log(scales)
    return np.exp(ln_flux - ln_flux.max())
