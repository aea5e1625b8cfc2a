"""Errors and warnings raised by autofit-ml.

Every error says what is wrong and what to do about it: ``remedy`` is kept apart from the
problem so that the command line, the catalogue's ``message`` column and the tests can use it.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

__all__ = [
    "AutofitError",
    "AutofitWarning",
    "BusyError",
    "DamagedWeightsError",
    "IncompatibleWeightsError",
    "InputError",
    "MissingWeightsError",
    "OutputError",
    "ResumeError",
    "SettingsError",
    "UnknownWeightsError",
    "WeightsError",
    "brief",
    "errors_as",
    "errors_of_file",
]

_LONGEST = 200
_LONG_VALUE = re.compile(
    r"""'[^'\n]{200,}'|"[^"\n]{200,}"|\[[^\[\]]{200,}\]|\{[^{}]{200,}\}|[^\s'"]{200,}"""
)


def brief(text: str) -> str:
    """A message without what is too long to be read: values are cut at 200 characters.

    What was given may be anything, a number of a million digits too.
    """
    shown = _LONG_VALUE.sub(lambda found: _cut(found[0], _LONGEST), _cut(text, 100 * _LONGEST))
    return _cut(shown, 10 * _LONGEST)


def _cut(text: str, most: int) -> str:
    """Beginning and end of a text, and how much is left out."""
    if len(text) <= most:
        return text
    head, tail = most * 2 // 3, most // 3 - 30
    return f"{text[:head]} ... ({len(text) - head - tail} characters) ... {text[-tail:]}"


class AutofitWarning(UserWarning):
    """Something was repaired or assumed; the result says so with a flag."""


class AutofitError(Exception):
    """Base class.

    Parameters
    ----------
    problem : str
        What is wrong, in one sentence.
    remedy : str, optional
        What the user can do about it.
    file : path, optional
        The file concerned.
    """

    def __init__(self, problem: str, remedy: str = "", file: str | Path | None = None):
        self.problem = brief(problem)
        self.remedy = brief(remedy)
        self.file = None if file is None else Path(file)
        super().__init__(str(self))

    def __str__(self) -> str:
        text = f"{self.file}: {self.problem}" if self.file is not None else self.problem
        return f"{text} ({self.remedy})" if self.remedy else text

    def __reduce__(self):
        return type(self), (self.problem, self.remedy, self.file)


class InputError(AutofitError, ValueError):
    """One input object cannot be used; the others are unaffected."""


class SettingsError(AutofitError, ValueError):
    """The call itself is wrong (exit status 2): unknown option value, nothing to read."""


class ResumeError(SettingsError):
    """The output folder holds a run with other settings or inputs."""


class BusyError(ResumeError):
    """Another process is at work in the output folder."""


class OutputError(AutofitError, OSError):
    """Results cannot be written (disk full, no permission)."""


class WeightsError(AutofitError):
    """Pretrained weights cannot be used; the subclasses say why."""


class UnknownWeightsError(WeightsError, SettingsError):
    """No bundle of that name in the manifest."""


class MissingWeightsError(WeightsError):
    """The bundle is known, but its files are not on this machine (and cannot be fetched)."""


class DamagedWeightsError(WeightsError):
    """A file of the bundle is missing, truncated or altered."""


class IncompatibleWeightsError(WeightsError):
    """The bundle was made for another version, task or network."""


@contextlib.contextmanager
def errors_as(
    kind: type[AutofitError],
    problem: str,
    remedy: str = "",
    file: str | Path | None = None,
    *,
    of: type[BaseException] | tuple[type[BaseException], ...] = Exception,
) -> Iterator[None]:
    """Errors of libraries as one of ours: `problem`, and what they say; ours stay as they are."""
    try:
        yield
    except AutofitError:
        raise
    except of as error:
        raise kind(f"{problem}: {' '.join(str(error).split())}", remedy, file) from error


@contextlib.contextmanager
def errors_of_file(file: str | Path) -> Iterator[None]:
    """Name a file in our errors that name none."""
    try:
        yield
    except AutofitError as error:
        if error.file is not None:
            raise
        raise type(error)(error.problem, error.remedy, file) from error
