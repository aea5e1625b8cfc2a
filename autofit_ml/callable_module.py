"""Stages whose package and function share a name.

The design has a package ``autofit_ml/refine/`` and a function ``autofit_ml.refine(stamps)``.
Importing a package puts the module under that name, so the module itself is made callable: it
calls the function of its own name (docs/decisions.md).
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

__all__ = ["make_callable"]


class _CallableModule(ModuleType):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return getattr(self, self.__name__.rpartition(".")[2])(*args, **kwargs)


def make_callable(name: str) -> None:
    """Let the module `name` (``__name__``) be called like the function it is named after."""
    sys.modules[name].__class__ = _CallableModule
