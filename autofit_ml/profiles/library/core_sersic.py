r"""Core-Sérsic profile (Graham et al. 2003, AJ 125, 2951, eq. 5).

.. math:: I(r) \propto \left[1 + \left(\frac{r_b}{r}\right)^{\alpha}\right]^{\gamma/\alpha}
          \exp\left[-b_n \left(\frac{r^\alpha + r_b^\alpha}{R^\alpha}\right)^{1/(\alpha n)}\right]

R is the half-light radius that the Sérsic profile outside the break would have by itself.
"""

import torch

from autofit_ml.profiles.registry import Profile, ShapeParameter, register
from autofit_ml.profiles.sersic import N_MAX, N_MIN, sersic_b_series


def _light(r, n, rb, gamma, alpha):
    log_r = r.log()
    softened = torch.logaddexp(alpha * log_r, alpha * rb.log()) / alpha
    return (gamma * (softened - log_r) - sersic_b_series(n) * (softened / n).exp()).exp()


register(
    Profile(
        name="core_sersic",
        kind="elliptical",
        description="Sérsic profile with a depleted core",
        shapes=(
            ShapeParameter("n", 4.0, (N_MIN, N_MAX), True, "", "Sérsic index outside the break"),
            ShapeParameter("rb", 0.05, (1e-3, 2.0), True, "R", "break radius"),
            ShapeParameter("gamma", 0.1, (0.0, 1.5), False, "", "slope inside the break"),
            ShapeParameter("alpha", 5.0, (0.5, 10.0), True, "", "sharpness of the break"),
        ),
        light=_light,
        natural_radii=lambda n, rb, gamma, alpha: {"break": rb, "outer_half_light": 1.0},
    )
)
