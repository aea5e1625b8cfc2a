r"""Modified King profile (King 1962, AJ 67, 471; exponent free as in Elson 1999, in Globular
Clusters, 10th Canary Islands Winter School, p. 209).

.. math:: I(r) \propto \left[\frac{1}{(1 + (r/r_c)^2)^{1/\alpha}} -
          \frac{1}{(1 + (r_t/r_c)^2)^{1/\alpha}}\right]^{\alpha}, \qquad r < r_t

alpha = 2 is King's own.
"""

from autofit_ml.profiles.registry import Profile, ShapeParameter, register


def _light(r, alpha, concentration):
    inside = (1 + (concentration * r).square()) ** (-1 / alpha)
    edge = (1 + concentration.square()) ** (-1 / alpha)
    return (inside - edge) ** alpha


register(
    Profile(
        name="king",
        kind="elliptical",
        description="King profile, truncated",
        shapes=(
            ShapeParameter("alpha", 2.0, (0.5, 5.0), True, "", "exponent"),
            ShapeParameter("concentration", 10.0, (1.0, 300.0), True, "", "r_t / r_c"),
        ),
        light=_light,
        truncated=True,
        natural_radii=lambda alpha, concentration: {
            "core": 1 / concentration,
            "truncation": 1.0,
        },
    )
)
