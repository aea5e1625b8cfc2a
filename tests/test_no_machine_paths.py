"""No file of the repository names a folder of somebody's machine."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
PRIVATE = re.compile(rb"/(?:root|home|work|tmp|Users|scratch)/|[A-Za-z]:\\Users\\")


def test_no_file_names_a_folder_of_a_machine():
    """Of all files that git tracks, and of those that it would take."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=REPOSITORY,
        capture_output=True,
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    found = []
    for name in listed.stdout.decode().split("\0"):
        path = REPOSITORY / name
        if not name or path.is_symlink() or not path.is_file():
            continue
        content = path.read_bytes()
        if b"\0" in content[:8000]:  # no text
            continue
        found += [
            f"{name}:{number}: {line.decode(errors='replace').strip()[:120]}"
            for number, line in enumerate(content.splitlines(), 1)
            if PRIVATE.search(line)
        ]
    assert not found, "\n".join(found)
