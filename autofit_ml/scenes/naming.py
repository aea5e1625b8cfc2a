"""Names of profiles in the scene language: ``sersic``, ``exp``, ``sersic`` with ``[boxiness, f3]``.

In: a name or alias and modifiers, as a model string or file gives them. Out: the `Profile`; and
back. The profiles themselves are in `autofit_ml.profiles`.
"""

from __future__ import annotations

from collections.abc import Sequence

from autofit_ml.profiles.registry import Profile, get_profile

__all__ = ["base_name", "free_name", "modifier_names", "profile_of", "short_name"]

_SHORT_NAMES = {"exponential": "exp", "devaucouleurs": "dev", "point": "psf"}


def profile_of(name: str, modifiers: Sequence[str] = ()) -> Profile:
    """A profile with modifiers.

    Parameters
    ----------
    name : str
        A name or alias of the registry.
    modifiers : sequence of str
        ``boxiness``, ``twist``, and Fourier modes ``f1``, ``f3``, ...

    Returns
    -------
    Profile
        The same object for the same arguments.
    """
    if isinstance(modifiers, str):
        modifiers = modifiers.split(",")
    words = sorted({str(modifier).strip() for modifier in modifiers})
    return get_profile(f"{name}[{','.join(words)}]" if words else name)


def base_name(profile: Profile) -> str:
    """The profile's name without modifiers."""
    return profile.name.partition("[")[0]


def modifier_names(profile: Profile) -> list[str]:
    """Its modifiers: ``boxiness``, ``f3``, ``twist``."""
    listed = profile.name.partition("[")[2].rstrip("]")
    return [word for word in listed.split(",") if word]


def short_name(profile: Profile) -> str:
    """The profile as model strings call it: ``exp``, ``sersic[boxiness,f3]``."""
    base, bracket, modifiers = profile.name.partition("[")
    return _SHORT_NAMES.get(base, base) + bracket + modifiers


def free_name(name: str, taken: Sequence[str]) -> str:
    """The name, with ``_2``, ``_3``, ... if it is taken."""
    if name not in taken:
        return name
    number = 2
    while f"{name}_{number}" in taken:
        number += 1
    return f"{name}_{number}"
