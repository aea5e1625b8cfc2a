"""Very large frames: their stamps come a batch at a time, and an interruption costs one batch."""

from __future__ import annotations

import dataclasses
import json
import signal

import numpy as np
import pytest

from autofit_ml.catalogue import read_catalogue_arrow
from autofit_ml.runs import FitSettings, Progress, fit_run, sources
from autofit_ml.runs.prepare import Objects, read_in_parts, read_objects
from autofit_ml.simulation import compose_recipe, export_fits, simulate_one


@pytest.fixture(scope="module")
def frame(tmp_path_factory):
    """A folder with one small frame, and settings."""
    folder = tmp_path_factory.mktemp("frame") / "images"
    recipe = compose_recipe(
        ["data=frame", "data.shape=[300,320]", "data.neighbours.magnitude=[15,20.5]"]
    )
    export_fits([simulate_one(recipe, 0, 4)], folder)
    settings = FitSettings(mode="frame", workers=0, batch_size=5, segmenter="sep", save="none")
    return folder, settings


@pytest.fixture
def large(monkeypatch):
    """Every file counts as very large."""
    monkeypatch.setattr(sources, "_BYTES_IN_PARTS", 0)


def same(one, two):
    left, right = (table.drop_columns(["time_ms"]).to_pandas() for table in (one, two))
    assert list(left["id"]) == list(right["id"])
    for name in ("x", "flux", "re", "n", "chi2"):
        np.testing.assert_array_equal(left[name], right[name])


def sources_of(frame):
    from autofit_ml.images import discover

    return discover(frame[0], mode="frame").sources


def test_parts_together_are_the_whole(frame):
    sources = sources_of(frame)
    whole = read_objects(sources, frame[1])
    parts = list(read_in_parts(sources, frame[1]))
    assert len(whole.order) > 10
    assert [len(part.order) for part in parts[:-1]] == [5] * (len(parts) - 1)
    assert all(part.unfinished == {sources[0].id} for part in parts[:-1])
    assert parts[-1].unfinished == frozenset()
    assert Objects.joined(parts).order == whole.order
    rest = list(read_in_parts(sources, frame[1], done=set(whole.order[:7])))
    assert Objects.joined(rest).order == whole.order[7:]


def test_exactly_full_last_part_is_finished(frame):
    sources = sources_of(frame)
    number = len(read_objects(sources, frame[1]).order)
    settings = frame[1].replace(batch_size=number)
    (only,) = read_in_parts(sources, settings)
    assert only.unfinished == frozenset()


class StopAfter(Progress):
    """Ends the run as a crash would, after some batches."""

    def __init__(self, number):
        self.left = number

    def batch(self, n_sources, rows):
        self.left -= 1
        if not self.left:
            raise RuntimeError("crash")


def test_interrupted_frame_goes_on_where_it_stopped(frame, large, tmp_path):
    folder, settings = frame
    unbroken = fit_run(folder, tmp_path / "one", settings).table
    with pytest.raises(RuntimeError, match="crash"):
        fit_run(folder, tmp_path / "two", settings, progress=StopAfter(2))
    shards = sorted((tmp_path / "two" / ".work" / "shards").glob("*.json"))
    assert len(shards) == 2
    assert all(json.loads(path.read_text())["unfinished"] for path in shards)
    summary = fit_run(folder, tmp_path / "two", settings)
    assert summary.n_new == len(unbroken) - 10
    same(summary.table, unbroken)
    same(read_catalogue_arrow(tmp_path / "two"), unbroken)
    assert fit_run(folder, tmp_path / "two", settings).n_new == 0


def test_workers_fit_what_the_main_process_reads_of_a_frame(frame, large, tmp_path):
    """The same rows to the last bit, saved in parts, of which none is done again."""
    folder, settings = frame
    alone = fit_run(folder, None, settings).table
    workers = dataclasses.replace(settings, workers=2)
    with pytest.raises(RuntimeError, match="crash"):
        fit_run(folder, tmp_path / "out", workers, progress=StopAfter(2))
    went_on = fit_run(folder, tmp_path / "out", workers)
    assert went_on.n_new == len(alone) - 10
    same(went_on.table, alone)


def test_object_of_a_frame_that_kills_its_worker_fails_alone(frame, large):
    from deadly_job import fit_or_die

    from autofit_ml.runs.fitted import FittingTask, fit_job
    from autofit_ml.runs.jobs import Ahead
    from autofit_ml.runs.sources import batches

    settings = dataclasses.replace(frame[1], workers=1, segmenter="sep", init="moments")
    job = fit_job(FittingTask((), "cpu", None), settings)
    job = dataclasses.replace(job, rest=fit_or_die)
    with batches(sources_of(frame), settings, job, Ahead()) as found:
        parts = list(found)
    rows = [row for _, part in parts for row in zip(*part.rows.values(), strict=True)]
    columns = list(parts[0][1].rows)
    status = {row[columns.index("id")]: row[columns.index("status")] for row in rows}
    assert [len(ended) for ended, _ in parts] == [0] * (len(parts) - 1) + [1]
    dead = [name for name, state in status.items() if state == "failed"]
    assert [name.rpartition("@")[2] for name in dead] == ["07"]
    message = next(row for row in rows if row[columns.index("id")] == dead[0])
    assert "died" in message[columns.index("message")]


class StopsAfter(Progress):
    """Ctrl-C when some objects are done."""

    def __init__(self, objects):
        self.objects, self.batches = objects, []

    def batch(self, n_sources, rows):
        self.batches.append((n_sources, len(rows["id"])))
        if sum(number for _, number in self.batches) >= self.objects:
            signal.raise_signal(signal.SIGTERM)


def test_any_frame_is_saved_in_parts(frame, tmp_path):
    """Small ones too: what is finished is there after SIGTERM in the midst of it, and is not redone."""
    images, settings = frame
    whole = fit_run(images, tmp_path / "whole", settings)
    progress = StopsAfter(7)
    stopped = fit_run(images, tmp_path / "out", settings, progress=progress)
    assert stopped.interrupted
    assert progress.batches == [(0, 5), (0, 5)]
    assert stopped.n_new == 10
    went_on = fit_run(images, tmp_path / "out", settings)
    assert went_on.n_new == whole.n_objects - 10
    same(went_on.table, whole.table)
