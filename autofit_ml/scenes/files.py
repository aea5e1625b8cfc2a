"""Model files: a scene in YAML (docs/models.md has the syntax).

In: a path or text. Out: a checked `autofit_ml.scenes.Scene`; and back. Numbers and words are read
as YAML 1.2 has them: ``y`` and ``n`` are names, not truth values, and ``1e3`` is a number.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from autofit_ml.errors import SettingsError
from autofit_ml.scenes.build import _component, _sky, as_parameter
from autofit_ml.scenes.model import Component, Parameter, Scene, named
from autofit_ml.scenes.naming import base_name, modifier_names
from autofit_ml.scenes.parameters import Bounds
from autofit_ml.user_yaml import parse_user_yaml, read_user_text

__all__ = ["ModelLoader", "read_model", "scene_from", "write_model"]

_TOP = ("components", "sky", "constraints", "bounds")


def read_model(source: str | Path) -> Scene:
    """Read a model.

    Parameters
    ----------
    source : str or path
        A YAML file; or the text itself (anything with a line break or a colon that is not the
        name of a file).

    Returns
    -------
    Scene
        Checked.

    Raises
    ------
    SettingsError
        Naming the file, the component and the parameter.
    """
    file = None
    if isinstance(source, Path) or not re.search(r"\n|:\s|:$", source):
        file = Path(source)
        text = read_user_text(file, "model file")
    else:
        text = source
    try:
        return scene_from(_parsed(text))
    except SettingsError as error:
        if file is None or error.file is not None:
            raise
        raise SettingsError(error.problem, error.remedy, file) from None


def write_model(scene: Scene, path: str | Path | None = None) -> str:
    """A scene as YAML that `read_model` reads back to an equal scene.

    Parameters
    ----------
    scene : Scene
    path : str or path, optional
        Written there too.

    Returns
    -------
    str
    """
    model: dict[str, Any] = {
        "components": {
            component.name: _component_entry(component) for component in scene.components
        },
        "sky": _sky_entry(scene),
    }
    if scene.constraints:
        model["constraints"] = list(scene.constraints)
    if scene.bounds != Bounds():
        default = Bounds()
        model["bounds"] = {
            field.name: _plain(getattr(scene.bounds, field.name))
            for field in dataclasses.fields(Bounds)
            if getattr(scene.bounds, field.name) != getattr(default, field.name)
        }
    text = yaml.dump(model, Dumper=_Dumper, sort_keys=False, default_flow_style=None, width=100)
    if path is not None:
        Path(path).write_text(text, encoding="utf-8")
    return text


# --- YAML ------------------------------------------------------------------------------------


class ModelLoader(yaml.SafeLoader):
    """YAML 1.2's words and numbers; keys given twice are refused."""

    # An own table: the base class's has y, n, on, off, dates, and numbers to the base 60.
    yaml_implicit_resolvers: dict = {}  # noqa: RUF012


class _Dumper(yaml.SafeDumper):
    """Quotes what `ModelLoader` would otherwise not read back as text."""

    yaml_implicit_resolvers: dict = {}  # noqa: RUF012

    def ignore_aliases(self, data: Any) -> bool:
        return True


for _kind in (ModelLoader, _Dumper):
    for _tag, _pattern, _first in (
        ("bool", r"^(?:true|True|TRUE|false|False|FALSE)$", "tTfF"),
        ("null", r"^(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
        ("int", r"^[-+]?[0-9]+$", "-+0123456789"),
        (
            "float",
            r"^[-+]?(?:(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|\.(?:inf|Inf|INF))$"
            r"|^\.(?:nan|NaN|NAN)$",
            "-+0123456789.",
        ),
    ):
        _kind.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(_pattern), list(_first))


def _construct_integer(loader: ModelLoader, node: yaml.ScalarNode) -> int:
    return int(loader.construct_scalar(node))


def _construct_mapping(loader: ModelLoader, node: yaml.MappingNode) -> dict:
    loader.flatten_mapping(node)
    mapping: dict = {}
    for key_node, value_node in node.value:
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, str):
            key = str(key_node.value)
        if key in mapping:
            raise SettingsError(
                f"line {key_node.start_mark.line + 1}: {key!r} is given twice", "keep one"
            )
        mapping[key] = loader.construct_object(value_node, deep=True)
    return mapping


ModelLoader.add_constructor("tag:yaml.org,2002:int", _construct_integer)
ModelLoader.add_constructor("tag:yaml.org,2002:map", _construct_mapping)


def _parsed(text: str) -> Mapping:
    model = parse_user_yaml(text, ModelLoader)
    if not isinstance(model, Mapping):
        raise SettingsError(
            "no model in it", "start with 'components:' and a name for each component"
        )
    return model


# --- Reading ---------------------------------------------------------------------------------


def scene_from(model: Mapping) -> Scene:
    """The scene that the content of a model file describes; see `read_model`."""
    for key in model:
        if key not in _TOP:
            raise SettingsError(f"{key!r} is not understood", f"use {', '.join(_TOP)}")
    parts = model.get("components")
    if not isinstance(parts, Mapping) or not parts:
        raise SettingsError(
            "components: there is none",
            "write e.g. components: {bulge: {profile: sersic}, disk: {profile: exponential}}",
        )
    constraints = model.get("constraints") or []
    if isinstance(constraints, str):
        constraints = [constraints]
    if not isinstance(constraints, list):
        raise SettingsError(f"constraints: {constraints!r}", "write a list: [disk.re > bulge.re]")
    return Scene(
        tuple(_read_component(name, entry) for name, entry in parts.items()),
        constraints=tuple(constraints),
        bounds=_read_bounds(model.get("bounds")),
        **_read_sky(model.get("sky", "free")),
    ).check()


def _read_component(name: str, entry: Any) -> Component:
    if isinstance(entry, str):
        entry = {"profile": entry}
    if not isinstance(entry, Mapping):
        raise SettingsError(f"{name}: {entry!r} is not a component", "write 'profile: sersic'")
    rest = dict(entry)
    profile = rest.pop("profile", None)
    if not isinstance(profile, str):
        raise SettingsError(f"{name}: profile is missing", "write e.g. profile: sersic")
    modifiers = rest.pop("modifiers", None) or []
    if not isinstance(modifiers, (list, str)):
        raise SettingsError(f"{name}: modifiers: {modifiers!r}", "write a list: [boxiness, f3]")
    return _component(name, profile, modifiers, rest)


def _read_sky(entry: Any) -> dict[str, Any]:
    if isinstance(entry, Mapping) or (
        isinstance(entry, (str, int, float)) and not isinstance(entry, bool)
    ):
        return _sky(entry)
    raise SettingsError(f"sky: {entry!r}", "use free, fixed, tilted, a number, or a mapping")


def _read_bounds(entry: Any) -> Bounds:
    if entry is None:
        return Bounds()
    names = tuple(field.name for field in dataclasses.fields(Bounds))
    if not isinstance(entry, Mapping) or any(name not in names for name in entry):
        raise SettingsError(f"bounds: {entry!r}", f"use a mapping with {', '.join(names)}")
    values: dict[str, Any] = {}
    for name, value in entry.items():
        with named(f"bounds.{name}"):
            if name == "n":
                values[name] = as_parameter(value).bounds if isinstance(value, list) else (None,)
                if None in values[name]:
                    raise SettingsError(f"{value!r}", "give two numbers: [low, high]")
            elif isinstance(value, bool) or not isinstance(value, (int, float)):
                raise SettingsError(f"{value!r}", "give a number")
            else:
                values[name] = float(value)
    return Bounds(**values)


# --- Writing ---------------------------------------------------------------------------------


def _component_entry(component: Component) -> dict[str, Any]:
    entry: dict[str, Any] = {"profile": base_name(component.profile)}
    modifiers = modifier_names(component.profile)
    if modifiers:
        entry["modifiers"] = modifiers
    for name, parameter in component.parameters.items():
        if not parameter.plain:
            entry[name] = _parameter_entry(parameter)
    return entry


def _sky_entry(scene: Scene) -> Any:
    default = Scene(scene.components[:1], scene.sky).sky_parameters
    if dict(scene.sky_parameters) == dict(default):
        return _plain(scene.sky)
    return {
        name: _parameter_entry(parameter)
        for name, parameter in scene.sky_parameters.items()
        if scene.sky == "tilted" or not parameter.plain
    }


def _parameter_entry(parameter: Parameter) -> Any:
    if parameter.tie:
        return parameter.tie
    entry: dict[str, Any] = {}
    if parameter.fixed:
        entry["fixed"] = True if parameter.value is None else _plain(parameter.value)
    elif parameter.value is not None:
        entry["start"] = _plain(parameter.value)
    if parameter.bounded:
        entry["bounds"] = _plain(parameter.bounds)
    if parameter.prior is not None:
        entry[parameter.prior.name] = _plain(dataclasses.astuple(parameter.prior))
    if parameter.bands != "":
        entry["bands"] = parameter.bands
    return entry


def _plain(value: Any) -> Any:
    """Numbers without a needless fraction, tuples as lists."""
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return int(value)
    return value
