"""The command line: what it says, where, and with which exit status."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from fits_inputs import write_object
from rich.console import Console

from autofit_ml.cli.app import app
from autofit_ml.cli.calls import SurveyCommand
from autofit_ml.cli.progress import PlainProgress, RichProgress, counting
from autofit_ml.cli.survey import COMMAND_FILE, keep_command
from autofit_ml.results import open_results
from autofit_ml.runs import FitSettings, fit_run


@pytest.fixture(scope="module")
def finished(simulated_folder, tmp_path_factory) -> Path:
    """Results of the simulated folder."""
    out = tmp_path_factory.mktemp("finished") / "out"
    fit_run(simulated_folder, out, FitSettings(workers=0))
    return out


def spoil(folder: Path) -> None:
    (folder / "broken.fits").write_bytes(b"nothing of use")


def test_all_good(command, simulated_folder, tmp_path):
    status, out, err = command("fit", simulated_folder, "--out", tmp_path / "out", "--workers", 0)
    assert status == 0
    assert out == ""
    assert "8 objects: " in err
    assert "8/8" in err
    assert f"catalogue: {tmp_path / 'out' / 'catalog.parquet'}" in err
    assert f"report:    {tmp_path / 'out' / 'report.html'}" in err
    assert "\x1b" not in err  # plain lines when stderr is no terminal
    assert "\r" not in err


def test_some_failed(command, images, tmp_path):
    spoil(images)
    words = ["fit", images, "--out", tmp_path / "out", "--workers", 0]
    status, out, err = command(*words)
    assert status == 3
    assert out == ""
    assert f"failed   broken: {images / 'broken.fits'}: not a FITS file (give" in err
    assert "failed 1" in err
    status, _, err = command(*words, "-v")
    assert status == 3
    assert "9 done by an earlier run" in err


def test_nothing_could_be_fitted(command, tmp_path):
    (tmp_path / "images").mkdir()
    spoil(tmp_path / "images")
    status, _, err = command("fit", tmp_path / "images", "--out", tmp_path / "out")
    assert status == 1
    assert "0 usable" in err


def test_verbose_names_flagged_objects_and_ignored_files(command, images, tmp_path):
    (images / "readme.txt").write_text("hello")
    status, _, err = command("fit", images, "--out", tmp_path / "o", "--workers", 0, "-v")
    assert status == 0
    assert f"ignored  {images / 'readme.txt'}: not a FITS file" in err


def test_one_reason_is_not_said_fifty_times(command, tmp_path):
    (tmp_path / "images").mkdir()
    for number in range(7):  # no PSF
        write_object(tmp_path / "images", f"g{number}", psf=False)
    status, _, err = command("fit", tmp_path / "images", "--out", tmp_path / "out")
    assert status == 1 and err.count("no PSF") == 4
    assert "failed   4 more like that: no PSF" in err


def test_a_file_that_is_no_image_by_its_name_is_wrong_usage(command, tmp_path):
    (tmp_path / "README.md").write_text("# Galaxies")
    status, _, err = command("fit", tmp_path / "README.md", "--out", tmp_path / "out")
    assert status == 2 and "README.md: not a FITS file" in err
    assert not (tmp_path / "out").exists()


def test_quiet_says_nothing(command, images, tmp_path):
    spoil(images)
    words = ["fit", images, "--out", tmp_path / "out", "--workers", 0, "-q"]
    assert command(*words) == (3, "", "")
    assert command(*words) == (3, "", "")


def test_quiet_still_says_errors(command, tmp_path):
    status, out, err = command("fit", tmp_path / "nothing", "-q")
    assert status == 2
    assert out == ""
    assert "no such file or folder" in err


@pytest.mark.parametrize("quiet", [True, False])
def test_json(command, images, tmp_path, quiet):
    spoil(images)
    words = ["fit", images, "--out", tmp_path / "out", "--workers", 0, "--json"]
    status, out, err = command(*words, *(["-q"] if quiet else []))
    summary = json.loads(out)  # nothing but JSON
    assert out.count("\n") == 1
    assert bool(err) is not quiet
    assert status == summary["exit_status"] == 3
    assert summary["objects"] == summary["new"] == 9
    assert summary["failed"] == 1
    assert summary["usable"] + summary["failed"] <= 8
    assert summary["out"] == str(tmp_path / "out")
    assert summary["report"] == str(tmp_path / "out" / "report.html")
    assert summary["interrupted"] is False
    assert summary["seconds"] > 0


def test_save_choices(command, simulated_folder, tmp_path):
    out = tmp_path / "out"
    words = ["fit", simulated_folder, "--out", out, "--workers", 0, "--save"]
    assert command(*words, "none")[0] == 0
    assert sorted(p.name for p in out.iterdir()) == [
        ".work", "catalog.fits", "catalog.parquet", "run.json"
    ]  # fmt: skip
    status, _, err = command(*words, "report,objects", "--restart")
    assert status == 0, err
    assert (out / "report.html").exists()
    assert len(list((out / "objects").iterdir())) == 8
    assert not (out / "previews").exists()


WRONG = {
    "no input": ["fit"],
    "missing path": ["fit", "{f}/nothing.fits"],
    "missing folder": ["fit", "{f}/nothing"],
    "empty folder": ["fit", "{f}/empty"],
    "folder of text": ["fit", "{f}/texts"],
    "pattern without hits": ["fit", "{f}/*.fits"],
    "paths and manifest": ["fit", "{f}/empty", "--manifest", "{f}/list.csv"],
    "missing manifest": ["fit", "--manifest", "{f}/nothing.csv"],
    "manifest of another kind": ["fit", "--manifest", "{f}/texts/a.txt"],
    "manifest without rows": ["fit", "--manifest", "{f}/list.csv"],
    "manifest without images": ["fit", "--manifest", "{f}/bad.csv"],
    "out is a file": ["fit", "{i}", "--out", "{f}/texts/a.txt"],
    "out below a file": ["fit", "{i}", "--out", "{f}/texts/a.txt/deep"],
    "out holds another catalogue": ["fit", "{i}", "--out", "{f}/taken"],
    "unknown option": ["fit", "{i}", "--seeing", "3"],
    "unknown command": ["fits", "{i}"],
    "mode": ["fit", "{i}", "--mode", "mosaic"],
    "model": ["fit", "{i}", "--model", "kong"],
    "model file missing": ["fit", "{i}", "--model", "{f}/model.yaml"],
    "model file of text": ["fit", "{i}", "--model", "{f}/bad.yaml"],
    "galfit missing": ["fit", "--galfit", "{f}/g.feedme"],
    "galfit and model": ["fit", "{i}", "--model", "exp", "--galfit", "{f}/g.feedme"],
    "neighbours": ["fit", "{i}", "--neighbours", "ignore"],
    "likelihood": ["fit", "{i}", "--likelihood", "student"],
    "likelihood's parameter": ["fit", "{i}", "--likelihood", "huber:wide"],
    "error floor": ["fit", "{i}", "--error-floor", "-0.1"],
    "bands": ["fit", "{i}", "--bands", "g,g"],
    "bands of no file": ["fit", "{i}", "--bands", "g,r"],
    "prior of another model": ["fit", "{i}", "--model", "exp", "--prior", "network"],
    "segmenter": ["fit", "{i}", "--segmenter", "eye"],
    "init": ["fit", "{i}", "--init", "guess"],
    "sky": ["fit", "{i}", "--sky", "dark"],
    "survey": ["fit", "{i}", "--survey", "2mass"],
    "psf missing": ["fit", "{i}", "--psf", "{f}/psf.fits"],
    "psf fwhm": ["fit", "{i}", "--psf-fwhm", "0"],
    "psf fwhm text": ["fit", "{i}", "--psf-fwhm", "wide"],
    "psf oversampling": ["fit", "{i}", "--psf-oversampling", "0"],
    "zero point": ["fit", "{i}", "--zeropoint", "nan"],
    "pixel scale": ["fit", "{i}", "--pixel-scale", "-1"],
    "gain": ["fit", "{i}", "--gain", "0"],
    "read noise": ["fit", "{i}", "--rdnoise", "-3"],
    "saturate": ["fit", "{i}", "--saturate", "-3"],
    "noise": ["fit", "{i}", "--noise", "loud"],
    "device": ["fit", "{i}", "--device", "tpu"],
    "batch size": ["fit", "{i}", "--batch-size", "0"],
    "batch size text": ["fit", "{i}", "--batch-size", "many"],
    "workers": ["fit", "{i}", "--workers", "-3"],
    "save": ["fit", "{i}", "--save", "everything"],
    "query without results": ["query", "{f}/nothing", "SELECT 1"],
    "query of an empty folder": ["query", "{f}/empty", "SELECT 1"],
    "query of something else": ["query", "{f}/texts/a.txt", "SELECT 1"],
    "report without results": ["report", "{f}/empty"],
    "demo of nothing": ["demo", "--out", "{f}/demo", "-n", "0"],
}


@pytest.mark.parametrize("kind", WRONG)
def test_wrong_usage(kind, command, simulated_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("hello")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "catalog.fits").write_text("mine")
    (tmp_path / "list.csv").write_text("id,image\n")
    (tmp_path / "bad.csv").write_text("id,x\na,3\n")
    (tmp_path / "bad.yaml").write_text("a galaxy\n")
    words = [word.format(f=tmp_path, i=simulated_folder) for word in WRONG[kind]]
    status, out, err = command(*words)
    assert status == 2, err
    assert out == ""
    assert "Traceback" not in err
    if "error:" in err:  # ours: problem and remedy
        assert err.rstrip().endswith(")")
    else:  # the parser's
        assert "Usage:" in err or "--help" in err
    assert not (tmp_path / "results").exists() or not any((tmp_path / "results").glob("cat*"))


def test_changed_settings_are_listed(command, simulated_folder, finished):
    status, _, err = command("fit", simulated_folder, "--out", finished, "--sky", "fixed")
    assert status == 2
    assert "sky: 'free' -> 'fixed'" in err
    assert "--restart" in err


def test_wrong_usage_is_quick_and_clean(tmp_path):
    """No torch is loaded and no traceback shown for a call that is wrong."""
    code = (
        "import sys, autofit_ml.cli\n"
        "try:\n    autofit_ml.cli.main()\n"
        "finally:\n    sys.stdout.write(str('torch' in sys.modules))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "fit", str(tmp_path / "nothing")],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert done.stdout == "False"
    assert "Traceback" not in done.stderr


def test_full_disk_says_how_to_go_on(command, simulated_folder, tmp_path, monkeypatch):
    import errno

    from autofit_ml.catalogue import atomic

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(atomic.os, "replace", full)
    status, out, err = command("fit", simulated_folder, "--out", tmp_path / "o", "--workers", 0)
    assert status == 1
    assert out == ""
    assert "No space left" in err
    assert "run the same command again" in err


# --- other commands ---------------------------------------------------------------------------


def test_query(command, finished):
    sql = "SELECT id, re, use FROM catalog ORDER BY id LIMIT 3"
    status, out, err = command("query", finished, sql)
    assert (status, err) == (0, "")
    assert "demo01" in out
    status, out, err = command("query", finished, sql, "--json")
    rows = json.loads(out)
    assert [row["id"][:6] for row in rows] == ["demo01", "demo02", "demo03"]
    assert isinstance(rows[0]["re"], float)
    assert rows[0]["use"] in (True, False)


def test_query_json_has_no_nan(command, tmp_path):
    """NaN is no JSON: a program must be able to read it."""
    (tmp_path / "images").mkdir()
    spoil(tmp_path / "images")
    fit_run(tmp_path / "images", tmp_path / "out", FitSettings(workers=0))
    _, out, _ = command("query", tmp_path / "out", "SELECT id, re, cov FROM catalog", "--json")
    assert "NaN" not in out
    assert json.loads(out) == [{"id": "broken", "re": None, "cov": [None] * 36}]


def test_wrong_query(command, finished):
    status, out, err = command("query", finished, "SELECT radius FROM catalog")
    assert status == 2
    assert out == ""
    assert "radius" in err
    assert "columns:" in err


def test_report(command, finished):
    (finished / "report.html").unlink()
    status, out, _ = command("report", finished)
    assert status == 0
    assert out.strip() == str(finished / "report.html")
    assert (finished / "report.html").stat().st_size > 10_000


def test_show(command, finished):
    name = open_results(finished).ids[0]
    status, out, err = command("show", finished, name)
    first, *lines = out.splitlines()
    assert status == 0 and not err and first.startswith(f"{name}: sersic")
    assert any(line.split()[:1] == ["re"] and "±" in line for line in lines)
    assert lines[-1] == f"preview: {finished / 'previews' / name}.png"
    status, _, err = command("show", finished, name[:3])
    assert status == 2 and "did you mean" in err


def commands_of(group: Any, *path: str) -> Iterator[tuple[str, ...]]:
    for name, one in group.commands.items():
        yield (*path, name)
        if hasattr(one, "commands"):
            yield from commands_of(one, *path, name)


def test_help_of_every_command_is_whole_in_80_columns(command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    every = list(commands_of(typer.main.get_command(app)))
    assert {("fit",), ("survey", "run"), ("weights", "pull")} <= set(every)
    for path in every:
        status, out, _ = command(*path, "--help")
        assert status == 0 and max(map(len, out.splitlines())) <= 80, path
        assert "…" not in out, path


def test_demo(command, tmp_path):
    pytest.importorskip("galsim")
    words = ["demo", "--out", tmp_path / "demo", "-n", "3"]
    status, _, err = command(*words)
    assert status == 0, err
    assert (tmp_path / "demo" / "results" / "report.html").exists()
    assert "3 objects" in err
    status, _, err = command(*words)
    assert status == 0, err
    assert "3 done by an earlier run" in err


def test_version_and_help(command):
    import autofit_ml

    assert command("--version")[:2] == (0, f"autofit-ml {autofit_ml.__version__}\n")
    status, out, _ = command("fit", "--help")
    assert status == 0
    for word in ("--out", "--manifest", "--restart", "--json", "Exit status", "--model", "--bands"):
        assert word in out


def test_model_of_two_components(command, simulated_folder, tmp_path):
    (tmp_path / "model.yaml").write_text(
        "components:\n  core: psf\n  galaxy: {profile: sersic, x: core.x, y: core.y}\n"
    )
    words = ["fit", *sorted(simulated_folder.glob("demo0[12]*_image.fits")), "--workers", 0]
    words += ["--model", tmp_path / "model.yaml", "--neighbours", "mask", "--error-floor", 0.02]
    status, _, err = command(*words, "--out", tmp_path / "out", "--save", "previews")
    assert status == 0, err
    sql = "SELECT model, fraction, mag_total, re, re_2, n_neighbours FROM catalog"
    status, out, _ = command("query", tmp_path / "out", sql, "--json")
    rows = json.loads(out)
    assert [row["model"] for row in rows] == ["psf+sersic"] * 2
    assert all(row["fraction"] <= 1 and row["re"] is None and row["re_2"] > 0 for row in rows)
    assert [row["n_neighbours"] for row in rows] == [0, 0]


def test_the_reference_band_is_said(command, simulated_folder, tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("a_g", "a_r", "b_r"):
        for plane in ("image", "sigma", "psf"):
            source = next(simulated_folder.glob(f"demo01*_{plane}.fits"))
            (tmp_path / "in" / f"{name}_{plane}.fits").write_bytes(source.read_bytes())
    words = ["fit", tmp_path / "in", "--bands", "g,r", "--workers", 0, "--save", "none"]
    status, _, err = command(*words, "--out", tmp_path / "out")
    assert status == 0, err
    assert "the reference band is r: not every object has an image in g" in err
    assert "2 objects" in err


# --- progress ---------------------------------------------------------------------------------


def test_plain_progress(images):
    spoil(images)
    stream = io.StringIO()
    settings = FitSettings(workers=0, batch_size=3, save=())
    with PlainProgress(stream) as progress:
        fit_run([images, images / "broken.fits"], None, settings, progress=progress)
    lines = stream.getvalue().splitlines()
    assert lines[0].startswith("9 inputs")
    counts = [line for line in lines if "objects/s" in line]
    assert [line.split()[0] for line in counts] == ["3/9", "6/9", "9/9"]
    assert "s left" in counts[0]
    assert " usable " in counts[-1]
    assert counts[-1].endswith("failed 1")
    assert any(line.startswith("failed   broken: ") for line in lines)


def test_slow_objects_are_counted_in_seconds_each(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("autofit_ml.cli.progress.time.monotonic", lambda: clock[0])
    console = Console(file=io.StringIO(), width=80)
    with counting("deconvolving", console) as count:
        count(1, 4)
        clock[0] = 80.0
        count(3, 4)
    assert console.file.getvalue().splitlines() == [  # type: ignore[attr-defined]
        "deconvolving: 4 objects, 1 done by an earlier run",
        "3/4  40 s each  40 s left",
    ]


def test_live_progress(images):
    spoil(images)
    console = Console(file=io.StringIO(), force_terminal=True, width=140)
    settings = FitSettings(workers=0, batch_size=3, save=())
    with RichProgress(console) as progress:
        fit_run([images, images / "broken.fits"], None, settings, progress=progress)
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    for word in ("fitting", "9/9", "/s", "left", "usable ", "flagged ", "failed 1", "broken"):
        assert word in shown, word


@pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminals")
def test_live_progress_on_a_terminal(images, tmp_path):
    import fcntl
    import pty
    import struct
    import termios

    spoil(images)
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 150, 0, 0))
    command = [sys.executable, "-m", "autofit_ml", "fit", str(images), "--out"]
    run = subprocess.Popen(
        [*command, str(tmp_path / "out"), "--workers", "0", "--batch-size", "3", "--json"],
        stdin=slave,
        stderr=slave,
        stdout=subprocess.PIPE,
        env={**os.environ, "TERM": "xterm", "OMP_NUM_THREADS": "1"},
    )
    os.close(slave)
    shown = b""
    while True:
        try:
            part = os.read(master, 65536)
        except OSError:  # Linux: the other end is closed
            break
        if not part:
            break
        shown += part
    out, _ = run.communicate(timeout=60)
    os.close(master)
    assert run.returncode == 3
    assert json.loads(out)["objects"] == 9
    text = shown.decode()
    assert "\x1b[" in text  # colours and a bar that is drawn anew
    for word in ("fitting", "9/9", "/s", "failed 1", "not a FITS file", "catalogue:", "report:"):
        assert word in text, word


def test_segment(command, images, tmp_path):
    words = ["segment", images, "--out", tmp_path / "out", "--segmenter", "sep"]
    status, out, _ = command(*words, "--no-pictures")
    assert status == 0
    assert "instances in 8 images" in out
    assert len(list((tmp_path / "out").glob("*_seg.fits"))) == 8
    assert not list((tmp_path / "out").glob("*.png"))
    spoil(images)
    status, out, err = command(*words, "--no-pictures", "--json", "-q")
    assert status == 3
    assert json.loads(out)["failures"].keys() == {"broken"}
    assert "broken" in err
    status, _, err = command("segment", "--out", tmp_path / "out")
    assert status == 2
    assert "nothing to segment" in err


def test_a_survey_of_changes_keeps_its_reference_for_retry(tmp_path):
    reference = tmp_path / "reference.fits"
    call = SurveyCommand(paths=[tmp_path], out=tmp_path, run="diff", reference=reference)
    keep_command(call)
    kept = json.loads((tmp_path / COMMAND_FILE).read_text())
    assert kept["reference"] == str(reference) and kept["run"] == "diff"
