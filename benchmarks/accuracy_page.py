"""Put the tables of docs/tables/ into docs/accuracy.md: python benchmarks/accuracy_page.py

The page keeps a pair of markers for each table, so that it can be run again.
"""

from __future__ import annotations

from documents import DOCS, write_section

TABLES = ("rendering", "truth", "errors", "real_images")


def main() -> None:
    """Write every table that exists."""
    for name in TABLES:
        table = DOCS / "tables" / f"{name}.md"
        if not table.exists():
            raise SystemExit(f"{table} is missing: run benchmarks/{name}.py first")
        write_section("accuracy.md", name, table.read_text())
        print(f"docs/accuracy.md: {name}")


if __name__ == "__main__":
    main()
