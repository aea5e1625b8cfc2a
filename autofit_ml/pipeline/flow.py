"""`fit_run`: the loop over batches, from paths to a results folder."""

from __future__ import annotations

import itertools
import json
import os
import platform
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import metadata
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from autofit_ml.catalogue import (
    Flag,
    atomic_write_bytes,
    atomic_write_json,
    merge_shards,
    object_fits_bytes,
    rows_to_table,
    write_shard,
)
from autofit_ml.errors import OutputError, SettingsError
from autofit_ml.images import Source, discover
from autofit_ml.images.stamp import Stamp
from autofit_ml.pipeline.prepare import Failure, Prepared, ignore_interrupts, prepare
from autofit_ml.pipeline.resume import (
    RUN_FILE,
    ResultsFolder,
    open_results,
    source_fingerprints,
)
from autofit_ml.pipeline.rows import catalogue_rows
from autofit_ml.pipeline.settings import FitSettings
from autofit_ml.refine import FitResults, RefineSettings, refine
from autofit_ml.report import preview_png, thumbnail, write_report
from autofit_ml.scene import sersic
from autofit_ml.segment import Segmentation

__all__ = ["Progress", "RunSummary", "fit_run"]

_SOURCES_PER_TASK = 16
"""Sources that a worker process prepares at a time."""


@dataclass
class Progress:
    """What a run tells its caller; every method may be overridden, none needs to be."""

    def begin(self, n_sources: int, n_done: int, ignored: Sequence[tuple[Path, str]]) -> None:
        """Before the first batch: sources in all, sources done by an earlier run."""

    def batch(self, n_sources: int, rows: dict[str, np.ndarray]) -> None:
        """After a batch: sources in it, and their rows."""

    def stage(self, text: str) -> None:
        """Something that takes a moment begins."""


@dataclass
class RunSummary:
    """How a run ended.

    Attributes
    ----------
    out : Path or None
    table : pyarrow.Table or None
        The catalogue; None when the run was interrupted.
    n_objects, n_ok, n_flagged, n_failed : int
        Rows of this and earlier parts of the run: all; without a fatal flag; with one; failed.
    n_new : int
        Rows made by this call.
    interrupted : bool
    seconds : float
    report : Path or None
    """

    out: Path | None
    table: pa.Table | None = None
    n_objects: int = 0
    n_ok: int = 0
    n_flagged: int = 0
    n_failed: int = 0
    n_new: int = 0
    interrupted: bool = False
    seconds: float = 0.0
    report: Path | None = None
    ignored: list[str] = field(default_factory=list)

    @property
    def exit_status(self) -> int:
        """0 all objects ok; 3 some failed; 1 nothing could be fitted; 130 interrupted."""
        if self.interrupted:
            return 130
        if self.n_objects == self.n_failed:
            return 1
        return 3 if self.n_failed else 0


def fit_run(
    paths: str | Path | Iterable[str | Path] | None,
    out: str | Path | None = None,
    settings: FitSettings | None = None,
    *,
    manifest: str | Path | None = None,
    restart: bool = False,
    progress: Progress | None = None,
) -> RunSummary:
    """Fit everything in `paths`.

    Parameters
    ----------
    paths : path or iterable of paths, or None
        Files, folders, globs; None with a manifest.
    out : path, optional
        Results folder; a run that stopped there is continued. None: nothing is written.
    settings : FitSettings, optional
    manifest : path, optional
        Table of objects.
    restart : bool
        Begin anew in a folder that holds results.
    progress : Progress, optional

    Returns
    -------
    RunSummary

    Raises
    ------
    SettingsError
        Nothing to fit, or a setting that makes no sense; `ResumeError` for a folder that belongs
        to another run.
    OutputError
        Results cannot be written; what is finished is kept and the run can be resumed.
    """
    began = time.perf_counter()
    settings = settings or FitSettings()
    progress = progress or Progress()
    found = discover(paths, manifest=manifest, survey=settings.read.survey, mode=settings.read.mode)
    identity = settings.identity() | {"autofit_ml": _version("autofit-ml")}
    folder = None
    if out is not None:
        folder = open_results(out, identity, source_fingerprints(found.sources), restart=restart)
    todo = [s for s in found.sources if folder is None or s.id not in folder.done]
    progress.begin(len(found), len(found) - len(todo), found.ignored)

    device = _device(settings.device)
    tables: list[pa.Table] = []
    n_new, interrupted = 0, False
    with _interruptible() as stop:
        for batch, prepared in _prepared_batches(todo, settings, stop):
            rows = _fit_batch(prepared, settings, device, folder)
            n_new += len(prepared.order)
            if folder is not None:
                _save_shard(folder, batch, rows, prepared, identity)
            else:
                tables.append(rows_to_table(rows))
            progress.batch(len(batch), rows)
            if stop.is_set():
                break
        interrupted = stop.is_set()

    summary = RunSummary(
        None if folder is None else folder.path, n_new=n_new, interrupted=interrupted
    )
    summary.ignored = [f"{path}: {why}" for path, why in found.ignored]
    if interrupted:
        summary.seconds = time.perf_counter() - began
        return summary
    if folder is None:
        table = pa.concat_tables(tables) if tables else None
    else:
        progress.stage("writing the catalogue")
        table = _finish(folder, found.sources, settings, identity, began, device)
        if "report" in settings.save:
            progress.stage("writing the report")
            summary.report = write_report(folder.path)
    summary.table = table
    if table is not None:
        status = np.asarray(table.column("status").to_pylist())
        use = np.asarray(table.column("use").to_pylist(), dtype=bool)
        summary.n_objects = len(status)
        summary.n_failed = int((status == "failed").sum())
        summary.n_ok = int(use.sum())
        summary.n_flagged = summary.n_objects - summary.n_failed - summary.n_ok
    summary.seconds = time.perf_counter() - began
    return summary


# --- batches ----------------------------------------------------------------------------------


def _prepared_batches(
    sources: Sequence[Source], settings: FitSettings, stop: threading.Event
) -> Iterator[tuple[list[Source], Prepared]]:
    """Batches of sources, read and segmented, in order; worker processes run ahead by two."""
    size = settings.batch_size
    batches = [list(sources[i : i + size]) for i in range(0, len(sources), size)]
    workers = settings.workers
    if workers < 0:
        workers = 0 if len(sources) < 64 else min(4, os.cpu_count() or 1)
    if workers == 0:
        for batch in batches:
            if stop.is_set():
                return
            yield batch, prepare(batch, settings)
        return
    with ProcessPoolExecutor(
        workers, mp_context=get_context("spawn"), initializer=ignore_interrupts
    ) as pool:
        ahead: deque[tuple[list[Source], list[Future[Prepared]]]] = deque()
        coming = iter(batches)
        while not stop.is_set():
            for batch in itertools.islice(coming, max(0, 3 - len(ahead))):
                tasks = [
                    pool.submit(prepare, batch[i : i + _SOURCES_PER_TASK], settings)
                    for i in range(0, len(batch), _SOURCES_PER_TASK)
                ]
                ahead.append((batch, tasks))
            if not ahead:
                return
            batch, tasks = ahead.popleft()
            yield batch, _joined([task.result() for task in tasks])
        pool.shutdown(wait=False, cancel_futures=True)


def _joined(parts: list[Prepared]) -> Prepared:
    from autofit_ml.initialise import Starts

    starts = [part.starts for part in parts if part.starts is not None]
    hashes: dict[str, str] = {}
    for part in parts:
        hashes.update(part.hashes)
    return Prepared(
        [s for part in parts for s in part.stamps],
        [s for part in parts for s in part.segmentations],
        Starts(
            np.concatenate([s.values for s in starts]),
            None,
            np.concatenate([s.flags for s in starts]),
            starts[0].method,
        )
        if starts
        else None,
        [f for part in parts for f in part.failures],
        {name: ids for part in parts for name, ids in part.objects.items()},
        hashes,
        sum(part.seconds for part in parts),
    )


def _fit_batch(
    prepared: Prepared, settings: FitSettings, device: str, folder: ResultsFolder | None
) -> dict[str, np.ndarray]:
    """Fit one batch and write its pictures and files; rows of the catalogue."""
    began = time.perf_counter()
    keep_models = folder is not None and bool(settings.save)
    results = None
    if prepared.stamps:
        try:
            results = _refine(prepared, settings, device, keep_models)
        except Exception as error:  # find the object that breaks the batch; keep the others
            prepared, results = _one_by_one(prepared, settings, device, keep_models, error)
    seconds = prepared.seconds + time.perf_counter() - began
    rows = catalogue_rows(prepared, results, settings, 1e3 * seconds / max(1, len(prepared.order)))
    if folder is not None and results is not None and settings.save:
        _save_pictures(folder, prepared, results, rows, settings)
    return rows


def _refine(prepared: Prepared, settings: FitSettings, device: str, models: bool) -> FitResults:
    return refine(
        prepared.stamps,
        sersic(settings.sky_value),
        prepared.starts,
        prepared.segmentations,
        RefineSettings(device=device),
        models=models,
    )


def _one_by_one(
    prepared: Prepared, settings: FitSettings, device: str, models: bool, error: Exception
) -> tuple[Prepared, FitResults | None]:
    """The batch without the objects on which the refiner breaks; those fail with the reason."""
    import dataclasses

    starts = prepared.starts
    if starts is None:
        raise error
    good: list[int] = []
    failures = list(prepared.failures)
    for i, stamp in enumerate(prepared.stamps):
        single = dataclasses.replace(
            prepared,
            stamps=[stamp],
            segmentations=[prepared.segmentations[i]],
            starts=dataclasses.replace(
                starts, values=starts.values[i : i + 1], flags=starts.flags[i : i + 1]
            ),
        )
        try:
            _refine(single, settings, device, False)
            good.append(i)
        except Exception as reason:  # the reason goes into the row
            failures.append(
                Failure(
                    stamp.id,
                    stamp.file,
                    f"unexpected {type(reason).__name__} in the fit: {reason} "
                    "(this is a bug: please report it with the file)",
                )
            )
    rest = dataclasses.replace(
        prepared,
        stamps=[prepared.stamps[i] for i in good],
        segmentations=[prepared.segmentations[i] for i in good],
        starts=dataclasses.replace(starts, values=starts.values[good], flags=starts.flags[good])
        if good
        else None,
        failures=failures,
    )
    return rest, (_refine(rest, settings, device, models) if good else None)


# --- writing ----------------------------------------------------------------------------------


def _save_pictures(
    folder: ResultsFolder,
    prepared: Prepared,
    results: FitResults,
    rows: dict[str, np.ndarray],
    settings: FitSettings,
) -> None:
    place = {name: i for i, name in enumerate(prepared.order)}
    kinds = set(settings.save)
    with _naming(folder.path):
        for name, wanted in (("objects", "objects"), ("previews", "previews")):
            if wanted in kinds:
                (folder.path / name).mkdir(exist_ok=True)
        (folder.work / "thumbs").mkdir(exist_ok=True)
    for k, (stamp, segmentation) in enumerate(
        zip(prepared.stamps, prepared.segmentations, strict=True)
    ):
        i = place[stamp.id]
        row = {name: column[i] for name, column in rows.items() if name != "cov"}
        _save_object(folder, stamp, segmentation, results, k, row, kinds)


def _save_object(
    folder: ResultsFolder,
    stamp: Stamp,
    segmentation: Segmentation,
    results: FitResults,
    k: int,
    row: dict[str, Any],
    kinds: set[str],
) -> None:
    ok = row["status"] == "ok" and results.models is not None
    model = residual = component = None
    if ok and results.models is not None:
        component = results.models[k]
        model = component + np.float32(row["sky"])
        residual = stamp.data - model
    mask = stamp.mask | segmentation.contaminants
    if "objects" in kinds:
        payload = object_fits_bytes(
            data=stamp.data,
            sigma=stamp.sigma,
            mask=mask,
            row=row,
            model=model,
            residual=residual,
            labels=segmentation.labels,
            target=segmentation.target,
            components=[] if component is None else [component],
            wcs=stamp.wcs,
            origin=stamp.origin,
        )
        atomic_write_bytes(folder.path / "objects" / f"{stamp.id}.fits", payload, fsync=False)
    if "previews" in kinds:
        picture = preview_png(
            stamp.data,
            model,
            residual,
            stamp.sigma,
            mask,
            segmentation.labels,
            segmentation.target,
            row,
            stamp.pixel_scale,
            origin=stamp.origin,
        )
        atomic_write_bytes(folder.path / "previews" / f"{stamp.id}.png", picture, fsync=False)
    if "report" in kinds:
        small = thumbnail(stamp.data, model, residual, stamp.sigma, mask, sky=float(row["sky"]))
        atomic_write_bytes(folder.work / "thumbs" / f"{stamp.id}.jpg", small, fsync=False)


def _save_shard(
    folder: ResultsFolder,
    batch: list[Source],
    rows: dict[str, np.ndarray],
    prepared: Prepared,
    identity: dict[str, Any],
) -> None:
    """The batch's rows, then its journal. The shard alone makes the batch count as done."""
    shard = folder.next_shard()
    about = {"autofit_ml": str(identity["autofit_ml"]), "settings": json.dumps(identity)}
    journal = {"objects": prepared.objects, "hashes": prepared.hashes}
    # The journal first: it means nothing without its shard.
    atomic_write_json(shard.with_suffix(".json"), journal)
    write_shard(shard, rows, about)
    folder.shards.append(shard)
    for source in batch:
        folder.done[source.id] = int(shard.stem)


def _finish(
    folder: ResultsFolder,
    sources: Sequence[Source],
    settings: FitSettings,
    identity: dict[str, Any],
    began: float,
    device: str,
) -> pa.Table:
    """Merge the shards into the catalogue and write run.json."""
    hashes: dict[str, str] = {}
    objects: dict[str, list[str]] = {}
    for shard in folder.shards:
        journal = json.loads(shard.with_suffix(".json").read_text())
        hashes.update(journal["hashes"])
        objects.update(journal["objects"])
    order = [name for source in sources for name in objects[source.id]]
    table = merge_shards(folder.shards, folder.path, order)
    seconds = float(np.nansum(table.column("time_ms").to_numpy())) / 1e3
    status = table.column("status").to_pylist()
    flags = np.asarray(table.column("flags").to_numpy())
    atomic_write_json(
        folder.path / RUN_FILE,
        {
            "versions": {
                "python": platform.python_version(),
                **{
                    name: _version(name)
                    for name in ("autofit-ml", "torch", "numpy", "scipy", "astropy", "sep")
                },
            },
            "settings": identity,
            "execution": {
                "device": device,
                "batch_size": settings.batch_size,
                "workers": settings.workers,
                "platform": platform.platform(),
            },
            "weights": {},
            "inputs": dict(sorted(hashes.items())),
            "counts": {
                "objects": len(status),
                "failed": status.count("failed"),
                "flags": {
                    flag.name: int(((flags & int(flag)) != 0).sum())
                    for flag in Flag
                    if (flags & int(flag)).any()
                },
            },
            "timings": {
                "object_seconds": seconds,
                "last_call_seconds": time.perf_counter() - began,
                "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            },
        },
    )
    return table


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "unknown"


def _device(choice: str) -> str:
    import torch

    if choice == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if choice == "cuda" and not torch.cuda.is_available():
        raise SettingsError("no CUDA device is available", "use --device cpu or auto")
    return choice


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"cannot be written: {error.strerror or error}",
            "free space or fix the permissions, then run the same command to continue",
            path,
        ) from error


@contextmanager
def _interruptible() -> Iterator[threading.Event]:
    """An event that the first Ctrl-C sets; a second one interrupts at once."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    previous: Callable | int | None = signal.getsignal(signal.SIGINT)

    def handler(signum, frame):
        if stop.is_set():
            signal.signal(signal.SIGINT, previous)
            raise KeyboardInterrupt
        stop.set()

    signal.signal(signal.SIGINT, handler)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, previous)
