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

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence

from autofit_ml.errors import SettingsError
from autofit_ml.galfit.functions import Function, Photometry
from autofit_ml.galfit.quantities import Objects, Quantity, words_of
from autofit_ml.scenes.model import Parameter, Scene, named
from autofit_ml.scenes.quantities import limits

__all__ = ["apply_constraints", "write_constraints"]

_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eEdD][-+]?\d+)?"
_ABSENT = r"n|alpha|beta|gamma|[frbt]\d+\w?"
"""Words for parameters that a function may lack."""


# --- Reading ---------------------------------------------------------------------------------


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
    reader = _Reader(scene, names, functions, photometry)
    for number, line in enumerate(text.splitlines(), start=1):
        bare = line.partition("#")[0].strip()
        if bare:
            with named(f"line {number}"):
                reader.line(number, bare)
    constraints = (*scene.constraints, *reader.constraints)
    changed = scene.with_parameters(reader.parameters)
    return dataclasses.replace(changed, constraints=constraints), list(dict.fromkeys(reader.notes))


class _Reader(Objects):
    def __init__(self, *objects):
        super().__init__(*objects)
        self.parameters = dict(self.scene.parameters)
        self.constraints: list[str] = []
        self.notes: list[str] = []
        self.number = 0

    def note(self, text: str) -> None:
        self.notes.append(f"constraints, line {self.number}: {text}")

    def line(self, number: int, text: str) -> None:
        self.number = number
        words = re.match(r"([\d_/-]+)\s+(\w+)\s+(.*)$", text)
        if words is None:
            raise SettingsError(f"{text!r} is not understood", "write e.g. '1 n 0.5 to 8'")
        which, word, rest = words[1], words[2].lower(), words[3].strip()
        band = re.fullmatch(r"([a-z]+\d?[ap]?)_(\w+)", word)
        if band is not None and band[2] != "0":
            self.note(f"limits of one band or coefficient ({word}) are not applied")
            return
        word = word if band is None else band[1]
        numbers = [int(part) for part in re.findall(r"\d+", which)]
        for index in numbers:
            if not 1 <= index <= len(self.names):
                raise SettingsError(
                    f"there is no object {index}", f"there are {len(self.names)} objects"
                )
        found = [self.named_by(self.names[index - 1], word) for index in numbers]
        several = [quantity for quantity in found if quantity is not None]
        pair = re.fullmatch(rf"({_NUMBER})\s*(to|in|ref|\s)\s*({_NUMBER})", rest)
        factor = re.fullmatch(rf"factor\s+({_NUMBER})", rest)
        if len(several) < len(found):
            self.note(f"{which} {word} {rest} has no counterpart and is not applied")
        elif rest.lower() in ("offset", "ratio") and len(several) > 1:
            self.tie(rest.lower(), *several)
        elif factor and len(several) == 1:
            self.factor(several[0], _float(factor[1]))
        elif pair and len(several) == 1:
            self.limit(several[0], pair[2].strip(), _float(pair[1]), _float(pair[3]))
        elif pair and len(several) == 2 and "-" in which:
            self.difference(several[0], several[1], _float(pair[1]), _float(pair[3]))
        elif pair and len(several) == 2 and "/" in which:
            self.ratio(several[0], several[1], _float(pair[1]), _float(pair[3]))
        else:
            raise SettingsError(
                f"{which} {word} {rest!r} is not understood",
                "use 'low to high', 'low high', 'factor f', 'offset' or 'ratio'",
            )

    def named_by(self, component: str, word: str) -> Quantity | None:
        """Parameter that a GALFIT constraint is about; None if we have none such."""
        function = self.functions.get(component)
        words = words_of(function)
        if function is not None and word.isdigit():
            name = function.parameter(int(word))
            name = "" if name == "flux" and function.surface is not None else name
        elif function is None or word in words or re.fullmatch(_ABSENT, word):
            name = words.get(word, "")
        else:
            raise SettingsError(
                f"there is no parameter {word!r}",
                "use x, y, mag, re, rs, n, alpha, beta, gamma, q, pa, c, sky, or a number",
            )
        if f"{component}.{name}" not in self.parameters:
            return None
        if name == "re" and function is not None and function.size_depends_on_shape:
            self.notes.append(
                f"{component}: limits of its radius were scaled to re with the start's shape"
            )
        return self.quantity(f"{component}.{name}")

    def factor(self, quantity: Quantity, factor: float) -> None:
        if not factor > 1:
            raise SettingsError(f"factor {factor:g}", "give a number above 1")
        value = self.starts[quantity.full]
        self.set_bounds(quantity, value / factor, value * factor)

    def limit(self, quantity: Quantity, kind: str, first: float, second: float) -> None:
        """Bounds of one parameter: absolute ("to") or about the start in the file."""
        if kind == "ref":
            self.note("limits about the reference band are not applied")
            return
        if not first < second:
            raise SettingsError(f"the limits {first:g} and {second:g}", "give the smaller first")
        start = 0.0 if kind == "to" else quantity.galfits(self.starts[quantity.full])
        ends = [
            start + (end if abs(end) < quantity.open_end else math.copysign(math.inf, end))
            for end in (first, second)
        ]
        self.set_bounds(quantity, *sorted(quantity.ours(end) for end in ends))

    def set_bounds(self, quantity: Quantity, low: float, high: float) -> None:
        """Narrow a parameter's bounds, and move its start inside."""
        full, parameter = quantity.full, self.parameters[quantity.full]
        if parameter.fixed:
            return
        if parameter.tie:
            self.note(f"{full} is tied, its limits are not applied")
            return
        if quantity.name == "pa":
            if not high - low < 180.0:
                return
            turn = 180.0 * (((low + high) / 2) // 180.0)
            low, high = low - turn, high - turn
        least, most = limits(self.scene.component(quantity.component).profile, quantity.name)
        for side, limit, here in (
            ("lower", low, max(low, least)),
            ("upper", high, min(high, most)),
        ):
            if math.isfinite(limit) and limit != here and quantity.name not in ("q", "re", "flux"):
                self.notes.append(f"{full}: the {side} limit {limit:g} is {here:g} here")
        own_low, own_high = parameter.bounds
        lows = [end for end in (low, own_low) if end is not None and end > least]
        highs = [end for end in (high, own_high) if end is not None and end < most]
        value = self.starts[full] if parameter.value is None else parameter.value
        inside = min([max([value, *lows]), *highs])
        if inside != value:
            self.note(f"the start of {full}, {value:g}, was moved to {inside:g}")
        self.parameters[full] = dataclasses.replace(
            parameter, value=inside, bounds=(max(lows, default=None), min(highs, default=None))
        )

    def tie(self, kind: str, first: Quantity, *others: Quantity) -> None:
        """Tie the others to the first; offsets and ratios are those of the starts in the file."""
        magnitudes = first.photometry is not None
        if kind == "ratio" and magnitudes:
            raise SettingsError("a ratio of magnitudes", "use offset for magnitudes")
        as_ratio = kind == "ratio" or magnitudes
        a = self.starts[first.full]
        if as_ratio and a == 0:
            raise SettingsError(f"the ratio to {first.full} = 0", "use offset")
        for other in others:
            parameter = self.parameters[other.full]
            if parameter.tie:
                raise SettingsError(f"{other.full} is tied already", "keep one of the two lines")
            if parameter.fixed:
                self.note(f"{other.full} is held, not tied to {first.full}")
                continue
            b = self.starts[other.full]
            text = _times(b / a, first.full) if as_ratio else first.full
            difference = _rounded(b - a)
            if not as_ratio and difference != 0.0:
                text += f" {'+' if difference > 0 else '-'} {abs(difference):.10g}"
            self.parameters[other.full] = Parameter(tie=text)

    def difference(self, a: Quantity, b: Quantity, low: float, high: float) -> None:
        """Limits of b - a."""
        if a.photometry is not None:  # brighter means more flux
            lower = f"{10 ** (-0.4 * low):.10g} * {a.full} > {b.full}"
            upper = f"{b.full} > {10 ** (-0.4 * high):.10g} * {a.full}"
        elif a.radius != b.radius:
            raise SettingsError(f"{a.full} and {b.full} are different radii", "compare their ratio")
        else:
            lower = f"{b.full} - {a.full} > {low * a.radius:.10g}"
            upper = f"{high * a.radius:.10g} > {b.full} - {a.full}"
        self.constraints += [lower] * (low > -a.open_end) + [upper] * (high < a.open_end)

    def ratio(self, a: Quantity, b: Quantity, low: float, high: float) -> None:
        """Limits of a / b."""
        if a.photometry is not None:
            raise SettingsError("a ratio of magnitudes", "use 3-7 for magnitudes")
        scale = a.radius / b.radius
        if low > 0:
            self.constraints.append(f"{a.full} > {_times(low * scale, b.full)}")
        if high < a.open_end:
            self.constraints.append(f"{_times(high * scale, b.full)} > {a.full}")


def _times(factor: float, name: str) -> str:
    return name if _rounded(factor) == 1.0 else f"{_rounded(factor):.10g} * {name}"


def _rounded(value: float) -> float:
    """Rounded to 10 digits: starts in files are rounded too."""
    return float(f"{value:.10g}") if abs(value) > 1e-9 else 0.0


def _float(word: str) -> float:
    return float(re.sub("[dD]", "e", word))


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


class _Writer(Objects):
    def number(self, full: str) -> int:
        return 1 + list(self.names).index(full.rpartition(".")[0])

    def word(self, full: str) -> str:
        """GALFIT's word for a parameter."""
        component, _, name = full.rpartition(".")
        words = words_of(self.functions.get(component))
        written = {parameter: word for word, parameter in reversed(words.items())}
        if name not in written:
            raise SettingsError(
                f"{full} is not one of GALFIT's parameters", "leave out its bounds and links"
            )
        return written[name]

    def bounds(self) -> list[str]:
        lines = []
        for full, parameter in self.scene.parameters.items():
            if not (parameter.bounded and parameter.free):
                continue
            word, quantity = self.word(full), self.quantity(full)
            low, high = parameter.bounds
            ends = sorted(
                (
                    quantity.galfits(-math.inf if low is None else low),
                    quantity.galfits(math.inf if high is None else high),
                )
            )
            lines.append(f"{self.number(full)}  {word}  {_range(ends, quantity, ' to ')}")
        return lines

    def ties(self) -> list[str]:
        lines = []
        for full, expression in self.scene.ties:
            form = _linear(expression.node) or {}
            offset = form.pop("", 0.0)
            source, slope = next(iter(form.items()), ("", 0.0))
            word = self.word(full)
            as_ratio = word in ("re", "rs", "n", "q")
            is_link = len(form) == 1 and source.rpartition(".")[2] == full.rpartition(".")[2]
            is_ratio = offset == 0 and slope > 0 and (as_ratio or word == "mag")
            is_offset = slope == 1 and (offset == 0 or not (as_ratio or word == "mag"))
            if not (is_link and (is_ratio or is_offset)):
                raise SettingsError(
                    f"{full} = {expression.text} cannot be written for GALFIT",
                    "it knows links between the same parameter of two components: an offset (of x, "
                    "y, pa) or a ratio (of re, flux, n, q)",
                )
            objects = f"{self.number(source)}_{self.number(full)}"
            kind = "ratio" if as_ratio else "offset"
            lines.append(f"{objects}  {self.word(source)}  {kind}")
        return lines

    def comparisons(self) -> list[str]:
        """Constraints; two that limit the same quantity from both sides share a line."""
        found: dict[tuple[str, str, str], list[float]] = {}
        for condition in self.scene.conditions:
            form = _lower_limit(condition.node)
            if form is None or form[1].rpartition(".")[2] != form[2].rpartition(".")[2]:
                raise SettingsError(
                    f"the constraint {condition.text!r} cannot be written for GALFIT",
                    "it knows limits of the difference or the ratio of the same parameter of two "
                    "components",
                )
            kind, a, b, low = form
            pair = found.get((kind, b, a))
            if pair is not None:  # an upper limit of the other way round
                pair[1] = min(pair[1], -low if kind == "-" else 1 / low)
            else:
                pair = found.setdefault((kind, a, b), [low, math.inf])
                pair[0] = max(pair[0], low)
        return [self.comparison(*key, *pair) for key, pair in found.items()]

    def comparison(self, kind: str, a: str, b: str, low: float, high: float) -> str:
        """The line of low < a/b < high or low < a - b < high."""
        first, second, word = self.quantity(a), self.quantity(b), self.word(a)
        i, j = self.number(a), self.number(b)
        if word == "mag" and kind == "/":  # flux(a) / flux(b) is mag(b) - mag(a)
            ends = [2.5 * math.log10(end) for end in (low, high)]
            return f"{i}-{j}  mag  {_range(ends, first)}"
        if kind == "/":
            scale = second.radius / first.radius
            return f"{i}/{j}  {word}  {_range([low * scale, high * scale], first)}"
        if word == "mag" or first.radius != second.radius:
            raise SettingsError(
                f"the difference of {a} and {b} is none in GALFIT", "compare their ratio"
            )
        return f"{j}-{i}  {word}  {_range([low / first.radius, high / first.radius], first)}"


def _range(ends: Sequence[float], quantity: Quantity, between: str = " ") -> str:
    wide = quantity.open_end
    return between.join(f"{min(max(end, -wide), wide):.12g}" for end in ends)


def _linear(node: tuple) -> dict[str, float] | None:
    """Coefficients of a sum of parameters, its constant as ""; None for any other expression."""
    kind = node[0]
    if kind in ("number", "name"):
        return {"": node[1]} if kind == "number" else {node[1]: 1.0}
    sides = [_linear(part) for part in node[1:]]
    if kind not in ("+", "-", "*", "/") or sides[0] is None or sides[1] is None:
        return None
    left, right = sides[0], sides[1]
    if kind in ("+", "-"):
        sign = 1.0 if kind == "+" else -1.0
        return {k: left.get(k, 0.0) + sign * right.get(k, 0.0) for k in {**left, **right}}
    if kind == "*" and left.keys() == {""}:
        left, right = right, left
    if right.keys() != {""}:
        return None
    factor = right[""] if kind == "*" else 1.0 / right[""]
    return {k: value * factor for k, value in left.items()}


def _lower_limit(node: tuple) -> tuple[str, str, str, float] | None:
    """(kind, a, b, low) of a condition: low < a/b or low < a - b."""
    _, larger, smaller = node
    if larger[0] == smaller[0] == "log":
        up, down = _linear(larger[1]), _linear(smaller[1])
        if up is None or down is None or not len(up) == len(down) == 1 or "" in {**up, **down}:
            return None
        ((a, over),), ((b, under),) = up.items(), down.items()
        return "/", a, b, under / over
    form = _linear(node) or {}
    low = -form.pop("", 0.0)
    if len(form) != 2 or sum(form.values()) != 0.0:
        return None
    b, a = sorted(form, key=lambda name: form[name])
    return "-", a, b, low / form[a]
