"""Runs without a catalogue have a run folder too: they go on, and refuse what is not theirs."""

from __future__ import annotations

import json
import signal
import threading

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from fits_inputs import galaxy, write_object
from weights_bundles import add_deconvolve_bundle

from autofit_ml.errors import ResumeError
from autofit_ml.runs import FitSettings, Progress, fit_run
from autofit_ml.runs.deconvolve import deconvolve_run
from autofit_ml.runs.interruption import interruptible
from autofit_ml.runs.segment import segment_run
from autofit_ml.settings import DeconvolveSettings, SegmentSettings

pytestmark = pytest.mark.filterwarnings("ignore::autofit_ml.errors.AutofitWarning")


@pytest.fixture
def folder(tmp_path):
    """Three galaxies and a file that cannot be read."""
    path = tmp_path / "images"
    path.mkdir()
    for number in range(3):
        write_object(path, f"g{number}", image=galaxy(seed=number))
    (path / "broken.fits").write_bytes(b"nothing of use")
    return path


class Crash(Progress):
    """Ends a run when so many objects are said to be done."""

    def __init__(self, objects):
        self.left = objects

    def batch(self, n_sources, rows):
        self.left -= n_sources
        if self.left <= 0:
            raise RuntimeError("crash")


def segmented(folder, out, **options):
    restart, progress = options.pop("restart", False), options.pop("progress", None)
    given = {"segmenter": "sep", "batch_size": 2, "workers": 0, "pictures": False}
    return segment_run(
        folder, out, SegmentSettings(**given | options), restart=restart, progress=progress
    )


def deconvolved(folder, out, **options):
    root = out.parent / "weights"
    if not root.exists():
        add_deconvolve_bundle(root, "deconvolve/galaxies-any@0.1.0")
    restart, progress = options.pop("restart", False), options.pop("progress", None)
    given = {"segmenter": "sep", "batch_size": 2, "workers": 0, "pictures": False,
             "samples": 2, "steps": 4, "prior": False,
             "weights": str(root / "deconvolve/galaxies-any@0.1.0")}  # fmt: skip
    return deconvolve_run(
        folder, out, DeconvolveSettings(**given | options), restart=restart, progress=progress
    )


RUNS = {
    "segment": (segmented, "instances.ecsv", "_seg.fits", {"gain": 2.5}, "gain: None -> 2.5"),
    "deconvolve": (deconvolved, "sharp.ecsv", ".fits", {"seed": 3}, "seed: 0 -> 3"),
}


@pytest.mark.parametrize("kind", RUNS)
def test_a_stopped_run_goes_on(kind, folder, tmp_path):
    run, table, ending, _, _ = RUNS[kind]
    whole = run(folder, tmp_path / "whole")
    assert (whole.n_objects, whole.n_ok, whole.n_failed, whole.exit_status) == (4, 3, 1, 3)
    out = tmp_path / "out"
    with pytest.raises(RuntimeError, match="crash"):  # objects are told when they are saved
        run(folder, out, progress=Crash(1))
    assert len(list((out / ".work").rglob("0*.json"))) == 1  # the batch that was finished
    again = run(folder, out)
    assert again.n_new == 2
    assert (again.n_objects, again.failures) == (4, whole.failures)
    assert run(folder, out).n_new == 0
    one, other = (Table.read(path / table) for path in (out, tmp_path / "whole"))
    assert one.colnames == other.colnames
    for name in one.colnames:
        assert np.array_equal(one[name], other[name], equal_nan=one[name].dtype.kind == "f"), name
    for path in (tmp_path / "whole").glob(f"*{ending}"):
        assert np.array_equal(fits.getdata(path), fits.getdata(out / path.name)), path


@pytest.mark.parametrize("kind", RUNS)
def test_workers_change_nothing(kind, folder, tmp_path):
    run, table, _, _, _ = RUNS[kind]
    for name, workers in (("here", 0), ("there", 1)):
        run(folder, tmp_path / name, workers=workers)
    assert (tmp_path / "here" / table).read_text() == (tmp_path / "there" / table).read_text()


@pytest.mark.parametrize("kind", RUNS)
def test_another_run_is_refused_until_restart(kind, folder, tmp_path):
    run, table, ending, changed, says = RUNS[kind]
    out = tmp_path / "out"
    run(folder, out)
    (out / "mine.txt").write_text("mine")
    with pytest.raises(ResumeError, match=says):
        run(folder, out, **changed)
    for path in folder.glob("g2_*"):
        path.unlink()
    with pytest.raises(ResumeError, match="1 removed: g2"):
        run(folder, out)
    assert run(folder, out, **changed, restart=True).n_new == 3
    assert not (out / f"g2{ending}").exists()
    assert (out / "mine.txt").exists()


@pytest.mark.parametrize("kind", RUNS)
def test_files_of_the_user_are_not_overwritten(kind, folder, tmp_path):
    run, table, ending, _, _ = RUNS[kind]
    for name in (table, f"g1{ending}"):
        out = tmp_path / name.replace(".", "_")
        out.mkdir()
        (out / name).write_text("mine")
        for restart in (False, True):
            with pytest.raises(ResumeError, match="no run of this program left there"):
                run(folder, out, restart=restart)
        assert [path.name for path in out.iterdir()] == [name]


def test_labels_beside_the_images_are_no_input(folder):
    """A second run goes on, though the first has put labels among the images."""
    assert segmented(folder, folder).n_new == 4
    assert segmented(folder, folder).n_new == 0
    state = json.loads((folder / ".work" / "segment" / "state.json").read_text())
    assert "seg" not in state["inputs"]["g0"]


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_signals_stop_after_the_batch_and_then_at_once(name):
    number = getattr(signal, name)
    before = signal.getsignal(number)
    said = []
    progress = Progress()
    progress.stopping = lambda: said.append(name)
    with interruptible(progress) as stop:
        assert not stop.is_set()
        signal.raise_signal(number)
        assert stop.is_set() and said == [name]
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)
    assert signal.getsignal(number) is before


def test_signals_of_others_are_left_alone():
    """What a caller handles or ignores (nohup) is the caller's."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with interruptible(Progress()) as stop:
            signal.raise_signal(signal.SIGHUP)
            assert not stop.is_set()
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_thread_cannot_be_interrupted():
    found = []

    def work():
        with interruptible(Progress()) as stop:
            found.append(stop.is_set())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [False]


def test_what_a_killed_run_left_half_written_is_removed(folder, tmp_path):
    """In every folder that a run writes into."""
    out = tmp_path / "out"
    settings = FitSettings(workers=0, segmenter="sep")
    fit_run(folder, out, settings)
    places = [path for path in (out, *out.rglob("*")) if path.is_dir()]
    assert {path.name for path in places} >= {"out", ".work", "shards", "thumbs", "objects"}
    for place in places:
        (place / ".autofit-ml-tmp-1-a").write_text("half")
    fit_run(folder, out, settings)
    assert not list(out.rglob(".autofit-ml-tmp-*"))
