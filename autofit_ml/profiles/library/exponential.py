r"""Exponential disc (Freeman 1970, ApJ 160, 811): the Sérsic profile of n = 1.

.. math:: I(r) \propto e^{-r/h}
"""

from autofit_ml.profiles.registry import Profile, register

register(
    Profile(
        name="exponential",
        aliases=("exp", "expdisk", "disk", "disc"),
        kind="elliptical",
        description="exponential disc",
        light=lambda r: (-r).exp(),
        natural_radii=lambda: {"scale_length": 1.0},
    )
)
