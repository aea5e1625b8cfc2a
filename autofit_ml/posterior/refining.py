"""`refine` for Python: fits, with samples of their posteriors where these are asked for."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Sequence
from typing import Any

from autofit_ml.fitting import Fits, RefineSettings, SceneFit, SceneObject
from autofit_ml.fitting import refine as fit_all
from autofit_ml.images.stamp import Stamp
from autofit_ml.initialisation.starts import Starts
from autofit_ml.posterior.scenes import ScenePosterior, Settings, sample_fits, with_posterior
from autofit_ml.scenes import Scene
from autofit_ml.segmentation.result import Segmentation

__all__ = ["fit_scenes", "refine", "sample_scenes"]


def refine(
    objects: Sequence[Stamp] | Sequence[SceneObject],
    scene: Scene | None = None,
    starts: Starts | None = None,
    segmentations: Sequence[Segmentation] | None = None,
    settings: RefineSettings | None = None,
    *,
    bands: Sequence[str] = ("",),
    wavelengths: Sequence[float] | None = None,
    components: bool = False,
    posterior: str = "laplace",
    sampling: Settings | None = None,
    init: Starts | None = None,
    models: bool = False,
) -> Fits:
    """Fit a scene to each object, simultaneously in all of its images.

    Contaminants that overlap with a target are fitted along (``settings.neighbours``). Where a PSF
    knows how uncertain it is (`PSF.modes`), its parameters are fitted too.

    Parameters
    ----------
    objects : sequence of Stamp, or of SceneObject
        Stamps of any mixture of shapes; objects with several images come from `join_images`, all
        with as many, in the order of `bands`.
    scene : Scene, optional
        What to fit; one Sérsic profile with a free sky by default.
    starts : Starts, optional
        One Sérsic start for each object, in its first image; those of `autofit_ml.initialise` by
        default.
    segmentations : sequence of Segmentation, optional
        Of stamps; those of `autofit_ml.segment` by default.
    settings : RefineSettings, optional
    bands : sequence of str
        Band of each image of an object.
    wavelengths : sequence of float, optional
        Of each image, for parameters that are polynomials in wavelength.
    components : bool
        Keep the images of the components.
    posterior : {"laplace", "bootstrap", "hmc", "nested"}
        Where errors come from; samples are kept as `SceneFit.posterior`.
    sampling : settings of that method, optional
    init, models : deprecated
        Former names of `starts` and `components`.

    Returns
    -------
    Fits
        In order. An object that cannot be fitted (fewer good pixels than parameters) has NaN and
        the FAILED bit.

    Raises
    ------
    SettingsError
        Different numbers of objects, starts, segmentations and images; an unknown posterior.
    """
    if init is not None or models:
        warnings.warn("init and models are now starts and components", DeprecationWarning, 2)
        starts, components = starts or init, components or models
    settings = settings or RefineSettings()
    if posterior != "laplace":
        settings = dataclasses.replace(settings, keep=True)
    fits = fit_all(
        objects,
        scene,
        starts,
        segmentations,
        settings,
        bands=bands,
        wavelengths=wavelengths,
        components=components,
    )
    if posterior == "laplace":
        return fits
    sampled = zip(fits, sample_fits(fits, posterior, sampling), strict=True)
    return Fits(tuple(fit if one is None else with_posterior(fit, one) for fit, one in sampled))


def fit_scenes(
    objects: Sequence[SceneObject], scene: Scene, starts: Starts, **options: Any
) -> list[SceneFit]:
    """Deprecated name of `refine`."""
    warnings.warn("fit_scenes is now refine", DeprecationWarning, 2)
    return list(refine(objects, scene, starts, **options))


def sample_scenes(
    fits: Sequence[SceneFit], method: str = "hmc", settings: Settings | None = None
) -> list[ScenePosterior | None]:
    """Draw from the posteriors of fits; deprecated, `refine` has ``posterior=``."""
    warnings.warn("sample_scenes is now refine(..., posterior=)", DeprecationWarning, 2)
    return sample_fits(fits, method, settings)
