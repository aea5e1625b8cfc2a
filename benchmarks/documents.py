"""Tables that benchmarks write into the documentation, between a pair of markers."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Sequence
from pathlib import Path

__all__ = ["DOCS", "machine", "markdown_table", "write_section"]

DOCS = Path(__file__).resolve().parent.parent / "docs"


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; the first column is left-aligned, the others right-aligned."""
    lines = ["| " + " | ".join(header) + " |", "|---" + "|---:" * (len(header) - 1) + "|"]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines)


def write_section(document: str, name: str, text: str) -> Path:
    """Replace what stands between ``<!-- name -->`` and ``<!-- /name -->`` in docs/`document`.

    Raises
    ------
    ValueError
        The document has no such pair of markers.
    """
    path = DOCS / document
    content = path.read_text()
    first, last = f"<!-- {name} -->", f"<!-- /{name} -->"
    begin, end = content.find(first), content.find(last)
    if begin < 0 or end < begin:
        raise ValueError(f"{path} has no section {first} ... {last}")
    path.write_text(content[: begin + len(first)] + "\n\n" + text.strip() + "\n\n" + content[end:])
    return path


def machine() -> str:
    """The hardware, in general terms."""
    import torch

    n = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    kind = torch.backends.cpu.get_cpu_capability()
    return f"{platform.machine()}, {n} cores ({kind}), PyTorch {torch.__version__}"
