r"""Isophotes that are not ellipses: boxiness, Fourier modes, twist.

A modifier stretches the radius at which a profile is read. In the frame in which the component's
ellipse is the unit circle, with the radius u and the angle :math:`\phi` from the major axis, the
brightness is that of the profile at :math:`u\,e^{\Delta}`, and the :math:`\Delta` of several
modifiers add up.

==========  =========================================================================
boxiness    :math:`\Delta = \ln(|\cos\phi|^c + |\sin\phi|^c) / c`, c = boxiness + 2
            (Athanassoula et al. 1990, MNRAS 245, 130)
Fourier m   :math:`\Delta = \ln(1 + \Sigma\, a_m \cos m\phi + b_m \sin m\phi)`
            (Peng et al. 2010, AJ 139, 2097, eq. 24)
twist       :math:`\Delta = \frac12 \ln[\cosh d - \frac{\sinh d}{d}\, T\,
            (\delta_1 \cos 2\phi + \delta_2 \sin 2\phi)]`, with :math:`d = |\delta T|` and
            :math:`T = \ln 10\,\tanh(\ln(u/r_e) / \ln 10)`: isophotes whose :math:`\eta` changes
            by :math:`\delta` per unit of ln r about the half-light radius, and by no more than
            2.3 :math:`\delta` far from it
==========  =========================================================================
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial

import torch

from autofit_ml.errors import SettingsError
from autofit_ml.profiles.profile import Profile, ShapeParameter

__all__ = ["Modifier", "modified"]

_REACH = math.log(10.0)
"""A twist goes on for about this much in ln r to both sides of the half-light radius."""

_SMALLEST = 0.1
"""Smallest factor of the radius that Fourier modes may reach together."""


@dataclass(frozen=True)
class Modifier:
    """A change of a profile's isophotes.

    Attributes
    ----------
    name : str
    shapes : tuple of ShapeParameter
        Its parameters; fitted as they are (never as logarithms).
    stretch : callable
        Delta above, element by element: ``(phi, *values)``, or ``(log_u, phi, *values)`` with
        log_u = ln(u / half-light radius) if `radial`.
    radial : bool
        Delta depends on the radius too.
    aligned : bool
        The angle counts from the major axis. Otherwise `values` are the two components of a pair
        that turns with the axes as eta does, and counts from +x.
    fold : int
        The isophotes repeat after 1 / fold of a turn; 1, 2 or 4.
    mirror : bool
        They are symmetric about the major axis.
    kinks : bool
        They may have kinks on the axes.
    max_order : int
        Largest order of the angle that is kept; a multiple of 8.
    """

    name: str
    shapes: tuple[ShapeParameter, ...]
    stretch: Callable[..., torch.Tensor]
    radial: bool = False
    aligned: bool = True
    fold: int = 1
    mirror: bool = False
    kinks: bool = False
    max_order: int = 32


def modified(
    profile: Profile, *, boxiness: bool = False, fourier: Sequence[int] = (), twist: bool = False
) -> Profile:
    """A profile with other isophotes; further shape parameters come after all its own.

    Parameters
    ----------
    profile : Profile
        Of kind "elliptical".
    boxiness : bool
        Adds ``boxiness``: > 0 boxy, < 0 discy.
    fourier : sequence of int
        Modes m; each adds ``f<m>_a`` and ``f<m>_b``, the cosine and sine amplitudes. Not 2, which
        is the ellipticity.
    twist : bool
        Adds ``twist_eta1`` and ``twist_eta2``, the change of eta per unit of ln r.

    Returns
    -------
    Profile
        Of kind "pixel"; its name lists the modifiers, and `get_profile` understands it. Without
        any modifier the profile itself.

    Raises
    ------
    SettingsError
        The profile has no elliptical isophotes; a mode is not available; a twist of a profile that
        ends sharply.
    """
    modes = tuple(sorted({int(m) for m in fourier}))
    if not (boxiness or modes or twist):
        return profile
    if profile.kind != "elliptical":
        raise SettingsError(
            f"the isophotes of {profile.name!r} cannot be modified",
            "modify a profile with elliptical isophotes",
        )
    if any(m < 1 or m == 2 or m > 8 for m in modes):
        raise SettingsError(f"Fourier modes {modes} are not available", "use 1 and 3 to 8")
    if twist and profile.truncated:
        raise SettingsError(
            f"the profile {profile.name!r} ends sharply and cannot be twisted",
            "twist a profile without an end",
        )
    modifiers = [_BOXINESS] if boxiness else []
    if modes:
        modifiers.append(_fourier(modes))
    if twist:
        modifiers.append(_TWIST)
    names = ["boxiness"] * boxiness + [f"f{m}" for m in modes] + ["twist"] * twist
    return replace(
        profile,
        name=f"{profile.name}[{','.join(names)}]",
        aliases=(),
        kind="pixel",
        description=f"{profile.description}, with {', '.join(names)}",
        shapes=(*profile.shapes, *(shape for m in modifiers for shape in m.shapes)),
        modifiers=tuple(modifiers),
    )


def _superellipse(phi: torch.Tensor, boxiness: torch.Tensor) -> torch.Tensor:
    c = boxiness + 2.0
    log_cos, log_sin = phi.cos().abs().log(), phi.sin().abs().log()
    return torch.logaddexp(c * log_cos, c * log_sin) / c


_BOXINESS = Modifier(
    "boxiness",
    (ShapeParameter("boxiness", 0.0, (-1.0, 2.0), False, "", "> 0 boxy, < 0 discy isophotes"),),
    _superellipse,
    fold=4,
    mirror=True,
    kinks=True,
)


def _modes(modes: tuple[int, ...], phi: torch.Tensor, *amplitudes: torch.Tensor) -> torch.Tensor:
    factor = torch.ones_like(amplitudes[0])
    for m, a, b in zip(modes, amplitudes[::2], amplitudes[1::2], strict=True):
        factor = factor + a * (m * phi).cos() + b * (m * phi).sin()
    return factor.clamp_min(_SMALLEST).log()


@cache
def _fourier(modes: tuple[int, ...]) -> Modifier:
    shapes = tuple(
        ShapeParameter(f"f{m}_{part}", 0.0, (-0.3, 0.3), False, "", f"{wave} amplitude of mode {m}")
        for m in modes
        for part, wave in (("a", "cosine"), ("b", "sine"))
    )
    return Modifier(
        "fourier",
        shapes,
        partial(_modes, modes),
        fold=math.gcd(4, *modes),
        max_order=16 if max(modes) < 4 else 8 * (2 + (max(modes) + 1) // 2),
    )


def _turning(
    log_u: torch.Tensor, phi: torch.Tensor, delta1: torch.Tensor, delta2: torch.Tensor
) -> torch.Tensor:
    reach = _REACH * (log_u / _REACH).tanh()
    d1, d2 = delta1 * reach, delta2 * reach
    square = d1.square() + d2.square()
    d = square.clamp_min(1e-12).sqrt()
    cosh = torch.where(square < 1e-8, 1 + square / 2, d.cosh())
    sinhc = torch.where(square < 1e-8, 1 + square / 6, d.sinh() / d)
    return (cosh - sinhc * (d1 * (2 * phi).cos() + d2 * (2 * phi).sin())).log() / 2


_TWIST = Modifier(
    "twist",
    (
        ShapeParameter("twist_eta1", 0.0, (-0.7, 0.7), False, "", "change of eta1 with ln r"),
        ShapeParameter("twist_eta2", 0.0, (-0.7, 0.7), False, "", "change of eta2 with ln r"),
    ),
    _turning,
    radial=True,
    aligned=False,
    fold=2,
    max_order=24,
)
