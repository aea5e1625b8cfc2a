"""Writing GALFIT and GALFITM input files."""

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
_LABELS = {
    1: "position x [pix]",
    2: "position y [pix]",
    9: "axis ratio b/a",
    10: "position angle [deg: up 0, left 90]",
}
_SKY_LABELS = {
    "sky": "sky at the centre of the region",
    "sky_dx": "gradient in x [per pix]",
    "sky_dy": "gradient in y [per pix]",
}
_SKIP = "leave out of the model image"


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
    by_profile = {function.profile: function for function in FUNCTIONS}
    if base not in by_profile:
        raise SettingsError(
            f"{component.name}: GALFIT has no {base} profile",
            "use one of " + ", ".join(by_profile),
        )
    if "twist" in modifier_names(component.profile):
        raise SettingsError(f"{component.name}: GALFIT has no twist", "leave it out")
    return by_profile[base]


def _controls(file: GalfitFile, constraints: str) -> list[str]:
    bands = file.bands
    labels = [band.label or str(i) for i, band in enumerate(bands, start=1)]
    entries = {
        "A": _list([band.image or "none" for band in bands]),
        "A1": _list(labels) if len(bands) > 1 or bands[0].label else "",
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
    return [_line(key, entries[key], what).lstrip() for key, what in _CONTROLS if entries[key]]


def _object(file: GalfitFile, component: Component, start: dict[str, float]) -> list[str]:
    function, name = _function(component), component.name
    for key in component.parameters:
        if f"{name}.{key}" not in start:
            raise SettingsError(
                f"{name}.{key} has no start, which GALFIT needs",
                "set it, for example with with_values(scene, {...})",
            )
    n = len(file.bands)
    in_bands: list[dict[int, float]] = []
    for i in range(n):
        values = {
            key: file.values.get(f"{name}.{key}", (start[f"{name}.{key}"],) * n)[i]
            for key in component.parameters
        }
        lines = {1: values["x"] + 1.0, 2: values["y"] + 1.0}
        lines |= function.numbers(values, file.photometry(i))
        if 10 in lines:
            lines[10] = (lines[10] + 90.0) % 180.0 - 90.0
        in_bands.append(lines)
    toggles = {line: _toggle(file, component, function, line) for line in sorted(in_bands[0])}
    written = [_line("0", function.name, "object type")]
    if n == 1:
        position = (_text(in_bands[0].pop(1)), _text(in_bands[0].pop(2)))
        words = f"{' '.join(position)} {toggles.pop(1)} {toggles.pop(2)}"
        written.append(_line("1", words, "position x, y [pix]"))
    for line, toggle in toggles.items():
        words = _values([lines[line] for lines in in_bands], toggle)
        written.append(_line(str(line), words, {**_LABELS, **function.labels}[line]))
    of_component = {key: start[f"{name}.{key}"] for key in component.parameters}
    for key, numbers, free in write_shapes(component.parameters, of_component):
        words = " ".join([*map(_text, numbers), *(str(int(item)) for item in free)])
        written.append(_line(key, words, "isophotes"))
    return [*written, _line("Z", str(int(name in file.skipped)), _SKIP)]


def _toggle(file: GalfitFile, component: Component, function: Function, line: int) -> int:
    """0 held, 1 fitted; in several bands the number of coefficients that are fitted."""
    name = function.parameter(line)
    if name:
        names = [name]
    else:  # a line that several parameters decide, such as a King profile's radii
        own = {function.parameter(other) for other in function.lines}
        sizes = ("re", "q", "rb", "concentration")
        names = [key for key in component.parameters if key in sizes and key not in own]
    return max(_order(file, f"{component.name}.{key}", component.parameters[key]) for key in names)


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
    written = [_line("0", "sky", "object type")]
    for line, (key, label) in enumerate(_SKY_LABELS.items(), start=1):
        parameter = file.scene.sky_parameters.get(key, Parameter(0.0, fixed=True))
        full = f"{SKY}.{key}"
        values = file.values.get(full, (parameter.value or 0.0,) * len(file.bands))
        order = 0 if parameter.fixed else _order(file, full, parameter)
        written.append(_line(str(line), _values(values, order), label))
    return [*written, _line("Z", str(int(SKY in file.skipped)), _SKIP)]


def _line(key: str, words: str, comment: str) -> str:
    return f"{key:>2}) {words:<22} # {comment}"


def _values(values: Sequence[float], toggle: int) -> str:
    return f"{_list([_text(value) for value in values])} {toggle}" + " band" * (len(values) > 1)


def _text(value: float) -> str:
    """Twelve digits: ratios and offsets of starts are then good to the ten that are kept."""
    return f"{value:.12g}"


def _list(words: Sequence[str]) -> str:
    """A comma-separated list; one entry where all are the same name of nothing."""
    return "none" if set(words) == {"none"} else ",".join(words)
