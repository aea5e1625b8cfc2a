"""``autofit-ml simulate``: what it writes and says, and with which exit status."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time

import pytest
import yaml
from rich.console import Console

from autofit_ml import cli
from autofit_ml.cli.progress import counting
from autofit_ml.images import read
from autofit_ml.simulation import compose_recipe, generate, list_recipes
from autofit_ml.simulation.recipe import Recipe
from autofit_ml.simulation.shards import read_manifest, verify_set

pytest.importorskip("galsim", reason="sets are made with GalSim")

SMALL = ("survey=sdss-r", "data.shape=[24,24]", "survey.psf.size=11", "data.galaxies.re=[1,3]")


@pytest.fixture
def simulate(monkeypatch, capsys):
    """Run ``autofit-ml simulate`` in this process: (exit status, stdout, stderr)."""

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["autofit-ml", "simulate", *map(str, words)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        captured = capsys.readouterr()
        return stopped.value.code or 0, captured.out, captured.err

    return run


def test_makes_a_set(simulate, tmp_path):
    out = tmp_path / "set"
    words = [*SMALL, "--out", out, "-n", 5, "--seed", 9, "--shard-size", 2, "--workers", 0]
    status, printed, err = simulate(*words)
    assert (status, printed) == (0, "")
    assert "simulating single: 5 objects\n" in err
    assert "5/5  " in err
    assert "5 objects with 5 sources in 3 files" in err
    assert f"set:  {out}" in err
    assert "\x1b" not in err  # plain lines when stderr is no terminal
    assert "\r" not in err
    manifest = verify_set(out)
    assert (manifest.count, manifest.seed, manifest.shard_size) == (5, 9, 2)
    assert manifest.recipe["data"]["galaxies"]["re"] == [1.0, 3.0]

    status, _, err = simulate(*words)
    assert status == 0
    assert "5 objects, 5 done by an earlier run" in err
    assert "(0 new" in err

    status, _, err = simulate(*words, "data.target.snr=[20,30]")
    assert status == 2
    assert "data.target.snr: [10.0, 1000.0] -> [20.0, 30.0]" in err
    status, _, err = simulate(*words, "data.target.snr=[20,30]", "--restart")
    assert status == 0
    assert read_manifest(out).recipe["data"]["target"]["snr"] == [20.0, 30.0]


def test_number_and_seed_of_the_recipe(simulate, tmp_path):
    words = [*SMALL, "data.count=3", "data.seed=8", "--out", tmp_path, "--workers", 0, "-q"]
    assert simulate(*words) == (0, "", "")
    assert (read_manifest(tmp_path).count, read_manifest(tmp_path).seed) == (3, 8)


def test_json_and_fits(simulate, tmp_path):
    words = [*SMALL, "data=blends", "-n", 3, "--out", tmp_path, "--workers", 0]
    status, printed, err = simulate(*words, "--fits", "--json")
    summary = json.loads(printed)  # nothing but JSON
    assert status == 0
    assert printed.count("\n") == 1
    assert summary["objects"] == summary["new"] == 3
    assert (summary["recipe"], summary["survey"], summary["shards"]) == ("blends", "sdss-r", 1)
    assert summary["out"] == str(tmp_path)
    assert summary["sources"] >= 3
    assert summary["fits"] == str(tmp_path / "fits")
    assert f"fits: {tmp_path / 'fits'}" in err
    stamps = read(tmp_path / "fits")
    assert [stamp.id for stamp in stamps] == [f"blends-{i:06d}" for i in range(3)]
    assert all(stamp.labels is not None and stamp.target_label == 1 for stamp in stamps)
    assert "3 objects, 3 done" not in err  # files are written anew


def test_list(simulate):
    status, printed, err = simulate("--list")
    assert (status, err) == (0, "")
    assert "  single " in printed
    assert "single Sérsic galaxies" in printed
    names = json.loads(simulate("--list", "--json")[1])
    assert list(names) == ["data", "survey"]
    for group, titles in names.items():
        assert titles == list_recipes(group)
        assert all(titles.values())


def test_dry_run_prints_the_whole_recipe(simulate, tmp_path):
    """Every value, in a form that gives the same recipe again."""
    words = ["data=blends", "data.target.snr=[30,40]", "--dry-run", "--out", tmp_path / "set"]
    status, printed, err = simulate(*words)
    assert (status, err) == (0, "")
    recipe = compose_recipe(["data=blends", "data.target.snr=[30,40]"])
    assert Recipe.from_mapping(yaml.safe_load(printed)).digest == recipe.digest
    assert json.loads(simulate(*words, "--json")[1]) == recipe.as_mapping()
    mapping = yaml.safe_load(simulate(*words, "-n", 7, "--seed", 0)[1])
    assert (mapping["data"]["count"], mapping["data"]["seed"]) == (7, 0)
    assert not (tmp_path / "set").exists()


def test_recipes_of_your_own(simulate, tmp_path):
    mine = tmp_path / "mine" / "data"
    mine.mkdir(parents=True)
    recipe = compose_recipe([]).as_mapping()["data"] | {"name": "faint", "title": "faint ones"}
    (mine / "faint.yaml").write_text(yaml.safe_dump(recipe))
    words = ["--config-dir", tmp_path / "mine"]
    assert json.loads(simulate("--list", "--json", *words)[1])["data"]["faint"] == "faint ones"
    out = tmp_path / "set"
    made = simulate("data=faint", *SMALL, *words, "--out", out, "-n", 1, "--workers", 0, "-q")
    assert made == (0, "", "")
    assert read_manifest(out).recipe["data"]["name"] == "faint"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "nowhere to write (give --out DIR)"),
        (["data=nothing", "--out", "set"], "data is one of"),
        (["survey=nothing", "--dry-run"], "survey one of"),
        (["data.galaxies.n=[0.1,9]", "--out", "set"], "data.galaxies.n: "),
        (["--out", "set", "-n", "0"], "count is 0"),
        (["--out", "set", "--workers", "-3"], "workers is -3"),
        (["--list", "--config-dir", "absent"], "config folder absent does not exist"),
        (["--out", "set", "--config-dir", "absent"], "config folder absent does not exist"),
        (["survey.psf.kind=folder", "survey.psf.folder=absent", "--out", "set"], "survey.psf"),
    ],
)
def test_wrong_usage(simulate, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    status, printed, err = simulate(*words)
    assert (status, printed) == (2, "")
    assert message in err
    assert err.startswith("error: ")
    assert not list(tmp_path.iterdir())


def test_object_that_cannot_be_made(simulate, tmp_path, monkeypatch):
    def broken(recipe, index, seed):
        raise ZeroDivisionError("of all things")

    monkeypatch.setattr(generate, "simulate_one", broken)
    status, printed, err = simulate(*SMALL, "--out", tmp_path, "--workers", 0)
    assert (status, printed) == (1, "")
    assert "error: object 0 cannot be made: ZeroDivisionError: of all things" in err


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Ctrl-C of a process group")
def test_ctrl_c(tmp_path):
    """Also while the workers start: no tracebacks, and the same command continues."""
    out = tmp_path / "set"
    words = [*SMALL, "-n", "4000", "--shard-size", "20", "--out", str(out), "--workers", "2"]
    program = [sys.executable, "-m", "autofit_ml", "simulate", *words]
    with subprocess.Popen(
        program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        try:
            state = out / ".work" / "state.json"
            # Two workers and multiprocessing's resource tracker.
            wait_for(lambda: state.exists() and len(children(process.pid)) >= 3, 60)
            os.killpg(process.pid, signal.SIGINT)
            printed, err = process.communicate(timeout=30)
        finally:
            process.kill()
    assert process.returncode == 130
    assert printed == ""
    assert "stopped at once; what was finished is saved" in err
    assert f"to go on: python -m autofit_ml simulate {SMALL[0]} '{SMALL[1]}'" in err
    assert "Traceback" not in err
    assert not list(out.rglob(".autofit-ml-tmp-*"))
    assert state.exists()


def children(pid):
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return file.read().split()


def wait_for(condition, seconds):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


# --- progress ---------------------------------------------------------------------------------


def test_lines_are_few(monkeypatch):
    """At the beginning, every ten seconds, and at the end; objects of an earlier run apart."""
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    stream = io.StringIO()
    with counting("simulating x", Console(file=stream, width=200)) as progress:
        for done in range(40, 101):
            progress(done, 100)
            now[0] += 0.25
    assert stream.getvalue().splitlines() == [
        "simulating x: 100 objects, 40 done by an earlier run",
        "80/100  4.0 objects/s  5 s left",
        "100/100  4.0 objects/s  0 s left",
    ]


def test_live_bar():
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=120)
    with counting("simulating x", console) as progress:
        progress(4, 10)
        time.sleep(0.01)
        progress(10, 10)
    text = stream.getvalue()
    assert "simulating x" in text
    assert "10/10" in text
    assert "/s" in text


def test_quiet():
    stream = io.StringIO()
    with counting("simulating x", Console(file=stream), quiet=True) as progress:
        progress(1, 10)
    assert stream.getvalue() == ""
