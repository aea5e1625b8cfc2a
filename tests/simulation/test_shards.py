"""Sets on disk: what is stored, the same bytes however they were made, and damage that is found."""

from __future__ import annotations

import dataclasses
import errno
import functools
import json
import multiprocessing
import os
import pickle
import random
import shutil
import signal
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from astropy.io import fits
from pyarrow import ipc

from autofit_ml.catalogue import atomic
from autofit_ml.errors import AutofitError, InputError, OutputError, ResumeError, SettingsError
from autofit_ml.images import read
from autofit_ml.runs.simulate import default_shard_size, write_set
from autofit_ml.simulation import (
    compose_recipe,
    export_fits,
    moffat_psf,
    simulate_one,
    source_table,
)
from autofit_ml.simulation.shards import (
    ShardReader,
    export_set,
    read_manifest,
    read_objects,
    shard_schema,
    verify_set,
)
from autofit_ml.simulation.shards.manifest import IDENTITY

pytest.importorskip("galsim", reason="sets are made with GalSim")

SMALL = (
    "data.shape=[24,24]",
    "survey.psf.size=11",
    "data.galaxies.re=[1,3]",
    "data.galaxies.n=[0.5,1.5]",  # GalSim's tables of high indices take most of a second
)
FULL = (
    "data=crowded",
    *SMALL,
    "data.galaxies.morphology={sersic:1,bulge_disc:1,structured:1}",
    "data.neighbours.number=3",
    "data.labels.noise_free=true",
    "data.labels.light=true",
    "survey.noise.gradient=[1,2]",
    "survey.noise.correlation=0.2",
    "survey.artefacts.cosmic_rays=3000",
    "survey.artefacts.masked_regions=1000",
    "survey.psf.oversampling=2",
)
FRAME = (
    "data=frame",
    "data.shape=[140,60]",
    *SMALL[1:2],
    *SMALL[3:],
    "data.neighbours.magnitude=[16,20]",
    "data.neighbours.faint_magnitude=21",
)


@functools.lru_cache
def recipe(*overrides):
    return compose_recipe(["survey=sdss-r", *overrides])


TINY = (*SMALL, "data.count=11", "data.seed=3")
"""11 single galaxies; in shards of 3 objects: 4 shards."""


def hashes(folder: Path) -> list[str]:
    manifest = read_manifest(folder)
    return [entry.sha256 for entry in (*manifest.shards, manifest.sources)]


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """The set of `TINY`, made in this process; not to be changed."""
    folder = tmp_path_factory.mktemp("made") / "set"
    write_set(recipe(*TINY), folder, shard_size=3, workers=0)
    return folder


@pytest.fixture
def tiny(made, tmp_path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(made, tmp_path / "tiny"))


# --- what is stored ---------------------------------------------------------------------------


def assert_same(stored, given):
    """Two values are equal to the bit, whatever they are made of."""
    if isinstance(given, np.ndarray):
        assert stored.dtype == given.dtype
        assert stored.shape == given.shape
        assert stored.tobytes() == np.ascontiguousarray(given).tobytes()
    elif dataclasses.is_dataclass(given):
        for field in dataclasses.fields(given):
            if field.name == "morphology":  # filled in for simple sources
                assert stored.kind == given.kind
            else:
                assert_same(getattr(stored, field.name), getattr(given, field.name))
    elif isinstance(given, tuple):
        assert len(stored) == len(given)
        for one, other in zip(stored, given, strict=True):
            assert_same(one, other)
    else:
        assert type(stored) is type(given) or isinstance(given, np.floating)
        assert stored == given or (stored != stored and given != given)


@pytest.mark.parametrize("overrides", [FULL, FRAME], ids=["stamps", "frames"])
def test_every_value_comes_back(tmp_path, overrides):
    wanted = recipe(*overrides)
    write_set(wanted, tmp_path, count=4, seed=8, shard_size=3, workers=0)
    objects = read_objects(tmp_path)
    given = [simulate_one(wanted, index, 8) for index in range(4)]
    not_stored = ("sky_map", "model", "neighbour_light")
    if wanted.data.labels.noise_free:
        not_stored = ()
    for stored, item in zip(objects, given, strict=True):
        for field in dataclasses.fields(item):
            if field.name in not_stored:
                assert np.isnan(getattr(stored, field.name)).all()
                assert getattr(stored, field.name).shape == item.data.shape
            else:
                assert_same(getattr(stored, field.name), getattr(item, field.name))
    parts = {part.kind for item in given for source in item.sources for part in source.components}
    if wanted.data.kind == "stamp":  # the comparison was worth something
        assert any(item.mask.any() and item.artefacts.any() for item in given)
        assert {"disc", "spiral", "knots"} <= parts
        assert np.array_equal(objects[2].noise_free, given[2].noise_free)
    else:
        assert any(len(item.sources) > 1 for item in given)
        assert_same(objects[0].psf_grid.at(3.0, 70.0), given[0].psf_grid.at(3.0, 70.0))


def test_light_is_not_stored_unless_wanted(made):
    item = read_objects(made, [0])[0]
    assert item.light is None
    assert not {"light", "model", "neighbour_light", "sky_map"} & set(
        shard_schema(recipe(*TINY)).names
    )


def test_objects_in_any_order(made):
    names = [item.id for item in read_objects(made, [10, 2, 2, 7])]
    assert names == ["single-000010", "single-000002", "single-000002", "single-000007"]
    for index in (11, -1):
        with pytest.raises(IndexError, match=f"object {index} of a set of 11"):
            read_objects(made, [index])


def test_record_batches_are_small_and_compressed(tmp_path):
    """About 256 kB of pixels each, and one frame each; a uniform plane takes no room."""
    for overrides, rows in ((("data.shape=[48,48]", *SMALL[1:]), 8), (FRAME, 1)):
        folder = tmp_path / str(rows)
        write_set(recipe(*overrides), folder, count=10 if rows > 1 else 2, workers=0)
        manifest = read_manifest(folder)
        with pa.memory_map(str(folder / manifest.shards[0].file)) as mapped:
            reader = ipc.open_file(mapped)
            lengths = [len(reader.get_batch(i)) for i in range(reader.num_record_batches)]
        ny, nx = manifest.shape
        # data, sigma, labels: 4 bytes; mask, artefacts: 1.
        assert manifest.batch_rows == max(1, 2**18 // (14 * ny * nx))
        assert lengths[0] == manifest.batch_rows
        assert sum(lengths) == manifest.count
        stored = ny * nx * 8 * manifest.count  # data and sigma alone, without compression
        # 12 kB for the schema, twice; 1 kB for the PSF and everything else of an object.
        assert manifest.shards[0].bytes < stored + 12e3 + 1e3 * manifest.count


def test_default_size_of_a_shard(tmp_path):
    """2**20 pixels: here all in one; a large frame is a shard of its own."""
    assert write_set(recipe(*TINY), tmp_path / "a", count=2, workers=0).n_shards == 1
    assert read_manifest(tmp_path / "a").shard_size == 2**20 // 24**2
    assert default_shard_size(recipe("data.shape=[64,64]")) == 256
    assert default_shard_size(recipe("data=frame")) == 1


def test_manifest_and_table_of_sources(made):
    from pyarrow import parquet

    from autofit_ml import __version__
    from autofit_ml.catalogue import table_to_qtable

    manifest = read_manifest(made)
    wanted = recipe(*TINY)
    assert (manifest.count, manifest.seed, manifest.shard_size) == (11, 3, 3)
    assert manifest.recipe == wanted.as_mapping()
    assert manifest.recipe_sha256 == wanted.digest
    assert manifest.versions["autofit_ml"] == __version__
    assert {"galsim", "numpy"} < set(manifest.versions)
    assert [(entry.first, entry.rows) for entry in manifest.shards] == [
        (0, 3),
        (3, 3),
        (6, 3),
        (9, 2),
    ]
    for entry in (*manifest.shards, manifest.sources):
        assert (made / entry.file).stat().st_size == entry.bytes
    expected = source_table([simulate_one(wanted, index, 3) for index in range(11)])
    table = table_to_qtable(parquet.read_table(made / "sources.parquet"))
    assert table.colnames == expected.colnames
    for name in expected.colnames:
        assert table[name].unit == expected[name].unit
        assert np.array_equal(table[name], expected[name], equal_nan=table[name].dtype.kind == "f")
    assert manifest.sources.rows == len(expected)


def test_complete_set_has_no_work_files(made):
    assert sorted(path.name for path in made.rglob("*") if path.is_file()) == [
        "lock",
        "manifest.json",
        *(f"shard-{number:05d}.arrow" for number in range(4)),
        "sources.parquet",
    ]


def test_fits_export(tmp_path):
    """The files of `export_fits`, however many objects; another set replaces them."""
    wanted = recipe(*FULL)
    write_set(wanted, tmp_path / "set", count=3, workers=0, shard_size=2)
    export_fits([simulate_one(wanted, i) for i in range(3)], tmp_path / "given", labels=True)
    calls = []
    out = export_set(
        tmp_path / "set", tmp_path / "out", progress=lambda done, total: calls.append((done, total))
    )
    assert calls == [(0, 3), (3, 3)]
    given = {path.name: path.read_bytes() for path in (tmp_path / "given").iterdir()}
    stored = {path.name: path.read_bytes() for path in out.iterdir()}
    stored.pop(".simulated.json")
    assert stored == given
    stamps = read(out)
    assert [stamp.id for stamp in stamps] == [f"crowded-{i:06d}" for i in range(3)]

    write_set(recipe(*TINY), tmp_path / "other", count=2, workers=0)
    export_set(tmp_path / "other", out)
    assert [stamp.id for stamp in read(out)] == ["single-000000", "single-000001"]
    assert not list(out.glob("crowded*"))


def test_fits_export_leaves_other_files_alone(made, tmp_path):
    (tmp_path / "mine.fits").write_bytes(b"mine")
    with pytest.raises(SettingsError, match="no export of a set"):
        export_set(made, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.fits"]


# --- the same bytes ---------------------------------------------------------------------------


def in_a_light_process(recipe, index, seed):
    item = simulate_one(recipe, index, seed)
    if "torch" in sys.modules or os.environ["OMP_NUM_THREADS"] != "1":
        raise RuntimeError("a worker needs no torch, and no more than one thread")
    return item


def test_workers_do_not_change_a_byte(made, tmp_path):
    calls = []
    summary = write_set(
        recipe(*TINY),
        tmp_path,
        shard_size=3,
        workers=2,
        progress=lambda done, total: calls.append((done, total)),
        make=in_a_light_process,
    )
    assert hashes(tmp_path) == hashes(made)
    manifests = [(folder / "manifest.json").read_text() for folder in (made, tmp_path)]
    names = [json.loads(text)["generator"] for text in manifests]
    assert names[1].endswith("in_a_light_process")
    assert manifests[0].replace(names[0], names[1]) == manifests[1]
    assert summary.n_new == summary.count == 11
    assert calls[0] == (0, 11)
    assert calls[-1] == (11, 11)
    assert calls == sorted(calls)


def test_objects_do_not_depend_on_their_shard(made, tmp_path):
    write_set(recipe(*TINY), tmp_path, count=7, shard_size=5, workers=0)
    for stored, given in zip(read_objects(tmp_path), read_objects(made, range(7)), strict=True):
        assert_same(stored, given)


# --- interruptions ----------------------------------------------------------------------------


def make_and_die(folder: Path, operation: int | None, **options) -> int:
    """Make the set of `TINY` in a fork that kills itself at that file operation; its pid."""
    with warnings.catch_warnings():  # that this process has threads: the fork uses none of them
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid:
        return pid
    left = operation

    def count(event: str, arguments) -> None:
        nonlocal left
        if left is not None and event in ("open", "os.rename", "os.mkdir", "os.remove"):
            left -= str(arguments[0]).startswith(str(folder))
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)
    status = 1
    try:
        write_set(recipe(*TINY), folder, shard_size=3, **options)
        status = 0
    finally:
        os._exit(status)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs POSIX processes")
def test_killed_at_file_operations(made, tmp_path):
    """SIGKILL at any file operation: the same call completes the set, to the byte."""
    rng = random.Random(5)
    folder = tmp_path / "set"
    stages = set()
    for operation in range(1, 68, 9):  # an unbroken run does 67 of them
        for number in (operation, rng.randint(5, 20)):  # the continued run is killed too
            status = os.waitpid(make_and_die(folder, number, workers=0), 0)[1]
            stages.add((len(list(folder.glob("shards/*"))), (folder / "manifest.json").exists()))
            killed = os.waitstatus_to_exitcode(status) == -signal.SIGKILL
            assert killed or (number != operation and status == 0)  # little was left to be done
        write_set(recipe(*TINY), folder, shard_size=3, workers=0)
        assert hashes(folder) == hashes(made)
        assert not list(folder.rglob(".autofit-ml-tmp-*"))
        shutil.rmtree(folder)
    assert len(stages) >= 6, stages


def waits_at_7(recipe, index, seed):
    """For ever, in a worker process."""
    while index == 7 and multiprocessing.parent_process() is not None:
        time.sleep(1)
    return simulate_one(recipe, index, seed)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")
def test_workers_do_not_outlive_a_killed_run(made, tmp_path):
    folder = tmp_path / "set"
    pid = make_and_die(folder, None, workers=1, make=waits_at_7)
    wait_for(lambda: len(list(folder.glob(".work/shard-*"))) >= 2, 60)
    workers = children_of(pid)
    assert workers
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    wait_for(lambda: not any(map(is_running, workers)), 10)
    summary = write_set(recipe(*TINY), folder, shard_size=3, workers=0, make=waits_at_7)
    assert summary.n_new == 5
    assert hashes(folder) == hashes(made)


def children_of(pid):
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return [int(word) for word in file.read().split()]


def is_running(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def wait_for(condition, seconds):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def test_interrupted_run_is_continued(made, tmp_path):
    """What was finished is neither made nor written again."""

    def interrupt(done, total):
        if done == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_set(recipe(*TINY), tmp_path, shard_size=3, workers=0, progress=interrupt)
    with pytest.raises(InputError, match="not finished.*run the same"):
        read_manifest(tmp_path)
    shards = sorted(tmp_path.glob("shards/*"))
    assert [path.name for path in shards] == ["shard-00000.arrow", "shard-00001.arrow"]
    times = [path.stat().st_mtime_ns for path in shards]
    calls = []
    summary = write_set(
        recipe(*TINY),
        tmp_path,
        shard_size=3,
        workers=0,
        progress=lambda done, total: calls.append(done),
    )
    assert calls == [6, 7, 8, 9, 10, 11]
    assert summary.n_new == 5
    assert [path.stat().st_mtime_ns for path in shards] == times
    assert hashes(tmp_path) == hashes(made)


def test_complete_set_is_left_as_it_is(tiny):
    before = {path: path.stat().st_mtime_ns for path in tiny.iterdir() if path.is_file()}
    assert write_set(recipe(*TINY), tiny, shard_size=3, workers=0).n_new == 0
    assert {path: path.stat().st_mtime_ns for path in tiny.iterdir() if path.is_file()} == before


def test_one_run_at_a_time(tmp_path):
    refused = []

    def again(done, total):
        if not refused:
            refused.append(True)
            with pytest.raises(ResumeError, match=rf"another run is writing.*{os.getpid()}"):
                write_set(recipe(*TINY), tmp_path, shard_size=3, workers=0)

    write_set(recipe(*TINY), tmp_path, shard_size=3, workers=0, progress=again)
    assert refused


# --- objects and processes that fail ----------------------------------------------------------


def fails_at_7(recipe, index, seed):
    if index == 7:
        raise ZeroDivisionError("of all things")
    return simulate_one(recipe, index, seed)


def refuses_7(recipe, index, seed):
    if index == 7:
        raise SettingsError("no such galaxy", "another recipe", "some/file")
    return simulate_one(recipe, index, seed)


def dies_at_7(recipe, index, seed):
    if index == 7:
        os.kill(os.getpid(), signal.SIGKILL)
    return simulate_one(recipe, index, seed)


@pytest.mark.parametrize("workers", [0, 1])
def test_object_that_cannot_be_made(tmp_path, workers):
    make = functools.partial(
        write_set, recipe(*TINY), tmp_path, shard_size=3, workers=workers, make=fails_at_7
    )
    with pytest.raises(AutofitError, match="object 7 cannot be made: ZeroDivisionError: of all"):
        make()
    kept = {path.name for path in (tmp_path / "shards").iterdir()}
    # A worker may have gone on with the next shard for a moment.
    assert kept - {"shard-00003.arrow"} == {"shard-00000.arrow", "shard-00001.arrow"}
    assert len(list(tmp_path.glob(".work/shard-*.json"))) == len(kept)


def test_error_of_an_object_keeps_its_kind(tmp_path):
    with pytest.raises(SettingsError, match=r"file: object 7: no such galaxy \(another recipe\)"):
        write_set(recipe(*TINY), tmp_path, shard_size=3, workers=0, make=refuses_7)


def test_worker_that_dies(tmp_path):
    with pytest.raises(AutofitError, match="a worker process died.*the same command continues"):
        write_set(recipe(*TINY), tmp_path, shard_size=3, workers=1, make=dies_at_7)
    assert len(list(tmp_path.glob("shards/shard*"))) == 2


def test_disk_full(made, tmp_path, monkeypatch):
    """Whatever is being written is given up, and what was finished stays."""
    synced = []

    def full(descriptor, fsync=os.fsync):
        synced.append(descriptor)
        if len(synced) == 8:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    with monkeypatch.context() as patched:
        patched.setattr(atomic.os, "fsync", full)
        with pytest.raises(OutputError, match="No space left.*run the same command again"):
            write_set(recipe(*TINY), tmp_path, shard_size=3, workers=0)
    assert not list(tmp_path.rglob(".autofit-ml-tmp-*"))
    summary = write_set(recipe(*TINY), tmp_path, shard_size=3, workers=0)
    assert 0 < summary.n_new < 11
    assert hashes(tmp_path) == hashes(made)


def test_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(SettingsError, match="Not a directory"):
        write_set(recipe(*TINY), tmp_path / "file" / "set", workers=0)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"count": 0}, "count is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"shard_size": 0}, "shard_size is 0"),
        ({"workers": -2}, "workers is -2"),
    ],
)
def test_values_that_make_no_sense(tmp_path, wrong, message):
    with pytest.raises(SettingsError, match=message):
        write_set(recipe(*TINY), tmp_path / "set", **wrong)
    assert not (tmp_path / "set").exists()


# --- other contents of the folder -------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "changes", "message"),
    [
        (("data.target.snr=[20,30]",), {}, r"data.target.snr: \[10.0, 1000.0\] -> \[20.0, 30.0\]"),
        (("survey.noise.read_noise=7.5",), {}, r"survey.noise.read_noise: [\d.]+ -> 7.5"),
        ((), {"seed": 4}, "data.seed: 3 -> 4"),
        ((), {"count": 12}, "data.count: 11 -> 12"),
        ((), {"shard_size": 4}, "shard_size: 3 -> 4"),
        ((), {"make": refuses_7}, r"generator: .*simulate_one' -> .*refuses_7"),
    ],
)
def test_another_set_is_refused(made, overrides, changes, message):
    before = {path: path.stat().st_mtime_ns for path in made.rglob("*.*")}
    with pytest.raises(ResumeError, match=message) as caught:
        write_set(recipe(*TINY, *overrides), made, **{"shard_size": 3, "workers": 0, **changes})
    assert caught.value.problem.count("->") == 1  # nothing else is said to differ
    assert {path: path.stat().st_mtime_ns for path in made.rglob("*.*")} == before


@pytest.mark.parametrize("finished", [True, False])
def test_another_version_is_refused(tiny, finished):
    manifest = json.loads((tiny / "manifest.json").read_text())
    manifest["versions"]["galsim"] = "2.1"
    if finished:
        (tiny / "manifest.json").write_text(json.dumps(manifest))
    else:
        (tiny / "manifest.json").unlink()
        state = {"settings": {name: manifest[name] for name in IDENTITY}, "inputs": {}}
        (tiny / ".work" / "state.json").write_text(json.dumps(state))
    with pytest.raises(ResumeError, match="versions.galsim: '2.1' -> "):
        write_set(recipe(*TINY), tiny, shard_size=3, workers=0)


def test_newer_format_is_refused(tiny):
    shutil.rmtree(tiny / ".work")
    manifest = json.loads((tiny / "manifest.json").read_text())
    (tiny / "manifest.json").write_text(json.dumps(manifest | {"format": 99}))
    with pytest.raises(ResumeError, match="format: 99 -> 1"):
        write_set(recipe(*TINY), tiny, shard_size=3, workers=0)


def test_changed_psf_images_are_refused(tmp_path):
    """The same recipe with other files is another set."""
    (tmp_path / "psfs").mkdir()
    for fwhm in (3.0, 4.0):
        wanted = recipe(*TINY, "survey.psf.kind=folder", f"survey.psf.folder={tmp_path / 'psfs'}")
        fits.writeto(tmp_path / "psfs" / "psf.fits", moffat_psf(fwhm).data, overwrite=True)
        if fwhm == 3.0:
            write_set(wanted, tmp_path / "set", count=1, workers=0)
    with pytest.raises(ResumeError, match=r"inputs\..*psfs: "):
        write_set(wanted, tmp_path / "set", count=1, workers=0)


def test_restart_deletes_only_what_a_run_wrote(tiny):
    (tiny / "notes.txt").write_text("mine")
    (tiny / "shards" / "shard-of-mine.arrow").write_text("mine")
    summary = write_set(recipe(*TINY), tiny, count=2, shard_size=1, workers=0, restart=True)
    assert summary.n_new == 2
    assert sorted(path.name for path in (tiny / "shards").iterdir()) == [
        "shard-00000.arrow",
        "shard-00001.arrow",
        "shard-of-mine.arrow",
    ]
    assert (tiny / "notes.txt").exists()
    assert len(verify_set(tiny).shards) == 2


def test_restart_that_was_killed_is_completed(made, tiny):
    """A half-deleted set is never taken for the beginning of one."""
    (tiny / "manifest.json").unlink()
    (tiny / ".work" / "state.json").write_text('{"settings": {}, "inputs": {}, "clearing": true}')
    write_set(recipe(*TINY, "data.target.snr=[20,30]"), tiny, count=2, workers=0)
    assert len(list(tiny.glob("shards/*"))) == 1
    assert hashes(tiny) != hashes(made)[:1]


@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize("name", ["manifest.json", "sources.parquet", "shards/shard-00000.arrow"])
def test_files_of_others_are_left_alone(tmp_path, name, restart):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("{}")
    with pytest.raises(ResumeError, match="no run of this program"):
        write_set(recipe(*TINY), tmp_path, workers=0, restart=restart)
    assert [found for found in tmp_path.rglob("*") if found.is_file()] == [path]


# --- damage -----------------------------------------------------------------------------------


def test_truncated_shard_is_named_and_made_anew(made, tiny):
    path = tiny / "shards" / "shard-00002.arrow"
    path.write_bytes(path.read_bytes()[:-100])
    assert len(read_objects(tiny, range(6))) == 6  # the others are unaffected
    with pytest.raises(InputError, match=r"shard-00002.arrow: this shard has \d+ bytes instead"):
        read_objects(tiny, [7])
    with pytest.raises(InputError, match=r"damaged: shards/shard-00002.arrow has \d+ bytes"):
        verify_set(tiny)
    assert write_set(recipe(*TINY), tiny, shard_size=3, workers=0).n_new == 3
    assert hashes(tiny) == hashes(made)
    verify_set(tiny)


def test_missing_shard_is_named(tiny):
    (tiny / "shards" / "shard-00001.arrow").unlink()
    with pytest.raises(InputError, match=r"shard-00001.arrow: this shard cannot be read"):
        read_objects(tiny, [4])
    with pytest.raises(InputError, match=r"shards/shard-00001.arrow is missing$|is missing \("):
        verify_set(tiny)


def test_flipped_bit_is_found(tiny):
    """Wherever it is; all the damaged files are named, and no others."""
    rng = random.Random(2)
    for number in (1, 3):
        path = tiny / "shards" / f"shard-{number:05d}.arrow"
        content = bytearray(path.read_bytes())
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        verify_set(tiny)
    assert caught.value.problem == (
        "this set is damaged: shards/shard-00001.arrow has another sha256; "
        "shards/shard-00003.arrow has another sha256"
    )


def test_flipped_bits_never_crash_a_reader(tiny):
    """An object (perhaps with a wrong pixel: only `verify_set` can tell) or an InputError."""
    path = tiny / "shards" / "shard-00000.arrow"
    content = path.read_bytes()
    rng = random.Random(4)
    refused = 0
    for _ in range(300):
        flipped = bytearray(content)
        # Half of them where the structure is: at both ends.
        place = rng.choice([rng.randrange(len(content)), rng.randrange(-3000, 3000)])
        flipped[place] ^= 1 << rng.randrange(8)
        path.write_bytes(flipped)
        try:
            read_objects(tiny, [0, 1, 2])
        except InputError as error:
            refused += error.file == path
    assert refused > 50  # 300 flips, half of them in the structure


def test_shard_of_another_set_is_refused(tiny, tmp_path):
    """Right name and right size are not enough."""
    write_set(recipe(*TINY, "data.labels.light=true"), tmp_path / "o", shard_size=3, workers=0)
    other, path = tmp_path / "o/shards/shard-00000.arrow", tiny / "shards/shard-00000.arrow"
    manifest = json.loads((tiny / "manifest.json").read_text())
    shutil.copy(other, path)
    manifest["shards"][0]["bytes"] = other.stat().st_size
    (tiny / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match="columns are not those of the set"):
        read_objects(tiny, [0])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no set of simulated objects here.*simulate --out"),
        ("{", "cannot be read"),
        ("{}", "not the manifest"),
        ('{"format": 99}', "has format 99.*up to 1.*update"),
    ],
)
def test_manifest_that_cannot_be_used(tmp_path, content, message):
    if content is not None:
        (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(InputError, match=message):
        read_manifest(tmp_path)


def test_reader_can_be_pickled(made):
    reader = ShardReader(made, ["id", "ny"])
    reader.batch(1, 0)  # open files are not pickled
    names, name = pickle.loads(pickle.dumps(reader)).read(
        4, lambda batch, row: (batch.schema.names, batch.column("id")[row].as_py())
    )
    assert names == ["id", "ny"]
    assert name == "single-000004"
