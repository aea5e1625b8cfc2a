"""Tasks whose workers die: done again alone, in the end given up, and nothing else is lost."""

from __future__ import annotations

import functools
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import dask
import pytest
from distributed import Client, KilledWorker, LocalCluster, get_worker

from autofit_ml.errors import OutputError
from autofit_ml.images import Source
from autofit_ml.settings import FitSettings
from autofit_ml.survey import engine
from autofit_ml.survey.cells import cell_path
from autofit_ml.survey.context import Survey
from autofit_ml.survey.images import Cell
from autofit_ml.survey.plan import TileJob
from autofit_ml.survey.sky import tiling
from autofit_ml.survey.tiles import TileOutcome, failures

SKY = tiling("healpix:12")
WINDOW = (0, 64, 0, 64)
CELLS = [
    Cell(Source(name, {"image": (Path(f"{name}.fits"), None)}), 0, WINDOW, WINDOW, (64, 64))
    for name in "abc"
]
JOBS = [TileJob(tile, (CELLS[tile // 2],)) for tile in range(6)]


def workers() -> LocalCluster:
    """Two workers in this process."""
    return LocalCluster(
        n_workers=2, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0"
    )


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    """Of two workers in this process."""
    with workers() as cluster, Client(cluster, set_as_default=False) as one:
        yield one


@pytest.fixture
def run(client, tmp_path, monkeypatch) -> Callable[..., list[TileOutcome]]:
    """Do all tiles while what is named dies so many times; ``log`` has what began and ended."""

    def survey(**deaths: int) -> list[TileOutcome]:
        log = tmp_path / "log"

        def said(text: str) -> None:
            with log.open("a") as file:
                file.write(f"{text}\n")

        def die(name: str) -> None:
            said(f"began {name}")
            left = tmp_path / f"{name}.deaths"
            number = int(left.read_text()) if left.exists() else deaths.get(name, 0)
            if number:
                left.write_text(str(number - 1))
                worker = get_worker()
                raise KilledWorker(
                    worker.get_current_task(), SimpleNamespace(address=worker.address), 3
                )

        def cell_task(survey: str, cell: Cell) -> str:
            die(cell.source.id)
            path = cell_path(tmp_path, cell)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
            said(f"ended {cell.source.id}")
            return cell.name

        def tile_task(survey: str, job: TileJob, cells: list[str]) -> TileOutcome:
            name = f"t{job.tile}"
            die(name)
            time.sleep(0.03)
            said(f"ended {name}")
            there = cell_path(tmp_path, job.cells[0]).exists()
            return TileOutcome(SKY.name(job.tile), objects=int(there), new=True)

        monkeypatch.setattr(engine, "cell_task", cell_task)
        monkeypatch.setattr(engine, "tile_task", tile_task)
        about = Survey(tmp_path, "detect", FitSettings(), SKY, 120.0, 1.0)
        return list(engine.on_workers(client, about, iter(JOBS), threading.Event()))

    return survey


def began(folder: Path) -> list[str]:
    """Tasks in the order in which they began."""
    return [line[6:] for line in (folder / "log").read_text().splitlines() if line[:5] == "began"]


def test_a_blamed_tile_is_done_alone_in_the_end(run, tmp_path):
    found = run(t1=2, t4=1)
    assert sorted(one.name for one in found) == [SKY.name(job.tile) for job in JOBS]
    assert not any(one.problem for one in found)
    lines = (tmp_path / "log").read_text().splitlines()
    firsts = max(lines.index(f"ended t{tile}") for tile in (0, 2, 3, 5))
    for tile, deaths in ((1, 2), (4, 1)):
        tries = [k for k, line in enumerate(lines) if line == f"began t{tile}"]
        assert len(tries) == deaths + 1
        assert tries[1] > firsts  # all else is done
        assert lines[tries[-1] + 1] == f"ended t{tile}"  # nothing began meanwhile
    assert failures(tmp_path, "tiles") == {}


def test_a_tile_that_always_kills_is_given_up(run, tmp_path):
    found = run(t3=99)
    assert sorted(one.name for one in found) == [SKY.name(job.tile) for job in JOBS]
    assert {one.name for one in found if one.problem} == {SKY.name(3)}
    assert began(tmp_path).count("t3") == 3
    assert "died: out of memory" in failures(tmp_path, "tiles")[SKY.name(3)]


@pytest.mark.parametrize("deaths", [2, 99])
def test_a_cell_that_kills_costs_its_image_only(run, tmp_path, deaths):
    """Its tiles wait; they go on with it when it is done, without it when it is given up."""
    found = run(b=deaths)
    assert sorted(one.name for one in found) == [SKY.name(job.tile) for job in JOBS]
    assert not any(one.problem for one in found)
    assert began(tmp_path).count("b") == 3
    without = {one.name for one in found if not one.objects}
    assert without == ({SKY.name(2), SKY.name(3)} if deaths == 99 else set())
    assert set(failures(tmp_path, "images")) == ({"b.0"} if deaths == 99 else set())


def test_results_that_die_with_their_worker(tmp_path, monkeypatch):
    """Tiles are done, and the worker that can say so dies before it is asked."""

    def tile_task(survey: str, job: TileJob, cells: list[str]) -> TileOutcome:
        mark = tmp_path / f"{job.tile}.done"
        time.sleep(0.3 * mark.exists())
        mark.touch()
        return TileOutcome(SKY.name(job.tile))

    monkeypatch.setattr(engine, "cell_task", lambda survey, cell: cell.name)
    monkeypatch.setattr(engine, "tile_task", tile_task)
    about = Survey(tmp_path, "detect", FitSettings(), SKY, 120.0, 1.0)
    with workers() as cluster, Client(cluster, set_as_default=False) as client:
        flow = engine.on_workers(client, about, iter(JOBS), threading.Event())
        found = [next(flow)]
        while len(list(tmp_path.glob("*.done"))) < len(JOBS):
            time.sleep(0.01)
        time.sleep(0.1)
        cluster.sync(cluster.workers[0].close, nanny=False)
        found += flow
    assert sorted(one.name for one in found) == [SKY.name(job.tile) for job in JOBS]
    assert not any(one.problem for one in found)


def test_workers_that_are_gone_are_replaced(tmp_path, monkeypatch):
    """Nobody starts them again where starting failed, or took long."""
    monkeypatch.setattr(engine, "_COUNT_WORKERS", 0.2)
    monkeypatch.setattr(engine, "_LEAST_AHEAD", 1)
    monkeypatch.setattr(engine, "_AHEAD", 1)
    monkeypatch.setattr(engine, "cell_task", lambda survey, cell: cell.name)
    monkeypatch.setattr(
        engine, "tile_task", lambda survey, job, cells: TileOutcome(SKY.name(job.tile))
    )
    about = Survey(tmp_path, "detect", FitSettings(), SKY, 120.0, 1.0)
    stop = threading.Event()
    with (
        dask.config.set({"distributed.deploy.lost-worker-timeout": "0.1s"}),
        workers() as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        replace = functools.partial(cluster.scale, 2)
        flow = engine.on_workers(client, about, iter(JOBS), stop, replace)
        found = [next(flow)]
        for one in list(cluster.workers.values()):
            cluster.sync(one.close, nanny=False)
        timer = threading.Timer(20.0, stop.set)
        timer.start()
        found += flow
        timer.cancel()
    assert sorted(one.name for one in found) == [SKY.name(job.tile) for job in JOBS]


@pytest.mark.parametrize("error", [ValueError("no such row"), OutputError("is full", "", "out")])
def test_a_mistake_is_not_tried_again(client, tmp_path, monkeypatch, error):
    """Anything but a death is the tile's own failure at once; a full disk ends the survey."""

    def tile_task(survey: str, job: TileJob, cells: list[str]) -> TileOutcome:
        if job.tile == 2:
            raise error
        return TileOutcome(SKY.name(job.tile))

    monkeypatch.setattr(engine, "cell_task", lambda survey, cell: cell.name)
    monkeypatch.setattr(engine, "tile_task", tile_task)
    about = Survey(tmp_path, "detect", FitSettings(), SKY, 120.0, 1.0)
    flow = engine.on_workers(client, about, iter(JOBS), threading.Event())
    if isinstance(error, OutputError):
        with pytest.raises(OutputError, match="is full"):
            list(flow)
        assert failures(tmp_path, "tiles") == {}
        return
    assert sorted(one.name for one in flow) == [SKY.name(job.tile) for job in JOBS]
    assert failures(tmp_path, "tiles").keys() == {SKY.name(2)}


def test_processes_take_the_devices_in_turn(tmp_path, monkeypatch):
    """Set before anything of CUDA is loaded; workers that others started keep what they have."""
    plugin = engine._setup(Survey(tmp_path, "detect", FitSettings(), SKY, 120.0, 1.0))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    interrupt = signal.getsignal(signal.SIGINT)
    for gpus, name, expected in ((None, 3, "7"), ("0", 3, "7"), ("2", 3, "1"), ("2", 4, "0")):
        if gpus is not None:
            monkeypatch.setenv("AUTOFIT_ML_GPUS", gpus)
        plugin.setup(SimpleNamespace(name=name))
        assert os.environ["CUDA_VISIBLE_DEVICES"] == expected
        ignored = signal.signal(signal.SIGINT, interrupt) is signal.SIG_IGN
        assert ignored == (gpus is not None)
