"""Tasks over processes and machines, by dask.distributed.

The scheduler holds a few tasks for each worker and no more, whatever the size of the survey: a tile
is submitted with the cells that are not done yet as its dependencies, its result is a few bytes,
and everything about it is released when it has arrived.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import queue
import signal
import threading
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from autofit_ml.errors import AutofitError, OutputError, SettingsError
from autofit_ml.extras import needs
from autofit_ml.runs.workers import processors
from autofit_ml.survey.cells import cell_path
from autofit_ml.survey.context import Survey
from autofit_ml.survey.images import Cell
from autofit_ml.survey.plan import TileJob
from autofit_ml.survey.tiles import (
    TileOutcome,
    do_cell,
    do_tile,
    failure_path,
    write_failure,
)

if TYPE_CHECKING:
    from distributed import Client, Future

__all__ = ["connected", "in_this_process", "on_workers"]

_AHEAD = 4
"""Tiles that the scheduler holds for each worker."""

_LEAST_AHEAD = 16
_TRIES = 3
"""A task that has been blamed so often for the death of workers (of four, each time) failed."""

_AT_ONCE = 1000
_LONG, _SHORT = 10.0, 2.0
"""Results that are fetched together at most; seconds to wait for them, and then for each: a worker
may be dead."""

_PATIENCE = 0.5
"""Seconds until a wait for results looks whether the survey is to stop."""

_COUNT_WORKERS = 5.0
"""Seconds after which workers are counted again: those of a batch system come and go."""

_SLOW_START = "60s"
"""After which a process that does not answer is lost; a busy machine starts one in half of it."""

Replace = Callable[[], object]


def in_this_process(
    survey: Survey, jobs: Iterator[TileJob], stop: threading.Event
) -> Iterator[TileOutcome]:
    """Do tiles one after the other, without a scheduler: for job arrays and small surveys."""
    for job in jobs:
        if stop.is_set():
            return
        yield do_tile(survey, job)


# --- workers ----------------------------------------------------------------------------------


@contextlib.contextmanager
def connected(scheduler: str, workers: int, survey: Survey) -> Iterator[tuple[Client, Replace]]:
    """A client of a scheduler; workers that were started for it end with the context.

    Parameters
    ----------
    scheduler : str
        local: processes of this machine, one for each processor or GPU. slurm: jobs as dask's
        configuration (``jobqueue.slurm``) describes them. Else the address of a scheduler.
    workers : int
        How many, where they are started here; -1: as many as the machine has processors (GPUs).
    survey : Survey

    Yields
    ------
    client : Client
    replace : callable
        Starts workers anew that are lost, where they were started here.

    Raises
    ------
    SettingsError
        The scheduler cannot be reached, or a package is not installed.
    """
    with needs("survey", "a survey on several processes"):
        import dask
        from distributed import Client

    calm = {
        "distributed.worker.memory.target": False,
        "distributed.worker.memory.spill": False,
        "distributed.worker.memory.pause": False,
        "distributed.scheduler.work-stealing": True,
        "distributed.deploy.lost-worker-timeout": _SLOW_START,
        "distributed.admin.system-monitor.gil.enabled": False,
    }
    with contextlib.ExitStack() as held:
        held.enter_context(dask.config.set(calm))
        held.enter_context(_silent("distributed.client"))
        target: Any = scheduler
        replace: Replace = _nothing
        if scheduler in ("local", "slurm"):
            target, replace = (
                _local(workers, survey.device) if scheduler == "local" else _slurm(workers)
            )
            held.enter_context(target)
        try:
            client = held.enter_context(Client(target, set_as_default=False))
        except (OSError, ValueError) as error:
            raise SettingsError(
                f"no scheduler answers at {scheduler}: {error}",
                "use local, slurm or the address that dask scheduler prints (tcp://...:8786)",
            ) from error
        client.register_plugin(_setup(survey))
        yield client, replace


@contextlib.contextmanager
def _silent(name: str) -> Iterator[None]:
    """No traceback of a library where we say ourselves what is wrong."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(level)


def _nothing() -> None:
    """Workers that others have started are theirs."""


def _local(workers: int, device: str) -> tuple[Any, Replace]:
    """Processes of this machine, one thread each; with GPUs one process for each of them."""
    from distributed import LocalCluster

    gpus = 0
    if device == "cuda":
        import torch

        gpus = torch.cuda.device_count()
    number = workers if workers > 0 else gpus or processors()
    cluster = LocalCluster(
        n_workers=number,
        threads_per_worker=1,
        processes=True,
        dashboard_address="127.0.0.1:0",  # None means port 8787, which another survey may have
        silence_logs=50,
        env={"AUTOFIT_ML_GPUS": str(gpus)},
    )
    return cluster, functools.partial(cluster.scale, number)


def _slurm(workers: int) -> tuple[Any, Replace]:
    """Jobs of a batch system; those that its time limit ends are replaced."""
    with needs("survey", "a survey on Slurm"):
        from dask_jobqueue import SLURMCluster

    try:
        # One process of one thread a job, unless dask's configuration says otherwise.
        cluster = SLURMCluster(**_defaults("slurm", cores=1, processes=1, memory="4GB"))
    except (ValueError, TypeError) as error:
        raise SettingsError(
            f"Slurm jobs cannot be described: {error}",
            "describe them in dask's configuration (jobqueue.slurm: queue, account, walltime, ...)",
        ) from error
    replace = functools.partial(cluster.scale, jobs=max(1, workers))
    replace()
    return cluster, replace


def _defaults(kind: str, **values: Any) -> dict[str, Any]:
    """Values that dask's configuration does not give."""
    import dask

    return {
        name: value
        for name, value in values.items()
        if dask.config.get(f"jobqueue.{kind}.{name}", None) is None
    }


def _setup(survey: Survey) -> Any:
    """The plugin that hands the survey to every worker, those that come later too."""
    from distributed import WorkerPlugin

    class SurveyOnWorker(WorkerPlugin):
        name = plugin_name(survey)
        idempotent = False

        def __init__(self) -> None:
            self.survey = survey

        def setup(self, worker: Any) -> None:
            mine = os.environ.get("AUTOFIT_ML_GPUS")  # only our own processes have it
            if mine is not None and threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the command alone
            gpus = int(mine or 0)
            if gpus and str(worker.name).isdigit():  # before anything of CUDA is loaded
                os.environ["CUDA_VISIBLE_DEVICES"] = str(int(worker.name) % gpus)

    return SurveyOnWorker()


def plugin_name(survey: Survey) -> str:
    """Under which workers know a survey."""
    return f"autofit-ml {survey.out}"


def _survey_of(name: str) -> Survey:
    from distributed import get_worker

    plugin: Any = get_worker().plugins[name]
    survey: Survey = plugin.survey
    return survey


def cell_task(name: str, cell: Cell) -> str:
    """`do_cell` on a worker."""
    return do_cell(_survey_of(name), cell)


def tile_task(name: str, job: TileJob, cells: list[str]) -> TileOutcome:
    """`do_tile` on a worker, when its cells are done."""
    return do_tile(_survey_of(name), job)


# --- the flow of tasks ------------------------------------------------------------------------


class _Flow:
    """Tiles under way on workers, and the cells that they wait for."""

    def __init__(self, client: Client, survey: Survey) -> None:
        self.client, self.survey = client, survey
        self.run = uuid.uuid4().hex[:8]
        self.finished: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.tiles: dict[str, tuple[Future, TileJob, list[str]]] = {}
        self.cells: dict[str, Future] = {}
        self.users: Counter[str] = Counter()
        self.tries: Counter[str] = Counter()
        self.blamed: defaultdict[str, set[str]] = defaultdict(set)
        self.suspects: list[TileJob] = []
        self.again: list[TileJob] = []

    def submit(self, job: TileJob) -> None:
        """Hand a tile to the scheduler, with those of its cells that nobody has done."""
        out, survey = self.survey.out, plugin_name(self.survey)
        waited = []
        for cell in job.cells:
            known = self.cells.get(cell.name)
            if known is None or known.cancelled():
                if cell_path(out, cell).exists() or failure_path(out, "images", cell.name).exists():
                    continue
                self.cells[cell.name] = self._task(cell_task, f"cell-{cell.name}", survey, cell)
            waited.append(cell.name)
        self.users.update(waited)
        futures = [self.cells[name] for name in waited]
        name = self.survey.sky.name(job.tile)
        future = self._task(tile_task, f"tile-{name}", survey, job, futures)
        self.tiles[str(future.key)] = future, job, waited
        future.add_done_callback(lambda done: self.finished.put(str(done.key)))

    def _task(self, function: Callable[..., Any], name: str, *arguments: Any) -> Future:
        self.tries[name] += 1
        key = f"{name}-{self.run}-{self.tries[name]}"
        return self.client.submit(function, *arguments, key=key, pure=False)

    def next(self) -> list[TileOutcome]:
        """Outcomes of the tiles that have ended, once there is one within a moment.

        They are fetched together: one after the other each would cost its way to a worker and back.
        """
        ended: list[str] = []
        with contextlib.suppress(queue.Empty):
            ended.append(self.finished.get(timeout=_PATIENCE))
            while len(ended) < _AT_ONCE:
                ended.append(self.finished.get_nowait())
        known = [self.tiles.pop(key) for key in ended if key in self.tiles]  # others: cancelled
        fetched = self._fetched([future for future, _, _ in known if future.status == "finished"])
        outcomes = []
        for future, job, waited in known:
            outcome = fetched.get(str(future.key)) or self._outcome(future, job)
            if outcome is not None:
                outcomes.append(outcome)
            for name in waited:
                self.users[name] -= 1
                if self.users[name] <= 0:
                    del self.users[name]
                    self.cells.pop(name, None)
        return outcomes

    def _fetched(self, futures: list[Future]) -> dict[str, TileOutcome]:
        """Results by their keys; empty where one of them fails: then each is asked for."""
        if not futures:
            return {}
        try:
            results = self.client.sync(
                lambda: self.client.gather(futures, asynchronous=True), callback_timeout=_LONG
            )
        except Exception:
            return {}
        return dict(zip((str(one.key) for one in futures), results, strict=True))

    def _outcome(self, future: Future, job: TileJob) -> TileOutcome | None:
        """Outcome of a tile; None where it is to be done again, or looked for on the disk."""
        from distributed import CancelledError, KilledWorker, TimeoutError

        if future.status == "error":
            return self._failed(future.exception(), job)
        reason = ""
        try:
            if future.status in ("finished", "cancelled"):
                return future.result(_SHORT)
        except KilledWorker as error:
            return self._failed(error, job)
        except (OSError, TimeoutError, CancelledError) as error:
            reason = getattr(error, "reason", "")
        if self.client.status != "running" or reason == "scheduler-connection-lost":
            raise OutputError(
                "the scheduler is gone; what was finished is kept",
                "run the same command again",
                self.survey.out,
            )
        self.again.append(job)  # the worker that held the result died, or the scheduler forgot it
        return None

    def _failed(self, error: BaseException, job: TileJob) -> TileOutcome | None:
        """Record what killed its workers; None where the tile is tried again.

        A death is put down to everything that waited on the worker: what is blamed is done again,
        alone, when all else is done.
        """
        from distributed import KilledWorker

        if isinstance(error, AutofitError):
            raise error
        out, name = self.survey.out, self.survey.sky.name(job.tile)
        message = f"unexpected {type(error).__name__}: {error}"
        if isinstance(error, KilledWorker):
            message = (
                "the processes that did it died: out of memory, or a crash in a library (give "
                "workers more memory, or leave the image out)"
            )
        culprit = str(getattr(error, "task", ""))
        cells = [one for one in job.cells if culprit.startswith(f"cell-{one.name}-{self.run}")]
        blamed = f"cell-{cells[0].name}" if cells else f"tile-{name}"
        if cells:
            self.cells.pop(cells[0].name, None)
        self.blamed[blamed].add(culprit)
        if isinstance(error, KilledWorker) and len(self.blamed[blamed]) < _TRIES:
            self.suspects.append(job)
            return None
        if cells:
            if not cell_path(out, cells[0]).exists():
                write_failure(out, "images", cells[0].name, message)
            self.again.append(job)
            return None
        write_failure(out, "tiles", name, message)
        return TileOutcome(name, problem=message)

    def stop(self) -> None:
        """Cancel what no worker has begun."""
        begun = {str(key) for keys in self.client.processing().values() for key in keys}
        waiting = [key for key in self.tiles if key not in begun]
        self.client.cancel([self.tiles[key][0] for key in waiting])
        for key in waiting:
            del self.tiles[key]


def on_workers(
    client: Client,
    survey: Survey,
    jobs: Iterator[TileJob],
    stop: threading.Event,
    replace: Replace = _nothing,
) -> Iterator[TileOutcome]:
    """Do tiles on the workers of a scheduler; outcomes in the order in which they come.

    `replace` is called now and then, and starts workers for those that are lost.

    Raises
    ------
    OutputError
        The disk is full, or the scheduler is gone.
    WeightsError
        Weights cannot be used.
    """
    flow = _Flow(client, survey)
    counted, ahead = 0.0, _LEAST_AHEAD
    stopping = False
    while True:
        if time.monotonic() - counted > _COUNT_WORKERS:
            counted = time.monotonic()
            replace()
            ahead = max(_LEAST_AHEAD, _AHEAD * len(client.scheduler_info(n_workers=-1)["workers"]))
        while len(flow.tiles) < ahead and not stop.is_set():
            job = flow.again.pop() if flow.again else next(jobs, None)
            if job is None:
                break
            flow.submit(job)
        if not flow.tiles and flow.suspects and not stop.is_set():
            flow.submit(flow.suspects.pop())
        if not flow.tiles:
            return
        if stop.is_set() and not stopping:
            stopping = True
            flow.stop()
        yield from flow.next()
