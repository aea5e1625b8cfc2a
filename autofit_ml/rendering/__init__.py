"""Rendering: parameters in, PSF-convolved images (and their derivatives) out.

`component` draws any profile of `autofit_ml.profiles` in Fourier space: elliptical ones by
`elliptical`, others by `polar`; `fourier` lays out the modes. The pixel path (`pixel`) integrates
any brightness function over the pixels. All work on batches of stamps of one shape. Used by
`autofit_ml.fitting` and by the losses of the networks.
"""

from autofit_ml.rendering.component import component_channels, component_jacobian, render_component
from autofit_ml.rendering.elliptical import PARAMETERS, elliptical_channels, render
from autofit_ml.rendering.fourier import Accuracy, FourierPlan, make_plan, psf_modes
from autofit_ml.rendering.pixel import PixelAccuracy, profile_brightness, render_pixels

__all__ = [
    "PARAMETERS",
    "Accuracy",
    "FourierPlan",
    "PixelAccuracy",
    "component_channels",
    "component_jacobian",
    "elliptical_channels",
    "make_plan",
    "profile_brightness",
    "psf_modes",
    "render",
    "render_component",
    "render_pixels",
]
