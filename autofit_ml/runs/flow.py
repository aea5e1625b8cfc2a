"""`fit_run`: the loop over batches, from paths to a results folder."""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from autofit_ml.catalogue import rows_to_table
from autofit_ml.devices import usable_device
from autofit_ml.errors import SettingsError
from autofit_ml.images import Discovery, Source, discover
from autofit_ml.initialisation.dispatch import check_initialiser
from autofit_ml.runs.batches import prepared_batches
from autofit_ml.runs.resume import (
    ResultsFolder,
    is_result,
    open_results,
    source_fingerprints,
)
from autofit_ml.runs.settings import FitSettings
from autofit_ml.runs.summary import Progress, RunSummary
from autofit_ml.segmentation.dispatch import check_segmenter

__all__ = ["fit_run", "fit_sources", "inputs_of", "run_identity"]


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
        Files, folders, globs; None with a manifest, or for the images that a GALFIT file names.
        What an earlier run wrote is left out.
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
    KeyboardInterrupt
        Interrupted twice: the running batch is lost, what was finished before is kept.
    """
    began = time.perf_counter()
    settings = settings or FitSettings()
    progress = progress or Progress()
    found = inputs_of(paths, manifest, settings)
    identity, used = run_identity(settings, found, progress)
    with contextlib.ExitStack() as stack:
        folder = None
        if out is not None:
            fingerprints = source_fingerprints(found.sources)
            claim = open_results(out, identity, fingerprints, restart=restart)
            folder = stack.enter_context(claim)
        todo = [s for s in found.sources if folder is None or s.id not in folder.done]
        progress.begin(len(found), len(found) - len(todo), found.ignored)
        summary = RunSummary(None if folder is None else folder.path)
        summary.ignored = [f"{path}: {why}" for path, why in found.ignored]
        stop = stack.enter_context(_interruptible(progress))
        tables, device = fit_sources(
            todo, settings, found.bands, folder, identity, progress, stop, summary
        )
        summary.interrupted = stop.is_set()
        if not summary.interrupted:
            if folder is None:
                summary.count(pa.concat_tables(tables))
            else:
                _finish(folder, found, settings, identity, used, began, device, progress, summary)
    summary.seconds = time.perf_counter() - began
    return summary


def inputs_of(
    paths: str | Path | Iterable[str | Path] | None,
    manifest: str | Path | None,
    settings: FitSettings,
) -> Discovery:
    """What is to be fitted; results of runs that lie among the images are no images."""
    read = settings.read
    if paths is None and manifest is None and settings.galfit is not None:
        from autofit_ml.runs.galfit_inputs import galfit_inputs
        from autofit_ml.runs.model import galfit_file

        if settings.bands:
            raise SettingsError(
                "bands are given, and the images are those of a GALFIT file",
                "leave the bands out: they are the file's",
            )
        return galfit_inputs(galfit_file(settings))
    found = discover(
        paths, manifest=manifest, survey=read.survey, mode=read.mode, bands=settings.bands
    )
    results = [source for source in found.sources if is_result(source.file)]
    if not results:
        return found
    kept = tuple(source for source in found.sources if not is_result(source.file))
    if not kept:
        raise SettingsError(
            "these files are results of a run, not images", "name the images", results[0].file
        )
    ignored = [(Path(source.file), "written by a run of this program") for source in results]
    return dataclasses.replace(found, sources=kept, ignored=(*found.ignored, *ignored))


def run_identity(
    settings: FitSettings, found: Discovery, progress: Progress
) -> tuple[dict[str, Any], dict[str, str]]:
    """What decides a run's results, checked, and the weights that it may use (name -> sha256).

    Raises
    ------
    SettingsError, WeightsError
        Settings, inputs and weights that do not go together.
    """
    identity = settings.identity() | {"autofit_ml": _package_version()}
    _check_bands(settings, found, identity, progress)
    used = check_segmenter(settings.segmenter, settings.weights)
    used |= check_initialiser(settings.init, settings.weights)
    if used:
        identity["weights"] = ", ".join(f"{name} sha256:{used[name][:16]}" for name in sorted(used))
    return identity, used


def _check_bands(
    settings: FitSettings, found: Discovery, identity: dict[str, Any], progress: Progress
) -> None:
    """What can be wrong between model and bands; the bands' order, for the record."""
    if found.bands:
        identity["bands"] = ",".join(found.bands)
        if settings.bands and found.bands[0] != settings.bands[0]:
            progress.note(
                f"the reference band is {found.bands[0]}: not every object has an image in "
                f"{settings.bands[0]}"
            )
    if found.bands or settings.model != "sersic" or settings.galfit is not None:
        from autofit_ml.runs.model import run_model

        run_model(settings, found.bands)


def fit_sources(
    todo: Sequence[Source],
    settings: FitSettings,
    bands: Sequence[str],
    folder: ResultsFolder | None,
    identity: dict[str, Any],
    progress: Progress,
    stop: threading.Event,
    summary: RunSummary,
) -> tuple[list[pa.Table], str | None]:
    """Fit and save batch by batch; the tables (only where nothing is saved), the device."""
    tables: list[pa.Table] = []
    if not todo:
        return tables, None
    partial = {} if folder is None else folder.partial
    done = frozenset(name for ids in partial.values() for name in ids)
    with prepared_batches(todo, settings, stop, progress, done=done) as batches:
        # Imported here: wrong calls are answered, and nothing left to do is noticed, without
        # waiting for torch; worker processes read on meanwhile.
        from autofit_ml.runs.fitting import fit_batch
        from autofit_ml.runs.model import run_model
        from autofit_ml.runs.outputs import save_pictures, save_shard

        model = run_model(settings, bands)
        device = usable_device(settings.device)
        images = folder is not None and bool(settings.save)
        for sources, batch in batches:
            prepared, fits, rows = fit_batch(batch, model, settings, device, images)
            summary.n_new += len(prepared.order)
            if folder is None:
                tables.append(rows_to_table(rows, model.columns))
            else:
                if images:
                    save_pictures(folder, prepared, fits, rows, model, settings)
                save_shard(folder, rows, prepared, model, identity)
            progress.batch(len(sources), rows)
            if stop.is_set():
                break
    return tables, device


def _finish(
    folder: ResultsFolder,
    found: Discovery,
    settings: FitSettings,
    identity: dict[str, Any],
    weights: dict[str, str],
    began: float,
    device: str | None,
    progress: Progress,
    summary: RunSummary,
) -> None:
    """Catalogue, run.json and report from the shards."""
    from autofit_ml.report import write_report
    from autofit_ml.runs.outputs import write_catalogue

    progress.stage("writing the catalogue")
    table = write_catalogue(folder, found.sources, settings, identity, weights, began, device)
    if "report" in settings.save:
        progress.stage("writing the report")
        summary.report = write_report(folder.path)
    summary.count(table)


def _package_version() -> str:
    from autofit_ml import __version__

    return __version__


@contextlib.contextmanager
def _interruptible(progress: Progress) -> Iterator[threading.Event]:
    """An event that the first Ctrl-C sets; a second one interrupts at once."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    previous: Callable | int | None = signal.getsignal(signal.SIGINT)

    def handler(signum, frame):
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()
        progress.stopping()

    signal.signal(signal.SIGINT, handler)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, previous)
