"""Gaussian: the Sérsic profile of n = 1/2."""

from functools import lru_cache

from autofit_ml.profiles.hankel import HankelTable
from autofit_ml.profiles.registry import Profile, register
from autofit_ml.profiles.sersic import fixed_index_table


@lru_cache(maxsize=1)
def _table() -> HankelTable:
    return fixed_index_table(0.5)


register(
    Profile(
        name="gaussian",
        aliases=("gauss",),
        kind="elliptical",
        description="Gaussian",
        light=lambda r: (-0.5 * r.square()).exp(),
        table=_table,
        natural_radii=lambda re: {"fwhm": 2.0 * re, "sigma": 1.0},
    )
)
