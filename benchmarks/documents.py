"""Tables that benchmarks write into the documentation, between a pair of markers."""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["DATA", "DOCS", "Section", "machine", "markdown_table", "run_sections", "write_section"]

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.append(str(REPOSITORY))  # for `training`; last: PYTHONPATH chooses the version
DOCS = REPOSITORY / "docs"
DATA = Path(os.environ.get("AUTOFIT_ML_TEST_DATA", REPOSITORY.parent / "shared" / "data"))
"""Real images; not every machine has them."""


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


@dataclass(frozen=True)
class Section:
    """A table of a benchmark that has several.

    Attributes
    ----------
    make : callable
        Number of objects -> rows.
    header : sequence of str
    usual : int
        Number of objects.
    document : str
        In docs/, with the section's markers.
    """

    make: Callable[[int], Iterable[Sequence[str]]]
    header: Sequence[str]
    usual: int
    document: str


def run_sections(description: str, sections: Mapping[str, Section]) -> None:
    """The command line of a benchmark that has several tables."""
    import torch

    parser = argparse.ArgumentParser(description=description.split("\n")[0])
    parser.add_argument("sections", nargs="*", default=list(sections))
    parser.add_argument("-n", type=int, default=0, help="objects of each section")
    parser.add_argument("--docs", action="store_true", help="write into the documentation")
    arguments = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    print(machine())
    for name in arguments.sections:
        one = sections[name]
        began = time.perf_counter()
        text = markdown_table(one.header, one.make(arguments.n or one.usual))
        print(f"\n{name}, {(time.perf_counter() - began) / 60:.1f} min\n{text}", flush=True)
        if arguments.docs:
            write_section(one.document, name, text)


def machine() -> str:
    """The hardware, in general terms."""
    import torch

    from autofit_ml.runs.workers import processors

    n = processors()
    kind, plural = torch.backends.cpu.get_cpu_capability(), "s" * (n != 1)
    return f"{platform.machine()}, {n} core{plural} ({kind}), PyTorch {torch.__version__}"
