"""`survey_run`: an area of the sky, tile by tile, exactly once."""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from autofit_ml.catalogue import atomic_write_json, file_stem, remove_temporaries
from autofit_ml.errors import BusyError, ResumeError
from autofit_ml.runs.claim import claimed, locked, write_state
from autofit_ml.runs.identity import refuse_other_inputs, some, source_fingerprints
from autofit_ml.runs.interruption import interruptible
from autofit_ml.runs.kinds import SURVEYED
from autofit_ml.runs.summary import Progress, exit_status
from autofit_ml.settings import FitSettings, Paths, SurveySettings
from autofit_ml.survey.cells import cell_path, read_cell
from autofit_ml.survey.context import Measuring, Survey
from autofit_ml.survey.engine import connected, in_this_process, on_workers
from autofit_ml.survey.estimate import write_coverage
from autofit_ml.survey.kinds import kind_of
from autofit_ml.survey.plan import Plan, TileJob, make_plan, write_plan
from autofit_ml.survey.status import SURVEY_FILE
from autofit_ml.survey.tiles import TileOutcome, failure_path, failures, tile_path, tile_record
from autofit_ml.weights.choice import usable_device

__all__ = ["SurveySummary", "audit", "forget_failures", "planned", "survey_run"]

_PATIENCE = 600.0
"""Seconds: the tasks of a job array all begin at once, and claim the folder one after the other."""

Told = Callable[[TileOutcome, int, int], None]


@dataclass
class SurveySummary:
    """Summary of a survey's run.

    Attributes
    ----------
    out : Path
    tiles : int
        To be done by this call and earlier ones.
    done : int
        Of these, finished.
    objects, usable, flagged, failed : int
        Rows of this call's tiles.
    new : int
        Tiles done by this call.
    failures : dict
        Tile or image -> why it could not be done.
    concerns : list of str
        What does not add up.
    interrupted : bool
    seconds : float
    """

    out: Path
    tiles: int = 0
    done: int = 0
    objects: int = 0
    usable: int = 0
    flagged: int = 0
    failed: int = 0
    new: int = 0
    failures: dict[str, str] = field(default_factory=dict)
    concerns: list[str] = field(default_factory=list)
    interrupted: bool = False
    seconds: float = 0.0

    @property
    def exit_status(self) -> int:
        """0 all tiles and objects; 3 some failed; 1 nothing could be done; 130 interrupted."""
        if self.concerns or (self.failures and self.done):
            return 130 if self.interrupted else 3
        if self.failures:
            return 1
        return exit_status(max(self.objects, 1), self.failed, interrupted=self.interrupted)

    def add(self, outcome: TileOutcome) -> None:
        """Count a tile."""
        self.new += outcome.new
        if outcome.problem:
            self.failures[outcome.name] = outcome.problem
            return
        self.done += 1
        for name in ("objects", "usable", "flagged", "failed"):
            setattr(self, name, getattr(self, name) + getattr(outcome, name))


def planned(
    paths: Paths, settings: Measuring, options: SurveySettings, tiles: str | Path | None = None
) -> Plan:
    """Plan of a survey by its settings; see `make_plan`."""
    return make_plan(
        paths,
        tiles=tiles,
        tiling_text=options.tiling,
        core=options.cell,
        halo=options.halo,
        survey=settings.survey,
        bands=getattr(settings, "bands", ()),
        reference=options.reference,
    )


def survey_run(
    paths: Paths,
    out: str | Path,
    settings: Measuring | None = None,
    options: SurveySettings | None = None,
    *,
    tiles: str | Path | None = None,
    limit: int | None = None,
    restart: bool = False,
    retry: bool = False,
    progress: Progress | None = None,
    told: Told = lambda outcome, done, total: None,
    begun: Callable[[int, int], object] = lambda done, total: None,
) -> SurveySummary:
    """Do a survey, or go on with it.

    Parameters
    ----------
    paths : path or iterable of paths
        Images, a table of them, or a plan's folder; see `make_plan`.
    out : path
        Folder of the survey. Several calls may work in it at once.
    settings : FitSettings, CatalogSettings or DiffSettings, optional
        Of what is run; ``save`` is best "none": the pictures of a million objects are three million
        files.
    options : SurveySettings, optional
    tiles : path, optional
        Table of tiles.
    limit : int, optional
        At most so many tiles.
    restart : bool
        Delete what an earlier run left in the folder.
    retry : bool
        Do tiles and images that failed once more.
    progress : Progress, optional
        For notes and stages.
    told : callable
        ``told(outcome, done, total)`` after each tile.
    begun : callable
        ``begun(done, total)``, before the first tile.

    Returns
    -------
    SurveySummary

    Raises
    ------
    SettingsError
        Nothing to do, or settings that do not go together; `ResumeError`: the folder belongs to
        another survey, or its images have changed.
    OutputError
        The disk is full, or the scheduler is gone. What was finished is kept.
    """
    began, progress = time.perf_counter(), progress or Progress()
    settings, options = settings or FitSettings(save="none"), options or SurveySettings()
    settings = settings.replace(mode="frame")
    out = Path(out)
    plan = planned(paths, settings, options, tiles)
    for name, why in plan.problems.items():
        progress.note(f"left out {name}: {why}")
    halo = round(plan.halo * 3600.0, 6)
    identity = kind_of(options.run).identity(settings, plan, progress) | {
        "run": options.run,
        "tiling": plan.tiling.text,
        "cell": plan.core,
        "halo": halo,
        "match": options.match,
    }
    summary = SurveySummary(out)
    with contextlib.ExitStack() as held:
        _claim(out, plan, identity, restart, held)
        if retry:
            forget_failures(out, plan)
        survey = Survey(
            out.resolve(), options.run, settings, plan.tiling, halo, options.match,
            usable_device(getattr(settings, "device", "cpu")), plan.bands, identity,
        )  # fmt: skip
        chosen = _share(plan.tiles, options.share)
        todo = [one for one in chosen if not tile_path(out, plan.tiling, int(one)).exists()]
        summary.done = len(chosen) - len(todo)
        todo = todo[:limit]
        summary.tiles = summary.done + len(todo)
        begun(summary.done, summary.tiles)
        stop = held.enter_context(interruptible(progress))
        for outcome in _outcomes(survey, plan.jobs(todo), len(todo), options, settings, stop):
            summary.add(outcome)
            told(outcome, summary.done + len(summary.failures), summary.tiles)
        summary.interrupted = stop.is_set()
    if not summary.interrupted:
        summary.failures |= failures(out, "images")
        if summary.done == len(plan.tiles):
            progress.stage("checking that every detection has its tile")
            summary.concerns = audit(out, plan)
    summary.seconds = time.perf_counter() - began
    return summary


def _outcomes(
    survey: Survey,
    jobs: Iterator[TileJob],
    number: int,
    options: SurveySettings,
    settings: Measuring,
    stop: Any,
) -> Iterator[TileOutcome]:
    """Do the tiles, here or on workers."""
    alone = options.scheduler == "none" or options.share is not None
    alone |= options.scheduler == "local" and (settings.workers == 0 or number < 2)
    if not number:
        return
    if alone:
        yield from in_this_process(survey, jobs, stop)
        return
    with connected(options.scheduler, settings.workers, survey) as (client, replace):
        yield from on_workers(client, survey, jobs, stop, replace)


def _share(tiles: np.ndarray, share: str | None) -> np.ndarray:
    """Share of the tiles: neighbours stay together, so that few images are read twice."""
    if share is None:
        return tiles
    one, whole = map(int, share.split("/"))
    return np.array_split(tiles, whole)[one - 1]


# --- the folder -------------------------------------------------------------------------------


def _claim(
    out: Path,
    plan: Plan,
    identity: dict[str, Any],
    restart: bool,
    held: contextlib.ExitStack,
) -> None:
    """Begin a survey in a folder, or make sure that it is this one; nobody clears it while `held`.

    Whoever has the folder for itself may lock out those who work there, and nobody else: so there
    is no moment between the check and the work at which another command can begin anew.
    """
    running = out / SURVEYED.work / "running"
    fingerprints = _fingerprints(plan)
    with claimed(
        out, SURVEYED, identity, fingerprints, restart=restart, patience=_PATIENCE, workers=running
    ) as state:
        if restart:
            for part in SURVEYED.folders:
                shutil.rmtree(out / part, ignore_errors=True)
        if state:
            _check_images(out, plan, state["inputs"], fingerprints)
            if fingerprints != state["inputs"]:
                write_state(out, SURVEYED, identity, state["inputs"] | fingerprints)
        write_plan(plan, out, {"run": identity["run"]})
        write_coverage(plan, out / "coverage.fits")
        about = {"tiling": plan.tiling.text, "bands": list(plan.bands), "settings": identity}
        atomic_write_json(out / SURVEY_FILE, about)
        with contextlib.suppress(BusyError), locked(running, out):  # nobody else is at work
            for part in ("cells", "tiles", "failed"):
                for folder in (out / part).glob("*/"):
                    remove_temporaries(folder)
        held.enter_context(locked(running, out, shared=True))


def _fingerprints(plan: Plan) -> dict[str, dict[str, list]]:
    """Marks of change of an image, and of what is said of it, as JSON holds them."""
    prints = source_fingerprints(plan.sources)
    for image in plan.images:
        prints[image.source.id]["priority"] = [repr(image.priority), image.band]
    return json.loads(json.dumps(prints))


def _check_images(
    out: Path, plan: Plan, before: dict[str, dict[str, list]], now: dict[str, dict[str, list]]
) -> None:
    """Refuse images that have changed, or come, where objects have been found already.

    Raises
    ------
    ResumeError
    """
    touched = {path.parent.name for path in (out / "cells").glob("*/*.npz")}
    done = {name: () for name in before if file_stem(name) in touched}
    hashes: dict[str, str] = {}
    for image in plan.images:
        name = image.source.id
        if name in done and before[name] != now.get(name):
            first = next(plan.cells_of(image))
            for cell in plan.cells_of(image):
                first = cell
                if cell_path(out, cell).exists():
                    break
            if cell_path(out, first).exists():
                hashes |= read_cell(cell_path(out, first), first).hashes
    refuse_other_inputs(out, before, now, done, hashes)
    late = [
        image.source.id
        for image in plan.images
        if image.source.id not in before
        and any(
            tile_path(out, plan.tiling, int(one)).exists()
            for one in np.unique(np.concatenate(image.near))
        )
    ]
    if late:
        raise ResumeError(
            f"{len(late)} images are new, and tiles near them are finished: {some(late)}",
            "use --restart to begin anew, another --out, or leave these images out",
            out,
        )


def forget_failures(out: Path, plan: Plan) -> int:
    """Count failed tiles and images as not done, and the tiles that did without these images.

    Returns
    -------
    int
        Tiles that are to be done again.
    """
    number = 0
    for name in failures(out, "tiles"):
        failure_path(out, "tiles", name).unlink(missing_ok=True)
        number += 1
    lacking = failures(out, "images")
    if lacking:
        for image in plan.images:
            for cell, near in zip(plan.cells_of(image), image.near, strict=True):
                if cell.name not in lacking:
                    continue
                for one in near:
                    path = tile_path(out, plan.tiling, int(one))
                    number += path.exists()
                    path.unlink(missing_ok=True)
                failure_path(out, "images", cell.name).unlink(missing_ok=True)
    return number


# --- the audit --------------------------------------------------------------------------------


def audit(out: Path, plan: Plan) -> list[str]:
    """Check that the finished tiles hold every detection of every cell, each once.

    Every detection lies in one tile, by its frozen position; a tile records how many lay in it.

    Returns
    -------
    list of str
        What does not add up; empty: everything does.
    """
    expected: dict[int, int] = {}
    for image in plan.images:
        for cell in plan.cells_of(image):
            path = cell_path(out, cell)
            if not path.exists():
                continue
            rows = read_cell(path, cell).rows
            tiles, counts = np.unique(
                plan.tiling.index(rows["ra"], rows["dec"]), return_counts=True
            )
            for tile, count in zip(tiles, counts, strict=True):
                expected[int(tile)] = expected.get(int(tile), 0) + int(count)
    wrong: list[str] = []
    chosen = {int(one) for one in plan.tiles}
    for tile in sorted(set(expected) | chosen):
        path = tile_path(out, plan.tiling, tile)
        name = plan.tiling.name(tile)
        if tile not in chosen or not path.exists():
            continue
        found = int(tile_record(path)["detected"])
        if found != expected.get(tile, 0):
            wrong.append(f"{name}: {found} detections, and {expected.get(tile, 0)} lie in it")
    return wrong[:10] + ([f"{len(wrong) - 10} more"] if len(wrong) > 10 else [])
