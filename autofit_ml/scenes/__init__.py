"""Scenes: components, their parameters, and the smooth space that the fit works in.

In: a model, as plain functions (`sersic`, `scene`), a model string (`parse_model`) or a YAML file
(`read_model`); `autofit_ml.galfit` reads GALFIT's. Out: a checked `Scene` in catalogue parameters
(see docs/conventions); fit-space vectors, bounds, and the derivatives that carry covariances back.
Used by `autofit_ml.initialisation` and `autofit_ml.fitting`; knows nothing about images.
"""

from autofit_ml.scenes.build import (
    as_parameter,
    component,
    devaucouleurs,
    exponential,
    fixed,
    free,
    gaussian,
    moffat,
    point,
    scene,
    sersic,
    shifted,
    with_sky,
    with_values,
)
from autofit_ml.scenes.expressions import Expression
from autofit_ml.scenes.files import read_model, write_model
from autofit_ml.scenes.model import SKY, Component, Parameter, Scene
from autofit_ml.scenes.parameters import (
    CATALOGUE_PARAMETERS,
    FIT_PARAMETERS,
    Bounds,
    to_catalogue,
    to_fit_space,
)
from autofit_ml.scenes.parse import parse_model
from autofit_ml.scenes.priors import (
    Prior,
    log_normal,
    log_uniform,
    normal,
    truncated_normal,
    uniform,
)

__all__ = [
    "CATALOGUE_PARAMETERS",
    "FIT_PARAMETERS",
    "SKY",
    "Bounds",
    "Component",
    "Expression",
    "Parameter",
    "Prior",
    "Scene",
    "as_parameter",
    "component",
    "devaucouleurs",
    "exponential",
    "fixed",
    "free",
    "gaussian",
    "log_normal",
    "log_uniform",
    "moffat",
    "normal",
    "parse_model",
    "point",
    "read_model",
    "scene",
    "sersic",
    "shifted",
    "to_catalogue",
    "to_fit_space",
    "truncated_normal",
    "uniform",
    "with_sky",
    "with_values",
    "write_model",
]
