"""A network's settings in ``config.json`` and in YAML."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["tuples"]


def tuples(values: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as JSON or YAML hold them, with tuples for lists."""
    return {
        key: tuple(value) if isinstance(value, list | tuple) else value
        for key, value in values.items()
    }
