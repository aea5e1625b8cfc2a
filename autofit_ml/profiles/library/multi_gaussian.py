r"""Sum of concentric Gaussians of one ellipticity (Emsellem et al. 1994, A&A 285, 723).

.. math:: I(r) \propto \sum_i \frac{f_i}{s_i^2} e^{-r^2 / 2 s_i^2}, \qquad
          f_1 = s_1 = 1, \quad s_i = s_{i-1}\,\mathrm{ratio}_i, \quad f_i = \mathrm{share}_i

f_i is the flux of the i-th Gaussian over that of the first, ratio_i > 1 its width over that of the
one before, so that the Gaussians cannot change places.
"""

from autofit_ml.profiles.registry import Profile, ShapeParameter, register


def multi_gaussian(count: int, name: str) -> Profile:
    """The profile of `count` Gaussians, under a name of its own."""
    shapes = []
    for i in range(2, count + 1):
        shapes += [
            ShapeParameter(f"ratio_{i}", 2.0, (1.1, 10.0), True, "", f"width {i} / width {i - 1}"),
            ShapeParameter(f"share_{i}", 1.0, (1e-3, 1e3), True, "", f"flux {i} / flux 1"),
        ]
    return Profile(
        name=name,
        kind="elliptical",
        description=f"sum of {count} Gaussians",
        shapes=tuple(shapes),
        light=_light,
    )


def _light(r, *shapes):
    total = (-0.5 * r.square()).exp()
    width = 1.0
    for ratio, share in zip(shapes[::2], shapes[1::2], strict=True):
        width = width * ratio
        total = total + share / width**2 * (-0.5 * (r / width).square()).exp()
    return total


register(multi_gaussian(3, "mge"))
