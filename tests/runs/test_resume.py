"""A results folder belongs to one run: its settings, its inputs, one process at a time."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from fits_inputs import galaxy, gaussian, write_object
from results_checks import assert_same_results, catalogue
from table_checks import assert_same_rows, row_of, rows_of

from autofit_ml.errors import AutofitError, ResumeError, SettingsError
from autofit_ml.images import ReadOptions
from autofit_ml.runs import FitSettings, Progress, fit_run
from autofit_ml.settings import Selected
from autofit_ml.weights.choice import usable_weights

FIT = FitSettings(workers=0, batch_size=2)


@pytest.fixture
def folder(tmp_path) -> Path:
    """Five small galaxies."""
    path = tmp_path / "images"
    path.mkdir()
    for number in range(5):
        write_object(path, f"g{number}", image=galaxy(seed=number))
    return path


@pytest.fixture
def out(tmp_path) -> Path:
    return tmp_path / "out"


def files_below(path: Path) -> dict[str, tuple[int, int]]:
    return {
        str(p.relative_to(path)): (p.stat().st_size, p.stat().st_mtime_ns)
        for p in path.rglob("*")
        if p.is_file()
    }


def test_nothing_is_done_twice(folder, out):
    first = fit_run(folder, out, FIT)
    objects = files_below(out / "objects")
    shards = files_below(out / ".work" / "shards")
    again = fit_run(folder, out, FIT)
    assert (first.n_new, again.n_new) == (5, 0)
    assert_same_rows(first.table, again.table, but=())
    assert files_below(out / "objects") == objects
    assert files_below(out / ".work" / "shards") == shards


def test_batches_workers_and_device_may_change(folder, out):
    fit_run(folder, out, FIT)
    again = fit_run(folder, out, FitSettings(workers=1, batch_size=7, device="cpu"))
    assert again.n_new == 0


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        (FitSettings(workers=0, sky="fixed"), "sky: 'free' -> 'fixed'"),
        (FitSettings(workers=0, segmenter="sep"), "segmenter: 'auto' -> 'sep'"),
        (FitSettings(workers=0, save=()), "save: 'objects,previews,report' -> 'none'"),
        (FitSettings(workers=0, gain=2.5), "gain: None -> 2.5"),
        (FitSettings(workers=0, psf="none"), "psf: None -> 'none'"),
    ],
)
def test_changed_settings_are_refused(folder, out, changed, says):
    first = fit_run(folder, out, FIT)
    with pytest.raises(ResumeError) as caught:
        fit_run(folder, out, changed)
    assert says in str(caught.value)
    assert "--restart" in caught.value.remedy
    assert_same_rows(catalogue(out), first.table, but=())


def test_all_changes_are_listed(folder, out):
    fit_run(folder, out, FIT)
    changed = FitSettings(workers=0, sky="3", zeropoint=25.0)
    with pytest.raises(ResumeError, match=r"sky.*zeropoint"):
        fit_run(folder, out, changed)


def test_another_version_of_the_program_is_refused(folder, out, monkeypatch):
    import autofit_ml

    fit_run(folder, out, FIT)
    monkeypatch.setattr(autofit_ml, "__version__", "9.9.9")
    with pytest.raises(ResumeError, match=r"autofit_ml: .* -> '9.9.9'"):
        fit_run(folder, out, FIT)


def test_only_added_files_are_fitted(folder, out):
    first = fit_run(folder, out, FIT)
    write_object(folder, "a-new", image=galaxy(seed=9))
    again = fit_run(folder, out, FIT)
    assert again.n_new == 1
    ids = [f"g{n}" for n in range(5)]
    assert again.table.column("id").to_pylist() == ["a-new", *ids]
    assert_same_rows(rows_of(again.table, ids), first.table, but=())
    assert row_of(again.table, "a-new")["status"] == "ok"
    assert fit_run(folder, out, FIT).n_new == 0


def test_changed_and_removed_files_are_refused(folder, out):
    fit_run(folder, out, FIT)
    write_object(folder, "g1", image=galaxy(seed=77))
    write_object(folder, "g2", image=galaxy(seed=2), psf=gaussian(fwhm=4.0))
    for path in folder.glob("g4_*"):
        path.unlink()
    with pytest.raises(ResumeError) as caught:
        fit_run(folder, out, FIT)
    text = str(caught.value)
    assert "2 changed: g1 (image: content), g2 (psf: content)" in text
    assert "1 removed: g4" in text
    assert "--restart" in text


def test_new_plane_is_refused(folder, out):
    fit_run(folder, out, FIT)
    write_object(folder, "g1", image=galaxy(seed=1), mask=np.zeros((40, 44), np.uint8))
    with pytest.raises(ResumeError, match=r"g1 \(mask added\)"):
        fit_run(folder, out, FIT)


def test_same_content_with_another_time_is_the_same(folder, out):
    fit_run(folder, out, FIT)
    for path in folder.iterdir():
        os.utime(path, (1e9, 1e9))
    assert fit_run(folder, out, FIT).n_new == 0
    assert fit_run(folder, out, FIT).n_new == 0


def test_manifest_values_are_inputs(folder, out):
    manifest = folder / "list.csv"
    table = "image,sigma,psf,zeropoint\ng0_image.fits,g0_sigma.fits,g0_psf.fits,{}\n"
    manifest.write_text(table.format(25))
    fit_run(None, out, FIT, manifest=manifest)
    manifest.write_text(table.format(26))
    with pytest.raises(ResumeError, match=r"g0 \(manifest columns\)"):
        fit_run(None, out, FIT, manifest=manifest)


def test_psf_file_is_a_setting(folder, out, tmp_path):
    from fits_inputs import write_plane

    path = write_plane(tmp_path, "p.fits", gaussian())
    settings = FitSettings(workers=0, psf=path)
    fit_run(folder, out, settings)
    write_plane(tmp_path, "p.fits", gaussian(fwhm=3.5))
    with pytest.raises(ResumeError, match="psf: "):
        fit_run(folder, out, settings)


# --- --restart --------------------------------------------------------------------------------


def test_restart_begins_anew(folder, out):
    fit_run(folder, out, FIT)
    for path in folder.glob("g4_*"):
        path.unlink()
    again = fit_run(folder, out, FitSettings(workers=0, sky="fixed"), restart=True)
    assert again.n_new == 4
    assert sorted(p.stem for p in (out / "objects").iterdir()) == ["g0", "g1", "g2", "g3"]
    assert sorted(p.stem for p in (out / "previews").iterdir()) == ["g0", "g1", "g2", "g3"]


def test_restart_keeps_what_the_user_put_there(folder, out):
    fit_run(folder, out, FIT)
    mine = ["notes.txt", "objects/mine.fits", "previews/mine.png", "sub/catalog.fits"]
    for name in mine:
        (out / name).parent.mkdir(exist_ok=True)
        (out / name).write_text("mine")
    fit_run(folder, out, FIT, restart=True)
    for name in mine:
        assert (out / name).read_text() == "mine"


@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize("name", ["catalog.fits", "run.json", "report.html", "objects/a.fits"])
def test_files_of_others_are_never_replaced(folder, out, name, restart):
    (out / name).parent.mkdir(parents=True)
    (out / name).write_text("mine")
    with pytest.raises(ResumeError, match="no run of this program left there") as caught:
        fit_run(folder, out, FIT, restart=restart)
    assert "another --out" in caught.value.remedy
    assert (out / name).read_text() == "mine"


def test_results_without_their_state(folder, out):
    fit_run(folder, out, FIT)
    shutil.rmtree(out / ".work")
    with pytest.raises(ResumeError, match="of another run") as caught:
        fit_run(folder, out, FIT)
    assert "--restart" in caught.value.remedy
    assert fit_run(folder, out, FIT, restart=True).n_new == 5


def test_restart_that_was_stopped_goes_on(folder, out, monkeypatch):
    from autofit_ml.runs import claim as module

    fit_run(folder, out, FIT)
    with monkeypatch.context() as patch:
        patch.setattr(module.shutil, "rmtree", _stop)
        with pytest.raises(KeyboardInterrupt):
            fit_run(folder, out, FIT, restart=True)
    assert not (out / "catalog.fits").exists()
    assert fit_run(folder, out, FIT).n_new == 5  # not resumed: its object files are gone


def _stop(*args, **kwargs):
    raise KeyboardInterrupt


# --- where the results may lie ----------------------------------------------------------------


def test_results_inside_the_images(folder):
    out = folder / "results"
    first = fit_run(folder, out, FIT)
    again = fit_run(folder, out, FIT)
    assert (first.n_new, again.n_new) == (5, 0)


def test_results_among_the_images(folder):
    first = fit_run(folder, folder, FIT)
    again = fit_run(folder, folder, FIT)
    assert (first.n_new, again.n_new) == (5, 0)
    assert again.n_objects == 5
    fit_run(folder, folder, FIT, restart=True)
    assert len(list(folder.glob("g?_image.fits"))) == 5


def test_results_are_no_images(folder, out):
    fit_run(folder, out, FIT)
    with pytest.raises(SettingsError, match="results of a run"):
        fit_run(out / "objects" / "g1.fits", None, FIT)
    found = fit_run([folder, out / "objects"], None, FitSettings(workers=0, save=()))
    assert found.n_objects == 5
    assert sum("written by a run" in text for text in found.ignored) == 5


def test_results_below_a_pattern(folder):
    """Results that a pattern would find do not change the ids of the images."""
    pattern = folder / "**" / "*.fits"
    first = fit_run(pattern, folder / "results", FIT)
    again = fit_run(pattern, folder / "results", FIT)
    assert (first.n_new, again.n_new) == (5, 0)


@pytest.mark.parametrize("kind", ["file", "below a file", "folder in the way"])
def test_folder_that_cannot_be_used(folder, tmp_path, kind):
    out = tmp_path / "taken"
    if kind == "folder in the way":
        (out / ".work").mkdir(parents=True)
        (out / ".work" / "shards").write_text("")
    else:
        out.write_text("a file")
    target = out / "deeper" if kind == "below a file" else out
    with pytest.raises(SettingsError, match="cannot be used for results") as caught:
        fit_run(folder, target, FIT)
    assert "--out" in caught.value.remedy


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_folder_without_permission(folder, tmp_path):
    tmp_path.chmod(0o555)
    try:
        with pytest.raises(SettingsError, match="Permission"):
            fit_run(folder, tmp_path / "out", FIT)
    finally:
        tmp_path.chmod(0o755)


# --- two runs at once -------------------------------------------------------------------------


class Second(Progress):
    """Tries to run in the same folder while the first run is at work."""

    def __init__(self, folder, out):
        self.folder, self.out, self.error = folder, out, None

    def batch(self, n_sources, rows):
        if self.error is None:
            code = (
                "import sys\nfrom autofit_ml.cli import main\n"
                "sys.argv = ['autofit-ml', 'fit', sys.argv[1], '--out', sys.argv[2], '--restart']\n"
                "main()\n"
            )
            command = [sys.executable, "-c", code, str(self.folder), str(self.out)]
            self.error = subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_two_runs_in_one_folder(folder, out):
    second = Second(folder, out)
    summary = fit_run(folder, out, FIT, progress=second)
    assert second.error.returncode == 2
    assert f"another run is writing there (process {os.getpid()} on" in second.error.stderr
    assert "Traceback" not in second.error.stderr
    assert summary.n_objects == 5
    assert summary.exit_status == 0


def test_lock_of_a_dead_process_does_not_block(folder, out):
    (out / ".work").mkdir(parents=True)
    (out / ".work" / "lock").write_text("1 on here")
    assert fit_run(folder, out, FIT).n_new == 5


# --- damage -----------------------------------------------------------------------------------


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def garbage(path: Path) -> None:
    path.write_bytes(b"\x00\xff not what it was")


def other_json(path: Path) -> None:
    path.write_text("[1, 2]")


SHARD, JOURNAL = ".work/shards/000001.parquet", ".work/shards/000001.json"


@pytest.mark.parametrize("damage", [truncated, garbage, other_json])
@pytest.mark.parametrize("name", [SHARD, JOURNAL, ".work/state.json"])
def test_damage_is_told_and_mended(folder, out, tmp_path, name, damage):
    fit_run(folder, out, FIT)
    shutil.copytree(out, tmp_path / "before")
    damage(out / name)
    with pytest.raises(ResumeError) as caught:
        fit_run(folder, out, FIT)
    assert str(out / name) in str(caught.value)
    if name == ".work/state.json":
        assert "--restart" in caught.value.remedy
        fit_run(folder, out, FIT, restart=True)
    else:
        assert "delete" in caught.value.remedy
        for path in (out / SHARD, out / JOURNAL):
            if name == JOURNAL or path.suffix == ".parquet":
                path.unlink()
        assert fit_run(folder, out, FIT).n_new == 2
    assert_same_results(out, tmp_path / "before")


def test_shard_of_another_batch(folder, out):
    fit_run(folder, out, FIT)
    shutil.copy(out / ".work/shards/000000.parquet", out / SHARD)
    with pytest.raises(ResumeError, match="does not hold the objects"):
        fit_run(folder, out, FIT)


def test_shard_without_journal(folder, out):
    fit_run(folder, out, FIT)
    (out / JOURNAL).unlink()
    with pytest.raises(ResumeError, match="journal"):
        fit_run(folder, out, FIT)


def test_damage_during_the_run(folder, out):
    class Damage(Progress):
        def stage(self, text):
            if "catalogue" in text:
                truncated(out / SHARD)

    with pytest.raises(AutofitError, match=r"000001\.parquet"):
        fit_run(folder, out, FIT, progress=Damage())


# --- what is recorded -------------------------------------------------------------------------


def test_run_json(folder, out, tmp_path):
    (folder / "broken.fits").write_bytes(b"no")
    settings = FitSettings(workers=0, batch_size=2, zeropoint=25.0)
    summary = fit_run([folder, folder / "broken.fits"], out, settings)
    run = json.loads((out / "run.json").read_text())
    files = sorted(folder.iterdir())
    assert len(files) == 16
    assert run["inputs"] == {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files
    }
    import torch

    import autofit_ml

    assert run["versions"]["autofit-ml"] == autofit_ml.__version__
    assert run["versions"]["torch"] == torch.__version__.split("+")[0]
    assert run["versions"]["numpy"] == np.__version__
    assert {"python", "scipy", "astropy", "sep"} <= set(run["versions"])
    assert run["weights"] == usable_weights("segment", "") | usable_weights("initialise", "")
    assert {"segment/ground-any@1.0.0", "initialise/multi-any@1.1.0"} <= set(run["weights"])
    assert run["settings"]["zeropoint"] == 25.0
    assert run["settings"]["sky"] == "free"
    fields = {*FitSettings.__dataclass_fields__, *ReadOptions.__dataclass_fields__}
    left_out = {"read", "device", "batch_size", "workers", "watch"}
    assert set(run["settings"]) == (fields - left_out) | {"autofit_ml"}
    assert run["execution"]["batch_size"] == 2
    assert run["execution"]["device"] == "cpu"
    assert run["counts"]["objects"] == summary.n_objects == 6
    assert run["counts"]["failed"] == 1
    assert run["counts"]["flags"]["FAILED"] == 1
    assert run["timings"]["last_call_seconds"] > 0
    assert run["timings"]["object_seconds"] > 0


def test_save_none(folder, out):
    fit_run(folder, out, FitSettings(workers=0, save=()))
    found = sorted(path.name for path in out.iterdir())
    assert found == [".work", "catalog.fits", "catalog.parquet", "run.json"]
    kinds = {path.suffix for path in (out / ".work").rglob("*") if path.is_file()}
    assert kinds == {".parquet", ".json", ""}  # "": the lock


def test_without_a_folder_nothing_is_written(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = files_below(tmp_path)
    summary = fit_run(folder, None, FIT)
    assert summary.n_objects == 5
    assert files_below(tmp_path) == before


# --- names ------------------------------------------------------------------------------------


def test_odd_names(tmp_path, out):
    """Same names in two folders, blanks, accents, hidden files, letters that differ in case."""
    names = {
        "a": ["g", "NGC 4321", "Sérsic_é", "日本", "x", "m=1;rm -rf"],
        "b": ["g", "X", ".hidden"],
    }
    folders = []
    for folder, inside in names.items():
        path = tmp_path / "im ages" / folder
        path.mkdir(parents=True)
        folders.append(path)
        for name in inside:
            write_object(path, name)
    summary = fit_run(folders, out, FIT)
    ids = summary.table.column("id").to_pylist()
    assert summary.n_ok == len(ids) == 8  # not the hidden one
    assert len({name.lower() for name in ids}) == 8
    assert {path.stem for path in (out / "objects").iterdir()} == set(ids)
    assert {path.stem for path in (out / "previews").iterdir()} == set(ids)
    assert "hidden" not in " ".join(summary.table.column("file").to_pylist())
    assert any("日本" in name for name in summary.table.column("file").to_pylist())
    again = fit_run(folders, out, FIT)
    assert again.n_new == 0
    from autofit_ml import read_catalogue

    for kind in ("catalog.fits", "catalog.parquet"):
        assert list(read_catalogue(out / kind)["id"]) == ids


# --- frames -----------------------------------------------------------------------------------


def small_frame(seed=3):
    rng = np.random.default_rng(seed)
    image = rng.normal(0, 1, (530, 90)).astype(np.float32)
    for number, y in enumerate(range(40, 500, 50)):
        image[y - 20 : y + 20, 23:67] += galaxy(seed=number, flux=4000, sky=0)
    return image


def test_frame_becomes_objects(tmp_path, out):
    """A frame, a stamp whose name could be an object's, in worker processes and here."""
    images = tmp_path / "images"
    images.mkdir()
    write_object(images, "frame", image=small_frame())
    for number in (1, 10):
        write_object(images, f"frame_{number:02d}")
    summary = fit_run(images, out, FIT)
    ids = summary.table.column("id").to_pylist()
    members = [name for name in ids if name.startswith("frame@")]
    assert members == [f"frame@{n:02d}" for n in range(1, len(members) + 1)]
    assert len(members) >= 10
    assert set(ids) - set(members) == {"frame_01", "frame_10"}
    rows = rows_of(summary.table, members).to_pylist()
    assert all(row["file"].endswith("frame_image.fits") for row in rows)
    ys = sorted(row["y"] for row in rows if row["use"] and row["snr"] > 50)
    expected = [y - 0.5 for y in range(40, 500, 50)]
    assert np.allclose(ys, expected, atol=0.6)
    again = fit_run(images, tmp_path / "again", FitSettings(workers=1, batch_size=3))
    assert_same_results(out, tmp_path / "again")
    assert again.n_objects == len(ids)
    assert fit_run(images, out, FIT).n_new == 0


def test_frame_without_sources(tmp_path):
    rng = np.random.default_rng(1)
    write_object(tmp_path, "empty", image=rng.normal(0, 1, (530, 60)).astype(np.float32))
    summary = fit_run(tmp_path, None, FitSettings(workers=0, save=()))
    row = row_of(summary.table, "empty")
    assert row["status"] == "failed"
    assert "nothing is detected" in row["message"]
    assert "empty_image.fits" in row["message"]


def test_object_of_a_frame_that_cannot_be_cut(tmp_path, monkeypatch):
    """It gets its row; the others of the frame are not lost."""
    from autofit_ml.errors import InputError
    from autofit_ml.runs import frames as module

    cut = module.cut_stamps

    def breaks(frame, detections, *args, **kwargs):
        if 140 < detections[0]["y"] < 145 or 135 < detections[0]["y"] < 140:
            raise InputError("no usable pixels", "drop it", frame.file)
        return cut(frame, detections, *args, **kwargs)

    monkeypatch.setattr(module, "cut_stamps", breaks)
    write_object(tmp_path, "frame", image=small_frame())
    summary = fit_run(tmp_path, None, FitSettings(workers=0, save=()))
    assert summary.n_failed == 1
    assert summary.n_objects >= 10


def test_frames_go_a_few_at_a_time(tmp_path, monkeypatch):
    """Tasks are bounded in bytes, not only in number."""
    from autofit_ml.images import discover
    from autofit_ml.runs import sources as batches

    for number in range(6):
        write_object(tmp_path, f"g{number}")
    sources = discover(tmp_path).sources
    size = batches._bytes(sources[0])
    monkeypatch.setattr(batches, "_BYTES_PER_TASK", 2.5 * size)
    assert [len(task) for task, _ in batches._tasks(sources, 256, 16)] == [2, 2, 2]
    monkeypatch.setattr(batches, "_BYTES_PER_TASK", 0.5 * size)
    assert [len(task) for task, _ in batches._tasks(sources, 256, 16)] == [1] * 6
    monkeypatch.setattr(batches, "_BYTES_PER_TASK", 1e9)
    assert [len(task) for task, _ in batches._tasks(sources, 4, 16)] == [4, 2]


def test_some_objects_now_and_the_others_later(folder, out):
    whole = fit_run(folder, out.with_name("whole"), FIT)
    first = fit_run(folder, out, FIT, only=Selected(limit=2))
    assert first.n_new == 2 and catalogue(out)["id"].to_pylist() == ["g0", "g1"]
    fit_run(folder, out, FIT, only=Selected(ids="g[34]"))
    assert catalogue(out)["id"].to_pylist() == ["g0", "g1", "g3", "g4"]
    last = fit_run(folder, out, FIT)
    assert last.n_new == 1
    assert_same_rows(whole.table, last.table)
    with pytest.raises(SettingsError, match="no object has an id like"):
        fit_run(folder, out, FIT, only=Selected(ids="ngc*"))


def test_what_failed_is_done_again(folder, out, monkeypatch):
    """Also when the process dies between the two steps in which a part loses its failures."""
    broken = folder / "g2_image.fits"
    good = broken.read_bytes()
    broken.write_bytes(good[:2880])
    one = fit_run(folder, out, FIT)
    assert one.n_failed == 1
    broken.write_bytes(good)
    with pytest.raises(ResumeError, match="g2"):
        fit_run(folder, out, FIT)

    def die(path, **options):
        raise RuntimeError(path)

    with monkeypatch.context() as patch, pytest.raises(RuntimeError):
        patch.setattr(Path, "unlink", die)
        fit_run(folder, out, FIT, only=Selected(retry="failed"))
    two = fit_run(folder, out, FIT, only=Selected(retry="failed"))
    assert two.n_failed == 0 and two.n_new == 1
    assert catalogue(out)["id"].to_pylist() == [f"g{k}" for k in range(5)]
    kept = ["g0", "g1", "g3", "g4"]
    assert_same_rows(rows_of(one.table, kept), rows_of(two.table, kept), but=())
    assert fit_run(folder, out, FIT, only=Selected(retry="failed")).n_new == 0
