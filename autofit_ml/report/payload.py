"""Content of pages: tables and flags as JSON, templates with their styles and scripts."""

import json
import math
from collections.abc import Sequence
from importlib import resources
from typing import Any

import jinja2
import pyarrow as pa
from markupsafe import Markup

from autofit_ml.catalogue import FATAL, FLAG_MEANINGS, QUALITY

__all__ = ["columns_payload", "compact", "flags_payload", "rendered", "script_json"]

_POSITION_DIGITS = 10
"""Significant digits of positions; 7 for everything else keep the file small."""

_KINDS = (
    (pa.types.is_floating, "number"),
    (pa.types.is_integer, "number"),
    (pa.types.is_boolean, "truth"),
    (pa.types.is_string, "text"),
)
"""What the page's script does with a column."""


def _short(value: float | None, digits: int) -> float | int | None:
    """`value` to some significant digits, None for NaN and infinity (JSON has neither)."""
    if value is None or not math.isfinite(value):
        return None
    short = float(f"{value:.{digits}g}")
    return int(short) if short.is_integer() and abs(short) < 1e15 else short


def compact(values: Sequence[Any]) -> dict[str, Any]:
    """Values as they are, or once each with their places when few differ."""
    distinct = list(dict.fromkeys(values))
    if len(distinct) <= max(1, len(values) // 4):
        where = {value: k for k, value in enumerate(distinct)}
        if len(distinct) == 1:
            return {"same": distinct[0]}
        return {"distinct": distinct, "which": [where[value] for value in values]}
    return {"values": list(values)}


def columns_payload(table: pa.Table) -> list[dict[str, Any]]:
    """Every column but ``cov``, in the catalogue's order."""
    payload: list[dict[str, Any]] = []
    for name in table.column_names:
        field = table.schema.field(name)
        values = table.column(name).to_pylist()
        kind = next((kind for is_such, kind in _KINDS if is_such(field.type)), None)
        if kind is None:
            continue
        if pa.types.is_floating(field.type):
            digits = _POSITION_DIGITS if name.startswith(("ra", "dec")) else 7
            values = [_short(value, digits) for value in values]
        about = field.metadata or {}
        payload.append(
            {
                "name": name,
                "kind": kind,
                "unit": about.get(b"unit", b"").decode(),
                "about": about.get(b"description", b"").decode(),
                "values": values,
            }
        )
    return payload


def flags_payload() -> list[dict[str, Any]]:
    """Name, bit and meaning of every flag."""
    return [
        {
            "bit": int(flag),
            "name": flag.name,
            "fatal": bool(flag & FATAL),
            "quality": bool(flag & QUALITY),
            "meaning": meaning,
        }
        for flag, meaning in FLAG_MEANINGS.items()
    ]


def script_json(content: Any) -> Markup:
    """JSON that can stand inside a script element whatever strings it holds."""
    text = json.dumps(content, separators=(",", ":"), allow_nan=False, ensure_ascii=True)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def rendered(page: str, styles: Sequence[str], scripts: Sequence[str], **values: Any) -> str:
    """A page of ``static``: its template with styles, scripts and values put in."""
    static = resources.files("autofit_ml.report") / "static"

    def joined(names: Sequence[str]) -> Markup:
        return Markup("\n".join((static / name).read_text("utf-8") for name in names))

    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    template = environment.from_string((static / page).read_text("utf-8"))
    return template.render(style=joined(styles), script=joined(scripts), **values)
