r"""Modified Ferrers bar (Ferrers 1877, Q. J. Pure Appl. Math. 14, 1; as in Laurikainen et al. 2005,
MNRAS 362, 1319; Peng et al. 2010, AJ 139, 2097, eq. 10).

.. math:: I(r) \propto [1 - (r/r_{out})^{2-\beta}]^{\alpha}, \qquad r < r_{out}
"""

from autofit_ml.profiles.registry import Profile, ShapeParameter, register

register(
    Profile(
        name="ferrer",
        aliases=("ferrers", "bar"),
        kind="elliptical",
        description="modified Ferrers bar, truncated",
        shapes=(
            ShapeParameter("alpha", 2.0, (0.0, 10.0), False, "", "sharpness of the end"),
            ShapeParameter("beta", 0.0, (-4.0, 1.9), False, "", "slope of the centre"),
        ),
        light=lambda r, alpha, beta: (1 - r ** (2 - beta)) ** alpha,
        truncated=True,
        natural_radii=lambda alpha, beta: {"truncation": 1.0},
    )
)
