r"""Moffat profile (Moffat 1969, A&A 3, 455).

.. math:: I(r) \propto [1 + (r/a)^2]^{-\beta}, \qquad
          r_e = a \sqrt{2^{1/(\beta-1)} - 1}, \qquad \mathrm{FWHM} = 2 a \sqrt{2^{1/\beta} - 1}

The flux is finite for beta > 1; below 1.5 so much of it lies in the far wings that no stamp can
say how much.
"""

from autofit_ml.profiles.registry import Profile, ShapeParameter, register

register(
    Profile(
        name="moffat",
        kind="elliptical",
        description="Moffat",
        shapes=(ShapeParameter("beta", 3.0, (1.5, 15.0), True, "", "slope of the wings"),),
        light=lambda r, beta: (1 + r.square()) ** -beta,
        natural_radii=lambda beta: {"fwhm": 2 * (2 ** (1 / beta) - 1) ** 0.5, "core": 1.0},
    )
)
