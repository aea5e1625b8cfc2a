"""Time and memory of the catalogue by the number of sources: python benchmarks/catalog_scaling.py

Five-band frames (`catalog_frames`) of more and more sky, catalogued whole by
``autofit-ml catalog``; the largest one by ``autofit-ml survey --run catalog`` too, in cells with
halo. Each is a process of its own on one thread. Writes docs/catalog-scores.md with --docs.
"""

from __future__ import annotations

import argparse
import glob
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pyarrow.parquet as pq
from catalog import populations
from catalog_frames import BANDS, DENSITY, draw_truth, simulate_field, write_field
from documents import machine, markdown_table, write_section

NUMBERS = (250, 500, 1000, 2000)
CELL = 640


def measured(words: Sequence[str | Path]) -> tuple[float, float]:
    """Processor time (s) and largest memory (GB) of a command."""
    command = [sys.executable, "-m", "autofit_ml", *map(str, words), "--quiet"]
    process = subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"})
    _, status, used = os.wait4(process.pid, 0)
    if status:
        raise RuntimeError(f"{' '.join(command)}: status {status}")
    return used.ru_utime + used.ru_stime, used.ru_maxrss / 2**20


def row(name: str, words: Sequence[str | Path], side: int, sources: int, table: Path) -> list[str]:
    """One line: sources, pixels, rows, time, memory."""
    seconds, memory = measured(words)
    found = sum(pq.read_metadata(path).num_rows for path in glob.glob(str(table)))
    cells = [name, str(sources), f"{side} x {side}", str(found), f"{seconds:.0f}",
             f"{1000 * seconds / found:.0f}", f"{memory:.2f}"]  # fmt: skip
    print("  ".join(cells), flush=True)
    return cells


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("-n", nargs="+", type=int, default=list(NUMBERS), help="sources")
    parser.add_argument("--docs", action="store_true", help="write into docs/catalog-scores.md")
    given = parser.parse_args()
    rows, bands = [], ["--bands", ",".join(BANDS)]
    for number in given.n:
        with tempfile.TemporaryDirectory() as temporary:
            here = Path(temporary)
            side = round(math.sqrt(number / DENSITY))
            truth = draw_truth(*populations(), (side, side), number)
            write_field(simulate_field(truth, (side, side), number), here / "images")
            frames = [here / "images", *bands, "--out"]
            rows.append(row("whole", ["catalog", *frames, here / "out"], side, len(truth),
                            here / "out" / "catalog.parquet"))  # fmt: skip
            written(rows, given.docs)
            if number == max(given.n):
                words = ["survey", *frames, here / "area", "--run", "catalog", "--cell", str(CELL),
                         "--scheduler", "none"]  # fmt: skip
                name = f"cells of {CELL}"
                rows.append(row(name, words, side, len(truth), here / "area/tiles/*/*.parquet"))
                written(rows, given.docs)


def written(rows: list[list[str]], docs: bool) -> None:
    """What is known so far, into the documentation."""
    header = ["frame", "sources", "pixels, five bands", "rows", "processor time, s",
              "ms a row", "memory, GB"]  # fmt: skip
    if docs:
        text = f"{markdown_table(header, rows)}\n\n{machine()}"
        write_section("catalog-scores.md", "scaling", text)


if __name__ == "__main__":
    main()
