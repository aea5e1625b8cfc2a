r"""De Vaucouleurs' law (1948, Ann. Astrophys. 11, 247): the Sérsic profile of n = 4.

.. math:: I(r) \propto e^{-7.669\,(r/r_e)^{1/4}}
"""

from autofit_ml.profiles.registry import Profile, register

register(
    Profile(
        name="devaucouleurs",
        aliases=("dev", "devauc", "de_vaucouleurs"),
        kind="elliptical",
        description="de Vaucouleurs' law",
        light=lambda r: (-7.66925 * r**0.25).exp(),
    )
)
