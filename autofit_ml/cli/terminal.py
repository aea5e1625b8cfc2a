"""Safe printing: plain text and JSON without control characters.

Names of files, ids, cards of headers and messages come from others. On their way to a terminal
their control characters are escaped (ESC, BEL, line breaks, marks that turn the direction of
writing), and nothing in them is taken for markup or an emoji.
"""

import json
import math
import shlex
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

__all__ = ["console", "line", "print_json", "printable", "resume_command", "say"]

Part = str | tuple[str, str]


def printable(text: object) -> str:
    r"""One line of a text, with Python's escapes for what cannot be seen (``\x1b``, ``\n``)."""
    shown = str(text)
    if shown.isprintable():
        return shown
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode("ascii")
        for letter in shown
    )


def line(*parts: Part) -> Text:
    """A line of texts, or of pairs (text, style)."""
    return Text.assemble(
        *(
            printable(part) if isinstance(part, str) else (printable(part[0]), part[1])
            for part in parts
        )
    )


def console(*, error: bool = True, **options: Any) -> Console:
    """Standard error (or output), for people."""
    plain: dict[str, Any] = {"soft_wrap": True, "highlight": False, "markup": False, "emoji": False}
    return Console(stderr=error, **plain | options)


def say(*parts: Part, error: bool = True) -> None:
    """Print a line; see `line`."""
    console(error=error).print(line(*parts))


def print_json(content: Any, **options: Any) -> None:
    """One line of JSON on standard output; NaN and infinity, which it does not have, as null."""
    print(json.dumps(_without_nan(content), allow_nan=False, **options))


def _without_nan(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_without_nan(item) for item in value]
    if isinstance(value, dict):
        return {name: _without_nan(item) for name, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def resume_command() -> str:
    """The command as typed, without --restart."""
    name = Path(sys.argv[0]).name
    program = ["python", "-m", "autofit_ml"] if name == "__main__.py" else [name]
    return shlex.join([*program, *(word for word in sys.argv[1:] if word != "--restart")])
