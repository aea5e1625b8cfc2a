import errno
import json
import os
import resource
import subprocess
import sys

import pytest

from autofit_ml.catalogue import (
    atomic_file,
    atomic_write_bytes,
    atomic_write_json,
    atomic_write_text,
    merge_shards,
    remove_temporaries,
    write_shard,
)
from autofit_ml.errors import OutputError


def disk_full(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_written_files_are_complete_readable_and_alone(tmp_path):
    atomic_write_bytes(tmp_path / "new" / "a.bin", b"abc")
    atomic_write_text(tmp_path / "new" / "b.txt", "é\udcff")
    atomic_write_json(tmp_path / "new" / "c.json", {"name": "é", "values": [1, None]})
    assert (tmp_path / "new" / "a.bin").read_bytes() == b"abc"
    assert (tmp_path / "new" / "b.txt").read_text("utf-8") == "é\\udcff"
    assert json.loads((tmp_path / "new" / "c.json").read_text()) == {
        "name": "é",
        "values": [1, None],
    }
    assert len(list((tmp_path / "new").iterdir())) == 3
    umask = os.umask(0)
    os.umask(umask)
    assert (tmp_path / "new" / "a.bin").stat().st_mode & 0o777 == 0o666 & ~umask


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_full_disk_keeps_the_old_file_and_leaves_nothing(tmp_path, monkeypatch, call):
    path = tmp_path / "a.json"
    path.write_text("old")
    monkeypatch.setattr(os, call, disk_full)
    with pytest.raises(OutputError, match="free some space.*run the same command again") as caught:
        atomic_write_text(path, "new")
    assert caught.value.file == path
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.json"]
    assert path.read_text() == "old"


def test_full_disk_while_writing_a_shard_or_the_catalogue(tmp_path, monkeypatch, make_rows):
    write_shard(tmp_path / "s.parquet", make_rows(["a", "b"]))
    before = sorted(entry.name for entry in tmp_path.iterdir())
    monkeypatch.setattr(os, "fsync", disk_full)
    with pytest.raises(OutputError):
        write_shard(tmp_path / "t.parquet", make_rows(["c"]))
    with pytest.raises(OutputError):
        merge_shards([tmp_path / "s.parquet"], tmp_path)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == before


SHARD_BEYOND_THE_LIMIT = """
import resource, signal, sys
import numpy as np
from autofit_ml.catalogue import empty_rows, write_shard
from autofit_ml.errors import OutputError
rows = empty_rows(2000)
rows["id"][:] = [f"{x:.15f}" for x in np.random.default_rng(1).random(2000)]
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    write_shard(sys.argv[1], rows)
except OutputError as error:
    print(error)
"""


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_FSIZE"), reason="no file-size limits here")
def test_a_write_that_the_system_cuts_short(tmp_path):
    """A real failing write(2), through pyarrow's buffers."""
    path = tmp_path / "s.parquet"
    run = subprocess.run(
        [sys.executable, "-c", SHARD_BEYOND_THE_LIMIT, str(path)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "File too large" in run.stdout and str(path) in run.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_file_where_a_folder_should_be(tmp_path):
    (tmp_path / "results").write_text("a file")
    with pytest.raises(OutputError, match="a file is where a folder should be"):
        atomic_write_bytes(tmp_path / "results" / "a", b"")


def test_errors_inside_the_block_are_kept(tmp_path):
    with pytest.raises(KeyError), atomic_file(tmp_path / "a") as file:
        file.write(b"half")
        raise KeyError("a bug")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="JSON"):
        atomic_write_json(tmp_path / "a", {"x": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_remove_temporaries(tmp_path):
    (tmp_path / ".autofit-ml-tmp-12-ab").write_bytes(b"half")
    (tmp_path / "whole").write_bytes(b"whole")
    remove_temporaries(tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["whole"]
