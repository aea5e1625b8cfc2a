"""Rendering: parameters in, PSF-convolved images (and their derivatives) out.

`component` draws any profile of `autofit_ml.profiles` in Fourier space: elliptical ones by
`elliptical`, others by `polar`; `fourier` lays out the modes. All work on batches of stamps of one
shape. Used by `autofit_ml.fitting` and by the losses of the networks.
"""

from autofit_ml.rendering.component import component_channels, component_jacobian, render_component
from autofit_ml.rendering.elliptical import PARAMETERS, Shared, elliptical_channels, render
from autofit_ml.rendering.fourier import Accuracy, FourierPlan, make_plan, psf_modes

__all__ = [
    "PARAMETERS",
    "Accuracy",
    "FourierPlan",
    "Shared",
    "component_channels",
    "component_jacobian",
    "elliptical_channels",
    "make_plan",
    "psf_modes",
    "render",
    "render_component",
]
