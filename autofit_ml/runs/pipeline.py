"""Stages of fits, each from what the one before found: the file of ``--pipeline``, and ``--grid``.

In: a YAML file (docs/pipelines.md has the syntax), or the text of a grid. Out: `Stage` objects, the
last of which is the run's model; `autofit_ml.runs.staged` fits them.
"""

import fnmatch
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from autofit_ml.catalogue import Column
from autofit_ml.errors import SettingsError, errors_of_file
from autofit_ml.fitting.grids import FRACTION, Axis, check_axes
from autofit_ml.scenes import Parameter, Scene, parse_model, with_sky
from autofit_ml.scenes.expressions import Expression, parse
from autofit_ml.scenes.files import ModelLoader, scene_from
from autofit_ml.scenes.model import named
from autofit_ml.settings import FitSettings
from autofit_ml.user_yaml import parse_user_yaml, read_user_text

__all__ = [
    "Stage",
    "Width",
    "axes_of",
    "pipeline_contents",
    "second_name",
    "stage_columns",
    "stages_of",
]

_OPTIONS = ("likelihood", "error_floor", "prior", "posterior", "neighbours", "sky")
"""Options of a fit that a stage may have of its own."""

_KEYS = ("model", "from", "start", "hold", "priors", "grid", *_OPTIONS)


@dataclass(frozen=True)
class Width:
    """Width of a prior about what an earlier stage found: the larger of the given ones.

    Attributes
    ----------
    at : Expression
        Its centre.
    absolute : float
        In the parameter's unit.
    relative : float
        As a share of the centre.
    times : float
        In standard errors of the parameter of the same name, where the earlier stage has one.
    """

    at: Expression
    absolute: float = 0.0
    relative: float = 0.0
    times: float = 0.0


@dataclass(frozen=True)
class Stage:
    """One fit of a chain.

    Attributes
    ----------
    name : str
    scene : Scene
        What is held at earlier values is fixed in it, without a value.
    settings : FitSettings
        Of a run of this stage alone.
    follows : int or None
        Number of the stage that it begins from; None: the initialiser's values.
    start : mapping of str to Expression
        Parameter -> value, from those of the stage that it follows.
    widths : mapping of str to Width
    axes : tuple of Axis
        Of its grid, if it has one.
    """

    name: str
    scene: Scene
    settings: FitSettings
    follows: int | None
    start: Mapping[str, Expression]
    widths: Mapping[str, Width]
    axes: tuple[Axis, ...] = ()


def stages_of(settings: FitSettings, scene: Scene | None = None) -> tuple[Stage, ...]:
    """The stages of a run: those of its pipeline, or its one model with a grid; () for a plain fit.

    Parameters
    ----------
    settings : FitSettings
    scene : Scene, optional
        The model of a run without a pipeline.

    Raises
    ------
    SettingsError
        The file cannot be read or makes no sense, naming the stage.
    """
    if settings.pipeline is None:
        if not settings.grid or scene is None:
            return ()
        return (Stage("fit", scene, settings, None, {}, {}, axes_of(settings.grid, scene)),)
    file = Path(settings.pipeline)
    with errors_of_file(file):
        return _read(file, settings)


def pipeline_contents(file: str | Path) -> list[bytes]:
    """Bytes of a pipeline file and of the model files that it names."""
    path = Path(file)
    with errors_of_file(path):
        entries = _entries(path)
    found = [path.read_bytes()]
    for entry in entries.values():
        model = entry.get("model")
        if isinstance(model, str) and _is_file(model):
            found.append((path.parent / model).read_bytes())
    return found


def axes_of(texts: Sequence[str], scene: Scene) -> tuple[Axis, ...]:
    """The axes of a grid.

    Parameters
    ----------
    texts : sequence of str
        ``n=0.5:8:5``, ``bulge.n=0.5:8:5:log``, ``B/T=0:1:4`` (share of the first component).
    scene : Scene
        A name without a component is that of the first component that has it.
    """
    axes = []
    for text in texts:
        name, _, numbers = text.partition("=")
        low, high, cells, *log = numbers.split(":")
        space = np.geomspace if log else np.linspace
        edges = tuple(map(float, space(float(low), float(high), int(cells) + 1)))
        if name in ("B/T", FRACTION):
            axes.append(Axis(FRACTION, edges))
            continue
        if "." not in name:
            own = (c.name for c in scene.components if name in c.profile.parameters)
            name = f"{next(own, scene.components[0].name)}.{name}"
        axes.append(Axis(name, edges))
    check_axes(scene, axes)
    return tuple(axes)


# --- columns --------------------------------------------------------------------------------------


def stage_columns(stages: Sequence[Stage]) -> tuple[Column, ...]:
    """Columns of what the stages, and the last one's grid, tell."""
    out = []
    for stage in stages if len(stages) > 1 else ():
        text = f"Sum of squared residuals over sigma in stage {stage.name}"
        out.append(Column(f"chi2_{stage.name}", "float64", "", text))
        text = f"Bayesian information criterion of stage {stage.name}, comparable with the others"
        out.append(Column(f"bic_{stage.name}", "float64", "", text))
    axes = stages[-1].axes if stages else ()
    if axes:
        shape = " x ".join(
            f"{axis.name} ({', '.join(f'{edge:.4g}' for edge in axis.edges)})" for axis in axes
        )
        size = math.prod(len(axis.cells) for axis in axes)
        text = f"chi2 in each cell of the grid, the last axis fastest; edges: {shape}"
        out.append(Column("grid_chi2", "float64", "", text, size=size))
        out.append(Column("minima", "int32", "", "Different minima that were found"))
        text = "chi2 of the second minimum less that of the fit; NaN: there is none"
        out.append(Column("second_chi2", "float64", "", text))
        out += [
            Column(second_name(axis), "float64", "", f"{axis.name} at the second minimum")
            for axis in axes
        ]
    return tuple(out)


def second_name(axis: Axis) -> str:
    """Column of an axis' parameter at the second minimum."""
    return f"second_{axis.name.replace('.', '_')}"


# --- reading ----------------------------------------------------------------------------------


def _entries(file: Path) -> dict[str, Mapping[str, Any]]:
    content = parse_user_yaml(read_user_text(file, "pipeline file"), ModelLoader)
    stages = content.get("stages") if isinstance(content, Mapping) else None
    if not isinstance(stages, Mapping) or not stages or set(content) != {"stages"}:
        raise SettingsError(
            "no stages in it", "start with 'stages:' and a name for each, below it model: ..."
        )
    for name, entry in stages.items():
        if not isinstance(entry, Mapping):
            raise SettingsError(f"{name}: {entry!r} is no stage", "write e.g. model: sersic+exp")
        if not re.fullmatch(r"[A-Za-z]\w*", name):
            raise SettingsError(f"a stage is called {name!r}", "use letters, digits, underscores")
        for key in entry:
            if key not in _KEYS:
                raise SettingsError(f"{name}: {key!r} is not understood", f"use {', '.join(_KEYS)}")
    return dict(stages)


def _read(file: Path, settings: FitSettings) -> tuple[Stage, ...]:
    stages: list[Stage] = []
    written: list[Scene] = []
    for name, entry in _entries(file).items():
        with named(name):
            before = _followed(entry, stages)
            scene = _scene(entry, file.parent, written[before] if before is not None else None)
            written.append(scene)
            stages.append(_stage(name, entry, settings, scene, before, stages))
    return tuple(stages)


def _followed(entry: Mapping[str, Any], stages: Sequence[Stage]) -> int | None:
    if "from" not in entry:
        return len(stages) - 1 if stages else None
    if entry["from"] == "start":
        return None
    names = [stage.name for stage in stages]
    if entry["from"] not in names:
        raise SettingsError(
            f"from: there is no stage {entry['from']!r} before it",
            f"there are {', '.join(names) or 'none'}; from: start begins anew",
        )
    return names.index(entry["from"])


def _scene(entry: Mapping[str, Any], folder: Path, before: Scene | None) -> Scene:
    model = entry.get("model")
    if isinstance(model, Mapping):
        return scene_from(model)
    if isinstance(model, str):
        return parse_model(folder / model if _is_file(model) else model)
    if model is None and before is not None:
        return before
    raise SettingsError(f"model: {model!r}", "give sersic+exp, a YAML file, or components: ...")


def _is_file(model: str) -> bool:
    return model.strip().lower().endswith((".yaml", ".yml"))


def _stage(
    name: str,
    entry: Mapping[str, Any],
    settings: FitSettings,
    scene: Scene,
    before: int | None,
    stages: Sequence[Stage],
) -> Stage:
    earlier = None if before is None else stages[before].scene
    used = [key for key in ("start", "hold", "priors") if key in entry and earlier is None]
    if used:
        raise SettingsError(
            f"{used[0]}: there is no stage before it", "say it in the model, or add a stage"
        )
    start, widths = {}, {}
    if earlier is not None:
        start = _passed(scene, earlier)
        start |= _starts("start", entry.get("start") or {}, scene, earlier)
        held = _starts("hold", _as_held(entry.get("hold") or ()), scene, earlier)
        start |= held
        scene = scene.with_parameters(
            {key: Parameter(fixed=True, bands=scene.parameters[key].bands) for key in held}
        )
        widths = _widths(entry.get("priors") or {}, scene, earlier, start)
    options = {key: entry[key] for key in _OPTIONS if key in entry}
    plain = entry.get("model") == "sersic" and "hold" not in entry
    own = settings.replace(pipeline=None, grid=(), model="sersic" if plain else scene, **options)
    if own.sky is not None:
        scene = with_sky(scene, own.sky_value)
    axes = axes_of(settings.replace(pipeline=None, grid=entry.get("grid", ())).grid, scene)
    return Stage(name, scene.check(), own, before, start, widths, axes)


def _as_held(given: Any) -> Mapping[str, Any]:
    if isinstance(given, str):
        given = [given]
    return given if isinstance(given, Mapping) else {str(key): str(key) for key in given}


def _passed(scene: Scene, earlier: Scene) -> dict[str, Expression]:
    """Values that a stage begins with as a matter of course: all of equal components, else x, y."""
    parts = {component.name: component.profile.name for component in scene.components}
    same = parts == {component.name: component.profile.name for component in earlier.components}
    return {
        name: parse(name, earlier.parameters)
        for name, parameter in scene.parameters.items()
        if name in earlier.parameters
        and not name.startswith("sky.")
        and not parameter.tie
        and parameter.value is None
        and (same or name.rpartition(".")[2] in ("x", "y"))
    }


def _starts(what: str, given: Any, scene: Scene, earlier: Scene) -> dict[str, Expression]:
    """Starts, or what is held, as they are written: parameters, or whole components."""
    if not isinstance(given, Mapping):
        raise SettingsError(f"{what}: {given!r}", f"write e.g. {what}: {{disk.re: 2 * sersic.re}}")
    out: dict[str, Expression] = {}
    known = [name for name in earlier.parameters if not name.startswith("sky.")]
    for target, value in given.items():
        if target in {component.name for component in scene.components}:
            for name in scene.component(target).profile.parameters:
                key = f"{target}.{name}"
                if f"{value}.{name}" in known and not scene.parameters[key].tie:
                    out[key] = parse(f"{value}.{name}", known)
            continue
        _refuse_tied(scene, target, what)
        with named(target):
            out[target] = parse(str(value), known)
    return out


def _refuse_tied(scene: Scene, name: str, what: str) -> None:
    if name not in scene.parameters or name.startswith("sky."):
        known = ", ".join(key for key in scene.parameters if not key.startswith("sky."))
        raise SettingsError(f"{what}: there is no {name!r}", f"there are {known}")
    if scene.parameters[name].tie:
        raise SettingsError(f"{what}: {name} is tied", "leave it out, or untie it in the model")


def _widths(
    given: Any, scene: Scene, earlier: Scene, start: Mapping[str, Expression]
) -> dict[str, Width]:
    if not isinstance(given, Mapping):
        raise SettingsError(f"priors: {given!r}", "write e.g. priors: {sersic.x: {width: 0.5}}")
    free = [
        name for name, one in scene.parameters.items() if one.free and not name.startswith("sky.")
    ]
    known = [name for name in earlier.parameters if not name.startswith("sky.")]
    out: dict[str, Width] = {}
    for pattern, entry in given.items():
        names = fnmatch.filter(free, pattern)
        if not names:
            raise SettingsError(
                f"priors: no free parameter is called {pattern!r}", f"there are {', '.join(free)}"
            )
        for name in names:
            with named(f"priors: {name}"):
                out[name] = _width(name, entry, known, start)
    for name in out:
        component, _, short = name.rpartition(".")
        needed = {"re": ("q",), "q": ("pa",), "pa": ("q",)}.get(short, ())
        for other in needed:
            key = f"{component}.{other}"
            if key in scene.parameters and key not in out and key not in start:
                raise SettingsError(
                    f"priors: that of {name} needs a value of {key}",
                    f"add start: {{{key}: ...}}",
                )
    return out


def _width(name: str, entry: Any, known: Sequence[str], start: Mapping[str, Expression]) -> Width:
    if not isinstance(entry, Mapping) or not set(entry) <= {"at", "width", "times"}:
        raise SettingsError(f"{entry!r}", "write {width: 0.5}, {width: 30 %} or {times: 3}")
    if "at" in entry:
        at = parse(str(entry["at"]), known)
    elif name in start:
        at = start[name]
    elif name in known:
        at = parse(name, known)
    else:
        raise SettingsError("the stage before has no such parameter", "say about what: {at: ...}")
    width = str(entry.get("width", 0)).strip()
    relative = width.endswith("%")
    numbers = [_number(width.rstrip("% ")), _number(entry.get("times", 0))]
    if not max(numbers) > 0:
        raise SettingsError(f"{entry!r} has no width", "write {width: 0.5}, {width: 30 %}")
    if numbers[1] and name not in known:
        raise SettingsError("the stage before has no error of it", "give a width")
    if relative and name.rpartition(".")[2] in ("x", "y", "pa"):
        raise SettingsError("a width in per cent of a position or an angle", "give pixels, degrees")
    share = numbers[0] / 100 if relative else 0.0
    return Width(at, 0.0 if relative else numbers[0], share, numbers[1])


def _number(value: Any) -> float:
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not (math.isfinite(number) and number >= 0):
        raise SettingsError(f"{value!r} is no width", "give a positive number")
    return number
