"""Declaration of options, and what follows from it; `autofit_ml.settings` declares them all.

A declaration (`option`) says the type, the default, the choices or limits, the unit, the help text,
the panel of the command line, and whether the option changes results. From it follow

- the command line (`autofit_ml.cli.app`) and the signatures from Python (`called_with`),
- validation and the docstrings (`Settings`), the tables of docs/ (`options_table`),
- the identity that guards a run which is continued (`autofit_ml.runs.identity`).
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ParamSpec, Self, TypeVar

import numpy as np

from autofit_ml.errors import SettingsError

__all__ = [
    "Option",
    "Settings",
    "any_of",
    "by_keyword",
    "called_with",
    "declared",
    "option",
    "options_table",
    "texts_of",
    "word_or_number",
]

P = ParamSpec("P")
S = TypeVar("S")
R = TypeVar("R")
T = TypeVar("T")


@dataclass(frozen=True)
class Option:
    """Declaration of an option beside its name, type and default.

    Attributes
    ----------
    help : str
        One or two sentences.
    panel : str
        Heading under which ``--help`` lists it.
    unit : str
    choices : tuple of str
        Every allowed value; empty: any.
    above, least, most, below : float, optional
        Limits of a number: above, from, up to, below.
    normalise : callable, optional
        From what a user may write to the value that is kept; raises `SettingsError`.
    changes_results : bool
        Whether a run that is continued must have the same value.
    shell : type, optional
        Type on the command line, where it is not that of the field; None: the field's.
    words : tuple of str
        Spelling on the command line, where it is not ``--name``.
    stands_for : object
        Value that a flag of the command line stands for.
    python_only, argument : bool
        Not on the command line; an argument of it without a name.
    """

    help: str
    panel: str = ""
    unit: str = ""
    choices: tuple[Any, ...] = ()
    above: float | None = None
    least: float | None = None
    most: float | None = None
    below: float | None = None
    normalise: Callable[[Any], Any] | None = None
    changes_results: bool = True
    shell: Any = None
    words: tuple[str, ...] = ()
    stands_for: Any = True
    python_only: bool = False
    argument: bool = False

    def checked(self, name: str, kind: str, value: Any) -> Any:
        """The value as it is kept.

        Raises
        ------
        SettingsError
            It is none of the choices, of another type, or outside the limits.
        """
        if self.normalise is not None:
            try:
                return self.normalise(value)
            except SettingsError as error:
                raise SettingsError(f"{name}: {error.problem}", error.remedy) from None
        optional = kind.endswith(" | None")
        if optional and value is None:
            return value
        if self.choices:
            if value not in self.choices:
                allowed = ", ".join(map(str, self.choices))
                raise SettingsError(f"{name} is {value!r}", f"use one of: {allowed}")
        elif kind.removesuffix(" | None") in ("int", "float"):
            self._check_number(name, kind.startswith("int"), value)
        return value

    def _check_number(self, name: str, whole: bool, value: Any) -> None:
        """The value is a finite number within the limits."""
        kinds = (int, np.integer) if whole else (int, float, np.integer, np.floating)
        good = isinstance(value, kinds) and not isinstance(value, bool) and math.isfinite(value)
        limits = (
            ("above", self.above, lambda limit: value > limit),
            ("from", self.least, lambda limit: value >= limit),
            ("up to", self.most, lambda limit: value <= limit),
            ("below", self.below, lambda limit: value < limit),
        )
        given = [(word, limit, test) for word, limit, test in limits if limit is not None]
        if not (good and all(test(limit) for _, limit, test in given)):
            kind = "a whole number" if whole else "a number"
            said = " and ".join(f"{word} {limit:g}" for word, limit, _ in given)
            raise SettingsError(f"{name} is {value!r}", f"give {kind} {said}".rstrip())


def option(default: T, help: str, panel: str = "", **details: Any) -> T:
    """Declare an option: a field of a `Settings` class. `details` are those of `Option`."""
    return field(default=default, metadata={"option": Option(help, panel, **details)})


def texts_of(value: Any) -> list[Any]:
    """The items of a sequence, or of text that commas separate."""
    if isinstance(value, str):
        return [word for word in value.split(",") if word]
    return list(value or ())


def any_of(choices: Sequence[str]) -> Callable[[Any], tuple[str, ...]]:
    """Normalise several of some choices, in their order; "none" for none of them."""

    def normalise(value: Any) -> tuple[str, ...]:
        names = [str(word).strip() for word in texts_of(value)]
        unknown = [name for name in names if name not in choices]
        if unknown and names != ["none"]:
            raise SettingsError(
                f"there is no {', '.join(map(repr, unknown))}",
                f"use any of {','.join(choices)}, or none",
            )
        return tuple(name for name in choices if name in names)

    return normalise


def word_or_number(*words: str) -> Callable[[Any], str | None]:
    """Normalise one of some words, or a finite number as text (each number has one text)."""

    def normalise(value: Any) -> str | None:
        if value is None or value in words:
            return value
        try:
            number = math.nan if isinstance(value, bool) else float(value)
        except (TypeError, ValueError):
            number = math.nan
        if not math.isfinite(number):
            raise SettingsError(
                f"{value!r} is none of these", f"use {', '.join(words)} or a number"
            )
        return repr(number + 0.0)

    return normalise


def declared(kind: type | Settings) -> dict[str, tuple[dataclasses.Field, Option]]:
    """Every option of a `Settings` class, in order: name -> (field, declaration)."""
    return {
        item.name: (item, item.metadata["option"])
        for item in dataclasses.fields(kind)
        if "option" in item.metadata
    }


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Base of all settings: values are checked, and kept in one form, when they are made."""

    def __init_subclass__(cls) -> None:
        # The docstring lists the options, as numpydoc has it.
        told: dict[str, str] = {}
        for base in reversed(cls.__mro__):
            fields = vars(base).get("__dataclass_fields__", vars(base))
            for name, kind in inspect.get_annotations(base).items():
                if isinstance(fields.get(name), dataclasses.Field):
                    told[name] = _described(name, kind, fields[name])
        listed = "\n".join(filter(None, told.values()))
        cls.__doc__ = f"{inspect.cleandoc(cls.__doc__ or '')}\n\nAttributes\n----------\n{listed}"

    def __post_init__(self) -> None:
        for name, (item, about) in declared(self).items():
            value = about.checked(name, str(item.type), getattr(self, name))
            object.__setattr__(self, name, value)
        self.check()

    def check(self) -> None:
        """Check what concerns several options.

        Raises
        ------
        SettingsError
        """

    def replace(self, **changes: Any) -> Self:
        """A copy with some options changed."""
        return dataclasses.replace(self, **changes)

    def part(self, kind: type[S], **changes: Any) -> S:
        """Select the options that settings of another kind have too."""
        names = {item.name for item in dataclasses.fields(kind)}  # type: ignore[arg-type]
        mine = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}
        return kind(**{k: v for k, v in mine.items() if k in names} | changes)


def _described(name: str, kind: str, item: dataclasses.Field) -> str:
    about: Option | None = item.metadata.get("option")
    if about is None:
        return ""
    text = about.help if not about.unit else f"{about.help} Unit: {about.unit}."
    return f"{name} : {kind}, default {item.default!r}\n    {text}"


def options_table(kind: type) -> str:
    """Markdown table of the options of a `Settings` class."""
    lines = ["| option | default | unit | meaning | changes results |", "|---|---|---|---|---|"]
    for name, (item, about) in declared(kind).items():
        default = "" if item.default is None else f"`{item.default!r}`"
        text, counts = about.help.replace("|", "\\|"), "yes" if about.changes_results else "no"
        lines.append(f"| `{name}` | {default} | {about.unit} | {text} | {counts} |")
    return "\n".join(lines) + "\n"


def called_with(
    kind: Callable[P, S], *, positional: Sequence[str] = ()
) -> Callable[[Callable[[S], R]], Callable[P, R]]:
    """Give a function of one `Settings` object the keywords of that object as its signature.

    Parameters
    ----------
    kind : type
        Subclass of `Settings`. Its constructor is what type checkers and ``help()`` see.
    positional : sequence of str
        Names that could once be given by position; they still can, with a `DeprecationWarning`.

    Raises
    ------
    SettingsError
        By the function that is returned: an unknown keyword; the message lists the known ones.
    """
    signature = inspect.signature(kind)

    def decorate(function: Callable[[S], R]) -> Callable[P, R]:
        @functools.wraps(function)
        def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
            given = by_keyword(function.__name__, signature, args, kwargs, positional)
            return function(kind(**given))  # type: ignore[call-arg]

        returned = function.__annotations__.get("return", inspect.Signature.empty)
        shown = signature.replace(return_annotation=returned)
        vars(wrapper)["__signature__"] = shown
        wrapper.__doc__ = _with_options(inspect.cleandoc(function.__doc__ or ""), kind)
        wrapper.__annotations__ = {
            name: item.annotation for name, item in shown.parameters.items()
        } | {"return": returned}
        return wrapper

    return decorate


def _with_options(text: str, kind: Any) -> str:
    """A docstring with the options of its function among the parameters."""
    entries = [
        _described(name, str(item.type), item)
        for name, (item, _) in declared(kind).items()
        if f"\n{name} : " not in text
    ]
    before, returns, after = text.partition("\nReturns\n-------\n")
    return "\n".join([before.rstrip(), *entries]) + "\n" + returns + after


def by_keyword(
    name: str,
    signature: inspect.Signature,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    positional: Sequence[str] = (),
) -> dict[str, Any]:
    """Arguments of a call by name; see `called_with`."""
    known = list(signature.parameters)
    if "paths" in kwargs and known[:1] == ["data"]:  # its name before arrays were taken
        warnings.warn(f"{name}: paths= is called data= now", DeprecationWarning, stacklevel=3)
        kwargs = {"data" if word == "paths" else word: one for word, one in kwargs.items()}
    unknown = [word for word in kwargs if word not in known]
    if unknown:
        raise SettingsError(
            f"{name} has no option {', '.join(unknown)}", f"options are: {', '.join(sorted(known))}"
        )
    plain = [
        word
        for word, item in signature.parameters.items()
        if item.kind is item.POSITIONAL_OR_KEYWORD
    ]
    old = list(positional)[: max(0, len(args) - len(plain))]
    if old:
        warnings.warn(
            f"{name}: give {', '.join(old)} by keyword, e.g. {old[0]}=...; by position they will "
            "not be understood any more",
            DeprecationWarning,
            stacklevel=3,
        )
    order = [*plain, *old]
    if len(args) > len(order):
        raise TypeError(f"{name} takes {len(order)} arguments by position, {len(args)} are given")
    given = dict(zip(order, args, strict=False))
    twice = sorted(set(given) & set(kwargs))
    if twice:
        raise TypeError(f"{name} got several values for {', '.join(twice)}")
    return given | dict(kwargs)
