"""`fit_run`: every galaxy in images fitted, from paths to a catalogue."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from autofit_ml.catalogue import rows_to_table
from autofit_ml.errors import SettingsError
from autofit_ml.extras import require
from autofit_ml.images import Discovery, Source
from autofit_ml.initialisation.dispatch import check_initialiser
from autofit_ml.runs.fitted import Fitted, FittingTask, fit_job, fitted_together
from autofit_ml.runs.folder import RunFolder
from autofit_ml.runs.identity import data_identifier, identity_of, weights_text
from autofit_ml.runs.kinds import FITTED
from autofit_ml.runs.loop import Handle, Work, go_through
from autofit_ml.runs.prepare import READ, Objects, pieces
from autofit_ml.runs.sources import inputs_of, useful_workers
from autofit_ml.runs.summary import Progress, RunSummary
from autofit_ml.segmentation.dispatch import check_segmenter
from autofit_ml.settings import FitSettings, Paths, Selected
from autofit_ml.weights.choice import usable_device

__all__ = ["FitSettings", "fit_found", "fit_identity", "fit_inputs", "fit_run", "fit_sources"]


def fit_run(
    paths: Paths,
    out: str | Path | None = None,
    settings: FitSettings | None = None,
    *,
    manifest: str | Path | None = None,
    restart: bool = False,
    only: Selected | None = None,
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
    only : Selected, optional
        Which of the objects.
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
    settings = settings or FitSettings()
    found = fit_inputs(paths, manifest, settings)
    return fit_sources(found, out, settings, restart=restart, only=only, progress=progress)


def fit_sources(
    found: Discovery,
    out: str | Path | None,
    settings: FitSettings,
    *,
    restart: bool = False,
    only: Selected | None = None,
    progress: Progress | None = None,
    keep: bool = False,
) -> RunSummary:
    """Fit some sources; see `fit_run`.

    Parameters
    ----------
    found : Discovery
    keep : bool
        Without `out`: the images of the fits too (`RunSummary.images`).
    """
    began, progress = time.perf_counter(), progress or Progress()
    identity, used = fit_identity(settings, found, progress)
    fitting = _Fitting(found, settings, identity, used, progress, began, keep and out is None)
    summary = fitting.go(out, restart=restart, only=only)
    summary.seconds = time.perf_counter() - began
    return summary


def fit_found(
    found: Discovery,
    out: str | Path,
    settings: FitSettings,
    identity: dict[str, Any],
    told: Progress,
) -> None:
    """Fit some sources into a folder, without a catalogue at the end."""
    fitting = _Fitting(found, settings, identity, {}, told, time.perf_counter())
    fitting.go(out, last=False)


def fit_inputs(paths: Paths, manifest: str | Path | None, settings: FitSettings) -> Discovery:
    """Find the sources that are to be fitted.

    Raises
    ------
    SettingsError
        Nothing, or what the settings contradict.
    """
    if paths is None and manifest is None and settings.galfit is not None:
        from autofit_ml.runs.galfit_inputs import galfit_inputs
        from autofit_ml.runs.model import galfit_file

        if settings.bands:
            raise SettingsError(
                "bands are given, and the images are those of a GALFIT file",
                "leave the bands out: they are the file's",
            )
        return galfit_inputs(galfit_file(settings))
    return inputs_of(
        paths, manifest, survey=settings.survey, mode=settings.mode, bands=settings.bands
    )


def fit_identity(
    settings: FitSettings, found: Discovery, progress: Progress
) -> tuple[dict[str, Any], dict[str, str]]:
    """Settings and weights (name -> sha256) that decide a run's results, checked.

    Raises
    ------
    SettingsError, WeightsError
        Settings, inputs and weights that do not go together.
    """
    from autofit_ml.runs.model import checked_likelihood, model_identity, run_model

    identity = identity_of(settings) | model_identity(settings)
    identity["likelihood"] = checked_likelihood(settings)
    identity["save"] = identity["save"] or "none"
    identity["measure"] = identity["measure"] or "none"
    identity["grid"] = identity["grid"] or "none"
    if "morphology" in settings.measure:
        require("morphology", "--measure morphology", "statmorph")
    if found.bands:
        identity["bands"] = ",".join(found.bands)
        if settings.bands and found.bands[0] != settings.bands[0]:
            progress.note(
                f"the reference band is {found.bands[0]}: not every object has an image in "
                f"{settings.bands[0]}"
            )
    simple = settings.default_model and settings.galfit is None and settings.sky != "tilted"
    simple = simple and settings.pipeline is None and not settings.grid
    posteriors = {settings.posterior}
    if found.bands or not simple:  # one Sérsic profile cannot be wrong, and needs no torch
        stages = run_model(settings, found.bands).stages
        posteriors |= {stage.settings.posterior for stage in stages}
    for name in posteriors - {"laplace"}:
        sampler = ("nautilus",) if name == "nested" else ()
        require("posterior", f"--posterior {name}", "arviz", "h5netcdf", "corner", *sampler)
    used = check_segmenter(settings.segmenter, settings.weights)
    used |= check_initialiser(settings.init, settings.weights)
    identity["weights"] = weights_text(used, settings.weights)
    return identity, used


Told = tuple[int, Mapping[str, Any]]
"""Sources that are done, and their rows."""


@dataclass
class _Fitting:
    """One call of `fit_run`."""

    found: Discovery
    settings: FitSettings
    identity: dict[str, Any]
    weights: dict[str, str]
    progress: Progress
    began: float
    keep: bool = False
    device: str | None = None
    tables: list[pa.Table] = field(default_factory=list)
    summary: RunSummary = field(default_factory=lambda: RunSummary(None))

    def go(
        self,
        out: str | Path | None,
        *,
        restart: bool = False,
        only: Selected | None = None,
        last: bool = True,
    ) -> RunSummary:
        self.summary.out = None if out is None else Path(out)
        settings, found = self.settings, self.found
        self.device = usable_device(settings.device)
        pictures = self.summary.out if settings.save else None
        task = FittingTask(tuple(found.bands), self.device, pictures, self.keep, self.summary.out)
        finish = self.finish if last else None
        job = fit_job(task, settings)
        work: Work[Any]
        if self.device == "cpu" and useful_workers(found.sources, settings, job):
            work = Work(FITTED, job, self.saver, finish)
        else:  # this process fits what workers read

            def begin(folder: RunFolder | None) -> Handle[Objects]:
                saved, together = self.saver(folder), fitted_together(settings)

                def handle(sources: Sequence[Source], batch: Objects) -> Iterator[Told]:
                    for piece in pieces(batch, together):
                        yield from saved(sources, task.objects(piece, settings))

                return handle

            work = Work(FITTED, READ, begin, finish, saves_each=True)
        go_through(
            found,
            work,
            settings,
            self.identity,
            out,
            self.summary,
            self.progress,
            restart=restart,
            only=only,
        )
        return self.summary

    def saver(self, folder: RunFolder | None) -> Handle[Fitted]:
        """Make the function that saves rows."""
        from autofit_ml.runs.model import run_model
        from autofit_ml.runs.outputs import save_shard

        model = run_model(self.settings, self.found.bands)
        known = {source.id: source for source in self.found.sources}

        def handle(sources: Sequence[Source], part: Fitted) -> Iterator[Told]:
            identifiers = {
                name: data_identifier(known[source], part.hashes)
                for source, names in part.objects.items()
                for name in names
            }
            part.rows["data_id"][:] = [identifiers[name] for name in part.rows["id"]]
            if folder is None:
                self.tables.append(rows_to_table(part.rows, model.columns))
                self.summary.images |= part.kept
            else:
                save_shard(folder, part, model, self.identity)
            yield len(part.objects.keys() - part.unfinished), part.rows

        return handle

    def finish(self, folder: RunFolder | None) -> None:
        """Catalogue, run.json and report from the shards."""
        if folder is None:
            self.summary.count(pa.concat_tables(self.tables))
            return
        from autofit_ml.report import write_report
        from autofit_ml.runs.outputs import write_catalogue

        self.progress.stage("writing the catalogue")
        table = write_catalogue(
            folder, self.found.sources, self.settings, self.identity, self.weights, self.began,
            self.device,
        )  # fmt: skip
        if "votable" in self.settings.save:
            from autofit_ml.catalogue.atomic import atomic_write_bytes
            from autofit_ml.catalogue.votable import VOTABLE_NAME, votable_bytes

            atomic_write_bytes(folder.path / VOTABLE_NAME, votable_bytes(table))
        if "report" in self.settings.save:
            self.progress.stage("writing the report")
            self.summary.report = write_report(folder.path)
        self.summary.count(table)
