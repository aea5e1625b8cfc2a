r"""Gaussian: the Sérsic profile of n = 1/2.

.. math:: I(r) \propto e^{-r^2 / 2\sigma^2}, \qquad \mathrm{FWHM} = 2 r_e
"""

import math

from autofit_ml.profiles.registry import Profile, register

register(
    Profile(
        name="gaussian",
        aliases=("gauss",),
        kind="elliptical",
        description="Gaussian",
        light=lambda r: (-0.5 * r.square()).exp(),
        natural_radii=lambda: {"fwhm": math.sqrt(8 * math.log(2)), "sigma": 1.0},
    )
)
