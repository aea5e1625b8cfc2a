"""The application: from the declarations of `autofit_ml.settings` to commands; errors."""

import contextlib
import inspect
import os
import sys
from collections.abc import Callable
from dataclasses import Field
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from autofit_ml.cli.terminal import resume_command, say
from autofit_ml.errors import AutofitError, InputError, SettingsError
from autofit_ml.options import Option, declared
from autofit_ml.runs.interruption import interrupted_by_signals
from autofit_ml.settings import PANELS

__all__ = ["app", "command", "main"]

NOTHING, USAGE, INTERRUPTED = 1, 2, 130

S = TypeVar("S")

app = typer.Typer(
    name="autofit-ml",
    help="Structural parameters of galaxies from folders of images.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_ORDER = ("", *PANELS)
_WIDEST = 18
"""Letters that a list of choices may have beside its option, in a terminal of 80 columns."""

_TYPES = {"str": str, "int": int, "float": float, "bool": bool, "Path": Path, "Paths": list[Path]}


def main() -> None:
    """Run the command that `sys.argv` says; it always ends in `SystemExit`."""
    with interrupted_by_signals():
        status = _flushed(_status())
    raise SystemExit(status)


def _status() -> Any:
    """Exit status of the command; what is wrong is said."""
    try:
        app()
    except SystemExit as end:
        return end.code
    except KeyboardInterrupt:
        return INTERRUPTED
    except AutofitError as error:
        say(("error:", "bold red"), f" {error}")
        # An InputError that ends the program is about what the user named (no catalogue there):
        # one about an object is a row of the catalogue.
        return USAGE if isinstance(error, (SettingsError, InputError)) else NOTHING
    except OSError as error:
        return _unwritten(error)
    return 0


def _flushed(status: Any) -> Any:
    """The status, once everything is printed."""
    try:
        sys.stdout.flush()
    except OSError as error:
        return status or _unwritten(error)
    return status


def _unwritten(error: OSError) -> int:
    """Say what could not be read or written; an error without a file is standard output's."""
    if error.filename is None:
        # What could not be printed must not be tried again at the end of the process.
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    what = "standard output" if error.filename is None else error.filename
    reason = error.strerror or type(error).__name__
    if not isinstance(error, BrokenPipeError):
        say(("error:", "bold red"), f" {what}: {reason} (check disk and permissions)")
    return NOTHING


def _version(wanted: bool) -> None:
    if wanted:
        from autofit_ml import __version__

        print(f"autofit-ml {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def command(
    kind: type[S], within: typer.Typer = app, name: str | None = None
) -> Callable[[Callable[[S], int | None]], Callable[[S], int | None]]:
    """Make a function of one `Settings` object a command with the options that are declared there.

    The function returns the exit status; its docstring is the command's help.
    """

    def decorate(function: Callable[[S], int | None]) -> Callable[[S], int | None]:
        options = declared(kind)
        # An argument that takes all paths that are left comes after the others.
        order = sorted(
            options,
            key=lambda name: (
                _ORDER.index(options[name][1].panel),
                options[name][1].argument and name == "paths",
            ),
        )
        parameters = [
            _parameter(name, *options[name]) for name in order if not options[name][1].python_only
        ]

        def callback(**given: Any) -> None:
            chosen = {name: _meant(options[name][1], value) for name, value in given.items()}
            call = kind(**{k: v for k, v in chosen.items() if v is not None})
            try:
                status = function(call)
            except KeyboardInterrupt:
                if not getattr(call, "quiet", False):
                    say("stopped at once; what was finished is saved")
                    say(f"to go on: {resume_command()}")
                status = INTERRUPTED
            if status:
                raise typer.Exit(status)

        callback.__doc__ = _paragraphs(function.__doc__ or "")
        callback.__annotations__ = {item.name: item.annotation for item in parameters}
        vars(callback)["__signature__"] = inspect.Signature(parameters)
        within.command(name or function.__name__)(callback)
        return function

    return decorate


def _paragraphs(text: str) -> str:
    """A docstring with one line for each paragraph: Typer keeps line breaks."""
    return "\n\n".join(" ".join(part.split()) for part in text.split("\n\n"))


def _parameter(name: str, item: Field, about: Option) -> inspect.Parameter:
    default = item.default
    if isinstance(default, tuple):
        default = ",".join(default)
    if about.stands_for is not True:
        default = False
    kind = about.shell or _TYPES.get(str(item.type).removesuffix(" | None"), str)
    shown = about.help if not about.unit else f"{about.help} ({about.unit})"
    details: dict[str, Any] = {"help": shown, "show_default": default not in (None, "")}
    if about.argument:
        info: Any = typer.Argument(metavar="".join(about.words) or name.upper(), **details)
        if default == Path():
            default = inspect.Parameter.empty
    else:
        words = about.words or (f"--{name.replace('_', '-')}",)
        if kind is bool and default is True and not about.words:
            words = (f"{words[0]}/--no-{words[0][2:]}",)
        if about.choices:
            choices = "|".join(map(str, about.choices))
            details["metavar"] = choices if len(choices) <= _WIDEST else "CHOICE"
            if not all(str(choice) in shown for choice in about.choices) and len(choices) > _WIDEST:
                details["help"] = f"{shown} One of {', '.join(map(str, about.choices))}."
        info = typer.Option(*words, rich_help_panel=about.panel or None, **details)
    annotated = Annotated[kind | None if default is None else kind, info]  # type: ignore[valid-type]
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotated
    )


def _meant(about: Option, value: Any) -> Any:
    """Translate a value of the command line; None stands for the default."""
    if about.stands_for is not True:
        return about.stands_for if value else None
    return value or None if isinstance(value, list) else value
