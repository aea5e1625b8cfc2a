r"""Moffat profile (Moffat 1969, A&A 3, 455).

.. math:: I(r) \propto [1 + (r/a)^2]^{-\beta}, \qquad
          r_e = a \sqrt{2^{1/(\beta-1)} - 1}, \qquad
          \mathrm{FWHM} = 2 a \sqrt{2^{1/\beta} - 1}.

The flux is finite for beta > 1; below 1.5 half of it lies far out in the wings, and no stamp can
say how much.
"""

from functools import lru_cache

import numpy as np

from autofit_ml.profiles.hankel import HankelTable, tabulate
from autofit_ml.profiles.registry import Profile, ShapeParameter, register

_BOUNDS = (1.5, 15.0)


def _core2(beta):
    """(half-light radius / a)^2."""
    return 2.0 ** (1.0 / (beta - 1.0)) - 1.0


def _brightness(r, beta):
    c = _core2(beta)
    return (beta - 1) * c / np.pi * (1 + c * r**2) ** -beta


def _slope(r, beta):
    c = _core2(beta)
    return -2 * beta * c * r**2 / (1 + c * r**2) * _brightness(r, beta)


@lru_cache(maxsize=1)
def _table() -> HankelTable:
    return tabulate(_brightness, _slope, (1.45, 15.5))


register(
    Profile(
        name="moffat",
        kind="elliptical",
        description="Moffat (1969)",
        shapes=(ShapeParameter("beta", 3.0, _BOUNDS, True, "", "slope of the wings"),),
        light=lambda r, beta: (1 + r.square()) ** -beta,
        table=_table,
        natural_radii=lambda re, beta: {"fwhm": 2 * np.sqrt(2 ** (1 / np.asarray(beta)) - 1)},
    )
)
