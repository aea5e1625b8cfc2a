"""Components drawn by the tests of profiles: values, fit space, plans."""

import numpy as np
import torch
from drawings import gaussian_psf

from autofit_ml.fitting import RefineSettings
from autofit_ml.profiles import get_profile, profile_names
from autofit_ml.rendering import make_plan, psf_modes

SIGMA = 1.4
"""Of the Gaussian PSF, pixels; sampled at the pixels' centres it has no aliases to speak of."""

EXTENDED = [name for name in profile_names() if get_profile(name).has_ellipse]
"""Every registered profile that has a size."""

MODIFIED = [
    ("sersic[boxiness]", {"n": 1.0, "boxiness": -0.9}),
    ("sersic[boxiness]", {"n": 4.0, "boxiness": 1.0}),
    ("ferrer[boxiness]", {"boxiness": 0.8}),
    ("exponential[f1,f3]", {"f1_a": 0.1, "f1_b": -0.05, "f3_a": 0.05, "f3_b": 0.1}),
    ("truncated_sersic[f4]", {"f4_a": 0.1, "f4_b": -0.05}),
    ("sersic[twist]", {"n": 2.5, "twist_eta1": 0.3, "twist_eta2": -0.25}),
    (
        "core_sersic[boxiness,f1,twist]",
        {"boxiness": 0.4, "f1_b": 0.1, "twist_eta1": -0.2, "twist_eta2": 0.2},
    ),
]


def values_of(profile, **given):
    """Catalogue values of all parameters."""
    values = {"x": 31.3, "y": 32.4, "flux": 1000.0, "re": 5.0, "q": 0.6, "pa": 30.0}
    values |= {shape.name: shape.default for shape in profile.shapes}
    return {name: (values | given)[name] for name in profile.parameters}


def drawn_values(profile, seed):
    """Shapes drawn between the bounds, in the fit space."""
    rng = np.random.default_rng(seed)
    drawn = {}
    for shape in profile.shapes:
        value = rng.uniform(*shape.fit_bounds)
        drawn[shape.name] = float(np.exp(value)) if shape.log else float(value)
    return drawn


def fit_space(profile, values):
    """Fit-space parameters (1, P) of catalogue values."""
    if not profile.has_ellipse:
        row = [np.log(values[n]) if n == "flux" else values[n] for n in profile.parameters]
        return torch.tensor([row], dtype=torch.float64)
    eta, angle = -np.log(values["q"]), np.deg2rad(values["pa"] + 90.0)
    row = {
        "x": values["x"],
        "y": values["y"],
        "ln_flux": np.log(values["flux"]),
        "ln_rc": np.log(values["re"] * np.sqrt(values["q"])),
        "eta1": eta * np.cos(2 * angle),
        "eta2": eta * np.sin(2 * angle),
    }
    for shape in profile.shapes:
        row[shape.fit_name] = np.log(values[shape.name]) if shape.log else values[shape.name]
    return torch.tensor([[row[name] for name in profile.fit_parameters]], dtype=torch.float64)


def layout(shape=(64, 64), accuracy=None, dtype=torch.float64, batch=1):
    """A plan and the modes of the PSF; the refiner's wide layout by default."""
    psf = torch.as_tensor(gaussian_psf(fwhm=SIGMA * 2.3548, size=31))
    plan = make_plan(shape, psf.shape, 1, accuracy or RefineSettings().wide, dtype=dtype)
    return plan, psf_modes(plan, psf[None], torch.tensor([True])).expand(batch, -1).clone()
