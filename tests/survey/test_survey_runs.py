"""Surveys: each object once, whatever the tiles, the workers, and what dies on the way."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.dataset
import pytest
from astropy.io import fits
from overlapping_frames import four_frames
from scipy.spatial import cKDTree

from autofit_ml.catalogue import query
from autofit_ml.errors import BusyError, OutputError, ResumeError, SettingsError
from autofit_ml.settings import FitSettings, SurveySettings
from autofit_ml.survey import images as footprints
from autofit_ml.survey import run as run_module
from autofit_ml.survey import tiles as tasks
from autofit_ml.survey.cells import read_cell
from autofit_ml.survey.export import export_hats, export_parquet, write_view
from autofit_ml.survey.pages import write_pages
from autofit_ml.survey.plan import make_plan
from autofit_ml.survey.run import audit, survey_run
from autofit_ml.survey.sky import unit_vectors
from autofit_ml.survey.status import survey_status

SETTINGS = FitSettings(segmenter="sep", init="moments", save="none", workers=0)
TILES = SurveySettings(run="detect", tiling="healpix:11")
EXACT = ["id", "image", "seen", "ra_detected", "dec_detected", "x", "y", "_healpix_29"]


def rows(out: Path) -> pa.Table:
    """All rows of a survey, by id."""
    return pyarrow.dataset.dataset(sorted(out.glob("tiles/*/*.parquet"))).to_table().sort_by("id")


def assert_same(one: Path, other: Path, columns=EXACT) -> None:
    left, right = rows(one).select(columns), rows(other).select(columns)
    assert left.column("id").to_pylist() == right.column("id").to_pylist()
    assert left.equals(right)


@pytest.fixture(scope="module")
def undisturbed(area, tmp_path_factory) -> Path:
    """A survey that nothing disturbed."""
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    summary = survey_run(area[0], out, SETTINGS, TILES)
    assert (summary.done, summary.exit_status, summary.concerns) == (summary.tiles, 0, [])
    return out


def test_every_galaxy_has_one_row(area, undisturbed):
    found = rows(undisturbed)
    ids = found.column("id").to_pylist()
    assert len(set(ids)) == len(ids)
    places = unit_vectors(*(np.asarray(found.column(k)) for k in ("ra_detected", "dec_detected")))
    truth = cKDTree(unit_vectors(*area[1][:, :2].T))
    apart, which = truth.query(places)
    near = np.degrees(apart) * 3600 < 2.0
    assert near.mean() > 0.95
    assert len(set(which[near])) == near.sum()
    assert np.asarray(found.column("seen")).max() == 4


@pytest.mark.parametrize("text", ["healpix:12", "grid:0.03"])
def test_tiles_do_not_matter(area, undisturbed, tmp_path, text):
    survey_run(area[0], tmp_path, SETTINGS, TILES.replace(tiling=text))
    assert_same(undisturbed, tmp_path)


def test_the_pole(tmp_path):
    sky = four_frames(tmp_path / "images", ra=40.0, dec=90.0, side=150, overlap=40, number=40)
    counts = set()
    for text in ("healpix:11", "grid:0.02"):
        out = tmp_path / text.replace(":", "-")
        summary = survey_run(tmp_path / "images", out, SETTINGS, TILES.replace(tiling=text))
        counts.add((summary.objects, len(rows(out))))
        assert summary.concerns == []
    assert len(counts) == 1
    assert len(sky) > counts.pop()[0] > 15


def test_cells_share_their_objects(area, tmp_path, monkeypatch):
    """An image in 16 cells: nothing at a seam is lost, or there twice."""
    whole, cells = tmp_path / "whole", tmp_path / "cells"
    survey_run(area[0] / "f0_image.fits", whole, SETTINGS, TILES)
    monkeypatch.setattr(footprints, "_HALO", 40)
    survey_run(area[0] / "f0_image.fits", cells, SETTINGS, TILES.replace(cell=64))
    assert len(list(cells.glob("cells/f0/*.npz"))) == 16
    one, other = (rows(out) for out in (whole, cells))
    places = [np.stack([np.asarray(t.column(k)) for k in "xy"], axis=1) for t in (one, other)]
    apart, which = cKDTree(places[1]).query(places[0])
    assert abs(len(one) - len(other)) <= 1
    assert (apart < 1.5).sum() >= len(one) - 1
    assert len(set(which)) >= len(one) - 1


def test_priority_decides_between_images(area, tmp_path):
    images = sorted(area[0].glob("f*_image.fits"))
    table = ["id,image,priority", *(f"f{k},{path},{k % 2}" for k, path in enumerate(images))]
    (tmp_path / "images.csv").write_text("\n".join(table))
    survey_run(tmp_path / "images.csv", tmp_path / "out", SETTINGS, TILES)
    found = rows(tmp_path / "out")
    seen, image = np.asarray(found.column("seen")), np.array(found.column("image").to_pylist())
    assert np.isin(image[seen == 4], ["f1", "f3"]).mean() > 0.9


# --- what dies on the way ---------------------------------------------------------------------


def test_parts_of_a_job_array(area, undisturbed, tmp_path):
    for share in ("2/3", "3/3", "1/3", "1/3"):
        survey_run(area[0], tmp_path, SETTINGS, TILES.replace(share=share))
    assert_same(undisturbed, tmp_path)
    assert audit(tmp_path, make_plan(area[0], tiling_text="healpix:11")) == []


class _Killed(BaseException):
    pass


@pytest.mark.parametrize("module", ["cells", "tiles"])
def test_a_crash_before_a_file_has_its_name(area, undisturbed, tmp_path, monkeypatch, module):
    """Anything written half is not there."""
    import autofit_ml.catalogue.atomic as atomic

    whole, count = atomic._name_unless_taken, iter(range(10**6))

    def crash(temporary, path):
        if path.parts[-3] == module and next(count) == 2:
            raise _Killed
        whole(temporary, path)

    monkeypatch.setattr(atomic, "_name_unless_taken", crash)
    with pytest.raises(_Killed):
        survey_run(area[0], tmp_path, SETTINGS, TILES)
    survey_run(area[0], tmp_path, SETTINGS, TILES)
    assert_same(undisturbed, tmp_path)
    assert not [path for path in tmp_path.rglob(".*") if path.is_file()]


def test_a_full_disk(area, undisturbed, tmp_path, monkeypatch):
    whole, count = tasks.pq.write_table, iter(range(10**6))

    def full(table, file, **options):
        if next(count) == 5:
            file.write(b"half of it")
            raise OSError(28, "No space left on device")
        whole(table, file, **options)

    monkeypatch.setattr(tasks.pq, "write_table", full)
    with pytest.raises(OutputError, match="No space left"):
        survey_run(area[0], tmp_path, SETTINGS, TILES)
    assert survey_status(tmp_path).done == 5
    assert survey_run(area[0], tmp_path, SETTINGS, TILES).exit_status == 0
    assert_same(undisturbed, tmp_path)


def test_the_first_detections_count(area, tmp_path, monkeypatch):
    """Of two processes that detect in one cell the first to finish decides for both."""
    survey_run(area[0], tmp_path, SETTINGS, TILES, limit=1)
    path = next(tmp_path.glob("cells/*/*.npz"))
    cell = next(
        cell for job in make_plan(area[0]).jobs() for cell in job.cells
        if cell.source.id == path.parent.name
    )  # fmt: skip
    first = read_cell(path, cell)
    from autofit_ml.survey.cells import write_cell

    other = first.rows.copy()
    other["ra"] += 1e-9
    write_cell(path, type(first)(cell, other, {}, "sep", 0, ()))
    np.testing.assert_array_equal(read_cell(path, cell).rows, first.rows)


def survey_command(area: Path, out: Path, *more: str) -> list[str]:
    words = ["--run", "detect", "--tiling", "healpix:11", "--segmenter", "sep"]
    python = [sys.executable, "-m", "autofit_ml"]
    more = ("--init", "moments", "--quiet", *more)
    return [*python, "survey", str(area), "--out", str(out), *words, *more]


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
def test_killed_workers_and_schedulers(area, undisturbed, tmp_path):
    """A worker is killed, then scheduler and client; then two schedulers finish it together."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    command = survey_command(area[0], tmp_path, "--workers", "2")
    process = subprocess.Popen(command, env=environment)
    try:
        workers = _until(lambda: _workers(process.pid))
        _until(lambda: len(list(tmp_path.glob("tiles/*/*.parquet"))) >= 2 or process.poll())
        workers = _workers(process.pid) or workers
        for one in workers[:1]:
            one.kill()
        _until(lambda: len(list(tmp_path.glob("tiles/*/*.parquet"))) >= 5 or process.poll())
    finally:
        process.kill()
        process.wait()
    assert _until(lambda: not any(one.is_running() for one in workers), 30)
    both = [
        subprocess.Popen(survey_command(area[0], tmp_path, "--workers", "0"), env=environment)
        for _ in range(2)
    ]
    assert [one.wait(120) for one in both] == [0, 0]
    assert_same(undisturbed, tmp_path)
    assert survey_status(tmp_path).left == 0


def test_many_commands_begin_one_survey(area, tmp_path):
    """Commands that begin at one moment in a folder that is not there yet do not get in the way."""
    barrier = threading.Barrier(4)

    def begin(out: Path) -> int:
        barrier.wait()
        return survey_run(area[0], out, SETTINGS, TILES, limit=0).tiles

    with ThreadPoolExecutor(4) as pool:
        for k in range(2):
            assert list(pool.map(begin, [tmp_path / f"{k}" / "out"] * 4)) == [0] * 4
    assert survey_run(area[0], out := tmp_path / "0" / "out", SETTINGS, TILES, limit=2).new == 2
    assert survey_status(out).done == 2


def test_nobody_begins_anew_where_others_are_at_work(area, tmp_path, monkeypatch):
    """Not even between the check of a folder and the first tile."""
    others: list[Future] = []
    whole = run_module.write_coverage

    def slow(plan, path):
        """Another command comes while this one still looks at the folder."""
        if not others:
            fine = TILES.replace(tiling="healpix:12")
            others.append(
                pool.submit(survey_run, area[0], tmp_path, SETTINGS, fine, limit=1, restart=True)
            )
            time.sleep(0.3)
        whole(plan, path)

    def told(outcome, done, total):
        assert isinstance(others[0].exception(60), BusyError)

    monkeypatch.setattr(run_module, "write_coverage", slow)
    with ThreadPoolExecutor(1) as pool:
        survey_run(area[0], tmp_path, SETTINGS, TILES, limit=2, told=told)
    status = survey_status(tmp_path)
    assert (status.tiling, status.done) == ("healpix:11", 2)
    fine = TILES.replace(tiling="healpix:12")
    assert survey_run(area[0], tmp_path, SETTINGS, fine, limit=1, restart=True).new == 1
    assert len(list(tmp_path.glob("tiles/*/*.parquet"))) == 1


def _until(true, seconds: float = 60.0):
    end = time.monotonic() + seconds
    while not (answer := true()) and time.monotonic() < end:
        time.sleep(0.05)
    return answer


def _workers(process: int) -> list[psutil.Process]:
    """Processes that Dask has started for workers."""
    try:
        children = psutil.Process(process).children(recursive=True)
        return [one for one in children if "spawn_main" in " ".join(one.cmdline())]
    except psutil.NoSuchProcess:
        return []


# --- images that change, or cannot be used ----------------------------------------------------


def copied(area: Path, folder: Path) -> Path:
    shutil.copytree(area, folder)
    return folder


def test_an_image_that_cannot_be_read_and_its_repair(area, undisturbed, tmp_path):
    images = copied(area[0], tmp_path / "images")
    path = images / "f2_image.fits"
    good = path.read_bytes()
    path.write_bytes(good[: len(good) // 2])
    out = tmp_path / "out"
    summary = survey_run(images, out, SETTINGS, TILES)
    assert summary.exit_status == 3
    assert str(path) in summary.failures["f2.0"]
    assert survey_status(out).image_failures.keys() == {"f2.0"}
    assert "f2" not in set(rows(out).column("image").to_pylist())
    path.write_bytes(good)
    summary = survey_run(images, out, SETTINGS, TILES, retry=True)
    assert summary.exit_status == 0
    assert 0 < summary.new <= summary.tiles
    assert_same(undisturbed, out)


def test_images_may_not_change(area, tmp_path):
    images = copied(area[0], tmp_path / "images")
    out = tmp_path / "out"
    survey_run(images, out, SETTINGS, TILES)
    path = images / "f1_image.fits"
    os.utime(path, (1, 1))  # a copy: the content is the same
    assert survey_run(images, out, SETTINGS, TILES).new == 0
    with fits.open(path, mode="update") as hdus:
        hdus[0].data += 1
    with pytest.raises(ResumeError, match=r"f1 \(image: content\)"):
        survey_run(images, out, SETTINGS, TILES)
    with pytest.raises(ResumeError, match="tiling: 'healpix:11' -> 'healpix:10'"):
        survey_run(images, out, SETTINGS, TILES.replace(tiling="healpix:10"))
    assert survey_run(images, out, SETTINGS, TILES, restart=True).new > 0


@pytest.mark.parametrize("limit", [1, None])
def test_new_images_only_where_nothing_is_done_yet(area, tmp_path, limit):
    """The first tile is far from the image that comes late; with all tiles done none is."""
    images = copied(area[0], tmp_path / "images")
    out, small = tmp_path / "out", TILES.replace(tiling="healpix:12", halo=60.0)
    kept = [
        (images / f"f3_{plane}.fits").rename(tmp_path / f"{plane}.fits")
        for plane in ("image", "sigma")
    ]
    survey_run(images, out, SETTINGS, small, limit=limit)
    for path in kept:
        path.rename(images / f"f3_{path.name}")
    if limit is None:
        with pytest.raises(ResumeError, match="1 images are new, and tiles near them"):
            survey_run(images, out, SETTINGS, small)
        return
    survey_run(images, out, SETTINGS, small)
    whole = tmp_path / "whole"
    survey_run(images, whole, SETTINGS, small)
    assert_same(out, whole)


# --- fits, and what one sees ------------------------------------------------------------------


def test_fits_do_not_depend_on_tiles(area, tmp_path):
    images = [area[0] / "f0_image.fits", area[0] / "f1_image.fits"]
    outs = []
    for text in ("healpix:10", "grid:0.03"):
        outs.append(tmp_path / text.partition(":")[0])
        options = SurveySettings(run="fit", tiling=text, halo=60.0)
        summary = survey_run(images, outs[-1], SETTINGS, options)
        assert summary.failed == 0
        assert summary.usable > 0.8 * summary.objects
    assert_same(*outs, ["id", "status", "ra_detected", "dec_detected"])
    one, other = map(rows, outs)
    for name in ("x", "flux", "re", "n", "flux_err"):
        values = [np.asarray(table.column(name)) for table in (one, other)]
        np.testing.assert_allclose(*values, rtol=1e-5, atol=1e-5)


def test_query_view_and_exports(undisturbed, tmp_path):
    import duckdb

    out = shutil.copytree(undisturbed, tmp_path / "sky")
    whole = rows(out)
    counted = "SELECT count(*) AS n FROM catalog"
    for path in (out, [str(out)]):  # as the command line gives it
        assert query(path, counted).column("n").to_pylist() == [len(whole)]
    with pytest.raises(SettingsError, match="a survey among other results"):
        query([out, out], counted)
    with duckdb.connect(str(write_view(out)), read_only=True) as connection:
        assert connection.sql("SELECT count(DISTINCT id) FROM catalog").fetchall() == [
            (len(whole),)
        ]
    path, number = export_parquet(out)
    assert number == len(whole)
    assert pa.parquet.read_table(path).sort_by("id").equals(whole)
    number, parts = export_hats(out, tmp_path, margin=5.0, most_rows=20, name="hats")
    pages = sorted((tmp_path / "hats").rglob("Npix=*.parquet"))
    assert (number, parts) == (len(whole), len(pages))
    tables = [pa.parquet.read_table(page, partitioning=None) for page in pages]
    assert pa.concat_tables(tables).sort_by("id").equals(whole)
    for page, table in zip(pages, tables, strict=True):
        index = np.asarray(table.column("_healpix_29"))
        order, pixel = int(page.parts[-3].partition("=")[2]), int(page.stem.partition("=")[2])
        assert (np.diff(index) >= 0).all()
        assert (index >> 2 * (29 - order) == pixel).all()
        margin = tmp_path / "hats_margin" / page.relative_to(tmp_path / "hats")
        around = pa.parquet.read_table(margin, partitioning=None).column("id").to_pylist()
        mine = set(table.column("id").to_pylist())
        apart = _apart(whole, table)
        expected = {name for name, near in apart.items() if near < 4.9} - mine
        assert expected & set(around) == expected & _near_outside(whole, order, pixel, 4.9)
        assert not mine & set(around)


def _apart(whole: pa.Table, part: pa.Table) -> dict[str, float]:
    """Arcsec from each row to the nearest of a part."""
    places = [
        unit_vectors(*(np.asarray(one.column(k)) for k in ("ra_detected", "dec_detected")))
        for one in (whole, part)
    ]
    chord, _ = cKDTree(places[1]).query(places[0])
    return dict(zip(whole.column("id").to_pylist(), np.degrees(chord) * 3600, strict=True))


def _near_outside(whole: pa.Table, order: int, pixel: int, arcsec: float) -> set[str]:
    """Rows outside a pixel with a place inside it so near."""
    from autofit_ml.survey.sky import HEALPix, offset_positions

    ra, dec = (np.asarray(whole.column(k)) for k in ("ra_detected", "dec_detected"))
    inside = np.zeros(len(ra), dtype=bool)
    for radius in np.linspace(0.2, 1, 5) * arcsec / 3600:
        turned = HEALPix(order).index(*offset_positions(ra, dec, radius, 64)) == pixel
        inside |= turned.reshape(65, -1).any(0)
    return {name for name, near in zip(whole.column("id").to_pylist(), inside, strict=True) if near}


def test_report(undisturbed, tmp_path):
    out = shutil.copytree(undisturbed, tmp_path / "sky")
    status = survey_status(out)
    text = write_pages(out).read_text()
    assert f"{status.tiles} tiles (healpix:11) of 4 images: {status.tiles} done" in text
    assert text.count("<polygon") == status.tiles
    page = (out / "pages" / "1.html").read_text()
    for path in out.glob("tiles/*/*.parquet"):
        assert f'id="{path.stem}"' in page
    gone = next(iter(sorted(out.glob("tiles/*/*.parquet"))))
    gone.unlink()
    tasks.write_failure(out, "tiles", gone.stem, "memory <b>ran</b> out")
    text = write_pages(out).read_text()
    assert "1 failed" in text
    assert "memory &lt;b&gt;ran&lt;/b&gt; out" in text
    assert f"{gone.stem}: failed, 0 objects" in text


def test_command_line(area, command, tmp_path):
    words = ["--segmenter", "sep", "--init", "moments", "--workers", 0]
    status, out, _ = command(
        "survey", "plan", area[0], "--out", tmp_path / "plan", "--run", "detect", "--json",
        "--tiling", "healpix:11", *words,
    )  # fmt: skip
    told = json.loads(out)
    assert status == 0
    assert (told["images"], told["cells"]) == (4, 4)
    assert told["objects"] == pytest.approx(70, rel=0.4)
    run = ["survey", tmp_path / "plan", "--run", "detect", "--out", tmp_path / "sky", *words]
    status, out, err = command(*run, "--limit", 5)
    assert status == 0
    assert "5 of 5 tiles (5 new" in err
    status, out, _ = command(*run, "--json", "--quiet")
    counts = json.loads(out)
    assert (status, counts["done"], counts["new"]) == (0, told["tiles"], told["tiles"] - 5)
    status, out, _ = command("survey", "status", tmp_path / "sky", "--json")
    counts = json.loads(out)
    assert (counts["left"], counts["done"]) == (0, told["tiles"])
    lost = next((tmp_path / "sky").glob("tiles/*/*.parquet"))
    lost.unlink()
    tasks.write_failure(tmp_path / "sky", "tiles", lost.stem, "out of memory")
    status, out, err = command(*run)
    assert status == 3
    assert f"failed   {lost.stem}: out of memory" in err
    status, out, _ = command("survey", "status", tmp_path / "sky")
    assert f"failed   tile {lost.stem}: out of memory" in out
    assert "survey retry" in out
    status, out, err = command("survey", "retry", tmp_path / "sky")
    assert (status, lost.exists()) == (0, True)
    status, out, err = command("survey", "status", tmp_path)
    assert (status, "is no survey" in err) == (2, True)


def test_retry_from_another_folder(area, command, tmp_path, monkeypatch):
    """Paths were given from where the survey was begun."""
    monkeypatch.chdir(area[0].parent)
    words = ("--run", "detect", "--segmenter", "sep", "--init", "moments", "--workers", 0)
    assert command("survey", area[0].name, "--out", tmp_path / "sky", "--limit", 1, *words)[0] == 0
    monkeypatch.chdir(tmp_path)
    assert command("survey", "retry", "sky", "--quiet")[0] == 0
    assert survey_status(tmp_path / "sky").left == 0
