"""YAML that somebody has written: read in one way, with errors that say where."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from autofit_ml.errors import SettingsError

__all__ = ["parse_user_yaml", "read_user_text"]


def read_user_text(file: str | Path, what: str) -> str:
    """Text of a file in UTF-8.

    Parameters
    ----------
    file : path
    what : str
        What it should be ("model file"), for messages.

    Raises
    ------
    SettingsError
        It is not there, cannot be read, or is no text.
    """
    try:
        return Path(file).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise SettingsError(f"there is no such {what}", "check its name", file) from None
    except (OSError, ValueError) as error:
        raise SettingsError(f"cannot be read: {error}", "give a YAML text file", file) from None


def parse_user_yaml(text: str, loader: type[yaml.SafeLoader] = yaml.SafeLoader) -> Any:
    """Content of a YAML text.

    Aliases (``*name``) are refused: a few lines of them unfold to any size.

    Parameters
    ----------
    text : str
    loader : type, optional
        With further constructors.

    Raises
    ------
    SettingsError
        No YAML, or aliases; the message names line and column.
    """
    try:
        for token in yaml.scan(text, Loader=loader):
            if isinstance(token, yaml.AliasToken):
                raise SettingsError(
                    f"{_where(token.start_mark)}an alias (*{token.value})",
                    "write out what it stands for",
                )
        return yaml.load(text, Loader=loader)
    except yaml.MarkedYAMLError as error:
        raise SettingsError(
            f"{_where(error.problem_mark or error.context_mark)}not YAML: "
            f"{error.problem or error.context}",
            "check indentation, colons and brackets there",
        ) from None
    except SettingsError:
        raise
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise SettingsError(f"not YAML: {error}", "check indentation and brackets") from None


def _where(mark: yaml.Mark | None) -> str:
    return "" if mark is None else f"line {mark.line + 1}, column {mark.column + 1}: "
