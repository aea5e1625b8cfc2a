"""From frames to a catalogue: sky, detection, inference, rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from astropy.table import QTable

from autofit_ml.errors import InputError, SettingsError
from autofit_ml.fitting.likelihoods import Likelihood
from autofit_ml.images.stamp import Frame
from autofit_ml.population import CELESTE, read_populations
from autofit_ml.settings import SourceSettings
from autofit_ml.sources.detection import detect, detection_image, sky_of, starting_values
from autofit_ml.sources.field import Field, PSFAt, make_field
from autofit_ml.sources.priors import SourcePrior, make_prior
from autofit_ml.sources.rows import catalogue_rows
from autofit_ml.sources.scan import Scan


__all__ = ["SourceCatalogue", "catalogue_frames", "make_priors"]


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
    """

    table: QTable
    field: Field
    sky: tuple[np.ndarray, ...]
    messages: tuple[str, ...] = ()

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
    path = CELESTE if settings.prior == "celeste" else Path(settings.prior)
    found = {one.type: one for one in read_populations(path)}
    lacking = {"star", "galaxy"} - set(found)
    if lacking:
        raise SettingsError(
            f"no population of type {', '.join(sorted(lacking))}",
            "list both under populations:, each with its share",
            path,
        )
    bands = [band.band for band in field.bands]
    scale = field.first.frame.pixel_scale
    star, galaxy = (
        make_prior(found[kind], bands, scale if scale > 0 else 1.0, settings.galaxy)
        for kind in ("star", "galaxy")
    )
    return star, galaxy


def catalogue_frames(
    frames: Sequence[Frame],
    bands: Sequence[str],
    settings: SourceSettings | None = None,
    psf_at: Sequence[PSFAt | None] | None = None,
) -> SourceCatalogue:
    """Catalogue of a field in one band or several.

    Parameters
    ----------
    frames : sequence of Frame
        One for each band, the reference first.
    bands : sequence of str
        Their names.
    settings : SourceSettings, optional
    psf_at : sequence of callable or None, optional
        Where PSFs vary.

    Raises
    ------
    InputError
        Nothing is detected; a frame without a PSF or a WCS that is needed; Poisson without a gain.
    """
    settings = settings or SourceSettings()
    likelihood = Likelihood.parse(settings.likelihood)
    psf_at = psf_at or [None] * len(frames)
    if likelihood.name == "poisson":
        for frame in frames:
            if not frame.gain > 0:
                raise InputError("poisson needs the gain", "give --gain", frame.file)
    flat = [frame.replace(data=frame.data - sky_of(frame)) for frame in frames]
    same = [k for k, frame in enumerate(frames) if frame.data.shape == frames[0].data.shape]
    rough = make_field(frames, bands, [np.float32(0)] * len(frames), psf_at)
    same = [k for k in same if rough.bands[k].aligned]
    priors = make_priors(rough, settings)
    usual = _usual_fluxes(rough, priors[1])
    image = detection_image([flat[k] for k in same], usual[same], settings.detection)
    image = image.replace(psf=rough.first.psf)
    image, found = detect(image, settings.segmenter, settings.weights)
    if len(found.sources) == 0:
        raise InputError("nothing is detected", "check noise and mask", frames[0].file)
    sky = tuple(
        sky_of(frame, found.labels if k in same else None) for k, frame in enumerate(frames)
    )
    field = make_field(frames, bands, sky, psf_at)
    starts = starting_values(field, found.sources, priors[1])
    scan = Scan(field, starts, priors, likelihood)
    scan.run(settings.sweeps)
    posterior = scan.posterior(settings.inference)
    table = catalogue_rows(
        field, posterior, found.sources["radius"], frames[0].id, settings.galaxy
    )
    messages = tuple(dict.fromkeys(text for frame in frames for text in frame.messages))
    return SourceCatalogue(table, field, sky, messages)


def _usual_fluxes(field: Field, prior: SourcePrior) -> np.ndarray:
    """Flux of a usual galaxy in each band, image units, relative to the largest."""
    mean = torch.einsum("k,kw->w", prior.log_weights.softmax(0), prior.means)
    ln_flux = mean[: len(field.bands)].numpy()
    ln_flux = ln_flux + np.log([band.scale for band in field.bands])
    return np.exp(ln_flux - ln_flux.max())
