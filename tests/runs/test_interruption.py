"""Whatever stops a run, the same command completes it, and the catalogue is the same."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time

import pytest
from fits_inputs import BAD_KINDS
from results_checks import assert_same_results, catalogue
from table_checks import assert_same_rows

from autofit_ml.catalogue import atomic
from autofit_ml.errors import OutputError
from autofit_ml.runs import FitSettings, Progress, fit_run

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs POSIX processes")

SMALL = FitSettings(workers=0, batch_size=4, segmenter="sep")


def fit(images, out, *more):
    return ["fit", images, "--out", out, "--batch-size", 4, "--segmenter", "sep", *more]


def shards(out):
    return len(list((out / ".work" / "shards").glob("*.parquet")))


def complete(forked_runs, images, out, log, *more):
    """The last run: it succeeds but for the two bad objects."""
    assert forked_runs.run(fit(images, out, *more), log) == 3, log.read_text()


def test_killed_at_file_operations(forked_runs, many_images, unbroken, tmp_path):
    """SIGKILL at random file operations: reading, objects, journals, shards, merging, report."""
    out, log = tmp_path / "out", tmp_path / "log"
    within = os.path.commonpath([many_images, out])
    rng = random.Random(20)
    command = fit(many_images, out, "--workers", 0)
    kills, stages = 0, set()
    while kills < 20:
        status = forked_runs.run(command, log, rng.randint(1, 90), within)
        stages.add((shards(out), (out / "catalog.parquet").exists()))
        if status == -signal.SIGKILL:
            kills += 1
            continue
        assert status == 3, log.read_text()
        assert_same_results(out, unbroken)
        shutil.rmtree(out)
    assert len(stages) >= 6, stages
    complete(forked_runs, many_images, out, log, "--workers", 0)
    assert_same_results(out, unbroken)


def test_killed_at_the_end(forked_runs, many_images, unbroken, tmp_path):
    """SIGKILL at each file operation of merging and reporting."""
    out, log = tmp_path / "out", tmp_path / "log"
    complete(forked_runs, many_images, out, log, "--workers", 0)
    command = fit(many_images, out, "--workers", 0)
    unlinked = ("catalog.parquet", "catalog.fits", "run.json", "report.html")
    kills = 0
    for events in range(1, 200, 4):
        for name in unlinked:
            (out / name).unlink(missing_ok=True)
        killed = forked_runs.run(command, log, events, out) == -signal.SIGKILL
        if not killed:
            break
        kills += 1
        assert shards(out) == 6
    assert 10 <= kills < 40
    complete(forked_runs, many_images, out, log, "--workers", 0)
    assert_same_results(out, unbroken)


@pytest.mark.parametrize(("workers", "kills"), [(0, 10), (2, 3)])
def test_killed_at_moments(forked_runs, many_images, unbroken, tmp_path, workers, kills):
    """SIGKILL after random times; worker processes do not outlive the run."""
    out, log = tmp_path / "out", tmp_path / "log"
    rng = random.Random(workers)
    command = fit(many_images, out, "--workers", workers)
    killed = 0
    for number in range(kills):
        pid = forked_runs.begin(command, log)
        if workers:  # at least until they have begun to read
            wait_for(more_shards_than(shards(out), out), 30)
            time.sleep(rng.uniform(0.0, 0.3))
        else:
            time.sleep(rng.uniform(0.02, 0.5))
        children = children_of(pid)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        killed += forked_runs.end() == -signal.SIGKILL
        wait_for(lambda pids=children: not any(map(is_running, pids)), 10)
        if number == 0:
            assert killed == 1
            assert bool(children) == bool(workers)
    assert killed >= kills // 2
    complete(forked_runs, many_images, out, log, "--workers", workers)
    assert_same_results(out, unbroken)


def more_shards_than(before, out):
    return lambda: shards(out) > before or (out / "run.json").exists()


def children_of(pid):
    try:
        with open(f"/proc/{pid}/task/{pid}/children") as file:
            return [int(word) for word in file.read().split()]
    except OSError:
        return []


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


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signal_once(forked_runs, many_images, unbroken, tmp_path, number):
    """The running batch is finished and saved; the message says how to go on."""
    out, log = tmp_path / "out", tmp_path / "log"
    pid = forked_runs.begin(fit(many_images, out, "--workers", 0), log)
    wait_for(lambda: shards(out) >= 1, 30)
    os.kill(pid, number)
    assert forked_runs.end() == 130
    text = log.read_text()
    done = shards(out)
    assert 1 <= done < 6
    assert "stopping after this batch" in text
    assert f"interrupted after {4 * done} objects" in text
    assert f"to go on: autofit-ml fit {many_images} --out {out} --batch-size 4" in text
    assert not (out / "catalog.parquet").exists()
    complete(forked_runs, many_images, out, log, "--workers", 0)
    assert f"{4 * done} done by an earlier run" in log.read_text()
    assert_same_results(out, unbroken)


def wait_for_text(log, text):
    wait_for(lambda: log.exists() and text in log.read_text(), 30)


@pytest.mark.parametrize("workers", [0, 2])
def test_ctrl_c_twice(forked_runs, many_images, unbroken, tmp_path, workers):
    """It stops within the batch; what was finished before is kept."""
    out = tmp_path / "out"
    command = [
        "fit",
        many_images,
        "--out",
        out,
        "--batch-size",
        24,
        "--workers",
        workers,
        "--segmenter",
        "sep",
    ]
    for seconds in (0.05, 0.15, 0.3):
        log = tmp_path / f"log{seconds}"
        pid = forked_runs.begin(command, log)
        wait_for_text(log, "24 inputs")
        time.sleep(seconds)
        os.kill(pid, signal.SIGINT)
        wait_for_text(log, "stopping after this batch")
        began = time.monotonic()
        for _ in range(4):  # the third and further ones find nothing to interrupt
            os.kill(pid, signal.SIGINT)
            time.sleep(0.01)
        assert forked_runs.end() == 130
        assert time.monotonic() - began < 5
        text = log.read_text()
        if "interrupted after 0 objects" not in text:  # the first came before the batch began
            break
    assert "stopped at once" in text
    assert f"to go on: autofit-ml fit {many_images}" in text
    assert "Traceback" not in text
    assert shards(out) == 0
    complete(forked_runs, many_images, out, log, "--workers", 0)
    assert_same_results(out, unbroken)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_to_all_processes(many_images, unbroken, tmp_path, number):
    """Ctrl-C goes to all processes of the terminal, SIGTERM of a cluster to all of the job."""
    out = tmp_path / "out"
    command = [sys.executable, "-m", "autofit_ml", *map(str, fit(many_images, out))]
    run = subprocess.Popen(
        [*command, "--workers", "2"],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    wait_for(lambda: shards(out) >= 1, 60)
    os.killpg(run.pid, number)
    _, text = run.communicate(timeout=60)
    assert run.returncode == 130, text
    assert "Traceback" not in text
    assert "leaked" not in text
    assert "to go on:" in text
    fit_run(many_images, out, SMALL)
    assert_same_results(out, unbroken)


# --- full disk --------------------------------------------------------------------------------


def test_full_disk(forked_runs, many_images, unbroken, tmp_path):
    """A real one: a file system of 1 MB."""
    disk, log = tmp_path / "disk", tmp_path / "log"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("mounting a small file system is not permitted here")
    try:
        out = disk / "out"
        assert forked_runs.run(fit(many_images, out, "--workers", 0), log) == 1
        text = log.read_text()
        assert "No space left" in text
        assert "free some space" in text
        assert "run the same command again to continue" in text
        assert "Traceback" not in text
        assert not [path for path in out.rglob("*") if "tmp" in path.name]
        done = shards(out)
        assert 1 <= done < 6
        subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
        complete(forked_runs, many_images, out, log, "--workers", 0)
        assert f"{4 * done} done by an earlier run" in log.read_text()
        assert_same_results(out, unbroken)
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.mark.parametrize("at", [1, 2, 10, 14, 15, 80, 81, 82, 83])
def test_no_space_at_any_write(many_images, unbroken, tmp_path, monkeypatch, at):
    """ENOSPC in the middle of the n-th file: state, objects, shard, catalogue, run.json, report."""
    written = 0
    replace = os.replace

    def full(source, target):
        nonlocal written
        written += 1
        if written >= at:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace(source, target)

    monkeypatch.setattr(atomic.os, "replace", full)
    out = tmp_path / "out"
    with pytest.raises(OutputError, match="No space left") as caught:
        fit_run(many_images, out, SMALL)
    assert "free some space" in caught.value.remedy
    assert caught.value.file is not None
    monkeypatch.undo()
    fit_run(many_images, out, SMALL)
    assert_same_results(out, unbroken)


def test_file_size_limit(forked_runs, many_images, tmp_path):
    """RLIMIT_FSIZE: what a quota on single files does."""
    code = (
        "import resource, signal, sys\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000))\n"
        "from autofit_ml.cli import main\n"
        "main()\n"
    )
    assert resource.RLIMIT_FSIZE is not None
    command = [*map(str, fit(many_images, tmp_path / "out", "--workers", 0))]
    done = subprocess.run(
        [sys.executable, "-c", code, *command], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 1, done.stderr
    assert "File too large" in done.stderr
    assert "ulimit -f" in done.stderr
    assert "Traceback" not in done.stderr


# --- workers that die -------------------------------------------------------------------------


class Killer(Progress):
    """Kills the worker processes when the first batch is done."""

    def __init__(self):
        self.stages = []
        self.killed = 0

    def batch(self, n_sources, rows):
        import multiprocessing

        if self.killed == 0:
            for child in multiprocessing.active_children():
                os.kill(child.pid, signal.SIGKILL)
                self.killed += 1

    def stage(self, text):
        self.stages.append(text)


def test_killed_workers_are_replaced(many_images, unbroken, tmp_path):
    killer = Killer()
    settings = FitSettings(workers=1, batch_size=2, segmenter="sep")
    summary = fit_run(many_images, tmp_path / "out", settings, progress=killer)
    assert killer.killed == 1
    assert any("worker process died" in text for text in killer.stages)
    assert_same_rows(summary.table, catalogue(unbroken))


def test_object_that_kills_its_worker_fails_alone(many_images):
    """The job of the workers kills its process when it comes to one object."""
    from deadly_job import DEADLY, read_or_die

    from autofit_ml.images import discover
    from autofit_ml.runs.jobs import Ahead
    from autofit_ml.runs.prepare import READ
    from autofit_ml.runs.sources import batches

    sources = discover(many_images).sources[:12]
    settings = FitSettings(workers=1, batch_size=6, segmenter="sep")
    job = dataclasses.replace(READ, do=read_or_die)
    with batches(sources, settings, job, Ahead()) as found:
        parts = [part for _, part in found]
    assert [name for part in parts for name in part.order] == [s.id for s in sources]
    failures = [failure for part in parts for failure in part.failures]
    dead = next(failure for failure in failures if failure.id == DEADLY)
    assert "died" in dead.message
    assert f"{DEADLY}_image.fits" in dead.message
    assert "(" in dead.message
    assert {failure.id for failure in failures} == {DEADLY, "all-nan"}
    assert "all-nan" in BAD_KINDS


@pytest.mark.parametrize("batch_size", [1, 8])
def test_object_that_kills_the_process_comes_last_and_is_given_up(
    images, tmp_path, monkeypatch, batch_size
):
    """A library crashes at one object, in the process itself: every call dies of it."""
    from deadly_job import DEADLY, read_or_die

    from autofit_ml.runs import fit
    from autofit_ml.runs.prepare import READ

    shutil.copy(next(images.glob("*.fits")), images / f"{DEADLY}.fits")
    monkeypatch.setattr(fit, "READ", dataclasses.replace(READ, do=read_or_die))
    settings = FitSettings(workers=0, batch_size=batch_size, segmenter="sep", save=())
    done = []
    for _ in range(6):
        child = os.fork()
        if child == 0:
            with contextlib.suppress(BaseException):
                fit_run(images, tmp_path / "out", settings)
            os._exit(0)
        died = os.WIFSIGNALED(os.waitpid(child, 0)[1])
        done.append(shards(tmp_path / "out"))
        if not died:
            break
    # The second call gets everything else done; then it is tried alone, three times in all.
    assert done[1] == done[2] == max(done) - 1
    rows = {row["id"]: row for row in catalogue(tmp_path / "out").to_pylist()}
    assert {name for name, row in rows.items() if row["status"] == "failed"} == {DEADLY}
    assert "died 3 times" in rows[DEADLY]["message"]
    assert "--workers 0" not in rows[DEADLY]["message"]


def test_workers_that_never_start(many_images, monkeypatch):
    """Then this process reads; no object is blamed."""
    from autofit_ml.images import discover
    from autofit_ml.runs import workers as module
    from autofit_ml.runs.jobs import Ahead
    from autofit_ml.runs.prepare import READ
    from autofit_ml.runs.sources import batches

    monkeypatch.setattr(module, "_begin_worker", os._exit)
    told = Killer()
    sources = discover(many_images).sources[:5]
    settings = FitSettings(workers=1, batch_size=2, segmenter="sep")
    with batches(sources, settings, READ, Ahead(progress=told)) as found:
        parts = [part for _, part in found]
    assert sum(len(part.order) for part in parts) == 5
    assert [f.id for part in parts for f in part.failures] == ["all-nan"]
    assert any("going on without them" in text for text in told.stages)


def test_script_without_a_main_guard(many_images, tmp_path):
    """The workers do not run the user's script again."""
    script = tmp_path / "script.py"
    script.write_text(
        "import autofit_ml as afm\n"
        "print('ran')\n"
        f"table = afm.fit({str(many_images)!r}, workers=1, save='none')\n"
        "print(len(table))\n"
    )
    done = subprocess.run(
        [sys.executable, script],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.stdout.split() == ["ran", "24"], done.stderr


def test_workers_import_no_torch_and_use_one_thread(monkeypatch):
    from deadly_job import surroundings

    from autofit_ml.runs.workers import Pool

    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    main = sys.modules["__main__"]
    pool = Pool(1)
    try:
        found = pool.submit(surroundings).result()
    finally:
        pool.close()
    assert found["heavy"] == []
    assert found["threads"] == "1"
    # This process is as it was.
    assert os.environ["OMP_NUM_THREADS"] == "7"
    assert "MKL_NUM_THREADS" not in os.environ
    assert sys.modules["__main__"] is main


def test_default_number_of_workers(monkeypatch, tmp_path):
    from autofit_ml.images import Source
    from autofit_ml.runs import sources
    from autofit_ml.runs import workers as module
    from autofit_ml.runs.fitted import FittingTask, fit_job
    from autofit_ml.runs.prepare import READ
    from autofit_ml.runs.results import each

    fitting, nothing = fit_job(FittingTask((), "cpu", None), FitSettings()), each(lambda *_: [])

    def useful(number, segmenter, job, device="cpu", path="a.fits"):
        some = [Source(str(k), {"image": (str(tmp_path / path), None)}) for k in range(number)]
        settings = FitSettings(segmenter=segmenter, device=device)
        return sources.useful_workers(some, settings, job)

    (tmp_path / "large.fits").write_bytes(bytes(9_000_000))
    for processors, workers in ((1, 1), (2, 1), (4, 2), (64, 4)):
        here = set(range(processors))
        monkeypatch.setattr(module.os, "sched_getaffinity", lambda _, here=here: here)
        assert useful(63, "sep", READ) == useful(127, "auto", nothing) == 0
        assert useful(64, "sep", READ) == useful(64, "auto", READ) == workers
        assert useful(128, "auto", nothing) == min(processors, 8)
        assert useful(127, "given", fitting) == 0
        assert useful(128, "given", fitting) == min(processors, 16)
        assert useful(1, "auto", fitting, path="large.fits") == min(processors, 16)
    monkeypatch.setattr(sources, "usable_device", lambda _: "cuda")
    assert useful(500, "auto", nothing, "auto") == 0  # the GPU is the main process's
    assert useful(500, "sep", nothing, "auto") == useful(500, "auto", READ, "auto") == 4
    assert sources.useful_workers([], FitSettings(workers=3), READ) == 3


def test_what_workers_have_begun_is_saved_when_a_run_stops(many_images, unbroken, tmp_path):
    """The first Ctrl-C: tasks that no worker has begun are left, the others come to their end."""

    class Stopping(Progress):
        def batch(self, number, rows):
            if self.seen == 0:
                signal.raise_signal(signal.SIGINT)
            self.seen += len(rows["id"])

        seen = 0

    told = Stopping()
    settings = FitSettings(workers=1, batch_size=2, segmenter="sep")
    summary = fit_run(many_images, tmp_path / "out", settings, progress=told)
    assert summary.interrupted
    assert 0 < told.seen < len(catalogue(unbroken))
    summary = fit_run(many_images, tmp_path / "out", settings)
    assert not summary.interrupted
    assert_same_rows(summary.table, catalogue(unbroken))


def test_complete_parts_are_given_out_as_they_are(many_images):
    """Joined to a batch, a frame's first part would count as the whole frame."""
    from autofit_ml.images import discover
    from autofit_ml.runs.jobs import Ahead
    from autofit_ml.runs.prepare import READ
    from autofit_ml.runs.sources import batches

    sources = discover(many_images).sources[:12]
    settings = FitSettings(workers=0, batch_size=256, segmenter="sep")
    job = dataclasses.replace(READ, complete=True, per_task=4)
    ahead = Ahead()
    with batches(sources, settings, job, ahead) as parts:
        assert len(next(parts)[0]) == 4
        ahead.stop.set()
        assert list(parts) == []


def test_batches_are_not_kept(many_images, tmp_path, monkeypatch):
    """Memory does not grow with the number of objects: a batch is gone when the next is read."""
    import gc
    import weakref

    from autofit_ml.runs import fit
    from autofit_ml.runs.prepare import READ, read_objects

    alive: weakref.WeakSet = weakref.WeakSet()
    counts = []

    def watched(sources, settings):
        gc.collect()
        counts.append(len(alive))
        part = read_objects(sources, settings)
        for stamp in part.stamps:
            alive.add(_Held(stamp))
        return part

    class _Held:
        """An object that lives as long as a stamp."""

        def __init__(self, stamp):
            object.__setattr__(stamp, "_held", self)

    monkeypatch.setattr(fit, "READ", dataclasses.replace(READ, do=watched))
    fit_run(
        many_images,
        tmp_path / "out",
        FitSettings(workers=0, batch_size=4, save=(), segmenter="sep"),
    )
    assert len(counts) == 6
    assert max(counts) <= 4
