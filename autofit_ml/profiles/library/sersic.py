"""Sérsic profile; equations in `autofit_ml.profiles.sersic`."""

from autofit_ml.profiles.registry import Profile, ShapeParameter, register
from autofit_ml.profiles.sersic import N_MAX, N_MIN, sersic_light, sersic_table

register(
    Profile(
        name="sersic",
        kind="elliptical",
        description="Sérsic (1963, 1968)",
        shapes=(ShapeParameter("n", 2.0, (N_MIN, N_MAX), True, "", "Sérsic index"),),
        light=sersic_light,
        make_table=sersic_table,
    )
)
