"""Nothing that comes from files or their headers is obeyed by a terminal."""

from __future__ import annotations

import io
import re

import numpy as np
import pyarrow.parquet as pq
import pytest
from fits_inputs import write_object
from rich.console import Console

from autofit_ml.catalogue import empty_rows, rows_to_table
from autofit_ml.cli.progress import PlainProgress, RichProgress
from autofit_ml.cli.terminal import line, printable
from autofit_ml.runs.summary import RunSummary

HOSTILE = "a\x1b[31mred\x1b]0;title\x07\nb\r\u202egnp.\udcff [bold]:smile:[/bold]"
SHOWN = r"a\x1b[31mred\x1b]0;title\x07\nb\r\u202egnp.\udcff [bold]:smile:[/bold]"
OBEYED = re.compile(r"\x1b(?!\[[0-9;?]*[KhlA])|\r(?!\x1b\[2K|\x1b\[1A)|[\x07\u202e\ud800-\udfff]")
"""What must not reach a terminal: the cursor movements of a live bar are the exception."""


def test_text_is_only_text():
    assert printable(HOSTILE) == SHOWN
    assert printable("Ω Кириллица é 銀河") == "Ω Кириллица é 銀河"
    stream = io.StringIO()
    Console(file=stream, width=200, emoji=False, markup=False).print(line((HOSTILE, "red")))
    assert stream.getvalue().strip() == SHOWN


@pytest.mark.parametrize("kind", [PlainProgress, RichProgress])
def test_progress_shows_names_and_messages_as_they_are(kind, tmp_path):
    stream = io.StringIO()
    terminal = Console(file=stream, force_terminal=True, width=200, color_system=None)
    progress = kind(stream if kind is PlainProgress else terminal, verbose=True)
    rows = {"id": [HOSTILE], "status": ["failed"], "message": [HOSTILE], "flags": np.array([1])}
    with progress:
        progress.begin(2, 0, [(tmp_path / "x\x1b[31m", HOSTILE)])
        progress.batch(1, rows)
        progress.note(HOSTILE)
        progress.stage(HOSTILE)
        progress.end(RunSummary(tmp_path / "o\x1b[31m"), HOSTILE)
    text = stream.getvalue()
    assert text.count(SHOWN) >= 4
    assert not OBEYED.search(text), OBEYED.search(text)


def test_query_shows_text_as_it_is(command, tmp_path):
    rows = empty_rows(2)
    rows["id"][:] = ["evil", HOSTILE.replace("\udcff", "")]
    pq.write_table(rows_to_table(rows), tmp_path / "catalog.parquet")
    for words in ([], ["--json"]):
        sql = 'SELECT id, id, length(id) AS "[red]:smile:\x1b[0m" FROM catalog'
        status, out, _ = command("query", tmp_path, sql, *words)
        assert status == 0
        assert out.count(r"\x1b[31mred" if not words else r"\u001b[31mred") == 2
        assert "[bold]:smile:[/bold]" in out
        assert "[red]:smile:" in out
        assert not re.search(r"[\x1b\x07\r\u202e]", out)
        assert "id_1" in out


def test_names_of_files_in_a_run(command, tmp_path):
    """An error of the whole call, and the row of a file."""
    (tmp_path / "images").mkdir()
    write_object(tmp_path / "images", "good")
    (tmp_path / "images" / "bad\x1b[31m.fits").write_bytes(b"nothing")
    status, _, err = command("fit", tmp_path / "images", "--out", tmp_path / "out", "--workers", 0)
    assert status == 3
    assert r"bad\x1b[31m" in err
    assert "\x1b[31m" not in err
    status, _, err = command("fit", tmp_path / "no\x1b[31mthing", "--out", tmp_path / "other")
    assert status == 2
    assert r"no\x1b[31mthing" in err
    assert "\x1b[31m" not in err
