"""Registry of light profiles and their parameters.

A profile is described by one `Profile`; every file of `autofit_ml.profiles.library` makes one and
passes it to `register`. In: a name. Out: the profile's parameters (for the scene language and the
fit) and its tables (for the renderer). docs/profiles.md lists them and shows how to add one.
"""

import re
from functools import lru_cache
from importlib import import_module
from pkgutil import iter_modules

from autofit_ml.errors import SettingsError
from autofit_ml.profiles.profile import KINDS, Profile, ShapeParameter

__all__ = [
    "KINDS",
    "Profile",
    "ShapeParameter",
    "get_profile",
    "profile_names",
    "register",
]

_REGISTRY: dict[str, Profile] = {}


def register(profile: Profile) -> Profile:
    """Make a profile known to `get_profile`, by its name and its aliases.

    Registering the same profile again (a reloaded module) replaces it.

    Raises
    ------
    SettingsError
        A name is taken by another profile.
    """
    for name in (profile.name, *profile.aliases):
        other = _REGISTRY.get(name)
        if other is not None and other.name != profile.name:
            raise SettingsError(
                f"the name {name!r} belongs to profile {other.name!r}", "choose another"
            )
    for name in (profile.name, *profile.aliases):
        _REGISTRY[name] = profile
    return profile


def get_profile(name: str) -> Profile:
    """A profile by its name or an alias; upper and lower case are the same.

    ``sersic[boxiness,f3,twist]`` is a profile with modifiers (`autofit_ml.profiles.modified`).

    Raises
    ------
    SettingsError
        There is none of that name.
    """
    _load_library()
    key = name.strip().lower().replace("-", "_")
    if "[" in key:
        return _modified(key)
    if key not in _REGISTRY:
        raise SettingsError(
            f"there is no profile {name!r}", f"use one of {', '.join(profile_names())}"
        )
    return _REGISTRY[key]


@lru_cache(maxsize=256)
def _modified(name: str) -> Profile:
    """A profile with modifiers, by the name that `modified` gave it."""
    from autofit_ml.profiles.modifiers import modified  # loads PyTorch

    base, _, rest = name.partition("[")
    words = [word.strip() for word in rest.rstrip("]").split(",")]
    modes = [int(word[1:]) for word in words if re.fullmatch(r"f\d{1,2}", word)]
    unknown = set(words) - {"boxiness", "twist"} - {f"f{mode}" for mode in modes}
    if unknown or not rest.endswith("]"):
        raise SettingsError(
            f"{name!r} is not a profile with modifiers",
            "use boxiness, twist, and Fourier modes f1, f3, f4, ...: sersic[boxiness,f3,twist]",
        )
    return modified(
        get_profile(base), boxiness="boxiness" in words, fourier=modes, twist="twist" in words
    )


def profile_names() -> tuple[str, ...]:
    """Names of all registered profiles (without aliases), sorted."""
    _load_library()
    return tuple(sorted({profile.name for profile in _REGISTRY.values()}))


@lru_cache(maxsize=1)
def _load_library() -> None:
    """Import every file of the library, once."""
    library = import_module("autofit_ml.profiles.library")
    for module in iter_modules(library.__path__):
        import_module(f"{library.__name__}.{module.name}")
