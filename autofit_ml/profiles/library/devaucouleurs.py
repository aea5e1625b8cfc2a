"""De Vaucouleurs' law: the Sérsic profile of n = 4."""

from functools import lru_cache

from autofit_ml.profiles.hankel import HankelTable
from autofit_ml.profiles.registry import Profile, register
from autofit_ml.profiles.sersic import fixed_index_table, sersic_light


@lru_cache(maxsize=1)
def _table() -> HankelTable:
    return fixed_index_table(4.0)


register(
    Profile(
        name="devaucouleurs",
        aliases=("dev", "devauc", "de_vaucouleurs", "r14"),
        kind="elliptical",
        description="de Vaucouleurs (1948)",
        light=lambda r: sersic_light(r, 4.0 * r.new_ones(())),
        table=_table,
    )
)
