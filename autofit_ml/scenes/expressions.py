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
import math
import operator
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import reduce
from graphlib import CycleError, TopologicalSorter
from itertools import product

import torch

from autofit_ml.errors import SettingsError

__all__ = ["FUNCTIONS", "Expression", "evaluation_order", "parse", "parse_constraint"]

FUNCTIONS = ("abs", "exp", "log", "log10", "max", "min", "sqrt")
"""Functions that expressions may use; ``log`` is the natural logarithm."""

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


def parse(text: str, known: Iterable[str]) -> Expression:
    """Parse the right-hand side of a tie.

    Parameters
    ----------
    text : str
        E.g. ``bulge.x``, ``2 * bulge.re``, ``max(bulge.re, 1.5)``.
    known : iterable of str
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
    known: Iterable[str],
    positive: Callable[[str], bool],
) -> Expression:
    """Parse ``a > b`` or ``a < b``.

    Parameters
    ----------
    text : str
    known : iterable of str
        As in `parse`.
    positive : callable (name) -> bool
        Whether a parameter is always positive.

    Returns
    -------
    Expression
        Positive where the constraint holds: ``ln(a/b)`` where both sides are certain to be
        positive (sizes, fluxes), else ``a - b``.
    """
    larger, smaller = _Parser(text, known).comparison()
    log = _is_positive(larger, positive) and _is_positive(smaller, positive)
    shown = f"{_text(larger)} > {_text(smaller)}"
    names = frozenset(_names(larger) | _names(smaller))
    if log:
        larger, smaller = ("log", larger), ("log", smaller)
    return Expression(shown, names, log, ("-", larger, smaller))


def evaluation_order(ties: Mapping[str, Expression]) -> list[str]:
    """The tied parameters, each after those that it depends on.

    Raises
    ------
    SettingsError
        If ties run in a circle; the message shows it.
    """
    sources = {name: sorted(expression.names) for name, expression in ties.items()}
    try:
        return [name for name in TopologicalSorter(sources).static_order() if name in ties]
    except CycleError as error:
        circle = error.args[1][:0:-1]
        first = circle.index(next(name for name in ties if name in circle))
        shown = " -> ".join([*circle[first:], *circle[: first + 1]])
        raise SettingsError(
            f"ties run in a circle: {shown}", "let one of these parameters be free"
        ) from None


_BINARY = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/", ast.Pow: "**"}


class _Parser:
    """One text: Python's syntax tree, reduced to nested tuples."""

    def __init__(self, text: str, known: Iterable[str]):
        self.text, self.known = str(text).strip(), list(known)

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
        return reduce(lambda a, b: (name, a, b), values) if wanted == 2 else (name, values[0])

    def resolve(self, name: str) -> str:
        """``component.parameter`` of a name as written."""
        parts = {full: full.rpartition(".") for full in self.known}
        spellings = {
            f"{parameter}_{component}": full for full, (component, _, parameter) in parts.items()
        }
        spellings |= {full: full for full in self.known}
        if name in spellings:
            return spellings[name]
        spellings |= {parameter: full for full, (_, _, parameter) in parts.items()}
        close = [spellings[s] for s in difflib.get_close_matches(name, spellings, 3, 0.5)]
        close = list(dict.fromkeys(close)) or self.known[:12]
        raise self.error(f"there is no parameter {name!r}", f"did you mean {', '.join(close)}?")


def _names(node: _Node) -> set[str]:
    if node[0] in ("name", "number"):
        return {node[1]} if node[0] == "name" else set()
    return set().union(*(_names(part) for part in node[1:]))


def _text(node: _Node) -> str:
    """The node as text that parses to the same node."""
    return ast.unparse(ast.parse(_bracketed(node), mode="eval"))


def _bracketed(node: _Node) -> str:
    """The node as text, every operation in brackets."""
    kind, *parts = node
    if kind == "name":
        return parts[0]
    if kind == "number":
        short = f"{parts[0]:g}"
        return f"({short if float(short) == parts[0] else repr(parts[0])})"
    if kind == "-" and parts[0] == ("number", 0.0):
        return f"(-{_bracketed(parts[1])})"
    sides = [_bracketed(part) for part in parts]
    return f"{kind}({', '.join(sides)})" if kind in FUNCTIONS else f"({f' {kind} '.join(sides)})"


def _as_tensor(value) -> torch.Tensor:
    if isinstance(value, torch.Tensor):
        return value
    return torch.tensor(float(value), dtype=torch.float64)


# Division and powers of plain numbers raise in Python; tensors give inf and nan.
_OPERATIONS: dict[str, Callable] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": lambda a, b: _as_tensor(a) / b,
    "**": lambda a, b: _as_tensor(a) ** b,
    "max": lambda a, b: torch.maximum(_as_tensor(a), _as_tensor(b)),
    "min": lambda a, b: torch.minimum(_as_tensor(a), _as_tensor(b)),
    "abs": lambda a: _as_tensor(a).abs(),
    "exp": lambda a: _as_tensor(a).exp(),
    "log": lambda a: _as_tensor(a).log(),
    "log10": lambda a: _as_tensor(a).log10(),
    "sqrt": lambda a: _as_tensor(a).sqrt(),
}


def _evaluate(node: _Node, values: Mapping[str, torch.Tensor]):
    kind = node[0]
    if kind in ("name", "number"):
        return values[node[1]] if kind == "name" else node[1]
    return _OPERATIONS[kind](*(_evaluate(part, values) for part in node[1:]))


def _is_positive(node: _Node, positive: Callable[[str], bool]) -> bool:
    """True if the value is certain to be positive."""
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
    """Limits of a node: every operation takes its extremes at the corners of its arguments."""
    kind = node[0]
    if kind in ("name", "number"):
        return ranges.get(node[1], _EVERYTHING) if kind == "name" else (node[1], node[1])
    parts = [_interval(part, ranges) for part in node[1:]]
    first, last = parts[0], parts[-1]
    if (kind == "**" and first[0] < 0) or (kind == "/" and last[0] < 0 <= last[1]):
        return _EVERYTHING
    if kind in ("log", "log10", "sqrt"):
        parts = [(max(first[0], 0.0), max(first[1], 0.0))]
    corners = torch.tensor(list(product(*parts)), dtype=torch.float64).unbind(-1)
    found = _OPERATIONS[kind](*corners)
    if kind in ("*", "/"):  # 0 times infinity
        found = found.nan_to_num(0.0, math.inf, -math.inf)
    if bool(found.isnan().any()):
        return _EVERYTHING
    least = 0.0 if kind == "abs" and first[0] < 0 < first[1] else float(found.min())
    return (least, float(found.max()))
