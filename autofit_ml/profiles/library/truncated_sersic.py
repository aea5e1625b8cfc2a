r"""Sérsic profile that ends sharply.

.. math:: I(r) \propto e^{-b_n (r/R)^{1/n}}, \qquad r < r_t

R is the half-light radius that it would have without the end; the half-light radius `re` of the
component counts only the light inside r_t.
"""

from autofit_ml.profiles.registry import Profile, ShapeParameter, register
from autofit_ml.profiles.sersic import N_MAX, N_MIN, sersic_b_series

register(
    Profile(
        name="truncated_sersic",
        aliases=("sersic_truncated",),
        kind="elliptical",
        description="Sérsic profile with a sharp end",
        shapes=(
            ShapeParameter("n", 1.0, (N_MIN, N_MAX), True, "", "Sérsic index"),
            ShapeParameter("truncation", 3.0, (0.3, 30.0), True, "R", "radius of the end"),
        ),
        light=lambda r, n, truncation: (-sersic_b_series(n) * (truncation * r) ** (1 / n)).exp(),
        truncated=True,
        natural_radii=lambda n, truncation: {
            "truncation": 1.0,
            "untruncated_half_light": 1 / truncation,
        },
    )
)
