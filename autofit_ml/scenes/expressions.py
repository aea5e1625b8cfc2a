"""Arithmetic between parameters: ties (``2 * bulge.re``) and constraints (``disk.re > bulge.re``).

In: text. Out: an `Expression`, which is evaluated on tensors and can be differentiated through.
The text is parsed by Python's own parser and walked over a short list of allowed operations; it is
never executed. Used by `autofit_ml.scenes.model` (checks) and by the refiner's layout (values).

A parameter is written ``component.parameter``; ``parameter_component`` (``re_disk``) is understood
as well. What may be used: ``+ - * / **``, brackets, numbers, and the functions of `FUNCTIONS`.
"""

from __future__ import annotations

import ast
import difflib
import graphlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from autofit_ml.errors import SettingsError

__all__ = ["FUNCTIONS", "Expression", "evaluation_order", "parse", "parse_constraint"]

FUNCTIONS = ("abs", "exp", "log", "log10", "max", "min", "sqrt")
"""Functions that expressions may use; ``log`` is the natural logarithm."""

_POSITIVE = ("flux", "re", "n", "q")
"""Parameters that are positive in every profile."""

_Node = tuple
"""("number", value), ("name", "disk.re"), or (operation, node, ...)."""

Interval = tuple[float, float]


@dataclass(frozen=True)
class Expression:
    """A parsed expression.

    Attributes
    ----------
    text : str
        With every parameter as ``component.parameter``.
    names : frozenset of str
        The parameters that it needs.
    log : bool
        Of a constraint: whether its value is the logarithm of a ratio (no unit), not a difference.
    """

    text: str
    names: frozenset[str]
    log: bool = False
    node: _Node = field(default=(), repr=False)

    def __call__(self, values: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Evaluate.

        Parameters
        ----------
        values : mapping of str to Tensor
            One entry for each of `names`; shapes that broadcast. Catalogue units.

        Returns
        -------
        Tensor
            Of a constraint: positive where it holds.
        """
        return _as_tensor(_evaluate(self.node, values))

    def interval(self, ranges: Mapping[str, Interval]) -> Interval:
        """Limits that the value cannot leave while each parameter stays within its range.

        The limits may be wider than what can be reached (interval arithmetic).
        """
        return _interval(self.node, ranges)

    @property
    def plain_name(self) -> str:
        """The parameter, where the expression is nothing else (``bulge.x``); otherwise empty."""
        return self.node[1] if self.node[0] == "name" else ""


def parse(text: str, known: Iterable[str] | None = None) -> Expression:
    """Parse the right-hand side of a tie.

    Parameters
    ----------
    text : str
        E.g. ``bulge.x``, ``2 * bulge.re``, ``max(bulge.re, 1.5)``.
    known : iterable of str, optional
        The parameters there are, ``component.parameter``; any other name is refused, and
        ``re_disk`` is looked up among them.

    Raises
    ------
    SettingsError
    """
    node = _Parser(text, known).expression()
    return Expression(_text(node), frozenset(_names(node)), node=node)


def parse_constraint(
    text: str,
    known: Iterable[str] | None = None,
    positive: Callable[[str], bool] | None = None,
) -> Expression:
    """Parse ``a > b`` or ``a < b``.

    Parameters
    ----------
    text : str
    known : iterable of str, optional
        As in `parse`.
    positive : callable (name) -> bool, optional
        Whether a parameter is always positive; by default flux, re, n and q are.

    Returns
    -------
    Expression
        Positive where the constraint holds: ``ln(a/b)`` where both sides are certain to be
        positive (sizes, fluxes), else ``a - b``.
    """
    parser = _Parser(text, known)
    larger, smaller = parser.comparison()
    if positive is None:

        def positive(name: str) -> bool:
            return name.rpartition(".")[2] in _POSITIVE

    log = _is_positive(larger, positive) and _is_positive(smaller, positive)
    shown = f"{_text(larger)} > {_text(smaller)}"
    if log:
        node: _Node = ("-", ("log", larger), ("log", smaller))
    else:
        node = ("-", larger, smaller)
    return Expression(shown, frozenset(_names(node)), log, node)


def evaluation_order(ties: Mapping[str, Expression]) -> list[str]:
    """The tied parameters, each after those that it depends on.

    Raises
    ------
    SettingsError
        If ties run in a circle; the message shows it.
    """
    sources = {name: sorted(tie.names & ties.keys()) for name, tie in ties.items()}
    try:
        return list(graphlib.TopologicalSorter(sources).static_order())
    except graphlib.CycleError as error:
        circle = " -> ".join(reversed(error.args[1]))
        raise SettingsError(
            f"ties run in a circle: {circle}", "let one of these parameters be free"
        ) from None


_BINARY = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/", ast.Pow: "**"}


class _Parser:
    """One text: Python's syntax tree, reduced to nested tuples."""

    def __init__(self, text: str, known: Iterable[str] | None):
        self.text = str(text).strip()
        self.known = None if known is None else list(known)

    def error(self, problem: str, remedy: str) -> SettingsError:
        return SettingsError(f"expression {self.text!r}: {problem}", remedy)

    def tree(self) -> ast.expr:
        if len(self.text) > 1000:
            raise self.error("longer than 1000 characters", "write it shorter")
        try:
            return ast.parse(self.text, mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            raise self.error(
                "cannot be read", "write arithmetic such as '2 * bulge.re' or 'disk.re > bulge.re'"
            ) from None

    def source(self, tree: ast.expr) -> str:
        """A part as it was written (to write a deep one anew would be a deep recursion)."""
        return ast.get_source_segment(self.text, tree) or self.text

    def expression(self) -> _Node:
        tree = self.tree()
        if isinstance(tree, ast.Compare):
            raise self.error("a comparison where a value is wanted", "move it to `constraints`")
        return self.walk(tree, 0)

    def comparison(self) -> tuple[_Node, _Node]:
        """(The larger side, the smaller side)."""
        tree = self.tree()
        if not isinstance(tree, ast.Compare) or len(tree.ops) != 1:
            raise self.error(
                "is not one comparison", "write 'a > b'; write two constraints for 'a < b < c'"
            )
        left, right = self.walk(tree.left, 0), self.walk(tree.comparators[0], 0)
        if isinstance(tree.ops[0], (ast.Gt, ast.GtE)):
            sides = left, right
        elif isinstance(tree.ops[0], (ast.Lt, ast.LtE)):
            sides = right, left
        else:
            raise self.error(
                "compares with something other than > and <",
                "use > or <; an equality is a tie: give the parameter itself as 'other.parameter'",
            )
        if left == right:
            raise self.error("both sides are the same", "compare two different things")
        if not _names(left) and not _names(right):
            raise self.error("names no parameter", "write e.g. 'disk.re > bulge.re'")
        return sides

    def walk(self, tree: ast.expr, depth: int) -> _Node:
        if depth > 50:
            raise self.error("too deeply nested", "write it shorter")
        if isinstance(tree, ast.Constant):
            return self.number(tree)
        if isinstance(tree, ast.Attribute) and isinstance(tree.value, ast.Name):
            return ("name", self.resolve(f"{tree.value.id}.{tree.attr}"))
        if isinstance(tree, ast.Name):
            return ("name", self.resolve(tree.id))
        if isinstance(tree, ast.UnaryOp) and isinstance(tree.op, (ast.UAdd, ast.USub)):
            node = self.walk(tree.operand, depth + 1)
            if isinstance(tree.op, ast.UAdd):
                return node
            return ("number", -node[1]) if node[0] == "number" else ("-", ("number", 0.0), node)
        if isinstance(tree, ast.BinOp) and type(tree.op) in _BINARY:
            sides = (self.walk(tree.left, depth + 1), self.walk(tree.right, depth + 1))
            operation = _BINARY[type(tree.op)]
            if operation == "/" and sides[1] == ("number", 0.0):
                raise self.error("divides by zero", "correct the denominator")
            return (operation, *sides)
        if isinstance(tree, ast.Call):
            return self.call(tree, depth)
        raise self.error(
            f"{self.source(tree)!r} is not arithmetic",
            f"use + - * / **, numbers, component.parameter, and {', '.join(FUNCTIONS)}",
        )

    def number(self, tree: ast.Constant) -> _Node:
        if isinstance(tree.value, bool) or not isinstance(tree.value, (int, float)):
            raise self.error(f"{tree.value!r} is not a number", "use numbers and parameters")
        try:
            value = float(tree.value)
        except OverflowError:
            value = math.inf
        if not math.isfinite(value):
            raise self.error("a number is too large", "use a smaller one")
        return ("number", value)

    def call(self, tree: ast.Call, depth: int) -> _Node:
        name = tree.func.id if isinstance(tree.func, ast.Name) else self.source(tree.func)
        if name not in FUNCTIONS or tree.keywords:
            raise self.error(f"{name!r} is not known", f"use {', '.join(FUNCTIONS)}")
        wanted = 2 if name in ("max", "min") else 1
        if len(tree.args) < wanted or (wanted == 1 and len(tree.args) > 1):
            raise self.error(
                f"{name} takes {'two or more values' if wanted == 2 else 'one value'}",
                f"write e.g. {name}({'bulge.re, 1.5' if wanted == 2 else 'bulge.re'})",
            )
        # Each value of a max is a level of its own below.
        values = [self.walk(argument, depth + len(tree.args)) for argument in tree.args]
        node: _Node = (name, *values[:wanted])
        for value in values[wanted:]:
            node = (name, node, value)
        return node

    def resolve(self, name: str) -> str:
        """``component.parameter`` of a name as written."""
        if self.known is None:
            if "." in name:
                return name
            parameter, underscore, component = name.partition("_")
            if parameter and component:
                return f"{component}.{parameter}"
            raise self.error(f"{name!r} does not say of which component", f"write component.{name}")
        if name in self.known:
            return name
        if "." not in name:
            for full in self.known:
                component, _, parameter = full.rpartition(".")
                if name == f"{parameter}_{component}":
                    return full
        spellings = {full: full for full in self.known}
        for full in self.known:
            component, _, parameter = full.rpartition(".")
            spellings[f"{parameter}_{component}"] = full
            if parameter == name:
                spellings[name] = full
        close = [spellings[s] for s in difflib.get_close_matches(name, spellings, 3, 0.5)]
        close = list(dict.fromkeys(close)) or self.known[:12]
        raise self.error(f"there is no parameter {name!r}", f"did you mean {', '.join(close)}?")


def _names(node: _Node) -> set[str]:
    if node[0] == "name":
        return {node[1]}
    if node[0] == "number":
        return set()
    return set().union(*(_names(part) for part in node[1:]))


_RANK = {"+": 1, "-": 1, "*": 2, "/": 2, "**": 3}


def _text(node: _Node) -> str:
    """The node as text that parses to the same node."""
    kind = node[0]
    if kind == "number":
        return f"{node[1]:g}" if float(f"{node[1]:g}") == node[1] else repr(node[1])
    if kind == "name":
        return node[1]
    if kind not in _RANK:
        return f"{kind}({', '.join(_text(part) for part in node[1:])})"
    left, right = node[1:]
    if kind == "-" and left == ("number", 0.0):
        return f"-{_bracketed(right, 4)}"
    # The side that the operation does not associate to needs brackets at equal rank.
    to_left, to_right = (_RANK[kind] + 1, 3) if kind == "**" else (_RANK[kind], _RANK[kind] + 1)
    sign = kind if kind == "**" else f" {kind} "
    return f"{_bracketed(left, to_left)}{sign}{_bracketed(right, to_right)}"


def _bracketed(node: _Node, least: int) -> str:
    """Text of one side of an operation, bracketed where it binds less than `least`."""
    text = _text(node)
    negative = text.startswith("-")
    rank = 0 if negative else _RANK.get(node[0], 5)
    return text if rank >= least else f"({text})"


def _as_tensor(value) -> torch.Tensor:
    if isinstance(value, torch.Tensor):
        return value
    return torch.tensor(float(value), dtype=torch.float64)


def _evaluate(node: _Node, values: Mapping[str, torch.Tensor]):
    kind = node[0]
    if kind == "number":
        return node[1]
    if kind == "name":
        return values[node[1]]
    parts = [_evaluate(part, values) for part in node[1:]]
    if kind in _RANK:
        left, right = parts
        if kind == "+":
            return left + right
        if kind == "-":
            return left - right
        if kind == "*":
            return left * right
        # Division and powers of plain numbers raise in Python; tensors give inf and nan.
        return _as_tensor(left) / right if kind == "/" else _as_tensor(left) ** right
    first = _as_tensor(parts[0])
    if kind in ("max", "min"):
        second = _as_tensor(parts[1]).to(first)
        return torch.maximum(first, second) if kind == "max" else torch.minimum(first, second)
    return getattr(torch, kind)(first)


def _is_positive(node: _Node, positive: Callable[[str], bool]) -> bool:
    """Whether the value is certain to be positive."""
    kind = node[0]
    if kind == "number":
        return node[1] > 0
    if kind == "name":
        return positive(node[1])
    if kind in ("+", "*", "/", "min"):
        return all(_is_positive(part, positive) for part in node[1:])
    if kind == "max":
        return any(_is_positive(part, positive) for part in node[1:])
    if kind in ("**", "sqrt"):
        return _is_positive(node[1], positive)
    return kind == "exp"


_EVERYTHING: Interval = (-math.inf, math.inf)


def _interval(node: _Node, ranges: Mapping[str, Interval]) -> Interval:
    low, high = _raw_interval(node, ranges)
    return (-math.inf if math.isnan(low) else low, math.inf if math.isnan(high) else high)


def _raw_interval(node: _Node, ranges: Mapping[str, Interval]) -> Interval:
    kind = node[0]
    if kind == "number":
        return (node[1], node[1])
    if kind == "name":
        return ranges.get(node[1], _EVERYTHING)
    parts = [_interval(part, ranges) for part in node[1:]]
    a = parts[0]
    b = parts[1] if len(parts) > 1 else a
    if kind == "+":
        return (a[0] + b[0], a[1] + b[1])
    if kind == "-":
        return (a[0] - b[1], a[1] - b[0])
    if kind == "*":
        return _extremes(_product(x, y) for x in a for y in b)
    if kind == "/":
        if b[0] <= 0 <= b[1]:
            return _quotient_of_positive(a, b)
        return _extremes(_product(x, 1.0 / y if math.isfinite(y) else 0.0) for x in a for y in b)
    if kind == "**":
        return _power_interval(a, b)
    if kind == "max":
        return (max(a[0], b[0]), max(a[1], b[1]))
    if kind == "min":
        return (min(a[0], b[0]), min(a[1], b[1]))
    if kind == "abs":
        low = 0.0 if a[0] <= 0 <= a[1] else min(abs(a[0]), abs(a[1]))
        return (low, max(abs(a[0]), abs(a[1])))
    rising = {"exp": _exp, "log": _log, "log10": lambda x: _log(x) / math.log(10), "sqrt": _sqrt}
    return (rising[kind](a[0]), rising[kind](a[1]))


def _quotient_of_positive(a: Interval, b: Interval) -> Interval:
    """a / b where b reaches zero: limits are known only if neither changes sign."""
    if a[0] >= 0 and b[0] >= 0 and b[1] > 0:
        return (0.0 if math.isinf(b[1]) or a[0] == 0 else a[0] / b[1], math.inf)
    return _EVERYTHING


def _product(x: float, y: float) -> float:
    return 0.0 if x == 0 or y == 0 else x * y


def _extremes(values: Iterable[float]) -> Interval:
    found: Sequence[float] = list(values)
    return (min(found), max(found))


def _power_interval(a: Interval, b: Interval) -> Interval:
    if a[0] < 0:
        return _EVERYTHING

    def power(x: float, y: float) -> float:
        try:
            return x**y
        except ZeroDivisionError:
            return math.inf
        except OverflowError:
            return math.inf

    found = [power(x, y) for x in a for y in b]
    found = [value for value in found if not math.isnan(value)]
    return _extremes(found) if found else _EVERYTHING


def _exp(x: float) -> float:
    return math.inf if x > 700 else math.exp(x)


def _log(x: float) -> float:
    return -math.inf if x <= 0 else math.log(x)


def _sqrt(x: float) -> float:
    return math.sqrt(max(x, 0.0))
