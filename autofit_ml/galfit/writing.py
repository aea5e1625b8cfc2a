"""Writing GALFIT and GALFITM input files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from autofit_ml.errors import SettingsError
from autofit_ml.galfit.constraints import write_constraints
from autofit_ml.galfit.file import GalfitFile
from autofit_ml.galfit.functions import FUNCTIONS, Function
from autofit_ml.galfit.shapes import write_shapes
from autofit_ml.scenes.model import SKY, Component, Parameter, Scene
from autofit_ml.scenes.naming import base_name, modifier_names

__all__ = ["galfit_constraints", "write_galfit"]

_RULE = "=" * 80
_CONTROLS = (
    ("A", "input image"),
    ("A1", "band labels"),
    ("A2", "band wavelengths"),
    ("B", "output image block"),
    ("C", "sigma image"),
    ("D", "PSF image"),
    ("E", "PSF sampling relative to the image"),
    ("F", "bad pixels"),
    ("G", "parameter constraints"),
    ("H", "region: xmin xmax ymin ymax"),
    ("I", "convolution box"),
    ("J", "zero point"),
    ("K", "pixel scale [arcsec]"),
    ("O", "display"),
    ("P", "0 fit, 1 model, 2 image block, 3 subcomponents"),
)
_LABELS = {9: "axis ratio b/a", 10: "position angle [deg: up 0, left 90]"}


def write_galfit(galfit: GalfitFile | Scene, path: str | Path | None = None) -> str:
    """A scene as a GALFIT input file; as a GALFITM file if there are several bands.

    Parameters
    ----------
    galfit : GalfitFile or Scene
        Every parameter needs a start (`autofit_ml.scenes.with_values` sets them).
    path : str or path, optional
        Written there too; and the constraints, if the scene has any, beside it, as
        ``galfit.constraints`` or else ``<name>.constraints``.

    Returns
    -------
    str
        What `read_galfit` reads back to the same, up to rounding to 12 digits (ratios and offsets:
        10).

    Raises
    ------
    SettingsError
        Something that GALFIT cannot express, by name: profiles, priors, expressions.
    """
    file = GalfitFile(galfit) if isinstance(galfit, Scene) else galfit
    constraints = galfit_constraints(file)
    name = ""
    if constraints:
        stem = Path(path).stem if path is not None else "galfit"
        name = file.constraints or f"{stem}.constraints"
    lines = [_RULE, "# IMAGE and GALFIT CONTROL PARAMETERS", *_controls(file, name), ""]
    start = {key: float(value) for key, value in file.scene.start_values().items()}
    for number, component in enumerate(file.scene.components, start=1):
        lines += [f"# Component number: {number}", *_object(file, component, start), ""]
    if file.scene.sky != "fixed":
        number = len(file.scene.components) + 1
        lines += [f"# Component number: {number}", *_sky(file), ""]
    text = "\n".join([*lines, _RULE, ""])
    if path is not None:
        Path(path).write_text(text, encoding="utf-8")
        if constraints:
            (Path(path).parent / name).write_text(constraints, encoding="utf-8")
    return text


def galfit_constraints(galfit: GalfitFile | Scene) -> str:
    """Bounds, ties and constraints of a scene as the text of GALFIT's file of constraints.

    Returns
    -------
    str
        "" for a scene without any.
    """
    file = GalfitFile(galfit) if isinstance(galfit, Scene) else galfit
    scene = file.scene
    for full, parameter in scene.parameters.items():
        if parameter.prior is not None:
            raise SettingsError(
                f"{full} has a prior, which GALFIT does not know", "leave it out, or use bounds"
            )
    names = [component.name for component in scene.components] + [SKY]
    functions = {component.name: _function(component) for component in scene.components}
    return write_constraints(scene, names, functions, file.photometry())


def _function(component: Component) -> Function:
    base = base_name(component.profile)
    for function in FUNCTIONS:
        if function.profile == base:
            break
    else:
        raise SettingsError(
            f"{component.name}: GALFIT has no {base} profile",
            "use one of " + ", ".join(function.profile for function in FUNCTIONS),
        )
    if "twist" in modifier_names(component.profile):
        raise SettingsError(f"{component.name}: GALFIT has no twist", "leave it out")
    return function


def _controls(file: GalfitFile, constraints: str) -> list[str]:
    bands = file.bands
    several = len(bands) > 1
    entries = {
        "A": _list([band.image or "none" for band in bands]),
        "A1": _list([band.label or str(i + 1) for i, band in enumerate(bands)]),
        "A2": _list([_text(band.wavelength) for band in bands if band.wavelength is not None]),
        "B": file.output or "none",
        "C": _list([band.sigma or "none" for band in bands]),
        "D": _list([band.psf or "none" for band in bands]),
        "E": str(file.psf_sampling),
        "F": _list([band.mask or "none" for band in bands]),
        "G": constraints or "none",
        "H": " ".join(str(edge) for edge in file.region or ()),
        "I": " ".join(str(side) for side in file.convolution_box),
        "J": _list([_text(band.zeropoint) for band in bands]),
        "K": " ".join(_text(scale) for scale in file.pixel_scale),
        "O": file.display,
        "P": str(file.mode),
    }
    if not (several or bands[0].label):
        entries["A1"] = ""
    return [f"{key}) {entries[key]:<22} # {what}" for key, what in _CONTROLS if entries[key]]


def _object(file: GalfitFile, component: Component, start: dict[str, float]) -> list[str]:
    function, name = _function(component), component.name
    parameters = component.parameters
    for key in parameters:
        if f"{name}.{key}" not in start:
            raise SettingsError(
                f"{name}.{key} has no start, which GALFIT needs",
                "set it, for example with with_values(scene, {...})",
            )
    in_bands: list[dict[int, float]] = []
    for i in range(len(file.bands)):
        values = {
            key: file.values.get(f"{name}.{key}", (start[f"{name}.{key}"],) * len(file.bands))[i]
            for key in parameters
        }
        lines = {1: values["x"] + 1.0, 2: values["y"] + 1.0}
        lines.update(function.numbers(values, file.photometry(i)))
        if 10 in lines:
            lines[10] = (lines[10] + 90.0) % 180.0 - 90.0
        in_bands.append(lines)
    toggles = {line: _toggle(file, component, function, line) for line in in_bands[0]}
    written = [f" 0) {function.name:<22} # object type"]
    if len(file.bands) == 1:
        x, y = _text(in_bands[0][1]), _text(in_bands[0][2])
        written.append(f" 1) {f'{x} {y} {toggles[1]} {toggles[2]}':<22} # position x, y [pix]")
    labels = {1: "position x [pix]", 2: "position y [pix]", **function.labels, **_LABELS}
    for line in sorted(toggles):
        if line <= 2 and len(file.bands) == 1:
            continue
        value = _list([_text(lines[line]) for lines in in_bands])
        word = f"{value} {toggles[line]}" + " band" * (len(file.bands) > 1)
        written.append(f"{line:>2}) {word:<22} # {labels.get(line, '')}".rstrip())
    of_component = {key: start[f"{name}.{key}"] for key in parameters}
    for key, numbers, free in write_shapes(parameters, of_component):
        words = [*(_text(number) for number in numbers), *(str(int(item)) for item in free)]
        written.append(f"{key:>2}) {' '.join(words):<22} # isophotes")
    written.append(f" Z) {int(name in file.skipped):<22} # leave out of the model image")
    return written


def _toggle(file: GalfitFile, component: Component, function: Function, line: int) -> int:
    """0 held, 1 fitted; in several bands the number of coefficients that are fitted."""
    name = function.parameter(line)
    if name:
        names = [name]
    else:  # a line that several parameters decide, such as a King profile's radii
        one_to_one = {function.parameter(other) for other in function.lines}
        names = [
            key
            for key in component.parameters
            if key not in one_to_one and key in ("re", "q", "rb", "concentration")
        ]
    found = [_order(file, f"{component.name}.{key}", component.parameters[key]) for key in names]
    return max(found)


def _order(file: GalfitFile, full: str, parameter: Parameter) -> int:
    if parameter.fixed:
        return 0
    n = len(file.bands)
    rule = file.scene.bands(full)
    if n == 1 or rule == "shared":
        return 1
    if rule == "epochs":
        raise SettingsError(f"{full} is free in each epoch, which GALFIT does not know", "use free")
    return n if rule == "free" else min(int(rule) + 1, n)


def _sky(file: GalfitFile) -> list[str]:
    scene = file.scene
    written = [f" 0) {'sky':<22} # object type"]
    labels = {
        "sky": "sky at the centre of the region",
        "sky_dx": "gradient in x [per pix]",
        "sky_dy": "gradient in y [per pix]",
    }
    for line, (key, label) in enumerate(labels.items(), start=1):
        parameter = scene.sky_parameters.get(key, Parameter(0.0, fixed=True))
        n = len(file.bands)
        full = f"{SKY}.{key}"
        value = 0.0 if parameter.value is None else parameter.value
        values = file.values.get(full, (value,) * n)
        order = 0 if parameter.fixed else _order(file, full, parameter)
        word = f"{_list([_text(v) for v in values])} {order}" + " band" * (n > 1)
        written.append(f"{line:>2}) {word:<22} # {label}")
    written.append(f" Z) {int(SKY in file.skipped):<22} # leave out of the model image")
    return written


def _text(value: float | None) -> str:
    """Twelve digits: ratios and offsets of starts are then good to the ten that are kept."""
    return f"{value:.12g}"


def _list(words: Sequence[str]) -> str:
    """A comma-separated list; one entry where all are the same name of nothing."""
    if words and all(word == "none" for word in words):
        return "none"
    return ",".join(words)
