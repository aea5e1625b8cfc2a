"""Every code block of the tutorial and of the how-to pages runs, in order, in an empty folder."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("galsim", reason="the pages simulate what they fit")
pytest.importorskip("hydra", reason="the pages simulate what they fit")

REPOSITORY = Path(__file__).resolve().parents[2]
PAGES = [
    REPOSITORY / "docs" / "tutorial.md",
    REPOSITORY / "docs" / "python.md",
    *sorted((REPOSITORY / "docs" / "howto").glob("*.md")),
]
_BLOCK = re.compile(
    r"(?:<!-- file: (?P<file>[\w.]+) -->\n)?```(?P<language>\w+)\n(?P<code>.*?)```", re.DOTALL
)
_SHOWN = {"console", "text", "yaml"}
"""Not run: what takes hours or another machine, what is shown; YAML with a name is written."""


def blocks(page: Path) -> list[re.Match[str]]:
    return list(_BLOCK.finditer(page.read_text()))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_block_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")
    for name in ("training", "conf"):
        (tmp_path / name).symlink_to(REPOSITORY / name)
    folder = Path(sys.executable).parent
    environment = os.environ | {
        "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(REPOSITORY),
        "COLUMNS": "120",
    }
    names: dict[str, object] = {}
    for block in blocks(page):
        code, language = block["code"], block["language"]
        if block["file"]:
            Path(block["file"]).write_text(code)
        elif language == "python":
            exec(compile(code, f"{page.name}: {code[:40]!r}", "exec"), names)
        elif language == "bash":
            done = subprocess.run(
                ["bash", "-e", "-c", code], env=environment, capture_output=True, text=True
            )
            assert done.returncode == 0, f"{code}\n{done.stdout}\n{done.stderr}"
        else:
            assert language in _SHOWN, language


MADE = ("cli.md", "columns.md", "options.md")
"""Pages that ``make docs`` writes; it is strict about links."""


def test_pages_have_blocks_and_links_that_exist():
    assert len(PAGES) >= 8
    for page in PAGES:
        assert any(block["language"] in ("bash", "python") for block in blocks(page)), page
        for link in re.findall(r"\]\((?!http)([^)#]+)[^)]*\)", page.read_text()):
            made = link.startswith("reference/") and Path(link).name in MADE
            assert made or (page.parent / link).exists(), f"{page.name}: {link}"
