"""Exponential disc: the Sérsic profile of n = 1."""

from functools import lru_cache

from autofit_ml.profiles.hankel import HankelTable
from autofit_ml.profiles.registry import Profile, register
from autofit_ml.profiles.sersic import fixed_index_table, sersic_b, sersic_light


@lru_cache(maxsize=1)
def _table() -> HankelTable:
    return fixed_index_table(1.0)


register(
    Profile(
        name="exponential",
        aliases=("exp", "expdisk", "exponential_disc", "disk", "disc"),
        kind="elliptical",
        description="exponential disc",
        light=lambda r: sersic_light(r, r.new_ones(())),
        table=_table,
        natural_radii=lambda re: {"scale_length": re / float(sersic_b(1.0))},
    )
)
