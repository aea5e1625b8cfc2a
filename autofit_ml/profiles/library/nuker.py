r"""Nuker law (Lauer et al. 1995, AJ 110, 2622, eq. 1).

.. math:: I(r) \propto \left(\frac{r_b}{r}\right)^{\gamma}
          \left[1 + \left(\frac{r}{r_b}\right)^{\alpha}\right]^{(\gamma-\beta)/\alpha}

The flux is finite for beta > 2 only; the nearer to 2, the farther out half of it lies, so that the
bounds begin at 2.5. (Fits to nuclei, where beta is often 1 to 2, have no total flux.)
"""

import torch

from autofit_ml.profiles.registry import Profile, ShapeParameter, register


def _light(r, alpha, beta, gamma):
    log_r = r.log()
    steepening = torch.logaddexp(torch.zeros_like(r), alpha * log_r) / alpha
    return ((gamma - beta) * steepening - gamma * log_r).exp()


register(
    Profile(
        name="nuker",
        kind="elliptical",
        description="Nuker law: a double power law",
        shapes=(
            ShapeParameter("alpha", 2.0, (0.5, 10.0), True, "", "sharpness of the break"),
            ShapeParameter("beta", 3.0, (2.5, 8.0), True, "", "slope outside the break"),
            ShapeParameter("gamma", 0.5, (0.0, 1.5), False, "", "slope inside the break"),
        ),
        light=_light,
        natural_radii=lambda alpha, beta, gamma: {"break": 1.0},
    )
)
