r"""Exponential and de Vaucouleurs light of one half-light radius (SDSS's and Celeste's galaxies).

.. math:: I(r) = (1 - d)\,I_\mathrm{exp}(r) + d\,I_\mathrm{dev}(r)

Both have flux 1 and half of it inside r = 1: so has their sum, of which a share d is de
Vaucouleurs'.
"""

from autofit_ml.profiles.registry import Profile, ShapeParameter, register
from autofit_ml.profiles.sersic import sersic_b, sersic_brightness

_EXP, _DEV = ((float(sersic_brightness(0.0, n)), float(sersic_b(n))) for n in (1, 4))
"""Central brightness and b of the Sérsic profiles of flux 1."""


def _light(r, dev):
    exponential = _EXP[0] * (-_EXP[1] * r).exp()
    return (1 - dev) * exponential + dev * _DEV[0] * (-_DEV[1] * r**0.25).exp()


register(
    Profile(
        name="exp_dev",
        kind="elliptical",
        description="exponential and de Vaucouleurs, one size",
        shapes=(ShapeParameter("dev", 0.5, (0.0, 1.0), False, "", "de Vaucouleurs share"),),
        light=_light,
    )
)
