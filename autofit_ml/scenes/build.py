"""Making scenes: plain functions, and model strings.

``sersic(n=(0.5, 6))`` is a scene of one component; ``scene(bulge=sersic(), disk=exponential())``
puts several together; ``parse_model("sersic+exp")`` reads what the command line is given. What is
said of a parameter (a *specification*) is the same from Python and in a YAML file; `as_parameter`
has the list.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from autofit_ml.errors import SettingsError
from autofit_ml.profiles.registry import get_profile
from autofit_ml.scenes.model import SKY, Component, Parameter, Scene, named
from autofit_ml.scenes.naming import free_name, profile_of
from autofit_ml.scenes.parameters import Bounds
from autofit_ml.scenes.priors import PRIORS, Prior

__all__ = [
    "as_parameter",
    "component",
    "devaucouleurs",
    "exponential",
    "fixed",
    "free",
    "gaussian",
    "moffat",
    "point",
    "scene",
    "sersic",
    "shifted",
    "with_sky",
    "with_values",
]

_BOUNDS = tuple(field.name for field in dataclasses.fields(Bounds) if field.name != "n")
_KEYS = ("start", "fixed", "bounds", "prior", "tie", "bands")

_OTHER_NAMES = (("mean", "median"), ("median", "mean"), ("sigma", "sd"))
"""What a prior's numbers may be called besides."""


# --- Specifications --------------------------------------------------------------------------


def fixed(value: float | None = None) -> Parameter:
    """A parameter held at `value`; without one, at what the initialiser finds."""
    return Parameter(value, fixed=True)


def free(
    start: float | None = None,
    *,
    bounds: Sequence[float | None] = (None, None),
    prior: Prior | None = None,
    bands: str | int = "",
) -> Parameter:
    """A fitted parameter.

    Parameters
    ----------
    start : float, optional
        The initialiser's value by default.
    bounds : (float or None, float or None)
    prior : Prior, optional
        E.g. ``normal(4, 1)``.
    bands : "free", "shared" or int
        See `autofit_ml.scenes.Parameter`.
    """
    return Parameter(start, bounds=_pair(bounds), prior=prior, bands=bands)


def as_parameter(specification: Any) -> Parameter:
    """Turn what is said of a parameter into a `Parameter`.

    Parameters
    ----------
    specification : object
        - ``(low, high)``: bounds; None leaves a side open;
        - text: a tie, ``"bulge.x"`` or ``"2 * bulge.re"``;
        - a prior: ``normal(4, 1)``;
        - a mapping (in YAML) with any of ``start``, ``fixed`` (a value, or true), ``bounds``,
          ``tie``, ``bands`` and a prior by its name: ``{"log-normal": [3, 0.3]}``;
        - a `Parameter`, as `fixed` and `free` make them;
        - None: nothing is said.

    Raises
    ------
    SettingsError
        Also for a bare number, which some would read as a start and some as a fixed value.
    """
    if specification is None:
        return Parameter()
    if isinstance(specification, Parameter):
        return specification
    if isinstance(specification, Prior):
        return Parameter(prior=specification)
    if isinstance(specification, str):
        return Parameter(tie=specification.strip())
    if isinstance(specification, bool):
        raise SettingsError(f"{specification} says nothing of a parameter", "see docs/models.md")
    if isinstance(specification, (int, float)):
        raise SettingsError(
            f"{specification:g} could be a start or a fixed value",
            f"write {{start: {specification:g}}} or {{fixed: {specification:g}}} "
            f"(from Python: free({specification:g}) or fixed({specification:g}))",
        )
    if isinstance(specification, Mapping):
        return _from_mapping(specification)
    if isinstance(specification, Sequence):
        return Parameter(bounds=_pair(specification))
    raise SettingsError(
        f"{specification!r} does not describe a parameter", "give bounds, a tie, or a mapping"
    )


def _pair(bounds: Any) -> tuple[float | None, float | None]:
    if isinstance(bounds, (str, Mapping)) or not isinstance(bounds, Sequence) or len(bounds) != 2:
        raise SettingsError(f"bounds are {bounds!r}", "give two numbers: [low, high]")
    return (bounds[0], bounds[1])


def _from_mapping(given: Mapping) -> Parameter:
    rest = dict(given)
    prior = _take_prior(rest)
    value, held = rest.pop("start", None), rest.pop("fixed", False)
    if held is not False and held is not True and held is not None:
        if value is not None:
            raise SettingsError("it has a start and a fixed value", "give one of the two")
        value, held = held, True
    elif held is None:
        raise SettingsError("fixed has no value", "write {fixed: 0.9}")
    bounds = _pair(rest.pop("bounds")) if "bounds" in rest else (None, None)
    tie, bands = rest.pop("tie", ""), rest.pop("bands", "")
    if not isinstance(tie, str):
        raise SettingsError(f"the tie is {tie!r}", "write an expression, e.g. 2 * bulge.re")
    if rest:
        names = ", ".join(repr(name) for name in rest)
        raise SettingsError(
            f"{names} is not understood", f"use {', '.join(_KEYS)}, or a prior: {', '.join(PRIORS)}"
        )
    return Parameter(value, bool(held), bounds, prior, tie.strip(), bands)


def _take_prior(rest: dict) -> Prior | None:
    """Remove the prior from a mapping and make it."""
    named_priors = [name for name in ("prior", *PRIORS) if name in rest]
    if len(named_priors) > 1:
        raise SettingsError("it has more than one prior", "give one")
    if not named_priors:
        return None
    given = rest.pop(named_priors[0])
    if named_priors[0] != "prior":
        return _prior(named_priors[0], given)
    if given is None or isinstance(given, Prior):
        return given
    if isinstance(given, Mapping) and len(given) == 1:
        name, numbers = next(iter(given.items()))
        return _prior(name, numbers)
    if isinstance(given, str):  # {prior: normal, mean: 4, sd: 1}
        fields = _prior_fields(given)
        return _prior(given, {key: rest.pop(key) for key in list(rest) if key in fields})
    raise SettingsError(f"the prior is {given!r}", "write e.g. {normal: [4, 1]}")


def _prior_fields(name: str) -> dict[str, str]:
    """Names by which a prior's numbers may be given, and its own names for them."""
    if name not in PRIORS:
        raise SettingsError(f"there is no prior {name!r}", f"use one of {', '.join(PRIORS)}")
    own = {field.name: field.name for field in dataclasses.fields(PRIORS[name])}
    return {other: field for other, field in _OTHER_NAMES if field in own} | own


def _prior(name: str, numbers: Any) -> Prior:
    """A prior of its name and numbers: a list in order, or a mapping by name."""
    fields = _prior_fields(name)
    own = [field.name for field in dataclasses.fields(PRIORS[name])]
    remedy = f"write {{{name}: [{', '.join(own)}]}}"
    if isinstance(numbers, Mapping):
        given = {}
        for key, number in numbers.items():
            if key not in fields or fields[key] in given:
                raise SettingsError(f"{key!r} in a {name} prior", remedy)
            given[fields[key]] = number
        missing = [field for field in own if field not in given]
        if missing:
            raise SettingsError(f"the {name} prior lacks {', '.join(missing)}", remedy)
    elif isinstance(numbers, Sequence) and not isinstance(numbers, str):
        given = dict(zip(own, numbers, strict=False))
        if len(numbers) != len(own):
            raise SettingsError(f"a {name} prior with {len(numbers)} numbers", remedy)
    else:
        raise SettingsError(f"a {name} prior of {numbers!r}", remedy)
    if name == "log-normal":
        given["sd"] = _natural(given["sd"])
    return PRIORS[name](**given)


def _natural(sd: Any) -> Any:
    """Standard deviation in ln of "0.3 dex"."""
    match = re.fullmatch(r"\s*([\d.eE+-]+)\s*dex\s*", sd) if isinstance(sd, str) else None
    try:
        return sd if match is None else float(match[1]) * math.log(10)
    except ValueError:
        return sd


# --- One component ---------------------------------------------------------------------------


def component(
    profile: str,
    name: str = "",
    *,
    sky: str | float | Mapping = "free",
    modifiers: Sequence[str] = (),
    **parameters: Any,
) -> Scene:
    """A scene of one component.

    Parameters
    ----------
    profile : str
        Name or alias.
    name : str, optional
        The profile's by default.
    sky : "free", "fixed", "tilted", float or mapping
        See `autofit_ml.scenes.Scene`.
    modifiers : sequence of str
        ``boxiness``, ``twist``, and Fourier modes ``f1``, ``f3``, ...
    **parameters
        What is said of each parameter (`as_parameter`); also the fields of
        `autofit_ml.scenes.Bounds`: ``re_min``, ``re_max_stamps``, ``q_min``.
    """
    bounds = {key: parameters.pop(key) for key in _BOUNDS if key in parameters}
    made = _component(name or get_profile(profile).name, profile, modifiers, parameters)
    if "n" in made.parameters and _only_bounds(made.parameters["n"]):
        bounds["n"] = made.parameters["n"].bounds
    return Scene((made,), bounds=Bounds(**bounds), **_sky(sky))


def _only_bounds(parameter: Parameter) -> bool:
    return None not in parameter.bounds and parameter == Parameter(bounds=parameter.bounds)


def _component(
    name: str, profile: str, modifiers: Sequence[str], parameters: Mapping[str, Any]
) -> Component:
    with named(str(name)):
        described = profile_of(profile, modifiers)
    return Component(name, described, _parameters(name, parameters))


def _parameters(name: str, specifications: Mapping[str, Any]) -> dict[str, Parameter]:
    made = {}
    for key, specification in specifications.items():
        with named(f"{name}.{key}"):
            made[key] = as_parameter(specification)
    return made


def _sky(sky: str | float | Mapping) -> dict[str, Any]:
    """Fields of a Scene: `sky`, and `sky_parameters` where it is described at length."""
    if not isinstance(sky, Mapping):
        return {"sky": sky}
    tilted = "sky_dx" in sky or "sky_dy" in sky
    return {"sky": "tilted" if tilted else "free", "sky_parameters": _parameters(SKY, sky)}


def sersic(sky: str | float | Mapping = "free", **parameters: Any) -> Scene:
    """One Sérsic component and a sky: x, y, flux, re, n, q, pa.

    Parameters
    ----------
    sky : "free", "fixed", "tilted", float or mapping
        See `autofit_ml.scenes.Scene`.
    **parameters
        As for `component`, e.g. ``n=(0.5, 6)``, ``q=fixed(0.9)``.
    """
    return component("sersic", sky=sky, **parameters)


def exponential(sky: str | float | Mapping = "free", **parameters: Any) -> Scene:
    """One exponential disc: x, y, flux, re (1.678 scale lengths), q, pa. See `component`."""
    return component("exponential", sky=sky, **parameters)


def devaucouleurs(sky: str | float | Mapping = "free", **parameters: Any) -> Scene:
    """One de Vaucouleurs profile: x, y, flux, re, q, pa. See `component`."""
    return component("devaucouleurs", sky=sky, **parameters)


def gaussian(sky: str | float | Mapping = "free", **parameters: Any) -> Scene:
    """One Gaussian: x, y, flux, re (FWHM / 2), q, pa. See `component`."""
    return component("gaussian", sky=sky, **parameters)


def moffat(sky: str | float | Mapping = "free", **parameters: Any) -> Scene:
    """One Moffat profile: x, y, flux, re, beta, q, pa. See `component`."""
    return component("moffat", sky=sky, **parameters)


def point(sky: str | float | Mapping = "free", **parameters: Any) -> Scene:
    """One point source, the PSF itself: x, y, flux. See `component`."""
    return component("point", sky=sky, **parameters)


# --- Several components ----------------------------------------------------------------------


def scene(
    *parts: Scene | str,
    sky: str | float | Mapping = "free",
    constraints: Sequence[str] | str = (),
    bounds: Bounds | None = None,
    **components: Scene | str,
) -> Scene:
    """Put components together; nothing is tied unless said so.

    Parameters
    ----------
    *parts : Scene or str
        Scenes (of one component or more), or names of profiles. A component whose name is taken
        becomes ``NAME_2``, ``NAME_3``, ...
    sky : "free", "fixed", "tilted", float or mapping
        The sky under all of them; that of the parts is not used.
    constraints : sequence of str
        E.g. ``["disk.re > bulge.re"]``.
    bounds : Bounds, optional
        Defaults for parameters without bounds of their own; by default those of the parts, which
        must then agree (but for n, which stays with its component).
    **components : Scene or str
        Scenes of one component, or names of profiles; the keyword becomes the component's name.

    Returns
    -------
    Scene
        Checked: see `autofit_ml.scenes.Scene.check`.
    """
    made: list[Component] = []
    defaults: set[Bounds] = set()
    conditions: list[str] = []
    for keyword, given in [*(("", part) for part in parts), *components.items()]:
        part = component(given) if isinstance(given, str) else given
        if not isinstance(part, Scene):
            raise SettingsError(f"{part!r} is not a component", "give e.g. sersic() or 'sersic'")
        if keyword and len(part.components) != 1:
            raise SettingsError(
                f"{keyword}: a scene of {len(part.components)} components", "give one of them"
            )
        for one in part.components:
            taken = [other.name for other in made] + list(components)
            name = keyword or free_name(one.name, taken)
            if not keyword and name != one.name and (part.ties or part.constraints):
                raise SettingsError(
                    "parts with ties or constraints have components of the same name",
                    "name them: scene(bulge=..., disk=...)",
                )
            made.append(dataclasses.replace(one, name=name))
        conditions += part.constraints
        defaults.add(dataclasses.replace(part.bounds, n=Bounds().n))
    changed = defaults - {Bounds()}
    if bounds is None and len(changed) > 1:
        raise SettingsError(
            "the parts have different re_min, re_max_stamps or q_min",
            "give the scene's: scene(..., bounds=Bounds(...))",
        )
    bounds = bounds or next(iter(changed), Bounds())
    conditions += [constraints] if isinstance(constraints, str) else list(constraints)
    return Scene(tuple(made), constraints=tuple(conditions), bounds=bounds, **_sky(sky)).check()


# --- Changes ---------------------------------------------------------------------------------


def with_sky(model: Scene, sky: str | float | Mapping) -> Scene:
    """The same scene on another sky."""
    return dataclasses.replace(model, **{"sky_parameters": {}, **_sky(sky)})


def with_values(model: Scene, values: Mapping[str, float]) -> Scene:
    """The same scene with other starts (or held values), e.g. ``{"bulge.re": 3.2}``.

    Tied parameters follow from the others and must not be given.
    """
    for name in values:
        if name not in model.parameters:
            raise SettingsError(
                f"there is no parameter {name!r}", f"there are {', '.join(model.parameters)}"
            )
    return model.with_parameters(
        {
            name: dataclasses.replace(model.parameters[name], value=float(value))
            for name, value in values.items()
        }
    )


def shifted(model: Scene, dx: float, dy: float) -> Scene:
    """The same scene in pixels whose origin lies at (-dx, -dy): x + dx, y + dy.

    Values and bounds move; a prior of a position is refused, since it belongs to its pixels.
    """

    moved = {}
    for name, parameter in model.parameters.items():
        step = {"x": dx, "y": dy}.get(name.rpartition(".")[2], 0.0)
        if step == 0.0 or parameter.tie:
            continue
        if parameter.prior is not None:
            raise SettingsError(
                f"{name} has a prior, which would have to move with the pixels",
                "write the model for the image that is fitted",
            )
        low, high = (None if bound is None else bound + step for bound in parameter.bounds)
        value = None if parameter.value is None else parameter.value + step
        moved[name] = dataclasses.replace(parameter, value=value, bounds=(low, high))
    return model.with_parameters(moved)
