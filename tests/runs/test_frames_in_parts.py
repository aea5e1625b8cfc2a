"""Very large frames: their stamps come a batch at a time, and an interruption costs one batch."""

from __future__ import annotations

import dataclasses
import json
import signal

import numpy as np
import pytest

from autofit_ml.catalogue import read_catalogue_arrow
from autofit_ml.runs import FitSettings, Progress, fit_run, sources
from autofit_ml.runs.prepare import joined, prepare, prepare_in_parts
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
    monkeypatch.setattr(sources, "_BYTES_PER_TASK", 0)


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
    whole = prepare(sources, frame[1])
    parts = list(prepare_in_parts(sources, frame[1]))
    assert len(whole.order) > 10
    assert [len(part.order) for part in parts[:-1]] == [5] * (len(parts) - 1)
    assert all(part.unfinished == {sources[0].id} for part in parts[:-1])
    assert parts[-1].unfinished == frozenset()
    assert joined(parts).order == whole.order
    rest = list(prepare_in_parts(sources, frame[1], done=set(whole.order[:7])))
    assert joined(rest).order == whole.order[7:]


def test_exactly_full_last_part_is_finished(frame):
    sources = sources_of(frame)
    number = len(prepare(sources, frame[1]).order)
    settings = frame[1].replace(batch_size=number)
    (only,) = prepare_in_parts(sources, settings)
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


def test_workers_leave_large_frames_to_the_main_process(frame, large, tmp_path):
    folder, settings = frame
    alone = fit_run(folder, None, settings).table
    with_worker = fit_run(folder, None, dataclasses.replace(settings, workers=1)).table
    same(with_worker, alone)


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
