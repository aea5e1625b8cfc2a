"""GALFIT's files of constraints, read into bounds, ties and smooth constraints; and written.

Forms (EXAMPLE.CONSTRAINTS of GALFIT, EXAMPLE.GALFITM.CONSTRAINTS of GALFITM)::

    3        n    0.7 to 5      absolute range          -> bounds
    2        x    -1 0.5        about the start         -> bounds
    2        re   factor 3      about the start         -> bounds
    3_2_1    x    offset        differences are kept    -> ties to the first
    1_5      re   ratio         ratios are kept         -> ties to the first
    3-7      mag  -0.5 3        range of 7 minus 3      -> constraints
    3/5      re   1 3           range of 3 over 5       -> constraints

Limits of magnitudes become limits of fluxes; radii that are not half-light radii are scaled.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from autofit_ml.errors import SettingsError
from autofit_ml.galfit.functions import Function, Photometry
from autofit_ml.scenes.expressions import Expression
from autofit_ml.scenes.model import SKY, Component, Parameter, Scene, named
from autofit_ml.scenes.quantities import limits

__all__ = ["apply_constraints", "write_constraints"]

_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eEdD][-+]?\d+)?"
_WIDE = 1e6
"""A limit beyond this is none; it stands for an open side in files, which need two numbers."""

_FAINT = 99.0
"""The same for magnitudes."""

_LINES = {
    "x": 1, "y": 2, "mag": 3, "re": 4, "rs": 4, "fwhm": 4, "q": 9, "pa": 10,
}  # fmt: skip


@dataclass(frozen=True)
class _Target:
    """One parameter of one component, as a constraint names it."""

    component: str
    name: str
    factor: float  # ours over GALFIT's, of radii
    is_magnitude: bool

    @property
    def full(self) -> str:
        return f"{self.component}.{self.name}"


class _Constraints:
    def __init__(
        self,
        scene: Scene,
        names: Sequence[str],
        functions: Mapping[str, Function],
        photometry: Photometry,
    ):
        self.scene, self.names, self.functions = scene, names, functions
        self.photometry = photometry
        self.changed = {
            part.name: dict(part.parameters) for part in (*scene.components, scene.background)
        }
        self.starts = {name: float(value) for name, value in scene.start_values().items()}
        self.constraints: list[str] = list(scene.constraints)
        self.notes: list[str] = []

    def scene_with(self) -> Scene:
        parts = []
        for part in self.scene.components:
            parts.append(Component(part.name, part.profile, self.changed[part.name]))
        sky = self.scene.sky
        return dataclasses.replace(
            self.scene,
            components=tuple(parts),
            constraints=tuple(self.constraints),
            sky=sky if sky == "tilted" else "free",
            sky_parameters=self.changed[SKY],
        )

    def line(self, number: int, text: str) -> None:
        words = re.match(r"([\d_/-]+)\s+(\w+)\s+(.*)$", text)
        if words is None:
            raise SettingsError(
                f"line {number}: {text!r} is not understood", "write e.g. '1 n 0.5 to 8'"
            )
        which, parameter, rest = words[1], words[2].lower(), words[3].strip()
        with named(f"line {number}"):
            band = re.fullmatch(r"([a-z]+\d?[ap]?)_(\w+)", parameter)
            if band is not None:
                if band[2] != "0":
                    self.notes.append(
                        f"constraints, line {number}: limits of one band or coefficient "
                        f"({parameter}) are not applied"
                    )
                    return
                parameter = band[1]
            self.apply(number, which, parameter, rest)

    def apply(self, number: int, which: str, parameter: str, rest: str) -> None:
        numbers = [int(part) for part in re.findall(r"\d+", which)]
        for index in numbers:
            if not 1 <= index <= len(self.names):
                raise SettingsError(
                    f"there is no object {index}", f"there are {len(self.names)} objects"
                )
        components = [self.names[index - 1] for index in numbers]
        targets = [self.target(component, parameter) for component in components]
        if any(target is None for target in targets):
            self.notes.append(
                f"constraints, line {number}: {which} {parameter} {rest} has no counterpart and is "
                "not applied"
            )
            return
        found = [target for target in targets if target is not None]
        limits_ = re.fullmatch(rf"({_NUMBER})\s*(to|in|ref|\s)\s*({_NUMBER})", rest)
        factor = re.fullmatch(rf"factor\s+({_NUMBER})", rest)
        if rest.lower() in ("offset", "ratio") and len(found) > 1:
            self.tie(number, found, rest.lower())
        elif limits_ and len(found) == 2 and "-" in which:
            self.difference(found[0], found[1], _floats(limits_[1], limits_[3]))
        elif limits_ and len(found) == 2 and "/" in which:
            self.ratio(found[0], found[1], _floats(limits_[1], limits_[3]))
        elif limits_ and len(found) == 1:
            self.limit(number, found[0], limits_[2].strip(), _floats(limits_[1], limits_[3]))
        elif factor and len(found) == 1:
            self.limit(number, found[0], "factor", _floats(factor[1], factor[1]))
        else:
            raise SettingsError(
                f"{which} {parameter} {rest!r} is not understood",
                "use 'low to high', 'low high', 'factor f', 'offset' or 'ratio'",
            )

    def target(self, component: str, parameter: str) -> _Target | None:
        """Which of our parameters a constraint is about; None if there is none such."""
        if component == SKY:
            line = {"sky": "sky", "1": "sky", "2": "sky_dx", "3": "sky_dy"}.get(parameter, "")
            return _Target(SKY, line, 1.0, False) if line in self.changed[SKY] else None
        function = self.functions[component]
        parameters = self.changed[component]
        if parameter in ("c", "c0"):
            return _Target(component, "boxiness", 1.0, False) if "boxiness" in parameters else None
        line_number = int(parameter) if parameter.isdigit() else _LINES.get(parameter)
        if line_number is None:
            shapes = {name: line for line, name in function.shapes.items()}
            shapes["n"] = shapes.get(
                "n", shapes.get("beta", -1) if function.name == "moffat" else -1
            )
            line_number = shapes.get(parameter, -1)
            if line_number == -1 and not re.fullmatch(
                r"n|alpha|beta|gamma|[frbt]\d+\w?", parameter
            ):
                raise SettingsError(
                    f"there is no parameter {parameter!r}",
                    "use x, y, mag, re, rs, n, alpha, beta, gamma, q, pa, c, sky, or a number",
                )
        name = function.parameter(line_number)
        if name not in parameters or (name == "flux" and function.surface is not None):
            return None
        factor = 1.0
        if name == "re":
            factor = function.size_factor(
                {name: self.starts.get(f"{component}.{name}", 1.0) for name in parameters}
            )
            if function.size_depends_on_shape:
                self.notes.append(
                    f"{component}: limits of its radius were scaled to re with the start's shape"
                )
        return _Target(component, name, factor, name == "flux")

    def parameter(self, target: _Target) -> Parameter:
        return self.changed[target.component][target.name]

    def value(self, target: _Target) -> float:
        """The start in the input file, which is what GALFIT's offsets and ratios are of."""
        return self.starts[target.full]

    def limit(self, number: int, target: _Target, kind: str, pair: tuple[float, float]) -> None:
        """Bounds of one parameter."""
        parameter = self.parameter(target)
        if parameter.fixed:
            return  # no limit is needed
        if parameter.tie:
            self.notes.append(
                f"constraints, line {number}: {target.full} is tied, its limits are not applied"
            )
            return
        if kind == "ref":
            self.notes.append(
                f"constraints, line {number}: limits about the reference band are not applied"
            )
            return
        first, second = pair
        if kind != "factor" and not first < second:
            raise SettingsError(f"the limits {first:g} and {second:g}", "give the smaller first")
        value = self.value(target)
        absolute = kind == "to"
        low: float | None
        high: float | None
        if kind == "factor":
            if not first > 1:
                raise SettingsError(f"factor {first:g}", "give a number above 1")
            low, high = value / first, value * first
        elif target.is_magnitude:
            bright = first if absolute else self.photometry.magnitude(value) + first
            faint = second if absolute else self.photometry.magnitude(value) + second
            low = None if abs(faint) >= _FAINT else self.photometry.flux(faint)
            high = None if abs(bright) >= _FAINT else self.photometry.flux(bright)
        else:
            shift = -1.0 if absolute and target.name in ("x", "y") else 0.0
            start = 0.0 if absolute else value
            low = None if abs(first) >= _WIDE else start + first * target.factor + shift
            high = None if abs(second) >= _WIDE else start + second * target.factor + shift
        self.set_bounds(number, target, low, high)

    def set_bounds(
        self, number: int, target: _Target, low: float | None, high: float | None
    ) -> None:
        parameter = self.parameter(target)
        if target.name == "pa":
            if low is None or high is None or high - low >= 180.0:
                return
            turn = 180.0 * (((low + high) / 2) // 180.0)
            low, high = low - turn, high - turn
        profile = self.scene.component(target.component).profile
        least, most = limits(profile, target.name)
        if low is not None and low <= least:
            if low < least and target.name not in ("q", "re", "flux"):
                self.notes.append(f"{target.full}: the lower limit {low:g} is {least:g} here")
            low = None
        if high is not None and high >= most:
            if high > most and target.name != "q":
                self.notes.append(f"{target.full}: the upper limit {high:g} is {most:g} here")
            high = None
        old_low, old_high = parameter.bounds
        low = old_low if low is None else low if old_low is None else max(low, old_low)
        high = old_high if high is None else high if old_high is None else min(high, old_high)
        value = parameter.value
        if value is not None:
            inside = max(value, low) if low is not None else value
            inside = min(inside, high) if high is not None else inside
            if inside != value:
                self.notes.append(
                    f"constraints, line {number}: the start of {target.full}, {value:g}, was moved "
                    f"to {inside:g}"
                )
            value = inside
        self.changed[target.component][target.name] = dataclasses.replace(
            parameter, value=value, bounds=(low, high)
        )

    def tie(self, number: int, targets: Sequence[_Target], kind: str) -> None:
        """Ties of all to the first."""
        first = targets[0]
        for other in targets[1:]:
            parameter = self.parameter(other)
            if parameter.fixed:
                self.notes.append(
                    f"constraints, line {number}: {other.full} is held, not tied to {first.full}"
                )
                continue
            if parameter.tie:
                raise SettingsError(f"{other.full} is tied already", "keep one of the two lines")
            a, b = self.value(first), self.value(other)
            as_ratio = kind == "ratio" or first.is_magnitude
            if kind == "ratio" and first.is_magnitude:
                raise SettingsError("a ratio of magnitudes", "use offset for magnitudes")
            if as_ratio and a == 0:
                raise SettingsError(f"the ratio to {first.full} = 0", "use offset")
            text = first.full
            if as_ratio and _rounded(b / a) != 1.0:
                text = f"{_rounded(b / a):.10g} * {first.full}"
            elif not as_ratio and _rounded(b - a) != 0.0:
                difference = _rounded(b - a)
                text = f"{first.full} {'+' if difference > 0 else '-'} {abs(difference):.10g}"
            self.changed[other.component][other.name] = Parameter(tie=text)

    def difference(self, a: _Target, b: _Target, pair: tuple[float, float]) -> None:
        """Limits of b - a."""
        low, high = pair
        if a.is_magnitude:  # brighter means more flux
            if low > -_FAINT:
                self.compare(f"{10 ** (-0.4 * low):.10g} * {a.full}", b.full)
            if high < _FAINT:
                self.compare(b.full, f"{10 ** (-0.4 * high):.10g} * {a.full}")
            return
        if a.factor != 1.0 or b.factor != 1.0:
            if a.factor != b.factor:
                raise SettingsError(
                    f"{a.full} and {b.full} are different radii", "compare their ratio"
                )
            low, high = low * a.factor, high * a.factor
        if low > -_WIDE:
            self.compare(f"{b.full} - {a.full}", f"{low:.10g}")
        if high < _WIDE:
            self.compare(f"{high:.10g}", f"{b.full} - {a.full}")

    def ratio(self, a: _Target, b: _Target, pair: tuple[float, float]) -> None:
        """Limits of a / b."""
        if a.is_magnitude:
            raise SettingsError("a ratio of magnitudes", "use 3-7 for magnitudes")
        low, high = (limit * a.factor / b.factor for limit in pair)
        if pair[0] > 0:
            self.compare(a.full, _times(low, b.full))
        if pair[1] < _WIDE:
            self.compare(_times(high, b.full), a.full)

    def compare(self, larger: str, smaller: str) -> None:
        self.constraints.append(f"{larger} > {smaller}")


def _times(factor: float, name: str) -> str:
    return name if _rounded(factor) == 1.0 else f"{_rounded(factor):.10g} * {name}"


def _rounded(value: float) -> float:
    """Rounded to 10 digits: starts in files are rounded too."""
    return float(f"{value:.10g}") if abs(value) > 1e-9 else 0.0


def _floats(low: str, high: str) -> tuple[float, float]:
    return float(re.sub("[dD]", "e", low)), float(re.sub("[dD]", "e", high))


def apply_constraints(
    scene: Scene,
    text: str,
    names: Sequence[str],
    functions: Mapping[str, Function],
    photometry: Photometry,
) -> tuple[Scene, list[str]]:
    """Read a file of constraints into a scene.

    Parameters
    ----------
    scene : Scene
        With a start for every parameter.
    text : str
        The file.
    names : sequence of str
        Component of each object, in GALFIT's order; "sky" for the sky.
    functions : mapping of str to Function
        GALFIT's function of each component.
    photometry : Photometry

    Returns
    -------
    scene : Scene
    notes : list of str
        Lines that were not applied, or not quite.
    """
    found = _Constraints(scene, names, functions, photometry)
    for number, line in enumerate(text.splitlines(), start=1):
        bare = line.partition("#")[0].strip()
        if bare:
            found.line(number, bare)
    return found.scene_with(), list(dict.fromkeys(found.notes))


# --- Writing ---------------------------------------------------------------------------------


def write_constraints(
    scene: Scene,
    names: Sequence[str],
    functions: Mapping[str, Function],
    photometry: Photometry,
) -> str:
    """A scene's bounds, ties and constraints as a file of GALFIT's; "" if it has none.

    Raises
    ------
    SettingsError
        For what GALFIT cannot express.
    """
    writer = _Writer(scene, names, functions, photometry)
    lines = [*writer.bounds(), *writer.ties(), *writer.comparisons()]
    header = "# object  parameter  constraint"
    return "\n".join([header, *lines, ""]) if lines else ""


class _Writer:
    def __init__(
        self,
        scene: Scene,
        names: Sequence[str],
        functions: Mapping[str, Function],
        photometry: Photometry,
    ):
        self.scene, self.functions, self.photometry = scene, functions, photometry
        self.number = {name: i for i, name in enumerate(names, start=1)}
        self.start = {name: float(value) for name, value in scene.start_values().items()}

    def word(self, full: str) -> tuple[int, str, float]:
        """(Object, GALFIT's word, ours over GALFIT's) of a parameter."""
        component, _, name = full.rpartition(".")
        number = self.number[component]
        if component == SKY:
            return number, {"sky": "sky", "sky_dx": "2", "sky_dy": "3"}[name], 1.0
        function = self.functions[component]
        if name == "boxiness":
            return number, "c", 1.0
        words = {"x": "x", "y": "y", "q": "q", "pa": "pa"}
        words.update({shape: shape for shape in function.shapes.values()})
        if function.name == "moffat":
            words["beta"] = "n"
        if function.surface is None:
            words["flux"] = "mag"
        if function.read is None:
            words["re"] = "rs" if function.name == "expdisk" else "re"
        if name not in words:
            raise SettingsError(
                f"{full} is not one of GALFIT's parameters", "leave out its bounds and links"
            )
        factor = 1.0
        if name == "re":
            values = {
                key.rpartition(".")[2]: value
                for key, value in self.start.items()
                if key.startswith(f"{component}.")
            }
            factor = function.size_factor(values)
        return number, words[name], factor

    def bounds(self) -> list[str]:
        lines = []
        for full, parameter in self.scene.parameters.items():
            if parameter.bounds == (None, None) or not parameter.free:
                continue
            number, word, factor = self.word(full)
            low, high = parameter.bounds
            if word == "mag":
                bright = -_FAINT if high is None else self.photometry.magnitude(high)
                faint = _FAINT if low is None else self.photometry.magnitude(low)
                pair = (bright, faint)
            else:
                shift = 1.0 if word in ("x", "y") else 0.0
                pair = (
                    -_WIDE if low is None else low / factor + shift,
                    _WIDE if high is None else high / factor + shift,
                )
            lines.append(f"{number}  {word}  {pair[0]:.12g} to {pair[1]:.12g}")
        return lines

    def ties(self) -> list[str]:
        lines = []
        for full, expression in self.scene.ties:
            source, kind = _tie_form(expression)
            a, b = (self.word(source), self.word(full)) if source else (None, None)
            fits = (
                a is not None
                and b is not None
                and full.rpartition(".")[2] == source.rpartition(".")[2]
                and (
                    kind == "equal" or (kind == "ratio") == (b[1] in ("re", "rs", "mag", "n", "q"))
                )
            )
            if not fits:
                raise SettingsError(
                    f"{full} = {expression.text} cannot be written for GALFIT",
                    "it knows links between the same parameter of two components: an offset (of x, "
                    "y, pa) or a ratio (of re, flux, n, q)",
                )
            assert a is not None and b is not None
            ratio = b[1] in ("re", "rs", "n", "q")
            lines.append(f"{a[0]}_{b[0]}  {a[1]}  {'ratio' if ratio else 'offset'}")
        return lines

    def comparisons(self) -> list[str]:
        """Constraints; two that limit the same quantity from both sides share a line."""
        found: dict[tuple[str, str, str], list[float]] = {}
        for condition in self.scene.conditions:
            form = _comparison_form(condition)
            if form is None or form[1].rpartition(".")[2] != form[2].rpartition(".")[2]:
                raise SettingsError(
                    f"the constraint {condition.text!r} cannot be written for GALFIT",
                    "it knows limits of the difference or the ratio of the same parameter of two "
                    "components",
                )
            kind, a, b, low, high = form
            if kind == "/" and (b, a) in {(key[1], key[2]) for key in found if key[0] == "/"}:
                a, b, low, high = b, a, 1 / high if high else 0.0, 1 / low if low else _WIDE
            pair = found.setdefault((kind, a, b), [-_WIDE if kind == "-" else 0.0, _WIDE])
            pair[0], pair[1] = max(pair[0], low), min(pair[1], high)
        lines = []
        for (kind, a, b), (low, high) in found.items():
            (first, word, factor), (second, _, other) = self.word(a), self.word(b)
            if word == "mag" and kind == "/":  # a/b of fluxes: b - a of magnitudes
                low, high = _magnitudes(low, high)
                lines.append(f"{first}-{second}  mag  {low:.12g} {high:.12g}")
            elif kind == "/":
                scale = other / factor
                top = _WIDE if high >= _WIDE else high * scale
                lines.append(f"{first}/{second}  {word}  {low * scale:.12g} {top:.12g}")
            elif factor == other:
                low = low if low <= -_WIDE else low / factor
                high = high if high >= _WIDE else high / factor
                lines.append(f"{second}-{first}  {word}  {low:.12g} {high:.12g}")
            else:
                raise SettingsError(
                    f"{a} and {b} are different radii in GALFIT", "compare their ratio"
                )
        return lines


def _magnitudes(low: float, high: float) -> tuple[float, float]:
    """Limits of mag(b) - mag(a) from limits of flux(a) / flux(b)."""
    return (
        2.5 * math.log10(low) if low > 0 else -_FAINT,
        2.5 * math.log10(high) if high < _WIDE else _FAINT,
    )


def _tie_form(expression: Expression) -> tuple[str, str]:
    """(Source, "equal", "ratio" or "offset"); ("", "") for any other tie."""
    node = expression.node
    if node[0] == "name":
        return node[1], "equal"
    if node[0] in ("+", "-") and node[1][0] == "name" and node[2][0] == "number":
        return node[1][1], "offset"
    if node[0] == "+" and node[1][0] == "number" and node[2][0] == "name":
        return node[2][1], "offset"
    if node[0] == "*":
        for number, name in ((node[1], node[2]), (node[2], node[1])):
            if number[0] == "number" and name[0] == "name" and number[1] > 0:
                return name[1], "ratio"
    if node[0] == "/" and node[1][0] == "name" and node[2][0] == "number" and node[2][1] > 0:
        return node[1][1], "ratio"
    return "", ""


def _scaled(node: tuple) -> tuple[float, str] | None:
    """(k, name) of ``k * name``."""
    if node[0] == "name":
        return 1.0, node[1]
    if node[0] == "*":
        for number, name in ((node[1], node[2]), (node[2], node[1])):
            if number[0] == "number" and name[0] == "name" and number[1] > 0:
                return number[1], name[1]
    return None


def _comparison_form(condition: Expression) -> tuple[str, str, str, float, float] | None:
    """(kind, a, b, low, high): low < a/b < high or low < a - b < high."""
    _, larger, smaller = condition.node
    if condition.log:
        up, down = _scaled(larger[1]), _scaled(smaller[1])
        if up is None or down is None:
            return None
        return "/", up[1], down[1], down[0] / up[0], _WIDE
    for side, other, sign in ((larger, smaller, 1), (smaller, larger, -1)):
        if side[0] == "-" and other[0] == "number" and side[1][0] == side[2][0] == "name":
            number = other[1]
            span = (number, _WIDE) if sign == 1 else (-_WIDE, number)
            return "-", side[1][1], side[2][1], *span
    if larger[0] == smaller[0] == "name":
        return "-", larger[1], smaller[1], 0.0, _WIDE
    return None
